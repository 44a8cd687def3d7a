"""`editreward data`: check, import, describe and publish datasets of edit groups.

A command is a pair of functions: `add_NAME` declares its options, `run_NAME` does the work and imports what it
needs. To add one, write the pair, in a module of this folder, and list `add_NAME` in `DATA_COMMANDS`.
"""

from collections.abc import Callable

from editreward.cli.commands import Commands
from editreward.cli.data_bench import add_build_bench
from editreward.cli.data_check import add_check
from editreward.cli.data_import import add_contamination, add_export, add_flag, add_import
from editreward.cli.data_publish import add_publish
from editreward.cli.data_stats import add_stats

DATA_COMMANDS: tuple[Callable[[Commands], None], ...] = (
    add_check,  # one a line
    add_import,
    add_export,
    add_contamination,
    add_flag,
    add_stats,
    add_publish,
    add_build_bench,
)


def add_data(commands: Commands) -> None:
    """Declare `editreward data`."""
    parser = commands.add_parser(
        "data",
        help="check, import, describe and publish datasets of edit groups",
        description="Check, import, describe and publish datasets of edit groups.",
    )
    subcommands = parser.add_subparsers(title="commands", dest="subcommand", required=True, metavar="COMMAND")
    for add_command in DATA_COMMANDS:
        add_command(subcommands)
