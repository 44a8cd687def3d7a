"""Pre-train a tiny vision-language model (`qwen2_5_vl`) on simulated edit groups, from random weights.

    python research/pretrain_tiny_vlm.py --config configs/tiny_vlm.yaml
    python research/pretrain_tiny_vlm.py --config configs/tiny_vlm.yaml --resume true --minutes 60   # train on

The second command goes on from the newest state under `run_dir`. The model folder is written to `output_dir`.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)
from trl import TrlParser

from editreward.simulation import simulate_group
from editreward.simulation.captions import (
    KINDS,
    RUBRIC_WEIGHTS,
    RUBRICS,
    Target,
    caption,
    corpus,
    judgements,
    user_turn,
)
from editreward.simulation.grounding import ATTRIBUTES, COMPARISONS, group_attributes, group_comparisons
from modeling_editreward import TreeBlocks, ancestor_table, set_backbone_attention

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# The split of the Qwen2 tokenizers: words with their leading space, single digits, runs of punctuation.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

NO_KIND = -1


@dataclass
class ModelArguments:
    """The architecture. What is not named here keeps the default of `Qwen2_5_VLConfig`."""

    image_size: int = field(default=112, metadata={"help": "Side of the square images in pixels."})
    patch_size: int = field(default=16, metadata={"help": "Side of a vision patch in pixels."})
    merge_size: int = field(default=1, metadata={"help": "Patches merged into one token, along each side."})
    vision_hidden_size: int = field(default=160, metadata={"help": "Width of the vision tower."})
    vision_intermediate_size: int = field(default=448, metadata={"help": "MLP width of the vision tower."})
    vision_depth: int = field(default=3, metadata={"help": "Blocks of the vision tower."})
    vision_heads: int = field(default=4, metadata={"help": "Attention heads of the vision tower."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the language model."})
    intermediate_size: int = field(default=512, metadata={"help": "MLP width of the language model."})
    layers: int = field(default=5, metadata={"help": "Layers of the language model."})
    heads: int = field(default=4, metadata={"help": "Attention heads of the language model."})
    kv_heads: int = field(default=2, metadata={"help": "Key and value heads of the language model."})
    rope_theta: float = field(default=10000.0, metadata={"help": "Base of the rotary positions of the text."})
    mrope_section: list[int] = field(
        default_factory=list,
        metadata={"help": "Rotary frequencies for time, height and width; empty takes the published models' shares."},
    )
    vocab_size: int = field(default=1536, metadata={"help": "Tokens, the special ones included."})
    tokenizer_groups: int = field(default=1500, metadata={"help": "Simulated groups the tokenizer is trained on."})


@dataclass
class TrainArguments:
    """The data, the schedule and the outputs."""

    output_dir: str = field(default="checkpoints/tiny-vlm", metadata={"help": "Where the model folder is written."})
    run_dir: str = field(default="runs/tiny-vlm", metadata={"help": "Where the log and the resumable state are kept."})
    resume: bool = field(default=False, metadata={"help": "Go on from the newest state under `run_dir`."})
    minutes: float = field(default=25.0, metadata={"help": "Wall-clock budget, earlier parts of the run included."})
    max_steps: int = field(default=0, metadata={"help": "Stop after this many steps instead; 0 uses `minutes`."})
    groups: int = field(default=8, metadata={"help": "Edit groups in a batch."})
    candidates: int = field(default=7, metadata={"help": "Edited images simulated for a group."})
    caption_steps: int = field(
        default=0,
        metadata={"help": "Steps at the start that train captions and quality of every image, and no comparison yet."},
    )
    edited_captions: int = field(
        default=0, metadata={"help": "Candidates of a group whose scene is captioned too, after `caption_steps`."}
    )
    judged: int = field(default=7, metadata={"help": "Candidates of a group that are judged in words."})
    grounding_weight: float = field(
        default=1.0, metadata={"help": "Weight of the losses on every image token; their heads are not kept."}
    )
    grounding_layer: int = field(
        default=-2, metadata={"help": "Language-model layer whose output must tell where the images differ."}
    )
    kind_weights: list[float] = field(
        default_factory=lambda: [1.0, 1.0, 2.0, 1.0],
        metadata={"help": "Loss weight of a caption, change, verdict and quality token."},
    )
    optimizer: str = field(default="muon", metadata={"help": "`muon` (AdamW where it does not apply) or `adamw`."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of AdamW's share."})
    muon_learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of Muon (RMS-matched)."})
    weight_decay: float = field(default=0.02, metadata={"help": "Decoupled weight decay of matrices."})
    warmup_steps: int = field(default=60, metadata={"help": "Steps of linear warm-up after a start or a resume."})
    decay_from: float = field(default=0.5, metadata={"help": "Fraction of the budget after which the rate decays."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradient clipping; 0 turns it off."})
    bf16: bool = field(default=True, metadata={"help": "bfloat16 autocast (weights stay float32)."})
    threads: int = field(default=2, metadata={"help": "CPU threads of the training process."})
    workers: int = field(default=1, metadata={"help": "Processes that simulate; 0 simulates in the training process."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and of the first training group."})
    eval_groups: int = field(default=96, metadata={"help": "Held-out groups of an evaluation."})
    eval_minutes: float = field(default=3.0, metadata={"help": "Minutes between evaluations, each saves the state."})
    log_steps: int = field(default=20, metadata={"help": "Steps between two lines of the training log."})


# ---------------------------------------------------------------------------------------------------------- tokenizer


def build_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the special tokens and the turn markup of the Qwen models.

    Any Unicode text round-trips, since every byte is a token of its own.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


# -------------------------------------------------------------------------------------------------------------- model


def build_config(args: ModelArguments, tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """The configuration of a tiny Qwen2.5-VL: full attention in every vision block, tied embeddings."""
    token_id = tokenizer.convert_tokens_to_ids
    half_head = args.hidden_size // args.heads // 2
    height_width = half_head * 3 // 8  # the shares of the published models: 16 : 24 : 24
    mrope_section = args.mrope_section or [half_head - 2 * height_width, height_width, height_width]
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": args.hidden_size,
            "intermediate_size": args.intermediate_size,
            "num_hidden_layers": args.layers,
            "num_attention_heads": args.heads,
            "num_key_value_heads": args.kv_heads,
            "max_position_embeddings": 8192,
            "max_window_layers": args.layers,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": args.rope_theta,
                "mrope_section": mrope_section,
            },
            "bos_token_id": token_id("<|endoftext|>"),
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": token_id("<|endoftext|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": args.vision_depth,
            "hidden_size": args.vision_hidden_size,
            "intermediate_size": args.vision_intermediate_size,
            "num_heads": args.vision_heads,
            "patch_size": args.patch_size,
            "spatial_merge_size": args.merge_size,
            "temporal_patch_size": 1,
            "window_size": args.image_size,
            "out_hidden_size": args.hidden_size,
            "fullatt_block_indexes": list(range(args.vision_depth)),
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build_image_processor(args: ModelArguments) -> Qwen2VLImageProcessorPil:
    """The image processor that goes with the model: every image is resized to the area it was trained on."""
    return Qwen2VLImageProcessorPil(
        min_pixels=args.image_size**2,
        max_pixels=args.image_size**2,
        patch_size=args.patch_size,
        merge_size=args.merge_size,
        temporal_patch_size=1,
    )


def to_patches(images: list[Image.Image], patch_size: int, merge_size: int) -> np.ndarray:
    """Cut equal-sized RGB images into patches in the order of `Qwen2VLImageProcessorPil`, without normalising.

    Returns uint8 of shape (images * patches, 3 * patch_size * patch_size).
    """
    pixels = np.stack([np.asarray(image) for image in images])
    count, height, width, channels = pixels.shape
    blocks = (height // patch_size // merge_size, width // patch_size // merge_size)
    pixels = pixels.reshape(count, blocks[0], merge_size, patch_size, blocks[1], merge_size, patch_size, channels)
    return pixels.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, channels * patch_size**2)


def normalise(patches: torch.Tensor, processor: Qwen2VLImageProcessorPil) -> torch.Tensor:
    """uint8 patches (patches, 3 * area) to the normalised float32 that the model reads."""
    mean = torch.tensor(processor.image_mean).view(3, 1)
    std = torch.tensor(processor.image_std).view(3, 1)
    pixels = patches.view(len(patches), 3, -1).float() / 255
    return ((pixels - mean) / std).flatten(1)


@dataclass
class Segment:
    """A run of tokens of the tree: it sees its own past, its parent, and what the parent sees.

    `kinds` has one number a token: the index in `KINDS` of a token to be predicted from the one before it in the same
    segment, `NO_KIND` for a token that is given. `candidate` is the edited image the segment belongs to, None for the
    part that all share. `score` is the true score that the first predicted token spells.
    """

    parent: int | None
    input_ids: list[int]
    kinds: list[int]
    candidate: int | None = None
    score: float | None = None


@dataclass
class Packed:
    """One tree of segments as a sequence of `length` tokens, as the reward model's processor packs its groups.

    `position_ids` is (3, length), `segment_ids` (length,), `segment_parents` (segments,) with -1 for the root.
    `targets` is (targets, 3): the position that predicts, the token to predict, its kind. `scores` has (index in
    `targets`, candidate, true score) for every score token.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    segment_ids: np.ndarray
    segment_parents: np.ndarray
    targets: np.ndarray
    scores: list[tuple[int, int, float]]


