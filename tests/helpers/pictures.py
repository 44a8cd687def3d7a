"""Small pictures of noise."""

import io
import random
from pathlib import Path

from PIL import Image


def picture(seed: int, format: str = "PNG") -> bytes:
    """The file of a small image of noise, another one for every seed."""
    out = io.BytesIO()
    Image.frombytes("RGB", (12, 10), random.Random(seed).randbytes(360)).save(out, format)
    return out.getvalue()


def save(root: Path, path: str, seed: int) -> str:
    """Write the picture of a seed below the folder; returns the path as given."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(picture(seed))
    return path


def file_of(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def noise(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))
