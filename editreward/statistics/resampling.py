"""Intervals that resample whole groups, and the comparison of two models on the same groups.

Rows of one group (the pairs of one source and instruction) are not independent of each other, so groups are what is
drawn, with replacement; intervals are percentiles of the resampled values (Efron 1979). Where all cases come out the
same, such an interval has no width.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from editreward.statistics.checks import finite, group_index

BOOTSTRAP_SAMPLES = 2000
# Drawn groups that are held in memory at a time.
DRAWN_AT_A_TIME = 4_000_000

Groups = Sequence[Hashable] | np.ndarray | None
"""The group of each row, anything hashable; `None`: each row is a group of its own."""


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval.

    Attributes:
        value: the number; NaN where it is undefined.
        low, high: 95 % interval over resampled groups; NaN with fewer than two groups, or where more than half of the
            resamples leave the number undefined.
        total: number of cases.
    """

    value: float
    low: float
    high: float
    total: int

    def __str__(self) -> str:
        return self._text(self.value, self.low, self.high)

    def _text(self, value: float, low: float, high: float, unit: str = "", digits: int = 3) -> str:
        interval = "" if np.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}, "
        return f"{value:.{digits}f}{unit} ({interval}n = {self.total:,})"


@dataclass(frozen=True)
class Share(Estimate):
    """A share of successes, 0 to 1, with its bootstrap interval; printed in percent."""

    def __str__(self) -> str:
        return self._text(100 * self.value, 100 * self.low, 100 * self.high, " %", 1)


def share_of(successes: ArrayLike, totals: ArrayLike, seed: int = 0) -> Share:
    """Share of successes, their sum over the sum of the totals, from counts per group.

    Args:
        successes, totals: counts of each group, shape (groups,).
        seed: of the bootstrap.

    Returns:
        The share; NaN without a case.
    """
    successes = finite("successes", successes)
    totals = finite("totals", totals, len(successes))
    total = totals.sum()
    if not total > 0:
        return Share(np.nan, np.nan, np.nan, 0)
    low, high = _percentiles(_resampled_ratio(successes, totals, seed), (totals > 0).sum())
    return Share(float(successes.sum() / total), low, high, int(total))


def share_of_rows(right: ArrayLike, groups: Groups = None, seed: int = 0) -> Share:
    """Share of rows that are right.

    Args:
        right: whether each row is right, shape (rows,).
        groups: see `Groups`.
        seed: of the bootstrap.
    """
    return share_of(*counts_by_group(right, groups), seed=seed)


def mean_of_groups(values: ArrayLike, seed: int = 0) -> Estimate:
    """Mean of a number that each group has, such as the rank correlation within it.

    Args:
        values: shape (groups,).
        seed: of the bootstrap.

    Raises:
        ValueError: a value is not finite; its row is named.
    """
    values = finite("values", values)
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan, 0)
    low, high = _percentiles(_resampled_ratio(values, np.ones(len(values)), seed), len(values))
    return Estimate(float(values.mean()), low, high, len(values))


def counts_by_group(right: ArrayLike, groups: Groups = None) -> tuple[np.ndarray, np.ndarray]:
    """Successes and totals of each group, shape (groups,) each, in the order of the groups' first rows."""
    right = finite("right", right)
    index, names = group_index(groups, len(right))
    return np.bincount(index, right, len(names)), np.bincount(index, minlength=len(names)).astype(float)


def shares_by(
    right: ArrayLike, labels: Sequence[Hashable], groups: Groups = None, seed: int = 0
) -> dict[Hashable, Share]:
    """Share of right rows by label, such as the task or the category of each, in the order of first occurrence.

    Args:
        right: whether each row is right, shape (rows,).
        labels: label of each row.
        groups: see `Groups`.
        seed: of the bootstrap.
    """
    right = finite("right", right)
    of_label, names = group_index(labels, len(right))
    of_group, _ = group_index(groups, len(right))
    return {
        name: share_of_rows(right[of_label == number], of_group[of_label == number], seed)
        for number, name in enumerate(names)
    }