def pack(segments: list[Segment], image_token_id: int, side: int) -> Packed:
    """Lay out a tree of segments in one sequence with M-RoPE positions that continue from each segment's parent.

    `side` is the number of image tokens along one side of an image. The root comes first, and all segments of a
    candidate stand together.
    """
    position_ids: list[np.ndarray] = []
    targets: list[tuple[int, int, int]] = []
    scores: list[tuple[int, int, float]] = []
    next_position: list[int] = []
    grid = np.indices((1, side, side)).reshape(3, -1)
    start = 0
    for segment in segments:
        ids = segment.input_ids
        position = 0 if segment.parent is None else next_position[segment.parent]
        cursor = 0
        while cursor < len(ids):
            is_image = ids[cursor] == image_token_id
            run = grid if is_image else np.zeros((3, 1), dtype=np.int64)
            position_ids.append(position + run)
            position += side if is_image else 1
            cursor += run.shape[1]
        next_position.append(position)
        if segment.score is not None and segment.candidate is not None:
            scores.append((len(targets), segment.candidate, segment.score))
        targets.extend((start + i - 1, ids[i], kind) for i, kind in enumerate(segment.kinds) if kind != NO_KIND)
        start += len(ids)
    lengths = [len(segment.input_ids) for segment in segments]
    return Packed(
        input_ids=np.concatenate([np.asarray(segment.input_ids, dtype=np.int64) for segment in segments]),
        position_ids=np.concatenate(position_ids, axis=1),
        segment_ids=np.repeat(np.arange(len(segments)), lengths),
        segment_parents=np.array([-1 if segment.parent is None else segment.parent for segment in segments]),
        targets=np.asarray(targets, dtype=np.int64).reshape(-1, 3),
        scores=scores,
    )


