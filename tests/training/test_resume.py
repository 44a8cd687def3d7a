"""Runs that are killed: what they leave on disk, and what resuming makes of it."""

import json
import logging
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, TrainerCallback, modeling_utils
from transformers.trainer_callback import TrainerState

from editreward.training import checkpoints
from editreward.training.checkpoints import (
    INCOMPLETE,
    checkpoint_to_resume,
    complete_checkpoint,
    rotate_checkpoints,
)
from tests.helpers.backbones import build
from tests.helpers.trainers import make_row, make_trainer

# Three optimizer steps an epoch, of which one ends in the middle of the second epoch; with a worker and dropout.
ROWS = [make_row(index, [(4.0, 3.0), (1.0 + index / 2, 2.0)]) for index in range(6)]
RUN = {
    "gradient_accumulation_steps": 2,
    "max_steps": 5,
    "learning_rate": 1e-3,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 1,
    "dataloader_num_workers": 1,
}


def trainer_of_run(folder, head_seed=0, **arguments):
    built = build(head_dropout=0.3, seed=head_seed)
    return make_trainer(folder, ROWS, built, **(RUN | arguments))


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(run, *arguments) -> None:
    """Run in a process of its own, which must end by killing itself."""
    process = multiprocessing.get_context("fork").Process(target=run, args=arguments)
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


def whole(folder) -> list[str]:
    """Names of the checkpoints in a folder, each of which must load and hold all that resuming needs."""
    names = sorted(path.name for path in folder.glob("checkpoint-*"))
    for name in names:
        AutoModel.from_pretrained(folder / name, trust_remote_code=True)
        torch.load(folder / name / "optimizer.pt", weights_only=True)
        assert json.loads((folder / name / "trainer_state.json").read_text())["global_step"] == int(name[11:])
        assert (folder / name / "rng_state.pth").exists() and (folder / name / "scheduler.pt").exists()
    return names


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    trainer = trainer_of_run(tmp_path_factory.mktemp("uninterrupted"))
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_resumes_to(folder, expected) -> None:
    # Weights other than those of the checkpoint would show.
    resumed = trainer_of_run(folder, head_seed=5 if list(folder.glob("checkpoint-*")) else 0)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == RUN["max_steps"]
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            kill_this_process()


def run_killed_at(folder, step):
    trainer = trainer_of_run(folder)
    trainer.add_callback(KillAt(step))
    trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_run_killed_in_a_step_resumes_to_the_weights_of_the_uninterrupted_run(tmp_path, uninterrupted, step):
    killed(run_killed_at, tmp_path, step)
    assert whole(tmp_path) == {1: [], 2: ["checkpoint-2"], 4: ["checkpoint-4"]}[step]
    assert_resumes_to(tmp_path, uninterrupted)


# Kills within the second save, the one of step 4: what is replaced by a function that does half of it, and what is
# whole afterwards.


