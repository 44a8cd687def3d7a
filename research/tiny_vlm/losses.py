"""One pass over a batch, and the losses of dense targets and of the answers in words."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from editreward.dense_heads import DenseHeads, DenseLogits
from editreward.simulation.grounding import SHAPES_VOCABULARY, Vocabulary
from editreward.training.dense import dense_losses
from research.tiny_vlm.arguments import LossArguments
from research.tiny_vlm.model import run_packed


@dataclass
class Outputs:
    """Logits in float32: those of the dense targets, and `words` (targets, vocabulary), None without any."""

    dense: DenseLogits
    words: torch.Tensor | None = None


def forward(
    model: Qwen2_5_VLForConditionalGeneration,
    heads: DenseHeads,
    batch: dict[str, Any],
    processor: Qwen2VLImageProcessorPil,
) -> Outputs:
    """Run the model on a batch: the logits of every target."""
    images = batch["attributes"].shape[1]
    has_words = len(batch["targets"]) > 0
    depth = None if images > 1 or has_words else max(heads.layers.request, heads.layers.source) + 1
    features, states = run_packed(model, batch, processor, depth)
    is_image = batch["input_ids"] == model.config.image_token_id
    outputs = Outputs(heads(features, dict(enumerate(states)), is_image, images))
    if has_words:
        outputs.words = model.lm_head(states[-1].flatten(0, 1)[batch["targets"][:, 0]]).float()
    return outputs


def word_loss(logits: torch.Tensor, targets: torch.Tensor, kind_weights: list[float]) -> torch.Tensor:
    """Mean cross entropy of the targets, each weighted by its kind."""
    weights = torch.tensor(kind_weights)[targets[:, 2]]
    return (F.cross_entropy(logits, targets[:, 1], reduction="none") * weights).sum() / weights.sum()


def losses(
    outputs: Outputs, batch: dict[str, Any], args: LossArguments, vocabulary: Vocabulary = SHAPES_VOCABULARY
) -> dict[str, torch.Tensor]:
    """Every loss by name, unweighted."""
    values = dense_losses(outputs.dense, batch, vocabulary)
    if outputs.words is not None:
        values["words"] = word_loss(outputs.words, batch["targets"], args.kind_weights)
    return values


def weighted_sum(values: dict[str, torch.Tensor], args: LossArguments) -> torch.Tensor:
    """The training loss."""
    weights = {name: getattr(args, f"{name}_weight") for name in values}
    weights |= {name: args.grounding_weight * weight for name, weight in weights.items() if name != "words"}
    return torch.stack([weights[name] * value for name, value in values.items()]).sum()
