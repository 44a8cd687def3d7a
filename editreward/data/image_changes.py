"""What may happen to an edited image on its way: robustness is measured and trained with the same changes.

All functions take RGB images.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    """The image's file; options as for Pillow's `Image.save`."""
    out = io.BytesIO()
    image.save(out, format, **({"compress_level": 1} if format == "PNG" else {}) | options)
    return out.getvalue()


def recoded(image: Image.Image, format: str, **options: object) -> Image.Image:
    """Saved and opened again."""
    return Image.open(io.BytesIO(encoded(image, format, **options))).convert("RGB")


def resized(image: Image.Image, scale: float) -> Image.Image:
    """Both sides times `scale`, by Lanczos resampling; at least one pixel."""
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def shifted(image: Image.Image, right: int, down: int) -> Image.Image:
    """Moved by so many pixels, negative ones to the left and up; the edges that are left behind are repeated."""
    rows = np.clip(np.arange(image.height) - down, 0, image.height - 1)
    columns = np.clip(np.arange(image.width) - right, 0, image.width - 1)
    return Image.fromarray(np.asarray(image)[rows][:, columns])


def bordered(image: Image.Image, share: float, colour: str) -> Image.Image:
    """With a border around it whose width is a share of the shorter side, at least a pixel."""
    width = max(1, round(share * min(image.size)))
    framed = Image.new("RGB", (image.width + 2 * width, image.height + 2 * width), colour)
    framed.paste(image, (width, width))
    return framed


def blurred(image: Image.Image, level: float) -> Image.Image:
    """Gaussian blur; level: radius as a share of the geometric mean of the sides."""
    return image.filter(ImageFilter.GaussianBlur(level * (image.width * image.height) ** 0.5))


def noisy(image: Image.Image, level: float, noise: NDArray[np.float32]) -> Image.Image:
    """Noise added; level: standard deviation of 255; noise: standard normal, (height, width, 3)."""
    pixels = np.asarray(image) + np.float32(level) * noise
    return Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))
