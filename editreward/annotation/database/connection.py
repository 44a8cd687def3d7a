"""The connection to the annotation database: opening, transactions, and its settings."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from editreward.annotation.database.schema import migrate

BUSY_SECONDS = 30.0
"""How long to wait for another process that is writing."""


class Connection:
    """One connection, which threads take in turns; processes may open the same file at the same time.

    Args:
        path: the file. One of an older version is brought to the newest.
        create: make it if there is none.

    Raises:
        FileNotFoundError: there is no such file and `create` is false.
        ValueError: the file is no annotation database, or one of a newer version.
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
        except sqlite3.DatabaseError as error:
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
        """All or nothing: what is executed inside is kept together, or undone together on an exception."""
        with self._lock:
            if self._connection.in_transaction:  # part of a larger one
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """What a query returns."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: object) -> sqlite3.Row | None:
        """The first row of what a query returns."""
        with self._lock:
            row: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
            return row

    def meta(self, name: str) -> str | None:
        """A setting of the database."""
        row = self.row("SELECT value FROM meta WHERE name = ?", name)
        return row["value"] if row else None

    def set_meta(self, name: str, value: str) -> None:
        """Change a setting of the database."""
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
