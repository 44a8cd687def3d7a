"""The connection to the annotation database: opening, transactions, and its settings."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from editreward.annotation.database.schema import migrate

BUSY_SECONDS = 5.0
"""How long to wait for another process that is writing."""

RETRY_SECONDS = 0.02


class UnsavedError(OSError):
    """The database could not be written or read; nothing was saved."""


class BusyError(UnsavedError, TimeoutError):
    """Another program keeps the database to itself; nothing was saved."""


class Connection:
    """One connection, which threads take in turns; processes may open the same file at the same time.

    Args:
        path: the file. One of an older version is brought to the newest.
        create: make it if there is none.

    Raises:
        FileNotFoundError: there is no such file and `create` is false.
        ValueError: the file is no annotation database, or one of a newer version.
        BusyError: another program keeps it to itself.
        UnsavedError: it cannot be written or read.
    """

    def __init__(self, path: str | os.PathLike[str], create: bool = False) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise FileNotFoundError(f"There is no annotation database {path}.")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"There is no folder {self.path.parent} for the annotation database.")
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            with self.transaction() as connection:
                migrate(connection, self.path)
            # From here on `transaction` waits, so that reading can go on in between.
            self._connection.execute("PRAGMA busy_timeout = 0")
        except sqlite3.DatabaseError as error:
            if _is_busy(error):
                raise self._busy() from error
            raise ValueError(f"{self.path} cannot be used as an annotation database: {error}.") from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: what is executed inside is kept together, or undone together on an exception.

        Raises:
            BusyError: another program writes for longer than `BUSY_SECONDS`.
            UnsavedError: the file cannot be written, as on a full disk.
        """
        is_whole = self._begin()
        try:
            yield self._connection
            if is_whole:
                self._connection.execute("COMMIT")
        except BaseException as error:
            if is_whole and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if _is_of_the_disk(error):
                raise self._unsaved(error) from error
            raise
        finally:
            self._lock.release()

    def _begin(self) -> bool:
        """Take the lock, and begin a transaction unless this thread is in one; returns whether one was begun."""
        with self._lock:
            if self._connection.in_transaction:  # this thread's: others do not leave it so
                self._lock.acquire()
                return False
        self._execute("BEGIN IMMEDIATE")
        return True

    def _execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute a statement as soon as other programs let it; the lock is kept, and the caller's to release."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            self._lock.acquire()
            try:
                return self._connection.execute(sql, values)
            except BaseException as error:
                self._lock.release()
                if _is_of_the_disk(error):
                    raise self._unsaved(error) from error
                if not _is_busy(error):
                    raise
                if time.monotonic() > deadline:
                    raise self._busy() from error
            time.sleep(RETRY_SECONDS)  # without the lock: what need not wait goes on

    def _busy(self) -> BusyError:
        return BusyError(
            f"Another program has locked {self.path.name} for more than {BUSY_SECONDS:g} seconds, so nothing was "
            "saved. Try again; if it stays so, end the program that has the file open, such as an SQLite viewer."
        )

    def _unsaved(self, error: BaseException) -> UnsavedError:
        return UnsavedError(
            f"{self.path.name} cannot be used: {error}. Nothing was saved. Whoever runs the server has to make room "
            "on its disk, or let it write the file and its folder; then try again."
        )

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """What a query returns."""
        cursor = self._execute(sql, values)
        try:
            return cursor.fetchall()
        finally:
            self._lock.release()

    def row(self, sql: str, *values: object) -> sqlite3.Row | None:
        """The first row of what a query returns."""
        return next(iter(self.rows(sql, *values)), None)

    def meta(self, name: str) -> str | None:
        """A setting of the database."""
        row = self.row("SELECT value FROM meta WHERE name = ?", name)
        return row["value"] if row else None

    def set_meta(self, name: str, value: str) -> None:
        """Change a setting of the database."""
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def _is_busy(error: BaseException) -> bool:
    """Whether SQLite gave up as another program has the file; the low byte holds the kind of an extended code."""
    busy = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in busy


def _is_of_the_disk(error: BaseException) -> bool:
    """Whether SQLite could not write or read the file, as on a full disk."""
    kinds = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in kinds
