"""`editreward score --dataset`: scores of all groups of a dataset, as a file."""

import argparse
from typing import TYPE_CHECKING, Any

from editreward.cli.scorer_options import scorer_of
from editreward.printing import printable

if TYPE_CHECKING:
    from editreward.scorers.dataset import DatasetReport


OF_DATASETS = ("output", "split", "revision", "limit")
"""Options that only a dataset has."""


class _InPlaceOfOneGroup(argparse.Action):
    """`--dataset`: the options of one group are no longer required, and `--output` is."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        for action in parser._actions:
            if action.dest in ("source", "edited", "instruction"):
                action.required = False
            elif action.dest == "output":
                action.required = True
        setattr(namespace, self.dest, values)


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `editreward score` that are about a dataset."""
    options = parser.add_argument_group(
        "a dataset, in place of one source",
        "A run that was stopped goes on where it was. Exits with 1 if a group could not be scored. On several GPUs: "
        "accelerate launch -m editreward.cli score --dataset ...",
    )
    options.add_argument(
        "--dataset",
        action=_InPlaceOfOneGroup,
        help="edit groups: a folder, Parquet file or Hub id, which is streamed; or 'simulated'",
    )
    options.add_argument("--output", metavar="FILE", help="a .jsonl or .parquet file to write, a row per group")
    options.add_argument("--split", help="(default: train)")
    options.add_argument("--revision", help="commit, branch or tag of a dataset on the Hub")
    options.add_argument("--limit", type=int, metavar="N", help="stop after N rows; 'simulated' needs it")


def run_score_dataset(args: argparse.Namespace) -> int:
    """Score a dataset and print what became of it."""
    from editreward.scorers.processes import Processes

    given = [f"--{name}" for name in ("source", "edited", "instruction", "json") if getattr(args, name)]
    if given:
        raise ValueError(f"`--dataset` is scored into a file, without {', '.join(given)}.")
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"`--limit` must be at least 1, not {args.limit}.")
    processes = Processes()
    scorer = scorer_of(args, processes.device)

    from datasets import disable_progress_bars

    from editreward.scorers.dataset import score_dataset

    disable_progress_bars()
    report = score_dataset(
        scorer,
        args.dataset,
        args.output,
        split=args.split or "train",
        limit=args.limit,
        revision=args.revision,
        processes=processes,
    )
    if report is None:
        return 0
    print(summary(report, args.output))
    for note in scorer.notes:
        print(f"Note: {note}")
    return 1 if report.failed else 0


def summary(report: "DatasetReport", output: str) -> str:
    """What `editreward score --dataset` prints."""
    reused = f", {report.reused} of them by an earlier run" if report.reused else ""
    changed = f" {report.changed} rows of an earlier run were scored anew: the dataset has changed." * (
        report.changed > 0
    )
    lines = [f"Wrote {output}: {report.groups} groups with {report.candidates} candidates{reused}.{changed}"]
    if report.failed:
        lines += ["", f"{report.failed} groups or candidates could not be scored (`error` in the file):"]
        lines += [f"  {printable(name)}: {printable(reason)}" for name, reason in report.failures]
        more = report.failed - len(report.failures)
        lines += [f"  and {more} more"] if more else []
    return "\n".join(lines)
