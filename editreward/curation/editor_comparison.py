"""Which of two or more editors is better, on the same instructions, by any scorer.

A case is a source and an instruction for which both editors have an edit that could be scored, in one group or in
several; several edits of one editor count by their mean. Cases of one source depend on each other: intervals and tests
are over sources.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from editreward.curation.contamination import normalise_text
from editreward.curation.curate import scored_edits
from editreward.curation.selection import OVERALL, ScoredEdit
from editreward.data.schema import language_of
from editreward.statistics.estimate import Estimate, Share
from editreward.statistics.resampling import holm, ratio_estimates, share_of, share_of_rows, shares_by
from editreward.statistics.sign_flips import cases_needed, sign_flip_p_value

LEVEL = 0.05


@dataclass(frozen=True)
class Case:
    """One instruction.

    Attributes:
        key: source and instruction.
        places: the number of the group and the place in it of the first scored edit of each editor.
        source, instruction, category: of the groups.
        means: by editor and dimension, "overall" among them.
    """

    key: tuple[str, str]
    places: Mapping[str, tuple[int, int]]
    source: str
    instruction: str
    category: str
    means: Mapping[str, Mapping[str, float]]

    def difference(self, first: str, second: str, dimension: str = OVERALL) -> float:
        """By how much the first editor is better."""
        return self.means[first][dimension] - self.means[second][dimension]


@dataclass(frozen=True)
class Comparison:
    """Two editors.

    Attributes:
        first, second: their names.
        cases, sources: instructions that both have, and their sources.
        win_rate: share of cases in which the first is better, ties half.
        ties: number of cases in which neither is.
        differences: mean by dimension of first minus second.
        p_value: of no overall difference, by the sign-flip test over sources; of several pairs adjusted (Holm).
        more: how many more sources would settle it, if the difference stays; None: it is settled, or nobody knows.
        by: win rates by "category" and "language", by their values.
    """

    first: str
    second: str
    cases: int
    sources: int
    win_rate: Share
    ties: int
    differences: Mapping[str, Estimate]
    p_value: float
    more: int | None
    by: Mapping[str, Mapping[str, Share]]

    @property
    def verdict(self) -> str:
        """In words."""
        if self.p_value <= LEVEL:
            ahead = self.first if self.differences[OVERALL].value > 0 else self.second
            return f"{ahead} is better"
        return "undecided" + (f": about {self.more:,} more sources would settle it" if self.more else "")


def cases_of(records: Iterable[Mapping[str, Any]], editors: Sequence[str]) -> list[Case]:
    """The instructions for which at least two of the editors have a scored edit.

    Args:
        records: of scores, as `editreward.scorers.kept_scores.read_records` yields them.
        editors: whom to compare; none: all that there are.
    """
    groups: dict[tuple[str, str], list[ScoredEdit]] = defaultdict(list)
    for edit in scored_edits(iter(records)):
        if not edit.error and (not editors or edit.editor in editors):
            groups[edit.source or f"group {edit.row}", normalise_text(edit.instruction)].append(edit)
    cases = []
    for key, edits in groups.items():
        of_editor: dict[str, list[ScoredEdit]] = defaultdict(list)
        for edit in edits:
            of_editor[edit.editor].append(edit)
        if len(of_editor) > 1:
            means = {
                name: {key: float(np.mean([one.means[key] for one in own])) for key in own[0].means}
                for name, own in of_editor.items()
            }
            places = {name: (own[0].row, own[0].place) for name, own in of_editor.items()}
            one = edits[0]
            cases.append(Case(key, places, one.source or one.group_id, one.instruction, one.category, means))
    return cases


def compare_editors(cases: Sequence[Case], editors: Sequence[str] = (), tie: float = 0.0) -> list[Comparison]:
    """Compare every two editors.

    Args:
        cases: as `cases_of` returns.
        editors: in the order in which they are named; by default that of the cases.
        tie: overall differences of at most this much are ties.

    Raises:
        ValueError: an editor has no case, or two have none in common.
    """
    found = list(dict.fromkeys(name for case in cases for name in case.means))
    for name in editors:
        if name not in found:
            known = ", ".join(found) or "none"
            raise ValueError(f"No instruction has scored edits of {name!r} and of another editor; there are: {known}.")
    return _adjusted([_compare(cases, *pair, tie) for pair in combinations(editors or found, 2)])


def _adjusted(compared: Sequence[Comparison]) -> list[Comparison]:
    """The same with p values for their number."""
    adjusted = holm([one.p_value for one in compared])
    return [
        Comparison(**{**vars(one), "p_value": float(p), "more": one.more if p > LEVEL else None})
        for one, p in zip(compared, adjusted, strict=True)
    ]


def _compare(cases: Sequence[Case], first: str, second: str, tie: float) -> Comparison:
    both = [case for case in cases if first in case.means and second in case.means]
    if not both:
        raise ValueError(f"No instruction has scored edits of both {first!r} and {second!r}.")
    differences = np.array([case.difference(first, second) for case in both])
    wins = np.where(np.abs(differences) <= tie, 0.5, (differences > 0).astype(float))
    names, index = np.unique([case.source for case in both], return_inverse=True)
    numbers = np.bincount(index, minlength=len(names)).astype(float)
    of_source = np.bincount(index, differences, len(names))
    dimensions = both[0].means[first]
    sums = [np.bincount(index, [c.difference(first, second, name) for c in both], len(names)) for name in dimensions]
    estimates = ratio_estimates(np.stack(sums, axis=1), np.repeat(numbers[:, None], len(sums), axis=1))
    needed = cases_needed(of_source / numbers)
    labels = {
        "category": [case.category for case in both],
        "language": [language_of(case.instruction) for case in both],
    }
    return Comparison(
        first,
        second,
        len(both),
        len(names),
        _wins(wins, index),
        int((wins == 0.5).sum()),
        dict(zip(dimensions, estimates, strict=True)),
        sign_flip_p_value(of_source),
        None if needed is None else max(1, needed - len(names)),
        {kind: _wins_by(wins, index, values) for kind, values in labels.items()},
    )


def _wins(wins: np.ndarray, index: np.ndarray) -> Share:
    return share_of(np.bincount(index, wins), np.bincount(index).astype(float))


def _wins_by(wins: np.ndarray, index: np.ndarray, values: Sequence[str]) -> dict[str, Share]:
    found = {}
    for value in sorted(set(values)):
        chosen = np.array([one == value for one in values])
        _, own = np.unique(index[chosen], return_inverse=True)
        found[value] = _wins(wins[chosen], own)
    return found


@dataclass(frozen=True)
class Disagreement:
    """Where a second scorer prefers the other of two editors.

    Attributes:
        share: of the cases that both scorers decide; over sources.
        by: the same by "category" and "language", by their values.
        verdict: who is better by the second scorer, in words, as `Comparison.verdict`.
        cases: those cases, by both scorers, the most decisive for the two of them first.
    """

    share: Share
    by: Mapping[str, Mapping[str, Share]]
    verdict: str
    cases: Sequence[tuple[Case, Case]]


def disagreements_of(
    first: Sequence[Case], second: Sequence[Case], pairs: Sequence[tuple[str, str]]
) -> list[Disagreement]:
    """How often, and where, a second scorer prefers the other editor.

    Args:
        first, second: cases of the two scorers.
        pairs: of editors.
    """
    others = {case.key: case for case in second}
    common = [(case, others[case.key]) for case in first if case.key in others]
    told = {
        pair: [(a, b) for a, b in common if all(name in a.means and name in b.means for name in pair)]
        for pair in pairs
    }
    compared = _adjusted([_compare([b for _, b in both], *pair, 0.0) for pair, both in told.items() if both])
    verdicts = {(one.first, one.second): one.verdict for one in compared}
    return [_disagreement(both, pair, verdicts.get(pair, "undecided")) for pair, both in told.items()]


def _disagreement(told: Sequence[tuple[Case, Case]], pair: tuple[str, str], verdict: str) -> Disagreement:
    decided = [(a, b) for a, b in told if a.difference(*pair) and b.difference(*pair)]
    differ = np.array([(a.difference(*pair) > 0) != (b.difference(*pair) > 0) for a, b in decided], dtype=bool)
    labels = {
        "category": [a.category for a, _ in decided],
        "language": [language_of(a.instruction) for a, _ in decided],
    }
    sources = [a.source for a, _ in decided]
    sizes = [float(np.std([one[i].difference(*pair) for one in decided] or [1.0])) or 1.0 for i in (0, 1)]
    apart = [one for one, other in zip(decided, differ, strict=True) if other]
    apart.sort(key=lambda one: -min(abs(case.difference(*pair)) / size for case, size in zip(one, sizes, strict=True)))
    return Disagreement(
        share_of_rows(differ, sources),
        {kind: {str(k): v for k, v in shares_by(differ, values, sources).items()} for kind, values in labels.items()},
        verdict,
        apart,
    )


def decisive(cases: Sequence[Case], first: str, second: str, number: int) -> list[Case]:
    """The cases with the largest overall differences, either way."""
    both = [case for case in cases if first in case.means and second in case.means]
    return sorted(both, key=lambda case: -abs(case.difference(first, second)))[:number]
