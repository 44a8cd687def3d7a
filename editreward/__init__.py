"""EditReward: a reward model for instruction-guided image editing."""

from typing import TYPE_CHECKING, Any

from editreward import moved

if TYPE_CHECKING:
    from editreward.scorers.reward_model import BestEdit as BestEdit
    from editreward.scorers.reward_model import DimensionScore as DimensionScore
    from editreward.scorers.reward_model import EditRewardScorer as EditRewardScorer
    from editreward.scorers.reward_model import EditScore as EditScore
    from editreward.scorers.reward_model import ModelError as ModelError
    from editreward.scorers.reward_model import ScoringError as ScoringError
    from editreward.scorers.reward_model import SkippedGroup as SkippedGroup

__version__ = "0.1.0"

__all__ = [
    "BestEdit",
    "DimensionScore",
    "EditRewardScorer",
    "EditScore",
    "ModelError",
    "ScoringError",
    "SkippedGroup",
]

moved.install()


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing torch takes seconds, and `editreward --help` needs none of it.
    if name in __all__:
        from editreward.scorers import reward_model

        return getattr(reward_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
