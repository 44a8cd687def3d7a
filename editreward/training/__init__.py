"""Training of reward models: arguments, collator, losses, trainer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editreward.training.arguments import EditRewardTrainingArguments as EditRewardTrainingArguments
    from editreward.training.collator import EditGroupCollator as EditGroupCollator
    from editreward.training.trainer import EditRewardTrainer as EditRewardTrainer

__all__ = ["EditGroupCollator", "EditRewardTrainer", "EditRewardTrainingArguments"]

_MODULES = {
    "EditGroupCollator": "collator",
    "EditRewardTrainer": "trainer",
    "EditRewardTrainingArguments": "arguments",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: scoring needs `training.losses`, and must not need the `train` extra.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
