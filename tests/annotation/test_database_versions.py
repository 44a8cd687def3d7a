"""Annotation databases of other versions: older ones open and keep their rows, newer ones are refused by name.

`database_version_1.sql` was dumped from a database that the first release wrote: three annotators, a calibration round
that was passed and one that was failed, ratings, a correction, a skipped group, a draft, two tuples with proposals.
"""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from editreward.annotation import people
from editreward.annotation.assignment import Policy, next_assignment
from editreward.annotation.database import Database, schema
from editreward.cli import command as cli
from editreward.groups.protocol import CalibrationTerms

DUMP = Path(__file__).with_name("database_version_1.sql")
ADAS_TOKEN = "4kmpQwQeT36AXTYpl7lDDIxO"
POLICY = Policy(CalibrationTerms(groups=2))

NEXT = """
ALTER TABLE annotators ADD COLUMN language TEXT;
UPDATE annotators SET language = 'en';
CREATE TABLE notes (annotator INTEGER REFERENCES annotators, note TEXT);
"""
"""A migration to a version after the newest."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database as the first release left it."""
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
    connection.close()
    return path


def contents(path: Path) -> dict[str, list[tuple]]:
    """All rows of all tables."""
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}
    connection.close()
    return rows


def version(path: Path) -> int:
    connection = sqlite3.connect(path)
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return number


def columns(path: Path, table: str) -> list[str]:
    connection = sqlite3.connect(path)
    names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    connection.close()
    return names


def add_migration(monkeypatch: pytest.MonkeyPatch, statements: str) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, statements))


def test_a_database_of_the_first_release_opens_and_keeps_its_rows(old: Path) -> None:
    before = contents(old)
    assert version(old) == 0, "the first release knew no user_version"
    with Database(old) as database:
        assert {(rating.annotator, rating.group_id, rating.purpose) for rating in database.ratings()} == {
            ("ada", "calibration-0", "calibration"),
            ("ada", "calibration-1", "calibration"),
            ("grace", "calibration-0", "calibration"),
            ("grace", "calibration-1", "calibration"),
            *(("ada", group, purpose) for group, purpose in rated_by_ada(before)),
        }
        assert [skipped[1:] for skipped in database.skips()] == [
            ("ada", "The instruction makes no sense for this image", "why")
        ]
        assert people.annotators(database) == ["ada", "grace"], "alan was revoked"
        assert people.sign_in(database, "ada", ADAS_TOKEN)
        assert [ranking.annotators for ranking in database.rankings()] == [["ada", "grace"]]
        calibrations = {name: database.calibration(name) for name in ("ada", "grace", "alan")}
        assert {name: found and found.passed for name, found in calibrations.items()} == {
            "ada": True,
            "grace": False,
            "alan": None,
        }
        assert calibrations["grace"].extra_rounds == 1
        unfinished = next_assignment(database, "ada", POLICY)
        assert list(database.scores(unfinished.id).values()) == [4], "what was marked and not submitted"
    after = contents(old)
    assert version(old) == len(schema.MIGRATIONS)
    unchanged = before.keys() - {"meta", "sessions"}
    assert {table: after[table] for table in unchanged} == {table: before[table] for table in unchanged}


def rated_by_ada(rows: dict[str, list[tuple]]) -> set[tuple[str, str]]:
    """Group and purpose of what ada submitted outside of calibration, from the rows themselves."""
    groups = {row[0]: (row[1], row[2]) for row in rows["groups"]}
    found = {groups[row[2]] for row in rows["assignments"] if row[1] == 1 and row[6] == "submitted"}
    return {(group, purpose) for group, purpose in found if purpose != "calibration"}


def test_a_new_database_has_the_tables_of_one_that_was_migrated(old: Path, tmp_path: Path) -> None:
    Database(old).close()
    Database(tmp_path / "new.sqlite", create=True).close()
    assert version(tmp_path / "new.sqlite") == version(old)
    tables = contents(tmp_path / "new.sqlite").keys()
    assert tables == contents(old).keys()
    assert all(columns(old, table) == columns(tmp_path / "new.sqlite", table) for table in tables)


def test_migrations_run_in_order_and_once(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_migration(monkeypatch, NEXT)
    add_migration(monkeypatch, "UPDATE annotators SET language = language || '-GB';\n")
    for _ in range(2):
        with Database(old) as database:
            assert {row["language"] for row in database.rows("SELECT language FROM annotators")} == {"en-GB"}
    assert version(old) == len(schema.MIGRATIONS)


def test_a_newer_database_is_refused_by_name(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as newer:
        add_migration(newer, NEXT)
        Database(old).close()
    before = contents(old)
    newest = len(schema.MIGRATIONS)
    assert cli.main(["annotate", "people", "--database", str(old)]) == 2
    error = capsys.readouterr().err
    assert error.strip().count("\n") == 0
    assert f"{old} has version {newest + 1}, and this release of editreward reads up to version {newest}." in error
    assert "pip install --upgrade editreward" in error
    assert contents(old) == before and version(old) == newest + 1


def test_a_file_of_another_program_is_refused_whatever_its_version(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE annotators (id INTEGER)")
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")
    connection.close()
    with pytest.raises(ValueError, match=r"other\.sqlite is an SQLite file, but no annotation database"):
        Database(path)


def test_a_migration_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(old)
    with monkeypatch.context() as broken:
        add_migration(broken, NEXT + "INSERT INTO nowhere VALUES (1);\n")
        with pytest.raises(ValueError, match=r"old\.sqlite cannot be used .*nowhere"):
            Database(old)
    assert contents(old) == before and version(old) == 0
    with Database(old) as database:
        assert len(database.annotators()) == 3


KILLED = """
import os, sys
from editreward.annotation.database import Database, schema

class Migrations(tuple):
    def __getitem__(self, where):
        yield from tuple.__getitem__(self, where)
        os._exit(9)  # all statements were executed, nothing is committed

schema.MIGRATIONS = Migrations((*schema.MIGRATIONS, sys.argv[2]))
Database(sys.argv[1])
"""


def test_a_migration_that_is_killed_changes_nothing(old: Path) -> None:
    before = contents(old)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(old), NEXT],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 9, done.stderr
    assert contents(old) == before and version(old) == 0
