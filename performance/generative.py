"""Seconds of a generative scorer against the published way and against what the work needs at the least.

    OMP_NUM_THREADS=1 python performance/generative.py --json docs/performance/generative.json
    python performance/generative.py --device cuda --shape configs/backbones/qwen2_5_vl_7b.json --dtype bfloat16

Weights, images and tokens are random; prompts have the lengths that the published EditScore's have with Qwen's own
tokenizer (362 and 302 tokens without images, 19 of them in common), and all answers `--tokens` tokens.

A cell is `pixels:candidates:passes`. *Ours* is what the scorer does: each image encoded once, each prompt read once,
all answers written together. *Published* is `transformers.generate` for each pass, prompt and candidate, one after
another, images encoded anew each time; as these are alike, the two calls of one pass of one candidate are run, and
counted `candidates x passes` times. The *bound* is what no program with these libraries can do without: the products
with the model's own weights, one after another, at the rows that there are (measured; in writing with weights in
oneDNN's layout where the scorer has them so, and never less than reading the weights at the measured bandwidth);
attention of encoding and reading by its operations at the rate of a large square product; and in writing the caches,
those of prompts once for all their answers, at that bandwidth. It is measured before and after each repetition, in
memory that the process has used before. So are ours: the first call, in which the system finds the memory, is told
apart (`first_seconds`).
"""

import editreward.scripts

import argparse
import copy
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import ROOT, matrix_multiply_peak, measure, synchronize, write_json
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from editreward.flops import window_sizes
from editreward.scorers.generative.engine import Engine, Request
from editreward.scorers.generative.images import ImagePatches
from editreward.scorers.generative.sampling import Sampling
from editreward.scorers.generative.tokens import PromptTokens, TokenTree, TreeBuilder

HEADER, LABEL = 19, 8
TOKENS = {"SC": 362, "PQ": 302}
"""Of the published prompts with chat markup, without images: instruction "Adjust the background to a glass wall."."""
CELLS = "512:1:1,512:1:4,512:1:8,512:8:1,512:8:4,512:8:8,1024:1:1,1024:1:4,1024:1:8,1024:8:1"
SAMPLING = Sampling(0.7, 0.9, 20)
PARTS = ("encoding", "reading", "writing")


