"""
Train an EditReward model on edit groups.

On simulated groups, from a small vision-language model, on a laptop:

    accelerate launch train_trl.py --config configs/tiny.yaml

On your own annotations (a dataset folder, Parquet files or a Hub dataset in the group schema), from a 7B backbone:

    accelerate launch train_trl.py \
        --model_name_or_path Qwen/Qwen2.5-VL-7B-Instruct --dtype bfloat16 \
        --dataset_name my-annotations --dataset_train_split train \
        --dimension_weight 1.0 --gradient_accumulation_steps 2 --output_dir runs/editreward-7b

Continue a run that was stopped, from its last checkpoint:

    accelerate launch train_trl.py --config configs/tiny.yaml --resume_from_checkpoint true
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk
from transformers import AutoConfig
from trl import ModelConfig, ScriptArguments, TrlParser

from configuration_editreward import EditRewardConfig  # noqa: F401 (registers the model type)
from editreward.simulation import simulate_group
from editreward.training import EditRewardTrainer, EditRewardTrainingArguments
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor


@dataclass
class EditRewardScriptArguments(ScriptArguments):
    """TRL's `ScriptArguments`, the simulated data, and the fields of a new model."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Edit groups: a folder that `datasets` saved, a folder of Parquet files, a Hub id, or 'simulated'."
        },
    )
    simulated_train_groups: int = field(default=20_000, metadata={"help": "Simulated groups to train on."})
    simulated_eval_groups: int = field(default=300, metadata={"help": "Simulated groups to evaluate on."})
    simulated_image_size: int = field(default=112, metadata={"help": "Side of the simulated images, in pixels."})
