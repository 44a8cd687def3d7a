"""What the benchmarks share: models of given shapes with random weights, clocks, memory, the ways to score a group."""

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, BatchFeature, Qwen2VLImageProcessorPil

from configuration_editreward import DEFAULT_DIMENSIONS, EditRewardConfig
from editreward.scorers.loading import bundled_model
from editreward.statistics.expectations import log_expected_sigmoid
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor, PackedGroup, add_reward_tokens

ROOT = Path(__file__).parent.parent
INSTRUCTION = "Add a red hat to the cat on the left, and leave the rest of the picture as it is."


@dataclass(frozen=True)
class Preset:
    """A model and how to measure it.

    Attributes:
        shape: JSON file of the backbone's configuration, in the form of `configs/backbones/`; None: the bundled model.
        pixels: of each image.
        dtype: of the backbone.
        repetitions, warmup: measured ones, and those before them that do not count.
        sampled_passes: passes of the modes `reference` and `batched` that are run in each repetition, the others being
            alike; None runs all.
        check_layers: layers of the float32 model that equality is checked on; None: the preset's own model.
        batch_tokens: of the mode `batched`; None: as the scorer's.
        checkpointed: cells whose activations are computed again in the backward pass, for lack of memory.
    """

    shape: str | None
    pixels: int = 448 * 448
    dtype: str = "float32"
    repetitions: int = 1
    warmup: int = 0
    sampled_passes: int | None = 1
    check_layers: int | None = None
    batch_tokens: int | None = None
    checkpointed: tuple[str, ...] = ()


GPU: dict[str, Any] = {"dtype": "bfloat16", "repetitions": 5, "warmup": 2, "sampled_passes": 16, "check_layers": 2}
PRESETS = {
    "cpu-tiny": Preset(None, pixels=112 * 112, repetitions=7, warmup=1, sampled_passes=4),
    "cpu-small": Preset(
        "performance/shapes/cpu_small.json", check_layers=2, batch_tokens=2048, checkpointed=("training:7",)
    ),
    "3b": Preset("configs/backbones/qwen2_5_vl_3b.json", **GPU),
    "7b": Preset("configs/backbones/qwen2_5_vl_7b.json", **GPU),
    "qwen3-8b": Preset("configs/backbones/qwen3_vl_8b.json", **GPU),
}


# Models and images


def build_config(preset: Preset, layers: int | None = None) -> EditRewardConfig:
    """Configuration of a preset's model, with the token ids of the bundled tokenizer.

    Args:
        layers: keep only so many of the language model and of the vision tower.
    """
    if preset.shape is None:
        config = EditRewardConfig.from_pretrained(bundled_model())
        shape = config.backbone_config.to_dict()
    else:
        shape = json.loads((ROOT / preset.shape).read_text(encoding="utf-8"))
    tokenizer = _bundled_processor().tokenizer
    for name, token in (("image", "image_pad"), ("video", "video_pad")):
        shape[f"{name}_token_id"] = tokenizer.convert_tokens_to_ids(f"<|{token}|>")
    for name in ("start", "end"):
        shape[f"vision_{name}_token_id"] = tokenizer.convert_tokens_to_ids(f"<|vision_{name}|>")
    if layers is not None:
        text, vision = shape["text_config"], shape["vision_config"]
        text["num_hidden_layers"] = min(layers, text["num_hidden_layers"])
        text.pop("layer_types", None)
        vision["depth"] = min(layers, vision["depth"])
        for name in ("fullatt_block_indexes", "deepstack_visual_indexes"):
            if name in vision:
                vision[name] = [vision["depth"] - 1]
    backbone = AutoConfig.for_model(shape.pop("model_type"), **shape)
    return EditRewardConfig(backbone_config=backbone)


def build_model(
    preset: Preset, device: torch.device, dtype: torch.dtype | None = None, layers: int | None = None
) -> EditRewardModel:
    """A preset's model in evaluation mode: random weights, or the bundled ones."""
    dtype = dtype or getattr(torch, preset.dtype)
    torch.manual_seed(0)
    if preset.shape is None and layers is None:
        model = EditRewardModel.from_pretrained(bundled_model(), dtype=dtype).to(device)
        # The token of the paper layout, which this model does not know.
        model.resize_token_embeddings(model.get_input_embeddings().num_embeddings + 1, mean_resizing=False)
    else:
        with torch.device(device):
            model = EditRewardModel._from_config(build_config(preset, layers), dtype=dtype)
        with torch.no_grad():
            for mlp in model.heads.mlps:  # new heads hardly tell one edit from another
                mlp[-1].weight.mul_(30)
    return model.eval()


def _bundled_processor() -> EditRewardProcessor:
    return EditRewardProcessor.from_pretrained(bundled_model(), trust_remote_code=False)


def build_processor(model: EditRewardModel, layout: str, pixels: int) -> EditRewardProcessor:
    """A processor with the bundled model's tokenizer.

    It needs no download, and gives the default prompts nearly as many tokens as Qwen's: 388 and 368 for the two paper
    rubrics (Qwen's: 372 and 349), 85 for the compact one (77).
    """
    vision = model.config.backbone_config.vision_config
    tokenizer = _bundled_processor().tokenizer
    add_reward_tokens(tokenizer, layout, DEFAULT_DIMENSIONS)
    images = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
        size={"shortest_edge": pixels, "longest_edge": pixels},
    )
    scheme = "sequential" if layout == "paper" else "mrope"
    return EditRewardProcessor(images, tokenizer, layout=layout, position_scheme=scheme)


