"""What a batch is made of: a table with an archive of images, or a dataset of edit groups on the Hub.

Nothing is unpacked to disk and no path of a user's is opened: images are read out of the archive, or out of the
dataset's rows, by name and one group at a time.
"""

import io
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editreward.data import tables
from editreward_space.images import NamedImage, checked_image
from editreward_space.service import Upload
from editreward_space.settings import MEGABYTE, InputError, Settings

MAX_TABLE_MB = 20
MAX_DIRECTORY_MB = 8
"""Of an archive's list of files: some 100,000 of them. Python's `zipfile` holds it in memory."""

MAX_ROW_GROUP_MB = 512
"""Of a Parquet file's row group, unpacked, which is read in one go."""

SUFFIXES = (*tables.CSV_SUFFIXES, *tables.JSON_LINES_SUFFIXES)

EXAMPLE = 'A line of JSONL is {"instruction": "...", "source": "a.png", "edited": ["b.png", "c.png"]}.'
COLUMNS = (
    "A CSV has the columns `instruction`, `source` and `edited`, with more of both as `source_2`, `edited_2`, "
    "`edited_3` and so on."
)


@dataclass(frozen=True)
class TableRow:
    """A row of a user's table: one group, its images by their names in the archive."""

    name: str
    instruction: str
    sources: list[str]
    edited: list[str]


@dataclass(frozen=True)
class BatchItem:
    """One group of a batch, or why there is none."""

    name: str
    instruction: str
    group: Upload | None
    error: str = ""


