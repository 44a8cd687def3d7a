"""The rows to edit: source images and an instruction each, from a dataset, a folder of images or the simulation."""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from datasets import Dataset, Features, Image, Value
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name
from PIL import Image as PillowImage

from editreward.data.images import LINKED
from editreward.data.importers.faults import RowFault
from editreward.data.importers.images import ImageStore
from editreward.data.importers.table_edits import TableOptions, read_edits
from editreward.data.sources import load_rows, simulated_world
from editreward.data.storage import ROWS_PER_BATCH
from editreward.data.tables import TEXT_SUFFIXES, read_table
from editreward.groups.rows import ImageRecord
from editreward.simulation import SPLITS, simulate_group
from editreward.simulation import groups as simulated_groups
from images_editreward import load_image

Source = TypeVar("Source")

FAULTS_SHOWN = 10
"""Faulty rows that an error names; it counts the others."""


def only(sources: Sequence[Source] | None, name: str) -> Source:
    """The one source image of a row, which training an editor needs.

    Raises:
        ValueError: it has none, or several; the row is named.
    """
    if len(sources or ()) != 1:
        raise ValueError(f"{name} has {len(sources or ())} source images; editors are trained on rows with one")
    return sources[0]  # type: ignore[index]


@dataclass(frozen=True)
class SourceRow:
    """A row to edit.

    Args:
        group_id, instruction: as in the group schema.
        origin, category, language: as in the group schema; None where the dataset has none.
        source_images: the images before the edit, as encoded files.
    """

    group_id: str
    origin: str | None
    category: str | None
    instruction: str
    language: str | None
    source_images: tuple[bytes, ...]

    def images(self) -> list[PillowImage.Image]:
        """The source images in RGB, upright, on white. Raises a ValueError that says which one is unreadable."""
        return [load_image(image, f"source image {index}") for index, image in enumerate(self.source_images)]

    def only_image(self) -> PillowImage.Image:
        """The source image; a ValueError for a row that has none, or several."""
        return only(self.images(), self.group_id)

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of what an editor sees: tells whether candidates belong to this row."""
        digest = hashlib.sha256(self.instruction.encode())
        for image in self.source_images:
            digest.update(hashlib.sha256(image).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class Instructions:
    """The rows of a dataset, read one at a time.

    Args:
        ids: `group_id` of every row; all different.
        read: makes the row with an index. Raises an OSError or ValueError where its images cannot be had.
    """

    ids: list[str]
    read: Callable[[int], SourceRow]


def open_instructions(
    name: str,
    split: str = "train",
    offset: int = 0,
    limit: int | None = None,
    images: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Instructions:
    """What is to be edited, by its name.

    Args:
        name: a table of paths and instructions (`table_instructions`), a dataset (`dataset_instructions`), or
            "simulated" or "simulated:WORLD", which need a limit.
        split: of a dataset, or of the simulation.
        offset, limit: number of rows to leave out at the start, and to read.
        images, columns: of a table.

    Raises:
        ValueError, FileNotFoundError: as for these.
    """
    path = Path(name)
    world = simulated_world(name)
    if world and not path.exists():
        if not limit:
            raise ValueError(f"--instructions {name} needs --limit, the number of rows.")
        return simulated_instructions(split, offset, limit, world=world)
    if path.is_file() and path.suffix.lower() in TEXT_SUFFIXES:
        return table_instructions(path, images, columns or {}, offset, limit)
    return dataset_instructions(name, split, offset, limit)


def table_instructions(
    path: Path, images: str | None, columns: Mapping[str, str], offset: int = 0, limit: int | None = None
) -> Instructions:
    """Sources and instructions of a text table, a row each; edited images that it may name are not read.

    Args:
        path: a file that `read_table` reads.
        images: folder that image paths start from; by default the table's own. None may lead out of it.
        columns: by field, where they have other names than `editreward.data.importers.table_edits.NAMES`.
        offset, limit: number of rows to leave out at the start, and to read.

    Raises:
        ValueError: rows cannot be read, have no instruction or share an id; they are named.
        FileNotFoundError: there is no such table or folder.
    """
    folder = path.parent if images is None else Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no image folder {folder}.")
    store, options = ImageStore(folder, folder), TableOptions(columns, edited=False)
    stop = None if limit is None else offset + limit
    rows, faults = [], []
    for row in islice(read_table(path), offset, stop):
        try:
            if row.fault:
                raise RowFault("broken-row", row.fault)
            rows.append(read_edits(row.values, options))
        except RowFault as fault:
            faults.append(f"{row.place}: {fault}")
    _raise(faults, path)
    if not rows:
        raise ValueError(f"{path} has no rows from {offset} on.")
    sources = [[cell for cell in row.sources if isinstance(cell, str)] for row in rows]
    ids = [row.group or row.id or made_id(cells, row.instruction) for row, cells in zip(rows, sources, strict=True)]
    _check(ids, [row.instruction for row in rows], path, "the table", offset)

    def read(index: int) -> SourceRow:
        row, cells = rows[index], sources[index]
        if not cells:
            raise ValueError("the row names no source image")
        files = tuple(store.find(cell).read_bytes() for cell in cells)
        return SourceRow(ids[index], path.name, row.category, row.instruction, row.language, files)

    return Instructions(ids, read)


def simulated_instructions(
    split: str, offset: int, count: int, size: int = 112, world: str = "shapes"
) -> Instructions:
    """Sources and instructions of simulated groups, those with the seeds `offset`, `offset` + 1, ...

    Args:
        split: split of the simulation.
        offset: first seed.
        count: number of rows.
        size: side of the images in pixels.
        world: which world.

    Raises:
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"The simulation has no split {split!r}, only: {', '.join(SPLITS)}.")

    def read(index: int) -> SourceRow:
        group = simulate_group(offset + index, split, candidates=1, size=size, world=world)
        file = io.BytesIO()
        group.source.save(file, "PNG")
        return SourceRow(
            group_id=group.group_id,
            origin=group.origin,
            category=group.category,
            instruction=group.instruction,
            language=group.language,
            source_images=(file.getvalue(),),
        )

    return Instructions([simulated_groups.group_id(split, offset + index, world) for index in range(count)], read)


