"""EditReward: a reward model for instruction-guided image editing."""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from editreward import moved
from editreward.groups import CandidateScore as CandidateScore
from editreward.groups import DimensionScore as DimensionScore
from editreward.groups import EditGroup as EditGroup
from editreward.groups import GroupScores as GroupScores
from editreward.groups import Unscored as Unscored
from editreward.scorers.registry import load_scorer as load_scorer

if TYPE_CHECKING:
    from editreward.scorers.loading import ModelError as ModelError
    from editreward.scorers.reward_model import EditRewardScorer as EditRewardScorer
    from editreward.scorers.reward_model import ScoringError as ScoringError
    from editreward.scorers.reward_model import SkippedGroup as SkippedGroup

__version__ = "0.1.0"

# Loaded on first use: importing torch takes seconds, and `editreward --help` needs none of it.
_LAZY = {
    "EditRewardScorer": "editreward.scorers.reward_model",
    "ModelError": "editreward.scorers.loading",
    "ScoringError": "editreward.scorers.reward_model",
    "SkippedGroup": "editreward.scorers.reward_model",
}

__all__ = [
    "CandidateScore",
    "DimensionScore",
    "EditGroup",
    "EditRewardScorer",
    "GroupScores",
    "ModelError",
    "ScoringError",
    "SkippedGroup",
    "Unscored",
    "load_scorer",
]
moved.install()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in moved.RENAMED:
        new = moved.RENAMED[name]
        warnings.warn(
            f"editreward.{name} is editreward.{new} now; the old name goes away in 1.0.",
            DeprecationWarning,
            stacklevel=2,
        )
        return globals()[new]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
