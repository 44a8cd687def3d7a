"""The edit groups of a user's table, one at a time: several edits of one source and instruction are one group.

Rows are read once, into a database beside which embedded images are put aside (in a temporary folder), and groups are
read out of it in the order of their first rows: memory stays bounded, wherever the rows of a group stand. Images stay
where they are. What a row says otherwise than it must is a fault: it is listed, and the other rows go on.
"""

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

from editreward.data.importers.faults import RowFault
from editreward.data.importers.formats import short_hash
from editreward.data.importers.images import ImageStore
from editreward.data.importers.table_edits import EditRow, TableOptions, read_edits
from editreward.data.tables import CSV_SUFFIXES, TableError, TableRow, read_table
from editreward.groups import EditGroup
from editreward.groups.rows import GroupRow
from processing_editreward import clean_instruction

TABLES = """
CREATE TABLE rows (id INTEGER PRIMARY KEY, key TEXT, data TEXT);
CREATE INDEX rows_by_key ON rows (key, id);
"""
ROWS_PER_COMMIT = 2000


@dataclass(frozen=True)
class TableFault:
    """A row that is left out: where it is in the table, and why."""

    place: str
    kind: str
    reason: str


@dataclass(frozen=True)
class TableCandidate:
    """An edit of a group.

    Attributes:
        place: its row in the table, such as "line 5".
        id: what the table calls the row; None where it does not.
        image: the image as the table has it: a path, or "embedded".
        editor: who made it; None where the table does not say.
    """

    place: str
    id: str | None
    image: str
    editor: str | None


@dataclass(frozen=True)
class TableGroup:
    """A group of a table.

    Attributes:
        number: counted from 0, in the order of the groups' first rows.
        group: its images as paths of files that are there.
        category: of its first row.
        sources: the source images as the table has them.
        candidates: where each edit is from.
    """

    number: int
    group: EditGroup
    category: str | None
    sources: tuple[str, ...]
    candidates: tuple[TableCandidate, ...]


