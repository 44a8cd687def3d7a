"""How well annotators agree: exact agreement, quadratic-weighted kappa, Krippendorff's alpha, with intervals.

The coefficients are those of scikit-learn and of the `krippendorff` package. Their intervals resample whole groups, as
the candidates of a group are not independent of each other. All of them are functions of a table of counts that adds
up over groups, so a resample is a weighted sum of the groups' tables; the formulas below evaluate many at a time.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import krippendorff
import numpy as np
from sklearn.metrics import cohen_kappa_score

from editreward.groups.ratings import SCALE, Rating
from editreward.statistics.checks import group_index
from editreward.statistics.estimate import NAN, Estimate, Share
from editreward.statistics.resampling import blocks, divide, percentiles, resampled_sums

OVERALL = "overall"
"""Name of the sum of all dimensions' scores, where it stands beside the dimensions."""

RESAMPLES = 1000


@dataclass(frozen=True)
class PairAgreement:
    """Agreement of two annotators in one dimension. The total of each estimate is the number of candidates.

    Attributes:
        first, second: the annotators.
        groups, candidates: how many both rated.
        exact: share of candidates that got the same score from both.
        kappa: Cohen's kappa with quadratic weights (Cohen 1968) over the whole scale.
    """

    first: str
    second: str
    groups: int
    candidates: int
    exact: Share
    kappa: Estimate


@dataclass(frozen=True)
class Agreement:
    """Agreement of all annotators in one dimension. The total of each estimate is the number of candidates.

    Attributes:
        dimension: the dimension, or `OVERALL` for the sum.
        groups, candidates: how many at least two annotators rated.
        exact: share of pairs of scores of one candidate that are equal.
        unanimous: share of those candidates that got one score from all who rated it.
        alpha: Krippendorff's alpha for ordinal data.
        pairs: every two annotators who have a candidate in common.
        scores: every score of the scale.
        confusion: how often two annotators gave a candidate the scores (row, column), each pair counted both ways;
            shape (scores, scores).
    """

    dimension: str
    groups: int
    candidates: int
    exact: Share
    unanimous: Share
    alpha: Estimate
    pairs: list[PairAgreement]
    scores: list[int]
    confusion: list[list[int]]


def dimensions_of_ratings(ratings: Iterable[Rating]) -> list[str]:
    """The dimensions that occur, in the order of their first occurrence."""
    return list(dict.fromkeys(dimension for rating in ratings for dimension in rating.scores))


def with_overall(ratings: Iterable[Rating], dimensions: Sequence[str]) -> list[dict[str, float]]:
    """The scores of each rating and, where none is missing, their sum as `OVERALL`."""
    scores = []
    for rating in ratings:
        complete = all(dimension in rating.scores for dimension in dimensions)
        scores.append(rating.scores | ({OVERALL: sum(rating.scores[d] for d in dimensions)} if complete else {}))
    return scores


