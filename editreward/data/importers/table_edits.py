"""What the columns of a user's table mean: which hold the instruction, the source, the edits, what is known of these.

A table has an edit per row, or several: columns of one name with numbers (`edited_1`, `edited_2`), or lists in JSON
and Parquet. `NAMES` lists what columns are commonly called; case, blanks and punctuation do not matter ("Edit prompt"
is `edit_prompt`), an earlier name goes before a later one, and any may be named instead.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from editreward.data.importers.faults import RowFault
from editreward.groups.ratings import SCORE_RANGE
from editreward.groups.rows import GroupRow

NAMES: Mapping[str, tuple[str, ...]] = {
    "instruction": (
        "instruction",
        "edit_instruction",
        "editing_instruction",
        "edit_prompt",
        "prompt",
        "instruct_prompt",
        "command",
        "text_prompt",
    ),
    "source": (
        "source",
        "source_image",
        "source_images",
        "src",
        "src_img",
        "source_img",
        "path_src",
        "source_path",
        "input",
        "input_image",
        "input_images",
        "input_img",
        "source_file_name",
        "source_file_names",
        "original",
        "original_image",
        "before",
    ),
    "edited": (
        "edited",
        "edited_image",
        "edited_images",
        "edited_img",
        "edited_path",
        "edited_file_name",
        "output",
        "output_image",
        "output_images",
        "output_img",
        "result",
        "result_image",
        "target",
        "target_image",
        "target_img",
        "after",
        "candidate",
        "candidates",
        "path",
    ),
    "group": ("group_id", "group"),
    "id": ("id", "row_id", "key", "uid", "name"),
    "editor": ("editor", "model", "model_name", "method", "generator"),
    "seed": ("seed",),
    "category": ("category", "task", "task_type", "edit_type", "type"),
    "language": ("language", "lang"),
    "annotator": ("annotator", "rater", "annotator_id"),
    "rationale": ("rationale", "reason", "comment"),
    "rationale_by": ("rationale_by",),
}
"""Names of columns by what they hold. A dimension's scores are in a column of its name, with or without `score` before
or after it."""

PER_EDIT = ("edited", "editor", "seed", "rationale", "rationale_by")
"""Fields that each edit of a row has its own of."""

UNKNOWN_SCORES = ("", "-", "nan", "na", "n/a", "none", "null")


@dataclass(frozen=True)
class TableOptions:
    """How the columns of a table are read.

    Attributes:
        columns: the column of a field of `NAMES` or of a dimension, where it has another name.
        dimensions: whose scores are read.
        scale: lowest and highest score of the table, which are mapped onto 1..4; None: it is 1..4.
        edited: whether rows have edited images; False: only what is to be edited is read.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    dimensions: Sequence[str] = ()
    scale: tuple[float, float] | None = None
    edited: bool = True

    @property
    def required(self) -> tuple[str, ...]:
        """Fields that must have a column."""
        return ("instruction", "source", "edited") if self.edited else ("instruction", "source")

    def __post_init__(self) -> None:
        known = (*NAMES, *self.dimensions)
        for name in self.columns:
            if name not in known:
                raise ValueError(
                    f"A table has no field {name!r} that a column could be for, only: {', '.join(known)}."
                )
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError(f"The scale's lowest score must be below its highest, unlike {self.scale}.")


Cell: TypeAlias = str | bytes | GroupRow
"""An image in a table: a path, the bytes of a file, or both as `{"bytes", "path"}`."""


@dataclass(frozen=True)
class Edit:
    """An edit of a row: its image's cell, and what the row says of it; None where it says nothing."""

    image: Cell
    editor: str | None = None
    seed: int | None = None
    rationale: str | None = None
    rationale_by: str | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class EditRow:
    """A row as what it means; `columns` are those that were read, by field."""

    instruction: str
    sources: Sequence[Cell]
    edits: Sequence[Edit]
    columns: Mapping[str, Sequence[str]]
    group: str | None = None
    id: str | None = None
    category: str | None = None
    language: str | None = None
    annotator: str | None = None


