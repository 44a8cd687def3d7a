"""Drawings as they stand in a picture: tinted, turned a little, with a shadow."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from editreward.simulation.collage.assets import SPRITE, drawing
from editreward.simulation.rendering import COLOUR_RGB
from editreward.simulation.world import OWN

ANGLES = (-7, -3, 0, 4, 8)
"""Degrees by which drawings are turned, by pose."""
LEANS = (0.06, -0.05, 0.0, 0.08, -0.08)
"""By how much of its height a drawing leans, by pose."""
TINT = [np.float32(share) for share in (0.299, 0.587, 0.114)]
NEAR = 70
"""A tinted drawing is too much like the untinted one below this mean difference, of 255, of the channel that differs
most."""
REMAINS = 0.58
"""Share of its height that a removed object has lost where its bottom is left."""
SHADOW = 0.42
"""How dark a shadow is."""
RIM = 0.032
"""Width of the white rim of a drawing, as a share of its side."""


def _tinted(pixels: NDArray[np.float32], colour: str) -> NDArray[np.float32]:
    """RGBA pixels in the shades of one colour: what is half as bright as usual is as dark as the colour gets."""
    if colour == OWN:
        return pixels
    light = pixels[..., 0] * TINT[0] + pixels[..., 1] * TINT[1] + pixels[..., 2] * TINT[2]
    solid = pixels[..., 3] > 128
    low, middle, high = np.percentile(light[solid], (3, 50, 97)) if solid.any() else (0, 128, 255)
    shade = np.interp(
        light, (low, (low + middle) / 2, max(middle, low + 1), max(high, low + 2)), (-1.0, -0.25, 0, 1.0)
    )
    base = np.array(COLOUR_RGB[colour], dtype=np.float32)
    darker, lighter = np.clip(-shade, 0, 1)[..., None], np.clip(shade, 0, 1)[..., None]
    tinted = base * (1 - 0.72 * darker) + (255 - base) * 0.42 * lighter
    return np.concatenate([tinted, pixels[..., 3:]], axis=-1).astype(np.float32)


def near_colours(pictures: Sequence[Image.Image]) -> list[str]:
    """The colours in which any of these drawings (RGBA) would look much as it does anyway."""
    near = []
    for colour in COLOUR_RGB:
        differences = []
        for picture in pictures:
            pixels = np.asarray(picture.resize((32, 32), Image.Resampling.BOX), dtype=np.float32)
            solid = pixels[..., 3] > 128
            change = np.abs(_tinted(pixels, colour) - pixels)[..., :3].max(-1)
            differences.append(change[solid].mean())
        if min(differences) < NEAR:
            near.append(colour)
    return near


@lru_cache(maxsize=2048)
def _coloured(name: str, style: str, colour: str, second_colour: str | None) -> Image.Image:
    """A drawing in its colours, transparent parts premultiplied ("RGBa")."""
    picture = drawing(name, style)
    if colour != OWN or second_colour:
        pixels = np.asarray(picture, dtype=np.float32)
        tinted = _tinted(pixels, colour)
        if second_colour:
            rows = np.flatnonzero(pixels[..., 3].max(1) > 128)
            below = (rows[0] + rows[-1]) // 2
            tinted = np.concatenate([tinted[:below], _tinted(pixels, second_colour)[below:]])
        picture = Image.fromarray(np.clip(tinted, 0, 255).round().astype(np.uint8), "RGBA")
    return picture.convert("RGBa")


@lru_cache(maxsize=4096)
def sprite(
    name: str, style: str, colour: str, second_colour: str | None, remnant: bool, pixels: int, pose: int
) -> Image.Image:
    """An object, RGBA, pixels x pixels, as large as that along its longer side."""
    picture = _coloured(name, style, colour, second_colour)
    if remnant:
        rows = np.flatnonzero(np.asarray(picture.getchannel("a")).max(1) > 128)
        picture = picture.copy()
        picture.paste(0, (0, 0, SPRITE, round(rows[0] + REMAINS * (rows[-1] - rows[0]))))
    angle, lean = math.radians(ANGLES[pose]), LEANS[pose]
    grow = 1.08 + 0.5 * abs(math.sin(angle)) + 0.5 * abs(lean)
    cosine, sine, middle = math.cos(angle) * grow, math.sin(angle) * grow, SPRITE / 2
    # Output to input: turned by the angle about the middle, then sheared along x.
    a, b, d, e = cosine + lean * -sine, sine + lean * cosine, -sine, cosine
    matrix = (a, b, middle - a * middle - b * middle, d, e, middle - d * middle - e * middle)
    turned = picture.transform((SPRITE, SPRITE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    small = turned.resize((pixels, pixels), Image.Resampling.BOX if pixels < SPRITE // 2 else Image.Resampling.BICUBIC)
    return _cut_out(small.convert("RGBA"))


def _cut_out(picture: Image.Image) -> Image.Image:
    """The picture with a thin white rim, as if cut out of paper: it stays visible in front of any photograph."""
    mask = picture.getchannel("A")
    border = max(1, round(picture.width * RIM))
    paper = Image.new("RGBA", picture.size, (255, 255, 255, 0))
    paper.putalpha(mask.filter(ImageFilter.MaxFilter(2 * border + 1)))
    paper.alpha_composite(picture)
    return paper


@lru_cache(maxsize=2048)
def shadow(
    name: str, style: str, colour: str, second_colour: str | None, remnant: bool, pixels: int, pose: int, slant: int
) -> Image.Image:
    """The shadow of an object, "L", (2 * pixels) x pixels: it falls to the left (-1) or to the right (1).

    Its lower edge is that of the object. It is the same in every colour; the colours find the sprite that is there.
    """
    mask = sprite(name, style, colour, second_colour, remnant, pixels, pose).getchannel("A")
    height = max(2, round(0.4 * pixels))
    flat = Image.new("L", (2 * pixels, pixels))
    flat.paste(mask.resize((pixels, height), Image.Resampling.BOX), (pixels // 2, pixels - height))
    lean = 0.9 * slant
    cast = flat.transform(
        flat.size, Image.Transform.AFFINE, (1, lean, -lean * pixels, 0, 1, 0), Image.Resampling.BILINEAR
    )
    soft = cast.filter(ImageFilter.GaussianBlur(max(0.6, pixels / 26)))
    return soft.point([round(value * SHADOW) for value in range(256)])
