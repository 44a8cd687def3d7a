"""The `editreward` command.

Every subcommand is a pair of functions: `add_NAME` declares its options, `run_NAME` does the work and imports what it
needs, so that `editreward --help` answers at once. To add one, write the pair and list `add_NAME` in `COMMANDS`.

Exit codes: 0, done; 1, done, and what was looked for was found or some of it failed, as the command's help says; 2,
not done, with one line on standard error that says why; 130, interrupted.
"""

import argparse
import io
import json
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
from editreward.cli.completion import add_completion
from editreward.cli.data import add_data
from editreward.cli.environment import add_env
from editreward.cli.generate import add_generate
from editreward.cli.merge import add_merge
from editreward.cli.push import add_push
from editreward.cli.score_dataset import OF_DATASETS, add_dataset_options, run_score_dataset
from editreward.cli.scorer_options import DTYPES, add_scorer_options, scorer_of
from editreward.cli.train import add_train
from editreward.groups import EditGroup, GroupScores, Scorer, Unscored
from editreward.reports.ranking import ranking_table
from editreward.scorers.registry import check_answers

EXTRAS = {"score": "data", "bench": "eval", "merge": "train"}
"""Extra of the package that a command needs, where it has not the command's own name."""


def add_score(commands: Any) -> None:
    """Declare `editreward score`."""
    parser = commands.add_parser(
        "score",
        help="score and rank edits of one source image, or of a dataset",
        description="Score and rank edits of one source image by how well they follow the instruction and how good "
        "they look; or with --dataset those of every source of a dataset.",
        epilog="Example: editreward score --source cat.png --edited a.png b.png "
        '--instruction "give the cat a red hat"',
    )
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="IMAGE",
        help="the image before the edit, a file or URL; repeat the option for an edit of several images",
    )
    parser.add_argument(
        "--edited",
        nargs="+",
        action="extend",
        required=True,
        metavar="IMAGE",
        help="the edited images to compare, files or URLs",
    )
    parser.add_argument("--instruction", required=True, help="the instruction that the edits were to follow")
    parser.add_argument("--json", action="store_true", help="print JSON, candidates in the order given")
    add_scorer_options(parser)
    add_dataset_options(parser)
    parser.set_defaults(run=run_score)


def run_score(args: argparse.Namespace) -> int | None:
    """Score one group of edits and print it as a table or as JSON, or a dataset into a file.

    Returns 1 if an edited image could not be scored.
    """
    if args.dataset:
        return run_score_dataset(args)
    if given := [f"`--{name}`" for name in OF_DATASETS if getattr(args, name) is not None]:
        raise ValueError(f"{', '.join(given)}: only with a `--dataset`.")
    group = EditGroup(args.source, args.instruction, args.edited)
    scorer = scorer_of(args)
    (scores,) = answers = scorer([group])
    check_answers(scorer, [group], answers)
    if isinstance(scores, Unscored):
        raise ValueError(scores.reason)
    if not scores.scored:
        raise ValueError(next(iter(scores.unscored.values())).reason)
    status = 1 if scores.unscored else 0
    if args.json:
        print(json.dumps(as_json(scorer, args, scores), ensure_ascii=False, indent=2))
        return status
    print(f"Instruction  {args.instruction}")
    print(f"Source       {', '.join(args.source)}")
    print(f"Model        {scorer.name}")
    print()
    print(ranking_table(args.edited, scores))
    print()
    for note in scorer.notes:
        print(f"Note: {note}")
    return status


def as_json(scorer: Scorer, args: argparse.Namespace, scores: GroupScores) -> dict[str, Any]:
    """What `editreward score --json` prints."""
    plain = scores.to_dict()
    return {
        "model": scorer.name,
        "notes": list(scorer.notes),
        "source": args.source,
        "instruction": args.instruction,
        "best": plain["best"],
        "candidates": [{"file": file, **one} for file, one in zip(args.edited, plain["candidates"], strict=True)],
    }


