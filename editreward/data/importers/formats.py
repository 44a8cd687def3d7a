"""What an importer is: which rows make a group, and how they make it."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.data.benchmark_items import BenchmarkItem, Comparison
from editreward.data.importers.faults import Faults, RowFault, RowLike
from editreward.data.importers.images import EMBEDDED, ImageStore
from editreward.data.schema import RATIONALE_BY, language_of
from editreward.data.schema import UNKNOWN as UNKNOWN
from editreward.groups.rows import ImageRecord

if TYPE_CHECKING:
    from editreward.data.importers.table_edits import TableOptions

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A row of the input.

    Args:
        file: name of the input.
        number: number of the row in it, counted from 0.
        values: its fields; images are references (see `ImageStore`).
    """

    file: str
    number: int
    values: dict[str, Any]

    def text(self, name: str) -> str:
        """A field that must be a text with something in it. Raises `RowFault`."""
        value = self._present(name)
        if not isinstance(value, str):
            raise RowFault("wrong-type", f"{name} must be a text, not {type(value).__name__}")
        if not value.strip():
            raise RowFault("empty-text", f"{name} is empty")
        return value

    def number_of(self, name: str) -> float:
        """A field that must be a finite number. Raises `RowFault`."""
        value = self._present(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RowFault("wrong-type", f"{name} must be a number, not {value!r}")
        return float(value)

    def optional_text(self, name: str, default: str) -> str:
        """A text, or `default` where there is none. Raises `RowFault`."""
        return default if self.values.get(name) in (None, "") else self.text(name)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """A text that must be one of `choices`. Raises `RowFault`."""
        value = self.text(name)
        if value not in choices:
            raise RowFault("unknown-value", f"{name} is {value!r}, must be one of {', '.join(choices)}")
        return value

    def images(self, name: str) -> list[str]:
        """References in a field that holds one image or a list of them; at least one. Raises `RowFault`."""
        value = self._present(name)
        given = value if isinstance(value, list) else [value]
        references = [reference for reference in given if isinstance(reference, str) and reference]
        if not references or len(references) < len(given):
            raise RowFault("missing-image", f"{name} names no image")
        return references

    def image(self, name: str) -> str:
        """Reference in a field that holds one image. Raises `RowFault`."""
        references = self.images(name)
        if len(references) != 1:
            raise RowFault("wrong-type", f"{name} must be one image, not {len(references)}")
        return references[0]

    def _present(self, name: str) -> object:
        value = self.values.get(name)
        if value is None:
            raise RowFault("missing-field", f"there is no {name}")
        return value


@dataclass
class Built:
    """A group with the benchmark items that refer to it. Items have no `group_id` yet: ids are made unique first."""

    group: dict[str, Any]
    items: list[BenchmarkItem] = field(default_factory=list)


@dataclass(frozen=True)
class Assembly:
    """What a format's `assemble` works with.

    Args:
        name: name of the format.
        faults: takes reports.
        images: loads images.
        dimensions: what candidates are scored on.
        origin, language: values of these columns, where the command names them.
    """

    name: str
    faults: Faults
    images: ImageStore
    dimensions: tuple[str, ...] = tuple(DEFAULT_DIMENSIONS)
    origin: str | None = None
    language: str | None = None

    def parsed(self, rows: Iterable[Row], parse: Callable[[Row], T]) -> list[tuple[Row, T]]:
        """The rows that `parse` can read, with what it returns; the others are reported."""
        readable = []
        for row in rows:
            try:
                readable.append((row, parse(row)))
            except RowFault as fault:
                self.faults.error(row, fault.kind, str(fault), "the row is left out")
        return readable

    def load(self, reference: str, row: RowLike, effect: str) -> ImageRecord | None:
        """An image, or None after a report that ends in `effect`."""
        try:
            return self.images.load(reference)
        except RowFault as fault:
            self.faults.error(row, fault.kind, str(fault), effect)
            return None

    def build(
        self,
        row: RowLike,
        group_id: str,
        instruction: str,
        sources: list[str],
        candidates: Mapping[str, Mapping[str, Any]],
        category: str = UNKNOWN,
        rows_of: Mapping[str, RowLike] | None = None,
        minimum: int = 2,
    ) -> tuple[dict[str, Any], dict[str, int]] | None:
        """A group with its images loaded.

        Args:
            row: the row that a fault of the source images is reported with.
            group_id: what to call the group; made unique later.
            instruction, category: columns.
            sources: references of the source images.
            candidates: the fields that are known of each candidate, by the reference of its image, in order.
            rows_of: the row that a fault of a candidate's image is reported with.
            minimum: with fewer candidates that have an image, there is no group.

        Returns:
            The group and, by reference, the index of each candidate that has an image. None, after a report, if a
            source image is missing or too few candidates are left.
        """
        loaded_sources = [self.load(source, row, f"group {group_id!r} is left out") for source in sources]
        if any(image is None for image in loaded_sources):
            return None
        index: dict[str, int] = {}
        loaded: list[dict[str, object]] = []
        for reference, known in candidates.items():
            effect = f"the candidate is left out of group {group_id!r}"
            image = self.load(reference, (rows_of or {}).get(reference, row), effect)
            if image is not None:
                index[reference] = len(loaded)
                loaded.append(self._candidate(image, known))
        if len(loaded) < minimum:
            message = f"group {group_id!r} has {len(loaded)} of its {len(candidates)} candidates left"
            self.faults.error(row, "incomplete-group", message, "it is left out")
            return None
        group: dict[str, Any] = {
            "group_id": group_id,
            "origin": self.origin or self.name,
            "category": category,
            "instruction": instruction,
            "language": self.language or language_of(instruction),
            "source_images": loaded_sources,
            "candidates": loaded,
            "preferences": [],
        }
        return group, index

    def _candidate(self, image: ImageRecord, known: Mapping[str, Any]) -> dict[str, object]:
        """A candidate of a group, from its image and the fields that are known of it."""
        return {
            "image": image,
            "editor": known.get("editor", UNKNOWN),
            "seed": known.get("seed"),
            "scores": {name: (known.get("scores") or {}).get(name) for name in self.dimensions},
            "annotations": known.get("annotations") or [],
            "rationale": known.get("rationale"),
            **({RATIONALE_BY: known[RATIONALE_BY]} if RATIONALE_BY in known else {}),
        }


@dataclass(frozen=True)
class Format:
    """A published format.

    Args:
        name: value of `--format`.
        fields: the fields of its rows that are used; others are ignored and named in the report. One with
            "{dimension}" in its name stands for a field per dimension.
        image_fields: those of them that hold images.
        key: what the rows of one group share, as JSON data; raises `RowFault` if the row can't tell.
        assemble: the groups that all rows with one key make.
        split: split of the dataset that is written; benchmarks are "test".
        companion: name of a file that is read too where it lies beside an input file.
        under: name of the list of rows in a JSON file that is one object.
        read: makes the fields of a row that has other columns, and says which of them it read; raises `RowFault`.
        other_key: key of rows that belong to this row's group, too, and cannot tell it; None: there are none.
        dimensions: names of the dimensions where the command gives none.
        dimension_counts: how many dimensions the command may name; empty: any number.
    """

    name: str
    fields: tuple[str, ...]
    image_fields: tuple[str, ...]
    key: Callable[[Row], Sequence[object]]
    assemble: Callable[[list[Row], Assembly], list[Built]]
    split: str = "test"
    companion: str | None = None
    under: str | None = None
    read: "Callable[[Mapping[str, object], TableOptions], tuple[dict[str, object], frozenset[str]]] | None" = None
    other_key: Callable[[Row], Sequence[object] | None] | None = None
    dimensions: tuple[str, ...] = tuple(DEFAULT_DIMENSIONS)
    dimension_counts: tuple[int, ...] = ()

    def fields_for(self, dimensions: Iterable[str]) -> list[str]:
        """The fields, given the names of the dimensions."""
        expanded = [
            name.format(dimension=dimension) if "{dimension}" in name else name
            for name in self.fields
            for dimension in dimensions
        ]
        return list(dict.fromkeys(expanded))

    @property
    def is_benchmark(self) -> bool:
        """Whether the import writes `benchmark.jsonl`."""
        return self.split == "test"


def short_hash(*parts: object) -> str:
    """16 hexadecimal digits that stand for some JSON data, for ids of groups that have none."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]


def split_seed(name: str) -> tuple[str, int | None]:
    """Editor and seed in a published model name: "step1x_v2n_seed42" is ("step1x_v2n", 42)."""
    match = re.fullmatch(r"(.+)_seed(\d{1,18})", name)
    return (match[1], int(match[2])) if match else (name, None)


def join_seed(editor: str, seed: int | None) -> str:
    """The opposite of `split_seed`."""
    return editor if seed is None else f"{editor}_seed{seed}"


def folder_of(reference: str) -> str | None:
    """Name of the folder that a path lies in, None for embedded images and paths without one."""
    parts = [] if reference.startswith(EMBEDDED) else [part for part in reference.split("/") if part not in ("", ".")]
    return parts[-2] if len(parts) > 1 else None


class Preference(TypedDict):
    """An entry of the column `preferences`: positions of candidates, and how much it counts."""

    chosen: int
    rejected: int
    weight: float


def preferences_of(comparisons: Iterable[Comparison]) -> list[Preference]:
    """The column `preferences` for comparisons without ties, each once."""
    chosen: dict[tuple[int, int], None] = {}
    for comparison in comparisons:
        if comparison.verdict == "first":
            chosen[comparison.first, comparison.second] = None
        elif comparison.verdict == "second":
            chosen[comparison.second, comparison.first] = None
    return [{"chosen": winner, "rejected": loser, "weight": 1.0} for winner, loser in chosen]
