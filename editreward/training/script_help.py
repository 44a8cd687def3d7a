"""The training script's help in sections, and what a user can mend in one line."""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch
import yaml
from trl import ModelConfig, RewardConfig, ScriptArguments

from editreward.yaml_files import load_yaml

# What every run needs, shown first in the help.
START = (
    "config",
    "model_name_or_path",
    "datasets",
    "dataset_name",
    "dataset_train_split",
    "dataset_test_split",
    "output_dir",
    "use_cpu",
    "bf16",
    "eval_strategy",
    "resume_from_checkpoint",
)


def sort_into_sections(
    parser: argparse.ArgumentParser, script_arguments: type, training_arguments: type, inherited: type = RewardConfig
) -> None:
    """Show the options of a parser in sections, those of this package before those that it inherits.

    Args:
        parser: of the script.
        script_arguments, training_arguments: the dataclasses that add to TRL's `ScriptArguments` and to `inherited`.
        inherited: TRL's arguments of the trainer.
    """
    sections: list[tuple[str, Sequence[str]]] = [
        ("what every run needs", START),
        ("data and new models", _own(script_arguments, ScriptArguments)),
        ("loss, batches and evaluation", _own(training_arguments, inherited)),
        ("loading, adapters and quantization", [one.name for one in fields(ModelConfig)]),
        ("datasets, of TRL", [one.name for one in fields(ScriptArguments)]),
        ("the training loop, of transformers and TRL", [one.name for one in fields(inherited)]),
    ]
    left: dict[str, list[argparse.Action]] = {}
    for action in parser._actions:
        left.setdefault(action.dest, []).append(action)
    groups = []
    for title, names in sections:
        group = parser.add_argument_group(title)
        group._group_actions = [action for name in names for action in left.pop(name, ())]
        groups.append(group)
    parser._optionals._group_actions = [action for found in left.values() for action in found]
    parser._action_groups = [groups[0], *groups[1:], parser._optionals]


def _own(arguments: type, inherited: type) -> list[str]:
    known = {one.name for one in fields(inherited)}
    return [one.name for one in fields(arguments) if one.name not in known]


def check_config(words: Sequence[str]) -> None:
    """Be sure that the file behind `--config` is YAML that can be read: the parser expands all of it.

    Raises:
        ValueError: It is not.
    """
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--config")
    config = options.parse_known_args(list(words))[0].config
    if config is not None and Path(config).is_file():
        try:
            load_yaml(Path(config).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"--config: {config} is no YAML that can be used: {error}.") from error


def one_line(error: Exception) -> str:
    """What is wrong and how to mend it, in one line."""
    message = " ".join(str(error).split())
    if "bf16/gpu" in message:
        return (
            "there is no GPU here that computes in bfloat16, the default. On a CPU add `--use_cpu true --bf16 false`, "
            "on a GPU without bfloat16 `--bf16 false`."
        )
    if isinstance(error, ModuleNotFoundError):
        return f'{message}: pip install "editreward[train]"'
    return message


def run_script(name: str, main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None) -> int:
    """`main`, for a terminal: what a user can mend is one line, and libraries' advice to developers is not shown.

    `EDITREWARD_DEBUG=1` shows the traceback. Of several processes the first tells what all meet while options are
    read, and each, with its rank, what may be its alone.

    Returns:
        2 after an error, else 0.
    """
    for category in (FutureWarning, DeprecationWarning):  # of names that libraries use among themselves
        warnings.simplefilter("ignore", category)
    try:
        main(argv)
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("EDITREWARD_DEBUG"):
            traceback.print_exc()
        rank = os.environ.get("RANK", "0")
        if rank == "0":
            print(f"{name}: error: {one_line(error)}", file=sys.stderr)
        elif torch.distributed.is_initialized():
            print(f"{name}, rank {rank}: error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0