def add_demo(commands: Any) -> None:
    """Declare `editreward demo`."""
    parser = commands.add_parser(
        "demo",
        help="score a simulated group and edits of a photograph, and draw them",
        description="Score one held-out simulated group and a few edits of a photograph, print both rankings and draw "
        "them into a picture.",
        epilog="Example: editreward demo --output demo.png --seed 3",
    )
    parser.add_argument(
        "--output", default="out/demo.png", metavar="FILE", help="the picture, .png or .jpg (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which simulated group (default: %(default)s)")
    add_scorer_options(parser, with_seed=False)
    parser.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> None:
    """Run the demo."""
    if not args.output.lower().endswith((".png", ".jpg", ".jpeg")):
        raise ValueError(f"`--output {args.output}` must end in .png or .jpg.")
    from editreward.cli.demo import run

    run(scorer_of(args), output=args.output, seed=args.seed)


def add_convert(commands: Any) -> None:
    """Declare `editreward convert`."""
    parser = commands.add_parser(
        "convert",
        help="turn a published EditReward checkpoint into a model folder",
        description="Turn a published EditReward checkpoint into a folder that AutoModel and AutoProcessor load.",
        epilog="Example: editreward convert --checkpoint EditReward/ --backbone Qwen/Qwen2.5-VL-7B-Instruct "
        "--prompts-py dataset/prompts.py dataset/data_collator_qwen_edit.py --output editreward-7b",
    )
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="weights: a file or a folder of shards")
    parser.add_argument(
        "--backbone",
        required=True,
        metavar="FOLDER_OR_ID",
        help="the vision-language model that it was trained from (its weights are not read)",
    )
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument(
        "--templates",
        metavar="FILE.json",
        help="the prompts: templates, reward_suffix and, where it had one, system_prompt",
    )
    prompts.add_argument(
        "--prompts-py",
        nargs="+",
        metavar="FILE",
        help="the prompts in the published repository's Python files, which are read and not run",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the model folder to write")
    parser.add_argument("--head-type", choices=("multi", "shared", "single"), help="default: read off the checkpoint")
    parser.add_argument(
        "--overall-prompt",
        choices=("overall", "overall_detail"),
        default="overall_detail",
        help="reward_dim of a single-head model, with --prompts-py (default: %(default)s)",
    )
    parser.add_argument(
        "--aggregation",
        choices=("mean", "min", "sum"),
        default="mean",
        help="how its configuration combines the dimensions (default: %(default)s)",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the backbone (default: the checkpoint's)")
    parser.set_defaults(run=run_convert)


def run_convert(args: argparse.Namespace) -> None:
    """Convert a published checkpoint."""
    import torch
    import transformers

    from editreward.conversion import convert_checkpoint, read_prompts_json, read_prompts_py

    transformers.logging.disable_progress_bar()
    if args.templates:
        prompts = read_prompts_json(args.templates)
    else:
        prompts = read_prompts_py(args.prompts_py, overall=args.overall_prompt)
    config = convert_checkpoint(
        args.checkpoint,
        args.backbone,
        prompts,
        args.output,
        head_type=args.head_type,
        aggregation=args.aggregation,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
    )
    heads = f"{config.head_type} head, {', '.join(config.dimensions)}"
    print(f"Wrote {args.output}: {heads}, aggregation {config.aggregation}.")


COMMANDS: tuple[Callable[[Any], None], ...] = (
    add_score,
    add_demo,
    add_convert,
    add_train,
    add_merge,
    add_generate,
    add_data,
    add_annotate,
    add_bench,
    add_push,
    add_env,
    add_completion,
)


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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if self.takes_any_option:
            found.options, unknown = unknown, []
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Parser of the whole command."""
    parser = OneLineErrorParser(
        prog="editreward",
        usage="%(prog)s [--help] [--version] COMMAND ...",
        description="A reward model for instruction-guided image editing.",
        epilog="editreward COMMAND --help shows its options and an example.",
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
    add_debug_option(commands)
    return parser


def add_debug_option(commands: Any) -> None:
    """Give `--debug` to every command, and to those of a group of commands."""
    for command in commands.choices.values():
        groups = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
        for group in groups:
            add_debug_option(group)
        if not groups:
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
    try:
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
        message = " ".join(str(error).split())
        if isinstance(error, ModuleNotFoundError):
            message = f'{message}: pip install "editreward[{EXTRAS.get(args.command, args.command)}]"'
        elif not isinstance(error, ValueError | OSError | ImportError):
            message = f"{type(error).__name__}: {message} (--debug shows the traceback)"
        command = " ".join(filter(None, [args.command, getattr(args, "subcommand", None)]))
        print(f"editreward {command}: error: {message}", file=sys.stderr)
        return 2
    return status or 0
