"""What loss and metrics of a batch are computed of: pairs and single candidates, made once, by the data loader."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

import numpy as np
import torch
from torch import Tensor

from editreward.groups.pairs import (
    WeightedPairs,
    WeightedScores,
    batch_pairs,
    batch_ties,
    majority_preferences,
    training_pairs,
)
from editreward.groups.rows import GroupRow

Samples: TypeAlias = WeightedPairs[Tensor] | WeightedScores[Tensor]
ArraySamples: TypeAlias = WeightedPairs[np.ndarray] | WeightedScores[np.ndarray]

LOSS_REDUCTIONS = ("pair", "group")

# What `LossTerms` adds to a batch.
TERMS = ("terms", "pointwise", "ranked", "tied", "majority")


@dataclass(frozen=True)
class Annotation:
    """The annotation of a batch, on the CPU; see `EditGroupCollator` for the arrays."""

    labels: np.ndarray
    group_index: np.ndarray
    preferences: np.ndarray
    preference_weight: np.ndarray
    annotator_labels: np.ndarray | None = None

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> "Annotation":
        """That of a batch of the collator."""
        names = ("labels", "group_index", "preferences", "preference_weight", "annotator_labels")
        return cls(**{name: batch[name].cpu().numpy() for name in names if name in batch})


class Terms(TypedDict):
    """What [`LossTerms`] adds to a batch."""

    terms: list[Samples]
    pointwise: list[Any]
    ranked: list[list[Tensor]]
    tied: Tensor
    majority: Tensor


class GroupBatch(Terms, total=False):
    """A batch of the collator, with its terms."""

    input_ids: Tensor
    segment_ids: Tensor
    group_index: Tensor
    pixel_values: Tensor
    image_grid_thw: Tensor
    image_index: Tensor
    labels: Tensor
    preferences: Tensor
    preference_weight: Tensor
    annotator_labels: Tensor
    group_ids: list[str]
    instructions: list[str]
    num_tokens: int
    rationale_ids: Tensor
    hidden_positions: Tensor
    auxiliary: dict[str, Tensor]
    skipped_rows: list[tuple[str, str]]


class LossTerms:
    """Makes the terms of a loss.

    Args:
        samples_of: `RewardLoss.samples`: what the loss trains on, for the aggregate (`None`) or a dimension.
        dimensions: The model's dimensions.
        dimension_weight: Weight of the dimensions' own terms, all together.
        reduction: "pair", or "group": then the weights of each group are scaled to a sum of 1.
        pointwise: Samples of a dimension for the point-wise likelihood beside the loss, if there is one.

    Attributes:
        weights: For each term the dimension that decides (`None`: the sum of all) and its weight in the loss.
    """

    def __init__(
        self,
        samples_of: Callable[[Annotation, int | None], ArraySamples],
        dimensions: Sequence[str],
        dimension_weight: float = 0.0,
        reduction: str = "pair",
        pointwise: Callable[[Annotation, int], ArraySamples] | None = None,
    ) -> None:
        self.samples_of, self.reduction, self.pointwise = samples_of, reduction, pointwise
        self.dimensions = range(len(dimensions))
        self.weights: list[tuple[int | None, float]] = [(None, 1.0)]
        if dimension_weight > 0:
            self.weights += [(index, dimension_weight / len(dimensions)) for index in self.dimensions]

    def __call__(self, batch: Mapping[str, object]) -> Terms:
        """What a batch of the collator is trained and measured on.

        Returns:
            `terms`, the samples of each term; `pointwise`, those of each dimension's likelihood; `ranked`, winners and
            losers of the annotated pairs, overall and of each dimension; `tied`, a candidate of each overall tie; and
            `majority`, the annotated preferences that weigh more than their opposites, `(preferences, 2)`. All are
            tensors.
        """
        annotation = Annotation.of(batch)
        labels, group_index = annotation.labels, annotation.group_index
        majority = majority_preferences(annotation.preferences, annotation.preference_weight)
        overall = training_pairs(labels, group_index, None, "drop", *majority)
        ranked = [overall[:2], *(batch_pairs(labels, group_index, index) for index in self.dimensions)]
        return {
            "terms": [self._term(annotation, self.samples_of(annotation, index)) for index, _ in self.weights],
            "pointwise": self._pointwise_terms(annotation),
            "ranked": [[torch.from_numpy(index) for index in pair] for pair in ranked],
            "tied": torch.from_numpy(batch_ties(labels, group_index)[0]),
            "majority": torch.from_numpy(majority[0]),
        }

    def _pointwise_terms(self, annotation: Annotation) -> list[Samples]:
        if self.pointwise is None:
            return []
        return [self._term(annotation, self.pointwise(annotation, index)) for index in self.dimensions]

    def _term(self, annotation: Annotation, samples: ArraySamples) -> Samples:
        if self.reduction == "group":
            group = annotation.group_index[samples.candidate]
            of_sample = np.bincount(group, samples.weight, minlength=1)[group]
            weight = samples.weight / np.where(of_sample > 0, of_sample, 1)
            samples = samples._replace(weight=weight.astype(np.float32))
        return as_tensors(samples)


def as_tensors(samples: ArraySamples) -> Samples:
    """Samples as tensors on the CPU, which share their memory."""
    tensors = map(torch.from_numpy, samples)
    return WeightedPairs(*tensors) if isinstance(samples, WeightedPairs) else WeightedScores(*tensors)


class TermCollator:
    """Has the batches of a collator carry their terms, so that the workers of the data loader make them.

    Args:
        collator: Turns rows into a batch.
        terms: What to add.
    """

    def __init__(self, collator: Callable[[Sequence[GroupRow]], dict[str, object]], terms: LossTerms) -> None:
        self.collator, self.terms = collator, terms

    def __call__(self, rows: Sequence[GroupRow]) -> dict[str, object]:
        """A batch with its terms."""
        batch = self.collator(rows)
        return {**batch, **self.terms(batch)}