def dataset_instructions(
    name: str | os.PathLike[str], split: str = "train", offset: int = 0, limit: int | None = None
) -> Instructions:
    """Sources and instructions of a dataset.

    Args:
        name: a folder, Parquet file or Hub id. Its rows have an `instruction` and either `source_images`, as groups
            do, or one `image`, as a folder of images with a `metadata.jsonl` does (`datasets` calls it imagefolder).
            `group_id`, `origin`, `category` and `language` are used where they are there, other columns are not.
        split: split to read.
        offset: number of rows to leave out at the start.
        limit: number of rows to read, all by default.

    Raises:
        ValueError: a column is missing or of another type, or rows have no instruction or share an id; they are named.
        FileNotFoundError: there is no such dataset.
    """
    dataset = load_rows(name, split)
    stop = len(dataset) if limit is None else min(offset + limit, len(dataset))
    if offset >= stop:
        raise ValueError(f"{name} ({split}) has {len(dataset)} rows, none of them from {offset} up to {stop}.")
    dataset = dataset.select(range(offset, stop))
    image_column = _image_column(dataset.features, name)
    used = {image_column, "instruction", "group_id", "origin", "category", "language"} & {*dataset.features}
    dataset = dataset.select_columns(sorted(used)).with_format("arrow")  # as stored: no image is decoded
    instructions = [value or "" for value in _column(dataset, "instruction")]
    if "group_id" in dataset.features:
        ids = ["" if value is None else str(value) for value in _column(dataset, "group_id")]
    else:
        ids = _made_ids(dataset, image_column, instructions, Path(name))
    _check(ids, instructions, name, split, offset)
    defaults = {"origin": Path(name).name, "category": None, "language": None}

    def read(index: int) -> SourceRow:
        row = dataset[index : index + 1].to_pylist()[0]
        records = _records(row[image_column])
        if not records:
            raise ValueError("the row has no source image")
        texts = {column: row.get(column, default) for column, default in defaults.items()}
        return SourceRow(
            group_id=ids[index],
            instruction=instructions[index],
            source_images=tuple(_file_bytes(record, str(name)) for record in records),
            **{column: None if text is None else str(text) for column, text in texts.items()},
        )

    return Instructions(ids, read)


