"""What every run asks before it goes on with what an earlier one left: is it the same?

A name says nothing: a dataset at the same path may have been made anew. So contents are compared: settings by value
(`editreward.files.check_same`), files by `file_fingerprint`, rows by `row_digest`.
"""

import hashlib
from pathlib import Path

from PIL import Image

from editreward.groups.rows import GroupRow

SAMPLES = 64
SAMPLE_BYTES = 2**20
"""Of a longer file than all samples together, samples are hashed: so many, of so many bytes, ends included."""


def file_fingerprint(path: Path) -> list[str | int]:
    """Size and SHA-256, in hexadecimal, of a file's content; neither its name nor its time. Reads at most 64 MiB."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= SAMPLES * SAMPLE_BYTES:
            while block := file.read(SAMPLE_BYTES):
                digest.update(block)
        else:
            for sample in range(SAMPLES):
                file.seek(sample * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return [size, digest.hexdigest()]


def folder_fingerprint(folder: Path, pattern: str = "*") -> list[list[str | int]]:
    """Names and fingerprints of the files in a folder and below it that match."""
    files = sorted(path for path in folder.rglob(pattern) if path.is_file())
    return [[path.relative_to(folder).as_posix(), *file_fingerprint(path)] for path in files]


def row_digest(row: GroupRow) -> str:
    """SHA-256, in hexadecimal, of the instruction and the images of a row, as stored or as rendered."""
    digest = hashlib.sha256()
    images = [*(row["source_images"] or ()), *((entry or {}).get("image") for entry in row["candidates"] or ())]
    for content in ((row["instruction"] or "").encode(errors="surrogatepass"), *map(_content, images)):
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _content(image: GroupRow | Image.Image | None) -> bytes:
    if isinstance(image, Image.Image):
        return f"{image.mode} {image.size}".encode() + image.tobytes()
    return bytes((image or {}).get("bytes") or b"")