def macro_share(right: ArrayLike, labels: Sequence[Hashable], groups: Groups = None, seed: int = 0) -> Share:
    """Unweighted mean of the shares by label, such as the average over the tasks of a benchmark.

    Args:
        right, labels, groups, seed: see [`shares_by`].

    Returns:
        The mean. Resamples that lose a label altogether average the others.
    """
    right = finite("right", right)
    of_label, labels_found = group_index(labels, len(right))
    of_group, groups_found = group_index(groups, len(right))
    if not len(right):
        return Share(np.nan, np.nan, np.nan, 0)
    successes, totals = (np.zeros((len(groups_found), len(labels_found))) for _ in range(2))
    np.add.at(successes, (of_group, of_label), right)
    np.add.at(totals, (of_group, of_label), 1)
    values = []
    for drawn in resampled_groups(len(groups_found), seed=seed):
        weights = _weights(drawn, len(groups_found))
        values.append(np.nanmean(_divide(weights @ successes, weights @ totals), axis=1))
    low, high = _percentiles(np.concatenate(values), len(groups_found))
    return Share(float((successes.sum(axis=0) / totals.sum(axis=0)).mean()), low, high, len(right))


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    rows: int,
    groups: Groups = None,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> Estimate:
    """Any statistic of rows with its interval.

    Args:
        statistic: from indices of rows, shape (any number,), in which a row can occur several times, to a number; NaN
            where it is undefined. Copies of a group are not told apart: for a mean over groups of a number that each
            has, use [`mean_of_groups`].
        rows: number of rows.
        groups: see `Groups`.
        samples: number of resamples.
        seed: of the bootstrap.
    """
    everything = np.arange(rows)
    value = float(statistic(everything)) if rows else np.nan
    index, names = group_index(groups, rows)
    members = _members(index, len(names))
    values = np.array(
        [
            statistic(np.concatenate([members[group] for group in one]))
            for drawn in resampled_groups(len(names), samples, seed)
            for one in drawn
        ]
    )
    low, high = _percentiles(values, len(names))
    return Estimate(value, low, high, rows)


@dataclass(frozen=True)
class PairedDifference:
    """Difference of two models on the same groups.

    Attributes:
        difference: the first model's value minus the second's.
        low, high: 95 % interval over resampled groups; NaN with fewer than two groups.
        p_value: two-sided, of no difference.
        groups: number of groups.
    """

    difference: float
    low: float
    high: float
    p_value: float
    groups: int


def compare_shares(first: ArrayLike, second: ArrayLike, groups: Groups = None, seed: int = 0) -> PairedDifference:
    """Compare the shares of rows that two models get right.

    The p-value is that of the exact permutation test: if the models are equally good, either could have produced
    either's results on a group, so that the sign of each group's difference is a fair coin. The distribution of the
    sum is computed in full, as a convolution. With a row per group this is McNemar's exact test.

    Args:
        first, second: whether each row is right, by each model, shape (rows,).
        groups: see `Groups`.
        seed: of the interval's bootstrap.

    Raises:
        ValueError: a row is neither right nor wrong, or the models have different numbers of rows.
    """
    from scipy.signal import convolve
    from scipy.stats import binom

    first = finite("first", first)
    second = finite("second", second, len(first))
    for name, right in (("first", first), ("second", second)):
        wrong = np.flatnonzero((right != 0) & (right != 1))
        if len(wrong):
            raise ValueError(f"{name}: row {wrong[0]} is {right[wrong[0]]:g}; right (1) or wrong (0) is needed")
    difference, totals = counts_by_group(first - second, groups)
    if not len(first):
        return PairedDifference(np.nan, np.nan, np.nan, np.nan, 0)
    low, high = _percentiles(_resampled_ratio(difference, totals, seed), len(totals))

    # |sum| = |2 U - most| where U sums, over the groups with a difference, its size times a fair coin.
    chance = np.ones(1)
    sizes, numbers = np.unique(np.abs(difference).astype(int), return_counts=True)
    for size, number in zip(sizes, numbers, strict=True):
        if size:
            spaced = np.zeros(size * number + 1)
            spaced[::size] = binom.pmf(np.arange(number + 1), number, 0.5)
            chance = convolve(chance, spaced)
    most = len(chance) - 1
    extreme = np.abs(2 * np.arange(most + 1) - most) >= abs(difference.sum())
    p_value = min(1.0, float(chance[extreme].clip(min=0).sum()))
    return PairedDifference(float(difference.sum() / totals.sum()), low, high, p_value, len(totals))


