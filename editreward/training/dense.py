"""Dense targets within the model: what each image token shows, should show, and where an edit is not as asked for.

Pre-training teaches them (`research/tiny_vlm`); reward training keeps them on with a small weight ([`DenseLoss`]), so
that what was learnt is not lost. The targets are known for simulated groups only.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from editreward.dense_heads import DenseHeads, DenseLogits, LayerStates
from editreward.groups.rows import GroupRow
from editreward.simulation import SimulatedGroup
from editreward.simulation.grounding import (
    SHAPES_VOCABULARY,
    Vocabulary,
    group_asked,
    group_attributes,
    group_comparisons,
    group_mismatches,
    request_values,
)
from editreward.training.terms import GroupBatch

if TYPE_CHECKING:
    from modeling_editreward import EditRewardModel

TO_CHANGE_WEIGHT = 4.0
"""Of a cell that should show something else than the source does, to a weight of 1 of the others: it takes reading."""


def dense_targets(
    groups: Sequence[SimulatedGroup], side: int, vocabulary: Vocabulary = SHAPES_VOCABULARY
) -> dict[str, Tensor]:
    """The targets of simulated groups, all with as many candidates, by the names of [`DenseLogits`].

    Args:
        groups: The groups.
        side: Image tokens along one side of an image.
        vocabulary: Names of what cells can show and instructions can say.
    """
    dense: dict[str, Callable[[SimulatedGroup, int], np.ndarray]] = {
        "attributes": partial(group_attributes, vocabulary=vocabulary),
        "asked": partial(group_asked, vocabulary=vocabulary),
        "comparisons": group_comparisons,
        "mismatches": partial(group_mismatches, vocabulary=vocabulary),
    }
    targets = {"request": torch.from_numpy(np.stack([request_values(group.task, vocabulary) for group in groups]))}
    for name, function in dense.items():
        targets[name] = torch.from_numpy(np.stack([function(group, side) for group in groups]))
    return targets


def dense_losses(
    logits: DenseLogits, targets: Mapping[str, Tensor], vocabulary: Vocabulary = SHAPES_VOCABULARY
) -> dict[str, Tensor]:
    """Every loss by name."""
    attributes = targets["attributes"]
    losses = {
        "request": request_loss(logits.request, targets["request"], vocabulary),
        "attributes": F.binary_cross_entropy_with_logits(logits.attributes, attributes.float(), reduction="none")
        .sum(-1)
        .mean(),
        "asked": asked_loss(logits.asked, targets["asked"], attributes),
    }
    if logits.comparisons is not None and logits.mismatches is not None:
        losses["comparisons"] = binary_loss(logits.comparisons, targets["comparisons"])
        losses["mismatches"] = binary_loss(logits.mismatches, targets["mismatches"])
    return losses


def request_loss(logits: Tensor, values: Tensor, vocabulary: Vocabulary = SHAPES_VOCABULARY) -> Tensor:
    """Cross entropy of what the instruction says, summed over its parts, mean over the groups."""
    parts = logits.split([len(names) for names in vocabulary.request.values()], dim=-1)
    losses = [
        F.cross_entropy(part, value, ignore_index=-1, reduction="sum")
        for part, value in zip(parts, values.unbind(-1), strict=True)
    ]
    return torch.stack(losses).sum() / len(values)


def asked_loss(logits: Tensor, asked: Tensor, attributes: Tensor) -> Tensor:
    """Binary cross entropy of what cells should show, summed over the names, weighted mean over the cells."""
    source = attributes[:, :1, :, : asked.shape[-1]]
    weights = 1 + (TO_CHANGE_WEIGHT - 1) * (asked != source).any(-1).float()
    losses = F.binary_cross_entropy_with_logits(logits, asked.float(), reduction="none").sum(-1)
    return (losses * weights).sum() / weights.sum()


def binary_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross entropy, summed over the names, each its mean over the cells whose truth is known."""
    known = ~truth.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), reduction="none") * known
    cells = tuple(range(losses.ndim - 1))
    return (losses.sum(cells) / known.sum(cells).clamp(min=1)).sum()


class DenseLoss:
    """The dense losses of reward training, an auxiliary loss of [`EditRewardTrainer`].

    The heads are frozen: the model has to keep what they read. Hooks on the layers take what they need from the pass
    that computes the scores.

    Args:
        heads: Trained with the vision-language model that the run starts from.
        weight: Of the sum of the losses, to a weight of 1 of the loss of rewards.
        side: Image tokens along one side of an image.
    """

    def __init__(self, heads: DenseHeads, weight: float, side: int) -> None:
        self.heads, self.weight, self.side = heads.requires_grad_(False), weight, side
        self._states = LayerStates(heads.layers)

    def watch(self, model: "EditRewardModel") -> None:
        """Hook into an [`EditRewardModel`]."""
        self.image_token_id = model.config.backbone_config.image_token_id
        self._states.watch(model.backbone.language_model)

    def save(self, folder: str | Path) -> None:
        """Write the heads into the folder of a model that was trained with them: they go on reading it."""
        self.heads.save(folder)

    def targets(self, rows: Sequence[GroupRow]) -> dict[str, Tensor]:
        """Of rows that hold their simulated group as `simulation`.

        Raises:
            ValueError: a row has none.
        """
        if any("simulation" not in row for row in rows):
            raise ValueError("Dense losses need groups whose truth is known: those of `--dataset_name simulated`.")
        return dense_targets([row["simulation"] for row in rows], self.side, self.heads.vocabulary)

    def __call__(self, inputs: GroupBatch, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of the batch that the model was just run on, by name."""
        inputs_embeds, states = self._states.take()
        is_image = inputs["input_ids"] == self.image_token_id
        images = targets["attributes"].shape[1]
        logits = self.heads.to(is_image.device)(inputs_embeds[is_image], states, is_image, images)
        return dense_losses(logits, targets, self.heads.vocabulary)
