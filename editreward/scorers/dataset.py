"""Scores of a whole dataset by any scorer in a file, in bounded memory; a run that is stopped goes on where it was.

Each process of `accelerate launch` scores every n-th row and appends to a file of its own beside the output, a line of
JSON per row in order, of which the first says what is scored with which model. When all rows are there, the main
process makes the output of these files.
"""

import filecmp
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from editreward.data.rows import edit_group
from editreward.data.sources import numbered_rows
from editreward.files import Journal, alone_at, atomic_file
from editreward.groups import GroupScores, Scorer, Unscored
from editreward.groups.rows import GroupRow
from editreward.resuming import row_digest
from editreward.scorers.processes import Processes
from editreward.scorers.registry import check_answers

SUFFIXES = (".jsonl", ".parquet")
ROWS_PER_BATCH = 1000
"""Rows of a Parquet file that are in memory at a time."""
GROUPS_PER_CALL = 64
"""Groups that a scorer is called with, and that a killed run loses at most, of each process."""
FAILURES_KEPT = 10
DIGEST = "digest"
"""In the records of unfinished runs: `row_digest` of the row that was scored."""


@dataclass
class DatasetReport:
    """What became of a dataset.

    Attributes:
        groups, candidates: that were scored.
        failed: groups, and single candidates of other groups, that could not be.
        failures: the first of these, what to call each and why.
        reused: rows that an earlier run had done.
        changed: rows that an earlier run had done of what the dataset was then; they were scored anew.
    """

    groups: int = 0
    candidates: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    reused: int = 0
    changed: int = 0


def score_dataset(
    scorer: Scorer,
    name: str,
    output: str | os.PathLike[str],
    *,
    split: str = "train",
    limit: int | None = None,
    revision: str | None = None,
    processes: Processes | None = None,
) -> DatasetReport | None:
    """Score all groups of a dataset into a file of a row per group.

    A row has `row`, its number; `group_id`; `candidates` and `best` as `GroupScores.to_dict` has them; and `error`,
    null unless the whole group could not be scored.

    Args:
        scorer: who scores.
        name, split, limit, revision: see `numbered_rows`.
        output: a `.jsonl` or `.parquet` file, which must not exist.
        processes: who shares the work.

    Returns:
        What became of the dataset; None in processes other than the main one.

    Raises:
        ValueError: the output has another suffix, an unfinished one is of other data, another scorer or another number
            of processes, another run writes it, or the scorer does not keep to its interface; or as `numbered_rows`.
        FileExistsError: the output is there.
    """
    output, processes = Path(output), processes or Processes()
    if output.suffix not in SUFFIXES:
        raise ValueError(f"`--output {output}` must end in {' or '.join(SUFFIXES)}.")
    with alone_at(output.with_name(f"{output.name}.{processes.index}")):
        return _score_dataset(scorer, name, output, split, limit, revision, processes)


def _score_dataset(
    scorer: Scorer,
    name: str,
    output: Path,
    split: str,
    limit: int | None,
    revision: str | None,
    processes: Processes,
) -> DatasetReport | None:
    parts = [output.with_name(f"{output.name}.part-{index}-of-{processes.count}") for index in range(processes.count)]
    others = sorted(set(output.parent.glob(f"{output.name}.part-*")) - set(parts))
    if others:
        raise ValueError(
            f"{others[0]} is of an unfinished run with another number of processes. Run it with that, or delete it."
        )
    if output.exists() and not all(part.exists() for part in parts):  # with them: killed before they were removed
        raise FileExistsError(f"{output} is there already. Choose another name, or delete it.")
    header = {
        "dataset": name,
        "split": split,
        "revision": revision,
        "scorer": scorer.name,
        "fingerprint": scorer.fingerprint,
        "processes": processes.count,
    }
    journal = Journal(parts[processes.index], header, durable=False)  # a lost group is quickly scored again
    rows = numbered_rows(name, split, processes.index, processes.count, limit, revision)
    reused, changed, rows = _verified(journal, rows, limit)
    with journal:
        while batch := list(itertools.islice(rows, GROUPS_PER_CALL)):
            groups = [edit_group(row) for _, row in batch]
            answers = scorer(groups)
            check_answers(scorer, groups, answers)
            for (number, row), scored in zip(batch, answers, strict=True):
                journal.add({**_record(number, row, scored), DIGEST: row_digest(row)})
    counts = processes.together({str(processes.index): (reused, changed)}).values()
    if not processes.is_main:
        return None
    report = DatasetReport(reused=sum(one for one, _ in counts), changed=sum(one for _, one in counts))
    # A user's scorer need not say beforehand what it scores apart.
    candidates = (candidate for record in _in_order(parts, limit) for candidate in record["candidates"])
    found = (name for candidate in candidates for name in candidate["dimensions"] or ())
    dimensions = list(dict.fromkeys(itertools.chain(scorer.dimensions, found)))
    with atomic_file(output) as unfinished:
        _write(_counted(_in_order(parts, limit), report), unfinished, output.suffix, dimensions)
        if output.exists() and not filecmp.cmp(unfinished, output, shallow=False):
            raise FileExistsError(f"{output} is there already, with other content. Choose another name, or delete it.")
    for part in parts:
        part.unlink()
    return report


