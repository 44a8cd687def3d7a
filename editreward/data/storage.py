"""Reading and writing datasets of edit groups: Parquet shards with embedded images."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset, get_dataset_split_names, load_dataset, load_from_disk
from datasets.table import embed_table_storage

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.data.schema import group_features

ROWS_PER_BATCH = 8
"""Groups that are encoded at a time and make one row group: what a reader has to hold at once."""

MAX_SHARD_BYTES = 500_000_000


def load_groups(
    name: str | os.PathLike[str],
    split: str = "train",
    streaming: bool = False,
    config: str | None = None,
    revision: str | None = None,
) -> Dataset | IterableDataset:
    """Open one split of a dataset of edit groups.

    Args:
        name: a folder that `write_groups` or `save_to_disk` wrote, a Parquet file (its only split is "train"), or the
            id of a dataset repository on the Hub.
        split: name of the split.
        streaming: read rows as they come instead of preparing a copy in the cache.
        config: name of the configuration, where the dataset has several.
        revision: commit, branch or tag of a Hub repository.

    Raises:
        ValueError: there is no such split.
        FileNotFoundError: there is no such dataset.
    """
    path = Path(name)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _from_disk(path, split, streaming)
    if path.suffix == ".parquet":
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        if split != "train":
            raise ValueError(f"{path} is one file, whose only split is 'train', not {split!r}.")
        return load_dataset("parquet", data_files=str(path), split="train", streaming=streaming)
    splits = get_dataset_split_names(str(name), config_name=config, revision=revision)
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}, only: {', '.join(map(str, splits))}.")
    return load_dataset(str(name), name=config, split=split, streaming=streaming, revision=revision)


def _from_disk(path: Path, split: str, streaming: bool) -> Dataset | IterableDataset:
    dataset = load_from_disk(str(path))
    if not isinstance(dataset, Dataset):
        if split not in dataset:
            raise ValueError(f"{path} has no split {split!r}, only: {', '.join(dataset)}.")
        dataset = dataset[split]
    return dataset.to_iterable_dataset() if streaming else dataset


def write_groups(
    groups: Iterable[Mapping[str, Any]],
    folder: str | os.PathLike[str],
    split: str = "train",
    dimensions: Sequence[str] = DEFAULT_DIMENSIONS,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Write groups as the Parquet shards of one split, in bounded memory; `load_groups` and the Hub read the folder.

    Args:
        groups: rows of the schema; an image in any form that `datasets.Image` encodes. Files are embedded.
        folder: the dataset's folder. The shards of other splits stay.
        split: name of the split, whose older shards are replaced.
        dimensions: what candidates are scored on.
        max_shard_bytes: a shard ends after the batch that reaches this size.

    Returns:
        The shards, `data/SPLIT-00000-of-00005.parquet` and so on.

    Raises:
        ValueError: a row does not fit the schema; its `group_id` is named.
    """
    with GroupWriter(folder, split, dimensions, max_shard_bytes) as writer:
        for group in groups:
            writer.write(group)
    return writer.shards


class GroupWriter:
    """Writes groups one at a time; a context manager. Arguments as for `write_groups`.

    Shards get their names when the writer is closed without an error; until then the split's older ones stay.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str = "train",
        dimensions: Sequence[str] = DEFAULT_DIMENSIONS,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        self.folder, self.split, self.max_shard_bytes = Path(folder) / "data", split, max_shard_bytes
        self.features = group_features(dimensions)
        self.shards: list[Path] = []
        self._rows: list[dict[str, Any]] = []
        self._parts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, group: Mapping[str, Any]) -> None:
        """Add one group."""
        self._rows.append(dict(group))
        if len(self._rows) == ROWS_PER_BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is left and put the shards in the place of older ones."""
        if self._rows or not self._parts:
            self._flush()
        self._end_shard()
        for old in self.folder.glob(f"{self.split}-?????-of-?????.parquet"):
            old.unlink()
        for index, part in enumerate(self._parts):
            name = f"{self.split}-{index:05d}-of-{len(self._parts):05d}.parquet"
            self.shards.append(part.rename(self.folder / name))

    def __enter__(self) -> "GroupWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        self._end_shard()
        for part in self._parts:
            part.unlink()

    def _flush(self) -> None:
        table = self._encode(self._rows)
        self._rows = []
        if self._writer is None:
            self._parts.append(self.folder / f".{self.split}-{len(self._parts):05d}.parquet.part")
            self._writer = pq.ParquetWriter(self._parts[-1], table.schema)
        self._writer.write_table(table)
        if self._parts[-1].stat().st_size >= self.max_shard_bytes:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _encode(self, rows: list[dict[str, Any]]) -> pa.Table:
        """Encode rows with their images inside: the Parquet writers of `datasets` and pyarrow keep paths as they are."""
        encoded = []
        for row in rows:
            try:
                unknown = set(row) - set(self.features)
                if unknown:
                    raise ValueError(f"unknown column {', '.join(sorted(unknown))}")
                complete = {"preferences": [], **row}
                missing = set(self.features) - set(complete)
                if missing:
                    raise ValueError(f"no column {', '.join(sorted(missing))}")
                example = self.features.encode_example(complete)
                encoded.append(embed_table_storage(pa.Table.from_pylist([example], schema=self.features.arrow_schema)))
            except Exception as error:
                raise ValueError(f"Group {row.get('group_id')!r} does not fit the schema: {error}") from error
        return pa.concat_tables(encoded) if encoded else self.features.arrow_schema.empty_table()
