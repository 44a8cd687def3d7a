"""EditReward: a reward model for instruction-guided image editing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editreward.scoring import BestEdit as BestEdit
    from editreward.scoring import DimensionScore as DimensionScore
    from editreward.scoring import EditRewardScorer as EditRewardScorer
    from editreward.scoring import EditScore as EditScore
    from editreward.scoring import ModelError as ModelError
    from editreward.scoring import ScoringError as ScoringError
    from editreward.scoring import SkippedGroup as SkippedGroup

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


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing torch takes seconds, and `editreward --help` needs none of it.
    if name in __all__:
        from editreward import scoring

        return getattr(scoring, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
