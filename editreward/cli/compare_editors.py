"""`editreward compare-editors`: which editor is better, on the same instructions."""

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
    from contextlib import ExitStack

    from editreward.curation.editor_report import Found
    from editreward.data.edit_sources import GroupSource

SHOWN = 10
"""Edits that were not made, and are printed."""


def add_compare_editors(commands: Commands) -> None:
    """Declare `editreward compare-editors`."""
    parser = commands.add_parser(
        "compare-editors",
        usage="editreward compare-editors SOURCE [EDITOR ...] --output DIR [--scorer SPEC]\n"
        "       editreward compare-editors --results NAME=SOURCE NAME=SOURCE ... --output DIR [--scorer SPEC]\n"
        "       editreward compare-editors --editors FILE.yaml --instructions DATASET --output DIR [--scorer SPEC]",
        help="which editor is better on the same instructions",
        description="Score the edits of several editors for the same instructions, and say which editor is better: "
        "win rate and difference with intervals over sources, a test, categories, languages, cost, the most decisive "
        "pairs as pictures, and how many more sources would settle what is undecided. Edits that are not there are "
        "made (--editors), and a run that was stopped goes on.",
        epilog="Example: editreward compare-editors edits/ editor-a editor-b --output comparison/",
    )
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="edits that say by which editor they are: what `editreward generate` writes, a table with a column "
        "`editor`, shards, or a Hub dataset",
    )
    parser.add_argument("names", nargs="*", metavar="EDITOR", help="whom to compare (default: all)")
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="NAME=SOURCE",
        help="the results of each editor, in their own place",
    )
    parser.add_argument("--editors", metavar="FILE.yaml", help="editors that make the edits (`editreward generate`)")
    parser.add_argument("--instructions", metavar="DATASET", help="what they edit, as `editreward generate` takes it")
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed in an earlier run")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of report and scores")
    parser.add_argument("--second", metavar="SPEC", help="another scorer, which is asked whether it agrees")
    parser.add_argument("--tie", type=float, default=0.0, metavar="D", help="differences of at most D are ties")
    add_source_options(parser)
    add_scorer_options(parser)
    reads(parser, source="edits", images="folder", second="scorer", editors="file", instructions="dataset")
    parser.set_defaults(run=run_compare_editors, check=_check)


def _check(args: argparse.Namespace) -> None:
    """Raise a `ValueError` unless it is said, in one way, whom to compare."""
    if args.tie < 0:
        raise ValueError(f"--tie must be 0 or more, not {args.tie:g}.")
    if sum(map(bool, (args.source, args.results, args.editors))) != 1:
        raise ValueError("Name a SOURCE of edits, or --results of each editor, or --editors and --instructions.")
    if bool(args.editors) != bool(args.instructions):
        raise ValueError("--editors and --instructions go together: who edits, and what.")
    if len(args.names) == 1 or len(set(args.names)) < len(args.names):
        raise ValueError("Name at least two different editors, or none for all of them.")
    names = [name for name, _ in _results(args)]
    if args.results and (len(names) < 2 or len(set(names)) < len(names)):
        raise ValueError("--results takes two different editors or more.")


def _results(args: argparse.Namespace) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in args.results]
    for text, (name, _, source) in zip(args.results, pairs, strict=True):
        if not name or not source:
            raise ValueError(f"--results takes NAME=SOURCE, not {text!r}.")
    return [(name, source) for name, _, source in pairs]


