"""Edits as people have them, as groups, one at a time: what `curate` and `score` read.

| source | groups are |
|---|---|
| a dataset of edit groups: folder, Parquet file, Hub id, `simulated` | its rows |
| a table in one file | all rows of one source and instruction, wherever they stand |
| a Hub dataset, WebDataset shards, several files | rows of one source and instruction that follow each other |

Of the last kind nothing is put aside: a row is read, scored and forgotten, whatever the size of the whole.
"""

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Protocol

import pyarrow.parquet as pq

from editreward.data.importers.faults import RowFault
from editreward.data.importers.images import ImageStore
from editreward.data.importers.reading import Source, read_rows
from editreward.data.importers.table_edits import Cell, EditRow, TableOptions, read_edits
from editreward.data.presets import preset_columns
from editreward.data.shards import is_shard, shard_rows
from editreward.data.sources import COLUMNS, load_groups, number_of_rows, numbered_rows, simulated_world
from editreward.data.table_groups import TableFault, TableGroups, read_as
from editreward.data.tables import TABLE_SUFFIXES, TEXT_SUFFIXES, TableRow, naming_parquet_faults, read_table
from editreward.files import write_lines
from editreward.groups.rows import GroupRow, ImageRecord
from processing_editreward import clean_instruction

NOT_TABLES = ("dataset_info.json", "state.json", "dataset_dict.json")


class GroupSource(Protocol):
    """Where groups come from. `TableGroups` is one, too.

    Attributes:
        name: what to call it where what was done with it is kept.
        rows: that were read so far, of a source that has other rows than groups.
        columns: that were read, by field; empty for a dataset of groups.
        faults: of rows that were left out, as far as it was read.
    """

    @property
    def name(self) -> str: ...

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> Mapping[str, Sequence[str]]: ...

    @property
    def faults(self) -> Sequence[TableFault]: ...

    def number(self) -> int | None:
        """How many groups there are; None where nobody knows before they are read."""
        ...

    def group_rows(self, start: int = 0, step: int = 1, limit: int | None = None) -> Iterator[tuple[int, GroupRow]]:
        """Every `step`-th group from `start` on, up to the group `limit`, with its number, images within."""
        ...


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        images: the folder that image paths start from; by default that of the file, or the folder itself.
        preset: of the columns (`editreward.data.presets`).
        columns: by field; these go before the preset's.
        split, revision: of a dataset.
        encoding, separator: of a text file.
        limit: number of the first group that is left out, which `simulated` needs.
    """

    images: str | None = None
    preset: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str = "train"
    revision: str | None = None
    encoding: str | None = None
    separator: str | None = None
    limit: int | None = None


@dataclass
class StoredGroups:
    """The rows of a dataset of edit groups; see `numbered_rows`."""

    dataset: str
    options: SourceOptions
    rows: int = 0
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    faults: Sequence[TableFault] = ()

    @property
    def name(self) -> str:
        read = read_as(TableOptions(), self.options.limit)
        return f"{self.dataset} ({self.options.split}, {self.options.revision}{read})"

    def number(self) -> int | None:
        """How many groups there are, where that can be told without reading them."""
        stored = number_of_rows(self.dataset, self.options.split, self.options.revision)
        numbers = [number for number in (stored, self.options.limit) if number is not None]
        return min(numbers, default=None)

    def group_rows(self, start: int = 0, step: int = 1, limit: int | None = None) -> Iterator[tuple[int, GroupRow]]:
        limit = self.options.limit if limit is None else limit
        return numbered_rows(self.dataset, self.options.split, start, step, limit, self.options.revision)


class StreamedGroups:
    """Groups of rows that follow each other and have one source and one instruction.

    Args:
        source: a file, a folder, a pattern such as `shards/*.tar`, or the id of a Hub dataset.
        options: how to read it.

    Attributes:
        rows, faults: that were read, and that were left out, the last time that groups were gone through.
        columns: that were read, by field.

    Raises:
        FileNotFoundError: there is no such source, or no such image folder.
        ValueError: there is no such preset or field.
    """

    def __init__(self, source: str, options: SourceOptions) -> None:
        self.source, self.options = source, options
        self.table = TableOptions(preset_columns(options.preset, options.columns))
        self.files = files_of(source)
        here = Path(source) if Path(source).is_dir() else self.files[0].parent if self.files else Path()
        self.images = Path(options.images) if options.images else here
        if not self.images.is_dir():
            raise FileNotFoundError(f"There is no image folder {self.images}.")
        self.rows = 0
        self.faults: list[TableFault] = []
        self.columns: Mapping[str, Sequence[str]] = {}

    @property
    def name(self) -> str:
        kept = [os.path.abspath(self.source) if self.files else self.source, self.options.split, self.options.revision]
        read = read_as(self.table, self.options.limit)
        return f"{', '.join(filter(None, kept))} ({self.images.resolve()}{read})"

    def number(self) -> int | None:
        return None

    def group_rows(self, start: int = 0, step: int = 1, limit: int | None = None) -> Iterator[tuple[int, GroupRow]]:
        """As `GroupSource` says. Images are read for the groups that are asked for alone."""
        self.rows, self.faults = 0, []
        limit = self.options.limit if limit is None else limit
        store = ImageStore(self.images, self.images)
        for number, (_, rows) in enumerate(groupby(self._edits(store), key=lambda one: one[2])):
            if limit is not None and number >= limit:
                return
            if number >= start and (number - start) % step == 0:
                yield number, self._group(number, list(rows), store)

    def _edits(self, store: ImageStore) -> Iterator[tuple[TableRow, EditRow, tuple[object, ...]]]:
        """The rows that can be read, and what makes those of a group equal."""
        for row in rows_of(self.source, self.files, self.options):
            self.rows += 1
            try:
                if row.fault:
                    raise RowFault("broken-row", row.fault)
                edits = read_edits(row.values, self.table)
                for cell in (*edits.sources, *(edit.image for edit in edits.edits)):
                    if isinstance(cell, str):
                        store.find(cell)
            except RowFault as fault:
                self.faults.append(TableFault(row.place, fault.kind, str(fault)))
                continue
            self.columns = self.columns or edits.columns
            sources = [_content(cell) for cell in edits.sources]
            yield row, edits, (edits.group, sources, clean_instruction(edits.instruction))

    def _group(
        self, number: int, rows: list[tuple[TableRow, EditRow, tuple[object, ...]]], store: ImageStore
    ) -> GroupRow:
        first_row, first, _ = rows[0]
        candidates: dict[object, GroupRow] = {}
        for row, edits, _ in rows:
            for edit in edits.edits:  # an image that several rows have is there once
                image = _record(edit.image, store)
                told = {"editor": edit.editor, "row": row.place, "id": edits.id}
                candidates.setdefault(_content(edit.image), {"image": image, **told})
        return {
            "group_id": first.group or first.id or f"{Path(self.source).stem}-{number:07d}",
            "category": first.category,
            "instruction": clean_instruction(first.instruction),
            "source": ", ".join(_shown(cell) for cell in first.sources),
            "source_images": [_record(cell, store) for cell in first.sources],
            "candidates": list(candidates.values()),
        }


def open_source(source: str, options: SourceOptions) -> AbstractContextManager[GroupSource]:
    """The groups of a source, within a context.

    Args:
        source: see the module; a pattern such as `shards/*.tar` stands for the files that match.
        options: how to read it.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it is none that can be read, or the options do not fit it.
    """
    path = Path(source)
    if is_stored(source, options):
        return nullcontext(StoredGroups(source, options))
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        table = TableOptions(preset_columns(options.preset, options.columns))
        text = {"encoding": options.encoding, "separator": options.separator}
        return TableGroups(path, options.images, table, **text, limit=options.limit)
    return nullcontext(StreamedGroups(source, options))


def write_faults(source: GroupSource, folder: Path) -> Path:
    """Write `faults.jsonl`, a line for each row that was left out, as far as the source was read. Returns the file."""
    file = folder / "faults.jsonl"
    write_lines(file, (json.dumps(asdict(fault)) for fault in source.faults))
    return file


def is_stored(source: str, options: SourceOptions) -> bool:
    """Whether a source is a dataset of edit groups, by its columns."""
    path = Path(source)
    if simulated_world(source) and not path.exists():
        return True
    if options.preset or options.columns:
        return False
    if path.is_file():
        return path.suffix == ".parquet" and _has_groups(path)
    if path.is_dir():
        files = sorted(path.rglob("*.parquet"))
        return bool(files) and _has_groups(files[0])
    if glob.has_magic(source):
        return False
    features = load_groups(source, options.split, True, revision=options.revision, strict=False).features
    return features is not None and set(COLUMNS) <= set(features)


def _has_groups(file: Path) -> bool:
    with naming_parquet_faults(str(file)):
        return set(COLUMNS) <= set(pq.read_schema(file).names)


def files_of(source: str) -> list[Path]:
    """The shards or tables of a source, in order; none for a dataset that `datasets` opens.

    Raises:
        FileNotFoundError: no file matches a pattern.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in NOT_TABLES)
        shards = [file for file in files if is_shard(file)]
        if not shards and any(file.suffix == ".parquet" for file in files):
            return []  # texts beside them, such as dataset_infos.json, say something of them
        return shards or [file for file in files if file.suffix.lower() in TEXT_SUFFIXES]
    if glob.has_magic(source):
        found = sorted(map(Path, glob.glob(source)))
        if not found:
            raise FileNotFoundError(f"No file matches {source}.")
        return found
    return []


