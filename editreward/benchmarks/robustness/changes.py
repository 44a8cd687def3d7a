"""What stresses do to the images of a group. Every function takes a group, and settings by keyword, to a new group.

Unless it says otherwise the edited images change and the source stays as it is. Images come out as PNG.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from editreward.benchmarks.runner import Preparation
from editreward.data import image_changes
from editreward.data.image_changes import encoded
from editreward.groups import EditGroup
from editreward.scorers.baselines import content_of, decode
from editreward.scorers.fingerprints import content_hash

CODE = content_hash(*(Path(file).read_bytes() for file in (__file__, image_changes.__file__)))[:16]
"""Part of the name under which answers are cached: other code may give other images."""

TEXT_WIDTH = 0.94
"""Share of an image's width that a line of text fills."""


def preparation(change: "partial[EditGroup]") -> Preparation:
    """A function of this module with its settings, under a name that differs where settings or code do."""
    settings = ", ".join(f"{name}={value!r}" for name, value in change.keywords.items())
    return Preparation(f"{change.func.__name__}({settings}), code {CODE}", change)


# The same picture in another file


def recoded(group: EditGroup, *, format: str, **options: object) -> EditGroup:
    """Saved anew; options as for Pillow's `Image.save`."""
    return _changed(group, lambda image: encoded(image, format, **options))


def resized(group: EditGroup, *, scale: float) -> EditGroup:
    """Both sides times `scale`."""
    return _changed(group, lambda image: encoded(image_changes.resized(image, scale)))


def shifted(group: EditGroup, *, pixels: int) -> EditGroup:
    """Moved to the right and down, the left and upper edges repeated."""
    return _changed(group, lambda image: encoded(image_changes.shifted(image, pixels, pixels)))


def bordered(group: EditGroup, *, share: float, colour: str) -> EditGroup:
    """The same border around source and edited images; its width is a share of the shorter side, at least a pixel."""

    def change(image: Image.Image) -> bytes:
        return encoded(image_changes.bordered(image, share, colour))

    framed = _changed(group, change)
    return replace(framed, sources=tuple(change(decode(source)) for source in group.sources))


# Worse and worse: one edit at every level, the first level being the edit itself


def blurred(group: EditGroup, *, levels: Sequence[float]) -> EditGroup:
    """Gaussian blur of the group's only edit; levels: radius as a share of the geometric mean of the sides."""
    return _levels(group, levels, lambda image, level: encoded(image_changes.blurred(image, level)))


def noisy(group: EditGroup, *, levels: Sequence[float]) -> EditGroup:
    """The same Gaussian noise at rising strengths on the group's only edit; levels: standard deviation of 255."""
    rng = np.random.default_rng(int(content_hash(*map(content_of, group.edited))[:16], 16))
    image = decode(group.edited[0])
    noise = rng.standard_normal((image.height, image.width, 3), dtype=np.float32)
    return _levels(group, levels, lambda image, level: encoded(image_changes.noisy(image, level, noise)))


def compressed(group: EditGroup, *, levels: Sequence[int]) -> EditGroup:
    """JPEG compression of the group's only edit; levels: Pillow's quality, falling."""
    return _levels(group, levels, lambda image, level: encoded(image, "JPEG", quality=level))


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
        return encoded(written)

    return _changed(group, change)


def _changed(group: EditGroup, change: Callable[[Image.Image], bytes]) -> EditGroup:
    return replace(group, edited=tuple(change(decode(edited)) for edited in group.edited))
