"""`editreward completion`: completion of commands, options and files for a shell."""

import argparse

from editreward.cli.commands import Commands

FILES = ("FILE", "IMAGE", "PATH")
FOLDERS = ("FOLDER", "DIR")
"""What names of values begin with that are files or folders; `FOLDER_OR_ID` is completed as a folder, too."""


def add_completion(commands: Commands) -> None:
    """Declare `editreward completion`."""
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands in bash, zsh or tcsh",
        description='Print a script that completes commands, options and files. For bash, put eval "$(editreward '
        'completion bash)" into ~/.bashrc.',
        epilog="Example: editreward completion zsh",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which shell")
    parser.set_defaults(run=run_completion)


def run_completion(args: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    parser: argparse.ArgumentParser = args.whole
    _complete_files(parser, {FILES: shtab.FILE, FOLDERS: shtab.DIRECTORY})
    print(shtab.complete(parser, shell=args.shell))


def _complete_files(parser: argparse.ArgumentParser, kinds: dict[tuple[str, ...], object]) -> None:
    """Note at every option that takes a file or a folder that it does."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, kinds)
        for beginnings, kind in kinds.items():
            if isinstance(action.metavar, str) and action.metavar.startswith(beginnings):
                action.complete = kind  # type: ignore[attr-defined]
