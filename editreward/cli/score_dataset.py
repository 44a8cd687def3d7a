"""`editreward score --table` and `--dataset`: scores of many groups, as a file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from editreward.cli.data_options import add_preset_option, add_table_options, columns_of
from editreward.cli.paths import reads
from editreward.cli.scorer_options import scorer_of
from editreward.data.tables import check_output
from editreward.printing import printable

if TYPE_CHECKING:
    from editreward.data.edit_sources import GroupSource
    from editreward.groups import Scorer
    from editreward.scorers.dataset import DatasetReport


OF_FILES = ("output", "limit", "top", "best_per_group", "per_edit")
OF_TABLES = ("images", "preset", "column", "encoding", "separator", "split", "revision")
OF_DATASETS = ("split", "revision")
"""Options that are for either, for tables, and for datasets."""

SHOWN = 10
"""Rows of a table that could not be read and are printed."""


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `editreward score` that are about many groups."""
    table = parser.add_argument_group(
        "a table of yours, in place of one source (--output is required)",
        "A row per edit, with columns for the instruction, the source image and the edited one; several rows of one "
        "source and instruction are one group. docs/tables.md has the names of columns that are known.",
    )
    table.add_argument(
        "--table",
        metavar="SOURCE",
        help="a .csv, .tsv, .jsonl, .json or .parquet file; WebDataset shards, a folder of these, a pattern such as "
        "'shards/*.tar', or a Hub dataset of edits, which are streamed",
    )
    table.add_argument(
        "--images", metavar="DIR", help="folder that image paths start from (default: that of the table)"
    )
    add_preset_option(table)
    add_table_options(table)
    dataset = parser.add_argument_group("a dataset of edit groups, in place of one source (--output is required)")
    dataset.add_argument(
        "--dataset",
        metavar="DIR_OR_ID",
        help="a folder, Parquet file or Hub id, which is streamed; or 'simulated'",
    )
    dataset.add_argument("--split", help="of this, or of a Hub dataset of edits (default: train)")
    dataset.add_argument("--revision", help="commit, branch or tag of a dataset on the Hub")
    written = parser.add_argument_group(
        "what is written of a table or dataset",
        "A run that was stopped goes on where it was. Exits with 1 if something could not be scored. On several GPUs: "
        "accelerate launch -m editreward.cli score --dataset ...",
    )
    written.add_argument(
        "--output",
        metavar="FILE",
        help="a .csv file, a row per edit; or .jsonl or .parquet, of a table a row per edit, of a dataset per group",
    )
    reads(parser, table="edits", images="folder", dataset="dataset")
    written.add_argument("--limit", type=int, metavar="N", help="stop after N groups; 'simulated' needs it")
    written.add_argument("--per-edit", action="store_true", help="a row per edit of a dataset, too")
    written.add_argument("--best-per-group", action="store_true", help="only the best edit of each group")
    written.add_argument("--top", type=int, metavar="N", help="only the N edits with the highest rewards, best first")


def run_score_file(args: argparse.Namespace) -> int:
    """Score a table or dataset and print what became of it."""
    for name in ("limit", "top"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"`--{name}` must be at least 1, not {value}.")
    check_output(args.output)
    if not args.table:
        return _score(args, None)
    from editreward.data.edit_sources import SourceOptions, open_source

    of_datasets = [name for name in OF_DATASETS if getattr(args, name)]
    if of_datasets and Path(args.table).is_file():
        raise ValueError(f"`--table {args.table}` is a file, which is scored without --{of_datasets[0]}.")
    options = SourceOptions(
        args.images,
        args.preset,
        columns_of(args.column),
        args.split or "train",
        args.revision,
        args.encoding,
        args.separator,
    )
    with open_source(args.table, options) as table:
        return _score(args, table)


def _score(args: argparse.Namespace, table: "GroupSource | None") -> int:
    from datasets import disable_progress_bars

    from editreward.scorers.dataset import score_dataset
    from editreward.scorers.processes import Processes
    from editreward.scorers.score_files import Choice

    processes = Processes()
    if table is not None and table.number() == 0:
        why = f"{table.faults[0].place}: {table.faults[0].reason}" if table.faults else "It has no rows."
        raise ValueError(f"No row of {args.table} can be scored. {why}")
    scorer = scorer_of(args, processes.device)
    disable_progress_bars()
    report = score_dataset(
        scorer,
        args.dataset if table is None else table,
        args.output,
        split=args.split or "train",
        limit=args.limit,
        revision=args.revision,
        processes=processes,
        choice=Choice(args.per_edit or table is not None, args.best_per_group, args.top),
        progress=None,
    )
    if report is None:
        return 0
    print(summary(report, args.output))
    if table is not None:
        print("\n".join(about(table, args.table)))
    for note in [*_notes(args, scorer), *scorer.notes]:
        print(f"Note: {note}")
    return 1 if report.failed or (table is not None and table.faults) else 0


def _notes(args: argparse.Namespace, scorer: "Scorer") -> list[str]:
    if args.top is None or scorer.calibrated:
        return []
    return [
        "--top compares edits of different sources by rewards that have no common scale: the scorer is uncalibrated."
    ]


def about(table: "GroupSource", name: str) -> list[str]:
    """Which columns of a source were read, and which rows were not."""
    read = ", ".join(f"{field} from {' and '.join(columns)}" for field, columns in table.columns.items())
    lines = [f"Read {table.rows} rows of {Path(name).name}: {read}."] if read else []
    return lines + (faults_of(table) if table.faults else [])


def faults_of(table: "GroupSource") -> list[str]:
    """The first rows that were left out, and why."""
    number = len(table.faults)
    lines = [f"{number} {'row was' if number == 1 else 'rows were'} left out:"]
    lines += [f"  {fault.place}: {printable(fault.reason)}" for fault in table.faults[:SHOWN]]
    return [*lines, f"  and {number - SHOWN} more"] if number > SHOWN else lines


def summary(report: "DatasetReport", output: str) -> str:
    """What `editreward score --dataset` prints."""
    reused = f", {report.reused} of them by an earlier run" if report.reused else ""
    changed = f" {report.changed} rows of an earlier run were scored anew: the dataset has changed." * (
        report.changed > 0
    )
    scored = f"{report.groups} groups with {report.candidates} candidates"
    lines = [f"Wrote {output} ({report.written} rows): {scored}{reused}.{changed}"]
    if report.failed:
        lines += ["", f"{report.failed} groups or candidates could not be scored (`error` in the file):"]
        lines += [f"  {printable(name)}: {printable(reason)}" for name, reason in report.failures]
        more = report.failed - len(report.failures)
        lines += [f"  and {more} more"] if more else []
    return "\n".join(lines)
