"""WebDataset shards as rows: tar files in which the members of one name, up to its first dot, are a sample.

Shards are read as streams, one sample in memory at a time; nothing of them is unpacked. What follows the first dot of
a member's name says what it is:

| member | becomes |
|---|---|
| `0001.json` | the columns of the object |
| `0001.instruction.txt`, `0001.txt` | a text in the column `instruction`, or `txt` |
| `0001.source.png`, `0001.jpg` | an image in the column `source`, or `jpg` |
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from editreward.data.tables import TableRow

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
TEXT_ENDINGS = ("txt", "text", "caption", "cls", "id")
IMAGE_ENDINGS = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "avif", "ppm")

END_BYTES = 2 * tarfile.BLOCKSIZE

MAX_MEMBER_BYTES = 2**28
"""A larger member is a fault of its sample: shards are compressed at times, and may be anybody's."""


def is_shard(path: Path) -> bool:
    """Whether a file has the name of a shard."""
    return path.name.lower().endswith(SHARD_SUFFIXES)


def shard_rows(path: Path) -> Iterator[TableRow]:
    """The samples of a shard as rows; one that cannot be read has a `fault`, and so has the end of a shard cut off.

    Args:
        path: a tar file, compressed or not.
    """
    key: str | None = None
    values: dict[str, object] = {}
    fault, number = "", 0
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                name, _, ending = Path(member.name).name.partition(".")
                folder = Path(member.name).parent.as_posix()
                if key is not None and key != f"{folder}/{name}":
                    yield _row(number, path, key, values, fault)
                    number, values, fault = number + 1, {}, ""
                key = f"{folder}/{name}"
                try:
                    values |= _columns(archive, member, ending, values)
                except ValueError as error:
                    fault = fault or str(error)
    except (tarfile.TarError, EOFError, OSError) as error:
        # What follows cannot be read; of the sample that was being read nobody knows whether it is whole.
        yield TableRow(number, {}, file=path.name, fault=f"the shard ends early, or is none: {error}")
        return
    if key is not None:
        yield _row(number, path, key, values, fault)
    if not _has_end(path):
        yield TableRow(number + 1, {}, file=path.name, fault="the shard ends early: it lacks the mark of its end")


def _has_end(path: Path) -> bool:
    """Whether a shard ends with the two empty blocks that end a tar file: `tarfile` takes a cut for an end, too."""
    if path.suffix.lower() != ".tar":
        return True  # a compressed file that was cut off cannot be read to its end
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        return file.read() == bytes(END_BYTES)


def _row(number: int, path: Path, key: str, values: dict[str, object], fault: str) -> TableRow:
    named = {"__key__": f"{path.name}/{key.removeprefix('./')}", **values}
    return TableRow(number, named, file=path.name, fault=fault)


def _columns(
    archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str, values: dict[str, object]
) -> dict[str, object]:
    """What a member adds to its sample. Raises a `ValueError` for one that cannot be read."""
    if member.size > MAX_MEMBER_BYTES:
        raise ValueError(f"{member.name} has {member.size:,} bytes, more than {MAX_MEMBER_BYTES:,}")
    file = archive.extractfile(member)
    data = file.read() if file is not None else b""
    name, _, kind = ending.rpartition(".")
    kind = kind.lower()
    if kind == "json":
        found = json.loads(data)
        columns = found if isinstance(found, dict) and not name else {name or "json": found}
    elif kind in TEXT_ENDINGS:
        columns = {name or ending: data.decode("utf-8")}
    else:
        column = name if name and kind in IMAGE_ENDINGS else ending
        columns = {column: {"bytes": data, "path": Path(member.name).name}}
    if twice := sorted(columns.keys() & values.keys()):
        raise ValueError(f"{member.name} gives {twice[0]} a second time")
    return columns
