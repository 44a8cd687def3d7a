"""The heads of pre-training, what they read, and the losses."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from editreward.simulation.grounding import ASKED, ATTRIBUTES, COMPARISONS, MISMATCHES, REQUEST
from research.tiny_vlm.arguments import LossArguments
from research.tiny_vlm.model import run_packed

TO_CHANGE_WEIGHT = 4.0
"""Of a cell that should show something else than the source does, to a weight of 1 of the others: reading decides it."""
MISMATCH_HIDDEN = 96


class DenseHeads(nn.Module):
    """Read from tokens within the model what it has understood so far; needed in pre-training alone.

    `request` reads the token before the source image, the others read image tokens.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()

        def linear(names: int) -> nn.Module:
            return nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, names))

        self.request = linear(sum(map(len, REQUEST.values())))
        self.attributes = linear(len(ATTRIBUTES))
        self.asked_source = linear(len(ASKED))
        self.asked_edited = linear(len(ASKED))
        self.comparisons = linear(len(COMPARISONS))
        self.mismatches = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, MISMATCH_HIDDEN),
            nn.GELU(),
            nn.Linear(MISMATCH_HIDDEN, len(MISMATCHES)),
        )


@dataclass
class Outputs:
    """Logits in float32; None for what a batch without candidates does not have.

    `request` (groups, values of all parts), `attributes`, `asked`, `comparisons`, `mismatches` (groups, images, cells,
    names), `words` (targets, vocabulary).
    """

    request: torch.Tensor
    attributes: torch.Tensor
    asked: torch.Tensor
    comparisons: torch.Tensor | None = None
    mismatches: torch.Tensor | None = None
    words: torch.Tensor | None = None


def forward(
    model: Qwen2_5_VLForConditionalGeneration,
    heads: DenseHeads,
    batch: dict[str, Any],
    processor: Qwen2VLImageProcessorPil,
    args: LossArguments,
) -> Outputs:
    """Run the model on a batch: the logits of every target."""
    shape = batch["attributes"].shape[:3]
    alone = shape[1] == 1 and len(batch["targets"]) == 0
    depth = max(args.request_layer, args.source_layer) + 1 if alone else None
    features, states = run_packed(model, batch, processor, depth)
    is_image = batch["input_ids"] == model.config.image_token_id
    rows, before_source = torch.arange(len(is_image)), is_image.int().argmax(-1) - 1

    def cells(layer: int) -> torch.Tensor:
        return states[layer][is_image].view(*shape, -1)

    outputs = Outputs(
        request=heads.request(states[args.request_layer][rows, before_source]).float(),
        attributes=heads.attributes(features).view(*shape, -1).float(),
        asked=heads.asked_source(cells(args.source_layer)[:, :1]).float(),
    )
    if alone:
        return outputs
    edited, compared = cells(args.edited_layer)[:, 1:], cells(args.comparison_layer)
    outputs.asked = torch.cat([outputs.asked, heads.asked_edited(edited).float()], dim=1)
    outputs.comparisons = heads.comparisons(compared).float()
    outputs.mismatches = heads.mismatches(compared).float()
    outputs.words = model.lm_head(states[-1].flatten(0, 1)[batch["targets"][:, 0]]).float()
    return outputs


def request_loss(logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Cross entropy of what the instruction says, summed over its parts, mean over the groups."""
    parts = logits.split([len(names) for names in REQUEST.values()], dim=-1)
    losses = [
        F.cross_entropy(part, value, ignore_index=-1, reduction="sum")
        for part, value in zip(parts, values.unbind(-1), strict=True)
    ]
    return torch.stack(losses).sum() / len(values)


def asked_loss(logits: torch.Tensor, asked: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of what cells should show, summed over the names, weighted mean over the cells."""
    source = attributes[:, :1, :, : len(ASKED)]
    weights = 1 + (TO_CHANGE_WEIGHT - 1) * (asked != source).any(-1).float()
    losses = F.binary_cross_entropy_with_logits(logits, asked.float(), reduction="none").sum(-1)
    return (losses * weights).sum() / weights.sum()


def binary_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy, summed over the names, each its mean over the cells whose truth is known."""
    known = ~truth.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), reduction="none") * known
    names = tuple(range(losses.ndim - 1))
    return (losses.sum(names) / known.sum(names).clamp(min=1)).sum()


def word_loss(logits: torch.Tensor, targets: torch.Tensor, kind_weights: list[float]) -> torch.Tensor:
    """Mean cross entropy of the targets, each weighted by its kind."""
    weights = torch.tensor(kind_weights)[targets[:, 2]]
    return (F.cross_entropy(logits, targets[:, 1], reduction="none") * weights).sum() / weights.sum()


def losses(outputs: Outputs, batch: dict[str, Any], args: LossArguments) -> dict[str, torch.Tensor]:
    """Every loss by name, unweighted."""
    values = {
        "request": request_loss(outputs.request, batch["request"]),
        "attributes": F.binary_cross_entropy_with_logits(
            outputs.attributes, batch["attributes"].float(), reduction="none"
        )
        .sum(-1)
        .mean(),
        "asked": asked_loss(outputs.asked, batch["asked"], batch["attributes"]),
    }
    if outputs.comparisons is not None and outputs.mismatches is not None:
        values["comparisons"] = binary_loss(outputs.comparisons, batch["comparisons"])
        values["mismatches"] = binary_loss(outputs.mismatches, batch["mismatches"])
    if outputs.words is not None and len(outputs.words):
        values["words"] = word_loss(outputs.words, batch["targets"], args.kind_weights)
    return values


def weighted_sum(values: dict[str, torch.Tensor], args: LossArguments) -> torch.Tensor:
    """The training loss."""
    return torch.stack([getattr(args, f"{name}_weight") * value for name, value in values.items()]).sum()
