"""From scores before and after a stress to effect sizes with intervals, and to whether the expectation was met.

A shift is a difference of scores over the standard deviation of the scorer's own scores within groups, the spread that
rankings come from (Glass's delta, 1976, with that spread): 1 is how far the edits of a group usually are from their
mean. Intervals are 95 % bootstrap intervals that resample groups, the spread held fixed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from editreward.benchmarks.protocols import OVERALL
from editreward.benchmarks.robustness.data import Labels
from editreward.benchmarks.robustness.stresses import FALLS, FEW, INVARIANT, LOSES, MOST, NO_GAIN, SMALL, Stress
from editreward.groups import GroupScores
from editreward.statistics import Estimate, correlation, mean_of_groups, share_of

SIZE_OF_SHIFT, FLIPS = "mean size of the shift", "pairs that change their order"
SPEARMAN, STEPS_DOWN = "Spearman with strength", "steps down"
BEATEN, RANK, EDITS_RANKED, TRUE_RANK = (
    "clearly below the best edit",
    "mean rank",
    "edits ranked",
    "mean rank by the true scores",
)
OVERTAKEN, RISES = "worse edits that overtake", "edits that rise"


@dataclass(frozen=True)
class StressedGroup:
    """A group's scores before and after a stress.

    Attributes:
        before: of its edits as they are.
        after: of the same edits under the stress; with one more under a stress that offers one; of the best edit at
            every level, the first one being none, under a stress with levels.
        labels: of its edits.
    """

    before: GroupScores
    after: GroupScores
    labels: Labels


@dataclass(frozen=True)
class Finding:
    """What a stress did to a scorer.

    Attributes:
        stress: which one.
        groups: number of groups that took part; 0 where the data don't allow it.
        shifts: by score ("overall", the dimensions) the mean shift at every level but the first, or the only one.
        measures: further numbers by name.
        met: whether the scores did as expected; None where it was not applicable.
        unanswered: reasons by id of groups that the scorer gave no answer to, which are left out.
    """

    stress: Stress
    groups: int
    shifts: Mapping[str, Sequence[Estimate]]
    measures: Mapping[str, Estimate]
    met: bool | None
    unanswered: Mapping[str, str]

    @property
    def shift(self) -> Estimate:
        """Of the overall score, at full strength."""
        return self.shifts[OVERALL][-1]


Units: TypeAlias = Mapping[str, float]


def scores_by_name(scores: GroupScores) -> dict[str, np.ndarray]:
    """The dimensions' scores and the overall ones, shape (candidates,) each."""
    return {name: np.array(values) for name, values in {**scores.dimensions, OVERALL: scores.overall}.items()}


def units_of(groups: Sequence[GroupScores]) -> tuple[dict[str, float], list[str]]:
    """Standard deviations within groups, pooled, by score.

    Returns:
        Them, and the names of the scores that are the same for all edits of each group, whose unit is 1.

    Raises:
        ValueError: no group has two edits.
    """
    degrees = sum(len(group.overall) - 1 for group in groups)
    if not degrees:
        raise ValueError("No group has two edits or more: a shift of their scores has no unit.")
    squares: dict[str, float] = {}
    for group in groups:
        for name, values in scores_by_name(group).items():
            squares[name] = squares.get(name, 0.0) + float(((values - values.mean()) ** 2).sum())
    constant = [name for name, square in squares.items() if square == 0]
    return {name: (square / degrees) ** 0.5 or 1.0 for name, square in squares.items()}, constant


def find(stress: Stress, groups: Sequence[StressedGroup], units: Units, source_score: float | None) -> Finding:
    """Judge a stress.

    Args:
        stress: which one.
        groups: the groups that took part, two or more.
        units: see `units_of`.
        source_score: see `StressData`.
    """
    judge = {INVARIANT: _invariant, FALLS: _falls, LOSES: _loses, NO_GAIN: _no_gain}[stress.expectation]
    shifts, measures, met = judge(stress, groups, units, source_score)
    return Finding(stress, len(groups), shifts, measures, met, {})


Judged: TypeAlias = tuple[dict[str, list[Estimate]], dict[str, Estimate], bool]


def _invariant(stress: Stress, groups: Sequence[StressedGroup], units: Units, source_score: float | None) -> Judged:
    shifts = _mean_shifts(groups, units, _shifts_of_edits)
    sizes = [np.abs(_shifts_of_edits(group, OVERALL)).mean() / units[OVERALL] for group in groups]
    changed, pairs = [], []
    for group in groups:
        before, after = np.array(group.before.overall), np.array(group.after.overall)
        first, second = np.triu_indices(len(before), k=1)
        was, is_now = np.sign(before[first] - before[second]), np.sign(after[first] - after[second])
        counted = (was != 0) & ((group.labels.order[first, second] != 0) | (not group.labels.known))
        changed.append(int((counted & (was != is_now)).sum()))
        pairs.append(int(counted.sum()))
    flips = share_of(changed, pairs)
    overall = shifts[OVERALL][0]
    met = -SMALL < overall.low and overall.high < SMALL and not flips.value > FEW
    return shifts, {SIZE_OF_SHIFT: mean_of_groups(sizes), FLIPS: flips}, bool(met)


