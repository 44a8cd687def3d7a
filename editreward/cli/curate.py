"""`editreward curate`: score a dataset of edits and keep the good ones."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from editreward.cli.commands import Commands
from editreward.cli.data_options import add_preset_option, add_table_options, columns_of
from editreward.cli.paths import reads
from editreward.cli.scorer_options import add_scorer_options, scorer_of
from editreward.printing import printable

if TYPE_CHECKING:
    from editreward.curation.curate import Curation, Outcome
    from editreward.curation.selection import Selection
    from editreward.data.edit_sources import SourceOptions

NOT_SETTINGS = ("command", "command_parser", "run", "check", "settings", "output", "scores", "debug")
"""Of the arguments, what is not saved: another run may have it otherwise and makes the same bytes."""


def add_curate(commands: Commands) -> None:
    """Declare `editreward curate`."""
    parser = commands.add_parser(
        "curate",
        usage="editreward curate SOURCE --output DIR [--scorer SPEC] [filters]\n"
        "       editreward curate --settings OLD/settings.json --output DIR",
        help="score a dataset of edits and keep the good ones",
        description="Score the edits of a dataset, apply filters and write what is left as Parquet shards, with a "
        "report, a card and what was dropped and why. A run that was stopped goes on where it was, with the same "
        "command. On several GPUs: accelerate launch -m editreward.cli curate ...",
        epilog="Example: editreward curate 'shards/*.tar' --output kept/ --deduplicate --top-share 0.4",
    )
    _add_source(parser)
    _add_filters(parser)
    _add_labels(parser)
    add_scorer_options(parser)
    reads(parser, source="edits", images="folder", settings="file", scores="folder", labelled="dataset")
    parser.set_defaults(run=run_curate)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a table, WebDataset shards, a folder or a pattern of these, a Hub dataset; or a dataset of edit groups",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of what is made")
    parser.add_argument("--settings", metavar="FILE", help="settings.json of an earlier run, in place of all options")
    parser.add_argument("--scores", metavar="DIR", help="output of an earlier run whose scores are used again")
    add_source_options(parser)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Declare how a source of edits is read."""
    read = parser.add_argument_group("how the source is read")
    read.add_argument("--images", metavar="DIR", help="folder that image paths start from (default: the source's)")
    add_preset_option(read)
    add_table_options(read)
    read.add_argument("--split", default="train", help="of a dataset (default: train)")
    read.add_argument("--revision", help="commit, branch or tag of a dataset on the Hub")
    read.add_argument("--limit", type=int, metavar="N", help="read N groups; 'simulated' needs it")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    filters = parser.add_argument_group("filters, applied in this order")
    filters.add_argument("--by", default="overall", metavar="DIMENSION", help="whose score orders edits")
    filters.add_argument(
        "--lower-bound", type=float, default=0.0, metavar="K", help="order by mean - K standard deviations"
    )
    filters.add_argument(
        "--exclude", action="append", default=[], metavar="BENCHMARK",
        help="a dataset of groups whose source images no edit may have; may be repeated",
    )  # fmt: skip
    filters.add_argument(
        "--threshold", action="append", default=[], metavar="DIMENSION=VALUE", help="least score; may be repeated"
    )
    filters.add_argument("--min-gain", type=float, metavar="G", help="least gain in reward over the untouched source")
    filters.add_argument("--deduplicate", action="store_true", help="of nearly equal edits only the best")
    filters.add_argument("--per-source", type=int, metavar="M", help="at most M edits of a source, the best")
    filters.add_argument(
        "--quota", action="append", default=[], metavar="CATEGORY=N",
        help="at most N edits of a category, the best; '*' for each of the others; may be repeated",
    )  # fmt: skip
    filters.add_argument("--top-k", type=int, metavar="K", help="of what is left, only the K best")
    filters.add_argument("--top-share", type=float, metavar="SHARE", help="of what is left, only this share, the best")


def _add_labels(parser: argparse.ArgumentParser) -> None:
    labels = parser.add_argument_group("a threshold by labels of people, with a guarantee (in place of --top-*)")
    labels.add_argument(
        "--label", type=int, default=0, metavar="N", help="draw N edits of what the filters leave, into DIR/to_label"
    )
    labels.add_argument(
        "--acceptable", action="append", default=[], metavar="DIMENSION>=VALUE", help="what a good label is"
    )
    labels.add_argument("--labelled", metavar="DATASET", help="the labels, a dataset of edit groups with scores")
    labels.add_argument("--share", type=float, default=0.9, help="of what is kept, acceptable (default: 0.9)")
    labels.add_argument("--confidence", type=float, default=0.95, help="of that (default: 0.95)")


