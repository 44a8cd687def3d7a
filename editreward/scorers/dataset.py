"""Scores of a whole dataset by any scorer in a file, in bounded memory; a run that is stopped goes on where it was.

Each process of `accelerate launch` scores every n-th row and appends to a file of its own beside the output, a line of
JSON per row in order, of which the first says what is scored with which model. When all rows are there, the main
process makes the output of these files.
"""

import filecmp
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from editreward.data.edit_sources import GroupSource
from editreward.data.rows import edit_group, stored_bytes
from editreward.data.sources import number_of_rows, numbered_rows
from editreward.data.tables import check_output
from editreward.files import Journal, alone_at, atomic_file
from editreward.groups import GroupScores, Scorer, Unscored
from editreward.groups.rows import GroupRow
from editreward.resuming import row_digest
from editreward.scorers.processes import Processes
from editreward.scorers.registry import check_answers
from editreward.scorers.score_files import Choice, write_scores

GROUPS_PER_CALL = 64
"""Groups that a scorer is called with, and that a killed run loses at most, of each process."""
BYTES_PER_CALL = 2**28
"""Of their images as they are stored: fewer groups are read at a time where images are large."""
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
        written: rows of the output.
    """

    groups: int = 0
    candidates: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    reused: int = 0
    changed: int = 0
    written: int = 0


def score_dataset(
    scorer: Scorer,
    name: str | GroupSource,
    output: str | os.PathLike[str],
    *,
    split: str = "train",
    limit: int | None = None,
    revision: str | None = None,
    processes: Processes | None = None,
    choice: Choice | None = None,
    progress: bool | None = False,
    describe: Callable[[GroupRow], Mapping[str, object]] | None = None,
) -> DatasetReport | None:
    """Score all groups of a dataset into a file of a row per group, or per edit (`Choice`).

    A group's row has `row`, its number; `group_id` and `instruction`; `candidates` and `best` as `GroupScores.to_dict`
    has them, each candidate with its `image` and `editor`; and `error`, null unless the whole group could not be
    scored.

    Args:
        scorer: who scores.
        name, split, limit, revision: see `numbered_rows`; or a source of groups, which has its own split and revision.
        output: a `.jsonl`, `.parquet` or `.csv` file, which must not exist.
        choice: what is written; by default a row per group.
        progress: show how far it is, and the time left; None: in a terminal.
        processes: who shares the work.
        describe: what else to tell of a row, in its record.

    Returns:
        What became of the dataset; None in processes other than the main one.

    Raises:
        ValueError: the output has another suffix, an unfinished one is of other data, another scorer or another number
            of processes, another run writes it, or the scorer does not keep to its interface; or as `numbered_rows`.
        FileExistsError: the output is there.
    """
    output, processes = Path(output), processes or Processes()
    check_output(output)
    choice = choice or Choice()
    with alone_at(output.with_name(f"{output.name}.{processes.index}")):
        return _score_dataset(scorer, name, output, split, limit, revision, processes, choice, progress, describe)


def _score_dataset(
    scorer: Scorer,
    name: str | GroupSource,
    output: Path,
    split: str,
    limit: int | None,
    revision: str | None,
    processes: Processes,
    choice: Choice,
    progress: bool | None,
    describe: Callable[[GroupRow], Mapping[str, object]] | None,
) -> DatasetReport | None:
    parts = _parts(output, processes)
    header = {
        "dataset": name if isinstance(name, str) else name.name,
        "split": split,
        "revision": revision,
        "scorer": scorer.name,
        "fingerprint": scorer.fingerprint,
        "processes": processes.count,
    }
    journal = Journal(parts[processes.index], header, durable=False)  # a lost group is quickly scored again
    rows: Iterator[tuple[int, GroupRow]]
    total: int | None
    if isinstance(name, str):
        rows = numbered_rows(name, split, processes.index, processes.count, limit, revision)
        total = number_of_rows(name, split, revision) if progress is not False else None
    else:
        rows = name.group_rows(processes.index, processes.count, limit)
        total = name.number()
    total = limit if total is None else total if limit is None else min(total, limit)
    reused, changed, rows = _verified(journal, rows, limit)
    # All processes take turns: the main one's bar counts for all of them.
    hidden = not processes.is_main or (None if progress is None else not progress)
    bar = tqdm(desc="Scoring", unit=" groups", total=total, initial=reused * processes.count, disable=hidden)
    with journal, bar:
        for batch in _batches(rows):
            groups = [edit_group(row) for _, row in batch]
            answers = scorer(groups)
            check_answers(scorer, groups, answers)
            for (number, row), scored in zip(batch, answers, strict=True):
                more = describe(row) if describe is not None else {}
                journal.add({**_record(number, row, scored), **more, DIGEST: row_digest(row)})
            bar.update(len(batch) * processes.count)
            del batch, groups, answers, row, scored  # else they are held while the next ones are read
    counts = processes.together({str(processes.index): (reused, changed)}).values()
    if not processes.is_main:
        return None
    report = DatasetReport(reused=sum(one for one, _ in counts), changed=sum(one for _, one in counts))
    _join(parts, limit, output, scorer.dimensions, choice, report)
    return report


def _parts(output: Path, processes: Processes) -> list[Path]:
    """The unfinished files, one of each process.

    Raises:
        ValueError: some are there of another number of processes.
        FileExistsError: the output is there.
    """
    parts = [output.with_name(f"{output.name}.part-{index}-of-{processes.count}") for index in range(processes.count)]
    others = sorted(set(output.parent.glob(f"{output.name}.part-*")) - set(parts))
    if others:
        raise ValueError(
            f"{others[0]} is of an unfinished run with another number of processes. Run it with that, or delete it."
        )
    if output.exists() and not all(part.exists() for part in parts):  # with them: killed before they were removed
        raise FileExistsError(f"{output} is there already. Choose another name, or delete it.")
    return parts


def _join(
    parts: Sequence[Path],
    limit: int | None,
    output: Path,
    dimensions: Sequence[str],
    choice: Choice,
    report: DatasetReport,
) -> None:
    """Make the output of the processes' files, count into `report` what is in it, and remove them."""
    # A user's scorer need not say beforehand what it scores apart.
    candidates = (candidate for record in _in_order(parts, limit) for candidate in record["candidates"])
    found = (name for candidate in candidates for name in candidate["dimensions"] or ())
    columns = list(dict.fromkeys(itertools.chain(dimensions, found)))
    with atomic_file(output) as unfinished:
        records = _counted(_in_order(parts, limit), report)
        report.written = write_scores(records, unfinished, output.suffix, columns, choice)
        if output.exists() and not filecmp.cmp(unfinished, output, shallow=False):
            raise FileExistsError(f"{output} is there already, with other content. Choose another name, or delete it.")
    for part in parts:
        part.unlink()


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


