"""What stops a run, and what it says then."""

import itertools
import re
import warnings
from pathlib import Path

import pytest
import torch
from trl import ModelConfig

from editreward.training import EditRewardTrainingArguments
from editreward.training.generative.arguments import GenerativeTrainingArguments
from editreward.training.safety import NonFiniteError, memory_options
from editreward.training.script import EditRewardScriptArguments
from tests.helpers.trainers import make_arguments, make_row, make_trainer

ROWS = [make_row(index, [(4.0, 3.0), (2.0, 2.0)]) for index in range(4)]


def fails_at(model, call, error=None):
    """Have a model give NaN, or raise `error`, when it is called for the `call`-th time."""
    forward, calls = model.forward, itertools.count(1)

    def failing(**inputs):
        output = forward(**inputs)
        if next(calls) == call:
            if error is not None:
                raise error
            output.reward = output.reward * float("nan")
        return output

    model.forward = failing


def state_of(trainer):
    optimizer = trainer.optimizer.state_dict()["state"]
    weights = trainer.model.state_dict()
    return {**weights, **{f"{i} {name}": value for i, of in optimizer.items() for name, value in of.items()}}


def test_a_loss_that_is_not_finite_stops_the_run_with_its_groups_and_leaves_weights_and_optimizer(tmp_path):
    trainer = make_trainer(tmp_path, ROWS, max_steps=2, gradient_accumulation_steps=2, max_grad_norm=0.0)
    fails_at(trainer.model, 4)
    before, order = {}, []
    training_step = trainer.training_step

    def noting(model, inputs, *args):
        before.update({name: value.clone() for name, value in state_of(trainer).items()})
        order.append(inputs["group_ids"])
        return training_step(model, inputs, *args)

    trainer.training_step = noting
    with pytest.raises(NonFiniteError, match="loss of step 2 is not finite: nan on rank 0, micro-batch 2") as stopped:
        trainer.train()
    assert re.findall(r"group-\d", str(stopped.value)) == order[3]
    after = state_of(trainer)
    assert trainer.state.global_step == 1 and any("exp_avg" in name for name in after)
    for name, value in after.items():
        assert torch.equal(value, before[name]), name


def test_a_gradient_that_is_not_finite_stops_the_run_with_the_groups_of_the_step(tmp_path):
    trainer = make_trainer(tmp_path, ROWS, max_steps=1, gradient_accumulation_steps=2)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    weight = trainer.model.heads.mlps[0][0].weight
    weight.register_hook(lambda gradient: gradient.masked_fill(gradient == gradient.max(), torch.inf))
    with pytest.raises(NonFiniteError, match="norm of the gradient of step 1 is not finite") as stopped:
        trainer.train()
    assert len(set(re.findall(r"group-\d", str(stopped.value)))) == 2
    assert all(torch.equal(value, start[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("doing", ["training", "evaluation"])
def test_out_of_memory_names_the_batch_and_what_to_change(tmp_path, doing):
    trainer = make_trainer(tmp_path, ROWS, eval_rows=ROWS[2:3], max_steps=1, per_device_train_batch_size=4)
    fails_at(trainer.model, 1, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    with pytest.raises(torch.OutOfMemoryError) as raised:
        trainer.train() if doing == "training" else trainer.evaluate()
    message = str(raised.value)
    batch = trainer.data_collator(ROWS if doing == "training" else ROWS[2:3])
    assert message.startswith("CUDA out of memory.") and f"in {doing}" in message
    for part in (
        f"{len(batch['labels'])} candidates",
        f"{len(batch['image_grid_thw'])} images",
        f"{(batch['segment_ids'] >= 0).sum()} tokens",
        *batch["group_ids"],
        f"per_device_{'train' if doing == 'training' else 'eval'}_batch_size",
    ):
        assert part in message


@pytest.mark.slow
def test_auto_find_batch_size_takes_smaller_batches_until_they_fit(tmp_path):
    options = {"auto_find_batch_size": True, "max_steps": 2, "per_device_train_batch_size": 4}
    trainer = make_trainer(tmp_path, ROWS, **options)
    sizes, training_step = [], trainer.training_step

    def step(model, inputs, *args):
        sizes.append(len(inputs["group_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return training_step(model, inputs, *args)

    trainer.training_step = step
    trainer.train()
    assert sizes[0] == 4 and set(sizes[-2:]) <= {1, 2} and sizes == sorted(sizes, reverse=True)
    with pytest.raises(ValueError, match="`auto_find_batch_size`.*`max_tokens_per_batch`"):
        make_arguments(tmp_path, max_tokens_per_batch=1000, **options)


def test_out_of_memory_names_options_that_exist(tmp_path):
    arguments = make_arguments(tmp_path, per_device_train_batch_size=2, activation_checkpointing=False)
    options = memory_options(arguments)
    fields = set()
    for of in (EditRewardTrainingArguments, ModelConfig, EditRewardScriptArguments):
        fields |= set(of.__dataclass_fields__)
    named = [name for option in options for name in re.findall(r"`--(\w+)", option)]
    assert len(named) > 5 and set(named) <= fields
    files = re.findall(r"configs/\S+\.yaml", " ".join(options))
    assert files and all((Path(__file__).parents[2] / file).exists() for file in files)
    less = memory_options(make_arguments(tmp_path, per_device_train_batch_size=1, activation_checkpointing=True))
    assert not any("batch_size" in option or "activation_checkpointing" in option for option in less)


@pytest.mark.parametrize("given", [None, True, False])
@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_activations_are_checkpointed_by_either_name_without_a_warning(tmp_path, name, given):
    options = {"activation_checkpointing": None} | ({} if given is None else {name: given})
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert make_arguments(tmp_path, **options).activation_checkpointing is (given is not False)
        options |= {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "prompts": ["editreward-compact"]}
        assert GenerativeTrainingArguments(**options).activation_checkpointing is (given is not False)


@pytest.mark.parametrize("name", ["dispatch_batches", "split_batches"])
def test_options_that_would_cut_a_packed_batch_between_ranks_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}`.*group"):
        make_arguments(tmp_path, accelerator_config={name: True})
