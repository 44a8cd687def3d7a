"""`Guard`: a second scorer that is not optimised, watched beside the first."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from editreward.groups import EditGroup, GroupScores, Scorer
from editreward.scorers.registry import check_answers

FEWEST_CALLS = 8
"""Calls that a trend needs."""

SPREAD_TOLERANCE = 1e-6
"""A group whose rewards differ by no more has no spread: it teaches nothing."""


@dataclass(frozen=True)
class GuardReport:
    """What a guard saw.

    Attributes:
        calls: calls that were watched.
        reward_trend, guard_trend: slope per call of the mean reward (of the scorer's own, where rewards are win rates)
            and of the guard's mean score over the window, in standard errors; NaN before there are eight calls.
        agreement: share of pairs of edits of one group that both put in the same order, over the window; NaN if there
            is none.
        groups, zero_spread: groups of two and more edits that were watched, and those of them with one reward for all.
        failed: calls at which the guard's scorer raised, or broke the interface.
        alarm: the reward rises while the guard falls.
    """

    calls: int
    reward_trend: float
    guard_trend: float
    agreement: float
    groups: int
    zero_spread: int
    failed: int
    alarm: bool

    def __str__(self) -> str:
        state = "ALARM: the reward rises while the guard falls" if self.alarm else "no alarm"
        return (
            f"{state}. After {self.calls} calls the reward's trend is {self.reward_trend:+.1f} and the guard's "
            f"{self.guard_trend:+.1f} standard errors; they order {self.agreement:.0%} of the pairs alike; "
            f"{self.zero_spread} of {self.groups} groups had no spread"
            + (f"; the guard failed at {self.failed} calls." if self.failed else ".")
        )


@dataclass(frozen=True)
class _Call:
    reward: float
    guard: float
    agreeing: int
    pairs: int


class Guard:
    """Scores the edits of training with a scorer that nobody optimises.

    A policy that learns to please the reward alone raises it while other judges see the edits get worse. The guard
    compares the trends of both over the last calls.

    Args:
        scorer: best one of another make and other training data than the reward's.
        window: calls that trends are taken over.
        threshold: standard errors from which a trend counts.
        every: watch each `every`-th call only, where scoring twice costs too much.
        on_alarm: called with the report whenever an alarm begins; by default it is a `UserWarning`.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        window: int = 50,
        threshold: float = 3.0,
        every: int = 1,
        on_alarm: Callable[[GuardReport], None] | None = None,
    ) -> None:
        if window < FEWEST_CALLS or every < 1:
            raise ValueError(f"`window` must be at least {FEWEST_CALLS} and `every` at least 1.")
        self.scorer, self.threshold, self.every = scorer, threshold, every
        self._on_alarm = on_alarm or (lambda report: warnings.warn(str(report), stacklevel=3))
        self._calls: deque[_Call] = deque(maxlen=window)
        self._count = self._asked = self._groups = self._zero_spread = self._failed = 0
        self._alarmed = False

    def watch(
        self, groups: Sequence[EditGroup], rewards: Sequence[np.ndarray], scores: Sequence[np.ndarray] | None = None
    ) -> None:
        """Note a call's groups; `Reward` does it. A guard that fails costs no reward: it is a warning, and counted.

        Args:
            groups: the groups.
            rewards: of each group, of shape `(candidates,)`; NaN for what failed.
            scores: of the same shapes, what the trend is taken of in place of rewards whose mean cannot change.
        """
        for values in rewards:
            known = values[~np.isnan(values)]
            self._groups += len(known) > 1
            self._zero_spread += len(known) > 1 and bool(np.ptp(known) <= SPREAD_TOLERANCE)
        self._asked += 1
        if (self._asked - 1) % self.every:
            return
        try:
            answers = self.scorer(groups)
            check_answers(self.scorer, groups, answers)
        except Exception as error:  # whatever a judge's server or a user's function raises
            self._failed += 1
            warnings.warn(f"The guard {self.scorer.name} failed: {type(error).__name__}: {error}", stacklevel=3)
            return
        known = [
            _known(values, own, np.array(answer.overall))
            for values, own, answer in zip(rewards, rewards if scores is None else scores, answers, strict=True)
            if isinstance(answer, GroupScores)
        ]
        if not any(len(values) for values, _, _ in known):
            return
        agreeing, compared = map(sum, zip(*(_agreement(values, guard) for values, _, guard in known), strict=True))
        _, reward, guard = (float(np.concatenate(column).mean()) for column in zip(*known, strict=True))
        self._calls.append(_Call(reward, guard, agreeing, compared))
        self._count += 1
        report = self.report()
        if report.alarm and not self._alarmed:
            self._on_alarm(report)
        self._alarmed = report.alarm

    def report(self) -> GuardReport:
        """What was seen so far."""
        reward, guard = (trend([getattr(one, name) for one in self._calls]) for name in ("reward", "guard"))
        pairs = sum(one.pairs for one in self._calls)
        return GuardReport(
            self._count,
            reward,
            guard,
            sum(one.agreeing for one in self._calls) / pairs if pairs else math.nan,
            self._groups,
            self._zero_spread,
            self._failed,
            alarm=reward >= self.threshold and guard <= -self.threshold,
        )


def trend(values: Sequence[float]) -> float:
    """Slope of the least-squares line through equidistant values, in its standard errors (Student's t).

    NaN for fewer than eight values, 0 for equal ones.
    """
    count = len(values)
    if count < FEWEST_CALLS:
        return math.nan
    x = np.arange(count) - (count - 1) / 2
    y = np.array(values) - np.mean(values)
    slope = float(x @ y / (x @ x))
    error = math.sqrt(max(float(y @ y) - slope**2 * float(x @ x), 0.0) / (count - 2) / float(x @ x))
    if abs(slope) <= 1e-12:
        return 0.0
    return slope / error if error else math.copysign(math.inf, slope)


def _known(*numbers: np.ndarray) -> list[np.ndarray]:
    """The numbers of the edits that have all of them."""
    has_all = ~np.isnan(numbers).any(axis=0)
    return [one[has_all] for one in numbers]


def _agreement(rewards: np.ndarray, guard: np.ndarray) -> tuple[int, int]:
    """Pairs that both put in the same order, and pairs that both order at all."""
    product = np.sign(rewards[:, None] - rewards) * np.sign(guard[:, None] - guard)
    upper = product[np.triu_indices(len(rewards), 1)]
    return int((upper > 0).sum()), int((upper != 0).sum())
