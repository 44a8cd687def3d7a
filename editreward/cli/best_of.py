"""`editreward best-of`: make N edits of each instruction, or take those that are there, and keep the best."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from editreward.cli.commands import Commands
from editreward.cli.curate import add_source_options, source_options
from editreward.cli.data_options import columns_of
from editreward.cli.paths import reads
from editreward.cli.scorer_options import add_scorer_options, scorer_of
from editreward.printing import printable

if TYPE_CHECKING:
    from editreward.editors.best_of import BestOf

SHOWN = 10
"""Failures that are printed; the report has their number, and summary files all."""


def add_best_of(commands: Commands) -> None:
    """Declare `editreward best-of`."""
    parser = commands.add_parser(
        "best-of",
        usage="editreward best-of --editor EDITOR --instructions DATASET --output DIR [-n N] [--scorer SPEC]\n"
        "       editreward best-of --results SOURCE --output DIR [--scorer SPEC]",
        help="make N edits of each instruction and keep the best",
        description="Make N candidates of each instruction, or take those that are there, let a scorer choose the "
        "best of each and write these into a folder, with a report: what N is worth by a truth or a second scorer, "
        "how sure the choices were, and whether the scorer was optimised too far. A run that was stopped goes on "
        "where it was. Exits with 1 if an image was not made, or a group has no winner.",
        epilog="Example: editreward best-of --editor editors.yaml:mine --instructions rows.csv -n 16 --output best/",
    )
    parser.add_argument(
        "--editor",
        metavar="EDITOR",
        help="FILE.yaml of one editor (`editreward generate`), FILE.yaml:NAME of several; or a diffusers pipeline, "
        "folder or Hub id",
    )
    parser.add_argument(
        "--instructions",
        metavar="DATASET",
        help="what to edit: a CSV or JSON Lines of source and instruction, a folder, Parquet file or Hub id with "
        "source_images or image and instruction, or 'simulated'",
    )
    parser.add_argument("-n", type=int, default=16, metavar="N", help="candidates of each instruction (default: 16)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="SEED", help="of the candidates (default: 0)")
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed in an earlier run")
    parser.add_argument(
        "--results",
        metavar="SOURCE",
        help="candidates that are there, in place of an editor: a dataset of edit groups, a table, shards, a folder",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of candidates, winners and report")
    parser.add_argument(
        "--lower-bound", type=float, default=0.0, metavar="K", help="choose by score - K standard deviations"
    )
    parser.add_argument("--second", metavar="SPEC", help="another scorer, which judges the choices")
    add_source_options(parser)
    add_scorer_options(parser)
    reads(parser, instructions="dataset", results="edits", images="folder", second="scorer")
    parser.set_defaults(run=run_best_of, check=_check)


def _check(args: argparse.Namespace) -> None:
    """Raise a `ValueError` unless it is said what to choose from."""
    if args.results and (args.editor or args.instructions):
        raise ValueError("--results are candidates that are there: it goes without --editor and --instructions.")
    if not args.results and not (args.editor and args.instructions):
        raise ValueError("Name an --editor and its --instructions, or --results that are there.")
    if args.n < 1:
        raise ValueError(f"-n must be at least 1, not {args.n}.")
    if args.first_seed < 0:
        raise ValueError(f"--first-seed must be 0 or more, not {args.first_seed}.")


def run_best_of(args: argparse.Namespace) -> int:
    """Choose, and print what N is worth. Returns 1 if images were not made or groups have no winner."""
    from datasets import disable_progress_bars

    from editreward.data.edit_sources import open_source
    from editreward.editors.best_of import choose_in, make
    from editreward.editors.editors import editor_of
    from editreward.editors.instructions import open_instructions
    from editreward.editors.run import process_state
    from editreward.scorers.processes import Processes

    disable_progress_bars()
    output, faults = Path(args.output), 0

    def chosen(source, processes):  # type: ignore[no-untyped-def]
        scorer = scorer_of(args, processes.device)
        return choose_in(output, source, scorer, args.second, args.lower_bound, processes=processes, progress=None)

    if args.results:
        with open_source(args.results, source_options(args)) as source:
            found = chosen(source, Processes())
            faults = len(source.faults)
    else:
        editor = editor_of(args.editor, range(args.first_seed, args.first_seed + args.n))
        with process_state().main_process_first():
            rows = open_instructions(
                args.instructions, args.split, 0, args.limit, args.images, columns_of(args.column)
            )
        found = chosen(make(editor, rows, output, args.retry_failed), Processes())
    if found is None:
        return 0
    print("\n".join(summary(found, args.output)))
    if faults:
        print(f"{faults:,} rows of the source could not be read: {args.output}/faults.jsonl.")
    return 1 if faults or found.failed or found.generation else 0


def summary(found: "BestOf", output: str) -> list[str]:
    """What the command prints."""
    from editreward.statistics.best_of import doublings

    report = found.report
    lines = [
        f"{len(found.choices)} winners, chosen {report.rule}: {output}/winners (report.html has curves, pictures)."
    ]
    numbers = doublings(report.numbers)
    names = list(report.curves)
    lines += ["", " ".join(["    N", *(f"{printable(name):>24}" for name in names)])]
    for number in numbers:
        main = [next(iter(report.curves[name].values()))[number - 1].text() for name in names]
        lines.append(" ".join([f"{number:5}", *(f"{text:>24}" for text in main)]))
    lines.append("")
    for one in report.sure:
        if one.least == 0.8:
            lines.append(f"P(best) is at least {one.least:g} in {one.share.text()} of choices.")
    for name, fall in report.falls.items():
        if fall is not None:
            lines.append(
                f"Over-optimised: the {name} of the best of {report.numbers} is below that of the best of "
                f"{fall.number}, by {fall.difference.text()}."
            )
    for what, faults in (("groups have no winner", found.failed), ("candidates were not made", found.generation)):
        if faults:
            lines.append(f"{len(faults)} {what}:")
            lines += [f"  {printable(name)}: {printable(why)}" for name, why in faults[:SHOWN]]
    if report.repeated:
        lines.append(
            f"{report.repeated} candidates equal another of their group: the editor makes little of its seed."
        )
    if found.unscored:
        lines.append(f"{found.unscored} other candidates have no score.")
    return [*lines, *(f"Note: {note}" for note in report.notes)]
