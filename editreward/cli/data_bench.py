"""`editreward data build-bench`: a benchmark from groups that three or more people have annotated."""

import argparse
from typing import TYPE_CHECKING

from editreward.cli.commands import Commands
from editreward.cli.data_options import add_dataset_options, open_splits
from editreward.cli.paths import reads

if TYPE_CHECKING:
    from editreward.curation.benchmark import BuildSummary


def add_build_bench(commands: Commands) -> None:
    """Declare `editreward data build-bench`."""
    parser = commands.add_parser(
        "build-bench",
        help="make a benchmark of groups that three or more people have annotated",
        description="Choose tuples of 2, 3 and 4 candidates with labels by majority, and write them in our schema and "
        "in the published row format. Tuples without a clear majority go into OUTPUT/tuples.jsonl for an adjudication "
        "round in the app; give its result back with --rankings.",
        epilog="Example: editreward data build-bench annotated/ --exclude org/EditReward-Data --output bench/",
    )
    add_dataset_options(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the benchmark's folder")
    parser.add_argument(
        "--rankings",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE.jsonl",
        help="joint rankings of tuples from adjudication rounds",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="DATASET",
        help="use no source image of this dataset, such as the training set; may be repeated",
    )
    _add_choice_options(parser)
    reads(parser, rankings="file")
    parser.set_defaults(run=run_build_bench)


def _add_choice_options(parser: argparse.ArgumentParser) -> None:
    """Which tuples are chosen."""
    parser.add_argument(
        "--groups",
        type=int,
        default=500,
        metavar="N",
        help="tuples to choose, one from each of so many groups, a third of each size (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="decides between equals (default: %(default)s)")
    parser.add_argument(
        "--annotators",
        type=int,
        default=3,
        metavar="N",
        help="how many must have rated all candidates of a tuple (default: %(default)s)",
    )
    parser.add_argument(
        "--tie-share",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="largest share of ties among the tuples of two (default: %(default)s)",
    )
    parser.add_argument(
        "--adjudicated-share",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="largest share of tuples that need adjudication, while there are others (default: %(default)s)",
    )
    parser.add_argument(
        "--near-bits",
        type=int,
        default=4,
        metavar="BITS",
        help="for --exclude: perceptual hashes that differ in so many of 64 bits are one image (default: %(default)s)",
    )
    parser.add_argument(
        "--output-split", default="test", metavar="SPLIT", help="split to write (default: %(default)s)"
    )


def run_build_bench(args: argparse.Namespace) -> None:
    """Build the benchmark and say what it holds."""
    from editreward.curation.benchmark import BuildOptions, build_benchmark
    from editreward.data.sources import common_dimensions
    from editreward.groups.rating_files import read_rankings

    options = BuildOptions(
        groups=args.groups,
        seed=args.seed,
        annotators=args.annotators,
        tie_share=args.tie_share,
        adjudicated_share=args.adjudicated_share,
        near_bits=args.near_bits,
        split=args.output_split,
    )
    splits = open_splits(args)
    common_dimensions(splits)  # stops where they differ
    summary = build_benchmark(
        list(splits.values()),
        args.output,
        options,
        exclude=args.exclude,
        rankings=[ranking for file in args.rankings for ranking in read_rankings(file)],
        name=args.dataset,
        progress=None,
    )
    print(describe(summary, args.output))


def describe(summary: "BuildSummary", output: str) -> str:
    """What was built, in lines of text."""
    lines = [f"Wrote {sum(summary.written.values())} tuples of {summary.groups} groups to {output}."]
    for size, wanted in summary.wanted.items():
        written, pending = summary.written[size], summary.pending[size]
        notes = [f"{pending} wait for adjudication"] if pending else []
        if written + pending < wanted:
            notes.append(f"{wanted - written - pending} not found")
        if size == 2 and summary.ties:
            notes.append(f"{summary.ties} ties")
        lines.append(f"  of {size}: {written} of {wanted}" + (f" ({', '.join(notes)})" if notes else ""))
    if sum(summary.wanted.values()) < summary.options.groups:
        lines.append(
            f"Only {sum(summary.wanted.values())} groups could be used, of the {summary.options.groups} asked for."
        )
    lines += [f"Left out: {len(ids)} groups, {reason}." for reason, ids in summary.left_out.items()]
    lines += [f"Not used: {len(ids)} rankings, {reason}." for reason, ids in summary.rankings_not_used.items()]
    if sum(summary.pending.values()):
        lines.append(
            f"{sum(summary.pending.values())} tuples wait in {output}/tuples.jsonl: run an adjudication round "
            "(editreward annotate), then repeat this with --rankings."
        )
    lines.append(f"Details: {output}/build.json")
    return "\n".join(lines)
