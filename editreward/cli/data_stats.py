"""`editreward data stats`: describe a dataset in numbers, tables and a figure."""

import argparse
import json
from pathlib import Path

from editreward.cli.commands import Commands
from editreward.cli.data_options import add_dataset_options, open_splits


def add_stats(commands: Commands) -> None:
    """Declare `editreward data stats`."""
    parser = commands.add_parser(
        "stats",
        help="describe a dataset: sizes, origins, editors, scores, ties, agreement",
        description="Describe a dataset: sizes, origins, categories, editors with mean scores, score histograms and "
        "their joint distribution, shares of ties, agreement of annotators. Prints Markdown.",
        epilog="Example: editreward data stats groups/ --output statistics/",
    )
    add_dataset_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument(
        "--output", metavar="FOLDER", help="write statistics.json, statistics.md and statistics.png there too"
    )
    parser.add_argument("--title", help="heading of the figure (default: the dataset's name)")
    parser.set_defaults(run=run_stats)


def run_stats(args: argparse.Namespace) -> None:
    """Print the statistics, and write them where that is asked for."""
    from tqdm import tqdm

    from editreward.data.sources import common_dimensions, raw_groups
    from editreward.publishing.stats import dataset_statistics
    from editreward.publishing.stats_report import as_markdown, write_report

    datasets = open_splits(args)
    splits = {
        split: tqdm(raw_groups(dataset), desc=split, unit=" groups", disable=None, leave=False)
        for split, dataset in datasets.items()
    }
    statistics = dataset_statistics(splits, common_dimensions(datasets))
    if args.json:
        print(json.dumps(statistics.to_dict(), ensure_ascii=False, indent=2, allow_nan=False))
    else:
        print(as_markdown(statistics), end="")
    if args.output:
        write_report(statistics, args.output, args.title or Path(args.dataset).name)
