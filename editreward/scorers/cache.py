"""Answers of scorers on disk, found by content: Parquet files in a folder for each fingerprint.

A key is the hash of all that an answer depends on, so that a changed image, instruction, model or setting is another
key. Answers are added in small files as they come, which leaves a killed run's work in place, and gathered into one
file when a run is complete.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from editreward.files import atomic_file
from editreward.groups import GroupScores
from editreward.groups.rows import GroupRow
from editreward.scorers.folders import cache_folder

ANSWERS_FOLDER = "answers-2"
"""Another form of answers takes another number: what an older version kept is not read."""

SCORES = pa.schema({"key": pa.string(), "scores": pa.string()})
MARGINS = pa.schema({"key": pa.string(), "margin": pa.float64()})
CHECKS = pa.schema({"key": pa.string(), "faults": pa.string()})


class ParquetStore:
    """Rows by key in the Parquet files of a folder. Several processes may add to it at once.

    Args:
        folder: where, made when the first row is added.
        schema: columns, among them `key`.
        about: what the rows belong to; written beside them for people to read.
    """

    def __init__(self, folder: Path, schema: pa.Schema, about: str = "") -> None:
        self.folder, self.schema, self.about = folder, schema, about

    def read(self) -> dict[str, dict[str, object]]:
        """All rows by key.

        Raises:
            ValueError: a file is damaged; it is named.
        """
        rows: dict[str, dict[str, object]] = {}
        for file in self._files():
            try:
                table = pq.read_table(file, schema=self.schema)
            except FileNotFoundError:  # another process has just gathered it into a file that is read, too
                return self.read()
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"The cached answers in {file} cannot be read ({error}). Delete the file.") from error
            for row in table.to_pylist():
                rows[row.pop("key")] = row
        return rows

    def add(self, rows: Mapping[str, GroupRow]) -> None:
        """Add rows by key. They are there completely or not at all."""
        if not rows:
            return
        if not self.folder.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "about.json").write_text(self.about + "\n", encoding="utf-8")
        table = pa.Table.from_pylist([{"key": key, **row} for key, row in rows.items()], schema=self.schema)
        with atomic_file(self.folder / f"{uuid4().hex}.parquet", durable=False) as part:
            pq.write_table(table, part)

    def gather(self) -> None:
        """Make one file of the small ones. Only one process may do it at a time."""
        before = self._files()
        if len(before) > 1:
            self.add(self.read())
            for file in before:
                file.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))


def store_for(fingerprint: str, schema: pa.Schema, folder: Path | None = None) -> ParquetStore:
    """The store of one scorer's, judge's or check's answers.

    Args:
        fingerprint: of whoever gives them.
        schema: `SCORES`, `MARGINS` or `CHECKS`.
        folder: of the whole cache, `cache_folder()` by default.
    """
    name = hashlib.sha256(fingerprint.encode()).hexdigest()[:32]
    return ParquetStore((folder or cache_folder()) / ANSWERS_FOLDER / name, schema, fingerprint)


def scores_row(scores: GroupScores) -> dict[str, object]:
    """A row of `SCORES`, without its key: whatever a scorer gives, as JSON."""
    return {"scores": json.dumps(scores.state(), ensure_ascii=False)}


def scores_of(row: GroupRow) -> GroupScores:
    """The opposite of `scores_row`."""
    return GroupScores.from_state(json.loads(row["scores"]))


def faults_row(faults: Iterable[tuple[str, str, str]]) -> dict[str, object]:
    """A row of `CHECKS`, without its key: kind, place and message of each fault."""
    return {"faults": json.dumps(list(faults), ensure_ascii=False)}


def faults_of(row: GroupRow) -> list[tuple[str, str, str]]:
    """The opposite of `faults_row`."""
    return [(kind, place, message) for kind, place, message in json.loads(row["faults"])]
