"""Training of reward models: arguments, collator, losses, trainer."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editreward.training.arguments import EditRewardModelConfig as EditRewardModelConfig
    from editreward.training.arguments import EditRewardTrainingArguments as EditRewardTrainingArguments
    from editreward.training.collator import EditGroupCollator as EditGroupCollator
    from editreward.training.trainer import EditRewardTrainer as EditRewardTrainer

# Loaded on first use: the trainer and its arguments need TRL, and scripts say in one line where it is missing.
_LAZY = {
    "EditGroupCollator": "editreward.training.collator",
    "EditRewardModelConfig": "editreward.training.arguments",
    "EditRewardTrainer": "editreward.training.trainer",
    "EditRewardTrainingArguments": "editreward.training.arguments",
}

__all__ = ["EditGroupCollator", "EditRewardModelConfig", "EditRewardTrainer", "EditRewardTrainingArguments"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
