"""Options that the commands on datasets share."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import IterableDataset


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Which dataset to read."""
    parser.add_argument("dataset", metavar="DATASET", help="a folder, a Parquet file, or the id of a Hub dataset")
    parser.add_argument("--split", nargs="+", metavar="SPLIT", help="the splits to read (default: all)")
    parser.add_argument("--config", help="the configuration, where the dataset has several")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub dataset")


def open_splits(args: argparse.Namespace) -> "dict[str, IterableDataset]":
    """The splits that the options of `add_dataset_options` ask for, streaming."""
    from editreward.data.sources import stream_splits

    return stream_splits(args.dataset, args.split, args.config, args.revision)
