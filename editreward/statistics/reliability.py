"""Whether probabilities of preferences, and standard deviations, mean what they say.

A probability is that of the truth: that the better one of a pair is preferred.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from editreward.statistics.checks import finite
from editreward.statistics.estimate import Share
from editreward.statistics.resampling import Groups, share_of_rows

# What sums over quadrature nodes may be above 1.
ROUNDING = 1e-6
LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs of about the same confidence.

    Attributes:
        start, end: the confidences that belong here, start included; 1 belongs to the last bin.
        count: number of pairs.
        confidence: their mean confidence; NaN without a pair.
        accuracy: share of right predictions; NaN without a pair.
        low, high: 95 % Wilson score interval of the accuracy, which takes the pairs for independent.
    """

    start: float
    end: float
    count: int
    confidence: float
    accuracy: float
    low: float
    high: float


def reliability_bins(probabilities: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """The data of a reliability diagram: equal bins of the confidence max(P, 1 - P), from 0.5 to 1.

    Args:
        probabilities: probability that the better one of each pair is preferred, shape (pairs,). A prediction of 0.5
            is half right.
        bins: number of bins.

    Raises:
        ValueError: a probability is not between 0 and 1; its row is named.
    """
    confidence, right, index = _binned(probabilities, bins)
    counts = np.bincount(index, minlength=bins)
    edges = _edges(bins).tolist()
    found = []
    for number, count in enumerate(counts.tolist()):
        chosen = index == number
        accuracy = float(right[chosen].mean()) if count else float("nan")
        low, high = _wilson(accuracy, count)
        found.append(
            ReliabilityBin(
                start=edges[number],
                end=edges[number + 1],
                count=count,
                confidence=float(confidence[chosen].mean()) if count else float("nan"),
                accuracy=accuracy,
                low=low,
                high=high,
            )
        )
    return found


def expected_calibration_error(probabilities: ArrayLike, bins: int = 10) -> float:
    """How far the probabilities of preferences are from how often they come true.

    The distance between mean confidence and accuracy in the bins of [`reliability_bins`], averaged over the pairs
    (Naeini et al. 2015).

    Args:
        probabilities: probability that the better one of each pair is preferred, shape (pairs,). A prediction of 0.5
            is half right.
        bins: number of bins.

    Returns:
        The error, 0 to 1; NaN without a pair.

    Raises:
        ValueError: a probability is not between 0 and 1; its row is named.
    """
    confidence, right, index = _binned(probabilities, bins)
    if not len(right):
        return float("nan")
    return float(np.abs(np.bincount(index, weights=confidence - right)).sum() / len(right))


def brier_score(probabilities: ArrayLike) -> float:
    """Mean of (1 - P)^2 (Brier 1950), 0 to 1; 0.25 for P = 0.5. NaN without a pair.

    Args:
        probabilities: probability that the better one of each pair is preferred, shape (pairs,).

    Raises:
        ValueError: a probability is not between 0 and 1; its row is named.
    """
    probabilities = _probabilities(probabilities)
    return float(np.mean((1 - probabilities) ** 2)) if len(probabilities) else float("nan")


def log_loss(probabilities: ArrayLike) -> float:
    """Mean of -log P in nats, log 2 for P = 0.5; P is at least the smallest normal float64. NaN without a pair.

    Args:
        probabilities: probability that the better one of each pair is preferred, shape (pairs,).

    Raises:
        ValueError: a probability is not between 0 and 1; its row is named.
    """
    probabilities = _probabilities(probabilities)
    if not len(probabilities):
        return float("nan")
    return float(-np.log(np.maximum(probabilities, np.finfo(float).tiny)).mean())


def interval_coverage(
    means: ArrayLike, stds: ArrayLike, truths: ArrayLike, levels: Sequence[float] = LEVELS, groups: Groups = None
) -> dict[float, Share]:
    """Share of truths within the central interval of N(mean, std^2) that should hold a given share of them.

    Args:
        means, stds, truths: shape (rows,), on one scale.
        levels: shares, between 0 and 1, that the intervals should hold.
        groups: of the rows, for the bootstrap; see `Groups`.

    Raises:
        ValueError: a value is not finite or a standard deviation is negative (the row is named), or a level is not
            between 0 and 1.
    """
    means = finite("means", means)
    stds, truths = finite("stds", stds, len(means)), finite("truths", truths, len(means))
    for row in np.flatnonzero(stds < 0):
        raise ValueError(f"stds: row {row} is {stds[row]:g}, which is negative")
    found = {}
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"the level {level} is not between 0 and 1")
        within = np.abs(truths - means) <= NormalDist().inv_cdf((1 + level) / 2) * stds
        found[level] = share_of_rows(within, groups)
    return found


def _probabilities(values: ArrayLike) -> np.ndarray:
    probabilities = finite("probabilities", values)
    for row in np.flatnonzero((probabilities < -ROUNDING) | (probabilities > 1 + ROUNDING)):
        raise ValueError(f"probabilities: row {row} is {probabilities[row]:g}, which is not between 0 and 1")
    return probabilities.clip(0, 1)


def _binned(probabilities: ArrayLike, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, how right (0, 0.5 or 1) and bin of each pair, shape (pairs,) each."""
    probabilities = _probabilities(probabilities)
    confidence = np.maximum(probabilities, 1 - probabilities)
    right = np.where(probabilities == 0.5, 0.5, probabilities > 0.5)
    # By the edges themselves: 0.6 - 0.5 is a little less than 0.1.
    index = np.searchsorted(_edges(bins), confidence, side="right") - 1
    return confidence, right, np.minimum(index, bins - 1)


def _edges(bins: int) -> np.ndarray:
    """Where bins of the confidence start, and where the last one ends, shape (bins + 1,)."""
    return np.linspace(0.5, 1, bins + 1)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson 1927: the shares from which the observed one is 1.96 standard errors away."""
    if not count:
        return float("nan"), float("nan")
    z = NormalDist().inv_cdf(0.975)
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)
