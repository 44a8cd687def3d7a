"""`editreward annotate`: have people rate edit groups, and bring their ratings into a dataset.

A command is a pair of functions: `add_NAME` declares its options, `run_NAME` does the work and imports what it
needs. To add one, write the pair, in a module of this folder, and list `add_NAME` in `ANNOTATE_COMMANDS`.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from editreward.cli.annotate_report import add_report
from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.printing import printable

if TYPE_CHECKING:
    from editreward.annotation.database import Database

MISSING_EXTRA = 'The annotation app needs more packages: pip install "editreward[annotate]"'


def add_people(commands: Commands) -> None:
    """Declare `editreward annotate people`."""
    parser = commands.add_parser(
        "people",
        help="add annotators, and see how far each is",
        description="Add annotators, each with a token to sign in with, and list how far everybody is. Tokens are "
        "printed this once, as name and token with a tab between: the database keeps only their hashes.",
        epilog="Example: editreward annotate people --database annotations.sqlite --add ada grace",
    )
    _add_database(parser)
    parser.add_argument("--add", nargs="+", action="extend", default=[], metavar="NAME", help="add annotators")
    parser.add_argument("--add-file", metavar="FILE", help="add the annotators in a file, one name per line")
    parser.add_argument(
        "--new-token", nargs="+", action="extend", default=[], metavar="NAME", help="replace lost or stolen tokens"
    )
    parser.add_argument(
        "--revoke",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="let annotators sign in no more; their ratings stay, and what they left open goes to others",
    )
    parser.add_argument(
        "--another-round",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="let annotators who failed the calibration round try once more",
    )
    reads(parser, add_file="file")
    parser.set_defaults(run=run_people)


def run_people(args: argparse.Namespace) -> None:
    """Add annotators, or list them."""
    from editreward.annotation import people
    from editreward.annotation.database import Database

    names = list(args.add)
    if args.add_file:
        names += _names_in(Path(args.add_file))
    without_token = set(args.revoke).intersection([*names, *args.new_token])
    if without_token:
        raise ValueError(f"{min(without_token)!r} cannot get a token and be revoked at once.")
    changes = (names, args.new_token, args.revoke, args.another_round)
    with Database(args.database, create=bool(names)) as database:
        with database.transaction():
            tokens = {**people.add_annotators(database, names), **people.new_tokens(database, args.new_token)}
            people.revoke(database, args.revoke)
            people.allow_another_round(database, args.another_round)
        for name, token in tokens.items():
            print(f"{name}\t{token}")
        if not any(changes):
            print(_progress_table(database, set(people.annotators(database))))


def _names_in(path: Path) -> list[str]:
    """The names in a file, one per line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeError as error:
        raise ValueError(f"{path} is no text in UTF-8, with a name in each line: {error}.") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"{path} has no names. Write one in each line.")
    return names