def encode_group(
    group: Any,
    tokenizer: PreTrainedTokenizerFast,
    image_tokens: int,
    args: TrainArguments,
    rng: Random,
    compare: bool = True,
) -> list[Segment]:
    """The tree of a simulated group: source, its caption, then every candidate, `judged` of them with judgements.

    Without `compare` only what one image shows is asked for: a caption and the quality of every candidate.

    The markup is that of the chat template: a user turn with rubric, instruction, source image and one edited image,
    and an assistant turn for each answer.
    """
    before_source, before_edited = user_turn(rng.choices(RUBRICS, RUBRIC_WEIGHTS)[0], group.instruction)
    content = [
        {"type": "text", "text": before_source},
        {"type": "image"},
        {"type": "text", "text": before_edited},
        {"type": "image"},
    ]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    before, between, after = text.split("<|image_pad|>")
    close, reopen = between.removesuffix(before_edited + "<|vision_start|>"), before_edited + "<|vision_start|>"
    closing = after[after.index("<|im_end|>") :]  # ends the user turn and opens the assistant's
    image = [tokenizer.convert_tokens_to_ids("<|image_pad|>")] * image_tokens
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def encode(string: str) -> list[int]:
        return tokenizer.encode(string, add_special_tokens=False)

    def given(parent: int | None, ids: list[int], candidate: int | None = None) -> Segment:
        return Segment(parent, ids, [NO_KIND] * len(ids), candidate)

    def answer(
        parent: int, target: Target, opening: str = "", candidate: int | None = None, score: float | None = None
    ) -> Segment:
        cue, text = encode(opening + target.cue), encode(target.text) + [end]
        kinds = [NO_KIND] * len(cue) + [KINDS.index(target.kind)] * len(text)
        return Segment(parent, cue + text, kinds, candidate, score)

    segments = [given(None, encode(before) + image + encode(close))]
    segments.append(answer(0, caption(group.scene), opening=closing))
    count = min(args.edited_captions, len(group.candidates)) if compare else len(group.candidates)
    captioned = set(rng.sample(range(len(group.candidates)), count))
    in_words = set(rng.sample(range(len(group.candidates)), min(args.judged, len(group.candidates))))
    for index, candidate in enumerate(group.candidates):
        node = len(segments)
        segments.append(given(0, encode(reopen) + image + encode(after), index))
        scores = {
            "verdict": candidate.scores["instruction_following"],
            "quality": candidate.scores["visual_quality"],
        }
        for target in judgements(candidate) if index in in_words else ():
            if not compare and target.kind != "quality":
                continue
            segments.append(answer(node, target, candidate=index, score=scores.get(target.kind)))
        if index in captioned:
            segments.append(answer(node, caption(candidate.scene), candidate=index))
    return segments


