"""The plan of a batch: with it the language model runs without the host waiting for a GPU."""

import pickle

import pytest
import torch
from PIL import Image

from tests.helpers.backbones import KINDS, build
from tests.helpers.waits import Waits

GROUPS = (
    [Image.new("RGB", (90, 60), colour) for colour in ("red", "green")],
    [[Image.new("RGB", (56, 84), "blue")], [Image.new("RGB", (60, 60), c) for c in ("white", "black", "grey")]],
    ["make it blue", "remove the large cat from the table"],
)


def planned(kind="qwen2_5_vl", **options):
    model, processor = build(kind, **options)
    return model, processor(*GROUPS)


@pytest.mark.parametrize("layout", ["compact", "paper"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_planned_batch_runs_without_a_wait_after_the_vision_tower(kind, layout, attention):
    model, batch = planned(kind, layout=layout)
    model.set_attn_implementation(attention)
    features = model.encode_images(batch["pixel_values"], batch["image_grid_thw"])
    counts = {}
    for name in ("planned", "unplanned"):
        inputs = {**batch, "image_features": features, "plan": batch["plan"] if name == "planned" else None}
        with Waits() as waits:
            output = model(**inputs)
            output.reward.sum().backward(retain_graph=True)
        counts[name] = waits.names, output
    # Qwen3-VL's own layers index by a mask where they add visual features.
    of_layers = [name for name in counts["planned"][0] if name not in ("index", "index_put", "index_put_", "nonzero")]
    assert of_layers == [] and (counts["planned"][0] == [] or kind == "qwen3_vl")
    assert len(counts["unplanned"][0]) > len(counts["planned"][0])
    torch.testing.assert_close(counts["planned"][1].reward, counts["unplanned"][1].reward, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_planned_batch_runs_on_a_gpu_without_a_synchronisation():
    model, batch = planned()
    model, batch = model.cuda(), batch.to("cuda")
    batch["plan"] = batch["plan"].to("cuda")
    features = model.encode_images(batch["pixel_values"], batch["image_grid_thw"])
    model(**batch, image_features=features)  # loads kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(**batch, image_features=features).reward.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("packing", ["tree", "unpacked"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_with_and_without_a_plan_are_the_same(kind, packing):
    model, batch = planned(kind)
    with torch.no_grad():
        scores = [model(**{**batch, "plan": plan}, packing=packing).mean for plan in (batch["plan"], None)]
    assert torch.equal(*scores)


def test_a_plan_travels_like_a_tensor():
    _, batch = planned()
    plan = batch["plan"]
    moved = pickle.loads(pickle.dumps(plan)).to("meta")
    assert moved.visual_places.device.type == moved.blocks.slot_of_token.device.type == "meta"
    assert all(x.device.type == "meta" for level in moved.blocks.levels for x in level)
    assert moved.visual_tokens == plan.visual_tokens and plan.ancestors.device.type == "cpu"


def test_a_plan_of_other_images_is_refused():
    model, batch = planned()
    features = model.encode_images(batch["pixel_values"], batch["image_grid_thw"])
    with pytest.raises(ValueError, match="visual tokens"):
        model(**batch, image_features=features[:-1])