class TableGroups:
    """The groups of a table; a context manager, within which they may be gone through more than once.

    Args:
        path: a file that `read_table` reads.
        images: the folder that image paths start from; by default the table's own. Paths that lead out of it are
            faults, and so are URLs: a table may be somebody else's.
        options: which columns to read.
        encoding, separator: of a text file, see `read_table`.
        limit: number of the first group that is left out.

    Attributes:
        rows: that were read.
        faults: of rows that were left out.
        columns: that were read, by field.

    Raises:
        FileNotFoundError: there is no such file or folder.
        TableError: the table cannot be read, or has no column for the instruction, the source or the edits.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        images: str | os.PathLike[str] | None = None,
        options: TableOptions | None = None,
        *,
        encoding: str | None = None,
        separator: str | None = None,
        limit: int | None = None,
    ) -> None:
        self.path, self.options, self.limit = Path(path), options or TableOptions(), limit
        self.images = self.path.parent if images is None else Path(images)
        if not self.images.is_dir():
            raise FileNotFoundError(f"There is no image folder {self.images}.")
        self._rows = read_table(self.path, encoding=encoding, separator=separator)
        self.rows = 0
        self.faults: list[TableFault] = []
        self.columns: Mapping[str, Sequence[str]] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="editreward-table-")
        folder = Path(self._folder.name)
        self._store = ImageStore(self.images, folder / "images")
        self._database = sqlite3.connect(folder / "rows.sqlite", isolation_level=None)
        self._database.executescript(TABLES)
        try:
            self._read()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()
        self._folder.cleanup()

    def _read(self) -> None:
        database = self._database
        database.execute("BEGIN")
        for row in self._rows:
            self.rows += 1
            try:
                key, data = self._refer(row)
                database.execute("INSERT INTO rows (key, data) VALUES (?, ?)", [key, json.dumps(data)])
            except RowFault as fault:
                has_one_header = self.path.suffix.lower() in (*CSV_SUFFIXES, ".parquet")
                if fault.kind == "missing-column" and has_one_header:  # in no row, then
                    raise TableError(f"{self.path}: {fault}.") from fault
                self.faults.append(TableFault(row.place, fault.kind, str(fault)))
            if self.rows % ROWS_PER_COMMIT == 0:
                database.execute("COMMIT")
                database.execute("BEGIN")
        database.execute("COMMIT")

    def _refer(self, row: TableRow) -> tuple[str, "KeptRow"]:
        """The key of a row's group, and what is kept of the row. Raises `RowFault`."""
        if row.fault:
            raise RowFault("broken-row", row.fault)
        read = read_edits(row.values, self.options)
        self.columns = self.columns or read.columns
        sources, edited = (
            [self._found(cell) for cell in cells] for cells in (read.sources, [edit.image for edit in read.edits])
        )
        instruction = clean_instruction(read.instruction)
        key = hashlib.sha256(json.dumps([read.group, sources, instruction]).encode()).hexdigest()
        return key, _kept(row, read, sources, edited)

    def _found(self, cell: object) -> str:
        """The reference of an image that is there. Raises `RowFault`."""
        reference = self._store.refer(cell)
        if not isinstance(reference, str):
            raise RowFault("missing-image", "an image is missing")
        self._store.find(reference)
        return reference

    def __len__(self) -> int:
        """How many groups there are."""
        (number,) = self._database.execute("SELECT COUNT(DISTINCT key) FROM rows").fetchone()
        return int(number) if self.limit is None else min(int(number), self.limit)

    def number(self) -> int | None:
        """As `len`, as `GroupSource` has it."""
        return len(self)

    def groups(self, start: int = 0, step: int = 1, limit: int | None = None) -> Iterator[TableGroup]:
        """Every `step`-th group from `start` on, up to the group `limit`, which is left out."""
        limit = self.limit if limit is None else min(limit, len(self))
        keys = self._database.execute("SELECT key FROM rows GROUP BY key ORDER BY MIN(id)")
        for number, (key,) in islice(enumerate(keys), start, limit, step):
            found = self._database.execute("SELECT data FROM rows WHERE key = ? ORDER BY id", [key])
            yield self._group(number, [json.loads(data) for (data,) in found])

    @property
    def name(self) -> str:
        """What to call the table where what was done with it is kept: its path, the images' folder, how it is read."""
        return f"{self.path.resolve()} ({self.images.resolve()}{read_as(self.options, self.limit)})"

    def group_rows(self, start: int = 0, step: int = 1, limit: int | None = None) -> Iterator[tuple[int, GroupRow]]:
        """As `groups`, as rows of the dataset schema with their numbers, the images within.

        Beyond the schema a row has `source`, the source images as the table has them, and a candidate `row` and `id`,
        where it is from.
        """
        for found in self.groups(start, step, limit):
            paths = [Path(str(path)) for path in (*found.group.sources, *found.group.edited)]
            images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
            count = len(found.group.sources)
            candidates = [
                {"image": {**image, "path": one.image}, "editor": one.editor, "row": one.place, "id": one.id}
                for image, one in zip(images[count:], found.candidates, strict=True)
            ]
            yield (
                found.number,
                {
                    "group_id": found.group.group_id,
                    "category": found.category,
                    "instruction": found.group.instruction,
                    "source": ", ".join(found.sources),
                    "source_images": images[:count],
                    "candidates": candidates,
                },
            )

    def _group(self, number: int, rows: "list[KeptRow]") -> TableGroup:
        first = rows[0]
        edits: dict[str, tuple[KeptRow, KeptEdit]] = {}
        for row in rows:
            for edit in row["edits"]:  # an image that several rows have is there once
                edits.setdefault(edit["image"], (row, edit))
        paths = [[self._store.find(reference) for reference in one] for one in (first["sources"], list(edits))]
        name = first["group"] or f"{self.path.stem}-{short_hash(first['sources'], first['instruction'])}"
        candidates = tuple(
            TableCandidate(row["place"], row["id"], _shown(reference), edit["editor"])
            for reference, (row, edit) in edits.items()
        )
        group = EditGroup(paths[0], first["instruction"], paths[1], name)
        sources = tuple(map(_shown, first["sources"]))
        return TableGroup(number, group, first["category"], sources, candidates)


def read_as(options: TableOptions, limit: int | None) -> str:
    """What the name of a source says of how it is read: other columns or another limit make other groups of it."""
    told = [f"{field} from {column}" for field, column in sorted(options.columns.items())]
    return "".join(f", {one}" for one in (*told, *([] if limit is None else [f"up to group {limit}"])))


class KeptEdit(TypedDict):
    """An edit of a row that is kept: the reference of its image."""

    image: str
    editor: str | None


class KeptRow(TypedDict):
    """What is kept of a row until its group is asked for; images are references."""

    place: str
    group: str | None
    id: str | None
    category: str | None
    instruction: str
    sources: list[str]
    edits: list[KeptEdit]


def _kept(row: TableRow, read: EditRow, sources: list[str], edited: list[str]) -> KeptRow:
    return {
        "place": row.place,
        "group": read.group,
        "id": read.id,
        "category": read.category,
        "instruction": read.instruction,
        "sources": sources,
        "edits": [{"image": image, "editor": edit.editor} for image, edit in zip(edited, read.edits, strict=True)],
    }


def _shown(reference: str) -> str:
    return "embedded" if reference.startswith("sha256:") else reference
