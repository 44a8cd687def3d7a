"""Images as a judge gets them: upright, RGB, on white, at most so many pixels, as data URLs."""

import base64
import io
import math

from PIL import Image

from editreward.groups.group import ImageInput
from images_editreward import load_image

JPEG_QUALITY = 95


def fitted(image: Image.Image, max_pixels: int) -> Image.Image:
    """The image with at most so many pixels: both sides times sqrt(max_pixels / pixels), rounded down, by Lanczos.

    A smaller image stays as it is.
    """
    width, height = image.size
    if width * height <= max_pixels:
        return image
    factor = math.sqrt(max_pixels / (width * height))
    size = max(1, math.floor(width * factor)), max(1, math.floor(height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def data_url(image: ImageInput, max_pixels: int, image_format: str, name: str = "image") -> str:
    """An image as a `data:` URL.

    Args:
        image: any image.
        max_pixels: see `fitted`.
        image_format: "png" or "jpeg".
        name: what errors call it.

    Raises:
        ValueError: it cannot be decoded.
    """
    buffer = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if image_format == "jpeg" else {}
    fitted(load_image(image, name), max_pixels).save(buffer, image_format, **options)
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode()}"
