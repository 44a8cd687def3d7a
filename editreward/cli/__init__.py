"""The command line: one module per command, which imports what it needs when it runs."""

import atexit
import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The `editreward` command; see `editreward.cli.command.main`. Without `argv` it is this process, and ends it."""
    from editreward.cli.command import main as run

    status = run(argv)
    if argv is None and "pyarrow" in sys.modules:
        _leave(status)
    return status


def _leave(status: int) -> None:
    """End the process as Python does, but for taking its modules apart.

    A Parquet stream that was not read to its end makes pyarrow abort or wait for ever in that moment
    (https://github.com/apache/arrow/issues/45214), whatever the command had done.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
