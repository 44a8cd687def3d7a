"""From rows of the dataset to batches of the model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from processing_editreward import EditRewardProcessor

# Columns of the dataset schema that training reads. `preferences` may be absent.
REQUIRED_COLUMNS = ("group_id", "source_images", "instruction", "candidates")


class EditGroupCollator:
    """
    Turns edit groups, one row each, into the inputs of an [`EditRewardModel`] and their annotation.

    Args:
        processor ([`EditRewardProcessor`]):
            Packs the groups. Its `dimensions` are the columns of `labels`.

    Call it with a list of rows of the dataset schema. It returns the processor's tensors and

    - `labels` `(candidates, dimensions)`: annotated scores, NaN where there is none. A model of the single dimension
      `overall` takes the sum of a candidate's scores where the rows have no score of that name.
    - `preferences` `(preferences, 2)` and `preference_weight` `(preferences,)`: annotated (chosen, rejected) as
      indices into the candidates of the batch, and their weights.

    It raises a `ValueError` that names the row by its `group_id` for anything that it cannot use: nothing is left out.
    """

    def __init__(self, processor: EditRewardProcessor) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        groups = []
        labels: list[list[float]] = []
        preferences: list[list[int]] = []
        preference_weight: list[float] = []
        for row in rows:
            check_columns(row)
            name = f"group {row['group_id']!r}"
            candidates = row["candidates"]
            if not candidates:
                raise ValueError(f"{name} has no candidates.")
            edited = [candidate["image"] for candidate in candidates]
            groups.append(
                self.processor.pack(list(row["source_images"]), edited, row["instruction"], name=f"{name}: ")
            )
            offset = len(labels)
            labels += [self._labels(c["scores"], f"{name}, candidate {i}") for i, c in enumerate(candidates)]
            for preference in row.get("preferences") or []:
                pair = [preference["chosen"], preference["rejected"]]
                weight = preference["weight"]
                if pair[0] == pair[1] or not all(0 <= index < len(candidates) for index in pair):
                    raise ValueError(
                        f"{name}: a preference is between the candidates {pair[0]} and {pair[1]}; it needs two "
                        f"different ones of 0 to {len(candidates) - 1}."
                    )
                if not (weight > 0 and math.isfinite(weight)):
                    raise ValueError(f"{name}: a preference has the weight {weight}; it must be positive.")
                preferences.append([offset + index for index in pair])
                preference_weight.append(weight)
        return {
            **self.processor.collate(groups),
            "labels": torch.tensor(labels, dtype=torch.float32),
            "preferences": torch.tensor(preferences, dtype=torch.long).reshape(-1, 2),
            "preference_weight": torch.tensor(preference_weight, dtype=torch.float32),
        }

    def _labels(self, scores: Mapping[str, float | None], name: str) -> list[float]:
        """Scores in the order of the processor's dimensions, NaN for null. `name` says whose, for errors."""
        dimensions = self.processor.dimensions
        values = {dimension: _score(value, f"{name}, {dimension}") for dimension, value in scores.items()}
        if dimensions == ["overall"] and "overall" not in values:
            return [math.fsum(values.values()) if values else math.nan]
        missing = [dimension for dimension in dimensions if dimension not in values]
        if missing:
            raise ValueError(
                f"{name} has no entry for {', '.join(missing)} in its scores, only for: {', '.join(values) or '-'}. "
                "Write null where a score is unknown, or train a model of other `dimensions`."
            )
        return [values[dimension] for dimension in dimensions]


def check_columns(row: Mapping[str, Any], what: str = "A row") -> None:
    """Raise a `ValueError` unless `row` has the columns that training reads."""
    missing = [column for column in REQUIRED_COLUMNS if column not in row]
    if missing:
        raise ValueError(
            f"{what} has no column {', '.join(missing)}, only {', '.join(row)}. "
            "Training takes edit groups, one row each; convert other data first."
        )


def _score(value: float | None, name: str) -> float:
    if value is None:
        return math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} has the score {value}. Write a number, or null where it is unknown.")
    return float(value)
