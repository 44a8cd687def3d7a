"""The map of raw means onto the annotation scale, and how far off the result is."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike


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


def calibration_error(means: ArrayLike, stds: ArrayLike, scores: ArrayLike, fitted_mean: float) -> CalibrationError:
    """Error of calibrated scores on groups that the calibration was not fitted on.

    Args:
        means, stds: calibrated means and standard deviations, shape (candidates,).
        scores: annotated scores, shape (candidates,).
        fitted_mean: mean score of the data that the calibration was fitted on.
    """
    means, stds, scores = (np.asarray(values, dtype=float) for values in (means, stds, scores))
    error = means - scores
    return CalibrationError(
        rmse=float(np.sqrt(np.mean(error**2))),
        mae=float(np.mean(np.abs(error))),
        rmse_of_mean=float(np.sqrt(np.mean((fitted_mean - scores) ** 2))),
        coverage=float(np.mean(np.abs(error) <= 1.96 * stds)),
    )
