"""Contract of verl-omni: a plain async function, one edit a call, the source looked up."""

import asyncio
import inspect

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from editreward.client import NoReward
from editreward.rewards import RewardError, verl_omni
from editreward.rewards.verl_omni import compute_score, on_white_square, source_of
from tests.helpers.scorers import ColourScorer, painted
from tests.helpers.server import serving


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def call(images, **options):
    """All at once, by keyword, as the framework's managers do."""

    async def run():
        asked = (
            compute_score(
                data_source="image_edit",
                solution_image=tensor(image),
                ground_truth="x",
                extra_info={"split": "train", "index": 0, "instruction": "x", "image": "cat.png", "num_turns": None},
                **options,
            )
            for image in images
        )
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(run())


@pytest.fixture
def image_root(tmp_path):
    painted(1, size=(30, 20)).save(tmp_path / "cat.png")
    return str(tmp_path)


def test_it_is_what_the_framework_takes_for_an_async_function():
    assert inspect.iscoroutinefunction(compute_score)
    parameters = inspect.signature(compute_score).parameters
    assert list(parameters)[:4] == ["data_source", "solution_image", "ground_truth", "extra_info"]
    assert any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())


def test_concurrent_calls_share_passes_and_return_dicts_of_floats(image_root):
    scorer = ColourScorer(seconds=0.05)
    with serving(scorer) as url:
        images = [painted(2 * i) for i in range(40)]
        found = call(images, server_url=url, image_root=image_root, reward_router_address="ignored")
    assert [one["score"] for one in found] == [i + 1 for i in range(40)]
    assert found[3] == {"score": 4.0, "instruction_following": 7.0, "visual_quality": 1.0}
    assert all(type(value) is float for one in found for value in one.values())
    assert len(scorer.calls) <= 12
    (seen,) = {one.sources[0].size for one in scorer.seen}
    assert seen == (512, 512)


def test_it_scores_in_the_process_too_and_shares_passes(image_root, monkeypatch):
    scorer = ColourScorer(seconds=0.05)
    monkeypatch.setattr("editreward.scorers.registry.load_scorer", lambda spec: scorer)
    verl_omni._in_process.cache_clear()
    found = call([painted(2 * i) for i in range(40)], image_root=image_root)
    assert [one["score"] for one in found] == [i + 1 for i in range(40)]
    (failed,) = call([painted(255, 255, 255)], image_root=image_root)
    assert isinstance(failed, RewardError) and "white is no colour" in str(failed)
    assert len(scorer.calls) <= 14  # those of the self-check among them
    verl_omni._in_process.cache_clear()


def test_a_failure_raises_and_costs_the_others_nothing(image_root):
    with serving(ColourScorer()) as url:
        found = call([painted(2), painted(255, 255, 255)], server_url=url, image_root=image_root)
    assert found[0]["score"] == 2 and isinstance(found[1], NoReward)


@pytest.mark.parametrize("size", [(700, 301), (301, 700), (64, 64), (513, 100)])
def test_the_source_is_on_the_square_that_the_editor_saw(size):
    """The recipe of the framework's `prepare_data.py`: as large as fits, in the middle, white around."""
    image = Image.effect_noise(size, 90).convert("RGB")
    made = on_white_square(image, 512)
    inner = ImageOps.contain(image, (512, 512), method=Image.Resampling.LANCZOS)
    x, y = (512 - inner.width) // 2, (512 - inner.height) // 2
    assert made.size == (512, 512)
    assert made.crop((x, y, x + inner.width, y + inner.height)).tobytes() == inner.tobytes()
    around = np.array(made)
    around[y : y + inner.height, x : x + inner.width] = 255
    assert (around == 255).all()


def test_a_source_that_cannot_be_found_is_an_error(image_root, tmp_path):
    with pytest.raises(ValueError, match="give `image_root`"):
        source_of({"image": "cat.png"}, None, 512)
    with pytest.raises(ValueError, match="give `image_root`"):
        source_of({}, image_root, 512)
    with pytest.raises(ValueError, match="outside of `image_root`"):
        source_of({"image": "../cat.png"}, image_root, 512)
    with pytest.raises(ValueError, match="the source cannot be read"):
        source_of({"image": "dog.png"}, image_root, 512)
    content = (tmp_path / "cat.png").read_bytes()
    assert source_of({"source_bytes": content}, None, None).size == (30, 20)
    assert source_of({"image": "cat.png"}, image_root, 64).size == (64, 64)
