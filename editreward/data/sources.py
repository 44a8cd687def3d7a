"""From the name of a dataset of edit groups to its groups: the only place that does so.

A name is a folder, a Parquet file or the id of a Hub repository.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    Dataset,
    Features,
    IterableDataset,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from pyarrow.dataset import ParquetFragmentScanOptions

from editreward.data.schema import check_features, column_shapes, dimensions_of

DATASET_FOLDER = (
    "A dataset is a Parquet file, a folder of them (data/train-00000-of-00001.parquet, as `editreward data` writes "
    "it) or one that `save_to_disk` wrote."
)


def load_groups(
    name: str | os.PathLike[str],
    split: str = "train",
    streaming: bool = False,
    config: str | None = None,
    revision: str | None = None,
    strict: bool = True,
) -> Dataset | IterableDataset:
    """Open one split of a dataset of edit groups.

    Args:
        name: a folder that `write_groups` or `save_to_disk` wrote, a Parquet file, or the id of a Hub repository.
        split: name of the split. A single dataset that `save_to_disk` wrote, and a single file, is "train".
        streaming: read rows as they come instead of preparing a copy in the cache.
        config: name of the configuration, where the dataset has several.
        revision: commit, branch or tag of a Hub repository.
        strict: the columns must be those of the schema. Otherwise they are left as they are, for a reader that needs
            only some, such as training.

    Raises:
        ValueError: there is no such split, its rows are no edit groups, or a local file is no Parquet file, or has
            other columns than the others.
        FileNotFoundError: there is no such dataset.
    """
    path = Path(name)
    check_path(name)
    if path.exists() and not is_saved_to_disk(path):
        files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
        if not files:
            raise ValueError(f"The folder {name} holds no Parquet files. {DATASET_FOLDER}")
        _check_files(files)
    splits = split_names(name, config, revision)
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}, only: {', '.join(splits)}.")
    if is_saved_to_disk(path):
        saved = load_from_disk(str(path))
        dataset = saved if isinstance(saved, Dataset) else saved[split]
        dataset = dataset.to_iterable_dataset() if streaming else dataset
    else:
        options: dict[str, Any] = {"split": split, "streaming": streaming}
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


def _load_repository(
    load: Callable[..., Any], name: str, config: str | None, revision: str | None, options: dict[str, Any]
) -> Any:
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
    try:
        validate_repo_id(str(name))
    except HFValidationError as error:
        raise FileNotFoundError(f"There is no folder or file {name}. Check the path.") from error


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


def raw_groups(dataset: Dataset | IterableDataset) -> Iterator[dict[str, Any]]:
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

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for dataset in stream_splits(self.name).values():
            yield from raw_groups(dataset)


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
