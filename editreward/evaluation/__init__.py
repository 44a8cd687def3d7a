"""Metrics, calibration and the evaluation on simulated groups."""

from editreward.evaluation.calibration import (
    CalibrationError,
    calibrate_groups,
    calibration_error,
    fit_calibration,
)
from editreward.evaluation.metrics import (
    Share,
    accuracy_with_ties,
    expected_calibration_error,
    pair_accuracy,
    strict_ranking_accuracy,
)

__all__ = [
    "CalibrationError",
    "Share",
    "accuracy_with_ties",
    "calibrate_groups",
    "calibration_error",
    "expected_calibration_error",
    "fit_calibration",
    "pair_accuracy",
    "strict_ranking_accuracy",
]
