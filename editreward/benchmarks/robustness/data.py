"""What is stressed: groups, which of their edits is the best, and what only a simulator knows of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, islice
from random import Random

import numpy as np

from editreward.benchmarks.runner import GroupRecord
from editreward.data.sources import StoredRows
from editreward.groups.pairs import TIE_TOLERANCE
from editreward.groups.rows import GroupRow, GroupRows
from editreward.simulation import (
    WORDINGS,
    SimulatedCandidate,
    SimulatedGroup,
    over_edits,
    render_scene,
    simulate_group,
    task_words,
)
from editreward.simulation.instructions import fill_wording

FURTHER_CHANGES = 3
"""Of the strongest over-edit."""

CANDIDATES = 4
"""Simulated edits of a group beside the perfect one."""

SIZE = 112
"""Side of simulated images in pixels."""

OTHER_LANGUAGE = {"en": "zh", "zh": "en"}


@dataclass(frozen=True)
class StressData:
    """Groups to stress.

    Attributes:
        name: of the data, in reports.
        rows: the groups as they are stored.
        instructions: other instructions of the groups: by what they are, then by group id.
        levels: edits of the groups by rising strength, by the stress's name: rows whose candidates are the levels.
        source_score: what the untouched source deserves as an edit, the sum of its scores, where that is known.
    """

    name: str
    rows: GroupRows
    instructions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    levels: Mapping[str, GroupRows] = field(default_factory=dict)
    source_score: float | None = None


@dataclass(frozen=True)
class Labels:
    """What annotations say of a group's edits.

    Attributes:
        order: 1 where the first (row) is better than the second (column), -1 where it is worse, 0 where they are
            equal or nothing is known; shape (candidates, candidates).
        totals: sums of the scores, NaN where one is missing; shape (candidates,).
    """

    order: np.ndarray
    totals: np.ndarray

    @property
    def known(self) -> bool:
        """Whether any edit is better than another one."""
        return bool(self.order.any())

    @property
    def best(self) -> int:
        """The edit that is better than most of the others; of several, or where nothing is known, the first one."""
        return int(self.order.sum(axis=1).argmax())


def labels_of(record: GroupRecord, row: GroupRow) -> Labels:
    """Labels by the sum of the scores; of two edits that lack some, by the preferences."""
    totals = np.sum(list(record.truth.values()), axis=0) if record.truth else np.full(record.size, np.nan)
    votes = np.zeros((record.size, record.size))
    for preference in row["preferences"] or ():
        pair = preference["chosen"], preference["rejected"]
        if all(isinstance(index, int) and 0 <= index < record.size for index in pair):  # else listed as a fault
            votes[pair] += preference["weight"] or 0.0
    difference = totals[:, None] - totals[None]
    by_score = np.sign(np.where(np.abs(difference) > TIE_TOLERANCE, difference, 0.0))
    return Labels(np.where(np.isnan(difference), np.sign(votes - votes.T), by_score), totals)


@dataclass(frozen=True)
class BestEdits:
    """Rows of the best edits alone.

    Args:
        rows: the groups.
        best: index of the best edit by group id; other groups are left out.
    """

    rows: GroupRows
    best: Mapping[str, int]

    def __iter__(self) -> Iterator[GroupRow]:
        for row in self.rows:
            if row["group_id"] in self.best:
                yield {**row, "candidates": [row["candidates"][self.best[row["group_id"]]]], "preferences": []}


@dataclass(frozen=True)
class FirstRows:
    """The first so many rows."""

    rows: GroupRows
    number: int

    def __iter__(self) -> Iterator[GroupRow]:
        return islice(iter(self.rows), self.number)


def stored(name: str, groups: int | None = None) -> StressData:
    """The groups of a dataset: a folder, or a dataset on the Hub.

    Args:
        name: folder or id, in the dataset schema.
        groups: only the first so many.
    """
    rows = StoredRows(name)
    return StressData(name, rows if groups is None else FirstRows(rows, groups))


def simulated(groups: int) -> StressData:
    """Groups of the simulator's test split whose own wording is a usual one, each with its perfect edit first."""
    from editreward.data.schema import encode_group, group_features

    features = group_features()
    rows, levels = [], []
    instructions: dict[str, dict[str, str]] = {}
    for group in islice(_usual_groups(), groups):
        rng = Random(f"robustness {group.group_id}")
        edits = [
            SimulatedCandidate(
                image=render_scene(scene, SIZE),
                scores=dict.fromkeys(group.candidates[0].scores, 4),
                scene=scene,
                fault="none",
                artefact=None,
                change="",
                editor="sim-perfect",
                seed=0,
            )
            for scene in over_edits(group.task, FURTHER_CHANGES, rng)
        ]
        rows.append(encode_group(replace(group, candidates=[edits[0], *group.candidates]).to_row(), features))
        # Only the order of these counts: what an over-edit deserves to the point is not known.
        levels.append(encode_group(replace(group, candidates=edits).to_row(), features))
        for name, instruction in _instructions(group, rng).items():
            instructions.setdefault(name, {})[group.group_id] = instruction
    # Nothing was done, and nothing was damaged.
    source_score = 1.0 + 4.0
    name = f"simulated, test split, usual wordings, {CANDIDATES + 1} edits each"
    return StressData(name, rows, instructions, {"over-edit": levels}, source_score)


def _usual_groups() -> Iterator[SimulatedGroup]:
    found = (simulate_group(seed, "test", CANDIDATES, SIZE) for seed in count())
    return (group for group in found if not group.unseen_wording)


def _instructions(group: SimulatedGroup, rng: Random) -> dict[str, str]:
    """What else could be asked of a group: the same in other words or in the other language; something else."""
    words = task_words(group.task, group.language)
    wordings = WORDINGS[group.category, group.language]
    others = [fill_wording(wording, words) for wording in wordings.train]
    other_language = OTHER_LANGUAGE[group.language]
    translations = WORDINGS[group.category, other_language].train
    removal = replace(
        group.task, category="remove", target=rng.choice(group.task.others), result=None, background=None
    )
    removals = WORDINGS["remove", group.language].train
    return {
        "paraphrase": rng.choice([text for text in others if text != group.instruction]),
        "unusual wording": fill_wording(rng.choice(wordings.held_out), words),
        "translation": fill_wording(rng.choice(translations), task_words(group.task, other_language)),
        "another object": fill_wording(rng.choice(removals), task_words(removal, group.language)),
    }
