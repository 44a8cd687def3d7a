"""What stops a training run, and what it then says: losses that are no numbers, and memory that does not suffice."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from editreward.printing import printable
from editreward.training.arguments import EditRewardTrainingArguments
from editreward.training.terms import GroupBatch


class NonFiniteError(RuntimeError):
    """The loss or the gradient of a training step is infinite or not a number."""


def describe_batch(batch: GroupBatch) -> str:
    """Size and groups of a batch of the collator."""
    rows, length = batch["segment_ids"].shape
    groups = ", ".join(map(printable, batch["group_ids"]))
    return (
        f"{rows} group(s) with {len(batch['group_index'])} candidates, {len(batch['image_grid_thw'])} images "
        f"({len(batch['pixel_values'])} patches) and {int((batch['segment_ids'].cpu() >= 0).sum())} tokens, "
        f"{rows} x {length} with padding: {groups}"
    )


def stop_unless_finite(
    accelerator: Accelerator, values: Sequence[Tensor], what: str, groups: Sequence[Sequence[str]], step: int
) -> None:
    """Raise a [`NonFiniteError`] on every rank if one of `values` is infinite or NaN on any.

    Every rank must call it, and waits for the others: a rank that stopped alone would leave them waiting for ever. To
    be called once in a step, since it waits for the device, too.

    Args:
        values: The losses of the micro-batches of a step, or the norm of its gradient, all scalars.
        what: Their name in the message.
        groups: For each value, `group_id` of the groups that it comes from, on this rank.
        step: Optimizer step, from 1.
    """
    numbers = torch.stack([value.detach().float() for value in values])
    if not accelerator.reduce((~numbers.isfinite()).float().sum(), "sum").item():
        return
    rank, of_step = accelerator.process_index, len(values) == 1
    mine = [
        f"{number} on rank {rank}{'' if of_step else f', micro-batch {place}'}, of the groups "
        f"{', '.join(map(printable, names))}"
        for place, (number, names) in enumerate(zip(numbers.tolist(), groups, strict=True), 1)
        if not math.isfinite(number)
    ]
    raise NonFiniteError(
        f"The {what} of step {step} is not finite: {'; '.join(gather_object(mine))}. The run stops before that step "
        "changes a weight. Look at these groups' images and scores; if they are sound, lower `learning_rate` or "
        "`max_grad_norm` and go on from the last checkpoint."
    )


@contextmanager
def memory_advice(args: EditRewardTrainingArguments, batch: GroupBatch) -> Iterator[None]:
    """Have an out-of-memory error of the accelerator say what was in the batch and which options need less."""
    training = torch.is_grad_enabled()
    try:
        yield
    except torch.OutOfMemoryError as error:
        options = "\n- ".join(memory_options(args) if training else ["a smaller `--per_device_eval_batch_size`"])
        # Its own words come first: `auto_find_batch_size` looks for them.
        raise torch.OutOfMemoryError(
            f"{error}\n\nThe batch in {'training' if training else 'evaluation'}: {describe_batch(batch)}."
            f"\nWhat needs less memory:\n- {options}"
        ) from error


def memory_options(args: EditRewardTrainingArguments) -> list[str]:
    """What to change in a training run that needs too much memory, what costs least first."""
    options = []
    if args.per_device_train_batch_size > 1:
        options.append(
            "a smaller `--per_device_train_batch_size` and as many times more `--gradient_accumulation_steps`: the "
            "same training"
        )
    if not args.activation_checkpointing:
        options.append("`--activation_checkpointing true`: the same training, slower")
    options += [
        "several GPUs that share the weights, their gradients and the optimizer (FSDP, DeepSpeed ZeRO): `accelerate "
        "launch --config_file configs/accelerate/fsdp2.yaml`",
        "a lower `--max_tokens_per_batch`, if batches are formed by tokens",
        "a lower `--max_candidates`: fewer candidates of a group at a time",
        "fewer `--pixels` of an image, for a new model",
        "LoRA, `--use_peft true`, with `--load_in_4bit true` for QLoRA",
    ]
    return options
