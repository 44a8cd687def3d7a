"""Runs a scorer or a pairwise judge over a dataset of groups: checks the data, asks for what is not cached, keeps it.

Every process of `accelerate launch` asks for its share. The results are the same for any number of processes, and in
whatever order groups come.
"""

import hashlib
import json
import math
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from editreward import __version__
from editreward.curation.check import Fault, check_group
from editreward.data.rows import edit_group
from editreward.groups import EditGroup, EditPair, GroupScores, PairwiseJudge, Scorer, Unscored
from editreward.groups.rows import GroupRow, GroupRows
from editreward.scorers.cache import (
    CHECKS,
    MARGINS,
    SCORES,
    ParquetStore,
    faults_of,
    faults_row,
    scores_of,
    scores_row,
    store_for,
)
from editreward.scorers.fingerprints import content_hash, versions
from editreward.scorers.processes import Processes
from editreward.scorers.registry import check_answers

T = TypeVar("T")

FATAL_FAULTS = ("missing_id", "duplicate_id", "empty_instruction", "missing_image", "broken_image")
"""What leaves a group out. Other faults are listed: an editor that changes nothing is still to be judged."""

IRRELEVANT_FAULTS = ("too_few_candidates",)
"""What is none: benchmarks rate single edits, too."""

CHECK_VERSION = "1"
"""To be changed with what `check_group` finds, since its findings are cached."""

BATCH = 32
"""Groups, or pairs, that a scorer is called with, and that a killed run loses at most. What goes through a model at
once is for the scorer to say."""


@dataclass(frozen=True)
class Preparation:
    """A change of the images that a benchmark asks for, before they are judged.

    Attributes:
        name: what it is called in the cache's keys; another effect needs another name.
        apply: from a group to the changed group.
    """

    name: str
    apply: Callable[[EditGroup], EditGroup]