def _batches(rows: Iterable[tuple[int, GroupRow]]) -> Iterator[list[tuple[int, GroupRow]]]:
    """Rows, so many at a time as `GROUPS_PER_CALL` and `BYTES_PER_CALL` allow, and one at least."""
    batch: list[tuple[int, GroupRow]] = []
    held = 0
    for number, row in rows:
        size = stored_bytes(row)
        if batch and (len(batch) == GROUPS_PER_CALL or held + size > BYTES_PER_CALL):
            yield batch
            batch, held = [], 0
        batch.append((number, row))
        held += size
    if batch:
        yield batch


def _record(number: int, row: GroupRow, scored: GroupScores | Unscored) -> dict[str, Any]:
    record = {name: row.get(name) for name in ("group_id", "instruction")} | _of_table(row, ("source",))
    if isinstance(scored, Unscored):
        return {"row": number, **record, "candidates": [], "best": None, "error": scored.reason}
    plain = scored.to_dict()
    plain["candidates"] = [
        {**_of_candidate(stored or {}), **scores}
        for stored, scores in zip(row["candidates"], plain["candidates"], strict=True)
    ]
    return {"row": number, **record, **plain, "error": None}


def _of_candidate(stored: GroupRow) -> dict[str, object]:
    """What a row says of a candidate: the name of its image, its editor and, of a table, its row there."""
    image = stored.get("image")
    path = image.get("path") if isinstance(image, Mapping) else None
    return {"image": path, "editor": stored.get("editor"), **_of_table(stored, ("row", "id"))}


def _of_table(values: GroupRow, names: Sequence[str]) -> dict[str, object]:
    """What only rows of a table have."""
    return {name: values[name] for name in names if name in values}


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
