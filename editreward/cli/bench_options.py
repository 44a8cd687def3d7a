"""Options that `editreward bench` and its subcommands share."""

import argparse


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Where answers are kept."""
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="where answers and imports are kept (default: $EDITREWARD_CACHE, or beside the Hub's)",
    )
    parser.add_argument("--no-cache", action="store_true", help="keep no answers, and use none that were kept")
