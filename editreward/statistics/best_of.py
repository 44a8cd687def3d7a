"""What the best of N candidates is worth, for every N up to the number that there is, from one set of candidates.

The choice is made by one number, the key, and judged by another, the value: the reward chooses, the truth or a second
scorer judges. Of all choices of N candidates from n, the one with i others below it is the best in C(i, N - 1) out of
C(n, N): so the mean of its value over all of them is a weighted sum of the n values, which is exact and, of candidates
that are independent draws, an unbiased estimate of the value of the best of N. Nothing is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from editreward.statistics.estimate import Estimate
from editreward.statistics.resampling import Groups, counts_by_group, holm, ratio_estimates
from editreward.statistics.sign_flips import sign_flip_p_value

LEVEL = 0.05


def expected_best(keys: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The mean value of the candidate with the highest key, over all subsets of N candidates.

    Args:
        keys: what the choice is made by, shape (candidates,). Of equal ones each is chosen equally often.
        values: what it is judged by, shape (candidates,).

    Returns:
        Shape (candidates,): for N = 1, 2, ... candidates.

    Raises:
        ValueError: there is no candidate, the numbers differ, or one is not finite.
    """
    keys, values = np.asarray(keys, dtype=float), np.asarray(values, dtype=float)
    if keys.shape != values.shape or keys.ndim != 1 or not len(keys):
        raise ValueError(f"a key and a value of each candidate are needed, not {keys.shape} and {values.shape}")
    if not (np.isfinite(keys).all() and np.isfinite(values).all()):
        raise ValueError("keys and values must be finite")
    _, block, sizes = np.unique(keys, return_inverse=True, return_counts=True)  # blocks of equal keys, lowest first
    means = np.bincount(block, values) / sizes
    return _weights(len(keys)) @ np.repeat(means, sizes)


@lru_cache(maxsize=8)
def _weights(count: int) -> np.ndarray:
    """C(i, N - 1) / C(n, N), shape (N, i): how often the candidate with i others below it is the best of N."""
    below = np.arange(count, dtype=float)
    rows = [np.full(count, 1 / count)]
    for number in range(1, count):  # products of numbers of 0 or more: exact to rounding
        rows.append(rows[-1] * np.maximum(0, below - number + 1) / number * (number + 1) / (count - number))
    return np.stack(rows)


@dataclass(frozen=True)
class Fall:
    """The best of many is worse than the best of fewer: what chose was optimised too far.

    Attributes:
        number: of the fewer, those whose best is the best on average.
        difference: value of the best of all minus that of the best of `number`.
        p_value: of no difference, by the sign-flip test over sources, adjusted for the numbers that were tried (Holm).
    """

    number: int
    difference: Estimate
    p_value: float


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    numbers = [2**power for power in range(most.bit_length())] if most else []
    return numbers if not numbers or numbers[-1] == most else [*numbers, most]


def curve(values: np.ndarray, sources: Groups = None) -> list[Estimate]:
    """The mean over groups for every N, with intervals over sources.

    Args:
        values: of each group as `expected_best` returns them, shape (groups, numbers).
        sources: of each group.
    """
    sums, totals = _by_source(values, sources)
    return ratio_estimates(sums, totals)


def fall(values: np.ndarray, sources: Groups = None) -> Fall | None:
    """Whether the best of all candidates is worse than the best of fewer.

    Args:
        values, sources: as for `curve`.

    Returns:
        The strongest fall that chance does not explain, of 1, 2, 4, ... to the largest number; None: there is none.
    """
    numbers = doublings(values.shape[1])[:-1]
    if not numbers:
        return None
    differences = values[:, -1:] - values[:, [number - 1 for number in numbers]]
    sums, totals = _by_source(differences, sources)
    p_values = holm([sign_flip_p_value(column) for column in sums.T])
    estimates = ratio_estimates(sums, totals)
    falls = [
        Fall(number, estimate, float(p))
        for number, estimate, p in zip(numbers, estimates, p_values, strict=True)
        if p <= LEVEL and estimate.value < 0
    ]
    return min(falls, key=lambda one: one.difference.value, default=None)


def _by_source(values: np.ndarray, sources: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers of groups of each source, shape (sources, columns) both."""
    columns = [counts_by_group(column, sources) for column in values.T]
    return np.stack([sums for sums, _ in columns], axis=1), np.stack([totals for _, totals in columns], axis=1)