def plain_name(name: str) -> str:
    """A column's name without case, blanks and punctuation: "Edit prompt" is "edit_prompt"."""
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", name).casefold()).strip("_")


def columns_of(names: Iterable[str], options: TableOptions) -> dict[str, list[str]]:
    """The columns of a table by the fields that they are for, numbered ones in the order of their numbers.

    Args:
        names: of all columns.
        options: which names to take, and the dimensions.

    Raises:
        ValueError: there is no column for the instruction, the source or the edits, or not the one that was named.
    """
    chosen = tuple(sorted(options.columns.items()))
    found = _columns_of(tuple(names), chosen, tuple(options.dimensions), options.required)
    return {name: list(columns) for name, columns in found.items()}


@lru_cache(maxsize=64)
def _columns_of(
    names: tuple[str, ...],
    chosen: tuple[tuple[str, str], ...],
    dimensions: tuple[str, ...],
    required: tuple[str, ...],
) -> dict[str, tuple[str, ...]]:
    of_dimensions = {name: (name, f"{name}_score", f"score_{name}") for name in dimensions}
    wanted = {**NAMES, **of_dimensions, **{name: (column,) for name, column in chosen}}
    found = {}
    for name, candidates in wanted.items():
        # A column that was named for one field is no numbered column of another: `jpg` and `jpg2`.
        others = {column for field_name, column in chosen if field_name != name}
        free = [column for column in names if column not in others]
        columns = next(filter(None, (_numbered(free, candidate) for candidate in candidates)), ())
        if columns:
            found[name] = columns
        elif name in dict(chosen):
            raise ValueError(f"there is no column {candidates[0]!r}, only: {', '.join(names)}")
    for name in required:
        if name not in found:
            raise ValueError(
                f"no column is called {name} or {NAMES[name][1]} ..., only: {', '.join(names)}. Say which one it is: "
                f"--column {name}=COLUMN"
            )
    return found


def _numbered(names: Sequence[str], wanted: str) -> tuple[str, ...]:
    """The columns of a name, by the numbers behind it: `edited`, `edited_2`, `Edited 10`."""
    plain = plain_name(wanted)
    found = {}
    for name in names:
        match = re.fullmatch(rf"{re.escape(plain)}(?:_?(\d+))?", plain_name(name))
        if match:
            found[name] = int(match[1] or 0)
    return tuple(sorted(found, key=lambda name: found[name]))


def read_edits(values: Mapping[str, Any], options: TableOptions) -> EditRow:
    """A row of a table as what it means.

    Args:
        values: cells by column, see `TableRow`.
        options: how to read them.

    Raises:
        RowFault: a cell is empty that must not be, or holds something else than it must.
    """
    try:
        columns = columns_of(values, options)
    except ValueError as error:
        raise RowFault("missing-column", str(error)) from error
    instruction = _as_text(_first(values[columns["instruction"][0]]), "instruction")
    if instruction is None:
        raise RowFault("empty-text", f"{columns['instruction'][0]} is empty")
    sources = _images([values[name] for name in columns["source"]])
    if not sources:
        raise RowFault("missing-image", f"{columns['source'][0]} names no image")
    edits = _edits(values, columns, options) if options.edited else []
    if options.edited and not edits:
        raise RowFault("missing-image", f"{columns['edited'][0]} names no image")
    texts = {name: _text(values, columns, name) for name in ("group", "id", "category", "language", "annotator")}
    return EditRow(instruction, sources, edits, columns, **texts)


