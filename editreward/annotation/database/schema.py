"""The tables, and how an older file comes to them: an ordered list of migrations, counted by `PRAGMA user_version`.

To change the tables, add an entry to `MIGRATIONS`; never change one that was released. Files written before there was
a `user_version` have version 1 and say so in the table `meta`, which older releases of this package read: it is kept.
"""

import sqlite3
from pathlib import Path

TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE annotators (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    token_hash TEXT,                              -- null: may not sign in
    extra_rounds INTEGER NOT NULL DEFAULT 0,      -- calibration rounds beyond the protocol's
    created_at REAL NOT NULL
);
CREATE TABLE sessions (
    key_hash TEXT PRIMARY KEY,
    annotator INTEGER NOT NULL REFERENCES annotators,
    created_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE groups (
    id INTEGER PRIMARY KEY,
    group_id TEXT NOT NULL UNIQUE,
    purpose TEXT NOT NULL CHECK (purpose IN ('work', 'calibration', 'gold')),
    position INTEGER NOT NULL,
    candidates INTEGER NOT NULL,
    reference TEXT,                               -- JSON: scores by dimension for each candidate, of known answers
    digest TEXT,                                  -- of instruction and images, once somebody has seen them
    fault TEXT,                                   -- why it cannot be shown
    active INTEGER NOT NULL DEFAULT 1             -- 0: no longer in the datasets that are served
);
CREATE TABLE assignments (
    id INTEGER PRIMARY KEY,
    annotator INTEGER NOT NULL REFERENCES annotators,
    group_key INTEGER NOT NULL REFERENCES groups,
    purpose TEXT NOT NULL,
    round INTEGER NOT NULL DEFAULT 0,             -- calibration rounds count from 1
    candidate_order TEXT NOT NULL,                -- JSON: candidate shown at each place
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'submitted', 'skipped', 'released')),
    version INTEGER NOT NULL DEFAULT 0,           -- the submission that counts; 0: none yet
    seconds REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    touched_at REAL NOT NULL,
    UNIQUE (annotator, group_key, round)
);
CREATE INDEX assignments_of_group ON assignments (group_key, state);
CREATE TABLE drafts (
    assignment INTEGER NOT NULL REFERENCES assignments,
    candidate INTEGER NOT NULL,
    dimension TEXT NOT NULL,
    score INTEGER NOT NULL CHECK (score BETWEEN 1 AND 4),
    PRIMARY KEY (assignment, candidate, dimension)
) WITHOUT ROWID;
CREATE TABLE submissions (
    assignment INTEGER NOT NULL REFERENCES assignments,
    version INTEGER NOT NULL,
    form TEXT NOT NULL UNIQUE,
    reason TEXT,                                  -- why the group was skipped; null: it was rated
    comment TEXT,
    seconds REAL NOT NULL,
    submitted_at REAL NOT NULL,
    PRIMARY KEY (assignment, version)
) WITHOUT ROWID;
CREATE TABLE scores (
    assignment INTEGER NOT NULL,
    version INTEGER NOT NULL,
    candidate INTEGER NOT NULL,
    dimension TEXT NOT NULL,
    score INTEGER NOT NULL CHECK (score BETWEEN 1 AND 4),
    PRIMARY KEY (assignment, version, candidate, dimension),
    FOREIGN KEY (assignment, version) REFERENCES submissions
) WITHOUT ROWID;
CREATE TABLE calibrations (
    annotator INTEGER NOT NULL REFERENCES annotators,
    round INTEGER NOT NULL,
    passed INTEGER NOT NULL,
    shares TEXT NOT NULL,                         -- JSON: [exact, within one] by dimension
    finished_at REAL NOT NULL,
    PRIMARY KEY (annotator, round)
) WITHOUT ROWID;
CREATE TABLE tuples (
    id INTEGER PRIMARY KEY,
    tuple_id TEXT NOT NULL UNIQUE,
    group_id TEXT NOT NULL,
    candidates TEXT NOT NULL,                     -- JSON: indices into the group's candidates
    reason TEXT NOT NULL,
    quorum INTEGER NOT NULL,                      -- how many have to agree
    active INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE proposals (
    tuple INTEGER NOT NULL REFERENCES tuples,
    annotator INTEGER NOT NULL REFERENCES annotators,
    ranks TEXT,                                   -- JSON: rank by candidate; null: the tuple should be left out
    comment TEXT NOT NULL,
    submitted_at REAL NOT NULL,
    PRIMARY KEY (tuple, annotator)
) WITHOUT ROWID;
"""

MIGRATIONS: tuple[str, ...] = (TABLES,)
"""Statements, with ";" at the ends of lines, that make version 1 of nothing, version 2 of version 1, and so on."""


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a database to the newest version. Runs inside a transaction: an interrupted migration changes nothing.

    Args:
        connection: of the database, in a transaction.
        path: its file, for errors.

    Raises:
        ValueError: the file is no annotation database, or one of a newer version.
    """
    version, newest = _version(connection, path), len(MIGRATIONS)
    if version > newest:
        raise ValueError(
            f"{path} has version {version}, and this release of editreward reads up to version {newest}. Install the "
            "release that wrote it, or a newer one: pip install --upgrade editreward"
        )
    if version == newest and _user_version(connection) == newest:
        return
    for migration in MIGRATIONS[version:]:
        for statement in migration.split(";\n"):
            connection.execute(statement)
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?)", (str(newest),))
    connection.execute(f"PRAGMA user_version = {newest:d}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the file's tables; 0 where there are none yet."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return 0
    noted = None
    if "meta" in tables:
        noted = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    if noted is None:
        raise ValueError(f"{path} is an SQLite file, but no annotation database.")
    return _user_version(connection) or int(noted[0])


def _user_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)