def _progress_table(database: "Database", active: set[str]) -> str:
    """How far everybody is."""
    rows = [("name", "signs in", "calibration", "rated", "skipped", "open", "minutes per group", "last active")]
    for progress in database.progress():
        rows.append(
            (
                progress.annotator,
                "yes" if progress.annotator in active else "no",
                {None: "-", True: "passed", False: "failed"}[progress.passed],
                str(progress.rated),
                str(progress.skipped),
                str(progress.open),
                f"{progress.seconds / 60 / progress.rated:.1f}" if progress.rated else "-",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(progress.last_active)) if progress.last_active else "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    table += [f"Not shown to anybody: {fault}" for fault in database.faults().values()]
    return "\n".join(table)


def add_serve(commands: Commands) -> None:
    """Declare `editreward annotate serve`."""
    parser = commands.add_parser(
        "serve",
        help="serve the annotation app",
        description="Serve the annotation app to the annotators in a database. It can be stopped, or killed, and "
        "started again at any time: all that annotators did is in the database.",
        epilog="Example: editreward annotate serve --dataset groups --database annotations.sqlite "
        "--calibration calibration --gold gold --ratings-per-group 3",
    )
    _add_dataset(parser, "the groups to rate, or with --adjudicate the rated groups: a folder or Hub id")
    _add_database(parser)
    parser.add_argument(
        "--protocol", metavar="FILE.yaml", help="dimensions, rubric and calibration terms (default: the paper's)"
    )
    parser.add_argument(
        "--calibration",
        metavar="NAME[:SPLIT]",
        help="groups with known scores: some of them must be rated alike before real work",
    )
    parser.add_argument(
        "--gold", metavar="NAME[:SPLIT]", help="groups with known scores that are mixed into the work unmarked"
    )
    parser.add_argument(
        "--gold-every", type=int, default=10, metavar="N", help="one gold group in N groups (default: %(default)s)"
    )
    parser.add_argument(
        "--ratings-per-group",
        type=int,
        default=1,
        metavar="N",
        help="annotators per group: 1 for training data, 3 for a benchmark (default: %(default)s)",
    )
    parser.add_argument(
        "--release-after",
        type=float,
        default=72.0,
        metavar="HOURS",
        help="when a group that somebody left open goes to others (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of orders and of places of gold groups (default: 0)")
    _add_modes(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    reads(parser, dataset="dataset", protocol="file", adjudicate="file")
    parser.set_defaults(run=run_serve)


def _add_modes(parser: argparse.ArgumentParser) -> None:
    """What annotators do beside rating: read reasons, rank tuples."""
    parser.add_argument(
        "--show-reasons",
        action="store_true",
        help="show what a scorer says of a group (`editreward rationales`) to who has rated it and goes back to it; "
        "the rating can then be changed no more",
    )
    parser.add_argument(
        "--adjudicate",
        metavar="FILE.jsonl",
        help="have annotators rank the tuples in this file, by `editreward data build-bench`, instead of rating",
    )
    parser.add_argument(
        "--quorum",
        type=int,
        metavar="N",
        help="with --adjudicate, how many have to agree (default: as many as rated the tuple, at least 2)",
    )


def run_serve(args: argparse.Namespace) -> None:
    """Serve the app until interrupted."""
    if args.gold_every < 1 or not args.release_after > 0:
        raise ValueError("--gold-every and --release-after must be positive")
    if args.quorum is not None and not args.adjudicate:
        raise ValueError("--quorum goes with --adjudicate")
    if args.adjudicate and (args.calibration or args.gold):
        raise ValueError("--adjudicate goes without --calibration and --gold")
    if args.adjudicate and args.show_reasons:
        raise ValueError("--adjudicate goes without --show-reasons")
    if not all(importlib.util.find_spec(name) for name in ("datasets", "gradio")):
        raise ValueError(MISSING_EXTRA)
    from editreward.annotation.adjudication import Adjudication, read_tuples
    from editreward.annotation.assignment import Policy
    from editreward.annotation.database import Database
    from editreward.annotation.people import annotators
    from editreward.annotation.store import GroupStore, dataset_name
    from editreward.annotation.workflow import Workflow
    from editreward.data.sources import open_groups
    from editreward.groups.protocol import DEFAULT_PROTOCOL, read_protocol

    protocol = read_protocol(args.protocol or DEFAULT_PROTOCOL)
    store = GroupStore()
    store.add(open_groups(args.dataset, args.split), "work", args.dataset)
    if args.calibration:
        store.add(open_groups(*dataset_name(args.calibration)), "calibration", args.calibration)
    if args.gold:
        store.add(open_groups(*dataset_name(args.gold)), "gold", args.gold)
    with Database(args.database) as database:
        names = annotators(database)
        if not names:
            raise ValueError(f"{args.database} has no annotators: add them with `editreward annotate people --add`.")
        activity: Workflow | Adjudication
        if args.adjudicate:
            tuples = read_tuples(args.adjudicate, store)
            activity = Adjudication(database, store, tuples, protocol.names, args.quorum)
            what = f"{len(tuples)} tuples to rank"
        else:
            policy = Policy(protocol.calibration, args.gold_every, args.release_after * 3600, args.seed)
            activity = Workflow(database, store, protocol, policy, args.ratings_per_group, args.show_reasons)
            count = list(store.purposes.values()).count
            what = f"{count('work')} groups to rate, {count('calibration')} for calibration, {count('gold')} gold"
            if not args.calibration:
                print("Note: without --calibration nobody has to pass a calibration round.", file=sys.stderr)
        from editreward.annotation.app import build_app, run_app  # takes seconds: errors come first

        app = build_app(database, protocol, activity)
        print(f"{what}, {len(names)} annotators: http://{args.host}:{args.port}", flush=True)
        run_app(app, args.host, args.port)


def add_export(commands: Commands) -> None:
    """Declare `editreward annotate export`."""
    parser = commands.add_parser(
        "export",
        help="write ratings into a dataset, and rankings into a file",
        description="Write a copy of the dataset with the ratings as `annotations` and their means as `scores`, and "
        "the rankings of the adjudication round as JSON lines. The database stays as it is, and may be in use.",
        epilog="Example: editreward annotate export --dataset groups --database annotations.sqlite --output rated",
    )
    parser.add_argument("--dataset", metavar="FOLDER_OR_ID", help="the dataset that was served")
    parser.add_argument("--split", help="its split (default: its only one)")
    _add_database(parser)
    parser.add_argument("--output", metavar="FOLDER", help="the dataset to write, in the same split")
    parser.add_argument(
        "--minimum", type=int, default=0, metavar="N", help="leave out groups with fewer annotators, and list them"
    )
    parser.add_argument(
        "--pseudonyms", action="store_true", help="write annotator-1, annotator-2 ... instead of names"
    )
    parser.add_argument(
        "--ratings", metavar="FILE.jsonl", help="also write all ratings, calibration and gold included"
    )
    parser.add_argument("--rankings", metavar="FILE.jsonl", help="write the rankings of the adjudication round")
    reads(parser, dataset="dataset")
    parser.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> None:
    """Export ratings and rankings."""
    if not importlib.util.find_spec("datasets"):
        raise ValueError(MISSING_EXTRA)
    from editreward.annotation.database import Database
    from editreward.annotation.export import export_ratings, pseudonymous, write_json_lines
    from editreward.data.sources import open_groups

    if bool(args.dataset) != bool(args.output):
        raise ValueError("--dataset and --output go together: what was served, and where to write it with ratings")
    for name in ("split", "minimum"):
        if getattr(args, name) and not args.output:
            raise ValueError(f"--{name} goes with --dataset and --output")
    if not (args.output or args.ratings or args.rankings):
        raise ValueError("nothing to write: give --dataset and --output, --ratings or --rankings")
    with Database(args.database) as database:
        if args.output:
            if Path(args.output).resolve() == Path(args.dataset).resolve():
                raise ValueError("--output must be another folder than --dataset")
            dataset = open_groups(args.dataset, args.split)
            counts = export_ratings(
                database, dataset, args.output, str(dataset.split or "train"), args.minimum, args.pseudonyms
            )
            print(f"Wrote {args.output}: {counts.written} groups with {counts.ratings} ratings of whole groups.")
            print(
                f"Of {counts.complete + counts.incomplete + counts.unrated} groups {counts.complete} are complete "
                f"(ratings asked for: {database.ratings_per_group()}), {counts.incomplete} incomplete, "
                f"{counts.unrated} unrated."
            )
            for group_id in counts.left_out:
                print(f"Left out, fewer than {args.minimum} annotators: {printable(group_id)}")
            if counts.elsewhere:
                print(f"Not in this dataset, so not written: {counts.elsewhere} ratings of whole groups.")
            for group_id, annotator, reason, comment in database.skips():
                why = f"{reason}{': ' if comment else ''}{comment}"
                print(printable(f"Skipped by {annotator}: {group_id} ({why})"))
        for path, records, what in (
            (args.ratings, database.ratings() if args.ratings else [], "ratings of candidates"),
            (args.rankings, database.rankings() if args.rankings else [], "rankings"),
        ):
            if path:
                found = pseudonymous(database, records) if args.pseudonyms else records
                print(f"Wrote {path}: {write_json_lines(found, path)} {what}.")


ANNOTATE_COMMANDS: tuple[Callable[[Commands], None], ...] = (add_people, add_serve, add_export, add_report)


def add_annotate(commands: Commands) -> None:
    """Declare `editreward annotate`."""
    parser = commands.add_parser(
        "annotate",
        help="have people rate edit groups; check and export ratings",
        description="Have people rate edit groups, and check and export their ratings.",
    )
    subcommands = parser.add_subparsers(title="commands", dest="subcommand", required=True, metavar="COMMAND")
    for add_command in ANNOTATE_COMMANDS:
        add_command(subcommands)


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--database", required=True, metavar="FILE.sqlite", help="annotators and all that they did, in one file"
    )


def _add_dataset(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--dataset", required=True, metavar="FOLDER_OR_ID", help=text)
    parser.add_argument("--split", help="its split (default: its only one)")