def _edits(values: Mapping[str, Any], columns: Mapping[str, Sequence[str]], options: TableOptions) -> list[Edit]:
    """The edits of a row. What is said of them is in columns of the same numbers, or in lists of the same length."""
    cells = [values[name] for name in columns["edited"]]
    first = cells[0] if len(cells) == 1 else None
    images = list(first) if isinstance(first, list | tuple) else cells
    told = {
        name: _told(values, columns.get(name, ()), name, len(images)) for name in (*PER_EDIT[1:], *options.dimensions)
    }
    edits = []
    for place, image in enumerate(images):
        if not _images([image]):
            if any(told[name][place] not in (None, "") for name in options.dimensions):
                raise RowFault("missing-image", f"edit {place + 1} has a score and no image")
            continue
        edits.append(
            Edit(
                image.strip() if isinstance(image, str) else image,
                _as_text(told["editor"][place], "editor"),
                _seed(told["seed"][place]),
                _as_text(told["rationale"][place], "rationale"),
                _as_text(told["rationale_by"][place], "rationale_by"),
                {name: _score(told[name][place], name, options.scale) for name in options.dimensions},
            )
        )
    return edits


def _told(values: Mapping[str, object], columns: Sequence[str], name: str, count: int) -> list[object]:
    """What a row says of each of its edits: a cell for each, a list, or one cell for all of them."""
    cells = [values.get(column) for column in columns]
    if len(cells) == 1 and isinstance(cells[0], list | tuple):
        cells = list(cells[0])
    elif len(cells) == 1 and (count == 1 or name in PER_EDIT):
        cells = cells * count
    if not cells:
        return [None] * count
    if len(cells) != count:
        raise RowFault("wrong-number", f"{name} is told {len(cells)} times for {count} edited images")
    return cells


def _images(cells: Sequence[Any]) -> list[Cell]:
    """The images that cells name or hold, of which some may be empty or lists."""
    found: list[Cell] = []
    for cell in cells:
        if isinstance(cell, list | tuple):
            found += _images(cell)
        elif isinstance(cell, str):
            found += [cell.strip()] if cell.strip() else []
        elif cell is not None:
            found.append(cell)
    return found


def _text(values: Mapping[str, object], columns: Mapping[str, Sequence[str]], name: str) -> str | None:
    return _as_text(values.get(columns[name][0]), name) if name in columns else None


def _first(value: object) -> object:
    """The first of several wordings of an instruction, or the only one."""
    return next(iter(value), None) if isinstance(value, list | tuple) else value


def _as_text(value: object, name: str) -> str | None:
    """A cell as text, None where it is empty. A number is text, too: ids and editors may look like one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise RowFault("wrong-type", f"{name} must be a text, not {type(value).__name__}")
    return str(value) if str(value).strip() else None


def _seed(value: object) -> int | None:
    text = _as_text(value, "seed")
    if text is None:
        return None
    match = re.fullmatch(r"\s*(-?\d{1,18})(\.0*)?\s*", text)  # pandas writes whole numbers beside gaps as 42.0
    if match is None:
        raise RowFault("wrong-type", f"seed must be a whole number, not {text!r}")
    return int(match[1])


def _score(value: object, name: str, scale: tuple[float, float] | None) -> float | None:
    """A score on 1..4, None where it is not known. A comma may stand for the point."""
    text = "" if value is None else str(value).strip()
    if text.casefold() in UNKNOWN_SCORES:
        return None
    try:
        number = float(re.sub(r"^([+-]?\d+),(\d+)$", r"\1.\2", text))
    except ValueError as error:
        raise RowFault("wrong-type", f"{name} must be a number, not {text!r}") from error
    low, high = SCORE_RANGE
    lowest, highest = scale or SCORE_RANGE
    if isinstance(value, bool) or not lowest <= number <= highest:
        hint = "" if scale else " (another scale: --scale LOWEST HIGHEST)"
        raise RowFault("out-of-range", f"{name} is {text}, outside of {lowest:g} to {highest:g}{hint}")
    return number if scale is None else low + (number - lowest) / (highest - lowest) * (high - low)