def rows_of(source: str, files: Sequence[Path], options: SourceOptions) -> Iterator[TableRow]:
    """The rows of all files, or of a dataset, one at a time; those of several files say which one they are from.

    Raises:
        ValueError: a file is neither a table nor a shard.
    """
    if not files:
        for raw in read_rows(Source(source, options.split, None, options.revision)):
            values = raw.values if isinstance(raw.values, Mapping) else {}
            yield TableRow(raw.number, values, raw.line, raw.fault)
        return
    for file in files:
        if is_shard(file):
            yield from shard_rows(file)
        elif file.suffix.lower() in TABLE_SUFFIXES:
            rows = read_table(file, encoding=options.encoding, separator=options.separator)
            yield from (replace(row, file=file.name) for row in rows) if len(files) > 1 else rows
        else:
            endings = ", ".join((*TABLE_SUFFIXES, ".tar"))
            raise ValueError(f"{file} is neither a table nor a shard: it must end in {endings}.")


def _content(cell: Cell) -> str | bytes | None:
    """What tells images apart: their bytes or their path."""
    if isinstance(cell, Mapping):
        return cell.get("bytes") or cell.get("path")
    return cell


def _record(cell: Cell, store: ImageStore) -> ImageRecord:
    """An image as rows hold it, `{"bytes", "path"}`; its path is the one that the source has."""
    if isinstance(cell, str):
        return {"bytes": store.find(cell).read_bytes(), "path": cell}
    if isinstance(cell, Mapping):
        return {"bytes": cell.get("bytes"), "path": cell.get("path")}
    return {"bytes": bytes(cell), "path": None}


def _shown(cell: Cell) -> str:
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    return path if isinstance(path, str) else "embedded"
