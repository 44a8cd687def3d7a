"""`editreward rationales`: have a scorer write why annotated edits have their scores."""

import argparse

from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.cli.scorer_options import add_scorer_options, scorer_of


def add_rationales(commands: Commands) -> None:
    """Declare `editreward rationales`."""
    parser = commands.add_parser(
        "rationales",
        help="have a scorer write why annotated edits have their scores",
        description="Ask a judge or a generative scorer several times about each annotated edit, and keep the reasons "
        "of answers that agree with each other and with the annotators. The dataset that is written says of each "
        "rationale which scorer wrote it; `accelerate launch -m editreward.training.generative` learns from it.",
        epilog="Example: editreward rationales --data annotations --output with-rationales --scorer judge:MODEL@URL "
        "--passes 4",
    )
    parser.add_argument("--data", required=True, help="annotated groups: a folder, Parquet file, Hub id, 'simulated'")
    parser.add_argument("--split", default="train", help="of the data and of the output (default: %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N groups only; 'simulated' needs it")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the dataset that is written")
    parser.add_argument("--replace", action="store_true", help="also where there is a rationale")
    rule = parser.add_argument_group("which answers are kept, in points of 1..4")
    rule.add_argument(
        "--spread", type=float, default=0.5, metavar="X", help="as near to the median of all (default: %(default)s)"
    )
    rule.add_argument(
        "--share", type=float, default=0.5, metavar="P", help="least share of such answers (default: %(default)s)"
    )
    rule.add_argument(
        "--distance", type=float, default=0.5, metavar="X", help="as near to the annotators (default: %(default)s)"
    )
    add_scorer_options(parser)
    reads(parser, data="dataset")
    parser.set_defaults(run=run_rationales)


def run_rationales(args: argparse.Namespace) -> int:
    """Write the dataset, and say what was dropped. Returns 1 if nothing was kept."""
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"`--limit` must be at least 1, not {args.limit}.")
    from editreward.curation.rationales import Rule, write_rationales
    from editreward.data.schema import dimensions_of
    from editreward.data.sources import SIMULATED, load_groups, numbered_rows

    dimensions = None
    if args.data != SIMULATED:
        features = load_groups(args.data, args.split).features
        dimensions = dimensions_of(features)
    scorer = scorer_of(args)
    rows = (row for _, row in numbered_rows(args.data, args.split, 0, 1, args.limit, None))
    rule = Rule(args.spread, args.share, args.distance)
    if dimensions is None:
        from configuration_editreward import DEFAULT_DIMENSIONS

        dimensions = list(DEFAULT_DIMENSIONS)
    counts = write_rationales(scorer, rows, args.output, dimensions, args.split, rule, args.replace)
    print("\n".join(counts.lines()))
    for note in scorer.notes:
        print(f"Note: {note}")
    print(f"\nWrote {args.output}.")
    return 0 if counts.written or counts.had_one else 1
