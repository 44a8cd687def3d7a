"""Reads Qt's binary resource files (.rcc)."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

COMPRESSED, FOLDER, ZSTANDARD = 1, 2, 4


def read_resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """The files that a resource file holds: path and content. Those packed by Zstandard are left out.

    Raises:
        ValueError: it is no resource file.
    """
    content = path.read_bytes()
    if content[:4] != b"qres":
        raise ValueError(f"{path} is no Qt resource file.")
    version, tree, data, names = struct.unpack(">IIII", content[4:20])
    entry_size = 14 if version < 2 else 22

    def walk(index: int, folder: str) -> Iterator[tuple[str, bytes]]:
        entry = tree + entry_size * index
        name_offset, flags = struct.unpack(">IH", content[entry : entry + 6])
        at = names + name_offset
        (length,) = struct.unpack(">H", content[at : at + 2])
        name = f"{folder}/{content[at + 6 : at + 6 + 2 * length].decode('utf-16-be')}" if index else ""
        if flags & FOLDER:
            count, first = struct.unpack(">II", content[entry + 6 : entry + 14])
            for child in range(first, first + count):
                yield from walk(child, name)
        elif not flags & ZSTANDARD:
            (offset,) = struct.unpack(">I", content[entry + 10 : entry + 14])
            (size,) = struct.unpack(">I", content[data + offset : data + offset + 4])
            raw = content[data + offset + 4 : data + offset + 4 + size]
            yield name, zlib.decompress(raw[4:]) if flags & COMPRESSED else raw

    yield from walk(0, "")