def collate(packs: list[Packed], patches: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Pad packed groups on the right to one batch.

    Returns `input_ids` and `segment_ids` (groups, length), `segment_parents` (groups, segments), `position_ids` (3,
    groups, length), `targets` (targets, 3) with positions in the flattened batch, `scores` (scores, 4: index in
    `targets`, group, candidate, true score) and `patches` (uint8).
    """
    length = max(len(packed.input_ids) for packed in packs)
    segments = max(len(packed.segment_parents) for packed in packs)

    def padded(rows: list[np.ndarray], size: int, value: int) -> torch.Tensor:
        widths = [[(0, 0)] * (row.ndim - 1) + [(0, size - row.shape[-1])] for row in rows]
        stacked = [np.pad(row, width, constant_values=value) for row, width in zip(rows, widths, strict=True)]
        return torch.from_numpy(np.stack(stacked, axis=rows[0].ndim - 1))

    targets, scores, count = [], [], 0
    for row, packed in enumerate(packs):
        targets.append(packed.targets + np.array([row * length, 0, 0]))
        scores += [(count + at, row, candidate, score) for at, candidate, score in packed.scores]
        count += len(packed.targets)
    return {
        "input_ids": padded([packed.input_ids for packed in packs], length, 0),
        "segment_ids": padded([packed.segment_ids for packed in packs], length, -1),
        "segment_parents": padded([packed.segment_parents for packed in packs], segments, -1),
        "position_ids": padded([packed.position_ids for packed in packs], length, 0),
        "targets": torch.from_numpy(np.concatenate(targets)),
        "scores": torch.tensor(scores, dtype=torch.float64).reshape(-1, 4),
        "patches": torch.from_numpy(np.concatenate(patches)),
    }


def make_batch(
    seeds: range,
    split: str,
    tokenizer: PreTrainedTokenizerFast,
    model_args: ModelArguments,
    args: TrainArguments,
    compare: bool = True,
) -> dict[str, Any]:
    """Simulate, encode and pack the groups of `seeds`; for `compare` see `encode_group`."""
    side = model_args.image_size // model_args.patch_size // model_args.merge_size
    image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    packs, patches, attributes, comparisons = [], [], [], []
    for seed in seeds:
        group = simulate_group(seed, split=split, candidates=args.candidates, size=model_args.image_size)
        segments = encode_group(group, tokenizer, side * side, args, Random(seed), compare)
        packs.append(pack(segments, image_token_id, side))
        images = [group.source, *(candidate.image for candidate in group.candidates)]
        patches.append(to_patches(images, model_args.patch_size, model_args.merge_size))
        attributes.append(group_attributes(group, side).reshape(-1, len(ATTRIBUTES)))
        comparisons.append(group_comparisons(group, side).reshape(-1, len(COMPARISONS)))
    return {
        **collate(packs, patches),
        "attributes": torch.from_numpy(np.concatenate(attributes)),
        "comparisons": torch.from_numpy(np.concatenate(comparisons)),
    }


def rank_and_ranks() -> tuple[int, int]:
    """This process's number and how many train together (`torchrun`); 0 and 1 for a process on its own."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes that train together."""
    _, ranks = rank_and_ranks()
    if ranks == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = nn.utils.parameters_to_vector(gradients) / ranks
    dist.all_reduce(flat)
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)


def agreed(number: float) -> float:
    """The first process's `number`, in all of them."""
    shared = torch.tensor(number, dtype=torch.float64)
    if dist.is_initialized():
        dist.broadcast(shared, src=0)
    return shared.item()