def random_images(count: int, pixels: int, seed: int = 0) -> list[Image.Image]:
    """Square images of random colours in cells, each another."""
    random, side = np.random.default_rng(seed), round(pixels**0.5)
    cells = [random.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(count)]
    return [Image.fromarray(cell).resize((side, side), Image.Resampling.NEAREST) for cell in cells]


# Ways to score a group


@contextmanager
def library_attention(model: EditRewardModel) -> Iterator[None]:
    """The backbone with transformers' own `sdpa` attention in place of the package's."""
    configs = (model.config.get_text_config(), model.config.backbone_config.vision_config)
    before = [config._attn_implementation_internal for config in configs]
    for config in configs:
        config._attn_implementation_internal = "sdpa"
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name


def published_forward(model: EditRewardModel, batch: BatchFeature, dimension: int) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of the rows of a batch, each a candidate's prompt for one dimension.

    As the published code does it: every row is an ordinary causal sequence with a source image and an edited image of
    its own, and the head is applied at every position. Attention is to be `library_attention`, in the backward pass
    too, which takes the vision tower's windows and images one by one.
    """
    images = model.encode_images(batch["pixel_values"], batch["image_grid_thw"])
    features, *deepstack = torch.cat(images, dim=1)
    is_visual = batch["input_ids"] == model.config.backbone_config.image_token_id
    embeds = model.get_input_embeddings()(batch["input_ids"])
    embeds = embeds.masked_scatter(is_visual.unsqueeze(-1), features.to(embeds.dtype))
    visual: dict[str, Any] = {}
    if deepstack:
        visual = {"visual_pos_masks": is_visual, "deepstack_visual_embeds": deepstack}
    hidden = model.backbone.language_model(
        inputs_embeds=embeds,
        attention_mask=(batch["segment_ids"] >= 0).long(),
        position_ids=batch["position_ids"],
        use_cache=False,
        **visual,
    ).last_hidden_state
    head = model.heads.mlps[dimension]
    assert isinstance(head, torch.nn.Sequential)
    scores = head(hidden.to(head[0].weight.dtype))
    rows, columns = batch["reward_positions"][:, 0].unbind(-1)
    return scores[rows, columns].unbind(-1)


def as_sequence(group: PackedGroup, dimension: int) -> PackedGroup:
    """The path of a group of one candidate to its reward token of one dimension, as an ordinary sequence."""
    leaf = group.segment_ids[group.reward_columns[0, dimension]]
    path = np.isin(group.segment_ids, (0, 1, leaf))
    return replace(
        group,
        input_ids=group.input_ids[path],
        segment_ids=np.zeros(path.sum(), dtype=np.int64),
        segment_parents=np.array([-1]),
        position_ids=group.position_ids[:, path],
        reward_columns=path[: group.reward_columns[0, dimension]].sum().reshape(1, 1),
    )


def pair_loss(mean: Tensor, std: Tensor) -> Tensor:
    """-log of the preference probability, averaged over all pairs of one group in the order of its candidates."""
    first, second = torch.triu_indices(len(mean), len(mean), offset=1, device=mean.device)
    return -log_expected_sigmoid(mean[first] - mean[second], torch.hypot(std[first], std[second])).mean()


# Clocks, memory, peak


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds of the wall clock, or of CPU time: on a CPU that others use too, one thread's CPU time is what the wall
clock would show without them."""


def measure(run: Callable[[], Any], device: torch.device, clock: str = "wall") -> tuple[float, Any]:
    """Seconds that `run` takes, and what it returns."""
    now = CLOCKS[clock]
    synchronize(device)
    start = now()
    result = run()
    synchronize(device)
    return now() - start, result


def write_json(path: Path | None, report: dict[str, Any]) -> None:
    """Write a report where a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def ratio_of(baseline: Sequence[float], seconds: Sequence[float]) -> dict[str, Any]:
    """How many times faster than a baseline measured in turns with it: median of the ratios, and their range."""
    ratios = [a / b for a, b in zip(baseline, seconds, strict=True)]
    return {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}


def matrix_multiply_peak(device: torch.device, dtype: torch.dtype, clock: str = "wall", seconds: float = 0.3) -> float:
    """Operations per second of the product of two large square matrices, the best of several runs."""
    size = 1024 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    fastest, spent = float("inf"), 0.0
    left @ right
    while spent < seconds:
        taken, _ = measure(lambda: left @ right, device, clock)
        fastest, spent = min(fastest, taken), spent + taken
    return 2 * size**3 / fastest


class PeakMemory:
    """Most memory in use while the block runs, above what was in use when it began: `bytes`.

    On a GPU what torch has allocated, on Linux else the resident memory of the process; None elsewhere.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        elif sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # gives back what earlier work has freed
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
            self._before = _process_status("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
        elif sys.platform == "linux":
            self.bytes = max(0, _process_status("VmHWM") - self._before)


def _process_status(field: str) -> int:
    """A field of the process's status, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return 1024 * int(line.split()[1])


def language_head_bytes(model: EditRewardModel) -> int:
    """Memory of the language-model head that the published code keeps: none where it is the embeddings' own."""
    embeddings = model.get_input_embeddings().weight
    tied = model.config.backbone_config.tie_word_embeddings or model.config.get_text_config().tie_word_embeddings
    return 0 if tied else embeddings.numel() * embeddings.element_size()
