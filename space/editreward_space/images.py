"""Images that users send: read within limits, and made small for the page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from editreward_space.settings import MEGABYTE, InputError, Settings
from images_editreward import ImageError, image_header, load_image

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")
"""Of the formats that `load_image` reads those that strangers may send: not its rarer decoders."""

SHOWN_SIDE = 640
"""Longest side, in pixels, of an image on the page."""


@dataclass(frozen=True)
class NamedImage:
    """The content of an image file within the limits, what to call it, and how many pixels it has."""

    name: str
    content: bytes
    pixels: int


def read_upload(path: str | Path, settings: Settings) -> NamedImage:
    """Read and check an uploaded image.

    Raises:
        InputError: it is too large, or no image.
    """
    name = Path(path).name
    with open(path, "rb") as file:
        content = file.read(settings.max_image_mb * MEGABYTE + 1)
    return checked_image(content, name, settings)


def checked_image(content: bytes, name: str, settings: Settings) -> NamedImage:
    """Be sure that a file is an image within the limits, from its header alone.

    Raises:
        InputError: it is not.
    """
    if len(content) > settings.max_image_mb * MEGABYTE:
        raise InputError(f"{name} is larger than {settings.max_image_mb} MB. Save it smaller.")
    try:
        header = image_header(content, name)  # as the scorer will open it: one list decides what a file is
    except ImageError as error:
        if "too many pixels" in str(error):
            raise InputError(f"{name} has more than {settings.max_megapixels} megapixels. Make it smaller.") from error
        if "pixels" in str(error):
            raise InputError(str(error)) from error
        raise InputError(f"{name} is not an image that can be read. Known are {', '.join(FORMATS)}.") from error
    if header.format not in FORMATS:
        raise InputError(f"{name} is a {header.format} image. Known are {', '.join(FORMATS)}.")
    width, height = header.width, header.height
    if width * height > settings.max_megapixels * 1_000_000:
        raise InputError(
            f"{name} has {width} x {height} pixels; at most {settings.max_megapixels} megapixels are accepted. "
            "Make it smaller."
        )
    return NamedImage(name, content, width * height)


def shown(image: NamedImage) -> Image.Image:
    """A small copy for the page, upright and without transparency.

    Raises:
        InputError: the image is damaged.
    """
    try:
        small = load_image(image.content, image.name)
    except ImageError as error:
        raise InputError(str(error)) from error
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return small


def data_uri(image: Image.Image) -> str:
    """The image as a `data:` address: nothing on the server that others could fetch."""
    content = io.BytesIO()
    image.save(content, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode("ascii")
