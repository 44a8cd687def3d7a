"""From rows of the dataset to batches of the model."""

import math
from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from configuration_editreward import check_choice
from editreward.groups.rows import GroupRow
from editreward.training.auxiliary import AuxiliaryLoss
from editreward.training.bad_rows import ON_BAD_ROW, UnreadableRow, check_entries, row_id, row_name
from editreward.training.rationales import add_rationales, rationale_inputs
from processing_editreward import EditRewardProcessor, PackedGroup

# Columns of the dataset schema that training reads. `preferences` may be absent.
REQUIRED_COLUMNS = ("group_id", "source_images", "instruction", "candidates")


class EditGroupCollator:
    """
    Turns edit groups, one row each, into the inputs of an [`EditRewardModel`] and their annotation.

    Args:
        processor ([`EditRewardProcessor`]):
            Packs the groups. Its `dimensions` are the columns of `labels`.
        on_bad_row (`str`, defaults to `"stop"`):
            What a row does that cannot be used: `"stop"` raises an error, `"skip"` leaves it out and says so.
        vote_labels (`bool`, defaults to `False`):
            Read the candidates' `annotations`, for soft labels.
        rationales (`bool`, defaults to `False`):
            Append the candidates' written rationales, see `editreward.training.rationales`.
        auxiliary_loss ([`AuxiliaryLoss`], *optional*):
            Adds its targets, as `auxiliary`, to a batch in which all rows are usable.

    Call it with a list of rows of the dataset schema. It returns the processor's tensors and

    - `labels` `(candidates, dimensions)`: annotated scores, NaN where there is none. A model of the single dimension
      `overall` takes the sum of a candidate's scores where the rows have no score of that name.
    - `preferences` `(preferences, 2)` and `preference_weight` `(preferences,)`: annotated (chosen, rejected) as
      indices into the candidates of the batch, and their weights.
    - `annotator_labels` `(candidates, annotators, dimensions)`, with `vote_labels` only: the scores of each annotator,
      who has the same place for all candidates of a group; NaN where there is none.
    - `hidden_positions` and `rationale_ids`, with `rationales` only: see [`rationale_inputs`].
    - `group_ids` and `instructions`, lists of strings: whose they are, for messages and pictures.
    - `num_tokens`, a number: without padding.
    - `skipped_rows`, with `"skip"` only: the `group_id` of each row that was left out, and why.

    A batch without a usable row holds a grey image without labels, on which every loss is zero, and no `group_ids`: in
    a distributed run the other processes wait for this one's part of the step.

    Raises:
        ValueError: For a row that cannot be used, which it names by its `group_id`.
    """

    def __init__(
        self,
        processor: EditRewardProcessor,
        on_bad_row: str = "stop",
        vote_labels: bool = False,
        rationales: bool = False,
        auxiliary_loss: AuxiliaryLoss | None = None,
    ) -> None:
        check_choice("on_bad_row", on_bad_row, ON_BAD_ROW)
        self.processor = processor
        self.on_bad_row = on_bad_row
        self.vote_labels = vote_labels
        self.rationales = rationales
        self.auxiliary_loss = auxiliary_loss

    def __call__(self, rows: Sequence[GroupRow]) -> dict[str, object]:
        groups, instructions, skipped = [], [], []
        for row in rows:
            try:
                groups.append((row_id(row), *self._group(row)))
                instructions.append(row["instruction"])
            except ValueError as error:
                if self.on_bad_row == "stop":
                    raise
                skipped.append((row_id(row), str(error)))
        group_ids = [name for name, *_ in groups]
        if not groups:
            grey = Image.new("RGB", (64, 64), "grey")
            nothing = [[math.nan] * len(self.processor.dimensions)]
            groups.append(("", self.processor.pack(grey, [grey], "nothing"), nothing, [], [], [[]]))
        labels: list[list[float]] = []
        preferences: list[list[int]] = []
        preference_weight: list[float] = []
        votes: list[list[list[float]]] = []
        for _, _, of_group, pairs, weights, of_annotators in groups:
            votes += of_annotators
            preferences += [[len(labels) + index for index in pair] for pair in pairs]
            preference_weight += weights
            labels += of_group
        batch = {
            **self.processor.collate([packed for _, packed, *_ in groups]),
            "labels": torch.tensor(labels, dtype=torch.float32),
            "preferences": torch.tensor(preferences, dtype=torch.long).reshape(-1, 2),
            "preference_weight": torch.tensor(preference_weight, dtype=torch.float32),
            "group_ids": group_ids,
            "instructions": instructions,
            "num_tokens": sum(packed.num_tokens for _, packed, *_ in groups),
        }
        if self.vote_labels:
            batch["annotator_labels"] = self._padded(votes)
        if self.rationales:
            batch |= rationale_inputs([packed for _, packed, *_ in groups])
        if self.auxiliary_loss is not None and not skipped:
            batch["auxiliary"] = self.auxiliary_loss.targets(rows)
        return batch if self.on_bad_row == "stop" else {**batch, "skipped_rows": skipped}

    def _group(
        self, row: GroupRow
    ) -> tuple[PackedGroup, list[list[float]], list[list[int]], list[float], list[list[list[float]]]]:
        """A packed group, its labels, its preferences with their weights, and the labels of each annotator."""
        if isinstance(row, UnreadableRow):
            raise ValueError(row["reason"])
        check_columns(row)
        check_entries(row)
        name = row_name(row)
        candidates = row["candidates"]
        if not candidates:
            raise ValueError(f"{name} has no candidates.")
        edited = [candidate["image"] for candidate in candidates]
        packed = self.processor.pack(list(row["source_images"] or []), edited, row["instruction"], name=f"{name}: ")
        if self.rationales:
            texts = [candidate.get("rationale") for candidate in candidates]
            packed = add_rationales(
                packed, texts, self.processor, len(row["source_images"]), row["instruction"], f"{name}, "
            )
        labels = [self._labels(c["scores"] or {}, f"{name}, candidate {i}") for i, c in enumerate(candidates)]
        pairs, weights = [], []
        for preference in row.get("preferences") or []:
            pair = [preference["chosen"], preference["rejected"]]
            weight = preference["weight"]
            if pair[0] == pair[1] or not all(i is not None and 0 <= i < len(candidates) for i in pair):
                raise ValueError(
                    f"{name}: a preference is between the candidates {pair[0]} and {pair[1]}; it needs two "
                    f"different ones of 0 to {len(candidates) - 1}."
                )
            if weight is None or not (weight > 0 and math.isfinite(weight)):
                raise ValueError(f"{name}: a preference has the weight {weight}; it must be positive.")
            pairs.append(pair)
            weights.append(weight)
        return packed, labels, pairs, weights, self._votes(candidates, name) if self.vote_labels else []

    def _votes(self, candidates: Sequence[GroupRow], name: str) -> list[list[list[float]]]:
        """Labels by each annotator of a group, by candidate, annotator and dimension."""
        by_annotator: list[dict[str, list[float]]] = []
        for index, candidate in enumerate(candidates):
            of_candidate = {}
            for annotation in candidate.get("annotations") or []:
                if not isinstance(annotation, Mapping) or "annotator" not in annotation:
                    raise ValueError(f"{name}, candidate {index}: an annotation has no `annotator`. Name whose it is.")
                scores = {key: value for key, value in annotation.items() if key != "annotator"}
                who = annotation["annotator"]
                place = f"{name}, candidate {index}, annotator {who!r}"
                if who in of_candidate:
                    raise ValueError(f"{place} has several annotations. Annotators score a candidate each once.")
                of_candidate[who] = self._labels(scores, place)
            by_annotator.append(of_candidate)
        annotators = list(dict.fromkeys(who for of_candidate in by_annotator for who in of_candidate))
        unknown = [math.nan] * len(self.processor.dimensions)
        return [[of_candidate.get(who, unknown) for who in annotators] for of_candidate in by_annotator]

    def _padded(self, votes: list[list[list[float]]]) -> torch.Tensor:
        """Labels by annotator of all candidates of a batch, `(candidates, annotators, dimensions)`."""
        most = max(map(len, votes))
        padded = torch.full((len(votes), most, len(self.processor.dimensions)), math.nan)
        for index, of_candidate in enumerate(votes):
            if of_candidate:
                padded[index, : len(of_candidate)] = torch.tensor(of_candidate)
        return padded

    def _labels(self, scores: Mapping[str, float | None], name: str) -> list[float]:
        """Scores in the order of the processor's dimensions, NaN for null. `name` says whose, for errors."""
        dimensions = self.processor.dimensions
        if not isinstance(scores, Mapping):
            raise ValueError(f"{name} has scores that are a {type(scores).__name__}; write one by each dimension.")
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


def check_columns(row: GroupRow, what: str = "A row") -> None:
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
    try:
        is_finite = math.isfinite(value)
    except TypeError:  # no number
        is_finite = False
    if not is_finite:
        raise ValueError(f"{name} has the score {value!r}. Write a number, or null where it is unknown.")
    return float(value)
