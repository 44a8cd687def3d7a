"""Metrics of rankings and of preference probabilities; intervals resample whole groups."""

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


def accuracy_with_ties(differences: ArrayLike, truths: ArrayLike) -> tuple[float, float]:
    """Share of pairs, tied ones included, whose relation the scores predict, at the threshold where it is highest.

    A pair is predicted to be tied if its scores differ by at most the threshold (Deutsch et al. 2023, arXiv
    2305.14324). Choosing the threshold on the pairs that are then counted flatters a little, as one number can.

    Args:
        differences: score of the first minus score of the second, shape (pairs,). One that is not a number is wrong.
        truths: 1 where the first is better, -1 where the second is, 0 for a tie, shape (pairs,).

    Returns:
        The accuracy, 0 to 1, and the smallest threshold that reaches it; NaN and NaN without a pair.
    """
    differences, truths = np.asarray(differences, dtype=float), np.asarray(truths, dtype=float)
    if not len(truths):
        return float("nan"), float("nan")
    gap = np.abs(np.where(np.isnan(differences), np.inf, differences))
    ordered_right = (truths != 0) & (np.sign(differences) == np.sign(truths))
    thresholds, place = np.unique(np.append(gap[np.isfinite(gap)], 0.0), return_inverse=True)
    place = place[:-1]  # without the threshold 0, which no pair needs to have
    # A threshold wins the ties up to it and loses the pairs up to it that were ordered right.
    gain = np.where(truths == 0, 1, np.where(ordered_right, -1, 0))[np.isfinite(gap)]
    right = int(ordered_right.sum()) + np.cumsum(np.bincount(place, weights=gain, minlength=len(thresholds)))
    best = int(np.argmax(right))
    return float(right[best] / len(truths)), float(thresholds[best])


def expected_calibration_error(probabilities: ArrayLike, bins: int = 10) -> float:
    """How far the probabilities of preferences are from how often they come true.

    The pairs are sorted into equal bins by their confidence max(P, 1 - P), 0.5 to 1; the error is the distance between
    the mean confidence and the share of right predictions in a bin, averaged over the pairs (Naeini et al. 2015).

    Args:
        probabilities: probability that the better one of each pair is preferred, shape (pairs,). A prediction of 0.5
            is half right.
        bins: number of bins.

    Returns:
        The error, 0 to 1; NaN without a pair.
    """
    probabilities = np.asarray(probabilities, dtype=float)
    if not len(probabilities) or np.isnan(probabilities).any():
        return float("nan")
    confidence = np.maximum(probabilities, 1 - probabilities)
    right = np.where(probabilities == 0.5, 0.5, probabilities > 0.5)
    index = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(index, weights=confidence - right)).sum() / len(probabilities))


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError(f"a group has scores that are not numbers: {array.tolist()}")
    return array
