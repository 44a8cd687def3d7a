"""Training of reward models: arguments, collator, losses, trainer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editreward.training.arguments import EditRewardTrainingArguments as EditRewardTrainingArguments
    from editreward.training.collator import EditGroupCollator as EditGroupCollator
    from editreward.training.trainer import EditRewardTrainer as EditRewardTrainer

__all__ = ["EditGroupCollator", "EditRewardTrainer", "EditRewardTrainingArguments"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: scoring needs `training.losses`, and must not need the `train` extra.
    if name == "EditGroupCollator":
        from editreward.training.collator import EditGroupCollator

        return EditGroupCollator
    if name == "EditRewardTrainer":
        from editreward.training.trainer import EditRewardTrainer

        return EditRewardTrainer
    if name == "EditRewardTrainingArguments":
        from editreward.training.arguments import EditRewardTrainingArguments

        return EditRewardTrainingArguments
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
