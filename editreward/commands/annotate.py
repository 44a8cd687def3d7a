"""`editreward annotate`: have people rate edit groups, and bring their ratings into a dataset.

A command is a pair of functions as in `editreward.cli`: `add_NAME` declares its options, `run_NAME` does the work and
imports what it needs. To add one, write the pair, in a module of this folder, and list `add_NAME` in
`ANNOTATE_COMMANDS`.
"""

from collections.abc import Callable
from typing import Any

ANNOTATE_COMMANDS: tuple[Callable[[Any], None], ...] = ()


def add_annotate(commands: Any) -> None:
    """Declare `editreward annotate`."""
    parser = commands.add_parser(
        "annotate",
        help="have people rate edit groups, and check and export their ratings",
        description="Have people rate edit groups, and check and export their ratings.",
    )
    subcommands = parser.add_subparsers(title="commands", dest="subcommand", required=True, metavar="COMMAND")
    for add_command in ANNOTATE_COMMANDS:
        add_command(subcommands)
