"""`editreward annotate report`: how well annotators agree, and whom and what to look at again."""

import argparse
from typing import TYPE_CHECKING

from editreward.cli.commands import Commands
from editreward.cli.paths import reads

if TYPE_CHECKING:
    from editreward.groups.ratings import Rating


def add_report(commands: Commands) -> None:
    """Declare `editreward annotate report`."""
    parser = commands.add_parser(
        "report",
        help="measure agreement and check annotators",
        description="Write OUTPUT/report.html and report.json: agreement of annotators, their pass rates on gold "
        "groups, who drifts or rates too fast, and groups to cross-check.",
        epilog="Example: editreward annotate report --database annotations.sqlite --output report/",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--database", metavar="FILE.sqlite", help="the annotation app's database")
    source.add_argument("--ratings", metavar="FILE.jsonl", help="ratings as `editreward annotate export` writes them")
    source.add_argument("--dataset", metavar="DATASET", help="a dataset whose candidates have annotations")
    parser.add_argument("--split", nargs="+", metavar="SPLIT", help="splits of the dataset (default: all)")
    parser.add_argument(
        "--references",
        action="append",
        default=[],
        metavar="DATASET",
        help="a dataset of gold or calibration groups whose scores are known answers, besides those in the database",
    )
    parser.add_argument(
        "--protocol", metavar="FILE.yaml", help="its calibration terms say when a gold group is passed (default: ours)"
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the folder to write")
    parser.add_argument("--title", default="Annotation quality", help="heading of the page (default: %(default)s)")
    parser.add_argument(
        "--fast-seconds",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="less time than this per candidate is too fast (default: %(default)s)",
    )
    parser.add_argument(
        "--drift-points",
        type=float,
        default=0.3,
        metavar="POINTS",
        help="flag a significant change of so many points over time (default: %(default)s)",
    )
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    reads(parser, database="file", ratings="file", dataset="dataset", references="dataset", protocol="file")
    parser.set_defaults(run=run_report)


def run_report(args: argparse.Namespace) -> None:
    """Write the report and print its main results."""
    from editreward.annotation.quality import Limits, assess
    from editreward.annotation.report import as_text, references_of_dataset, write_report
    from editreward.data.sources import raw_groups, stream_splits
    from editreward.groups.protocol import DEFAULT_PROTOCOL, read_protocol

    if args.split and not args.dataset:
        raise ValueError("--split goes with --dataset")
    ratings, references = read_source(args)
    for name in args.references:
        for dataset in stream_splits(name).values():
            references |= references_of_dataset(raw_groups(dataset))
    if not ratings:
        raise ValueError(f"{args.database or args.ratings or args.dataset} has no ratings.")
    if args.resamples < 1:
        raise ValueError(f"--resamples must be at least 1, not {args.resamples}.")
    terms = read_protocol(args.protocol or DEFAULT_PROTOCOL).calibration
    limits = Limits(fast_seconds=args.fast_seconds, drift_points=args.drift_points)
    quality = assess(ratings, references, terms, limits, resamples=args.resamples, seed=args.seed)
    files = write_report(quality, ratings, args.output, references, args.title)
    print(as_text(quality))
    print(f"Wrote {' and '.join(map(str, files))}.")


def read_source(args: argparse.Namespace) -> "tuple[list[Rating], dict[str, list[dict[str, float]]]]":
    """The ratings and the known answers that go with them."""
    from itertools import chain

    from editreward.annotation.database import Database
    from editreward.annotation.report import ratings_of_dataset
    from editreward.data.sources import raw_groups, stream_splits
    from editreward.groups.rating_files import check_ratings, read_ratings

    if args.database:
        with Database(args.database) as database:
            return database.ratings(), dict(database.references())
    if args.ratings:
        return read_ratings(args.ratings), {}
    rows = chain.from_iterable(raw_groups(dataset) for dataset in stream_splits(args.dataset, args.split).values())
    ratings = ratings_of_dataset(rows)
    check_ratings(ratings, where=args.dataset)
    return ratings, {}
