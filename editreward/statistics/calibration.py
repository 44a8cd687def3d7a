"""Raw means and standard deviations onto the annotation scale, and how far off the result is.

A dimension's calibration is plain data, saved in a model's config: `intercept` and `slope` of the map of raw means,
and, where there are groups enough, `std_factor`, by which the standard deviations are multiplied beyond the slope so
that intervals hold what they say, with what was measured of them on groups that the fit did not see.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

# The scale of the annotation rubric, onto which raw means are mapped.
SCALE = (1.0, 4.0)
FOLDS = 5
# The central interval that a standard deviation's factor is chosen for, and those that are looked at.
LEVEL = 0.95
LEVELS = (0.5, 0.8, 0.95)
# Numbers that differ by less than this share of their size are the same but for rounding in float32.
ROUNDING = 1e-6


@dataclass(frozen=True)
class CalibrationError:
    """Errors of calibrated scores against annotated scores, in points of the scale.

    Attributes:
        rmse: root mean square error.
        mae: mean absolute error.
        rmse_of_mean: root mean square error of predicting the mean score of the fitting data for everything.
        coverage: share of scores within 1.96 standard deviations of the calibrated mean, the central interval of 95 %.
        coverage_50, coverage_80: the same of the central intervals of 50 and 80 %.
        std_correlation: rank correlation (Spearman) of the absolute error with the standard deviation: whether large
            standard deviations tell large errors. 0 where one of the two is the same for all.
    """

    rmse: float
    mae: float
    rmse_of_mean: float
    coverage: float
    coverage_50: float
    coverage_80: float
    std_correlation: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def fit_calibration(means: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Least-squares affine map `intercept + slope * mean` of raw means onto annotated scores.

    Args:
        means, scores: shape (candidates,), of all groups together.

    Raises:
        ValueError: the means are all the same, or the fit is not increasing: the model does not predict these scores.
    """
    means, scores = np.asarray(means, dtype=float), np.asarray(scores, dtype=float)
    if np.ptp(means) <= ROUNDING * np.abs(means).max():
        raise ValueError(f"All its scores are {means[0]:.6g}: it tells no edit from another and cannot be calibrated.")
    spread = means - means.mean()
    slope = float(spread @ (scores - scores.mean()) / max(spread @ spread, np.finfo(float).tiny))
    if not slope > 0:
        raise ValueError(
            f"The best affine map from the model's means to the scores has slope {slope:.3g}, so that it would turn "
            "the ranking around. The model does not predict these scores; it cannot be calibrated on them."
        )
    return {"intercept": float(scores.mean() - slope * means.mean()), "slope": slope}


def conformal_factor(ratios: Sequence[np.ndarray], level: float = LEVEL) -> float | None:
    """What standard deviations must be multiplied by so that the central interval of `level` holds that share.

    The conformal quantile of |error| / std over groups, divided by the normal distribution's. Candidates of one group
    are not independent, groups are: each group has the same weight, spread over its candidates, and one more, of which
    nothing is known, stands at infinity. Then a random candidate of a new group lies within the interval with a
    probability of `level` or more (hierarchical conformal prediction: Lee, Barber and Willett, arXiv 2306.06342).

    Args:
        ratios: |error| / std of each group's candidates, shape (candidates,), on groups that the mean was not fitted
            on; standard deviations of 0 give infinity.
        level: between 0 and 1.

    Returns:
        The factor; None where there are too few groups for the level (19 are needed for 0.95), or no finite factor
        above 0 does it.
    """
    groups = [group for group in ratios if len(group)]
    if not groups:
        return None
    values = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups]) / (len(groups) + 1)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) >= level - 1e-12
    if not reached.any():
        return None
    factor = float(values[order[np.argmax(reached)]]) / _normal_quantile(level)
    return factor if 0 < factor < float("inf") else None


