"""Images of stored groups: reading them, and telling whether two are the same or nearly so."""

import hashlib
import io
from collections.abc import Sequence

import imagehash
import numpy as np
from PIL import Image

from editreward.groups.rows import GroupRow
from images_editreward import ImageHeader, load_image

NEAR_BITS = 4
"""Perceptual hashes that differ in at most so many of their 64 bits are taken for the same picture."""

HASH_BITS = 64

THUMBNAIL = 304
"""Longest side of an image of a report, in pixels: two for each of the page's."""

LINKED = "the row holds no image but a path or URL, which is not followed: embed the file's bytes"
"""Rows are written by others: following them would open any file here and ask any server that this machine reaches."""

LONGEST_NAMED = 200
"""Characters of a path, from its end, that a message repeats."""


def read_image(record: GroupRow | None) -> Image.Image:
    """Decode a stored image as everybody sees it: RGB, upright, on white (`images_editreward.load_image`).

    Args:
        record: `{"bytes", "path"}`, as `raw_groups` gives it. A path without bytes is not followed.

    Raises:
        FileNotFoundError: there are no bytes.
        ImageError: this is no image, or it was cut off. It is a `ValueError`.
    """
    if record is None or (record.get("bytes") is None and not record.get("path")):
        raise FileNotFoundError("there is no image")
    if record.get("bytes") is None:
        raise FileNotFoundError(f"{LINKED} (it holds {str(record['path'])[-LONGEST_NAMED:]!r})")
    return load_image(record["bytes"], "the image")


def shown_image(record: GroupRow | Image.Image | None) -> Image.Image | None:
    """A stored or rendered image of a row; None where it cannot be read."""
    if isinstance(record, Image.Image):
        return record
    try:
        return read_image(record)
    except (FileNotFoundError, ValueError):
        return None


def thumbnail(record: GroupRow | Image.Image | None) -> bytes | None:
    """A small JPEG of a stored or open image, for reports; None where it cannot be read (any more)."""
    image = shown_image(record)
    if image is None:
        return None
    image = image.copy()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80, optimize=True)
    return out.getvalue()


def flatten(image: Image.Image) -> Image.Image:
    """The image in RGB as everybody sees it; an RGB image as it is."""
    return image if image.mode == "RGB" and not image.info else load_image(image)


def extension_of(header: ImageHeader) -> str:
    """The usual file extension of an image's format, such as "png"."""
    extension = str(header.format or "image").lower()
    return {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2"}.get(extension, extension)


def pixel_digest(image: Image.Image) -> bytes:
    """A digest that two images share if they have the same size and the same pixels, whatever their files."""
    flat = flatten(image)
    digest = hashlib.sha256(f"{flat.width}x{flat.height}:".encode())
    digest.update(flat.tobytes())
    return digest.digest()


def perceptual_hash(image: Image.Image) -> int:
    """The 64 bits of the DCT-based perceptual hash of `imagehash.phash`.

    It hardly changes when an image is scaled, compressed again or recoloured slightly. It ignores colour.
    """
    return int(str(imagehash.phash(flatten(image))), 16)


def near_groups(hashes: Sequence[int], near_bits: int = NEAR_BITS) -> list[int]:
    """Gather hashes that are equal or nearly so, directly or over others in between.

    Args:
        hashes: perceptual hashes, in any number.
        near_bits: how many bits may differ between two of the same picture, at most 15.

    Returns:
        For each hash the smallest hash of its group.
    """
    if not 0 <= near_bits <= 15:
        raise ValueError(f"near_bits must be from 0 to 15, not {near_bits}")
    unique = np.unique(np.array(hashes, dtype=np.uint64))
    parent = np.arange(len(unique))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, second in _near_pairs(unique, near_bits):
        low, high = sorted((root(first), root(second)))
        parent[high] = low  # sorted hashes: the smallest one stays the root
    roots = {int(value): int(unique[root(index)]) for index, value in enumerate(unique)}
    return [roots[int(value)] for value in hashes]


def _near_pairs(unique: np.ndarray, near_bits: int) -> list[tuple[int, int]]:
    """Indices of hashes that differ in few bits: two such are equal in at least one of `near_bits` + 1 bands."""
    bands = np.array_split(np.arange(HASH_BITS), near_bits + 1)
    pairs: set[tuple[int, int]] = set()
    for band in bands:
        mask = np.uint64(sum(1 << int(bit) for bit in band))
        key = unique & mask
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=~key[order[:1]]))
        for bucket in np.split(order, starts[1:]):
            for place, index in enumerate(bucket[:-1]):
                rest = bucket[place + 1 :]
                close = rest[np.bitwise_count(unique[rest] ^ unique[index]) <= near_bits]
                pairs.update((int(index), int(other)) for other in close)
    return sorted(pairs)
