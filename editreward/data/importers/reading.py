"""Rows of an input, one at a time: JSON, JSON lines, Parquet and Arrow files, dataset folders, Hub datasets."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

JSON_SUFFIXES = (".json", ".jsonl")
TABLE_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}


@dataclass(frozen=True)
class Source:
    """One value of `--input`.

    Args:
        name: path, or id of a dataset repository on the Hub.
        split, config, revision: which rows of a dataset; files have one split.
    """

    name: str
    split: str = "train"
    config: str | None = None
    revision: str | None = None

    @property
    def label(self) -> str:
        """What reports call it: the file's name, or the id of the dataset."""
        path = Path(self.name)
        return path.name if path.exists() else self.name

    def fingerprint(self) -> list[Any]:
        """Changes when the input does: of a file its size and time, of a dataset its name, split and revision."""
        path = Path(self.name)
        if path.is_file():
            return [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
        return [str(path.resolve()) if path.exists() else self.name, self.split, self.config, self.revision]


@dataclass(frozen=True)
class RawRow:
    """A row as it was read, images not decoded.

    Args:
        number: its number, counted from 0.
        values: its fields, if it is a mapping at all.
        state: tells, until the next row is read, where to go on after this one (see `read_rows`).
    """

    number: int
    values: Any
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
    path = Path(source.name)
    if path.suffix in JSON_SUFFIXES:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        rows = _json_lines(path) if path.suffix == ".jsonl" else _json_list(path)
        yield from (RawRow(number, values) for number, values in enumerate(rows) if number >= start)
    else:
        yield from _dataset_rows(source, start, state)


def _json_list(path: Path) -> Iterator[Any]:
    import ijson

    with path.open("rb") as file:
        first = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if first != b"[":
            raise ValueError(f"{path} is not a JSON list of rows.")
        file.seek(3 if file.seek(0) == 0 and file.read(3) == b"\xef\xbb\xbf" else 0)
        number = -1
        try:
            for number, values in enumerate(ijson.items(file, "item", use_float=True)):  # noqa: B007
                yield values
        except ijson.JSONError as error:
            where = f"after row {number}" if number >= 0 else "at its start"
            raise ValueError(f"{path} is not valid JSON {where}: {error}") from error


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(line for line in file if line.strip()):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"Row {number} of {path} is not valid JSON: {error}") from error


def _dataset_rows(source: Source, start: int, state: dict[str, Any] | None) -> Iterator[RawRow]:
    dataset = _open_dataset(source)
    if state is not None:
        dataset.load_state_dict(state)
    for number, values in enumerate(dataset if state is not None else islice(dataset, start, None), start):
        yield RawRow(number, values, dataset.state_dict)


def _open_dataset(source: Source) -> Any:
    """The dataset as a stream of rows with images as `{"bytes", "path"}`."""
    from datasets import Dataset, load_dataset, load_from_disk

    path = Path(source.name)
    if path.suffix in TABLE_BUILDERS:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        builder = TABLE_BUILDERS[path.suffix]
        return load_dataset(builder, data_files=str(path), split="train", streaming=True).decode(False)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = load_from_disk(str(path))
        if not isinstance(saved, Dataset):
            _check_split(source, list(saved))
            saved = saved[source.split]
        return saved.to_iterable_dataset().decode(False)
    splits = load_dataset(source.name, name=source.config, revision=source.revision, streaming=True)
    _check_split(source, list(splits))
    return splits[source.split].decode(False)


def _check_split(source: Source, splits: list[Any]) -> None:
    if source.split not in splits:
        raise ValueError(f"{source.name} has no split {source.split!r}, only: {', '.join(map(str, splits))}.")
