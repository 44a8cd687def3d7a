"""From the name of a dataset of edit groups to its groups: the only place that does so.

A name is a folder, a Parquet file, the id of a Hub repository, or `simulated`, whose groups are made on the fly;
`simulated:collage` are those of another world (docs/simulation.md).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    Dataset,
    DatasetBuilder,
    Features,
    IterableDataset,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
from pyarrow.dataset import ParquetFragmentScanOptions

from editreward.data.schema import check_features, column_shapes, dimensions_of
from editreward.data.stresses import stressed_group
from editreward.data.tables import naming_large_row_groups
from editreward.groups.rows import GroupRow
from editreward.hub_ids import is_hub_id
from editreward.simulation import ARTEFACTS, SPLITS, WORLDS, annotate, simulate_contrast, simulate_group

SIMULATED = "simulated"
"""The name of simulated groups."""

GROUPS_PER_SHARD = 64
"""Simulated groups of a stream that go to one worker at a time."""

COLUMNS = ("source_images", "candidates", "instruction")
"""What a row must have to be scored."""

DATASET_FOLDER = (
    "A dataset is a Parquet file, a folder of them (data/train-00000-of-00001.parquet, as `editreward data` writes "
    "it) or one that `save_to_disk` wrote."
)


def simulated_world(name: object) -> str | None:
    """The world of simulated groups that a dataset's name means; None where it is no name of simulated groups.

    Raises:
        ValueError: there is no such world.
    """
    name, colon, world = str(name).partition(":")
    if name != SIMULATED:
        return None
    if colon and world not in WORLDS:
        raise ValueError(f"There is no simulated world {world!r}, only: {', '.join(WORLDS)}.")
    return world or "shapes"


def load_groups(
    name: str | os.PathLike[str],
    split: str = "train",
    streaming: bool = False,
    config: str | None = None,
    revision: str | None = None,
    strict: bool = True,
    simulated: "SimulatedGroups | None" = None,
) -> Dataset | IterableDataset:
    """Open one split of a dataset of edit groups.

    Args:
        name: a folder that `write_groups` or `save_to_disk` wrote, a Parquet file, the id of a Hub repository, or
            "simulated" or "simulated:WORLD".
        split: name of the split. A single dataset that `save_to_disk` wrote, and a single file, is "train".
        streaming: read rows as they come instead of preparing a copy in the cache.
        config: name of the configuration, where the dataset has several.
        revision: commit, branch or tag of a Hub repository.
        strict: the columns must be those of the schema. Otherwise they are left as they are, for a reader that needs
            only some, such as training.
        simulated: which simulated groups; needed for "simulated", and of no effect for others.

    Raises:
        ValueError: there is no such split, its rows are no edit groups, or a local file is no Parquet file, or has
            other columns than the others.
        FileNotFoundError: there is no such dataset.
    """
    path = Path(name)
    world = simulated_world(name)
    if world and (simulated is not None or not path.exists()):
        if simulated is None:
            raise ValueError("Simulated groups have no end: say how many.")
        simulated = replace(simulated, world=world)
        return simulated.stream(split) if streaming else simulated.dataset(split)
    check_path(name)
    if path.exists() and not is_saved_to_disk(path):
        files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
        if not files:
            raise ValueError(f"The folder {name} holds no Parquet files. {DATASET_FOLDER}")
        _check_files(files)
    _check_split(name, split, config, revision)
    if is_saved_to_disk(path):
        dataset = _saved_split(path, split)
        dataset = dataset.to_iterable_dataset() if streaming else dataset
    else:
        options: dict[str, object] = {"split": split, "streaming": streaming}
        if streaming:  # pyarrow's default keeps what it has read of a file in memory until the file's end
            options["fragment_scan_options"] = ParquetFragmentScanOptions(pre_buffer=False)
        if path.suffix == ".parquet":
            dataset = load_dataset("parquet", data_files=str(path), **options)
        elif path.exists() and not streaming:
            # Of a folder whose README.md lists its files, `datasets` would serve from its cache what an earlier folder
            # of that name held.
            found = _load_repository(load_dataset_builder, str(name), config, revision, {}).config.data_files[split]
            dataset = load_dataset("parquet", data_files={split: list(found)}, **options)
        else:
            dataset = _load_repository(load_dataset, str(name), config, revision, options)
    if not strict:
        return dataset
    features = features_of(dataset)
    expected = check_features(features, name)
    return dataset if features == expected else dataset.cast(expected)


@dataclass(frozen=True)
class SimulatedGroups:
    """Which simulated groups the name `simulated` stands for.

    Attributes:
        groups, start: how many, and the number of the first.
        size: side of the images in pixels.
        annotators, noise: with annotators, scores are the means of so many, each off by one point with the probability
            `noise`; without, they are exact.
        contrast: about this share of the groups are those of `simulate_contrast`, always both of a pair.
        near_misses: in the others, about this share of the candidates are near misses.
        stresses: about this share of the groups are under a stress ([`stressed_group`]).
        enlarged: in these, about this share were drawn small and enlarged.
        artefacts: their artefacts, as for `simulate_group`.
        world: which world.
        truth: rows also hold their `SimulatedGroup`, as `simulation`.

    Raises:
        ValueError: the share is none, or there is noise without annotators.
    """

    groups: int
    start: int = 0
    size: int = 112
    annotators: int = 0
    noise: float = 0.0
    contrast: float = 0.0
    near_misses: float = 0.0
    stresses: float = 0.0
    truth: bool = False
    enlarged: float = 0.0
    artefacts: Sequence[str] = tuple(ARTEFACTS)
    world: str = "shapes"

    def __post_init__(self) -> None:
        if not 0 <= self.contrast <= 1:
            raise ValueError(f"`--simulated_contrast` must be a share from 0 to 1, got {self.contrast}.")
        if not 0 <= self.stresses <= 1:
            raise ValueError(f"`--simulated_stresses` must be a share from 0 to 1, got {self.stresses}.")
        if self.noise > 0 and self.annotators == 0:
            raise ValueError(f"`--simulated_noise` {self.noise} needs annotators: set `--simulated_annotators`.")

    def row(self, number: int, split: str) -> GroupRow:
        """The group of a number as a row, images as PIL images."""
        is_contrast = Random(f"contrast {number // 2}").random() < self.contrast
        if is_contrast:
            group = simulate_contrast(number, split, size=self.size, world=self.world)
        else:
            group = simulate_group(
                number,
                split,
                size=self.size,
                near_misses=self.near_misses,
                world=self.world,
                enlarged=self.enlarged,
                artefacts=self.artefacts,
            )
        rng = Random(f"stress {number}")
        if rng.random() < self.stresses:
            group = stressed_group(group, rng)
        row = group.to_row()
        if self.annotators:
            row = annotate(row, self.annotators, self.noise)
        return {**row, "simulation": group} if self.truth else row

    def dataset(self, split: str) -> Dataset:
        """A column of numbers, and a transform that renders the groups when they are read."""

        def render(batch: dict[str, list[int]]) -> dict[str, list[object]]:
            rows = [self.row(number, split) for number in batch["seed"]]
            return {column: [row[column] for row in rows] for column in rows[0]}

        numbers = range(self.start, self.start + self.groups)
        return Dataset.from_dict({"seed": numbers}).with_transform(render)

    def stream(self, split: str) -> IterableDataset:
        """The same as a stream, whose parts workers share."""
        dataset = self.dataset(split)

        def read(first: list[int]) -> Iterator[GroupRow]:
            for start in first:
                for index in range(start, min(start + GROUPS_PER_SHARD, len(dataset))):
                    yield dataset[index]

        first = list(range(0, len(dataset), GROUPS_PER_SHARD))
        return IterableDataset.from_generator(read, gen_kwargs={"first": first})


def open_groups(name: str, split: str | None = None) -> Dataset:
    """A split of a dataset of edit groups (arguments as for `load_groups`); its only one where `split` is None.

    Raises:
        ValueError: there is no such split, or there are several to choose from.
    """
    names = split_names(name)
    if split is None and len(names) > 1:
        raise ValueError(f"{name} has the splits {', '.join(names)}: say which.")
    dataset = load_groups(name, split or names[0])
    assert isinstance(dataset, Dataset)
    return dataset


def load_rows(name: str | os.PathLike[str], split: str = "train") -> Dataset:
    """A split of any dataset with an image and a text in each row, such as a folder of images with `metadata.jsonl`.

    Args:
        name: a folder, a Parquet file or the id of a Hub repository.
        split: name of the split.

    Raises:
        ValueError: there is no such split.
        FileNotFoundError: there is no such dataset.
    """
    path = Path(name)
    _check_split(name, split)
    if is_saved_to_disk(path):
        return _saved_split(path, split)
    if path.suffix == ".parquet":
        return load_dataset("parquet", data_files=str(path), split=split)
    return load_dataset(str(name), split=split)


def _check_split(
    name: str | os.PathLike[str], split: str, config: str | None = None, revision: str | None = None
) -> None:
    splits = split_names(name, config, revision)
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}, only: {', '.join(splits)}.")


def _saved_split(path: Path, split: str) -> Dataset:
    saved = load_from_disk(str(path))
    return saved if isinstance(saved, Dataset) else saved[split]


def numbered_rows(
    name: str, split: str, start: int = 0, step: int = 1, limit: int | None = None, revision: str | None = None
) -> Iterator[tuple[int, GroupRow]]:
    """Every `step`-th row of a dataset, from `start` on, with its number; images as they are stored.

    Args:
        name: a folder, Parquet file or Hub id of edit groups, which are streamed; or "simulated", "simulated:WORLD".
        split: of the dataset.
        limit: number of the first row that is left out.
        revision: of a Hub dataset.

    Raises:
        ValueError: the dataset lacks a column, there is no such split, or simulated groups have no limit.
        FileNotFoundError: there is no such dataset.
    """
    if world := simulated_world(name):
        if limit is None:
            raise ValueError(f"`--dataset {name}` needs `--limit`, the number of groups.")
        if split not in SPLITS:
            raise ValueError(f"Simulated groups have no split {split!r}, only: {', '.join(SPLITS)}.")
        made = SimulatedGroups(limit, world=world)
        return ((number, made.row(number, split)) for number in range(start, limit, step))
    dataset = load_groups(name, split, streaming=True, revision=revision, strict=False)
    missing = [column for column in COLUMNS if dataset.features is not None and column not in dataset.features]
    if missing:
        raise ValueError(f"{name} has no column {', '.join(missing)}: it is no dataset of edit groups.")
    if dataset.features is not None:
        dataset = dataset.decode(False)
    rows = enumerate(_read(name, dataset.skip(start)), start)
    return islice(rows, 0, None if limit is None else max(0, limit - start), step)


def _read(name: object, rows: Iterable[GroupRow]) -> Iterator[GroupRow]:
    """Rows of a dataset, whose row groups may be too large."""
    with naming_large_row_groups(str(name)):
        yield from rows


def number_of_rows(name: str, split: str = "train", revision: str | None = None) -> int | None:
    """How many rows a split of a dataset has, where that can be told without reading it; None otherwise."""
    path = Path(name)
    if simulated_world(name):
        return None
    if is_saved_to_disk(path):
        return len(_saved_split(path, split))
    if path.is_file():
        return int(pq.read_metadata(path).num_rows)
    builder = _load_repository(load_dataset_builder, name, None, revision, {})
    if path.exists():
        return sum(pq.read_metadata(file).num_rows for file in builder.config.data_files[split])
    known = (builder.info.splits or {}).get(split)
    return None if known is None else int(known.num_examples)


DatasetOrBuilder = TypeVar("DatasetOrBuilder", bound="Dataset | IterableDataset | DatasetBuilder")


def _load_repository(
    load: Callable[..., DatasetOrBuilder],
    name: str,
    config: str | None,
    revision: str | None,
    options: dict[str, object],
) -> DatasetOrBuilder:
    try:
        return load(name, name=config, revision=revision, **options)
    except ValueError as error:
        if "fragment_scan_options" in str(error):  # an option of Parquet's reader alone
            raise ValueError(f"{name} does not consist of Parquet files: it is no dataset of edit groups.") from error
        raise


def split_names(name: str | os.PathLike[str], config: str | None = None, revision: str | None = None) -> list[str]:
    """Names of the splits of a dataset; arguments and errors as for `load_groups`."""
    path = Path(name)
    check_path(name)
    if is_saved_to_disk(path):
        saved = load_from_disk(str(path))
        return ["train"] if isinstance(saved, Dataset) else [str(split) for split in saved]
    if path.suffix == ".parquet":
        return ["train"]
    with opening(name):
        return [str(split) for split in get_dataset_split_names(str(name), config_name=config, revision=revision)]


def check_path(name: str | os.PathLike[str], suffixes: Sequence[str] = (".parquet",)) -> None:
    """Be sure that `name` can be a dataset: a folder, a file with one of the suffixes, or an id on the Hub.

    Raises:
        ValueError: it is another kind of file.
        FileNotFoundError: there is no such path, and it is no id either.
    """
    path = Path(name)
    if path.is_file() and path.suffix not in suffixes:
        kinds = " or ".join(suffix.removeprefix(".").capitalize() for suffix in suffixes)
        raise ValueError(f"{name} is not a {kinds} file. {DATASET_FOLDER}")
    if path.exists():
        return
    if path.suffix in suffixes:
        raise FileNotFoundError(f"There is no file {path}.")
    if not is_hub_id(os.fspath(name)):
        raise FileNotFoundError(f"There is no folder or file {name}. Check the path.")


@contextmanager
def opening(name: str | os.PathLike[str]) -> Iterator[None]:
    """Have `datasets` say of a folder without data, or of a name that is neither here nor on the Hub, what to do."""
    try:
        yield
    except (EmptyDatasetError, DataFilesNotFoundError) as error:
        where = "folder" if Path(name).exists() else "Hub dataset"
        raise FileNotFoundError(f"The {where} {name} holds no data files. {DATASET_FOLDER}") from error
    except DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"There is no folder or file {name} here, and no such dataset on the Hub, unless it is private: check the "
            "name, and log in with `hf auth login`."
        ) from error
    except ConnectionError as error:
        raise ConnectionError(
            f"There is no folder or file {name} here, and the Hub, where it might be a dataset, cannot be reached: "
            f"{error}"
        ) from error


def stream_splits(
    name: str | os.PathLike[str],
    splits: Sequence[str] | None = None,
    config: str | None = None,
    revision: str | None = None,
) -> dict[str, IterableDataset]:
    """Open several splits of a dataset for streaming, all of them by default; otherwise as `load_groups`."""
    chosen = splits or split_names(name, config, revision)
    return {split: load_groups(name, split, True, config, revision) for split in dict.fromkeys(chosen)}


def common_dimensions(datasets: Mapping[str, Dataset | IterableDataset]) -> list[str]:
    """The dimensions that all splits score candidates on.

    Raises:
        ValueError: they differ.
    """
    found = {split: dimensions_of(features_of(dataset)) for split, dataset in datasets.items()}
    first, *_ = found.values()
    if any(dimensions != first for dimensions in found.values()):
        described = "; ".join(f"{split}: {', '.join(dimensions)}" for split, dimensions in found.items())
        raise ValueError(f"The splits have different dimensions. {described}. Read them one at a time (--split).")
    return first


def features_of(dataset: Dataset | IterableDataset) -> Features:
    """The columns of a dataset, read off its first rows where a streamed file doesn't tell them."""
    return dataset.features if dataset.features is not None else dataset._resolve_features().features


def raw_groups(dataset: Dataset | IterableDataset) -> Iterator[GroupRow]:
    """The rows of a dataset as they are stored, images as `{"bytes", "path"}`: nothing is decoded or encoded again."""
    iterable = dataset.to_iterable_dataset() if isinstance(dataset, Dataset) else dataset
    yield from iterable.decode(False)


@dataclass(frozen=True)
class StoredRows:
    """All splits of a dataset of groups, as they are stored, read anew each time they are gone through.

    Args:
        name: a folder or Hub id.
    """

    name: str

    def __iter__(self) -> Iterator[GroupRow]:
        for dataset in stream_splits(self.name).values():
            yield from _read(self.name, raw_groups(dataset))


def _check_files(files: list[Path]) -> None:
    """Name the file that is no Parquet file, was cut off or has other columns; `datasets` would not."""
    shapes = {}
    for file in files:
        try:
            shapes[file] = column_shapes(pq.read_schema(file))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file} is not a complete Parquet file: {error}") from error
        if shapes[file] != shapes[files[0]]:
            raise ValueError(f"{file} has other columns or fields than {files[0]}.")


def is_saved_to_disk(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()
