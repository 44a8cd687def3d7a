"""Files of scores: a row per group (JSON Lines, Parquet) or per edit (CSV, too), of all edits or of the best."""

import csv
import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from editreward.data.tables import unformula
from editreward.files import NO_UNICODE

ROWS_PER_BATCH = 1000
"""Rows of a Parquet file that are in memory at a time."""

TEXTS = ("row", "id", "group_id", "source", "image", "editor", "instruction")
FLAGS = ("calibrated", "std_calibrated")
NUMBERS = ("rank", "probability_best", "overall", "overall_std", "reward", "reward_std", "pass_std")


@dataclass(frozen=True)
class Choice:
    """What of the scores is written.

    Attributes:
        per_edit: a row per edit instead of one per group. A CSV always has.
        best_per_group: only the best edit of each group.
        top: only so many edits, those with the highest rewards, best first.
    """

    per_edit: bool = False
    best_per_group: bool = False
    top: int | None = None

    @property
    def is_part(self) -> bool:
        """Whether edits are left out."""
        return self.best_per_group or self.top is not None


def write_scores(
    records: Iterable[Mapping[str, Any]], file: Path, suffix: str, dimensions: Sequence[str], choice: Choice
) -> int:
    """Write scores of groups.

    Args:
        records: a mapping per group, as `score_dataset` describes it.
        file: to write.
        suffix: one of `OUTPUT_SUFFIXES`, which the file itself need not have.
        dimensions: that edits may be scored on.
        choice: what to write.

    Returns:
        How many rows were written.
    """
    records = map(_unicode, records)
    if suffix == ".csv" or choice.per_edit or choice.is_part:
        rows: Iterable[Mapping[str, object]] = chosen_edits(records, dimensions, choice)
        schema = _edit_schema(dimensions)
    else:
        rows, schema = records, _group_schema(dimensions)
    if suffix == ".csv":
        return _write_csv(rows, file, schema.names)
    if suffix == ".jsonl":
        return _write_lines(rows, file)
    return _write_parquet(rows, file, schema)


def chosen_edits(
    records: Iterable[Mapping[str, Any]], dimensions: Sequence[str], choice: Choice
) -> Iterator[dict[str, object]]:
    """The rows of edits that a choice leaves, in the order of the records, or the best first under `top`."""
    edits = (edit for record in records for edit in _edits(record, dimensions, choice.best_per_group))
    if choice.top is None:
        yield from (edit for edit in edits if not choice.is_part or edit["error"] is None)
    else:
        scored = ((edit["reward"], -place, edit) for place, edit in enumerate(edits) if edit["error"] is None)
        yield from (edit for *_, edit in heapq.nlargest(choice.top, scored, key=lambda entry: entry[:2]))


def _edits(record: Mapping[str, Any], dimensions: Sequence[str], only_best: bool) -> Iterator[dict[str, object]]:
    """A row for each edit of a group; one that says why, where the whole group has no score."""
    empty = dict.fromkeys(_edit_columns(dimensions))
    empty |= {name: record.get(name) for name in ("group_id", "instruction", "source")}
    if record["error"] is not None:
        yield {**empty, "row": str(record["row"]), "error": record["error"]}
        return
    for place, candidate in enumerate(record["candidates"]):
        if only_best and place != record["best"]:
            continue
        scores = candidate["dimensions"] or {}
        overall = candidate.get("overall") or {}
        row = {
            **empty,
            "row": str(candidate.get("row") or record["row"]),
            "id": candidate.get("id"),
            **{name: candidate.get(name) for name in ("image", "editor", *NUMBERS)},
            "overall": overall.get("mean"),
            "overall_std": overall.get("std"),
        }
        for name in dimensions:
            row[name] = scores[name]["mean"] if name in scores else None
            row[f"{name}_std"] = scores[name]["std"] if name in scores else None
        for flag in FLAGS:
            row[flag] = any(score.get(flag) for score in (*scores.values(), overall))
        yield {**row, "reasons": " | ".join(candidate["reasons"]) or None, "error": candidate["error"]}


def _unicode(value: Any) -> Any:
    """The value with texts that every file can hold: names of files and in archives may be no Unicode."""
    if isinstance(value, str):
        return value.encode(errors=NO_UNICODE).decode()
    if isinstance(value, Mapping):
        return {name: _unicode(one) for name, one in value.items()}
    return [_unicode(one) for one in value] if isinstance(value, list) else value


def _edit_columns(dimensions: Sequence[str]) -> list[str]:
    of_dimensions = itertools.chain.from_iterable((name, f"{name}_std") for name in dimensions)
    return [*TEXTS, *NUMBERS, *of_dimensions, *FLAGS, "reasons", "error"]


def _edit_schema(dimensions: Sequence[str]) -> pa.Schema:
    kinds = {name: pa.string() for name in (*TEXTS, "reasons", "error")}
    kinds |= {"rank": pa.int64(), **dict.fromkeys(FLAGS, pa.bool_())}
    return pa.schema([(name, kinds.get(name, pa.float64())) for name in _edit_columns(dimensions)])


def _group_schema(dimensions: Sequence[str]) -> pa.Schema:
    number, text = datasets.Value("float64"), datasets.Value("string")
    yes_or_no = datasets.Value("bool")
    score = {"mean": number, "std": number, "calibrated": yes_or_no, "std_calibrated": yes_or_no}
    candidate = {
        "image": text,
        "editor": text,
        "rank": datasets.Value("int64"),
        "reward": number,
        "reward_std": number,
        "pass_std": number,
        "overall": score,
        "probability_best": number,
        # A struct without fields cannot be stored.
        **({"dimensions": dict.fromkeys(dimensions, score)} if dimensions else {}),
        "reasons": datasets.List(text),
        "error": text,
    }
    schema: pa.Schema = datasets.Features(
        {
            "row": datasets.Value("int64"),
            "group_id": text,
            "instruction": text,
            "candidates": datasets.List(candidate),
            "best": datasets.Value("int64"),
            "error": text,
        }
    ).arrow_schema
    return schema


def _write_lines(rows: Iterable[Mapping[str, object]], file: Path) -> int:
    number = 0
    with file.open("w", encoding="utf-8", newline="\n") as lines:
        for number, row in enumerate(rows, start=1):  # noqa: B007
            lines.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    return number


def _write_csv(rows: Iterable[Mapping[str, object]], file: Path, columns: Sequence[str]) -> int:
    number = 0
    # The mark tells spreadsheets that it is UTF-8.
    with file.open("w", encoding="utf-8-sig", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        for number, row in enumerate(rows, start=1):  # noqa: B007
            writer.writerow([_cell(row[name]) for name in columns])
    return number


def _cell(value: object) -> object:
    return unformula(value) if isinstance(value, str) else value


def _write_parquet(rows: Iterable[Mapping[str, object]], file: Path, schema: pa.Schema) -> int:
    rows, number = iter(rows), 0
    with pq.ParquetWriter(file, schema) as writer:
        while batch := list(itertools.islice(rows, ROWS_PER_BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            number += len(batch)
    return number
