"""What stresses do to the images of a group. Every function takes a group, and settings by keyword, to a new group.

Unless it says otherwise the edited images change and the source stays as it is. Images come out as PNG.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from editreward.benchmarks.runner import Preparation
from editreward.groups import EditGroup
from editreward.scorers.baselines import content_of, decode
from editreward.scorers.fingerprints import content_hash

CODE = content_hash(Path(__file__).read_bytes())[:16]
"""Part of the name under which answers are cached: other code may give other images."""

TEXT_WIDTH = 0.94
"""Share of an image's width that a line of text fills."""


def preparation(change: "partial[EditGroup]") -> Preparation:
    """A function of this module with its settings, under a name that differs where settings or code do."""
    settings = ", ".join(f"{name}={value!r}" for name, value in change.keywords.items())
    return Preparation(f"{change.func.__name__}({settings}), code {CODE}", change)


# The same picture in another file


def recoded(group: EditGroup, *, format: str, **options: Any) -> EditGroup:
    """Saved anew; options as for Pillow's `Image.save`."""
    return _changed(group, lambda image: _file(image, format, **options))


def resized(group: EditGroup, *, scale: float) -> EditGroup:
    """Both sides times `scale`, by Lanczos resampling; at least one pixel."""

    def change(image: Image.Image) -> bytes:
        width, height = (max(1, round(side * scale)) for side in image.size)
        return _file(image.resize((width, height), Image.Resampling.LANCZOS))

    return _changed(group, change)


def shifted(group: EditGroup, *, pixels: int) -> EditGroup:
    """Moved to the right and down, the left and upper edges repeated."""

    def change(image: Image.Image) -> bytes:
        moved = np.pad(np.asarray(image), ((pixels, 0), (pixels, 0), (0, 0)), mode="edge")
        return _file(Image.fromarray(moved[: image.height, : image.width]))

    return _changed(group, change)


def bordered(group: EditGroup, *, share: float, colour: str) -> EditGroup:
    """The same border around source and edited images; its width is a share of the shorter side, at least a pixel."""

    def change(image: Image.Image) -> bytes:
        width = max(1, round(share * min(image.size)))
        framed = Image.new("RGB", (image.width + 2 * width, image.height + 2 * width), colour)
        framed.paste(image, (width, width))
        return _file(framed)

    framed = _changed(group, change)
    return replace(framed, sources=tuple(change(decode(source)) for source in group.sources))


# Worse and worse: one edit at every level, the first level being the edit itself


def blurred(group: EditGroup, *, levels: Sequence[float]) -> EditGroup:
    """Gaussian blur of the group's only edit; levels: radius as a share of the geometric mean of the sides."""

    def change(image: Image.Image, level: float) -> bytes:
        radius = level * (image.width * image.height) ** 0.5
        return _file(image.filter(ImageFilter.GaussianBlur(radius)))

    return _levels(group, levels, change)


def noisy(group: EditGroup, *, levels: Sequence[float]) -> EditGroup:
    """The same Gaussian noise at rising strengths on the group's only edit; levels: standard deviation of 255."""
    rng = np.random.default_rng(int(content_hash(*map(content_of, group.edited))[:16], 16))

    image = decode(group.edited[0])
    noise = rng.standard_normal((image.height, image.width, 3), dtype=np.float32)

    def change(image: Image.Image, level: float) -> bytes:
        pixels = np.asarray(image) + np.float32(level) * noise
        return _file(Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8)))

    return _levels(group, levels, change)


def compressed(group: EditGroup, *, levels: Sequence[int]) -> EditGroup:
    """JPEG compression of the group's only edit; levels: Pillow's quality, falling."""
    return _levels(group, levels, lambda image, level: _file(image, "JPEG", quality=level))


def _levels(group: EditGroup, levels: Sequence[float], change: Callable[[Image.Image, float], bytes]) -> EditGroup:
    (edited,) = group.edited
    image = decode(edited)
    return replace(group, edited=(edited, *(change(image, level) for level in levels)))


# Others


def with_source_as_edit(group: EditGroup) -> EditGroup:
    """The source, of several the first, is offered as one more edit, the last."""
    return replace(group, edited=(*group.edited, group.sources[0]))


def with_text(group: EditGroup, *, text: str) -> EditGroup:
    """A line of black text on a white strip along the lower edge."""

    def change(image: Image.Image) -> bytes:
        written = image.copy()
        draw = ImageDraw.Draw(written)
        width_at_100 = draw.textlength(text, ImageFont.load_default(100))
        size = 100 * TEXT_WIDTH * image.width / width_at_100
        left, top, right, bottom = draw.textbbox((0, 0), text, ImageFont.load_default(size))
        height = round((bottom - top) * 1.5)
        draw.rectangle((0, image.height - height, image.width, image.height), fill="white")
        place = ((image.width - left - right) / 2, image.height - height / 2 - (top + bottom) / 2)
        draw.text(place, text, fill="black", font=ImageFont.load_default(size))
        return _file(written)

    return _changed(group, change)


def _changed(group: EditGroup, change: Callable[[Image.Image], bytes]) -> EditGroup:
    return replace(group, edited=tuple(change(decode(edited)) for edited in group.edited))


def _file(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **({"compress_level": 1} if format == "PNG" else {}) | options)
    return out.getvalue()