def _verified(
    journal: Journal, rows: Iterator[tuple[int, GroupRow]], limit: int | None
) -> tuple[int, int, Iterator[tuple[int, GroupRow]]]:
    """Compare what an earlier run scored with what the rows are now, and keep what is the same.

    Args:
        journal: of the earlier run; from the first row on that has changed, its records are cut off.
        rows: with their numbers, from the first on.
        limit: number of the first row that is left out. Records behind it are not compared, and kept.

    Returns:
        How many records are used again, how many are not, and the rows that are left to score.
    """
    done, same = journal.resume(), 0
    for record, (number, row) in zip(journal.records(), rows, strict=False):
        if (record["row"], record.get(DIGEST)) != (number, row_digest(row)):
            rows = itertools.chain([(number, row)], rows)
            break
        same += 1
    left = next(itertools.islice(journal.records(), same, None), None)
    if left is None or (limit is not None and left["row"] >= limit):
        return same, 0, rows
    journal.keep(same)
    return same, done - same, rows


def _record(number: int, row: GroupRow, scored: GroupScores | Unscored) -> dict[str, Any]:
    record = {"row": number, "group_id": row.get("group_id")}
    if isinstance(scored, Unscored):
        return {**record, "candidates": [], "best": None, "error": scored.reason}
    return {**record, **scored.to_dict(), "error": None}


def _in_order(parts: Sequence[Path], limit: int | None) -> Iterator[dict[str, Any]]:
    """The rows of all processes, which took turns."""
    files = [part.open(encoding="utf-8") for part in parts]
    try:
        for file in files:
            file.readline()
        for file in itertools.cycle(files):
            line = file.readline()
            record = json.loads(line) if line else None
            # An earlier run may have had a higher limit. The first process without a row left is behind the last one.
            if record is None or (limit is not None and record["row"] >= limit):
                return
            record.pop(DIGEST)
            yield record
    finally:
        for file in files:
            file.close()


def _counted(records: Iterable[dict[str, Any]], report: DatasetReport) -> Iterator[dict[str, Any]]:
    for record in records:
        name = record["group_id"] or f"row {record['row']}"
        broken = [(name, candidate["error"]) for candidate in record["candidates"] if candidate["error"]]
        if record["error"] is not None:
            broken = [(name, record["error"])]
        else:
            report.groups += 1
            report.candidates += len(record["candidates"]) - len(broken)
        report.failed += len(broken)
        report.failures += broken[: FAILURES_KEPT - len(report.failures)]
        yield record


def _write(records: Iterable[dict[str, Any]], file: Path, suffix: str, dimensions: Sequence[str]) -> None:
    if suffix == ".jsonl":
        with file.open("w", encoding="utf-8") as lines:
            for record in records:
                lines.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        return
    number, text = datasets.Value("float64"), datasets.Value("string")
    yes_or_no = datasets.Value("bool")
    score = {"mean": number, "std": number, "calibrated": yes_or_no, "std_calibrated": yes_or_no}
    candidate = {
        "rank": datasets.Value("int64"),
        "reward": number,
        "reward_std": number,
        "overall": score,
        "probability_best": number,
        # A struct without fields cannot be stored.
        **({"dimensions": dict.fromkeys(dimensions, score)} if dimensions else {}),
        "reasons": datasets.List(text),
        "error": text,
    }
    schema = datasets.Features(
        {
            "row": datasets.Value("int64"),
            "group_id": text,
            "candidates": datasets.List(candidate),
            "best": datasets.Value("int64"),
            "error": text,
        }
    ).arrow_schema
    records = iter(records)
    with pq.ParquetWriter(file, schema) as writer:
        while batch := list(itertools.islice(records, ROWS_PER_BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
