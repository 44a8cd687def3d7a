"""The command line: one module per command, which imports what it needs when it runs."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The `editreward` command; see `editreward.cli.command.main`."""
    from editreward.cli.command import main as run

    return run(argv)