def _image_column(features: Features, name: object) -> str:
    """The column of the source images: "source_images" or "image"."""
    if features.get("instruction") not in (Value("string"), Value("large_string")):
        raise ValueError(
            f"{name} has no text column 'instruction', only: {', '.join(features)}. A folder of images needs a "
            'metadata.jsonl with a line {"file_name": ..., "instruction": ...} for every edit.'
        )
    sources = features.get("source_images")
    if isinstance(getattr(sources, "feature", None), Image):
        return "source_images"
    if "source_images" not in features and isinstance(features.get("image"), Image):
        return "image"
    raise ValueError(
        f"{name} has neither a column 'source_images', a list of images, nor a column 'image', only: "
        f"{', '.join(features)}."
    )


def _made_ids(dataset: Dataset, image_column: str, instructions: list[str], folder: Path) -> list[str]:
    """Ids of rows that have none. They depend on the row alone, so that rows may be added without changing others."""
    ids = []
    for images, instruction in zip(_column(dataset, image_column), instructions, strict=True):
        names = []
        for record in _records(images):
            if record and (content := record.get("bytes")) is not None:
                names.append(hashlib.sha256(content).hexdigest())
            elif record and (stored := record.get("path")):
                path = Path(stored)
                inside = path.is_relative_to(folder.resolve())
                names.append((path.relative_to(folder.resolve()) if inside else path).as_posix())
        ids.append(made_id(names, instruction))
    return ids


def made_id(names: Sequence[str], instruction: str) -> str:
    """The id of a row that has none, from the names of its images and its instruction."""
    stem = PurePosixPath(names[0]).stem[:40] if names else "row"
    return f"{stem}-{hashlib.sha256(json.dumps([*names, instruction]).encode()).hexdigest()[:10]}"


def _check(ids: list[str], instructions: list[str], name: object, split: str, offset: int) -> None:
    repeated = {group_id for group_id, times in Counter(ids).items() if times > 1}
    faults = []
    for row, (group_id, instruction) in enumerate(zip(ids, instructions, strict=True), start=offset):
        if not group_id:
            faults.append(f"row {row} has no group_id")
        elif group_id in repeated:
            faults.append(f"row {row} is another one with the id {group_id!r}")
        if not instruction.strip():
            faults.append(f"row {row} ({group_id}) has no instruction")
    _raise(faults, f"{name} ({split})")


def _raise(faults: Sequence[str], name: object) -> None:
    """Stop if there are faults, and name the first."""
    if faults:
        more = f"; and {len(faults) - FAULTS_SHOWN} more faults" if len(faults) > FAULTS_SHOWN else ""
        raise ValueError(f"{name} has faulty rows: {'; '.join(faults[:FAULTS_SHOWN])}{more}.")


def _column(dataset: Dataset, name: str) -> Iterator[Any]:
    """A column, one value after another."""
    for batch in dataset.select_columns(name).iter(ROWS_PER_BATCH):
        yield from batch[name].to_pylist()


def _records(images: ImageRecord | list[ImageRecord | None] | None) -> list[ImageRecord | None]:
    """The images of a row as {"bytes", "path"}, whether its column holds one or a list."""
    return images or [] if isinstance(images, list | None) else [images]


def _file_bytes(record: ImageRecord | None, name: str) -> bytes:
    """The file of a source image: its bytes, or, in a folder of images, a file of that folder and no other."""
    if record and (content := record.get("bytes")) is not None:
        return bytes(content)
    stored = record.get("path") if record else None
    if not stored:
        raise ValueError("the row has no source image")
    path = os.path.abspath(stored)
    if not any(path.startswith(os.path.join(os.path.abspath(root), "")) for root in _roots(name)):
        raise ValueError(f"{LINKED} (it holds {stored!r}, which is no file of {name})")
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no source image {stored}") from error


def _roots(name: str) -> list[Path]:
    """Where the files of a dataset are: its folder or, of one on the Hub, what was downloaded of it."""
    if Path(name).exists():
        return [Path(name)]
    downloaded = Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))
    return [downloaded, Path(HF_DATASETS_CACHE) / "downloads"]
