"""Metrics, calibration and the evaluation on simulated groups."""

from editreward.evaluation.calibration import CalibrationError, calibration_error, fit_calibration
from editreward.evaluation.metrics import Share, pair_accuracy, strict_ranking_accuracy

__all__ = [
    "CalibrationError",
    "Share",
    "calibration_error",
    "fit_calibration",
    "pair_accuracy",
    "strict_ranking_accuracy",
]
