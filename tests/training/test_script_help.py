"""The training script in a terminal: one line for what a user can mend, help in sections."""

import argparse

import pytest
import torch
from trl import TrlParser

from editreward.training import script
from editreward.training.script_help import one_line, run_script, sort_into_sections
from tests.helpers.trainers import ROOT


def test_help_has_every_option_once_in_sections_ours_first():
    classes = (
        script.EditRewardScriptArguments,
        script.EditRewardTrainingArguments,
        script.EditRewardModelConfig,
    )
    before = TrlParser(classes)
    parser = TrlParser(classes)
    sort_into_sections(parser, *classes[:2])
    shown = [action.dest for group in parser._action_groups for action in group._group_actions]
    assert sorted(shown) == sorted(action.dest for action in before._actions)
    titles = [group.title for group in parser._action_groups]
    assert titles[0] == "what every run needs" and titles.index("loss, batches and evaluation") < titles.index(
        "the training loop, of transformers and TRL"
    )
    section = {action.dest: group.title for group in parser._action_groups for action in group._group_actions}
    assert section["pointwise_weight"] == section["ties"] == "loss, batches and evaluation"
    assert section["aggregation"] == "data and new models" and section["lora_r"].startswith("loading")
    assert isinstance(parser, argparse.ArgumentParser) and "pointwise_weight" in parser.format_help()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model_name_or_path", "nowhere"], "`--model_name_or_path nowhere` is neither a model folder nor"),
        (["--dataset_name", "nowhere"], "no folder or file nowhere here"),
        (
            ["--dataset_name", str(ROOT / "examples/simulated-edits"), "--dataset_train_split", "trian"],
            "has no split 'trian', only: train, test",
        ),
        (["--loss", "huber"], "invalid choice: 'huber'"),
    ],
)
def test_mistakes_are_one_line(options, message, tmp_path, capsys):
    model = str(ROOT / "checkpoints/editreward-tiny")
    words = ["--model_name_or_path", model, "--dataset_name", "simulated", "--simulated_train_groups", "4"]
    words += ["--use_cpu", "true", "--bf16", "false", "--output_dir", str(tmp_path), *options]
    try:
        status = script.run(words)
    except SystemExit as stop:  # of the parser itself
        status = stop.code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and message in error and "Traceback" not in error


@pytest.mark.parametrize("rank", ["0", "3"])
def test_what_one_of_several_processes_meets_is_told_with_its_rank(rank, capsys, monkeypatch):
    def broken(argv):
        raise ValueError("group 'g-17': candidate 2 is broken")

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert run_script("train.py", broken, []) == 2
    who = "train.py" if rank == "0" else "train.py, rank 3"
    assert capsys.readouterr().err == f"{who}: error: group 'g-17': candidate 2 is broken\n"
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)  # all of them meet it
    assert run_script("train.py", broken, []) == 2
    assert capsys.readouterr().err.count("candidate 2") == (rank == "0")


def test_what_a_library_says_of_a_machine_without_a_gpu_names_the_options():
    told = one_line(ValueError("Your setup doesn't support bf16/gpu. You need to assign use_cpu if ..."))
    assert "`--use_cpu true --bf16 false`" in told
    assert 'pip install "editreward[train]"' in one_line(ModuleNotFoundError("No module named 'peft'"))
