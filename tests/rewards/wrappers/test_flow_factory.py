"""Contract of Flow-Factory: its reward model classes, and its protocol on the server."""

from types import SimpleNamespace

import pytest
import torch

from editreward.client import NoReward
from editreward.rewards import Shaping
from editreward.rewards.flow_factory import EditReward, GroupEditReward
from tests.helpers.scorers import ColourScorer, painted
from tests.helpers.server import HTTP, serving, text_of

EDITS = [painted(10, 20), painted(200, 100)]
ACCELERATOR = SimpleNamespace(device=torch.device("cpu"))


def config(**options):
    """What Flow-Factory makes of the YAML: keys that it does not know are in `extra_kwargs`."""
    return SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, extra_kwargs=options)


@pytest.mark.parametrize("kind", [EditReward, GroupEditReward])
def test_a_reward_model_asks_for_sources_and_returns_a_float32_tensor(kind, server):
    model = kind(config(server_url=server), ACCELERATOR)
    assert model.required_fields == ("prompt", "image", "condition_images") and not model.use_tensor_inputs
    output = model(prompt=["x", "x"], image=EDITS, condition_images=[[painted(1)], [painted(2)]], group_id=3)
    assert output.rewards.dtype == torch.float32 and output.rewards.tolist() == [16.0, 151.0]
    assert output.extra_info is None


def test_tensors_and_several_sources_are_taken(server):
    model = EditReward(config(server_url=server), ACCELERATOR)
    images = [torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), 0.4)]
    sources = torch.rand(2, 2, 3, 8, 8)  # (edits, sources, channels, height, width)
    assert model(prompt=["x", "x"], image=images, condition_images=sources).rewards.tolist() == [52.0, 103.0]


def test_failures_raise(server):
    model = EditReward(config(server_url=server), ACCELERATOR)
    with pytest.raises(NoReward):
        model(prompt=["x"], image=[painted(255, 255, 255)], condition_images=[[painted(1)]])
    with pytest.raises(ValueError, match="condition_images"):
        model(prompt=["x"], image=EDITS[:1])
    with pytest.raises(ValueError, match="are the server's"):
        EditReward(config(server_url=server, scorer="random"), ACCELERATOR)


def test_a_scorer_in_the_training_process():
    model = EditReward(config(), ACCELERATOR)
    output = model(prompt=["make it red"], image=EDITS[:1], condition_images=[[painted(1)]])
    assert output.rewards.shape == (1,) and output.rewards.isfinite().all()


def payload(edits, prompts=None, **kwargs):
    """As Flow-Factory's `_build_payload` makes it: what is not used is null."""
    return {
        "prompt": prompts or ["x"] * len(edits),
        "image": [text_of(one) for one in edits],
        "video": None,
        "condition_images": [[text_of(painted(1))] for _ in edits],
        "condition_videos": None,
        "kwargs": kwargs or None,
    }


def test_the_server_speaks_its_protocol(server):
    assert HTTP.get(f"{server}/health").json()["status"] == "ok"
    answer = HTTP.post(f"{server}/compute", json=payload(EDITS))
    assert answer.status_code == 200 and answer.json() == {"rewards": [16.0, 151.0]}
    answer = HTTP.post(f"{server}/compute", json=payload(EDITS, group_id=[3, 3], height=512))
    assert answer.json() == {"rewards": [16.0, 151.0]}


def test_edits_of_one_source_are_shaped_as_a_group_whatever_their_order():
    with serving(ColourScorer(), Shaping(win_rate=True)) as url:
        body = payload([EDITS[0], EDITS[0], EDITS[1], EDITS[1]], ["x", "y", "x", "y"])
        assert HTTP.post(f"{url}/compute", json=body).json()["rewards"] == pytest.approx([0, 0, 1, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"image": [text_of(painted(255, 255, 255))] * 2}, 500, "image.0: white is no colour"),
        ({"image": [text_of(EDITS[0]), "AAAA"]}, 422, "image.1"),
        ({"condition_images": None}, 422, "condition_images"),
        ({"condition_images": [[], []]}, 422, "condition_images.0"),
        ({"image": None}, 422, "image"),
        ({"prompt": ["x"]}, 422, "1 prompts, 2 images"),
        ({"video": [["AAAA"]]}, 422, "video"),
    ],
)
def test_a_failure_is_an_error_of_the_whole_call(server, change, status, told):
    answer = HTTP.post(f"{server}/compute", json=payload(EDITS) | change)
    assert answer.status_code == status and told in answer.json()["error"] and "rewards" not in answer.json()