def read_table(path: str | Path, settings: Settings) -> list[TableRow | str]:
    """Read a CSV or JSONL, whatever program wrote it (`editreward.data.tables`).

    Returns:
        For each row its content, or what is wrong with it.

    Raises:
        InputError: the whole file cannot be used: too large, too long, no text, without the columns.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path.name} is neither a .csv nor a .jsonl file.")
    if path.stat().st_size > MAX_TABLE_MB * MEGABYTE:
        raise InputError(f"{path.name} is larger than {MAX_TABLE_MB} MB. Split it.")
    rows: list[TableRow | str] = []
    number = 0
    try:
        for number, row in enumerate(tables.read_table(path), start=1):
            if number <= settings.max_rows:
                rows.append(_table_row(row, number, path.name))
    except tables.TableError as error:
        raise InputError(str(error).replace(str(path), path.name)) from error
    if not rows:
        raise InputError(f"{path.name} has no rows. {COLUMNS} {EXAMPLE}")
    if number > settings.max_rows:
        raise InputError(f"{path.name} has {number} rows; at most {settings.max_rows} are accepted. Split it.")
    return rows


def _table_row(row: tables.TableRow, number: int, name: str) -> TableRow | str:
    if row.fault:
        return f"This row ({row.place}) cannot be read: {row.fault}."
    columns = {column.casefold(): column for column in row.values}
    images = {stem: _numbered(columns, stem) for stem in ("source", "edited")}
    found = {"instruction": "instruction" in columns, **images}
    if missing := [f"`{column}`" for column, there in found.items() if not there]:
        listed = ", ".join(row.values)[:200]
        told = f"no column {' and no column '.join(missing)}, only: {listed}"
        if Path(name).suffix.lower() in tables.CSV_SUFFIXES:  # in no row, then
            raise InputError(f"{name} has {told}. {COLUMNS}")
        return f"This row ({row.place}) has {told}. {EXAMPLE}"
    cells = {stem: [_texts(row.values[columns[column]]) for column in names] for stem, names in images.items()}
    instruction = row.values[columns["instruction"]]
    if not isinstance(instruction, str) or any(cell is None for of_stem in cells.values() for cell in of_stem):
        return f"In this row ({row.place}) `instruction`, `source` or `edited` are no texts. {EXAMPLE}"
    texts = {stem: [text for cell in of_stem for text in cell or () if text] for stem, of_stem in cells.items()}
    own_name = row.values[columns["id"]] if "id" in columns else ""
    return TableRow(str(own_name or number), instruction, texts["source"], texts["edited"])


def _numbered(columns: Iterable[str], stem: str) -> list[str]:
    """The columns `stem`, `stem_2`, `stem_3` ... by their numbers."""
    found = [column for column in columns if re.fullmatch(rf"{stem}(_?\d+)?", column)]
    return sorted(found, key=lambda column: int(column.removeprefix(stem).removeprefix("_") or 0))


def _texts(value: Any) -> list[str] | None:
    """A list of texts, or one text; None: it is neither."""
    values = value if isinstance(value, list) else [value]
    return [item.strip() for item in values] if all(isinstance(item, str) for item in values) else None


class ImageArchive:
    """Images of a ZIP file, read by name; a context manager.

    Raises:
        InputError: the file is no ZIP file, or lists too many files.
    """

    def __init__(self, path: str | Path, settings: Settings) -> None:
        self.name, self.settings, self.read_bytes = Path(path).name, settings, 0
        _check_directory(path)
        try:
            self._file = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(f"{self.name} is not a ZIP file that can be read: {error}.") from error
        self._names: dict[str, str] = {}
        for file in self._file.infolist():
            for name in _names_of(file):
                self._names.setdefault(_plain(name), file.filename)

    def __enter__(self) -> "ImageArchive":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str) -> bytes:
        """The content of one file, unpacked within the limits whatever the archive declares.

        Raises:
            InputError: it is not there, too large, damaged or encrypted.
        """
        stored = self._names.get(_plain(name))
        if stored is None:
            raise InputError(f"{name} is not in {self.name}{self._hint(name)}.")
        limit = self.settings.max_image_mb * MEGABYTE
        try:
            with self._file.open(stored) as file:
                content = file.read(limit + 1)
        except RuntimeError as error:  # encrypted
            raise InputError(f"{name} cannot be unpacked: {error}.") from error
        except Exception as error:  # the decompressors raise whatever they meet
            raise InputError(f"{name} in {self.name} is damaged.") from error
        if len(content) > limit:
            raise InputError(f"{name} is larger than {self.settings.max_image_mb} MB. Save it smaller.")
        self.read_bytes += len(content)
        if self.read_bytes > self.settings.max_batch_mb * MEGABYTE:
            raise InputError(f"{self.name} unpacks to more than {self.settings.max_batch_mb} MB. Split the batch.")
        return content

    def _hint(self, name: str) -> str:
        """Where an archive has a file of that name: most often, all its files are in one folder."""
        ending = "/" + _plain(name).rpartition("/")[2]
        alike = next((known for known in self._names if f"/{known}".endswith(ending)), None)
        return f", which has {alike}" if alike else ""


def _plain(name: str) -> str:
    """A name as it is looked for: with slashes, its letters composed, as macOS does not write them."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def _names_of(file: zipfile.ZipInfo) -> Iterator[str]:
    """What a file may be called: many programs write names in UTF-8 or a code page, and say nothing of it."""
    yield file.filename
    if file.flag_bits & 0x800 or file.filename.isascii():
        return
    for encoding in ("utf-8", *tables.CODE_PAGES):
        try:
            yield file.filename.encode("cp437").decode(encoding)
        except UnicodeError:
            continue


def _check_directory(path: str | Path) -> None:
    """Refuse a list of files that would fill the memory when `zipfile` reads it."""
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 66_000))  # the end record with the longest comment, and what ZIP64 puts before it
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if b"PK\x06\x07" in tail or directory > MAX_DIRECTORY_MB * MEGABYTE:
        raise InputError(f"{Path(path).name} holds too many files, or is in ZIP64 format. Split the batch.")


def table_items(rows: Sequence[TableRow | str], archive: ImageArchive) -> Iterator[BatchItem]:
    """The groups of a table, one at a time."""
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            yield BatchItem(str(number), "", None, row)
            continue
        try:
            images = [
                [_archived(archive, name) for name in names[: limit + 1]]
                for names, limit in (
                    (row.sources, archive.settings.max_sources),
                    (row.edited, archive.settings.max_candidates),
                )
            ]
            yield BatchItem(row.name, row.instruction, Upload(images[0], images[1], row.instruction))
        except InputError as error:
            yield BatchItem(row.name, row.instruction, None, str(error))


