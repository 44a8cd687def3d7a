"""Stress for a reward model: does the score stay where it should, and fall where it should? See docs/robustness.md.

`stresses` has the list, and is the place for the next one.
"""

from editreward.benchmarks.robustness.data import StressData, simulated, stored
from editreward.benchmarks.robustness.report import RobustnessResult
from editreward.benchmarks.robustness.run import run_robustness
from editreward.benchmarks.robustness.stresses import STRESSES, Stress

__all__ = ["STRESSES", "RobustnessResult", "Stress", "StressData", "run_robustness", "simulated", "stored"]
