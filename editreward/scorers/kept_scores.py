"""Scores that a folder keeps: a run that goes on, or asks a second scorer, finds what is there."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

from editreward.data.edit_sources import GroupSource
from editreward.groups import Scorer
from editreward.groups.rows import GroupRow
from editreward.scorers.dataset import score_dataset
from editreward.scorers.processes import Processes

Describe: TypeAlias = Callable[[GroupRow], Mapping[str, object]]


def kept_scores(
    folder: Path,
    source: GroupSource,
    scorer: Scorer,
    describe: Describe,
    told: Describe,
    processes: Processes | None = None,
    progress: bool | None = False,
) -> Path:
    """The scores of a source by a scorer, made where they are not there or of what the source was before.

    Args:
        folder: keeps a file for each scorer and source.
        source: of the groups.
        scorer: who scores.
        describe: what else to keep of a row beside its scores.
        told: the part of it that tells whether the row is still the one that was scored, such as "content", a digest.
        processes, progress: see `score_dataset`.

    Returns:
        The file, for `read_records`.
    """
    processes = processes or Processes()
    name = hashlib.sha256(json.dumps([scorer.fingerprint, source.name]).encode()).hexdigest()[:12]
    file = folder / f"scores-{name}.jsonl"
    is_there = file.exists() and not list(folder.glob(f"{file.name}.part-*"))
    if is_there and processes.is_main and not _is_as_scored(source, read_records(file), told):
        file.unlink()
        is_there = False
    if not processes.from_main(is_there):
        score_dataset(scorer, source, file, processes=processes, progress=progress, describe=describe)
    return file


def read_records(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a file that `score_dataset` wrote."""
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _is_as_scored(source: GroupSource, records: Iterable[Mapping[str, Any]], told: Describe) -> bool:
    """Whether the groups of a source are still those of records of scores, in their order.

    Args:
        source: is gone through.
        records: of `score_dataset`.
        told: of a row what must be the same in its record.
    """
    for record, numbered in zip_longest(records, source.group_rows()):
        if record is None or numbered is None:
            return False
        number, row = numbered
        wanted = {"row": number, "group_id": row.get("group_id"), **told(row)}
        editors = [(candidate or {}).get("editor") for candidate in row["candidates"] or ()]
        if any(record[name] != value for name, value in wanted.items()):
            return False
        if record["error"] is None and [one["editor"] for one in record["candidates"]] != editors:
            return False
    return True
