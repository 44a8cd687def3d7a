"""Paths that a command reads, looked at before anything slow is imported: a typing error is told at once."""

import argparse
import difflib
import glob
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

NO_FILES = ("http://", "https://", "data:")
SIMULATED = "simulated"
FILE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
ALIKE = 0.6
"""How like a name must be to one that is there, to be meant: `difflib`'s ratio."""


def reads(parser: argparse.ArgumentParser, **kinds: str) -> None:
    """Note what the paths that options take must be.

    Args:
        parser: of the command, which has the options.
        kinds: one of `CHECKS` by the option's name: `images="folder"` for `--images`.
    """
    actions = {action.dest: action for action in parser._actions}
    for name, kind in kinds.items():
        assert kind in CHECKS
        actions[name].reads = kind  # type: ignore[attr-defined]


def check_paths(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Be sure that what a command is to read is there.

    Raises:
        FileNotFoundError: it is not; the message names the option and what is there of a similar name.
        ValueError: it is a file where a folder must be, or the other way round.
    """
    for action in parser._actions:
        check = CHECKS.get(getattr(action, "reads", ""))
        if check is not None:
            option = max(action.option_strings, key=len, default=action.dest.upper())
            for name in _names(getattr(args, action.dest, None)):
                check(name, str(option))


def _names(value: object) -> Iterator[str]:
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str) and item:
            yield item


def _check_file(name: str, option: str) -> None:
    path = Path(name).expanduser()
    if path.is_dir():
        raise ValueError(f"`{option} {name}` is a folder, not a file.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {name} (`{option}`). {_alike(path)}")


def _check_path(name: str, option: str) -> None:
    path = Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {name} (`{option}`). {_alike(path)}")


def _check_folder(name: str, option: str) -> None:
    path = Path(name).expanduser()
    if path.is_file():
        raise ValueError(f"`{option} {name}` is a file, not a folder.")
    if not path.exists():
        raise FileNotFoundError(f"There is no folder {name} (`{option}`). {_alike(path)}")


def _check_image(name: str, option: str) -> None:
    if not name.startswith(NO_FILES):
        _check_file(name, option)
        if not Path(name).expanduser().is_file():
            raise ValueError(f"`{option} {name}` is a pipe or a device, not an image file. Save it to a file.")


def _check_dataset(name: str, option: str) -> None:
    """A path that is there, or what may be the id of a dataset on the Hub."""
    if name.partition(":")[0] != SIMULATED and not Path(name).expanduser().exists() and not _may_be_on_the_hub(name):
        raise FileNotFoundError(f"There is no folder or file {name} (`{option}`). {_alike(Path(name))}")


def _check_edits(name: str, option: str) -> None:
    """A path that is there, a pattern of paths, or what may be the id of a dataset on the Hub."""
    if not glob.has_magic(name):
        is_named_as_file = Path(name).suffix.lower() in (*FILE_SUFFIXES, ".tar") and not Path(name).is_dir()
        (_check_file if is_named_as_file else _check_dataset)(name, option)
    elif not Path(name).exists() and next(glob.iglob(name), None) is None:
        raise FileNotFoundError(f"No file matches {name} (`{option}`). Check the pattern.")


def _check_scorer(name: str, option: str) -> None:
    """A path that is there, a scorer by name, a function, or what may be the id of a model on the Hub."""
    is_there = Path(name).expanduser().exists() or ":" in name
    if not is_there and not _may_be_on_the_hub(name):
        raise FileNotFoundError(
            f"{name} (`{option}`) is neither a model folder nor the id of a Hub repository. {_alike(Path(name))}"
        )


def _may_be_on_the_hub(name: str) -> bool:
    """Whether a name has the form of an id on the Hub, and not the ending of a file that is looked for here."""
    return bool(re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name, re.ASCII)) and not name.endswith(
        (".parquet", ".yaml", ".yml", ".py", ".jsonl", ".json", ".csv", ".tsv", ".tar")
    )


def _alike(path: Path) -> str:
    """What is in the folder under a similar name, else an advice."""
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {folder} either. Check the path."
    found = difflib.get_close_matches(path.name, sorted(os.listdir(folder)), n=1, cutoff=ALIKE)
    return f"Did you mean {folder / found[0]}?" if found else "Check the path."


CHECKS: dict[str, Callable[[str, str], None]] = {
    "file": _check_file,
    "folder": _check_folder,
    "path": _check_path,
    "image": _check_image,
    "dataset": _check_dataset,
    "edits": _check_edits,
    "scorer": _check_scorer,
    "model": _check_scorer,
}
"""What a path must be, by the kind that `reads` takes."""
