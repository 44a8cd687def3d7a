"""Contract of flow_grpo, DiffusionNFT, Edit-R1 and OmniGen2-RL."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from editreward.client import NoReward
from editreward.rewards import Reward, RewardError, edit_r1, flow_grpo
from tests.helpers.scorers import ColourScorer, painted

EDITS = [painted(10, 20), painted(200, 100), painted(0, 40)]
SOURCES = [painted(1), painted(2), painted(1)]
PROMPTS = ["x", "x", "x"]
EXPECTED = [16.0, 151.0, 21.0]
UINT8 = np.stack([np.asarray(one) for one in EDITS])
FLOATS = torch.from_numpy(UINT8).permute(0, 3, 1, 2) / 255


@pytest.fixture(params=["server", "in process"])
def source(request, server):
    return server if request.param == "server" else Reward(ColourScorer(), check=False)


@pytest.mark.parametrize("images", [FLOATS, UINT8], ids=["float NCHW", "uint8 NHWC"])
def test_flow_grpo_gets_a_list_of_floats_and_an_empty_dict(source, images):
    scores, metadata = flow_grpo.reward(source)(images, tuple(PROMPTS), [{}] * 3, ref_images=SOURCES)
    assert type(scores) is list and all(type(score) is float for score in scores) and metadata == {}
    assert scores == pytest.approx(EXPECTED, abs=0.01)


def test_flow_grpo_without_sources_says_what_to_change_in_the_framework(source):
    with pytest.raises(ValueError, match=r"multi_score.*ref_images=ref_images"):
        flow_grpo.reward(source)(FLOATS, PROMPTS, [{}] * 3)


def test_edit_r1_gives_sources_first(source):
    scores, metadata = edit_r1.reward(source)(SOURCES, FLOATS, PROMPTS, [{"requirement": "r"}] * 3)
    assert scores == pytest.approx(EXPECTED, abs=0.01) and type(scores) is list and metadata == {}


def test_a_batch_of_more_than_64_keeps_its_prompts(server):
    """Edit-R1's own client sends every part with all prompts."""
    images = torch.stack([torch.full((3, 8, 8), value / 255) for value in range(100)])
    prompts = ["x" * (1 + i % 7) for i in range(100)]
    scores, _ = edit_r1.reward(server)([painted(1)] * 100, images, prompts, [{}] * 100)
    assert scores == pytest.approx([i + 1 + i % 7 for i in range(100)])


@pytest.mark.parametrize("broken", [painted(255, 255, 255), Image.new("RGB", (900, 1))], ids=["scorer", "image"])
def test_a_failure_raises_and_is_no_number(source, broken):
    for call in (
        lambda: flow_grpo.reward(source)([EDITS[0], broken], PROMPTS[:2], None, ref_images=SOURCES[:2]),
        lambda: edit_r1.reward(source)(SOURCES[:2], [EDITS[0], broken], PROMPTS[:2], None),
    ):
        with pytest.raises((NoReward, RewardError), match="1 of 2 edits have no reward; edit 1: "):
            call()


def test_omnigen2_gets_its_four_lists(server):
    host, port = server.removeprefix("http://").split(":")
    metadata = [json.dumps({"instruction": "x", "id": str(i)}) for i in range(3)]
    scores, rewards, reasoning, returned = edit_r1.evaluate_images(
        input_images=[[one] for one in SOURCES],
        output_image=EDITS,
        meta_datas=metadata,
        proxy_host=host,
        proxy_port=int(port),
        server_type="vlm",
    )
    assert scores == rewards == EXPECTED and reasoning == ["", "", ""]
    assert returned == [{"instruction": "x", "id": str(i), "original_index": i} for i in range(3)]
    with pytest.raises(NoReward):
        edit_r1.evaluate_images([[EDITS[0]]], [painted(255, 255, 255)], metadata[:1], host, int(port))
