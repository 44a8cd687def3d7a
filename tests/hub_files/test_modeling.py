"""The model on packed groups against the plain backbone on ordinary sequences, and against formulas in numpy."""

import copy
import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AttentionInterface, AutoModel, AutoModelForImageTextToText, BatchFeature, PreTrainedModel

import modeling_editreward
from configuration_editreward import EditRewardConfig
from modeling_editreward import PACKED_VISION, TREE_BLOCKS, TREE_FLEX, EditRewardModel, aggregate
from processing_editreward import EditRewardProcessor
from tests.helpers.backbones import (
    FACTOR,
    PAPER_TEMPLATES,
    backbone_folder,
    build,
    make_image,
    ordinary_text,
    paths,
    randomize,
)

BACKBONES = ["qwen2_5_vl", "qwen3_vl"]
LAYOUTS = ["compact", "paper"]
POSITION_SCHEMES = ["mrope", "sequential"]
TOLERANCE = {"rtol": 0, "atol": 1e-5}

# Groups with one and two source images, one to three candidates, images of various shapes.
GROUPS: list[dict[str, Any]] = [
    {
        "source": make_image(0, (70, 50)),
        "edited": [make_image(1, (70, 50)), make_image(2, (30, 120)), make_image(3, (56, 56))],
        "instruction": "Add a red hat to the cat on the left, and leave the rest as it is",
    },
    {
        "source": [make_image(4, (56, 56)), make_image(5, (140, 40))],
        "edited": [make_image(6, (56, 56))],
        "instruction": "把第二张图里的杯子放到桌上 ☕",
    },
    {
        "source": make_image(7, (56, 56)),
        "edited": [make_image(8, (56, 56)), make_image(9, (56, 56))],
        "instruction": "blur",
    },
]


def build_loud(kind: str = "qwen2_5_vl", **settings: Any) -> tuple[EditRewardModel, EditRewardProcessor]:
    """A model whose scores differ visibly from candidate to candidate: new heads hardly tell them apart.

    Images have about 3 x 3 visual tokens, so that some have several attention windows.
    """
    model, processor = build(kind, pixels=(3 * FACTOR[kind]) ** 2, **settings)
    randomize(model.heads, seed=1)
    return model, processor


def as_batch(processor: EditRewardProcessor, groups: list[dict[str, Any]]) -> BatchFeature:
    return processor(**{field: [group[field] for group in groups] for field in GROUPS[0]})


@torch.no_grad()
def scores(model: EditRewardModel, batch: BatchFeature, **options: Any) -> torch.Tensor:
    """Everything that the model says about each candidate, (candidates, 2 * dimensions + 2)."""
    output = model(**batch, **options)
    return torch.cat([output.mean, output.log_std, output.reward[:, None], output.reward_std[:, None]], dim=1)


def heads_in_numpy(model: EditRewardModel, hidden_states: torch.Tensor, head: int) -> np.ndarray:
    """Linear -> ReLU -> Linear -> ReLU -> Linear in float64."""
    state = {name: weight.double().numpy() for name, weight in model.heads.mlps[head].state_dict().items()}
    value = hidden_states.double().numpy()
    for layer in ("0", "3", "5"):
        if layer != "0":
            value = np.maximum(value, 0)
        value = value @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
    return value


# A path from the root to a leaf as an ordinary sequence


def ordinary_sequence(
    processor: EditRewardProcessor, group: dict[str, Any], candidate: Image.Image, dimension: str
) -> dict[str, torch.Tensor]:
    """Inputs of the plain backbone for one candidate, made without the processor's packing."""
    sources = group["source"] if isinstance(group["source"], list) else [group["source"]]
    patches = processor.image_processor(images=[*sources, candidate], return_tensors="pt")
    text = ordinary_text(processor, group["instruction"], dimension, patches["image_grid_thw"].tolist())
    return {
        "input_ids": processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"],
        "pixel_values": patches["pixel_values"],
        "image_grid_thw": patches["image_grid_thw"],
    }