def half_written(write):
    def write_half(content, path, *args, **kwargs):
        write(content, path, *args, **kwargs)
        if Path(path).parent.name == "checkpoint-4":
            os.truncate(path, os.path.getsize(path) // 2)
            kill_this_process()

    return write_half


def kill_before(name):
    def replace(original):
        def kill(self, *args, **kwargs):
            if name in str(self if isinstance(self, Path) else args[0]):
                kill_this_process()
            return original(self, *args, **kwargs)

        return kill

    return replace


def kill_while_deleting(rmtree):
    def delete(path, *args, **kwargs):
        for old in Path(path).glob("deleted-checkpoint-2"):
            os.remove(old / "model.safetensors")
            kill_this_process()
        return rmtree(path, *args, **kwargs)

    return delete


SAVES = {
    "weights": (modeling_utils, "safe_save_file", half_written, "checkpoint-2"),
    "optimizer": (torch, "save", lambda save: half_written_optimizer(save), "checkpoint-2"),
    "state": (TrainerState, "save_to_json", kill_before("checkpoint-4"), "checkpoint-2"),
    "rename": (Path, "rename", kill_before(f"{INCOMPLETE}/checkpoint-4"), "checkpoint-2"),
    "rotation": (checkpoints.shutil, "rmtree", kill_while_deleting, "checkpoint-4"),
}


def half_written_optimizer(save):
    half = half_written(save)
    return lambda content, path, **kwargs: (half if Path(path).name == "optimizer.pt" else save)(
        content, path, **kwargs
    )


def run_killed_in_save(folder, owner, name, replacement):
    setattr(owner, name, replacement(getattr(owner, name)))
    trainer_of_run(folder).train()


@pytest.mark.slow
@pytest.mark.parametrize("part", SAVES)
def test_a_run_killed_within_a_save_keeps_a_whole_checkpoint_and_resumes(tmp_path, uninterrupted, caplog, part):
    owner, name, replacement, left = SAVES[part]
    killed(run_killed_in_save, tmp_path, owner, name, replacement)
    assert whole(tmp_path) == [left]
    incomplete = [path.name for path in (tmp_path / INCOMPLETE).iterdir()]
    with caplog.at_level(logging.WARNING):
        assert_resumes_to(tmp_path, uninterrupted)
    assert len(incomplete) == 1 and any(incomplete[0] in record.getMessage() for record in caplog.records)
    # What the killed save left is gone with the next one.
    assert whole(tmp_path) == ["checkpoint-5"] and not (tmp_path / INCOMPLETE).exists()


def kill_while_deleting_the_last(rmtree):
    def delete(path, *args, **kwargs):
        for old in [path, *Path(path).glob("*")]:
            if "checkpoint-5" in Path(old).name and (Path(old) / "optimizer.pt").exists():
                os.remove(Path(old) / "optimizer.pt")
                kill_this_process()
        return rmtree(path, *args, **kwargs)

    return delete


BEST_FIRST = {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": True,
}


def run_killed_at_the_end(folder):
    shutil.rmtree = kill_while_deleting_the_last(shutil.rmtree)
    trainer_of_run(folder, eval_rows=ROWS[:2], **BEST_FIRST).train()


@pytest.mark.slow
def test_a_run_killed_while_it_deletes_all_but_the_best_leaves_whole_checkpoints(tmp_path):
    killed(run_killed_at_the_end, tmp_path)
    assert whole(tmp_path) == ["checkpoint-2"]


def run_killed_while_moving_the_model(folder):
    trainer = trainer_of_run(folder)
    torch.nn.init.ones_(trainer.model.heads.mlps[0][0].weight)
    replace = Path.replace

    def kill_after_weights(self, target):
        replace(self, target)
        if self.name == "model.safetensors":
            kill_this_process()

    Path.replace = kill_after_weights
    trainer.save_model()


def run_killed_while_writing_the_model(folder):
    modeling_utils.safe_save_file = lambda *args, **kwargs: kill_this_process()
    trainer_of_run(folder).save_model()


@pytest.mark.slow
def test_a_killed_save_of_the_model_leaves_the_old_one_or_nothing_that_loads(tmp_path):
    trainer_of_run(tmp_path).save_model()
    old = load_file(tmp_path / "model.safetensors")
    killed(run_killed_while_writing_the_model, tmp_path)
    kept = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert all(torch.equal(value, old[name]) for name, value in kept.state_dict().items())

    killed(run_killed_while_moving_the_model, tmp_path)
    with pytest.raises((OSError, ValueError)):
        AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    trainer_of_run(tmp_path).save_model()
    AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert not (tmp_path / INCOMPLETE).exists()


# Parts


def make_checkpoint(folder, step, mtime=None) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    os.utime(checkpoint, (mtime or step, mtime or step))
    return checkpoint


def test_resuming_takes_the_last_whole_checkpoint_and_names_the_others(tmp_path, caplog):
    make_checkpoint(tmp_path, 9)
    last = make_checkpoint(tmp_path, 10)
    # Of a run of another tool that writes in place, and of one of ours; neither is a checkpoint.
    (tmp_path / "checkpoint-11").mkdir()
    inside = make_checkpoint(tmp_path / INCOMPLETE, 12)
    make_checkpoint(tmp_path / "other", 13)
    with caplog.at_level(logging.WARNING):
        assert checkpoint_to_resume(tmp_path, True) == checkpoint_to_resume(tmp_path, "true") == str(last)
    assert "checkpoint-11" in caplog.text and "checkpoint-12" in caplog.text and "checkpoint-10" not in caplog.text
    assert checkpoint_to_resume(tmp_path, str(last)) == str(last)
    assert checkpoint_to_resume(tmp_path, None) is checkpoint_to_resume(tmp_path, "false") is None
    for incomplete in (inside, tmp_path / "checkpoint-11", tmp_path / "checkpoint-99"):
        with pytest.raises(ValueError, match=f"{incomplete.name} is not a whole checkpoint"):
            checkpoint_to_resume(tmp_path, str(incomplete))


def test_resuming_before_the_first_checkpoint_starts_from_the_beginning_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert checkpoint_to_resume(tmp_path, True) is None
    assert "starting from the beginning" in caplog.text


def test_a_checkpoint_without_the_random_state_of_a_rank_does_not_count(tmp_path):
    incomplete = make_checkpoint(tmp_path / INCOMPLETE, 4)
    (incomplete / "rng_state_0.pth").touch()
    with pytest.raises(RuntimeError, match="random state of rank 1, 2.*share"):
        complete_checkpoint(incomplete, tmp_path / "checkpoint-4", range(3))
    assert not (tmp_path / "checkpoint-4").exists()
    for rank in (1, 2):
        (incomplete / f"rng_state_{rank}.pth").touch()
    make_checkpoint(tmp_path, 4)  # of an earlier run
    complete_checkpoint(incomplete, tmp_path / "checkpoint-4", range(3))
    assert len(list((tmp_path / "checkpoint-4").iterdir())) == 4 and not (tmp_path / INCOMPLETE).exists()


@pytest.mark.parametrize(
    "limit, best, kept",
    [(None, None, "2 4 6 100"), (1, None, "8"), (1, 4, "4 8"), (2, 4, "4 8"), (2, 8, "6 8"), (3, 2, "2 6 8")],
)
def test_rotation_keeps_the_newest_and_the_best(tmp_path, limit, best, kept):
    make_checkpoint(tmp_path, 100, mtime=1)  # of an earlier run in this folder
    for step in (2, 4, 6):
        make_checkpoint(tmp_path, step)
    newest = make_checkpoint(tmp_path, 8)
    rotate_checkpoints(tmp_path, limit, newest, str(tmp_path / f"checkpoint-{best}") if best else None)
    left = {int(path.name[11:]) for path in tmp_path.iterdir()}
    assert left == {int(step) for step in kept.split()} | {8}


def test_the_best_checkpoint_is_named_where_it_lies(tmp_path):
    trainer = trainer_of_run(
        tmp_path,
        eval_rows=ROWS[:2],
        max_steps=3,
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="eval_loss",
        load_best_model_at_end=True,
        gradient_accumulation_steps=1,
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path and best.name == f"checkpoint-{trainer.state.best_global_step}"
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    assert losses[trainer.state.best_global_step] == min(losses.values())
    saved = load_file(best / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in trainer.model.state_dict().items())
    for checkpoint in tmp_path.glob("checkpoint-*"):
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert Path(state["best_model_checkpoint"]).parent == tmp_path
