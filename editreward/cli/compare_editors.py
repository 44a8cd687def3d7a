"""`editreward compare-editors`: which editor is better, on the same instructions."""

import argparse
from pathlib import Path

from editreward.cli.commands import Commands
from editreward.cli.curate import add_source_options, source_options
from editreward.cli.paths import reads
from editreward.cli.scorer_options import add_scorer_options, scorer_of
from editreward.printing import printable


def add_compare_editors(commands: Commands) -> None:
    """Declare `editreward compare-editors`."""
    parser = commands.add_parser(
        "compare-editors",
        help="which editor is better on the same instructions",
        description="Score the edits of several editors for the same instructions, and say which editor is better: "
        "win rate and difference with intervals over sources, a test, categories, languages, the most decisive pairs "
        "as pictures, and how many more sources would settle what is undecided.",
        epilog="Example: editreward compare-editors edits/ editor-a editor-b --output comparison/",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="edits that say by which editor they are: what `editreward generate` writes, a table with a column "
        "`editor`, shards, or a Hub dataset",
    )
    parser.add_argument("editors", nargs="*", metavar="EDITOR", help="whom to compare (default: all)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of report and scores")
    parser.add_argument("--second", metavar="SPEC", help="another scorer, which is asked whether it agrees")
    parser.add_argument("--tie", type=float, default=0.0, metavar="D", help="differences of at most D are ties")
    add_source_options(parser)
    add_scorer_options(parser)
    reads(parser, source="edits", images="folder", second="scorer")
    parser.set_defaults(run=run_compare_editors)


def run_compare_editors(args: argparse.Namespace) -> int:
    """Compare editors and print who is better."""
    if args.tie < 0:
        raise ValueError(f"--tie must be 0 or more, not {args.tie:g}.")
    if len(args.editors) == 1 or len(set(args.editors)) < len(args.editors):
        raise ValueError("Name at least two different editors, or none for all of them.")
    from datasets import disable_progress_bars

    from editreward.curation.editor_report import compare_in
    from editreward.data.edit_sources import open_source
    from editreward.scorers.registry import load_scorer

    disable_progress_bars()
    with open_source(args.source, source_options(args)) as source:
        scorer = scorer_of(args)
        second = load_scorer(args.second) if args.second else None
        found = compare_in(Path(args.output), source, scorer, second, args.editors, args.tie, None)
        faults = len(source.faults)
    for place, one in enumerate(found.comparisons):
        names = printable(f"{one.first} against {one.second}")
        print(f"{names}: {printable(one.verdict)} (p = {one.p_value:.3g}).")
        print(f"  wins {one.win_rate.text()} of {one.cases} instructions of {one.sources} sources, {one.ties} ties")
        for name, estimate in one.differences.items():
            print(f"  {printable(name)}: {estimate.text()}")
        if found.disagreements is not None:
            print(f"  the second scorer prefers the other editor in {found.disagreements[place].text()}")
    print(f"Pictures, categories and languages: {args.output}/report.html")
    for note in scorer.notes:
        print(f"Note: {note}")
    if faults:
        print(f"{faults} rows of the source could not be read.")
    return 1 if faults else 0