class SimulatedBatches(IterableDataset):
    """An endless stream of training batches. Batch `step` holds the same groups whenever it is asked for."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, model_args: ModelArguments, args: TrainArguments, first_step: int
    ) -> None:
        self.tokenizer, self.model_args, self.args, self.first_step = tokenizer, model_args, args, first_step
        self.rank, self.ranks = rank_and_ranks()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        step = self.first_step + (info.id if info else 0)
        while True:
            first = self.args.seed + (step * self.ranks + self.rank) * self.args.groups
            yield make_batch(
                range(first, first + self.args.groups),
                "train",
                self.tokenizer,
                self.model_args,
                self.args,
                compare=step >= self.args.caption_steps,
            )
            step += info.num_workers if info else 1


# ----------------------------------------------------------------------------------------------------------- training


@dataclass
class Outputs:
    """Logits in float32: `words` (targets, vocabulary), `attributes` and `comparisons` (image tokens, their names)."""

    words: torch.Tensor
    attributes: torch.Tensor
    comparisons: torch.Tensor


class GroundingHeads(nn.Module):
    """Read from the image tokens what the images show and where they differ; needed in pre-training alone.

    Args:
        hidden_size: width of the language model.
        layer: index of the language model's layer whose output tells where the images differ; what an image shows is
            read from the vision tower's output.
    """

    def __init__(self, hidden_size: int, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attributes = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, len(ATTRIBUTES)))
        self.comparisons = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, len(COMPARISONS)))


def forward(
    model: Qwen2_5_VLForConditionalGeneration,
    heads: GroundingHeads,
    batch: dict[str, Any],
    processor: Qwen2VLImageProcessorPil,
) -> Outputs:
    """Run the model on a batch: the logits of every target."""
    vlm = model.model
    vision = model.config.vision_config
    input_ids = batch["input_ids"]
    pixel_values = normalise(batch["patches"], processor)
    image_mask = input_ids == model.config.image_token_id
    side = processor.size["longest_edge"] ** 0.5 // vision.patch_size
    images = int(len(pixel_values) // side**2)
    grid = torch.tensor([[1, int(side), int(side)]]).expand(images, 3)
    features = torch.cat(vlm.get_image_features(pixel_values, grid).pooler_output)
    embeddings = vlm.language_model.embed_tokens(input_ids)
    embeddings = embeddings.masked_scatter(image_mask[..., None], features.to(embeddings.dtype))
    tapped: list[torch.Tensor] = []
    hook = vlm.language_model.layers[heads.layer].register_forward_hook(
        lambda module, inputs, output: tapped.append(output[0] if isinstance(output, tuple) else output)
    )
    hidden = vlm.language_model(
        inputs_embeds=embeddings,
        attention_mask=None,
        position_ids=batch["position_ids"],
        tree_blocks=TreeBlocks.of(batch["segment_ids"], ancestor_table(batch["segment_parents"])),
        use_cache=False,
    ).last_hidden_state
    hook.remove()
    return Outputs(
        words=model.lm_head(hidden.flatten(0, 1)[batch["targets"][:, 0]]).float(),
        attributes=heads.attributes(features).float(),
        comparisons=heads.comparisons(tapped[0][image_mask]).float(),
    )


def grounding_loss(outputs: Outputs, batch: dict[str, Any]) -> torch.Tensor:
    """Binary cross entropy of attributes and of comparisons, summed over their names, mean over the image tokens."""
    truth = batch["comparisons"]
    known = ~truth.isnan()
    attributes = F.binary_cross_entropy_with_logits(
        outputs.attributes, batch["attributes"].float(), reduction="sum"
    ) / len(outputs.attributes)
    comparisons = F.binary_cross_entropy_with_logits(outputs.comparisons[known], truth[known]) * len(COMPARISONS)
    return attributes + comparisons


def weighted_loss(logits: torch.Tensor, targets: torch.Tensor, kind_weights: list[float]) -> torch.Tensor:
    """Mean cross entropy of the targets, each weighted by its kind."""
    weights = torch.tensor(kind_weights)[targets[:, 2]]
    return (F.cross_entropy(logits, targets[:, 1], reduction="none") * weights).sum() / weights.sum()


@torch.no_grad()
def evaluate(
    model: Qwen2_5_VLForConditionalGeneration,
    heads: GroundingHeads,
    batches: list[dict[str, Any]],
    processor: Qwen2VLImageProcessorPil,
    tokenizer: PreTrainedTokenizerFast,
    args: TrainArguments,
) -> dict[str, float]:
    """Held-out loss, token accuracy of every kind, and accuracy of scores and of score order within groups.

    `score_KIND` counts score tokens predicted exactly; `pairs_KIND` counts pairs of candidates of a group with
    different true scores whose expected scores (under the model's probabilities of 1 to 4) have the same order.
    `colour`, `shape`, ... and the names of `COMPARISONS` have the F1 score of what the image tokens tell.
    """
    model.eval()
    digits = torch.tensor([tokenizer.convert_tokens_to_ids(digit) for digit in "1234"])
    loss, right, total = 0.0, dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    score_right, score_total = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    pair_right, pair_total = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0)
    found: dict[str, torch.Tensor] = {}
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            outputs = forward(model, heads, batch, processor)
        logits, targets = outputs.words, batch["targets"]
        for names, predicted, truth in (
            ([name.split()[0] for name in ATTRIBUTES], outputs.attributes, batch["attributes"]),
            (COMPARISONS, outputs.comparisons, batch["comparisons"]),
        ):
            for column, name in enumerate(names):
                is_true, said = truth[:, column] == 1, (predicted[:, column] > 0) & (truth[:, column] >= 0)
                counts = torch.stack([(is_true & said).sum(), is_true.sum() + said.sum()])
                found[name] = found.get(name, torch.zeros(2)) + counts
        loss += weighted_loss(logits, targets, args.kind_weights).item() / len(batches)
        hits = logits.argmax(-1) == targets[:, 1]
        expected = (logits[:, digits].softmax(-1) * torch.arange(1.0, 5.0)).sum(-1)
        for index, kind in enumerate(KINDS):
            chosen = targets[:, 2] == index
            right[kind] += int(hits[chosen].sum())
            total[kind] += int(chosen.sum())
            rows = [row for row in batch["scores"].tolist() if targets[int(row[0]), 2] == index]
            score_right[kind] += sum(bool(hits[int(row[0])]) for row in rows)
            score_total[kind] += len(rows)
            for i, first in enumerate(rows):
                for second in rows[i + 1 :]:
                    if first[1] != second[1] or first[3] == second[3]:
                        continue
                    difference = float(expected[int(first[0])] - expected[int(second[0])])
                    pair_right[kind] += 0.5 if difference == 0 else float((difference > 0) == (first[3] > second[3]))
                    pair_total[kind] += 1
    model.train()
    metrics = {"loss": loss}
    metrics |= {kind: right[kind] / max(1, total[kind]) for kind in KINDS}
    metrics |= {f"score_{kind}": score_right[kind] / score_total[kind] for kind in KINDS if score_total[kind]}
    metrics |= {f"pairs_{kind}": pair_right[kind] / pair_total[kind] for kind in KINDS if pair_total[kind]}
    metrics |= {
        f"f1_{name.replace(' ', '_')}": float(2 * hits / total.clamp(min=1)) for name, (hits, total) in found.items()
    }
    return {name: round(value, 4) for name, value in metrics.items()}


def build_optimizers(
    model: Qwen2_5_VLForConditionalGeneration, heads: GroundingHeads, args: TrainArguments
) -> list[tuple[torch.optim.Optimizer, float]]:
    """The optimizers with their peak learning rates: Muon for the blocks' matrices, AdamW for the rest."""
    matrices, tables, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif args.optimizer == "muon" and parameter.ndim == 2 and "embed_tokens" not in name:
            matrices.append(parameter)
        else:
            tables.append(parameter)
    tables.extend(heads.parameters())
    groups = [
        {"params": tables, "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98), eps=1e-8, fused=True)
    if args.optimizer != "muon":
        return [(adamw, args.learning_rate)]
    muon = torch.optim.Muon(
        matrices, lr=args.muon_learning_rate, weight_decay=args.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [(adamw, args.learning_rate), (muon, args.muon_learning_rate)]


def rate(fraction: float, steps_since_start: int, args: TrainArguments) -> float:
    """The factor on the peak rates: linear warm-up, constant, then linear to zero at the end of the budget."""
    warm = min(1.0, (steps_since_start + 1) / max(1, args.warmup_steps))
    decay = min(1.0, max(0.0, (1.0 - fraction) / (1.0 - args.decay_from)))
    return warm * max(decay, 0.01)


# ------------------------------------------------------------------------------------------------------------- saving


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
    tokenizer: PreTrainedTokenizerFast,
    processor: Qwen2VLImageProcessorPil,
    log: Path,
    card: str,
) -> None:
    """Write a plain `qwen2_5_vl` folder in bfloat16, with tokenizer, image processor, log and model card."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(new)
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
    model: Qwen2_5_VLForConditionalGeneration,
    heads: GroundingHeads,
    optimizers: list[tuple[torch.optim.Optimizer, float]],
    progress: dict[str, Any],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write what a resumed run needs: float32 weights, optimizer states, progress, tokenizer."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    state = {
        "model": model.state_dict(),
        "heads": heads.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer, _ in optimizers],
        "progress": progress,
    }
    torch.save(state, new / "state.pt")
    tokenizer.save_pretrained(new)
    replace_folder(new, folder)


def model_card(
    model: Qwen2_5_VLForConditionalGeneration, model_args: ModelArguments, progress: dict[str, Any], command: str
) -> str:
    """The README of the model folder, with the newest held-out metrics."""
    config, parameters = model.config, sum(parameter.numel() for parameter in model.parameters())
    text, vision = config.text_config, config.vision_config
    side = model_args.image_size // model_args.patch_size // model_args.merge_size
    metrics = progress["metrics"]
    names = {
        "caption": "Scene: objects, colours, sizes, places, background",
        "change": "Change: what differs from the source",
        "verdict": "Following: score and fault",
        "quality": "Quality: score and artefact",
    }
    rows = "\n".join(
        f"| {names[kind]} | {metrics[kind]:.4f} | {cell(metrics, 'score', kind)} | {cell(metrics, 'pairs', kind)} |"
        for kind in KINDS
    )
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- editreward
- simulated
---

# Tiny vision-language model of the simulated world

A `qwen2_5_vl` model of {parameters / 1e6:.2f} M parameters (embeddings tied), trained from random weights on simulated
edit groups. **It knows the simulated world of `editreward.simulation` and nothing else**: coloured shapes on plain or
patterned backgrounds, edited by simple instructions in English and Chinese. It says nothing useful about photographs.
It is the backbone that the bundled tiny reward model starts from.

| | |
|---|---|
| Language model | {text.num_hidden_layers} layers, width {text.hidden_size}, MLP {text.intermediate_size}, \
{text.num_attention_heads} heads, {text.num_key_value_heads} key-value heads |
| Vision tower | {vision.depth} blocks, width {vision.hidden_size}, MLP {vision.intermediate_size}, \
{vision.num_heads} heads, patch {vision.patch_size}, merge {vision.spatial_merge_size}, full attention |
| Images | {model_args.image_size} x {model_args.image_size} pixels, {side * side} tokens each |
| Vocabulary | {text.vocab_size} byte-level BPE tokens |

## Training

    {command}

{progress["steps"]} steps, {progress["groups"]} edit groups, {progress["elapsed"] / 60:.1f} minutes.
The log of the run is `training_log.jsonl`.

## Held-out accuracy

Measured by that command on simulated groups of the split `validation`, with the true tokens before each given. A
pair is two edits of one group whose true scores differ; it is right where the expected scores have the same order.

| Answer | Token accuracy | Score accuracy | Pair accuracy |
|---|---|---|---|
{rows}

## Use

The user turn holds a rubric, `Instruction: ...`, the source image and one edited image. The assistant turn is opened
with what is asked: `Scene:`, `Change:`, `Following: ` or `Quality: `; the score comes first. Load the images with
`Qwen2VLImageProcessorPil`.
"""


def cell(metrics: dict[str, float], prefix: str, kind: str) -> str:
    """A metric as a table cell; empty where the kind has no scores."""
    value = metrics.get(f"{prefix}_{kind}")
    return "" if value is None else f"{value:.4f}"


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append one JSON line to the log and show it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def train(model_args: ModelArguments, args: TrainArguments, command: str) -> None:
    """Train within the budget and write the model folder; see the arguments."""
    torch.set_num_threads(args.threads)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    rank, ranks = rank_and_ranks()
    torch.manual_seed(args.seed)
    run, output = Path(args.run_dir), Path(args.output_dir)
    run.mkdir(parents=True, exist_ok=True)
    log, state_folder = run / "log.jsonl", run / "state"

    # Data and model
    state = None
    if args.resume:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(state_folder)
        state = torch.load(state_folder / "state.pt", weights_only=True)
    else:
        if rank == 0:
            log.unlink(missing_ok=True)
        groups = (
            simulate_group(seed, candidates=args.candidates, size=84) for seed in range(model_args.tokenizer_groups)
        )
        tokenizer = build_tokenizer(corpus(groups), model_args.vocab_size)
    processor = build_image_processor(model_args)
    model = Qwen2_5_VLForConditionalGeneration(build_config(model_args, tokenizer))
    model.train()
    heads = GroundingHeads(model_args.hidden_size, args.grounding_layer)
    optimizers = build_optimizers(model, heads, args)
    progress: dict[str, Any] = {"steps": 0, "groups": 0, "elapsed": 0.0, "metrics": {}}
    if state is not None:
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        for (optimizer, _), saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        progress = state["progress"]
    set_backbone_attention(model.model.config, None)  # the reward model's, for the same packed trees
    held_out = [
        make_batch(range(first, min(first + 8, args.eval_groups)), "validation", tokenizer, model_args, args)
        for first in range(0, args.eval_groups, 8)
    ]
    batches = iter(
        DataLoader(
            SimulatedBatches(tokenizer, model_args, args, progress["steps"]),
            batch_size=None,
            num_workers=args.workers,
            prefetch_factor=4 if args.workers else None,
        )
    )
    if rank == 0:
        append_line(
            log,
            {
                "ranks": ranks,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "vocabulary": len(tokenizer),
                "resumed_from": progress["steps"],
                **asdict(model_args),
                **asdict(args),
            },
        )

    # Training
    first_step, start = progress["steps"], time.monotonic() - progress["elapsed"]
    last_eval, window, waited = time.monotonic(), [], 0.0
    window_start = (time.monotonic(), progress["groups"])
    finished = False
    while not finished:
        before = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - before
        fraction = progress["steps"] / args.max_steps if args.max_steps else progress["elapsed"] / (60 * args.minutes)
        factor = rate(min(1.0, fraction), progress["steps"] - first_step, args)
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            outputs = forward(model, heads, batch, processor)
        loss = weighted_loss(outputs.words, batch["targets"], args.kind_weights)
        grounding = grounding_loss(outputs, batch)
        (loss + args.grounding_weight * grounding).backward()
        parameters = [*model.parameters(), *heads.parameters()]
        average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm or math.inf)
        for optimizer, _ in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        now = time.monotonic()
        progress["steps"] += 1
        progress["groups"] += args.groups * ranks
        progress["elapsed"] = agreed(now - start)
        window.append((loss.item(), grounding.item()))
        done = progress["steps"] >= args.max_steps if args.max_steps else progress["elapsed"] >= 60 * args.minutes
        finished = bool(done)
        if rank > 0:
            continue
        if progress["steps"] % args.log_steps == 0 or finished:
            seconds = now - window_start[0]
            append_line(
                log,
                {
                    "step": progress["steps"],
                    "minutes": round(progress["elapsed"] / 60, 2),
                    "train_loss": round(sum(words for words, _ in window) / len(window), 4),
                    "grounding_loss": round(sum(dense for _, dense in window) / len(window), 4),
                    "grad_norm": round(float(norm), 3),
                    "rate": round(factor, 4),
                    "groups_per_second": round((progress["groups"] - window_start[1]) / seconds, 2),
                    "waited_for_data": round(waited / seconds, 3),
                    "tokens": batch["input_ids"].shape[1],
                },
            )
            window, waited, window_start = [], 0.0, (time.monotonic(), progress["groups"])
        if finished or now - last_eval > 60 * args.eval_minutes:
            progress["metrics"] = evaluate(model, heads, held_out, processor, tokenizer, args)
            progress["elapsed"] = time.monotonic() - start
            append_line(
                log,
                {
                    "step": progress["steps"],
                    "groups": progress["groups"],
                    "minutes": round(progress["elapsed"] / 60, 2),
                    "held_out": progress["metrics"],
                },
            )
            card = model_card(model, model_args, progress, command)
            save_state(state_folder, model, heads, optimizers, progress, tokenizer)
            save_model(run / "model", model, tokenizer, processor, log, card)
            last_eval, window_start = time.monotonic(), (time.monotonic(), progress["groups"])

    # Saving
    if rank > 0:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    save_model(output, model, tokenizer, processor, log, model_card(model, model_args, progress, command))


def main(argv: list[str] | None = None) -> None:
    """Read the options and train."""
    parser = TrlParser((ModelArguments, TrainArguments))
    model_args, args = parser.parse_args_and_config(argv)
    options = " ".join(sys.argv[1:] if argv is None else argv)
    train(model_args, args, f"python research/pretrain_tiny_vlm.py {options}")


if __name__ == "__main__":
    main()
