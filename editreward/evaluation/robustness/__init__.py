"""Stress for a reward model: does the score stay where it should, and fall where it should? See docs/robustness.md.

`stresses` has the list, and is the place for the next one.
"""

from editreward.evaluation.robustness.data import StressData, simulated, stored
from editreward.evaluation.robustness.report import RobustnessResult
from editreward.evaluation.robustness.run import run_robustness
from editreward.evaluation.robustness.stresses import STRESSES, Stress

__all__ = ["STRESSES", "RobustnessResult", "Stress", "StressData", "run_robustness", "simulated", "stored"]
