"""Writing datasets of edit groups: Parquet shards with embedded images. (`sources` reads them.)"""

import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from datasets.table import embed_table_storage

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.data import sources
from editreward.data.schema import RATIONALE_BY, UNKNOWN, encode_group, group_features, language_of
from editreward.files import lock, part_of, put_in_place, remove_parts, unlock
from editreward.groups.rows import GroupRow

ROWS_PER_BATCH = 8
"""Groups that are encoded at a time and make one row group: what a reader has to hold at once."""

MAX_SHARD_BYTES = 500_000_000

MOVED = ("common_dimensions", "features_of", "load_groups", "raw_groups", "split_names", "stream_splits")


def __getattr__(name: str) -> Any:
    if name in MOVED:
        warnings.warn(
            f"{__name__}.{name} is {sources.__name__}.{name} now; the old name goes away in 1.0.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sources, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def write_groups(
    groups: Iterable[GroupRow],
    folder: str | os.PathLike[str],
    split: str = "train",
    dimensions: Sequence[str] = DEFAULT_DIMENSIONS,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Write groups as the Parquet shards of one split, in bounded memory; `load_groups` and the Hub read the folder.

    Args:
        groups: rows of the schema; an image in any form that `datasets.Image` encodes, or an array or tensor of floats
            of 0..1. Files are embedded. Of a row's columns, `instruction`, `source_images` and `candidates` must be
            there; others are filled in, see `filled_in`.
        folder: the dataset's folder. The shards of other splits stay.
        split: name of the split, whose older shards are replaced.
        dimensions: what candidates are scored on.
        max_shard_bytes: a shard ends after the batch that reaches this size.

    Returns:
        The shards, `data/SPLIT-00000-of-00005.parquet` and so on.

    Raises:
        ValueError: a row does not fit the schema (its `group_id` is named), or there is no group.
    """
    with GroupWriter(folder, split, dimensions, max_shard_bytes) as writer:
        for group in groups:
            writer.write(group)
    return writer.shards


def filled_in(group: GroupRow, group_id: str) -> dict[str, object]:
    """A row with the columns that can be told from the others, where they are left out.

    `origin` and `category`, and a candidate's `editor`, are "unknown"; `language` is that of the instruction's script.

    Args:
        group: a row. A column that is there stays, null, too.
        group_id: what to call it if it has no `group_id`.
    """
    instruction = group.get("instruction")
    filled: dict[str, object] = {"group_id": group_id, "origin": UNKNOWN, "category": UNKNOWN, **group}
    filled.setdefault("language", language_of(instruction) if isinstance(instruction, str) else None)
    candidates = filled.get("candidates")
    if isinstance(candidates, Sequence) and not isinstance(candidates, str | bytes):
        filled["candidates"] = [{"editor": UNKNOWN, **one} if isinstance(one, Mapping) else one for one in candidates]
    return filled


class ShardWriter:
    """Writes rows of any columns one at a time, images within, as the Parquet shards of one split; a context manager.

    Shards get their names when the writer is closed without an error; until then the split's older ones stay. One
    writer per split at a time.

    Args:
        folder, split, max_shard_bytes: as for `write_groups`.
        features: the columns.

    Raises:
        ValueError: the split's name is none that `datasets` accepts, or another run writes that split.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str,
        features: Features,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        if not re.fullmatch(r"\w+(\.\w+)*", split):
            raise ValueError(f"The name of a split has letters, digits, '_' and '.' only, unlike {split!r}.")
        self.folder, self.split, self.max_shard_bytes = Path(folder) / "data", split, max_shard_bytes
        self.features = features
        self.shards: list[Path] = []
        self._rows: list[dict[str, object]] = []
        self._number = 0
        self._parts: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder / f"{split}.parquet")
        remove_parts(self.folder, f"{split}-?????.parquet")

    def write(self, row: Mapping[str, object]) -> None:
        """Add one row, which has all columns."""
        self._rows.append(dict(row))
        self._number += 1
        if len(self._rows) == ROWS_PER_BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is left and put the shards in the place of older ones."""
        try:
            if self._rows:
                self._flush()
            if not self._parts:  # `datasets` cannot load an empty split
                raise ValueError(f"There is no group to write as split {self.split!r} of {self.folder.parent}.")
        except BaseException:
            self._discard()
            raise
        try:
            self._put_in_place()
        finally:
            unlock(self._lock)

    def _put_in_place(self) -> None:
        self._end_shard()
        older = set(self.folder.glob(f"{self.split}-?????-of-?????.parquet"))
        for index, part in enumerate(self._parts):
            name = f"{self.split}-{index:05d}-of-{len(self._parts):05d}.parquet"
            self.shards.append(put_in_place(part, self.folder / name))
        for shard in older.difference(self.shards):
            shard.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()

    def _discard(self) -> None:
        unlock(self._lock)
        self._end_shard()
        for part in self._parts:
            part.unlink(missing_ok=True)

    def _flush(self) -> None:
        table = self._encode(self._rows)
        if self._writer is None:
            self._parts.append(part_of(self.folder / f"{self.split}-{len(self._parts):05d}.parquet"))
            self._writer = pq.ParquetWriter(self._parts[-1], table.schema)
        self._writer.write_table(table)
        self._rows = []
        if self._parts[-1].stat().st_size >= self.max_shard_bytes:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _encode(self, rows: list[dict[str, object]]) -> pa.Table:
        """Rows with the images inside: the Parquet writers of `datasets` and pyarrow keep paths as they are."""
        schema, tables = self.features.arrow_schema, []
        for row in rows:
            try:
                example = encode_group(row, self.features)
                tables.append(embed_table_storage(pa.Table.from_pylist([example], schema=schema)))
            except Exception as error:
                raise ValueError(f"Group {row.get('group_id')!r} does not fit the schema: {error}") from error
        return pa.concat_tables(tables)


class GroupWriter(ShardWriter):
    """Writes groups one at a time; a context manager. Arguments as for `write_groups`, all else as `ShardWriter`."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str = "train",
        dimensions: Sequence[str] = DEFAULT_DIMENSIONS,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        super().__init__(folder, split, group_features(dimensions), max_shard_bytes)
        self._dimensions = dimensions

    def write(self, row: GroupRow) -> None:
        """Add one group. The first one tells whether candidates say which scorer wrote their rationale."""
        if not self._number and any(RATIONALE_BY in (one or {}) for one in row.get("candidates") or ()):
            self.features = group_features(self._dimensions, rationale_by=True)
        super().write(filled_in(row, f"{self.split}-{self._number:06d}"))
