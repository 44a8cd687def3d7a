"""Imported first by the repository's scripts: a package that is missing ends them with one line, not a traceback.

The scripts of `research/` and `performance/` use most of the package's parts, so they name the extra that has all.
"""

import sys
from pathlib import Path
from types import TracebackType

EXTRA = "dev"


def tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """As `sys.excepthook`: print what ended the process."""
    if not isinstance(error, ModuleNotFoundError):
        sys.__excepthook__(kind, error, traceback)
        return
    script = Path(sys.argv[0]).name or "python"
    print(f'{script}: error: {error}: pip install -e ".[{EXTRA}]" in the repository brings it', file=sys.stderr)


sys.excepthook = tell
