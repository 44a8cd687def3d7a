"""What a run leaves: a plain `qwen2_5_vl` folder with its card, and the state that a resumed run needs."""

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from editreward.dense_heads import DenseHeads
from editreward.simulation.captions import KINDS
from editreward.simulation.near_misses import ALL_NEAR_MISSES
from research.tiny_vlm.arguments import ModelArguments

CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- editreward
- simulated
---

# Tiny vision-language model of the simulated world

A `qwen2_5_vl` model of {millions:.2f} M parameters (embeddings tied), trained from {beginning} on
simulated edit groups. **It knows what `editreward.simulation` draws and nothing else**: {shown}, edited by simple
instructions in English and Chinese. It says nothing useful about other pictures.
It is a backbone that tiny reward models start from.

| | |
|---|---|
| Language model | {text.num_hidden_layers} layers, width {text.hidden_size}, MLP {text.intermediate_size}, \
{text.num_attention_heads} heads, {text.num_key_value_heads} key-value heads |
| Vision tower | {vision.depth} blocks, width {vision.hidden_size}, MLP {vision.intermediate_size}, \
{vision.num_heads} heads, patch {vision.patch_size}, merge {vision.spatial_merge_size}, full attention |
| Images | {size} x {size} pixels, {image_tokens} tokens each |
| Vocabulary | {text.vocab_size} byte-level BPE tokens |

## Training

    {command}

{steps} steps, {groups} edit groups, {minutes:.1f} minutes of CPU time.
The log of the run is `training_log.jsonl`.

## Held-out accuracy

Measured by that command on simulated groups of the split `validation`, with the true tokens before each given. A
pair is two edits of one group whose true scores differ; it is right where the expected scores have the same order.

| Answer | Token accuracy | Score accuracy | Pair accuracy |
|---|---|---|---|
{rows}

Pairs of a perfect edit and one that misses one attribute, told by the dense head "mismatches" (few of each):

| missed | right |
|---|---|
{missed}

## Use

The user turn holds a rubric, `Instruction: ...`, the source image and one edited image. The assistant turn is opened
with what is asked: `Scene:`, `Change:`, `Following: ` or `Quality: `; the score comes first. Load the images with
`Qwen2VLImageProcessorPil`.
"""

SHOWN = {
    "shapes": "coloured shapes on plain or patterned backgrounds",
    "collage": "drawings of named things in front of photographs",
}
ANSWERS = {
    "caption": "Scene: objects, colours, sizes, places, background",
    "change": "Change: what differs from the source",
    "verdict": "Following: score and fault",
    "quality": "Quality: score and artefact",
}


def replace_folder(new: Path, target: Path) -> None:
    """Put the complete folder `new` in the place of `target`; an interruption leaves one whole folder."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)


def save_model(
    folder: Path,
    model: Qwen2_5_VLForConditionalGeneration,
    heads: DenseHeads,
    tokenizer: PreTrainedTokenizerFast,
    processor: Qwen2VLImageProcessorPil,
    log: Path,
    card: str,
) -> None:
    """Write a plain `qwen2_5_vl` folder in bfloat16, with dense heads, tokenizer, image processor, log and card."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(new)
    heads.save(new)
    tokenizer.save_pretrained(new)
    tokenizer_file = new / "tokenizer.json"
    compact = json.dumps(json.loads(tokenizer_file.read_text("utf-8")), ensure_ascii=False, separators=(",", ":"))
    tokenizer_file.write_text(compact, encoding="utf-8")
    processor.save_pretrained(new)
    if log.exists():
        shutil.copy(log, new / "training_log.jsonl")
    (new / "README.md").write_text(card, encoding="utf-8")
    replace_folder(new, folder)


def save_state(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: list[tuple[torch.optim.Optimizer, float]],
    progress: dict[str, Any],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write what a resumed run needs: float32 weights of what is trained, optimizer states, progress, tokenizer."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    state = {
        **{name: module.state_dict() for name, module in modules.items()},
        "optimizers": [optimizer.state_dict() for optimizer, _ in optimizers],
        "progress": progress,
    }
    torch.save(state, new / "state.pt")
    tokenizer.save_pretrained(new)
    replace_folder(new, folder)


def model_card(
    model: Qwen2_5_VLForConditionalGeneration,
    model_args: ModelArguments,
    worlds: Sequence[str],
    progress: dict[str, Any],
    command: str,
) -> str:
    """The README of the model folder, with the newest held-out metrics."""
    metrics = progress["metrics"]
    near = {name: metrics.get(f"near_mismatches_{name}") for name in (*ALL_NEAR_MISSES, "all")}
    missed = [f"| {name} | {100 * share:.0f} % |" for name, share in near.items() if share is not None]
    rows = [
        f"| {ANSWERS[kind]} | {' | '.join(cell(metrics, prefix + kind) for prefix in ('', 'score_', 'pairs_'))} |"
        for kind in KINDS
    ]
    return CARD.format(
        millions=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        beginning="the weights of an earlier model" if model_args.init_from else "random weights",
        text=model.config.text_config,
        vision=model.config.vision_config,
        size=model_args.image_size,
        image_tokens=model_args.side**2,
        command=command,
        steps=progress["steps"],
        groups=progress["groups"],
        minutes=progress["elapsed"] / 60,
        rows="\n".join(rows),
        missed="\n".join(missed),
        shown=", and ".join(SHOWN[world] for world in dict.fromkeys(worlds)),
    )


def cell(metrics: dict[str, float], name: str) -> str:
    """A metric as a table cell; empty where it was not measured."""
    value = metrics.get(name)
    return "" if value is None else f"{value:.4f}"