def image_token_types(input_ids: torch.Tensor, processor: EditRewardProcessor) -> torch.Tensor:
    return (input_ids == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()


def plain_backbone(kind: str, model: EditRewardModel) -> PreTrainedModel:
    """The backbone as the library loads it, in its own attention, with the reward tokens' embeddings."""
    backbone = AutoModel.from_pretrained(backbone_folder(kind), attn_implementation="sdpa")
    backbone.resize_token_embeddings(model.get_input_embeddings().num_embeddings)
    backbone.load_state_dict(model.backbone.state_dict())
    return backbone


@torch.no_grad()
def plain_hidden_states(
    backbone: PreTrainedModel, processor: EditRewardProcessor, inputs: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Last hidden states of the backbone's own forward pass, (sequence_length, hidden_size)."""
    if processor.position_scheme == "mrope":
        types = image_token_types(inputs["input_ids"], processor)
        return backbone(**inputs, mm_token_type_ids=types, use_cache=False).last_hidden_state[0]
    # Embeddings without token ids: the backbone then numbers all tokens one after another.
    inputs = dict(inputs)
    inputs["inputs_embeds"] = backbone.get_input_embeddings()(inputs.pop("input_ids"))
    return backbone(**inputs, use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize("position_scheme", POSITION_SCHEMES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", BACKBONES)
def test_tree_scores_equal_those_of_each_path_through_the_plain_backbone(kind, layout, position_scheme):
    model, processor = build_loud(kind, layout=layout, position_scheme=position_scheme)
    backbone = plain_backbone(kind, model)
    output = model(**as_batch(processor, GROUPS))
    candidates = [(group, candidate) for group in GROUPS for candidate in group["edited"]]
    assert len(output.mean) == len(candidates)
    for index, (group, candidate) in enumerate(candidates):
        for column, dimension in enumerate(processor.dimensions):
            inputs = ordinary_sequence(processor, group, candidate, dimension)
            hidden_states = plain_hidden_states(backbone, processor, inputs)
            token = "<|Reward|>" if layout == "paper" else f"<|Reward_{dimension}|>"
            (place,) = np.flatnonzero(inputs["input_ids"][0] == processor.tokenizer.convert_tokens_to_ids(token))
            mean, log_std = heads_in_numpy(model, hidden_states[place], column)
            assert output.mean[index, column].item() == pytest.approx(mean, abs=1e-5)
            assert output.log_std[index, column].item() == pytest.approx(log_std, abs=1e-5)
    # The comparison would not see an image that is left out if scores hardly depended on images.
    assert (output.mean[1:] - output.mean[:-1]).abs().amax(dim=1).min() > 1e-2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", BACKBONES)
def test_mrope_positions_of_each_path_equal_the_backbones_own(kind, layout):
    model, processor = build(kind, layout=layout, pixels=(3 * FACTOR[kind]) ** 2)
    for group in GROUPS:
        batch = processor(**group)
        num_sources = len(batch["image_grid_thw"]) - len(group["edited"])
        for candidate, _, columns in paths(batch):
            input_ids = batch["input_ids"][:, columns]
            grids = batch["image_grid_thw"]
            positions, _ = model.backbone.get_rope_index(
                input_ids,
                mm_token_type_ids=image_token_types(input_ids, processor),
                image_grid_thw=torch.cat([grids[:num_sources], grids[num_sources + candidate, None]]),
            )
            assert torch.equal(batch["position_ids"][:, :, columns], positions)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sequential_positions_of_each_path_count_its_tokens(layout):
    _, processor = build(layout=layout, position_scheme="sequential")
    for group in GROUPS:
        batch = processor(**group)
        for _, _, columns in paths(batch):
            assert torch.equal(batch["position_ids"][:, 0, columns], torch.arange(len(columns)).expand(3, -1))


@pytest.mark.parametrize("position_scheme", POSITION_SCHEMES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", BACKBONES)
def test_scores_do_not_depend_on_batch_order_or_packing(kind, layout, position_scheme):
    model, processor = build_loud(kind, layout=layout, position_scheme=position_scheme)
    batch = as_batch(processor, GROUPS)
    assert batch["segment_ids"].min() == -1, "The groups must differ in length, so that some are padded."
    together = scores(model, batch)
    alone = torch.cat([scores(model, processor(**group)) for group in GROUPS])
    torch.testing.assert_close(together, alone, **TOLERANCE)
    one_by_one = [{**group, "edited": [candidate]} for group in GROUPS for candidate in group["edited"]]
    torch.testing.assert_close(scores(model, as_batch(processor, one_by_one)), together, **TOLERANCE)
    reversed_groups = [{**group, "edited": group["edited"][::-1]} for group in GROUPS[::-1]]
    torch.testing.assert_close(scores(model, as_batch(processor, reversed_groups)).flip(0), together, **TOLERANCE)
    torch.testing.assert_close(scores(model, batch, packing="unpacked"), together, **TOLERANCE)


@pytest.mark.parametrize("kind", BACKBONES)
def test_an_image_in_several_places_is_encoded_once_with_the_same_scores_and_gradients(kind):
    model, processor = build_loud(kind)
    source, edit, other = (make_image(number, (56, 56)) for number in range(3))
    # As many patches of the same values, in another grid.
    grey, long_grey = Image.new("RGB", (200, 200), "grey"), Image.new("RGB", (400, 100), "grey")
    groups = [(source, [edit, source], "blur"), ([source, grey], [other, long_grey, edit.copy()], "Add a hat")]
    packed = [processor.pack(*group) for group in groups]
    shared, repeated = processor.collate(packed), processor.collate(packed, share_images=False)
    assert shared["image_index"].tolist() == [0, 1, 0, 0, 2, 3, 4, 1]
    assert (len(shared["image_grid_thw"]), len(repeated["image_grid_thw"])) == (5, 8)
    torch.testing.assert_close(scores(model, shared), scores(model, repeated), rtol=0, atol=1e-6)

    def gradients(batch):
        model.zero_grad()
        output = model(**batch)
        (output.mean.square().sum() + output.log_std.sum()).backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    expected = gradients(repeated)
    for name, gradient in gradients(shared).items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", BACKBONES)
def test_attention_implementations_agree_packed_and_unpacked(kind, layout):
    model, processor = build_loud(kind, layout=layout)
    batch = as_batch(processor, GROUPS)
    expected = scores(model, batch)
    for attention in ("eager", "flex_attention", "sdpa"):
        model.set_attn_implementation(attention)
        for packing in ("tree", "unpacked"):
            torch.testing.assert_close(scores(model, batch, packing=packing), expected, **TOLERANCE)


@pytest.mark.parametrize("at_once", [1, 3 * 5 * 7, 8 * 5 * 7])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_by_plain_products_in_pieces_equals_the_librarys(masked, at_once, monkeypatch):
    monkeypatch.setattr(modeling_editreward, "CACHED_LOGITS", at_once)  # a head of a row, three heads, two rows
    torch.manual_seed(0)
    query, key, value = (torch.randn(5, 4, n, 6, dtype=torch.float64, requires_grad=True) for n in (5, 7, 7))
    mask = torch.rand(5, 1, 5, 7) < 0.7 if masked else None
    weights = torch.randn(5, 4, 5, 6, dtype=torch.float64)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    output = modeling_editreward.plain_attention(query, key, value, mask)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(
        torch.autograd.grad((output * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
    )


@pytest.mark.parametrize("autocast", [True, False])
def test_attention_in_half_precision_stays_near_the_exact_one(autocast):
    torch.manual_seed(0)
    shapes = ((3, 4, 9, 16), (3, 2, 12, 16), (3, 2, 12, 16))
    exact = [torch.randn(shape).bfloat16().float() for shape in shapes]
    mask = torch.ones(9, 12, dtype=torch.bool).tril(3).expand(3, 1, 9, 12)
    expected = modeling_editreward.masked_attention(*exact, mask, None)
    inputs = exact if autocast else [x.bfloat16() for x in exact]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = modeling_editreward.masked_attention(*inputs, mask, None)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, atol=0.02, rtol=0.02)


def test_attention_reaches_the_backbone_however_it_is_chosen(tmp_path):
    model, processor = build_loud()
    batch = as_batch(processor, GROUPS)
    expected = scores(model, batch)
    model.set_attn_implementation("flex_attention")
    model.save_pretrained(tmp_path)
    assert "attn" not in (tmp_path / "config.json").read_text()
    for attention in ("eager", "flex_attention", "sdpa"):
        loaded = EditRewardModel.from_pretrained(tmp_path, attn_implementation=attention)
        started = EditRewardModel.from_backbone(backbone_folder("qwen2_5_vl"), attn_implementation=attention)
        of_text = {"eager": "eager", "sdpa": TREE_BLOCKS, "flex_attention": TREE_FLEX}[attention]
        of_vision = "eager" if attention == "eager" else PACKED_VISION
        for each in (loaded, started):
            layer = each.backbone.language_model.layers[0].self_attn
            assert layer.config._attn_implementation == of_text
            assert each.backbone.visual.blocks[0].attn.config._attn_implementation == of_vision
        torch.testing.assert_close(scores(loaded, batch), expected, **TOLERANCE)


def test_attention_without_masks_runs_unpacked_only():
    model, processor = build()
    batch = as_batch(processor, GROUPS[:1])
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="packing='unpacked'"):
        model(**batch, packing="tree")
    with pytest.raises(ValueError, match="`packing` is 'packed'"):
        model(**batch, packing="packed")


def test_images_that_do_not_fit_the_tokens_are_refused():
    model, processor = build()
    batch = as_batch(processor, GROUPS[:1])
    batch["pixel_values"] = batch["pixel_values"][:16]
    batch["image_grid_thw"] = torch.tensor([[1, 4, 4]])
    with pytest.raises(ValueError, match="visual tokens"):
        model(**batch)


def test_a_misspelt_argument_is_refused_and_one_of_a_wrapper_is_not():
    model, processor = build()
    batch = as_batch(processor, GROUPS[:1])
    with pytest.raises(TypeError, match="no argument packign"):
        model(**batch, packign="tree")
    torch.testing.assert_close(model(**batch, attention_mask=None, return_dict=True).mean, model(**batch).mean)


# Gradients


@pytest.mark.parametrize("kind", BACKBONES)
def test_gradients_to_pixels_equal_finite_differences(kind):
    model, processor = build_loud(kind)
    model = model.double()
    with torch.no_grad():
        for mlp in model.heads.mlps:
            # Far from the kinks of their ReLUs, which finite differences would straddle.
            mlp[0].bias += 6
            mlp[3].bias += 200
    batch = as_batch(processor, GROUPS)
    pixels = batch.pop("pixel_values").double().requires_grad_()
    model(**batch, pixel_values=pixels).reward.sum().backward()
    gradient = pixels.grad
    assert gradient.isfinite().all()
    assert (gradient.abs().amax(dim=1) > 0).all(), "Every patch moves the rewards."
    # The backbones' norms work in float32, so that a much smaller step would drown in their rounding.
    step = 1e-2
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        # Half at random, half towards the gradient, so that the derivative does not vanish among the roundings.
        direction = torch.randn(pixels.shape, generator=generator, dtype=torch.float64) * gradient.std() + gradient
        direction /= direction.norm()
        with torch.no_grad():
            ahead = model(**batch, pixel_values=pixels + step * direction).reward.sum()
            behind = model(**batch, pixel_values=pixels - step * direction).reward.sum()
        assert ((ahead - behind) / (2 * step)).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", BACKBONES)
def test_gradients_to_weights_agree_in_every_attention_packed_and_unpacked(kind, layout):
    model, processor = build_loud(kind, layout=layout)
    batch = as_batch(processor, GROUPS)

    def gradients(packing):
        model.zero_grad()
        output = model(**batch, packing=packing)
        (output.mean.square().sum() + output.log_std.sum()).backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    expected = gradients("tree")
    assert min(gradient.abs().max() for gradient in expected.values()) > 0
    for attention in ("eager", "sdpa"):  # flex attention has no backward pass on CPUs
        model.set_attn_implementation(attention)
        for packing in ("tree", "unpacked"):
            for name, gradient in gradients(packing).items():
                scale = expected[name].abs().max().item()
                torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", BACKBONES)
def test_a_reward_depends_on_its_own_candidate_and_source_only(kind, layout):
    model, processor = build_loud(kind, layout=layout)
    batch = as_batch(processor, GROUPS)
    pixels = batch.pop("pixel_values").requires_grad_()
    patches = batch["image_grid_thw"].prod(-1).tolist()
    # Images in order of appearance: the group's sources, then its candidates.
    images_of_candidate = [{0, 1}, {0, 2}, {0, 3}, {4, 5, 6}, {7, 8}, {7, 9}]
    rewards = model(**batch, pixel_values=pixels).reward
    for index, images in enumerate(images_of_candidate):
        (gradient,) = torch.autograd.grad(rewards[index], pixels, retain_graph=True)
        reached = {i for i, part in enumerate(gradient.split(patches)) if part.abs().max() > 0}
        assert reached == images


# Heads and their aggregation


def expected_aggregate(mean: np.ndarray, std: np.ndarray, how: str, uncertainty: str) -> tuple[float, float]:
    """Reward and its standard deviation of one candidate, one formula a line."""
    count = len(mean)
    if how == "mean":
        return sum(mean) / count, (
            math.sqrt(sum(std**2)) / count if uncertainty == "propagate" else math.prod(std) ** (1 / count)
        )
    if how == "sum":
        return sum(mean), math.sqrt(sum(std**2))
    lowest = sorted(range(count), key=lambda i: mean[i])[0]
    return mean[lowest], std[lowest] if uncertainty == "propagate" else sorted(std)[0]


@pytest.mark.parametrize("uncertainty", ["propagate", "reference"])
@pytest.mark.parametrize("how", ["mean", "min", "sum"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_aggregation_equals_its_formula(dimensions, how, uncertainty):
    generator = torch.Generator().manual_seed(dimensions)
    mean, log_std = torch.randn(2, 20, dimensions, generator=generator, dtype=torch.float64)
    reward, reward_log_std = aggregate(mean, log_std, how, uncertainty)
    expected = [
        expected_aggregate(m, s, how, uncertainty) for m, s in zip(mean.numpy(), log_std.exp().numpy(), strict=True)
    ]
    np.testing.assert_allclose(np.stack([reward, reward_log_std.exp()], axis=1), expected, rtol=1e-12)


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 7.0, 1e5])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_smooth_minimum_and_its_gradients_equal_its_formula(dimensions, temperature):
    generator = torch.Generator().manual_seed(dimensions)
    mean, log_std = 3 * torch.randn(2, 20, dimensions, generator=generator, dtype=torch.float64)
    mean.requires_grad_()
    reward, reward_log_std = aggregate(mean, log_std, "smooth_min", "propagate", temperature)
    (gradient,) = torch.autograd.grad(reward.sum(), mean)
    for i in range(20):
        with mpmath.workdps(40):
            terms = [mpmath.exp(-mpmath.mpf(x) / temperature) for x in mean[i].tolist()]
            value = -temperature * mpmath.log(mpmath.fsum(terms) / dimensions)
            weights = [float(term / mpmath.fsum(terms)) for term in terms]
        variance = math.fsum((w * math.exp(s)) ** 2 for w, s in zip(weights, log_std[i].tolist(), strict=True))
        assert reward[i].item() == pytest.approx(float(value), rel=1e-11, abs=1e-11)
        assert gradient[i].tolist() == pytest.approx(weights, rel=1e-9, abs=1e-12)
        assert reward_log_std[i].exp().item() == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("temperature", "limit"), [(1e-5, "min"), (1e5, "mean")])
def test_smooth_minimum_lies_between_minimum_and_mean_and_tends_to_them(temperature, limit, dtype):
    generator = torch.Generator().manual_seed(0)
    mean, log_std = 3 * torch.randn(2, 50, 3, generator=generator, dtype=dtype)
    expected = aggregate(mean, log_std, limit, "propagate")
    for computed, value in zip(
        aggregate(mean, log_std, "smooth_min", "propagate", temperature), expected, strict=True
    ):
        torch.testing.assert_close(computed, value, rtol=1e-4, atol=2e-4)
    between = aggregate(mean, log_std, "smooth_min", "propagate")[0]
    lowest, average = (aggregate(mean, log_std, how, "propagate")[0] for how in ("min", "mean"))
    assert ((lowest < between) & (between < average)).all()


def test_smooth_minimum_ranks_a_catastrophe_in_one_dimension_below_a_mediocre_edit():
    catastrophe, mediocre = torch.tensor([4.0, -4.0]), torch.tensor([-0.5, -0.5])
    rewards = {
        how: aggregate(torch.stack([catastrophe, mediocre]), torch.zeros(2, 2), how, "propagate")[0]
        for how in ("mean", "smooth_min")
    }
    assert rewards["mean"][0] > rewards["mean"][1]
    assert rewards["smooth_min"][0] < rewards["smooth_min"][1]


def test_smooth_minimums_deviation_is_that_of_samples():
    generator = torch.Generator().manual_seed(0)
    mean, log_std = torch.tensor([0.3, -0.4, 1.0]), torch.tensor([0.05, 0.1, 0.2]).log()
    samples = mean + log_std.exp() * torch.randn(200_000, 3, generator=generator)
    rewards, _ = aggregate(samples, log_std.expand_as(samples), "smooth_min", "propagate", 0.7)
    _, reward_log_std = aggregate(mean, log_std, "smooth_min", "propagate", 0.7)
    # To first order only: the deviations are a tenth of the temperature.
    assert reward_log_std.exp().item() == pytest.approx(rewards.std().item(), rel=0.02)


@pytest.mark.parametrize("how", ["mean", "min"])
@pytest.mark.parametrize(
    ("head_type", "dimensions"),
    [
        ("multi", ["visual_quality"]),
        ("multi", ["instruction_following", "visual_quality"]),
        ("multi", ["instruction_following", "visual_quality", "identity"]),
        ("shared", ["instruction_following", "identity"]),
        ("single", ["overall"]),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_head_type_scores_any_dimensions_by_its_own_heads(layout, head_type, dimensions, how):
    prompts = {**PAPER_TEMPLATES, "identity": "Is it the same person? {text_prompt}", "overall": "All: {text_prompt}"}
    templates = {name: prompts[name] for name in dimensions} if layout == "paper" else None
    model, processor = build_loud(
        layout=layout,
        dimensions=dimensions,
        templates=templates,
        head_type=head_type,
        aggregation=how,
        uncertainty_aggregation="reference",
        head_hidden_sizes=[24, 8],
    )
    batch = processor(**GROUPS[0])
    seen = []
    model.heads.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with torch.no_grad():
        output = model(**batch)
    (hidden_states,) = seen
    assert hidden_states.shape == (3, len(dimensions), 64), "The heads are applied at the reward tokens only."
    assert len(model.heads.mlps) == (len(dimensions) if head_type == "multi" else 1)
    assert output.mean.shape == output.log_std.shape == (3, len(dimensions))
    assert output.reward.shape == output.reward_std.shape == (3,)
    for column in range(len(dimensions)):
        head = column if head_type == "multi" else 0
        expected = heads_in_numpy(model, hidden_states[:, column], head)
        np.testing.assert_allclose(output.mean[:, column], expected[:, 0], atol=1e-5)
        np.testing.assert_allclose(output.log_std[:, column], expected[:, 1], atol=1e-5)
    for index in range(3):
        mean, std = output.mean[index].double().numpy(), output.log_std[index].double().exp().numpy()
        reward, reward_std = expected_aggregate(mean, std, how, "reference")
        assert output.reward[index].item() == pytest.approx(reward, abs=1e-6)
        assert output.reward_std[index].item() == pytest.approx(reward_std, abs=1e-6)


def test_a_model_takes_the_smooth_minimum_at_its_configured_temperature():
    model, processor = build_loud(aggregation="smooth_min", aggregation_temperature=0.3)
    with torch.no_grad():
        output = model(**processor(**GROUPS[0]))
    expected = -0.3 * torch.log((-output.mean / 0.3).exp().mean(-1))
    torch.testing.assert_close(output.reward, expected, **TOLERANCE)


def test_group_index_names_each_candidates_group():
    model, processor = build()
    output = model(**as_batch(processor, GROUPS))
    assert output.group_index.tolist() == [0, 0, 0, 1, 2, 2]


def test_dropout_acts_in_training_only():
    model, processor = build(head_dropout=0.5)
    batch = as_batch(processor, GROUPS)
    assert torch.equal(scores(model, batch), scores(model, batch))
    model.train()
    assert not torch.equal(scores(model, batch), scores(model, batch))


# Precision


def lower_precision(model: EditRewardModel, how: str, folder: Path) -> EditRewardModel:
    if how == "from_backbone":
        return EditRewardModel.from_backbone(backbone_folder("qwen2_5_vl"), dtype=torch.bfloat16)
    if how == "from_config":
        return EditRewardModel._from_config(model.config, dtype=torch.bfloat16)
    if how.startswith("from_pretrained"):
        model.save_pretrained(folder)
        return EditRewardModel.from_pretrained(folder, dtype=getattr(torch, how.removeprefix("from_pretrained_")))
    if how == "saved_in_bfloat16":
        model.to(torch.bfloat16).save_pretrained(folder)
        return EditRewardModel.from_pretrained(folder)
    return {
        "to": lambda: model.to(torch.bfloat16),
        "to_device_and_dtype": lambda: model.to("cpu", torch.float16),
        "half": model.half,
        "bfloat16": model.bfloat16,
    }[how]()


@pytest.mark.parametrize(
    "how",
    [
        "to",
        "to_device_and_dtype",
        "half",
        "bfloat16",
        "from_pretrained_bfloat16",
        "from_pretrained_float16",
        "saved_in_bfloat16",
        "from_backbone",
        "from_config",
    ],
)
def test_heads_stay_in_float32_when_the_backbone_is_in_half_precision(how, tmp_path):
    model, processor = build_loud()
    before = copy.deepcopy(model.heads.state_dict())
    model = lower_precision(model, how, tmp_path).eval()
    assert {p.dtype for p in model.heads.parameters()} == {torch.float32}
    assert {p.dtype.itemsize for p in model.backbone.parameters()} == {2}
    if how not in ("from_backbone", "from_config"):
        for name, weight in model.heads.state_dict().items():
            assert torch.equal(weight, before[name]), "Not rounded on the way."
    with torch.no_grad():
        output = model(**as_batch(processor, GROUPS))
    for field in ("mean", "log_std", "reward", "reward_std"):
        assert output[field].dtype == torch.float32
        assert output[field].isfinite().all()


def test_heads_compute_in_float32_under_autocast():
    model, processor = build_loud()
    batch = as_batch(processor, GROUPS)
    seen = []
    model.heads.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**batch).reward.dtype == torch.float32
    ((hidden_states, output),) = seen
    for column in range(2):
        expected = heads_in_numpy(model, hidden_states[:, column].detach(), column)
        np.testing.assert_allclose(output[:, column].detach(), expected, atol=1e-5)


def test_double_makes_the_whole_model_float64_and_saving_keeps_it(tmp_path):
    model, processor = build_loud()
    model = model.double()
    randomize(model.heads, seed=2)
    model.heads.double()
    with torch.no_grad():
        for weight in model.heads.parameters():
            weight += 1e-12  # what float32 cannot hold
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(**as_batch(processor, GROUPS)).reward.dtype == torch.float64
    model.save_pretrained(tmp_path)
    loaded = EditRewardModel.from_pretrained(tmp_path)
    assert_same_weights(loaded, model)


# Saving and loading


def assert_same_weights(model: EditRewardModel, other: EditRewardModel) -> None:
    expected = other.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        assert weight.dtype == expected[name].dtype and torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", BACKBONES)
def test_weights_and_scores_survive_saving_bit_by_bit(kind, dtype, tmp_path):
    model, processor = build_loud(kind, layout="paper", position_scheme="sequential", aggregation="min")
    model.save_pretrained(tmp_path / "first")
    # Not `.to(dtype)`, which would round the rotary frequencies as well.
    model = EditRewardModel.from_pretrained(tmp_path / "first", dtype=dtype)
    model.save_pretrained(tmp_path / "second")
    loaded = EditRewardModel.from_pretrained(tmp_path / "second")
    assert not loaded.training
    assert_same_weights(loaded, model)
    batch = as_batch(processor, GROUPS)
    assert torch.equal(scores(loaded, batch), scores(model, batch))


@pytest.mark.parametrize("kind", BACKBONES)
def test_from_backbone_keeps_the_backbones_weights_and_only_adds_embedding_rows(kind):
    model, processor = build(kind)
    left = model.backbone.state_dict()
    for name, weight in AutoModelForImageTextToText.from_pretrained(backbone_folder(kind)).model.state_dict().items():
        of_model = left.pop(name)
        if name == "language_model.embed_tokens.weight":
            rows, needed = len(weight), len(processor.tokenizer)
            assert len(of_model) == max(rows, needed), "Rows are added where the backbone has too few, and only there."
            of_model = of_model[:rows]
        assert torch.equal(of_model, weight), name
    assert not left, "The reward model's backbone has nothing that the checkpoint lacks."
    assert not any("lm_head" in name for name in model.state_dict())
    text_config = model.config.get_text_config()
    assert text_config.vocab_size == model.get_input_embeddings().num_embeddings


def test_new_heads_start_as_torch_starts_linear_layers():
    torch.manual_seed(0)
    model = EditRewardModel.from_backbone(backbone_folder("qwen2_5_vl"), head_hidden_sizes=[1024, 16])
    for mlp in model.heads.mlps:
        for layer in (mlp[0], mlp[3], mlp[5]):
            # Uniform within 1 / sqrt(fan_in), torch's default for linear layers.
            bound = layer.in_features**-0.5
            assert layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.35)
            assert layer.bias.abs().max() > 0
    assert not torch.equal(model.heads.mlps[0][0].weight, model.heads.mlps[1][0].weight)


@pytest.mark.parametrize(
    ("dropped", "named"),
    [
        (["heads.mlps.1.3.bias"], "heads.mlps.1.3.bias"),
        (["backbone.language_model.norm.weight"], "backbone.language_model.norm.weight"),
        ("heads.", "and 7 more"),
    ],
)
def test_a_checkpoint_without_some_weights_is_refused_by_their_names(dropped, named, tmp_path):
    model, _ = build()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    dropped = [name for name in weights if name.startswith(dropped)] if isinstance(dropped, str) else dropped
    kept = {name: weight for name, weight in weights.items() if name not in dropped}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights of the model") as error:
        EditRewardModel.from_pretrained(tmp_path)
    assert named in str(error.value) and dropped[0] in str(error.value)


def test_a_mistyped_field_is_refused_by_its_name():
    with pytest.raises(ValueError, match="'aggregaton'"):
        EditRewardModel.from_backbone(backbone_folder("qwen2_5_vl"), aggregaton="min")


def test_a_plain_backbone_is_not_taken_for_a_reward_model():
    with pytest.raises(ValueError, match="from_backbone"):
        EditRewardModel.from_pretrained(backbone_folder("qwen2_5_vl"))


def test_config_follows_the_backbone_for_deepspeed_and_trl(tmp_path):
    model, _ = build()
    assert model.config.hidden_size == model.config.get_text_config().hidden_size == 64
    assert model.config.num_labels == 1
    assert model.config.backbone_config is model.backbone.config
    model.save_pretrained(tmp_path)
    assert EditRewardConfig.from_pretrained(tmp_path).hidden_size == 64


def test_sharded_and_plain_checkpoints_load_alike(tmp_path):
    model, processor = build_loud()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert_same_weights(EditRewardModel.from_pretrained(tmp_path / "sharded"), model)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for use in (False, True):
        model, processor = build_loud()
        model.train()
        model.heads.eval()
        if use:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model(**as_batch(processor, GROUPS)).reward.sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_two_versions_of_the_code_in_one_process_keep_their_own_attention():
    # As when models are loaded from two repositories.
    path = Path(modeling_editreward.__file__)
    spec = importlib.util.spec_from_file_location("another_version", path)
    other = importlib.util.module_from_spec(spec)
    sys.modules["another_version"] = other
    try:
        spec.loader.exec_module(other)
        register = AttentionInterface()
        for module in (modeling_editreward, other):
            for name in ("TREE_BLOCKS", "TREE_FLEX", "PACKED_VISION"):
                assert register[getattr(module, name)].__module__ == module.__name__
    finally:
        del sys.modules["another_version"]
