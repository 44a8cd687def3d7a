"""Rank correlation of scores with ratings: pooled, per editing model, per prompt; and of people with people."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from editreward.statistics.checks import finite, group_index

Method = Literal["spearman", "kendall"]


def correlation(scores: ArrayLike, truths: ArrayLike, method: Method = "spearman") -> float:
    """Spearman's rho, Pearson's correlation of mid-ranks, or Kendall's tau-b.

    Args:
        scores, truths: shape (rows,).
        method: `spearman` or `kendall`.

    Returns:
        -1 to 1; NaN where either is constant or there are fewer than two rows.

    Raises:
        ValueError: a value is not finite; its row is named. Or the method is unknown.
    """
    scores = finite("scores", scores)
    truths = finite("truths", truths, len(scores))
    return _correlation(scores, truths, method)


def fisher_average(correlations: ArrayLike, rows: ArrayLike, method: Method = "spearman") -> float:
    """Average of rank correlations through Fisher's z: tanh of the mean of artanh(r).

    A correlation of 1 has an infinite z, which one editing model with few images would impose on all. So |r| counts as
    half a step below 1 at most, where a step is what exchanging two neighbours in a ranking of n costs:
    12 / (n (n^2 - 1)) for Spearman, 4 / (n (n - 1)) for Kendall. (Two rows, whose correlation is always 1 or -1, thus
    count as 0.)

    Args:
        correlations: shape (correlations,).
        rows: number of rows that each is of, 2 or more.
        method: `spearman` or `kendall`.

    Returns:
        -1 to 1; NaN without a correlation.
    """
    correlations = finite("correlations", correlations)
    rows = finite("rows", rows, len(correlations))
    if not len(correlations):
        return float("nan")
    step = 12 / (rows * (rows**2 - 1)) if method == "spearman" else 4 / (rows * (rows - 1))
    most = 1 - step / 2
    return float(np.tanh(np.arctanh(np.clip(correlations, -most, most)).mean()))


def mean_then_tanh(correlations: ArrayLike) -> float:
    """What the published script of ImagenHub computes: tanh of the mean of the plain correlations.

    It is not Fisher's average: without artanh before the mean, tanh only shrinks it (0.50 to 0.46).

    Args:
        correlations: shape (correlations,).

    Returns:
        -0.76 to 0.76; NaN without a correlation.
    """
    correlations = finite("correlations", correlations)
    return float(np.tanh(correlations.mean())) if len(correlations) else float("nan")


@dataclass(frozen=True)
class GroupedCorrelation:
    """Correlations within subsets of the rows, such as those of one editing model, and their averages.

    Attributes:
        by_subset: the correlation in each subset whose truth varies; 0 where the scores are constant, as they then
            order nothing.
        rows: number of rows of each of these.
        fisher: [`fisher_average`] of them.
        mean: their plain mean.
        mean_then_tanh: [`mean_then_tanh`] of them.
        constant_scores: the subsets that count as 0.
        constant_truths: the subsets left out: there is nothing to find, whatever the scores.
    """

    by_subset: dict[Hashable, float]
    rows: dict[Hashable, int]
    fisher: float
    mean: float
    mean_then_tanh: float
    constant_scores: list[Hashable]
    constant_truths: list[Hashable]


def grouped_correlation(
    scores: ArrayLike, truths: ArrayLike, subsets: Sequence[Hashable] | np.ndarray, method: Method = "spearman"
) -> GroupedCorrelation:
    """Rank correlation within each subset of the rows, averaged over the subsets with equal weight.

    Per editing model it is ImagenHub's protocol (report `fisher`); per prompt it asks whether the edits of one source
    and instruction are ranked as people rank them (report `mean`, as many are 1 where a prompt has few edits; its
    interval is that of [`mean_of_groups`] over `by_subset`).

    Args:
        scores, truths: shape (rows,).
        subsets: each row's editing model or prompt.
        method: `spearman` or `kendall`.

    Raises:
        ValueError: a value is not finite; its row is named.
    """
    scores = finite("scores", scores)
    truths = finite("truths", truths, len(scores))
    index, names = group_index(subsets, len(scores))
    by_subset: dict[Hashable, float] = {}
    rows: dict[Hashable, int] = {}
    constant_scores, constant_truths = [], []
    for number, name in enumerate(names):
        score, truth = scores[index == number], truths[index == number]
        if (truth == truth[0]).all():
            constant_truths.append(name)
            continue
        found = _correlation(score, truth, method)
        if np.isnan(found):
            constant_scores.append(name)
        by_subset[name], rows[name] = (0.0 if np.isnan(found) else found), len(score)
    values = list(by_subset.values())
    return GroupedCorrelation(
        by_subset=by_subset,
        rows=rows,
        fisher=fisher_average(values, list(rows.values()), method),
        mean=float(np.mean(values)) if values else float("nan"),
        mean_then_tanh=mean_then_tanh(values),
        constant_scores=constant_scores,
        constant_truths=constant_truths,
    )


def z_normalised(values: ArrayLike, subsets: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """Values minus the mean of their subset, over its standard deviation (of the population); 0 where it is constant.

    Args:
        values: shape (rows,).
        subsets: each row's prompt, or whatever sets a level and a spread of its own.

    Raises:
        ValueError: a value is not finite; its row is named.
    """
    values = finite("values", values)
    index, names = group_index(subsets, len(values))
    counts = np.bincount(index, minlength=len(names))
    centred = values - (np.bincount(index, values, len(names)) / counts)[index]
    std = np.sqrt(np.bincount(index, centred**2, len(names)) / counts)
    # What is left of a constant after subtracting its mean is rounding.
    scale = np.zeros(len(names))
    np.maximum.at(scale, index, np.abs(values))
    varies = (std > 1e-12 * scale)[index]
    return np.divide(centred, std[index], out=np.zeros(len(values)), where=varies)


def z_normalised_correlation(
    scores: ArrayLike, truths: ArrayLike, subsets: Sequence[Hashable] | np.ndarray, method: Method = "spearman"
) -> float:
    """Rank correlation of all rows together after both sides were normalised within subsets, usually prompts.

    It leaves out what the score says of prompts (easy ones have better edits) and keeps how far apart the edits of one
    prompt are, which [`grouped_correlation`] does not. Subsets whose truth is constant or that have one row are left
    out.

    Args:
        scores, truths: shape (rows,).
        subsets: each row's prompt.
        method: `spearman` or `kendall`.

    Returns:
        -1 to 1; NaN where the scores are constant in every subset, or nothing is left.

    Raises:
        ValueError: a value is not finite; its row is named.
    """
    scores, truths = z_normalised(scores, subsets), z_normalised(truths, subsets)
    index, names = group_index(subsets, len(scores))
    varies = (np.bincount(index, np.abs(truths), len(names)) > 0)[index]
    return correlation(scores[varies], truths[varies], method)


@dataclass(frozen=True)
class HumanAgreement:
    """People against people, in a statistic that judges models too.

    Attributes:
        value: mean over the raters.
        by_rater: each rater against the mean of the others; NaN, which does not count, where that is undefined.
        rows: number of rows of each that somebody else rated too.
    """

    value: float
    by_rater: list[float]
    rows: list[int]


def human_to_human(
    ratings: ArrayLike, statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
) -> HumanAgreement:
    """Each rater against the mean of the others (leave-one-out): how far a judge can be expected to get.

    A model is compared with the mean of all raters, which is less noisy than that of all but one; a model can exceed
    this number without exceeding people.

    Args:
        ratings: shape (raters, rows), NaN where a rater has not rated.
        statistic: from one rater's ratings, the means of the others and the indices of these rows, shape (rows,) each,
            to a number: `lambda rating, others, rows: grouped_correlation(rating, others, models[rows]).fisher`.

    Raises:
        ValueError: fewer than two raters, or an infinite rating.
    """
    ratings = np.asarray(ratings, dtype=float)
    if ratings.ndim != 2 or len(ratings) < 2:
        raise ValueError(f"ratings must have the shape (raters, rows) with two raters or more, not {ratings.shape}")
    for rater, row in np.argwhere(np.isinf(ratings)):
        raise ValueError(f"ratings: row {row} of rater {rater} is {ratings[rater, row]}")
    given = ~np.isnan(ratings)
    sums, counts = np.where(given, ratings, 0).sum(axis=0), given.sum(axis=0)
    by_rater, number = [], []
    for rating, rated in zip(ratings, given, strict=True):
        rows = np.flatnonzero(rated & (counts > 1))
        others = (sums[rows] - rating[rows]) / (counts[rows] - 1)
        by_rater.append(float(statistic(rating[rows], others, rows)) if len(rows) else float("nan"))
        number.append(len(rows))
    defined = [value for value in by_rater if not np.isnan(value)]
    return HumanAgreement(float(np.mean(defined)) if defined else float("nan"), by_rater, number)


def _correlation(scores: np.ndarray, truths: np.ndarray, method: Method) -> float:
    if method not in ("spearman", "kendall"):
        raise ValueError(f"the method is {method!r}; it must be 'spearman' or 'kendall'")
    if len(scores) < 2 or (scores == scores[0]).all() or (truths == truths[0]).all():
        return float("nan")
    if method == "kendall":
        from scipy.stats import kendalltau

        return float(kendalltau(scores, truths).statistic)
    # scipy's spearmanr also computes a p-value, which takes most of its time: too much for a bootstrap.
    middle = (len(scores) + 1) / 2
    first, second = _midranks(scores) - middle, _midranks(truths) - middle
    return float(np.clip(first @ second / np.sqrt((first @ first) * (second @ second)), -1, 1))


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