def calibration_error(
    means: ArrayLike, stds: ArrayLike, scores: ArrayLike, fitted_mean: ArrayLike
) -> CalibrationError:
    """Error of calibrated scores on groups that the calibration was not fitted on.

    Args:
        means, stds: calibrated means and standard deviations, shape (candidates,).
        scores: annotated scores, shape (candidates,).
        fitted_mean: mean score of the data that the calibration was fitted on, one or one for each candidate.
    """
    means, stds, scores = (np.asarray(values, dtype=float) for values in (means, stds, scores))
    error = means - scores
    fitted_mean = np.asarray(fitted_mean, dtype=float)
    coverage = {level: float(np.mean(np.abs(error) <= _normal_quantile(level) * stds)) for level in LEVELS}
    return CalibrationError(
        rmse=float(np.sqrt(np.mean(error**2))),
        mae=float(np.mean(np.abs(error))),
        rmse_of_mean=float(np.sqrt(np.mean((fitted_mean - scores) ** 2))),
        coverage=coverage[0.95],
        coverage_50=coverage[0.5],
        coverage_80=coverage[0.8],
        std_correlation=rank_correlation(np.abs(error), stds),
    )


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's correlation, ties with their mean rank; 0 where a side is the same for all."""
    ranks = []
    for values in (first, second):
        _, place, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    (a, b) = (rank - rank.mean() for rank in ranks)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def calibrate_groups(
    means: Sequence[np.ndarray], stds: Sequence[np.ndarray], scores: Sequence[np.ndarray]
) -> tuple[dict[str, float], CalibrationError]:
    """Fit one dimension on annotated groups and say how far off the result is on groups that it was not fitted on.

    The error is cross-validated: each fifth of the groups is calibrated by a fit on the others. Whole groups, since an
    offset between groups is what pair losses leave open. The factor of the standard deviations comes from the same
    held-out errors.

    Args:
        means, stds, scores: for each group an array of shape (candidates,): raw means and standard deviations, and
            annotated scores, NaN where there is none.

    Returns:
        The calibration, `intercept` and `slope` fitted on all groups, `groups`, their number, and, where there are
        groups enough and most standard deviations would not be wider than the scale, `std_factor` with `coverage_50`,
        `coverage_80`, `coverage_95` and `std_correlation`; and its error, with the standard deviations as they are
        where there is no factor.

    Raises:
        ValueError: there is nothing to fit on: scores in fewer than five groups, scores outside of 1..4, or a fit that
            is not increasing.
    """
    groups = _known(means, stds, scores)
    all_means, _, all_scores = (np.concatenate(column) for column in zip(*groups, strict=True))
    fitted: dict[str, float] = {**fit_calibration(all_means, all_scores), "groups": len(groups)}
    folds = [_held_out(groups, fold) for fold in range(FOLDS)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [[np.nan_to_num(np.abs(m - y) / s, nan=0.0) for m, s, y, _ in fold] for fold in folds]
    factor = conformal_factor([ratio for fold in ratios for ratio in fold])
    # The coverage of a fold is that of the factor of the other folds.
    of_others = [
        conformal_factor([ratio for other, fold in enumerate(ratios) if other != left for ratio in fold])
        for left in range(FOLDS)
    ]
    if factor is None or None in of_others or factor * np.median(_stds(folds)) > SCALE[1] - SCALE[0]:
        factor = None
    held_out = [
        (m, s if factor is None else s * (of_others[left] or 0.0), y, mean)
        for left, fold in enumerate(folds)
        for m, s, y, mean in fold
    ]
    error = calibration_error(*(np.concatenate(column) for column in zip(*held_out, strict=True)))
    if factor is not None:
        fitted |= {
            "std_factor": factor,
            "coverage_50": error.coverage_50,
            "coverage_80": error.coverage_80,
            "coverage_95": error.coverage,
            "std_correlation": error.std_correlation,
        }
    return fitted, error


def _stds(folds: Sequence[Sequence[tuple[np.ndarray, ...]]]) -> np.ndarray:
    return np.concatenate([std for fold in folds for _, std, *_ in fold])


def _known(
    means: Sequence[np.ndarray], stds: Sequence[np.ndarray], scores: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What has a score, group by group; a `ValueError` where it is too little or on another scale."""
    known = [np.isfinite(score) for score in scores]
    groups = [
        (mean[chosen], std[chosen], score[chosen])
        for mean, std, score, chosen in zip(means, stds, scores, known, strict=True)
        if chosen.any()
    ]
    if len(groups) < FOLDS:
        what = "no group has scores, only preferences" if not groups else f"only {len(groups)} groups have scores"
        raise ValueError(f"{what}; a calibration needs scores in at least {FOLDS}")
    low, high = min(score.min() for *_, score in groups), max(score.max() for *_, score in groups)
    if not (SCALE[0] <= low and high <= SCALE[1]):
        raise ValueError(
            f"scores run from {low:g} to {high:g}, which is not the annotation rubric's "
            f"scale, {SCALE[0]:g} to {SCALE[1]:g}"
        )
    return groups


def _held_out(
    groups: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], fold: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """A fold's calibrated means, standard deviations, scores and the mean score of the others, by a fit on these."""
    fitted, _, fitted_scores = (
        np.concatenate(column)
        for column in zip(*(group for i, group in enumerate(groups) if i % FOLDS != fold), strict=True)
    )
    line = fit_calibration(fitted, fitted_scores)
    return [
        (line["intercept"] + line["slope"] * m, line["slope"] * s, y, np.full_like(y, fitted_scores.mean()))
        for m, s, y in groups[fold::FOLDS]
    ]


def _normal_quantile(level: float) -> float:
    """Half the width of the central interval of `level`, in standard deviations."""
    return NormalDist().inv_cdf((1 + level) / 2)
