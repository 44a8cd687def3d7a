"""Imported first by the repository's scripts: a missing package or file ends them with one line, not a traceback.

The scripts of `research/` and `performance/` use most of the package's parts, so they name the extra that has all.
"""

import os
import sys
from pathlib import Path
from types import TracebackType

EXTRA = "dev"


def tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """As `sys.excepthook`: print what ended the process."""
    if isinstance(error, ModuleNotFoundError):
        how = f'{error}: pip install -e ".[{EXTRA}]" in the repository brings it'
    elif isinstance(error, FileNotFoundError) and not os.environ.get("EDITREWARD_DEBUG"):
        how = f"{error} (EDITREWARD_DEBUG=1 shows where)"
    else:
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"{Path(sys.argv[0]).name or 'python'}: error: {how}", file=sys.stderr)


sys.excepthook = tell
