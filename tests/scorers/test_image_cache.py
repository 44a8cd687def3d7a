"""Kept features of source images save encodings, and never change a score."""

import pytest
import torch
from PIL import Image

from editreward.scorers.reward_model import EditRewardScorer
from tests.helpers.backbones import build, make_image
from tests.helpers.work import Counted

SOURCES = [make_image(number, (56, 56)) for number in range(3)]
EDITS = [make_image(10 + number, (56, 56)) for number in range(4)]


def rewards(scorer, source, edited):
    return [score.reward for score in scorer.score(source, edited, "give the cat a red hat")]


def images_encoded(scorer, source, edited):
    with Counted(scorer.model) as counted:
        rewards(scorer, source, edited)
    return counted.images


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_a_known_source_is_not_encoded_again_and_scores_stay(kind):
    model, processor = build(kind)
    plain = EditRewardScorer(model, processor)
    scorer = EditRewardScorer(model, processor, image_cache_size=3)
    for source, edited, encoded in [
        (SOURCES[0], EDITS[:2], 3),
        (SOURCES[0], EDITS[2:], 2),
        (SOURCES[0].copy(), [SOURCES[0]], 0),
        (SOURCES[:2], EDITS[:1], 2),  # the second source, and an edit, which is never kept
        (EDITS[0], SOURCES[:1], 2),
    ]:
        with Counted(model) as counted:
            found = rewards(scorer, source, edited)
        assert counted.images == encoded
        assert found == pytest.approx(rewards(plain, source, edited), abs=1e-6)
    assert len(scorer.image_cache) == 3


def test_as_many_sources_are_kept_as_asked_for_those_used_last():
    model, processor = build()
    scorer = EditRewardScorer(model, processor, image_cache_size=2)
    assert images_encoded(scorer, SOURCES[0], EDITS[:2]) == 3
    assert images_encoded(scorer, SOURCES[0], EDITS[2:]) == 2
    assert images_encoded(scorer, SOURCES[:2], EDITS[:1]) == 2
    assert images_encoded(scorer, SOURCES[0], EDITS[:1]) == 1
    assert images_encoded(scorer, SOURCES[2], EDITS[:1]) == 2  # drops the one not used for longest
    assert images_encoded(scorer, SOURCES[0], EDITS[:1]) == 1
    assert images_encoded(scorer, SOURCES[1], EDITS[:1]) == 2
    scorer.image_cache.clear()
    assert images_encoded(scorer, SOURCES[1], EDITS[:1]) == 2
    assert images_encoded(EditRewardScorer(model, processor), SOURCES[1], EDITS[:1]) == 2


def test_images_of_equal_values_in_another_grid_are_others():
    model, processor = build()
    scorer = EditRewardScorer(model, processor, image_cache_size=4)
    assert images_encoded(scorer, Image.new("RGB", (200, 200), "grey"), EDITS[:1]) == 2
    assert images_encoded(scorer, Image.new("RGB", (400, 100), "grey"), EDITS[:1]) == 2


def in_place(model):
    with torch.no_grad():
        model.backbone.visual.blocks[0].attn.qkv.weight.mul_(0.5)


def a_training_step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def other_weights(model):
    model.load_state_dict({name: 0.5 * value for name, value in model.state_dict().items()})


def another_tensor(model):
    bias = model.backbone.visual.merger.mlp[0].bias
    bias.data = bias.data + 1


def another_precision(model):
    model.to(torch.float64)


def behind_pytorch(model):
    for parameter in model.parameters():
        parameter.data.mul_(0.9)


def rounding(model):
    model.to(torch.bfloat16).to(torch.float32)  # into memory that the former weights may have left


CHANGES = [in_place, a_training_step, other_weights, another_tensor, another_precision, behind_pytorch, rounding]


@pytest.mark.parametrize("change", CHANGES)
def test_features_of_former_weights_are_forgotten(change):
    model, processor = build()
    scorer = EditRewardScorer(model, processor, image_cache_size=2)
    before = rewards(scorer, SOURCES[0], EDITS)
    with Counted(model) as counted:
        assert rewards(scorer, SOURCES[0], EDITS) == before
    assert (counted.images, counted.calls) == (4, 1)  # not the source, not the prompt's beginning
    change(model)
    after = rewards(scorer, SOURCES[0], EDITS)
    assert after == pytest.approx(rewards(EditRewardScorer(model, processor), SOURCES[0], EDITS), abs=1e-6)
    assert change is another_precision or after != pytest.approx(before, abs=1e-5)


@pytest.mark.parametrize("layout", ["compact", "paper"])
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_the_beginning_of_the_prompt_computed_once_changes_no_score(kind, layout):
    model, processor = build(kind, layout=layout)
    prefix = processor.prefix_ids()
    packed = [
        processor.pack(SOURCES[0], EDITS[:3], "give the cat a red hat"),
        processor.pack(SOURCES[:2], EDITS[:1], "\u628a\u5929\u7a7a\u6362\u6210\u9ec4\u660f"),
    ]
    assert len(prefix) > (100 if layout == "compact" else 10)
    assert all(group.input_ids[: len(prefix)].tolist() == prefix for group in packed)
    batch = processor.collate(packed)
    with torch.no_grad():
        whole, continued = model(**batch), model(**batch, prefix=model.encode_prefix(torch.tensor(prefix)))
        for name in ("mean", "log_std"):
            torch.testing.assert_close(continued[name], whole[name], rtol=0, atol=1e-6)
    model.set_attn_implementation("eager")
    found = rewards(EditRewardScorer(model, processor), SOURCES[0], EDITS[:3])
    assert found == pytest.approx(whole.reward[:3].tolist(), abs=1e-5)
    with pytest.raises(ValueError, match="`prefix` needs"):
        model(**batch, prefix=[])


def test_autocast_is_not_mixed_with_full_precision():
    model, processor = build()
    scorer = EditRewardScorer(model, processor, image_cache_size=2)
    before = rewards(scorer, SOURCES[0], EDITS)
    with torch.autocast("cpu", torch.bfloat16):
        assert images_encoded(scorer, SOURCES[0], EDITS) == 5
    assert rewards(scorer, SOURCES[0], EDITS) == before


def test_a_model_with_an_adapter_and_a_negative_size_are_refused():
    model, processor = build()
    with pytest.raises(ValueError, match="`image_cache_size`"):
        EditRewardScorer(model, processor, image_cache_size=-1)
    model.peft_config = {}
    with pytest.raises(ValueError, match="merge adapters"):
        EditRewardScorer(model, processor, image_cache_size=1)


def test_a_model_without_images_says_so():
    model, processor = build()
    batch = processor(SOURCES[0], EDITS[:1], "blur")
    batch["pixel_values"] = None
    with pytest.raises(ValueError, match="`image_features`"):
        model(**batch)
