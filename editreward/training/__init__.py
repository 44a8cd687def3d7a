"""Training of reward models: arguments, collator, losses, trainer."""

from editreward.training.arguments import EditRewardModelConfig, EditRewardTrainingArguments
from editreward.training.collator import EditGroupCollator
from editreward.training.trainer import EditRewardTrainer

__all__ = ["EditGroupCollator", "EditRewardModelConfig", "EditRewardTrainer", "EditRewardTrainingArguments"]