@dataclass(frozen=True)
class GroupRecord:
    """What is known of a group without its images.

    Attributes:
        row: its number in the dataset.
        group_id, instruction, category, language: columns.
        digest: hash of its images and instruction.
        editors: of each candidate.
        truth: scores of the candidates by dimension, NaN where there is none, each of shape (candidates,).
        ratings: the same of each annotator, by name, where annotators are known.
    """

    row: int
    group_id: str
    instruction: str
    category: str
    language: str
    digest: str
    editors: list[str]
    truth: dict[str, np.ndarray]
    ratings: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of candidates."""
        return len(self.editors)


@dataclass
class Inspection:
    """The groups of a dataset, and what is wrong with it.

    Attributes:
        groups: those that can be judged, by id, in the dataset's order.
        rows: number of rows that were read.
        faults: all that was found.
        left_out: ids of groups that cannot be judged, by kind of fault.
        digest: hash of the contents of all rows.
    """

    groups: dict[str, GroupRecord] = field(default_factory=dict)
    rows: int = 0
    faults: list[Fault] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True)
class PairQuestion:
    """A pair to put before a judge: indices of the candidates in the order shown; the rest as in `EditPair`."""

    group_id: str
    first: int
    second: int
    dimension: str = "overall"
    ties: bool = False


@dataclass(frozen=True)
class Runner:
    """Runs scorers and judges.

    Args:
        cache: folder of the cache; None keeps nothing and asks for everything.
        processes: who shares the work.
        progress: show progress bars; None: in a terminal.
        batch: groups, or pairs, per call.
    """

    cache: Path | None = None
    processes: Processes = field(default_factory=Processes)
    progress: bool | None = None
    batch: int = BATCH

    def inspect(self, rows: GroupRows, limit: int | None = None) -> Inspection:
        """Check all groups and decode all their images, which is done once for the same content.

        Args:
            rows: the dataset.
            limit: read only the first so many.
        """
        found = self._inspect(rows, limit) if self.processes.is_main else None
        return self.processes.from_main(found)

    def _inspect(self, rows: GroupRows, limit: int | None) -> Inspection:
        # Which files are broken is for Pillow to say: a newer one reads more.
        store = self._store(f"check {CHECK_VERSION}, pillow {versions('pillow')['pillow']}", CHECKS)
        known = store.read() if store else {}
        new: dict[str, Mapping[str, Any]] = {}
        found, records, whole = Inspection(), [], hashlib.sha256()
        times: Counter[str] = Counter()
        for number, row in enumerate(self._bar(rows, "Checking", limit)):
            if number == limit:
                break
            images = _image_digests(row)
            digest = _row_digest(row, images)
            whole.update(digest.encode())
            if digest in known:
                faults = faults_of(known[digest])
            else:
                faults = [(fault.kind, fault.place, fault.message) for fault in check_group(row)]
                new[digest] = known[digest] = faults_row(faults)
            records.append((_record(row, number, images), [_as_fault(row, number, fault) for fault in faults]))
            times[row["group_id"]] += 1
        if store:
            store.add(new)
        found.rows, found.digest = len(records), whole.hexdigest()
        for record, faults_of_row in records:
            if not record.group_id:
                faults_of_row.append(Fault("missing_id", "", record.row, None, "group_id", "is empty"))
            elif times[record.group_id] > 1:
                message = f"is that of {times[record.group_id]} rows"
                faults_of_row.append(Fault("duplicate_id", "", record.row, record.group_id, "group_id", message))
            found.faults += [fault for fault in faults_of_row if fault.kind not in IRRELEVANT_FAULTS]
            fatal = [fault.kind for fault in faults_of_row if fault.kind in FATAL_FAULTS]
            if fatal:
                found.left_out.setdefault(fatal[0], []).append(record.group_id or f"row {record.row}")
            else:
                found.groups[record.group_id] = record
        return found

    def score(
        self,
        rows: GroupRows,
        groups: Sequence[GroupRecord],
        scorer: Scorer,
        instructions: Mapping[str, str] | None = None,
        preparation: Preparation | None = None,
    ) -> dict[str, GroupScores | Unscored]:
        """Scores of groups by id.

        Args:
            rows: the dataset that `groups` are of.
            groups: which to score.
            scorer: who scores.
            instructions: by group id, where others than the groups' own are to be shown.
            preparation: what to do to the images.

        Raises:
            ValueError: the scorer returns another number of scores than candidates, NaN, or not the same dimensions
                for all groups.
        """
        keys, shown = {}, instructions or {}
        for group in groups:
            parts = (scorer.fingerprint, group.digest, shown.get(group.group_id, ""), _name(preparation))
            keys[group.group_id] = content_hash(*parts)
        # Groups of the same content have one key, and are scored once.
        wanted = {keys[group.group_id]: group for group in reversed(groups)}

        def questions(missing: Sequence[str]) -> Iterator[tuple[str, EditGroup]]:
            by_row = {wanted[key].row: key for key in missing}
            for number, row in rows_at(rows, by_row):
                yield by_row[number], _edit_group(row, shown.get(row["group_id"]), preparation)

        def ask(asked: Sequence[tuple[str, EditGroup]]) -> list[GroupScores | Unscored]:
            groups = [group for _, group in asked]
            answers = scorer(groups)
            check_answers(scorer, groups, answers)
            return [_complete(answer) for answer in answers]

        store = self._store(scorer.fingerprint, SCORES)
        title = f"Scoring with {scorer.name}"
        found = self._answer(wanted, questions, ask, store, scores_row, scores_of, title, " groups")
        _check_dimensions(scorer.name, {wanted[key].group_id: answer for key, answer in found.items()})
        return {group_id: found[key] for group_id, key in keys.items()}

    def compare(
        self,
        rows: GroupRows,
        groups: Mapping[str, GroupRecord],
        pairs: Sequence[PairQuestion],
        judge: PairwiseJudge,
        instructions: Mapping[str, str] | None = None,
        preparation: Preparation | None = None,
    ) -> dict[PairQuestion, float | Unscored]:
        """A judge's margins: positive where it prefers the edit that it was shown first.

        Args:
            rows: the dataset that `groups` are of.
            groups: records of the groups of all pairs, by id.
            pairs: what to ask.
            judge: who answers.
            instructions, preparation: as for `score`.
        """
        keys, shown = {}, instructions or {}
        for pair in pairs:
            changed = shown.get(pair.group_id, "")
            parts = (judge.fingerprint, groups[pair.group_id].digest, changed, _name(preparation))
            keys[pair] = content_hash(*parts, f"{pair.first} {pair.second} {pair.dimension} {pair.ties}")
        wanted = {keys[pair]: pair for pair in reversed(pairs)}

        def questions(missing: Sequence[str]) -> Iterator[tuple[str, EditPair]]:
            by_row: dict[int, list[str]] = {}
            for key in missing:
                by_row.setdefault(groups[wanted[key].group_id].row, []).append(key)
            for number, row in rows_at(rows, by_row):
                group = _edit_group(row, shown.get(row["group_id"]), preparation)
                for key in by_row[number]:
                    pair = wanted[key]
                    first, second = group.edited[pair.first], group.edited[pair.second]
                    yield key, EditPair(group.sources, group.instruction, first, second, pair.dimension, pair.ties)

        def ask(asked: Sequence[tuple[str, EditPair]]) -> list[float | Unscored]:
            answers = list(judge.compare([pair for _, pair in asked]))
            _check_count(judge.name, answers, asked)
            for (key, _), answer in zip(asked, answers, strict=True):
                if not isinstance(answer, Unscored) and not math.isfinite(answer):
                    raise ValueError(f"{judge.name} answers {answer} to a pair of group {wanted[key].group_id!r}.")
            return answers

        found = self._answer(
            wanted,
            questions,
            ask,
            self._store(judge.fingerprint, MARGINS),
            lambda margin: {"margin": margin},
            lambda row: float(row["margin"]),
            f"Comparing with {judge.name}",
            " pairs",
        )
        return {pair: found[key] for pair, key in keys.items()}

    def environment(self) -> dict[str, object]:
        """What a result says of where it was made: versions of libraries, number of processes, and the time."""
        return {
            "editreward": __version__,
            "python": platform.python_version(),
            **versions("datasets", "numpy", "pillow", "scipy", "torch", "transformers"),
            "processes": self.processes.count,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _answer(
        self,
        wanted: Mapping[str, Any],
        questions: Callable[[Sequence[str]], Iterator[tuple[str, Any]]],
        ask: Callable[[Sequence[tuple[str, Any]]], Sequence[Any]],
        store: ParquetStore | None,
        to_row: Callable[[Any], dict[str, Any]],
        from_row: Callable[[dict[str, Any]], Any],
        title: str,
        unit: str,
    ) -> dict[str, Any]:
        """Answers by key: those that are stored, and the others, each process asking for its share."""
        found: dict[str, Any] | None = None
        if self.processes.is_main:
            stored = store.read() if store else {}
            found = {key: from_row(stored[key]) for key in wanted if key in stored}
        # One process says what is missing: another might read what this one has written meanwhile.
        found = self.processes.from_main(found)
        missing = [key for key in wanted if key not in found][self.processes.index :: self.processes.count]
        answered: dict[str, Any] = {}
        with tqdm(total=len(missing), desc=title, unit=unit, disable=self._hidden) as bar:
            for batch in _batches(questions(missing), self.batch):
                answers = dict(zip((key for key, _ in batch), ask(batch), strict=True))
                if store:
                    store.add({key: to_row(a) for key, a in answers.items() if not isinstance(a, Unscored)})
                answered |= answers
                bar.update(len(batch))
        found |= self.processes.together(answered)
        if store and self.processes.is_main:
            store.gather()
        return found

    def _store(self, fingerprint: str, schema: pa.Schema) -> ParquetStore | None:
        return None if self.cache is None else store_for(fingerprint, schema, self.cache)

    @property
    def _hidden(self) -> bool | None:
        """The `disable` of tqdm, which hides bars outside of terminals by itself if it is None."""
        if not self.processes.is_main:
            return True
        return None if self.progress is None else not self.progress

    def _bar(self, rows: Iterable[T], title: str, limit: int | None) -> Iterable[T]:
        known = len(rows) if isinstance(rows, Sized) else None
        total = limit if known is None else min(known, limit or known)
        bar: Iterable[T] = tqdm(rows, desc=title, unit=" groups", total=total, disable=self._hidden)
        return bar


def shuffled_instructions(groups: Sequence[GroupRecord]) -> dict[str, str]:
    """For each group another group's instruction: the control for reading the instruction at all.

    Groups that share an instruction share the other one, too, so that none gets its own back.

    Raises:
        ValueError: all groups have one and the same instruction.
    """
    distinct = sorted({group.instruction for group in groups}, key=content_hash)
    if len(distinct) < 2:
        raise ValueError("All groups have the same instruction: there is nothing to shuffle.")
    following = dict(zip(distinct, [*distinct[1:], *distinct[:1]], strict=True))
    return {group.group_id: following[group.instruction] for group in groups}


def _name(preparation: Preparation | None) -> str:
    return preparation.name if preparation else ""


def _batches(questions: Iterable[tuple[str, Any]], size: int) -> Iterator[list[tuple[str, Any]]]:
    batch = []
    for question in questions:
        batch.append(question)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def rows_at(rows: GroupRows, numbers: Iterable[int]) -> Iterator[tuple[int, GroupRow]]:
    """The rows with these numbers; those after the last one are not read."""
    left = set(numbers)
    if not left:
        return
    for number, row in enumerate(rows):
        if number in left:
            left.remove(number)
            yield number, row
            if not left:
                return


def _bytes(record: GroupRow | None) -> bytes:
    """The file of an image; empty where there is none, which the check reports."""
    return bytes((record or {}).get("bytes") or b"")


def _edit_group(row: GroupRow, instruction: str | None, preparation: Preparation | None) -> EditGroup:
    group = edit_group(row, instruction)
    return preparation.apply(group) if preparation else group


def _image_digests(row: GroupRow) -> tuple[list[str], list[str]]:
    """Hashes of the source images and of the candidates."""
    sources = [content_hash(_bytes(image)) for image in row["source_images"] or ()]
    return sources, [content_hash(_bytes((candidate or {}).get("image"))) for candidate in row["candidates"] or ()]


def _row_digest(row: GroupRow, images: tuple[list[str], list[str]]) -> str:
    """Hash of everything in a row."""
    plain = {
        **row,
        "source_images": None,
        "candidates": [{**(candidate or {}), "image": None} for candidate in row["candidates"] or ()],
    }
    return content_hash(json.dumps([plain, *images], sort_keys=True, default=str))


def _record(row: GroupRow, number: int, images: tuple[list[str], list[str]]) -> GroupRecord:
    candidates = [candidate or {} for candidate in row["candidates"] or ()]
    dimensions = {name: None for candidate in candidates for name in candidate.get("scores") or {}}
    scores = [candidate.get("scores") or {} for candidate in candidates]
    return GroupRecord(
        row=number,
        group_id=(row["group_id"] or "").strip() and row["group_id"],
        instruction=row["instruction"] or "",
        category=row["category"] or "",
        language=row["language"] or "",
        digest=content_hash(json.dumps([row["instruction"], *images])),
        editors=[candidate.get("editor") or "" for candidate in candidates],
        # A column of floats: None becomes NaN.
        truth={name: np.array([one.get(name) for one in scores], dtype=float) for name in dimensions},
        ratings=_ratings(candidates, list(dimensions)),
    )


def _ratings(candidates: Sequence[GroupRow], dimensions: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for index, candidate in enumerate(candidates):
        for annotation in candidate.get("annotations") or []:
            empty = {name: np.full(len(candidates), np.nan) for name in dimensions}
            scores = found.setdefault(annotation["annotator"], empty)
            for name in dimensions:
                scores[name][index] = np.nan if annotation.get(name) is None else annotation[name]
    return found


def _as_fault(row: GroupRow, number: int, fault: tuple[str, str, str]) -> Fault:
    kind, place, message = fault
    return Fault(kind, "", number, row["group_id"] or None, place, message)


def _check_count(name: str, answers: Sequence[object], asked: Sequence[object]) -> None:
    if len(answers) != len(asked):
        raise ValueError(f"{name} returned {len(answers)} answers to {len(asked)} questions.")


def _check_dimensions(name: str, answers: Mapping[str, GroupScores | Unscored]) -> None:
    """Raise a `ValueError` unless all scores are in the same dimensions."""
    first: dict[tuple[str, ...], str] = {}
    for group_id, scores in answers.items():
        if isinstance(scores, GroupScores):
            first.setdefault(tuple(sorted(scores.dimensions)), group_id)
    if len(first) > 1:
        said = " and ".join(f"{', '.join(names) or 'none'} for group {one!r}" for names, one in first.items())
        raise ValueError(f"{name} returned scores in different dimensions: {said}.")


def _complete(answer: GroupScores | Unscored) -> GroupScores | Unscored:
    """The scores where all candidates have one: benchmarks compare candidates, and leave the others' groups out."""
    if isinstance(answer, GroupScores):
        for index, unscored in answer.unscored.items():
            return Unscored(f"candidate {index}: {unscored.reason}")
    return answer