def _falls(stress: Stress, groups: Sequence[StressedGroup], units: Units, source_score: float | None) -> Judged:
    shifts = {
        name: [
            mean_of_groups([(values[level] - values[0]) / unit for values in _after(groups, name)])
            for level in range(1, len(stress.levels))
        ]
        for name, unit in units.items()
    }
    overall = _after(groups, OVERALL)
    steps = np.diff(overall, axis=1)
    means = [mean_of_groups(step / units[OVERALL]) for step in steps.T]
    ranks = [correlation(values, range(len(values))) for values in overall]
    measures = {
        # A score that does not move has no correlation, and no order either.
        SPEARMAN: mean_of_groups(np.nan_to_num(ranks)),
        STEPS_DOWN: share_of((steps < 0).sum(axis=1), np.full(len(steps), steps.shape[1])),
    }
    met = shifts[OVERALL][-1].high < -SMALL and not any(step.low > 0 for step in means)
    return shifts, measures, bool(met)


def _loses(stress: Stress, groups: Sequence[StressedGroup], units: Units, source_score: float | None) -> Judged:
    def pair(group: StressedGroup, name: str) -> tuple[float, float]:
        """Scores of what is to lose and of the best edit, side by side where one more edit was offered."""
        after, best = scores_by_name(group.after)[name], group.labels.best
        return (after[-1], after[best]) if stress.offers else (after[best], scores_by_name(group.before)[name][best])

    def shift(group: StressedGroup, name: str) -> np.ndarray:
        loser, best = pair(group, name)
        return np.array([loser - best])

    shifts = _mean_shifts(groups, units, shift)
    pairs = [pair(group, OVERALL) for group in groups]
    # By more than rounding: what deserves so much less must not come out about as good.
    beaten = share_of([float(best - loser > SMALL * units[OVERALL]) for loser, best in pairs], np.ones(len(pairs)))
    measures: dict[str, Estimate] = {BEATEN: beaten}
    if stress.offers:
        places = [_rank(group.after.overall[-1], group.after.overall[:-1]) for group in groups]
        measures[RANK] = mean_of_groups(places)
        measures[EDITS_RANKED] = mean_of_groups([len(group.after.overall) for group in groups])
        totals = [group.labels.totals for group in groups]
        if source_score is not None and not np.isnan(np.concatenate(totals)).any():
            measures[TRUE_RANK] = mean_of_groups([_rank(source_score, total) for total in totals])
    return shifts, measures, bool(beaten.value >= MOST)


def _no_gain(stress: Stress, groups: Sequence[StressedGroup], units: Units, source_score: float | None) -> Judged:
    shifts = _mean_shifts(groups, units, _shifts_of_edits)
    rises = [(_shifts_of_edits(group, OVERALL) > 0).sum() for group in groups]
    edits = [len(group.before.overall) for group in groups]
    overtaking, pairs = [], []
    for group in groups:
        before, after = np.array(group.before.overall), np.array(group.after.overall)
        ahead = before[:, None] > before[None]
        counted = ahead & ((group.labels.order > 0) if group.labels.known else True)
        overtaking.append(int((counted & (after[None] > before[:, None])).sum()))
        pairs.append(int(counted.sum()))
    success = share_of(overtaking, pairs)
    met = shifts[OVERALL][0].high < SMALL and not success.value > FEW
    return shifts, {RISES: share_of(rises, edits), OVERTAKEN: success}, bool(met)


def _shifts_of_edits(group: StressedGroup, name: str) -> np.ndarray:
    return scores_by_name(group.after)[name] - scores_by_name(group.before)[name]


def _mean_shifts(
    groups: Sequence[StressedGroup], units: Units, shift: Callable[[StressedGroup, str], np.ndarray]
) -> dict[str, list[Estimate]]:
    return {
        name: [mean_of_groups([shift(group, name).mean() / unit for group in groups])] for name, unit in units.items()
    }


def _after(groups: Sequence[StressedGroup], name: str) -> np.ndarray:
    """Shape (groups, levels)."""
    return np.array([scores_by_name(group.after)[name] for group in groups])


def _rank(value: float, others: Sequence[float] | np.ndarray) -> float:
    """Its place among others, 1 being the highest; equal ones share the mean of theirs."""
    others = np.asarray(others)
    return 1 + float((others > value).sum()) + (others == value).sum() / 2
