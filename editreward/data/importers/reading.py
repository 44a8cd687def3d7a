"""Rows of an input, one at a time: tables (`editreward.data.tables`), Arrow files, dataset folders, Hub datasets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import IterableDataset

from editreward.data.tables import TEXT_SUFFIXES, naming_parquet_faults, parquet_rows, read_table
from editreward.hub_ids import hub_commit
from editreward.resuming import file_fingerprint, folder_fingerprint

READ_BUFFER = 1 << 20

TABLE_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}


@dataclass(frozen=True)
class Source:
    """One value of `--input`.

    Args:
        name: path, or id of a dataset repository on the Hub.
        split, config, revision: which rows of a dataset; files have one split.
        encoding, separator, under: of a text file, see `read_table`.
    """

    name: str
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    encoding: str | None = None
    separator: str | None = None
    under: str | None = None

    @property
    def label(self) -> str:
        """What reports call it: the file's name, or the id of the dataset."""
        path = Path(self.name)
        return path.name if path.exists() else self.name

    def fingerprint(self) -> list[object]:
        """Changes when the input does: of files their content, of a Hub dataset its commit, where the Hub answers."""
        path = Path(self.name)
        if path.is_file():
            read_as = [self.encoding, self.separator] if self.encoding or self.separator else []
            return [path.name, *file_fingerprint(path), *read_as]
        content = folder_fingerprint(path) if path.exists() else hub_commit(self.name, self.revision)
        return [path.name if path.exists() else self.name, self.split, self.config, self.revision, content]


def sources_of(name: str, split: str | None = None, revision: str | None = None) -> list[Source]:
    """All splits, or one, of all configurations of a dataset here or on the Hub.

    Raises:
        ValueError: there is no such split.
        FileNotFoundError: there is no such dataset.
    """
    from datasets import get_dataset_config_names, get_dataset_split_names

    from editreward.data.sources import opening

    found = []
    with opening(name):
        for config in get_dataset_config_names(name, revision=revision):
            splits = get_dataset_split_names(name, config_name=config, revision=revision)
            found += [Source(name, one, config, revision) for one in splits if split in (None, one)]
    if not found:
        raise ValueError(f"{name} has no split {split!r}.")
    return found


@dataclass(frozen=True)
class RawRow:
    """A row as it was read, images not decoded.

    Args:
        number: its number, counted from 0.
        values: its fields, if it is a mapping at all.
        fault: why it cannot be read; empty for a sound row.
        line: of a text file, where it begins, counted from 1.
        state: tells, until the next row is read, where to go on after this one (see `read_rows`).
    """

    number: int
    values: Any
    fault: str = ""
    line: int | None = None
    state: Callable[[], dict[str, Any] | None] = lambda: None


def read_rows(source: Source, start: int = 0, state: dict[str, Any] | None = None) -> Iterator[RawRow]:
    """The rows of an input from row `start` on, in bounded memory.

    Args:
        source: the input.
        start: number of the first row to return, counted from 0.
        state: what the `state` of row `start` - 1 told, which spares reading what came before it again.

    Raises:
        FileNotFoundError: there is no such input.
        ValueError: a file is not of its format; the row after which it breaks is named.
    """
    if Path(source.name).suffix.lower() in TEXT_SUFFIXES:
        rows = read_table(source.name, encoding=source.encoding, separator=source.separator, under=source.under)
        yield from (RawRow(row.number, row.values, row.fault, row.line) for row in rows if row.number >= start)
    else:
        yield from _dataset_rows(source, start, state)


def _dataset_rows(source: Source, start: int, state: dict[str, Any] | None) -> Iterator[RawRow]:
    from datasets import Dataset, load_dataset_builder, load_from_disk
    from datasets.packaged_modules.parquet.parquet import Parquet

    from editreward.data.sources import check_path, is_saved_to_disk, opening

    path = Path(source.name)
    check_path(source.name, (*TEXT_SUFFIXES, *TABLE_BUILDERS))
    if is_saved_to_disk(path):
        saved = load_from_disk(str(path))
        if not isinstance(saved, Dataset):
            _check_split(source, list(saved))
            saved = saved[source.split]
        yield from _stream(saved.to_iterable_dataset(), start, state)
        return
    if path.suffix in TABLE_BUILDERS:
        builder = load_dataset_builder(TABLE_BUILDERS[path.suffix], data_files={source.split: str(path)})
    else:
        with opening(source.name):
            builder = load_dataset_builder(source.name, name=source.config, revision=source.revision)
    if isinstance(builder, Parquet):
        _check_split(source, list(builder.config.data_files))
        yield from _parquet_rows(builder.config.data_files[source.split], start, state or {"file": 0, "row": start})
    else:
        splits = builder.as_streaming_dataset()
        _check_split(source, list(splits))
        yield from _stream(splits[source.split], start, state)


def _stream(dataset: IterableDataset, start: int, state: dict[str, Any] | None) -> Iterator[RawRow]:
    """Rows of a streaming dataset, images as `{"bytes", "path"}`."""
    dataset = dataset.decode(False)
    if state is not None:
        dataset.load_state_dict(state)
    for number, values in enumerate(dataset if state is not None else islice(dataset, start, None), start):
        yield RawRow(number, values, state=dataset.state_dict)


def _parquet_rows(files: Sequence[str], number: int, state: dict[str, Any]) -> Iterator[RawRow]:
    """Rows of Parquet files, here or on the Hub, a few at a time: a streaming dataset holds 16 row groups.

    Args:
        files: paths or URLs.
        number: number of the first row to return.
        state: the file that it is in, and its place there or after the file's end.
    """
    import fsspec
    import pyarrow.parquet as pq

    skipped = state["row"]
    for index in range(state["file"], len(files)):
        with fsspec.open(files[index], "rb") as opened:
            with naming_parquet_faults(files[index]):
                table = pq.ParquetFile(opened, pre_buffer=False, buffer_size=READ_BUFFER)
                for place, values in parquet_rows(table, skipped):
                    yield RawRow(number, values, state=partial(dict, file=index, row=place + 1))
                    number += 1
        skipped = max(0, skipped - table.metadata.num_rows)


def _check_split(source: Source, splits: Sequence[object]) -> None:
    if source.split not in splits:
        raise ValueError(f"{source.name} has no split {source.split!r}, only: {', '.join(map(str, splits))}.")