def agreement(
    ratings: Sequence[Rating], dimension: str, dimensions: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Agreement:
    """Agreement in one dimension.

    Args:
        ratings: of any number of annotators, who need not have rated the same candidates.
        dimension: one of `dimensions`, or `OVERALL` for their sum.
        dimensions: all dimensions, whose sum is the overall score.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: a score is not on the scale.
    """
    annotators, groups, scores = score_table(ratings, dimension, dimensions)
    low, high = scale_of(dimension, dimensions)
    values = np.arange(low, high + 1)
    compared = (~np.isnan(scores)).sum(axis=0) >= 2
    scores = scores[:, compared]
    of_group, names = group_index(
        [group for group, kept in zip(groups, compared, strict=True) if kept], compared.sum()
    )
    raters = (~np.isnan(scores)).sum(axis=0)
    counts, coincidences = (np.zeros((len(names), len(values), len(values))) for _ in range(2))
    pairs = []
    for first, second in combinations(range(len(annotators)), 2):
        both = np.flatnonzero(~np.isnan(scores[first]) & ~np.isnan(scores[second]))
        if not len(both):
            continue
        place = of_group[both], *(np.searchsorted(values, scores[row, both]) for row in (first, second))
        tables = np.zeros(counts.shape)
        np.add.at(tables, place, 1)
        counts += tables
        # Krippendorff 2011: each pair of a unit's values counts 1 / (values of the unit - 1), in both directions.
        np.add.at(coincidences, place, 1 / (raters[both] - 1))
        kappa = quadratic_kappa(scores[first, both], scores[second, both], values)
        of_both = tables[np.unique(of_group[both])]
        pairs.append(_pair_agreement(annotators[first], annotators[second], kappa, of_both, resamples, seed))
    same = np.array([len(set(column[~np.isnan(column)])) == 1 for column in scores.T], dtype=float)
    unanimous = np.bincount(of_group, same, len(names)), np.bincount(of_group, minlength=len(names))
    total = len(raters)
    alpha, coincidences = ordinal_alpha(scores), coincidences + coincidences.swapaxes(1, 2)
    return Agreement(
        dimension=dimension,
        groups=len(names),
        candidates=total,
        exact=_share(*_equal(counts), total, resamples, seed),
        unanimous=_share(*unanimous, total, resamples, seed),
        alpha=Estimate(alpha, *_interval(coincidences, alpha_of_tables, resamples, seed), total),
        pairs=pairs,
        scores=values.tolist(),
        confusion=(counts + counts.swapaxes(1, 2)).sum(axis=0).astype(int).tolist(),
    )


def _pair_agreement(
    first: str, second: str, kappa: float, tables: np.ndarray, resamples: int, seed: int
) -> PairAgreement:
    """Of two annotators, from how often they gave which scores in each group, shape (groups, scores, scores)."""
    total = int(tables.sum())
    return PairAgreement(
        first=first,
        second=second,
        groups=len(tables),
        candidates=total,
        exact=_share(*_equal(tables), total, resamples, seed),
        kappa=Estimate(kappa, *_interval(tables, kappa_of_tables, resamples, seed), total),
    )


def scale_of(dimension: str, dimensions: Sequence[str]) -> tuple[int, int]:
    """Lowest and highest score: the rubric's, or for `OVERALL` that of the sum."""
    factor = len(dimensions) if dimension == OVERALL else 1
    return SCALE[0] * factor, SCALE[1] * factor


def score_table(
    ratings: Sequence[Rating], dimension: str, dimensions: Sequence[str]
) -> tuple[list[str], list[str], np.ndarray]:
    """Annotators, the group of each candidate, and scores of shape (annotators, candidates), NaN where there is none.

    Candidates stand in the order of (group, index).

    Raises:
        ValueError: an annotator rates a candidate twice, or a score is not a whole number of the scale.
    """
    given: dict[tuple[str, int], dict[str, float]] = {}
    low, high = scale_of(dimension, dimensions)
    for rating, scores in zip(ratings, with_overall(ratings, dimensions), strict=True):
        if dimension not in scores:
            continue
        of_candidate = given.setdefault((rating.group_id, rating.candidate), {})
        what = f"candidate {rating.candidate} of group {rating.group_id}"
        if rating.annotator in of_candidate:
            raise ValueError(f"{rating.annotator} rates {what} twice.")
        if scores[dimension] not in range(low, high + 1):
            raise ValueError(
                f"{rating.annotator} rates {what} {scores[dimension]} in {dimension}: a whole number from {low} to "
                f"{high} is needed."
            )
        of_candidate[rating.annotator] = scores[dimension]
    annotators = sorted({name for of_candidate in given.values() for name in of_candidate})
    keys = sorted(given)
    row = {name: index for index, name in enumerate(annotators)}
    table = np.full((len(annotators), len(keys)), NAN)
    for column, key in enumerate(keys):
        for name, score in given[key].items():
            table[row[name], column] = score
    return annotators, [group for group, _ in keys], table


def quadratic_kappa(first: np.ndarray, second: np.ndarray, values: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights, by scikit-learn; NaN where both always give one and the same score.

    Args:
        first, second: scores of the same candidates, shape (candidates,).
        values: every score of the scale, used or not: weights are squared distances on it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, where kappa is undefined
        return float(cohen_kappa_score(first, second, labels=values, weights="quadratic"))


def ordinal_alpha(scores: np.ndarray) -> float:
    """Krippendorff's alpha for ordinal data, by the `krippendorff` package; NaN where all scores are the same.

    Args:
        scores: shape (annotators, candidates), NaN where there is none. Candidates with one score don't count.
    """
    compared = scores[:, (~np.isnan(scores)).sum(axis=0) >= 2]
    if len(np.unique(compared[~np.isnan(compared)])) < 2:
        return NAN
    return float(krippendorff.alpha(reliability_data=compared, level_of_measurement="ordinal"))


def kappa_of_tables(tables: np.ndarray) -> np.ndarray:
    """Quadratic-weighted kappa of tables of counts, shape (..., scores, scores) to (...); NaN where undefined."""
    position = np.arange(tables.shape[-1])
    weight = (position[:, None] - position[None, :]) ** 2
    total = tables.sum(axis=(-2, -1))
    expected = (tables.sum(axis=-1)[..., :, None] * tables.sum(axis=-2)[..., None, :] * weight).sum(axis=(-2, -1))
    return 1 - divide(total * (tables * weight).sum(axis=(-2, -1)), expected)


def alpha_of_tables(tables: np.ndarray) -> np.ndarray:
    """Ordinal alpha of coincidence matrices, shape (..., scores, scores) to (...); NaN where undefined.

    Krippendorff 2011, section C: 1 - (n - 1) sum o_ck d_ck / sum n_c n_k d_ck, with the ordinal difference
    d_ck = (n_c / 2 + n_(c+1) + ... + n_(k-1) + n_k / 2) ** 2.
    """
    count = tables.sum(axis=-1)
    middle = np.cumsum(count, axis=-1) - count / 2
    difference = (middle[..., :, None] - middle[..., None, :]) ** 2
    observed = (tables * difference).sum(axis=(-2, -1))
    expected = (count[..., :, None] * count[..., None, :] * difference).sum(axis=(-2, -1))
    return 1 - divide((count.sum(axis=-1) - 1) * observed, expected)


def _equal(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal scores and all scores of each group, shape (groups,) each."""
    return np.trace(tables, axis1=1, axis2=2), tables.sum(axis=(1, 2))


def _share(successes: np.ndarray, totals: np.ndarray, candidates: int, resamples: int, seed: int) -> Share:
    counts = np.stack([successes, totals], axis=-1).astype(float)

    def share(sums: np.ndarray) -> np.ndarray:
        return divide(sums[..., 0], sums[..., 1])

    return Share(float(share(counts.sum(axis=0))), *_interval(counts, share, resamples, seed), candidates)


def _interval(
    tables: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], resamples: int, seed: int
) -> tuple[float, float]:
    """95 % interval of a statistic of sums of the groups' tables, shape (groups, ...)."""
    groups = len(tables)
    if groups < 2:
        return NAN, NAN
    # Drawn alike in `group_weights`, but published intervals come from this stream of random numbers.
    rng = np.random.default_rng(seed)
    weights = (rng.multinomial(groups, np.full(groups, 1 / groups), n) for n in blocks(groups, resamples))
    return percentiles(statistic(resampled_sums(tables, weights)), groups)
