"""The map of raw means onto the annotation scale, and how far off the result is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

# The scale of the annotation rubric, onto which raw means are mapped.
SCALE = (1.0, 4.0)
FOLDS = 5


@dataclass(frozen=True)
class CalibrationError:
    """Errors of calibrated means against annotated scores, in points of the scale.

    Attributes:
        rmse: root mean square error.
        mae: mean absolute error.
        rmse_of_mean: root mean square error of predicting the mean score of the fitting data for everything.
        coverage: share of scores within 1.96 standard deviations of the calibrated mean (0.95 for exact Gaussians).
    """

    rmse: float
    mae: float
    rmse_of_mean: float
    coverage: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def fit_calibration(means: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Least-squares affine map `intercept + slope * mean` of raw means onto annotated scores.

    Args:
        means, scores: shape (candidates,), of all groups together.

    Raises:
        ValueError: the fit is not increasing: the model does not predict these scores.
    """
    means, scores = np.asarray(means, dtype=float), np.asarray(scores, dtype=float)
    spread = means - means.mean()
    slope = float(spread @ (scores - scores.mean()) / max(spread @ spread, np.finfo(float).tiny))
    if not slope > 0:
        raise ValueError(
            f"The best affine map from the model's means to the scores has slope {slope:.3g}, so that it would turn "
            "the ranking around. The model does not predict these scores; it cannot be calibrated on them."
        )
    return {"intercept": float(scores.mean() - slope * means.mean()), "slope": slope}


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
    return CalibrationError(
        rmse=float(np.sqrt(np.mean(error**2))),
        mae=float(np.mean(np.abs(error))),
        rmse_of_mean=float(np.sqrt(np.mean((fitted_mean - scores) ** 2))),
        coverage=float(np.mean(np.abs(error) <= 1.96 * stds)),
    )


def calibrate_groups(
    means: Sequence[np.ndarray], stds: Sequence[np.ndarray], scores: Sequence[np.ndarray]
) -> tuple[dict[str, float], CalibrationError]:
    """Fit one dimension on annotated groups and say how far off the result is on groups that it was not fitted on.

    The error is cross-validated: each fifth of the groups is calibrated by a fit on the others. Whole groups, since an
    offset between groups is what pair losses leave open.

    Args:
        means, stds, scores: for each group an array of shape (candidates,): raw means and standard deviations, and
            annotated scores, NaN where there is none.

    Returns:
        The fit on all groups, as [`fit_calibration`] gives it, and its error.

    Raises:
        ValueError: there is nothing to fit on: scores in fewer than five groups, scores outside of 1..4, or a fit that
            is not increasing.
    """
    known = [np.isfinite(score) for score in scores]
    groups = [
        (mean[chosen], std[chosen], score[chosen])
        for mean, std, score, chosen in zip(means, stds, scores, known, strict=True)
        if chosen.any()
    ]
    if len(groups) < FOLDS:
        what = "no group has scores, only preferences" if not groups else f"only {len(groups)} groups have scores"
        raise ValueError(f"{what}; a calibration needs scores in at least {FOLDS}")
    all_means, _, all_scores = (np.concatenate(column) for column in zip(*groups, strict=True))
    if not (SCALE[0] <= all_scores.min() and all_scores.max() <= SCALE[1]):
        raise ValueError(
            f"scores run from {all_scores.min():g} to {all_scores.max():g}, which is not the annotation rubric's "
            f"scale, {SCALE[0]:g} to {SCALE[1]:g}"
        )
    held_out = []
    for fold in range(FOLDS):
        fitted, _, fitted_scores = (
            np.concatenate(column)
            for column in zip(*(group for i, group in enumerate(groups) if i % FOLDS != fold), strict=True)
        )
        line = fit_calibration(fitted, fitted_scores)
        for mean, std, score in groups[fold::FOLDS]:
            calibrated = line["intercept"] + line["slope"] * mean
            held_out.append((calibrated, line["slope"] * std, score, np.full_like(score, fitted_scores.mean())))
    error = calibration_error(*(np.concatenate(column) for column in zip(*held_out, strict=True)))
    return fit_calibration(all_means, all_scores), error
