"""Options that the commands on datasets share."""

import argparse
from typing import TYPE_CHECKING

from editreward.cli.paths import reads
from editreward.data.presets import PRESETS

if TYPE_CHECKING:
    from datasets import IterableDataset


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Which dataset to read."""
    parser.add_argument("dataset", metavar="DATASET", help="a folder, a Parquet file, or the id of a Hub dataset")
    reads(parser, dataset="dataset")
    parser.add_argument("--split", nargs="+", metavar="SPLIT", help="the splits to read (default: all)")
    parser.add_argument("--config", help="the configuration, where the dataset has several")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub dataset")


def open_splits(args: argparse.Namespace) -> "dict[str, IterableDataset]":
    """The splits that the options of `add_dataset_options` ask for, streaming."""
    from editreward.data.sources import stream_splits

    return stream_splits(args.dataset, args.split, args.config, args.revision)


def add_preset_option(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Which published training set's columns the input has."""
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        metavar="NAME",
        help=f"the columns of a published training set: {', '.join(sorted(PRESETS))}",
    )


def add_table_options(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """How a text file is read, and what its columns are called."""
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="the input calls a field otherwise, such as source=before.png; may be repeated",
    )
    parser.add_argument("--encoding", metavar="NAME", help="of a text file that is no UTF-8, such as cp1252")
    parser.add_argument("--separator", metavar="CHARACTER", help="of a CSV (default: what its header tells)")


def columns_of(texts: list[str]) -> dict[str, str]:
    """The columns of `--column`, by the fields that they are for.

    Raises:
        ValueError: one of the options has another form.
    """
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, column) in zip(texts, pairs, strict=True):
        if not name or not column:
            raise ValueError(f"--column takes FIELD=COLUMN, not {text!r}.")
    return {name: column for name, _, column in pairs}
