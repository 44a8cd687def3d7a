"""The groups that the app shows: instructions and images out of datasets, and out of nothing else."""

import hashlib
import io
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset

from editreward.data import sources
from editreward.data.schema import RATIONALE_BY, SCORE_RANGE
from editreward.groups.ratings import Purpose
from editreward.groups.rows import GroupRow
from editreward.resuming import row_digest
from images_editreward import ImageError, image_header, load_image

MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
}
"""What browsers show as it is, unless it moves or is transparent. All else is sent as PNG, as models see it."""

ROWS_IN_MEMORY = 32
"""Rows are read whole, and a page asks for the images of one row one after another."""


def __getattr__(name: str) -> Any:
    if name == "open_groups":
        warnings.warn(
            f"{__name__}.open_groups is {sources.__name__}.open_groups now; the old name goes away in 1.0.",
            DeprecationWarning,
            stacklevel=2,
        )
        return sources.open_groups
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class GroupStore:
    """Rows of one or more datasets by group id.

    Raises:
        ValueError: a dataset is empty, a group id occurs twice, an instruction is empty, or a group has fewer than two
            candidates. The dataset and the groups are named.
    """

    def __init__(self) -> None:
        self.purposes: dict[str, Purpose] = {}
        self.candidates: dict[str, int] = {}
        self._places: dict[str, tuple[Dataset, int]] = {}
        self._row = lru_cache(ROWS_IN_MEMORY)(self._read_row)

    def add(self, dataset: Dataset, purpose: Purpose, name: str | os.PathLike[str]) -> None:
        """Add the groups of a dataset; `name` is what it is called in errors."""
        raw = dataset.with_format("arrow")
        columns = raw.select_columns(["group_id", "instruction"])[:]
        ids, instructions = columns["group_id"].to_pylist(), columns["instruction"].to_pylist()
        counts = [
            count
            for start in range(0, len(ids), 1000)
            for count in pc.list_value_length(raw.select_columns(["candidates"])[start : start + 1000]["candidates"])
            .fill_null(0)
            .to_pylist()
        ]
        occurrences = Counter([*ids, *self._places])
        twice = [group_id for group_id, count in occurrences.items() if group_id and count > 1]
        for what, bad in (
            ("occurs twice", twice),  # also where two datasets have it
            ("has no id", [f"row {index}" for index, group_id in enumerate(ids) if not group_id]),
            ("has no instruction", [i for i, text in zip(ids, instructions, strict=True) if not (text or "").strip()]),
            ("has fewer than two candidates", [i for i, count in zip(ids, counts, strict=True) if count < 2]),
        ):
            if bad:
                raise ValueError(
                    f"{name}: a group {what}: {', '.join(bad[:10])}{f' and {len(bad) - 10} more' * (len(bad) > 10)}. "
                    "`editreward data check` lists every fault."
                )
        if not ids:
            raise ValueError(f"{name} has no groups.")
        for index, (group_id, count) in enumerate(zip(ids, counts, strict=True)):
            self._places[group_id] = (raw, index)
            self.purposes[group_id] = purpose
            self.candidates[group_id] = count

    def __contains__(self, group_id: str) -> bool:
        return group_id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def _read_row(self, group_id: str) -> GroupRow:
        if group_id not in self._places:
            raise LookupError(f"Group {group_id!r} is in none of the datasets that are served.")
        dataset, index = self._places[group_id]
        row: GroupRow = dataset[index : index + 1].to_pylist()[0]
        return row

    def instruction(self, group_id: str) -> str:
        """What the edit was to be."""
        return str(self._row(group_id)["instruction"])

    def sources(self, group_id: str) -> int:
        """How many source images a group has."""
        return len(self._row(group_id)["source_images"] or [])

    def annotations(self, group_id: str) -> list[list[GroupRow]]:
        """The dataset's own annotations, for each candidate."""
        return [candidate["annotations"] or [] for candidate in self._row(group_id)["candidates"]]

    def reasons(self, group_id: str) -> list[str]:
        """What a scorer wrote about each candidate; empty where it wrote nothing, or a person did."""
        candidates = self._row(group_id)["candidates"]
        return [(one["rationale"] or "") if one.get(RATIONALE_BY) else "" for one in candidates]

    def image(self, group_id: str, kind: str, index: int) -> tuple[bytes, str]:
        """An image's file content and its media type.

        Args:
            group_id: the group.
            kind: "source" or "candidate".
            index: which one, as in the dataset.

        Raises:
            LookupError: there is no such group or image.
            ValueError: the row holds no image there that can be read.
        """
        content = self._content(group_id, kind, index)
        with _naming(group_id, kind, index):
            header = image_header(content)
            if header.is_plain and header.format in MEDIA_TYPES:
                return content, MEDIA_TYPES[header.format]
            converted = io.BytesIO()
            load_image(content).save(converted, "PNG")
        return converted.getvalue(), "image/png"

    def _content(self, group_id: str, kind: str, index: int) -> bytes:
        row = self._row(group_id)
        images = row["source_images"] if kind == "source" else [entry["image"] for entry in row["candidates"]]
        if kind not in ("source", "candidate") or not 0 <= index < len(images or []):
            raise LookupError(f"Group {group_id!r} has no {kind} {index}.")
        image = images[index]
        if image is None or image["bytes"] is None:
            # A path in a row may point anywhere: what the row itself does not hold is not served.
            raise ValueError(f"Group {group_id!r}, {kind} {index}: no image is embedded in the row.")
        content: bytes = image["bytes"]
        return content

    def digest(self, group_id: str) -> str:
        """SHA-256, in hexadecimal, of what annotators see of a group.

        Raises:
            ValueError: an image is missing or cannot be read.
        """
        return row_digest(self._row(group_id))

    def images_key(self, group_id: str, order: Sequence[int]) -> str:
        """What tells a group's images, in an order, from all others. Browsers keep images by their addresses, and
        another database has the same numbers in them."""
        return hashlib.sha256(json.dumps([self.digest(group_id), *order]).encode()).hexdigest()[:16]

    def check(self, group_id: str) -> None:
        """See whether all images of a group can be shown.

        Raises:
            ValueError: there is no source, or an image is missing or cannot be read.
        """
        if not self.sources(group_id):
            raise ValueError(f"Group {group_id!r} has no source image.")
        for kind, count in (("source", self.sources(group_id)), ("candidate", self.candidates[group_id])):
            for index in range(count):
                content = self._content(group_id, kind, index)
                with _naming(group_id, kind, index):
                    load_image(content)

    def reference(self, group_id: str, dimensions: Sequence[str]) -> list[dict[str, float]]:
        """The scores of a group's candidates as known answers: those that there are, by dimension.

        Raises:
            ValueError: there is none, or one is off the scale.
        """
        low, high = SCORE_RANGE
        reference: list[dict[str, float]] = []
        for index, candidate in enumerate(self._row(group_id)["candidates"]):
            scores = candidate["scores"] or {}
            reference.append({name: scores[name] for name in dimensions if scores.get(name) is not None})
            for name, score in reference[-1].items():
                if not low <= score <= high:
                    raise ValueError(f"Group {group_id!r}, candidate {index}: {name} is {score}, not {low} to {high}.")
        if not any(reference):
            raise ValueError(
                f"Group {group_id!r} has no known answers: `scores` of calibration and gold groups must hold them, "
                f"for {', '.join(dimensions)}."
            )
        return reference


@contextmanager
def _naming(group_id: str, kind: str, index: int) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise ValueError(f"Group {group_id!r}, {kind} {index}: the image cannot be read ({error}).") from error


def dataset_name(name: str) -> tuple[str, str | None]:
    """Split "FOLDER_OR_ID:SPLIT" where there is a split."""
    if Path(name).exists() or ":" not in name:
        return name, None
    folder, split = name.rsplit(":", 1)
    return folder, split
