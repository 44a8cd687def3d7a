"""The `editreward` command.

Every subcommand is a pair of functions: `add_NAME` declares its options, `run_NAME` does the work and imports what it
needs, so that `editreward --help` answers at once. To add one, write the pair and list `add_NAME` in `COMMANDS`.
Before it runs, `check` (in the parser's defaults) looks at its options, and what `reads` names is looked for.

Exit codes: 0, done; 1, done, and what was looked for was found or some of it failed, as the command's help says; 2,
not done, with one line on standard error that says why; 130, interrupted.
"""

import argparse
import difflib
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from editreward import __version__
from editreward.cli.annotate import add_annotate
from editreward.cli.bench import add_bench
from editreward.cli.best_of import add_best_of
from editreward.cli.calibrate import add_calibrate
from editreward.cli.commands import Commands
from editreward.cli.compare_editors import add_compare_editors
from editreward.cli.completion import add_completion
from editreward.cli.convert import add_convert
from editreward.cli.curate import add_curate
from editreward.cli.data import add_data
from editreward.cli.demo import add_demo
from editreward.cli.edit_bench import add_edit_bench
from editreward.cli.environment import add_env
from editreward.cli.generate import add_generate
from editreward.cli.merge import add_merge
from editreward.cli.paths import check_paths
from editreward.cli.prompts import add_prompts
from editreward.cli.push import add_push
from editreward.cli.rationales import add_rationales
from editreward.cli.score import add_score
from editreward.cli.serve import add_serve
from editreward.cli.train import add_train
from editreward.printing import printable, safe_streams

EXTRAS = {
    "score": "data",
    "calibrate": "data",
    "bench": "eval",
    "best-of": "generate,eval",
    "compare-editors": "eval",
    "curate": "eval",
    "edit-bench": "eval",
    "merge": "train",
    "prompts": "judges",
    "rationales": "generative",
}
"""Extra of the package that a command needs, where it has not the command's own name."""


COMMANDS: tuple[Callable[[Commands], None], ...] = (
    add_score,
    add_serve,
    add_demo,
    add_curate,
    add_best_of,
    add_compare_editors,
    add_calibrate,
    add_convert,
    add_train,
    add_rationales,
    add_merge,
    add_generate,
    add_data,
    add_annotate,
    add_bench,
    add_edit_bench,
    add_prompts,
    add_push,
    add_env,
    add_completion,
)


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """What to add to a message about a name that there is not: the one that was meant, or all."""
    found = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {found[0]}?" if found else f", only: {', '.join(names)}"


class CompactFormatter(argparse.HelpFormatter):
    """Lists commands right under their title, without a line for the placeholder."""

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):
            return "".join(self._format_action(command) for command in action._get_subactions())
        return super()._format_action(action)


class OneLineErrorParser(argparse.ArgumentParser):
    """Parser whose errors are one line, as all errors of the command are.

    Attributes:
        takes_any_option: what the parser does not know goes into `options`, for another parser to read.
    """

    takes_any_option = False

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Of a command that there is not, say which was meant."""
        choices = action.choices
        if isinstance(action, argparse._SubParsersAction) and choices is not None and value not in choices:
            names = list(choices)
            raise argparse.ArgumentError(None, f"there is no command {value!r}{did_you_mean(value, names)}")
        super()._check_value(action, value)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if self.takes_any_option:
            found.options, unknown = unknown, []
        for word in unknown:
            meant = did_you_mean(word.partition("=")[0], list(self._option_string_actions))
            if word.startswith("--") and meant.startswith(":"):
                self.error(f"there is no option {word}{meant}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Parser of the whole command."""
    parser: argparse.ArgumentParser = OneLineErrorParser(
        prog="editreward",
        usage="%(prog)s [--help] [--version] COMMAND ... (see COMMAND --help)",
        formatter_class=CompactFormatter,
        add_help=False,
    )
    # The line above shows them: the help is to fit a screen.
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND", prog=parser.prog
    )
    for add_command in COMMANDS:
        add_command(commands)
    commands.choices["completion"].set_defaults(whole=parser)  # which completes all of it
    add_debug_option(commands)
    return parser


def add_debug_option(commands: Commands) -> None:
    """Give `--debug` to every command, and to those of a group of commands."""
    for command in commands.choices.values():
        groups = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
        for group in groups:
            add_debug_option(group)
        if not groups:
            command.set_defaults(command_parser=command)
            command.add_argument(
                "--debug", action="store_true", help="show library messages, and on an error the traceback"
            )


@contextmanager
def library_messages(shown: bool) -> Iterator[None]:
    """Show or hide the warnings of libraries. What matters of them is in our own errors and notes."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        if not shown:
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns what the command returns or 0, and 2 after printing one line that says what is wrong."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "±" is no reason to fail
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["ablate"]:
        print("editreward ablate: error: it is now `python -m research.ablation` in the repository.", file=sys.stderr)
        return 2
    args = build_parser().parse_args(arguments)
    with safe_streams(sys.stdout, sys.stderr):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Run a command; returns as `main`."""
    try:
        if hasattr(args, "check"):
            args.check(args)
        check_paths(args.command_parser, args)
        with library_messages(shown=args.debug or getattr(args, "shows_messages", False)):
            status = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        # Messages of libraries may span lines. Bad input is described by its message alone, a fault needs its type.
        message = printable(" ".join(str(error).split()))
        if isinstance(error, ModuleNotFoundError):
            extra = "ray" if error.name == "ray" else EXTRAS.get(args.command, args.command)
            message = f'{message}: pip install "editreward[{extra}]"'
        elif not isinstance(error, ValueError | OSError | ImportError):
            message = f"{type(error).__name__}: {message} (--debug shows the traceback)"
        command = " ".join(filter(None, [args.command, getattr(args, "subcommand", None)]))
        print(f"editreward {command}: error: {message}", file=sys.stderr)
        return 2
    return status or 0