def run_curate(args: argparse.Namespace) -> int:
    """Curate, and print what became of it. Returns 1 if rows of the source could not be read."""
    if args.settings:
        _restore(args)
    if not args.source:
        raise ValueError("SOURCE is missing: what to curate.")
    curation = curation_of(args)
    from datasets import disable_progress_bars

    from editreward.curation.curate import curate
    from editreward.data.edit_sources import open_source
    from editreward.scorers.processes import Processes

    processes = Processes()
    disable_progress_bars()
    with open_source(args.source, source_options(args)) as source:
        scorer = scorer_of(args, processes.device)
        scores = Path(args.scores) if args.scores else None
        outcome = curate(
            scorer, source, Path(args.output), curation, processes=processes, progress=None, scores=scores
        )
    if outcome is None:
        return 0
    print("\n".join(summary(outcome, args.output)))
    for note in scorer.notes:
        print(f"Note: {note}")
    return 1 if outcome.faults else 0


def source_options(args: argparse.Namespace) -> "SourceOptions":
    """How the source is read."""
    from editreward.data.edit_sources import SourceOptions

    columns = columns_of(args.column)
    return SourceOptions(
        args.images, args.preset, columns, args.split, args.revision, args.encoding, args.separator, args.limit
    )


def curation_of(args: argparse.Namespace) -> "Curation":
    """What the options ask for.

    Raises:
        ValueError: one has another form, or two do not go together.
    """
    from editreward.curation.acceptance import Condition
    from editreward.curation.curate import Curation, RiskControl

    selection = selection_of(args)
    if bool(args.acceptable) != bool(args.labelled):
        raise ValueError("--acceptable and --labelled go together: what a good label is, and the labels.")
    risk = None
    if args.acceptable:
        conditions = [Condition.parse(text) for text in args.acceptable]
        risk = RiskControl(conditions, args.labelled, args.share, args.confidence)
    settings = {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}
    return Curation(selection, risk, args.exclude, args.label, args.scorer_seed or 0, settings)


def selection_of(args: argparse.Namespace) -> "Selection":
    """The filters that the options ask for."""
    from editreward.curation.selection import Selection

    return Selection(
        by=args.by,
        lower_bound=args.lower_bound,
        thresholds={name: _number(text, "--threshold", float) for name, text in _pairs(args.threshold, "--threshold")},
        min_gain=args.min_gain,
        deduplicate=args.deduplicate,
        per_source=args.per_source,
        quotas={name: _number(text, "--quota", int) for name, text in _pairs(args.quota, "--quota")},
        top_k=args.top_k,
        top_share=args.top_share,
    )


def _pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    pairs = [text.rpartition("=") for text in texts]
    for text, (name, _, value) in zip(texts, pairs, strict=True):
        if not name or not value:
            raise ValueError(f"{option} takes NAME=VALUE, not {text!r}.")
    return [(name, value) for name, _, value in pairs]


Number = TypeVar("Number", int, float)


def _number(text: str, option: str, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{option}: {text!r} is no number.") from error


def _restore(args: argparse.Namespace) -> None:
    """Take all options but the output's from the settings of an earlier run."""
    try:
        saved = dict(json.loads(Path(args.settings).read_text(encoding="utf-8"))["arguments"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{args.settings} holds no settings that `editreward curate` wrote.") from error
    unknown = [name for name in saved if not hasattr(args, name)]
    if unknown:
        raise ValueError(f"{args.settings} has an unknown setting {unknown[0]!r}: another release wrote it.")
    given = [name for name in saved if getattr(args, name) != args.command_parser.get_default(name)]
    if given:
        raise ValueError(f"--settings stands for all options: it goes without {given[0]!r}.")
    for name, value in saved.items():
        setattr(args, name, value)


def summary(outcome: "Outcome", output: str) -> list[str]:
    """What the command prints."""
    kept = outcome.kept
    lines = [f"Kept {len(kept.left):,} of {len(kept.edits):,} edits: {output} (report.html has pictures)."]
    lines += [f"  {step.dropped:>9,}  {printable(step.name)}" for step in kept.steps if step.dropped]
    for step in kept.steps:
        if step.emptied:
            lines.append(f"Warning: “{step.name}” leaves nothing of {printable(', '.join(step.emptied[:10]))}.")
    if outcome.control is not None:
        tested = outcome.control.tested
        lines.append(f"Of other labelled edits that pass, {tested.text()} of {tested.total} are acceptable.")
    if outcome.to_label:
        lines.append(f"{outcome.to_label} edits to label are in {output}/to_label.")
    if outcome.faults:
        lines.append(f"{outcome.faults:,} rows of the source could not be read: {output}/faults.jsonl.")
    return lines
