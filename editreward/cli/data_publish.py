"""`editreward data publish`: write a dataset as it is published, and push it to the Hub."""

import argparse
import tempfile
from pathlib import Path

from editreward.cli.commands import Commands
from editreward.cli.data_options import add_dataset_options, open_splits
from editreward.groups.rows import GroupRows


def add_publish(commands: Commands) -> None:
    """Declare `editreward data publish`."""
    parser = commands.add_parser(
        "publish",
        help="check, split, describe and push a dataset to the Hub",
        description="Check a dataset, split it by source image, and push it to the Hub with a card, statistics and a "
        "figure. Annotators' names are replaced by annotator-1, annotator-2 and so on.",
        epilog="Example: editreward data publish groups/ --repo-id org/EditReward-Data --license cc-by-4.0 "
        "--splits train=0.9 test=0.1 --dry-run out/published",
    )
    add_dataset_options(parser)
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="the dataset repository on the Hub")
    parser.add_argument(
        "--dry-run", metavar="FOLDER", help="write what would be pushed into this new folder, and push nothing"
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        metavar="NAME=FRACTION",
        help="draw new splits by source image, with these shares of them (default: keep the splits there are; "
        "where there is only one, train=0.9 test=0.1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the splits (default: %(default)s)")
    parser.add_argument("--license", help="the Hub's identifier of a licence, such as cc-by-4.0 (default: unknown)")
    parser.add_argument(
        "--fields", metavar="FILE.yaml", help="texts of the card; entries as in dataset_card/fields.yaml"
    )
    parser.add_argument("--protocol", metavar="FILE.yaml", help="the protocol with the rubric that annotators used")
    parser.add_argument(
        "--allow", nargs="+", default=[], metavar="KIND", help="kinds of faults that do not stop it (see data check)"
    )
    parser.add_argument("--keep-names", action="store_true", help="publish the names of annotators as they are")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--shard-megabytes", type=float, default=500, metavar="MB", help="size of a shard (default: %(default)s)"
    )
    parser.set_defaults(run=run_publish)


def run_publish(args: argparse.Namespace) -> None:
    """Write the dataset, and push it unless it is a dry run."""
    from tqdm import tqdm

    from editreward.data.sources import common_dimensions, raw_groups
    from editreward.publishing.card import UNKNOWN_LICENCE, read_fields
    from editreward.publishing.datasets import (
        PublishOptions,
        create_repository,
        plan_splits,
        survey,
        upload,
        write_publication,
    )

    if args.shard_megabytes <= 0:
        raise ValueError(f"--shard-megabytes must be positive, not {args.shard_megabytes:g}")
    options = PublishOptions(
        repo_id=args.repo_id,
        licence=args.license or UNKNOWN_LICENCE,
        fractions=parse_fractions(args.splits) if args.splits else None,
        seed=args.seed,
        allow=args.allow,
        keep_names=args.keep_names,
        fields=read_fields(args.fields),
        protocol=args.protocol,
        max_shard_bytes=int(args.shard_megabytes * 1e6),
    )
    datasets = open_splits(args)

    def read(what: str) -> dict[str, GroupRows]:
        return {
            split: tqdm(raw_groups(dataset), desc=f"{what} {split}", unit=" groups", disable=None, leave=False)
            for split, dataset in datasets.items()
        }

    found = survey(read("check"), options.allow)
    plan_splits(found, options)  # stops at faults before anything is made
    with tempfile.TemporaryDirectory(prefix="editreward-") as temporary:
        folder = Path(args.dry_run or Path(temporary) / "dataset")
        if not args.dry_run:
            address = create_repository(options.repo_id, args.private)
        statistics = write_publication(lambda: read("write"), common_dimensions(datasets), found, folder, options)
        groups = ", ".join(f"{split} {count:,}" for split, count in statistics.splits.items())
        print(f"{statistics.groups:,} groups ({groups}) with {statistics.candidates:,} candidates.")
        if options.licence == UNKNOWN_LICENCE:
            print("Note: the card states no licence; name one with --license.")
        if not args.fields:
            print("Note: the card's texts are the defaults; give your own with --fields.")
        if args.dry_run:
            print(f"Wrote {folder}. Nothing was pushed.")
        else:
            print(f"Pushed {address} as {upload(folder, options.repo_id, 'Publish edit groups')}")


def parse_fractions(given: list[str]) -> dict[str, float]:
    """Fractions of splits from NAME=FRACTION.

    Raises:
        ValueError: one is not of this form, or a name occurs twice.
    """
    fractions: dict[str, float] = {}
    for item in given:
        name, _, fraction = item.partition("=")
        try:
            value = float(fraction)
        except ValueError:
            raise ValueError(f"--splits takes NAME=FRACTION, such as train=0.9, not {item!r}") from None
        if name in fractions:
            raise ValueError(f"--splits names {name!r} twice")
        fractions[name] = value
    return fractions
