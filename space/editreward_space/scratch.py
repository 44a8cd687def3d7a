"""A folder for uploads and downloads that goes with the process, however that ends. Imports nothing that is slow."""

import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "editreward-space-"


class Scratch:
    """A new folder for temporary files. Those of processes that were killed are deleted first.

    Each folder has a lock beside it, which the operating system gives up when the process that holds it ends.
    """

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        for lock in parent.glob(f"{PREFIX}*.lock"):
            _delete(lock.with_suffix(""))
        self.folder = parent / f"{PREFIX}{secrets.token_hex(8)}"
        self._lock = FileLock(f"{self.folder}.lock")
        self._lock.acquire(timeout=0)
        self.folder.mkdir(mode=0o700)

    @contextmanager
    def until_ended(self) -> Iterator[None]:
        """Delete the folder when what is inside is left: as it ends, by Ctrl + C, or as the process is terminated."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def _delete(folder: Path) -> None:
    """Delete the folder of a process that is no more; that of one that lives is locked."""
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # OSError: somebody else's
        return
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
