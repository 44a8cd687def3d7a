"""Rows of edit groups, and trainers on them that run on a CPU."""

from pathlib import Path

import torch
from datasets import Dataset

from editreward.training import EditRewardTrainer, EditRewardTrainingArguments, script
from tests.helpers.backbones import build, make_image

ROOT = Path(__file__).parents[2]
DIMENSIONS = ["instruction_following", "visual_quality"]

# A group with a tie in one dimension, one with a null score, one without a usable pair, one with a tie of sums.
SCORES = [
    [(4.0, 3.0), (2.0, 2.0), (1.0, 4.0), (3.0, 2.0)],
    [(1.0, 1.0), (2.0, None), (3.0, 4.0)],
    [(2.0, 3.0), (2.0, 3.0)],
    [(10 / 3, 8 / 3), (4.0, 2.0), (1.0, 1.0)],
]


def make_row(index, scores, preferences=()):
    return {
        "group_id": f"group-{index}",
        "instruction": f"make it number {index}",
        "source_images": [make_image(100 * index)],
        "candidates": [
            {"image": make_image(100 * index + i + 1), "scores": dict(zip(DIMENSIONS, of_candidate, strict=True))}
            for i, of_candidate in enumerate(scores)
        ],
        "preferences": list(preferences),
    }


def make_rows():
    return [make_row(index, scores) for index, scores in enumerate(SCORES)]


def as_dataset(rows) -> Dataset:
    """A dataset of the rows as they are, PIL images and all."""

    def read(batch):
        return {column: [rows[i][column] for i in batch["row"]] for column in rows[0]}

    return Dataset.from_dict({"row": range(len(rows))}).with_transform(read)


ON_A_CPU = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "dataloader_num_workers": 0,
    "save_strategy": "no",
}
"""Options of a run that is quiet and saves nothing."""


def make_arguments(folder, **arguments) -> EditRewardTrainingArguments:
    return EditRewardTrainingArguments(str(folder), **(ON_A_CPU | arguments))


def make_trainer(
    folder, rows, built=None, eval_rows=None, loss_object=None, evaluators=(), **arguments
) -> EditRewardTrainer:
    model, processor = built or build(head_dropout=0.0)
    return EditRewardTrainer(
        model=model,
        args=make_arguments(folder, **arguments),
        train_dataset=as_dataset(rows),
        eval_dataset=as_dataset(eval_rows) if eval_rows else None,
        processing_class=processor,
        loss=loss_object,
        evaluators=evaluators,
    )


def step_of(folder, rows, batch_size, accumulation, **arguments) -> dict[str, torch.Tensor]:
    """What one step of plain gradient descent with learning rate 1 takes from each parameter: the gradient."""
    built = build(head_dropout=0.0)
    built[0].double()
    before = {name: p.detach().clone() for name, p in built[0].named_parameters()}
    trainer = make_trainer(
        folder,
        rows,
        built,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        dimension_weight=1.0,
        **arguments,
    )
    trainer.train()
    return {name: before[name] - p.detach() for name, p in trainer.model.named_parameters()}


def broken(row, change):
    candidates = [dict(candidate) for candidate in row["candidates"]]
    row = row | {"candidates": candidates}
    change(row)
    return row


SCRIPT = [
    "--dataset_name=simulated",
    "--dataset_test_split=validation",
    "--simulated_train_groups=8",
    "--simulated_eval_groups=3",
    "--simulated_image_size=84",
    "--dimension_weight=1.0",
    "--max_steps=2",
    "--use_cpu=true",
    "--bf16=false",
    "--activation_checkpointing=false",
    "--report_to=none",
    "--disable_tqdm=true",
    "--dataloader_pin_memory=false",
    "--dataloader_num_workers=0",
    "--eval_strategy=steps",
    "--logging_steps=1",
    "--save_steps=1",
]


def run_script(*options) -> None:
    script.main([*SCRIPT, *map(str, options)])
