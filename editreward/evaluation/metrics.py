"""Ranking metrics over edit groups, with bootstrap intervals that resample whole groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

BOOTSTRAP_SAMPLES = 2000


@dataclass(frozen=True)
class Share:
    """A share of successes with its bootstrap interval.

    Attributes:
        value: successes / total, 0 to 1; NaN without a case.
        low, high: 95 % interval over resampled groups.
        total: number of cases.
    """

    value: float
    low: float
    high: float
    total: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f}, n = {self.total:,})"


def share_of(successes: ArrayLike, totals: ArrayLike, seed: int = 0) -> Share:
    """Share of successes from counts per group.

    Args:
        successes, totals: counts of each group, shape (groups,).
        seed: of the bootstrap.
    """
    successes, totals = np.asarray(successes, dtype=float), np.asarray(totals, dtype=float)
    if not totals.sum() > 0:
        return Share(float("nan"), float("nan"), float("nan"), 0)
    drawn = np.random.default_rng(seed).integers(len(totals), size=(BOOTSTRAP_SAMPLES, len(totals)))
    resampled = totals[drawn].sum(axis=1)
    shares = successes[drawn].sum(axis=1)[resampled > 0] / resampled[resampled > 0]
    low, high = np.quantile(shares, [0.025, 0.975])
    return Share(float(successes.sum() / totals.sum()), float(low), float(high), int(totals.sum()))


def pair_accuracy(
    scores: Sequence[ArrayLike], truths: Sequence[ArrayLike], gap: Callable[[float], bool] | None = None
) -> Share:
    """Share of pairs within groups, among those whose truth differs, that the scores order as the truth does.

    Equal scores order nothing and count as wrong.

    Args:
        scores, truths: for each group an array of shape (candidates,).
        gap: count only pairs whose absolute difference in truth satisfies this.
    """
    right, total = [], []
    for score, truth in zip(scores, truths, strict=True):
        first, second = np.triu_indices(len(np.asarray(truth)), k=1)
        of_score = np.subtract.outer(*2 * [_finite(score)])[first, second]
        of_truth = np.subtract.outer(*2 * [_finite(truth)])[first, second]
        counted = of_truth != 0
        if gap is not None:
            counted &= np.array([gap(abs(difference)) for difference in of_truth], dtype=bool)
        right.append(int((counted & (np.sign(of_score) == np.sign(of_truth))).sum()))
        total.append(int(counted.sum()))
    return share_of(right, total)


def strict_ranking_accuracy(scores: Sequence[ArrayLike], truths: Sequence[ArrayLike], k: int) -> Share:
    """Share of tuples of k candidates of a group with k different truths that come out in the true order.

    Chance is 1 / k!.
    """
    right, total = [], []
    for score, truth in zip(scores, truths, strict=True):
        score, truth = _finite(score), _finite(truth)
        tuples = [list(chosen) for chosen in combinations(range(len(truth)), k)]
        tuples = [chosen for chosen in tuples if len(set(truth[chosen])) == k]
        ordered = [chosen for chosen in tuples if (np.diff(score[chosen][np.argsort(truth[chosen])]) > 0).all()]
        right.append(len(ordered))
        total.append(len(tuples))
    return share_of(right, total)


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError(f"a group has scores that are not numbers: {array.tolist()}")
    return array