def _archived(archive: ImageArchive, name: str) -> NamedImage:
    return checked_image(archive.read(name), name, archive.settings)


def dataset_items(name: str, split: str, settings: Settings) -> tuple[int, Iterator[BatchItem]]:
    """The groups of a public Hub dataset as `editreward data publish` writes it, read as they are needed.

    Only bytes inside the rows are taken for images: a path there could name a file of this server, or of its network.
    The Space's own token is not used: it may see datasets that the user must not.

    Returns:
        How many groups there are, or some number above `max_rows` where there are more, and the first `max_rows`.

    Raises:
        InputError: there is no such dataset or split, or it holds no edit groups.
    """
    import pyarrow.parquet as pq
    from huggingface_hub import HfFileSystem

    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII) or ".." in name:
        raise InputError(f"{name[:100]!r} is not the id of a dataset. It looks like organisation/name.")
    if not re.fullmatch(r"\w+(\.\w+)*", split):
        raise InputError(f"{split[:100]!r} is not the name of a split. Most datasets have `train` or `test`.")
    hub = HfFileSystem(token=False, skip_instance_cache=True, use_listings_cache=False)
    try:
        paths = [
            path
            for path in sorted(hub.find(f"datasets/{name}"))
            if re.search(rf"(^|/){re.escape(split)}[-./][^/]*(/[^/]*)*parquet$", path.split(name, 1)[1])
        ]
        if not paths:
            raise InputError(f"The dataset {name} has no Parquet files of a split {split!r}.")
        files: list[Any] = []
        total = 0
        while len(files) < len(paths) and total <= settings.max_rows:  # a dataset may have thousands of files
            files.append(pq.ParquetFile(hub.open(paths[len(files)]), pre_buffer=False))
            total += files[-1].metadata.num_rows
    except InputError:
        raise
    except Exception as error:  # of the Hub, of HTTP, of Parquet
        raise InputError(
            f"The dataset {name} cannot be read: it is not public, not there, or not in Parquet ({_short(error)})."
        ) from error
    for file in files:
        fields = set(file.schema_arrow.names)
        if missing := {"instruction", "source_images", "candidates"} - fields:
            raise InputError(f"The dataset {name} holds no edit groups: no column {', '.join(sorted(missing))}.")
    return total, _dataset_items(files, settings)


def _dataset_items(files: Sequence[Any], settings: Settings) -> Iterator[BatchItem]:
    columns = ["group_id", "instruction", "source_images", "candidates"]
    number = 0
    for file in files:
        for part in range(file.num_row_groups):
            if file.metadata.row_group(part).total_byte_size > MAX_ROW_GROUP_MB * MEGABYTE:
                raise InputError(f"The dataset has row groups of more than {MAX_ROW_GROUP_MB} MB. Write smaller ones.")
            rows = file.iter_batches(1, row_groups=[part], columns=columns)
            while number < settings.max_rows:
                try:
                    batch = next(rows, None)
                except Exception as error:  # of HTTP, of Parquet
                    raise InputError(f"The dataset cannot be read on: {_short(error)}.") from error
                if batch is None:
                    break
                number += 1
                yield _dataset_item(batch.to_pylist()[0], number, settings)


def _dataset_item(row: dict[str, Any], number: int, settings: Settings) -> BatchItem:
    name, instruction = str(row.get("group_id") or number), row["instruction"] or ""
    try:
        sources = [_embedded(image, f"source {i}", settings) for i, image in enumerate(row["source_images"], 1)]
        edited = [_embedded(c["image"], f"edit {i}", settings) for i, c in enumerate(row["candidates"], 1)]
    except InputError as error:
        return BatchItem(name, instruction, None, str(error))
    except (KeyError, TypeError):
        return BatchItem(name, instruction, None, "The row is no edit group: its images are not where they must be.")
    return BatchItem(name, instruction, Upload(sources, edited, instruction))


def _embedded(image: dict[str, Any] | None, name: str, settings: Settings) -> NamedImage:
    content = (image or {}).get("bytes")
    if not isinstance(content, bytes):
        raise InputError(f"{name} is not embedded in the dataset.")
    return checked_image(content, name, settings)


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