def build_model(shape: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """A model of a shape with random weights."""
    content = json.loads(shape.read_text(encoding="utf-8"))
    vocabulary = content["text_config"]["vocab_size"]
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    content |= {name: vocabulary - 8 + place for place, name in enumerate(names)}
    config = AutoConfig.for_model(content.pop("model_type"), **content)
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()


def build_image(model: Any, pixels: int, name: str) -> ImagePatches:
    """A square image of random patches."""
    vision = model.config.vision_config
    unit = vision.patch_size * vision.spatial_merge_size
    side = round(pixels / unit) * vision.spatial_merge_size
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    return ImagePatches(torch.randn(side**2, width), (1, side, side), (side // vision.spatial_merge_size) ** 2, name)


def build_prompts(model: Any, pixels: int, candidates: int) -> list[PromptTokens]:
    """Both prompts of each candidate, one candidate's after another's."""
    ids = torch.randint(0, 1000, (sum(TOKENS.values()),), generator=torch.Generator().manual_seed(0)).tolist()
    header, label, rest = ids[:HEADER], ids[HEADER : HEADER + LABEL], ids[HEADER + LABEL :]
    source = build_image(model, pixels, "source")
    prompts = []
    for candidate in range(candidates):
        edited = build_image(model, pixels, f"edited {candidate}")
        left = TOKENS["SC"] - HEADER - 2 * LABEL
        prompts.append(PromptTokens((*header, *label, source, *label, edited, *rest[:left])))
        left = TOKENS["PQ"] - HEADER - LABEL
        prompts.append(PromptTokens((*header, *label, edited, *rest[::-1][:left])))
    return prompts


def ours(
    engine: Engine, prompts: Sequence[PromptTokens], passes: int, tokens: int, clock: str = "wall"
) -> tuple[float, dict[str, float]]:
    """Seconds of all answers, as the scorer writes them, and of their parts."""
    device = engine.model.device
    requests = [Request(prompt, f"{prompt} {number}") for prompt in range(len(prompts)) for number in range(passes)]
    images = [image for prompt in prompts for image in prompt.images]
    encoding, features = measure(lambda: engine.encode(images), device, clock)
    reading, computed = measure(lambda: engine.read(prompts, features), device, clock)
    writing, _ = measure(lambda: engine.write(computed, requests, SAMPLING, tokens), device, clock)
    return encoding + reading + writing, {"encoding": encoding, "reading": reading, "writing": writing}


def published(model: Any, prompts: Sequence[PromptTokens], tokens: int) -> None:
    """One pass of one candidate."""
    for prompt in prompts[:2]:
        ids = torch.tensor([prompt.ids(model.config.image_token_id)], device=model.device)
        torch.manual_seed(42)
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            pixel_values=torch.cat([image.patches for image in prompt.images]).to(model.device, model.dtype),
            image_grid_thw=torch.tensor([image.grid for image in prompt.images], device=model.device),
            do_sample=True,
            temperature=SAMPLING.temperature,
            top_p=SAMPLING.top_p,
            top_k=SAMPLING.top_k,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
        )


def bandwidth(device: torch.device, clock: str) -> float:
    """Bytes per second of reading a large tensor, the best of several runs."""
    size = 2**28 if device.type == "cpu" else 2**32
    big = torch.ones(size // 4, device=device)
    times = [measure(big.sum, device, clock)[0] for _ in range(8)]
    return size / min(times)


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    return [one for one in module.modules() if isinstance(one, nn.Linear)]


def products_seconds(layers: Sequence[nn.Linear], rows: int, device: torch.device, clock: str) -> float:
    """Seconds of the products of so many rows with the weights of layers, one after another as a model takes them."""
    inputs = {
        width: torch.randn(rows, width, device=device, dtype=layers[0].weight.dtype)
        for width in {layer.in_features for layer in layers}
    }

    def run() -> None:
        for layer in layers:
            layer(inputs[layer.in_features])

    run()
    return statistics.median(measure(run, device, clock)[0] for _ in range(3))


def attention_work(model: Any, prompts: Sequence[PromptTokens]) -> tuple[float, float, TokenTree]:
    """Operations of attention in the vision tower and in reading the prompts, and the prompts' tree."""
    text, vision = model.config.get_text_config(), model.config.vision_config
    images = {image.key: image.grid for prompt in prompts for image in prompt.images}.values()
    full = len(vision.fullatt_block_indexes) if hasattr(vision, "fullatt_block_indexes") else vision.depth
    whole = sum((rows * columns) ** 2 for _, rows, columns in images)
    windows = sum(size**2 for grid in images for size in window_sizes(grid, vision))
    encoding = 4 * vision.hidden_size * (full * whole + (vision.depth - full) * windows)
    tree = TreeBuilder(prompts, model.config.image_token_id, vision.spatial_merge_size).build()
    pairs = 0
    for segment in tree.segments:
        size, before = segment.end - segment.start, sum(end - start for start, end in segment.path)
        pairs += size * before + size * (size + 1) // 2
    return encoding, 4 * text.num_attention_heads * _head_size(text) * text.num_hidden_layers * pairs, tree


def _head_size(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def bound(engine: Engine, prompts: Sequence[PromptTokens], passes: int, tokens: int, clock: str) -> dict[str, Any]:
    """Seconds that encoding, reading and writing need at the least, and the rates that they are of."""
    model = engine.model
    device, text, tower = model.device, model.config.get_text_config(), model.model.visual
    rate, speed = matrix_multiply_peak(device, model.dtype, clock), bandwidth(device, clock)
    encoding, reading, tree = attention_work(model, prompts)
    sizes = [len(image.patches) for image in {i.key: i for prompt in prompts for i in prompt.images}.values()]
    patches = sum(sizes)
    square = model.config.vision_config.spatial_merge_size**2
    rows = min(patches, max(*sizes, engine.pass_patches)) // square * square
    merging = [one for name, part in tower.named_children() if "merger" in name for one in linear_layers(part)]
    of_blocks = products_seconds(linear_layers(tower.blocks), rows, device, clock)
    of_mergers = products_seconds(merging, rows // square, device, clock)
    embedding = 2 * tower.patch_embed.proj.weight.numel() * patches / rate

    layers = linear_layers(model.model.language_model.layers)
    read = min(len(tree.ids), engine.pass_tokens)
    of_layers = products_seconds(layers, read, device, clock) * len(tree.ids) / read
    of_head = products_seconds([model.lm_head], len(prompts), device, clock)

    answers, lengths = len(prompts) * passes, sum(map(len, prompts))
    with engine.packed.used():
        of_step = products_seconds([*layers, model.lm_head], answers, device, clock)
    width = model.lm_head.weight.element_size()
    weights = sum(layer.weight.numel() for layer in [*layers, model.lm_head]) * width
    of_token = 2 * text.num_hidden_layers * text.num_key_value_heads * _head_size(text) * width
    writing = 0.0
    for step in range(1, tokens):  # the first token comes of the prompt's own pass
        writing += max(of_step, weights / speed) + of_token * (lengths + answers * step) / speed
    return {
        "encoding": (of_blocks + of_mergers) * patches / rows + embedding + encoding / rate,
        "reading": of_layers + of_head + reading / rate,
        "writing": writing,
        "rate": rate,
        "bandwidth": speed,
    }


def run_cell(
    engine: Engine, reference: Any, cell: str, once: dict[int, float], args: argparse.Namespace
) -> dict[str, Any]:
    """Measurements of a cell. `once`: seconds of a published pass by pixels, or what to do without.

    What the bound is made of is measured before and after each repetition, for others may use the machine.
    """
    model = engine.model
    pixels, candidates, passes = map(int, cell.split(":"))
    prompts = build_prompts(model, pixels, candidates)
    device = model.device
    first, _ = ours(engine, prompts, passes, args.tokens, args.clock)
    seconds, parts, bounds = [], [], [bound(engine, prompts, passes, args.tokens, args.clock)]
    for _ in range(args.repetitions):
        taken, of_part = ours(engine, prompts, passes, args.tokens, args.clock)
        seconds.append(taken)
        parts.append(of_part)
        bounds.append(bound(engine, prompts, passes, args.tokens, args.clock))
    found: dict[str, Any] = {
        "cell": cell,
        "seconds": statistics.median(seconds),
        "first_seconds": first,
        "parts": {name: statistics.median(part[name] for part in parts) for name in PARTS},
        "bound": {name: statistics.median(one[name] for one in bounds) for name in bounds[0]},
    }
    shares = [
        sum(before[name] + after[name] for name in PARTS) / 2 / taken
        for before, after, taken in zip(bounds[:-1], bounds[1:], seconds, strict=True)
    ]
    found["share_of_bound"] = statistics.median(shares)
    if not args.without_published:
        if pixels not in once:  # alike in all cells of these pixels
            once[pixels], _ = measure(lambda: published(reference, prompts, args.tokens), device, args.clock)
        found["published_seconds"] = once[pixels] * candidates * passes
        found["times_as_fast"] = found["published_seconds"] / found["seconds"]
    return found


def table(cells: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| pixels | N | n | published, s | ours, s | times as fast | encode, read, write, s | bound, s | share |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in cells:
        pixels, candidates, passes = one["cell"].split(":")
        compared = ["–", "–"]
        if "published_seconds" in one:
            compared = [f"{one['published_seconds']:.1f}", f"{one['times_as_fast']:.1f}"]
        told = (", ".join(f"{one[name][part]:.1f}" for part in PARTS) for name in ("parts", "bound"))
        lines.append(
            f"| {pixels} | {candidates} | {passes} | {compared[0]} | {one['seconds']:.1f} | {compared[1]} | "
            f"{' | '.join(told)} | {one['share_of_bound']:.0%} |"
        )
    return "\n".join(lines)


@torch.no_grad()
def main(words: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=Path, default=ROOT / "performance/shapes/generative_132m.json")
    parser.add_argument("--cells", default=CELLS, help="with commas between (default: %(default)s)")
    parser.add_argument(
        "--tokens",
        type=int,
        default=48,
        help="of an answer; the published format with 25 words has 41 (default: %(default)s)",
    )
    parser.add_argument("--without-published", action="store_true", help="leave the published way out")
    parser.add_argument("--repetitions", type=int, default=1, help="of ours (default: %(default)s)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(words)
    model = build_model(args.shape, args.device, getattr(torch, args.dtype))
    reference = copy.deepcopy(model)
    reference.generation_config.eos_token_id = None
    engine = Engine(model, (), 2**40)
    ours(engine, build_prompts(model, 112, 1), 1, 4)  # warm
    if not args.without_published:
        published(reference, build_prompts(model, 112, 1), 4)
    synchronize(args.device)
    cells: list[dict[str, Any]] = []
    once: dict[int, float] = {}
    for cell in args.cells.split(","):
        cells.append(run_cell(engine, reference, cell, once, args))
        print(json.dumps(cells[-1]), flush=True)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        write_json(args.json, {"parameters": parameters, "tokens": args.tokens, "clock": args.clock, "cells": cells})
    print(table(cells))
    return table(cells)


if __name__ == "__main__":
    main()