def compare(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    first: ArrayLike,
    second: ArrayLike,
    groups: Groups = None,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Compare two models in any statistic, such as a rank correlation, by the paired bootstrap.

    Both are computed on the same resampled groups; the p-value is twice the share of resamples in which the difference
    is not on the side where it mostly is (Davison and Hinkley 1997, section 4.4.1 for the added one). For shares
    prefer [`compare_shares`]: a permutation test is exact, but exchanges the scores of two models, which have to be on
    one scale for that. Correct or wrong is; raw scores are not.

    Args:
        statistic: from a model's scores of some rows and the indices of these rows, shape (any number,) each, to a
            number. Rows can occur several times.
        first, second: scores of the two models, shape (rows,).
        groups: see `Groups`.
        samples: number of resamples; the p-value cannot be below 2 / (samples + 1).
        seed: of the bootstrap.

    Returns:
        The comparison; resamples that leave the difference undefined don't count, and all is NaN where it is itself.
    """
    first = finite("first", first)
    second = finite("second", second, len(first))

    def difference(rows: np.ndarray) -> float:
        return statistic(first[rows], rows) - statistic(second[rows], rows)

    index, names = group_index(groups, len(first))
    if not len(first):
        return PairedDifference(np.nan, np.nan, np.nan, np.nan, 0)
    members = _members(index, len(names))
    values = np.array(
        [
            difference(np.concatenate([members[group] for group in one]))
            for drawn in resampled_groups(len(names), samples, seed)
            for one in drawn
        ]
    )
    low, high = _percentiles(values, len(names))
    values = values[~np.isnan(values)]
    beyond = min((values <= 0).sum(), (values >= 0).sum()) + 1
    p_value = np.nan if np.isnan(low) else min(1.0, float(2 * beyond / (len(values) + 1)))
    return PairedDifference(float(difference(np.arange(len(first)))), low, high, p_value, len(names))


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values of a family of tests adjusted by Holm's step-down method (Holm 1979), NaN where one is.

    Rejecting those of at most alpha keeps the probability of any false rejection in the family below alpha, however
    the tests depend on each other.

    Args:
        p_values: shape (tests,); NaN where a test could not be made, which then isn't one of the family.

    Returns:
        Shape (tests,), each at least as large as its p-value and at most 1.
    """
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)[: int((~np.isnan(p_values)).sum())]
    adjusted = np.full(len(p_values), np.nan)
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def resampled_groups(groups: int, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Indices of drawn groups, shape (some samples, groups), until there are `samples` of them."""
    rng = np.random.default_rng(seed)
    at_a_time = max(1, DRAWN_AT_A_TIME // max(1, groups))
    for start in range(0, samples if groups else 0, at_a_time):
        yield rng.integers(groups, size=(min(at_a_time, samples - start), groups))


def _resampled_ratio(numerators: np.ndarray, denominators: np.ndarray, seed: int) -> np.ndarray:
    draws = resampled_groups(len(numerators), seed=seed)
    return np.concatenate([_divide(numerators[drawn].sum(axis=1), denominators[drawn].sum(axis=1)) for drawn in draws])


def _weights(drawn: np.ndarray, groups: int) -> np.ndarray:
    """How often each group was drawn, shape (samples, groups)."""
    flat = (drawn + groups * np.arange(len(drawn))[:, None]).ravel()
    return np.bincount(flat, minlength=len(drawn) * groups).reshape(len(drawn), groups)


def _members(index: np.ndarray, groups: int) -> list[np.ndarray]:
    """The rows of each group."""
    return np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index, minlength=groups))[:-1])


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _percentiles(values: np.ndarray, groups: int) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if groups < 2 or 2 * len(defined) < len(values):
        return np.nan, np.nan
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