def run_compare_editors(args: argparse.Namespace) -> int:
    """Compare editors and print who is better. Returns 1 if rows could not be read, or edits were not made."""
    from contextlib import ExitStack

    from datasets import disable_progress_bars

    from editreward.curation.editor_report import compare_in
    from editreward.scorers.registry import load_scorer

    disable_progress_bars()
    with ExitStack() as stack:
        opened = _opened(args, stack)
        if opened is None:  # of several processes the first one compares
            return 0
        source, names, seconds, failures = opened
        scorer = scorer_of(args)
        second = load_scorer(args.second) if args.second else None
        found = compare_in(Path(args.output), source, scorer, second, names, args.tie, None, seconds)
        faults = len(source.faults)
    print("\n".join(summary(found)))
    print(f"Pictures, categories and languages: {args.output}/report.html")
    for note in scorer.notes:
        print(f"Note: {note}")
    if faults:
        print(f"{faults:,} rows of the source could not be read: {args.output}/faults.jsonl.")
    if failures:
        print(f"{len(failures)} edits were not made:")
        print("\n".join(f"  {printable(one)}" for one in failures[:SHOWN]))
    return 1 if faults or failures else 0


def _opened(
    args: argparse.Namespace, stack: "ExitStack"
) -> "tuple[GroupSource, list[str], dict[str, list[float]], list[str]] | None":
    """The edits, whom to compare, how long images took, and what was not made."""
    from editreward.curation.editor_sources import SideBySide
    from editreward.data.edit_sources import open_source
    from editreward.editors.candidates import seconds_of
    from editreward.editors.store import CandidateStore

    options = source_options(args)
    if args.editors:
        return _generated(args)
    if not args.results:
        source = stack.enter_context(open_source(args.source, options))
        return source, args.names, seconds_of(CandidateStore(args.source), args.names), []
    results = _results(args)
    sources = {name: stack.enter_context(open_source(where, options)) for name, where in results}
    seconds = {
        name: [second for values in seconds_of(CandidateStore(where)).values() for second in values]
        for name, where in results
    }
    known = {name: values for name, values in seconds.items() if values}
    return SideBySide(sources), args.names or list(sources), known, []


def _generated(
    args: argparse.Namespace,
) -> "tuple[GroupSource, list[str], dict[str, list[float]], list[str]] | None":
    """Make the edits that are not there. None in processes other than the main one."""
    from editreward.editors.candidates import CandidateGroups
    from editreward.editors.editors import read_editors
    from editreward.editors.instructions import open_instructions
    from editreward.editors.run import make_candidates, process_state
    from editreward.editors.store import CandidateStore

    editors = read_editors(args.editors)
    if args.names:
        known = {editor.name: editor for editor in editors}
        if unknown := [name for name in args.names if name not in known]:
            raise ValueError(f"{args.editors} has no editor {unknown[0]!r}, only: {', '.join(known)}.")
        editors = [known[name] for name in args.names]
    if len(editors) < 2:
        raise ValueError(f"{args.editors} has one editor: two or more are compared.")
    state, store = process_state(), CandidateStore(args.output)
    with state.main_process_first():
        rows = open_instructions(args.instructions, args.split, 0, args.limit, args.images, columns_of(args.column))
    make_candidates(rows, editors, store, args.retry_failed, state)
    if not state.is_main_process:
        return None
    source = CandidateGroups(rows, editors, store)
    failures = [f"{one.group_id}, {one.editor}, seed {one.seed}: {one.error}" for one in source.failures]
    return source, [editor.name for editor in editors], source.seconds(), failures


def summary(found: "Found") -> list[str]:
    """What the command prints."""
    lines = []
    for place, one in enumerate(found.comparisons):
        names = printable(f"{one.first} against {one.second}")
        lines.append(f"{names}: {printable(one.verdict)} (p = {one.p_value:.3g}).")
        lines.append(
            f"  wins {one.win_rate.text()} of {one.cases} instructions of {one.sources} sources, {one.ties} ties"
        )
        lines += [f"  {printable(name)}: {estimate.text()}" for name, estimate in one.differences.items()]
        if found.disagreements is not None:
            other = found.disagreements[place]
            lines.append(f"  the second scorer prefers the other editor in {other.share.text()}")
            lines.append(f"  by the second scorer alone: {printable(other.verdict)}")
    for name, values in found.seconds.items():
        lines.append(f"{printable(name)}: {sum(values) / len(values):.2f} s an image ({len(values):,} images)")
    return lines
