"""Intervals that resample whole groups, and the comparison of two models on the same groups.

Rows of one group (the pairs of one source and instruction) are not independent of each other, so groups are what is
drawn, with replacement; intervals are percentiles of the resampled values (Efron 1979). Where all cases come out the
same, such an interval has no width.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from editreward.statistics.checks import finite, group_index
from editreward.statistics.estimate import NAN, Estimate, Share

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BOOTSTRAP_SAMPLES = 2000
# Drawn groups that are held in memory at a time.
DRAWN_AT_A_TIME = 4_000_000

Groups: TypeAlias = Sequence[Hashable] | np.ndarray | None
"""The group of each row, anything hashable; `None`: each row is a group of its own."""


def ratio_estimates(
    numerators: np.ndarray | csr_array,
    denominators: np.ndarray | csr_array,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """Ratios of sums over groups, all of them from the same resamples.

    Args:
        numerators, denominators: of each group, shape (groups, ratios). Denominators are 0 or more; a group where one
            is 0 has no case of that ratio.
        samples: number of resamples.
        seed: of the bootstrap.

    Returns:
        An estimate for each ratio. Its total is the sum of its denominators; it is NaN where that is 0.
    """
    totals = denominators.sum(axis=0)
    values = divide(numerators.sum(axis=0), totals)
    drawn = [
        divide(weights @ numerators, weights @ denominators)
        for weights in group_weights(denominators.shape[0], samples, seed)
    ]
    resampled = np.concatenate(drawn) if drawn else np.empty((0, len(totals)))
    groups = (denominators > 0).sum(axis=0)
    return [
        Estimate(float(value), *percentiles(resampled[:, place], groups[place]), round(float(totals[place])))
        for place, value in enumerate(values)
    ]


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
    [found] = ratio_estimates(successes[:, None], totals[:, None], seed=seed)
    return Share(found.value, found.low, found.high, found.total)


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
    [found] = ratio_estimates(values[:, None], np.ones((len(values), 1)), seed=seed)
    return found


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
        return Share(NAN, NAN, NAN, 0)
    successes, totals = (np.zeros((len(groups_found), len(labels_found))) for _ in range(2))
    np.add.at(successes, (of_group, of_label), right)
    np.add.at(totals, (of_group, of_label), 1)
    drawn = [
        np.nanmean(divide(weights @ successes, weights @ totals), axis=1)
        for weights in group_weights(len(groups_found), seed=seed)
    ]
    low, high = percentiles(np.concatenate(drawn), len(groups_found))
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
    value = float(statistic(np.arange(rows))) if rows else NAN
    index, names = group_index(groups, rows)
    low, high = percentiles(_resampled(statistic, index, len(names), samples, seed), len(names))
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
        return PairedDifference(NAN, NAN, NAN, NAN, 0)
    [found] = ratio_estimates(difference[:, None], totals[:, None], seed=seed)

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
    return PairedDifference(found.value, found.low, found.high, p_value, len(totals))


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
        return PairedDifference(NAN, NAN, NAN, NAN, 0)
    values = _resampled(difference, index, len(names), samples, seed)
    low, high = percentiles(values, len(names))
    values = values[~np.isnan(values)]
    beyond = min((values <= 0).sum(), (values >= 0).sum()) + 1
    p_value = NAN if np.isnan(low) else min(1.0, float(2 * beyond / (len(values) + 1)))
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
    for number in blocks(groups, samples):
        yield rng.integers(groups, size=(number, groups))


def blocks(groups: int, samples: int) -> Iterator[int]:
    """How many of the samples to draw at a time; none where there are no groups."""
    at_a_time = max(1, DRAWN_AT_A_TIME // max(1, groups))
    for start in range(0, samples if groups else 0, at_a_time):
        yield min(at_a_time, samples - start)


def group_weights(groups: int, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each group is drawn by [`resampled_groups`], shape (some samples, groups)."""
    for drawn in resampled_groups(groups, samples, seed):
        flat = (drawn + groups * np.arange(len(drawn))[:, None]).ravel()
        counts = np.bincount(flat, minlength=len(drawn) * groups)
        yield counts.reshape(len(drawn), groups).astype(float)  # a product of whole numbers and floats is slow


def resampled_sums(tables: np.ndarray, weights: Iterable[np.ndarray]) -> np.ndarray:
    """Sums of groups' tables in each resample, shape (groups, ...) to (samples, ...).

    Args:
        tables: numbers of each group that add up over groups, such as counts.
        weights: how often each group is drawn, as of [`group_weights`].
    """
    flat = tables.reshape(len(tables), -1)
    return np.concatenate([drawn.astype(float, copy=False) @ flat for drawn in weights]).reshape(-1, *tables.shape[1:])


def percentiles(values: np.ndarray, groups: int) -> tuple[float, float]:
    """The 95 % interval of resampled values.

    Args:
        values: shape (samples,), NaN where a resample leaves the number undefined.
        groups: number of groups that have a case.

    Returns:
        Low and high; NaN with fewer than two groups, or where more than half of the values are NaN.
    """
    defined = values[~np.isnan(values)]
    if groups < 2 or 2 * len(defined) < len(values):
        return NAN, NAN
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def divide(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Quotients, NaN where the denominator is not above 0."""
    return np.divide(numerators, denominators, out=np.full(numerators.shape, NAN), where=denominators > 0)


def _resampled(
    statistic: Callable[[np.ndarray], float], index: np.ndarray, groups: int, samples: int, seed: int
) -> np.ndarray:
    """A statistic of rows in each resample. `index` is the group of each row."""
    rows = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index, minlength=groups))[:-1])
    return np.array(
        [
            statistic(np.concatenate([rows[group] for group in one]))
            for drawn in resampled_groups(groups, samples, seed)
            for one in drawn
        ]
    )
