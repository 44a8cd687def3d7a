"""Effects over a whole picture: styles, tones and weather, all scaling with the image side."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from editreward.simulation.world import EFFECT_CATEGORY

BASE_SIZE = 112
"""Image side at which radii and widths below are stated."""
PAPER, INK = (250, 248, 242), (52, 50, 54)


def _edges(image: Image.Image) -> Image.Image:
    """Dark lines on white ("L") where brightness changes."""
    unit = image.width / BASE_SIZE
    grey = ImageOps.autocontrast(image.convert("L"), cutoff=1)
    blurred = grey.filter(ImageFilter.GaussianBlur(2.2 * unit))
    # A colour dodge: the picture divided by its blurred self.
    pixels = np.asarray(grey, dtype=np.float32) / np.maximum(np.asarray(blurred, dtype=np.float32), 12)
    return Image.fromarray(np.clip((pixels - 0.55) / 0.42 * 255, 0, 255).astype(np.uint8))


def _pencil_sketch(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(_edges(image), INK, PAPER)


def _blueprint(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(_edges(image), (226, 240, 255), (22, 66, 150))


def _comic(image: Image.Image) -> Image.Image:
    """Few strong colours with black outlines."""
    vivid = np.asarray(image, dtype=np.float32)
    grey = vivid.mean(-1, keepdims=True)
    vivid = np.clip((vivid - grey) * 1.9 + grey, 0, 255)
    flat = Image.fromarray(((vivid // 64) * 80 + 8).clip(0, 255).astype(np.uint8))
    lines = _edges(image).point([0 if value < 110 else 255 for value in range(256)])
    return ImageChops.multiply(flat, lines.convert("RGB"))


_POP_ART = ((96, 30, 150), (240, 40, 120), (255, 140, 40), (255, 232, 60))


def _pop_art(image: Image.Image) -> Image.Image:
    """Four loud colours by brightness, with dark outlines."""
    grey = ImageOps.equalize(image.convert("L"))
    tables = [[_POP_ART[value // 64][channel] for value in range(256)] for channel in range(3)]
    lines = _edges(image).point([0 if value < 120 else 255 for value in range(256)])
    return ImageChops.multiply(Image.merge("RGB", [grey.point(table) for table in tables]), lines.convert("RGB"))


def _black_and_white(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def _sepia(image: Image.Image) -> Image.Image:
    return ImageOps.colorize(image.convert("L"), (36, 22, 8), (255, 240, 206), (166, 122, 74))


def _night(image: Image.Image) -> Image.Image:
    return Image.merge("RGB", [band.point(table) for band, table in zip(image.split(), _NIGHT, strict=True)])


_NIGHT = [
    [round(factor * value + offset) for value in range(256)] for factor, offset in ((0.26, 4), (0.32, 8), (0.5, 34))
]


def _negative(image: Image.Image) -> Image.Image:
    return ImageOps.invert(image)


@lru_cache(maxsize=8)
def _flakes(size: int) -> Image.Image:
    rng = np.random.default_rng(1)
    mask = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(mask)
    for x, y, radius in rng.random((150, 3)) * (2 * size, 2 * size, 1):
        r = (0.9 + 1.5 * radius) * 2 * size / BASE_SIZE
        draw.ellipse((x - r, y - r, x + r, y + r), fill=235)
    return mask.reduce(2)


def _snow(image: Image.Image) -> Image.Image:
    """A pale picture with white flakes."""
    pale = Image.blend(image, Image.new("RGB", image.size, (214, 222, 234)), 0.3)
    pale.paste((255, 255, 255), (0, 0), _flakes(image.width))
    return pale


@lru_cache(maxsize=8)
def _streaks(size: int) -> Image.Image:
    rng = np.random.default_rng(2)
    mask = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(mask)
    for x, y, length in rng.random((120, 3)) * (2.4 * size, 2.2 * size, 1):
        along = (7 + 8 * length) * 2 * size / BASE_SIZE
        width = max(1, round(1.1 * 2 * size / BASE_SIZE))
        draw.line((x, y - along, x - 0.3 * along, y), fill=190, width=width)
    return mask.reduce(2)


def _rain(image: Image.Image) -> Image.Image:
    """A darker, greyer picture with slanting streaks."""
    dull = Image.blend(image, image.convert("L").convert("RGB"), 0.45)
    dull = Image.blend(dull, Image.new("RGB", image.size, (58, 70, 86)), 0.38)
    dull.paste((216, 226, 238), (0, 0), _streaks(image.width))
    return dull


@lru_cache(maxsize=8)
def _veil(size: int) -> Image.Image:
    """How thick the fog is: banks that thin out towards the ground."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray((rng.random((5, 5)) * 60).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    down = 168 - 62 * np.linspace(0, 1, size)[:, None]
    return Image.fromarray((np.asarray(coarse, dtype=np.float32) - 30 + down).astype(np.uint8))


def _fog(image: Image.Image) -> Image.Image:
    result = image.copy()
    result.paste((214, 218, 222), (0, 0), _veil(image.width))
    return result


@lru_cache(maxsize=8)
def _rays(size: int) -> Image.Image:
    """Beams from the upper left corner."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [
        math.sin(15 * math.atan2(down + 0.12, across + 0.12)) for down, across in zip(y.flat, x.flat, strict=True)
    ]
    distance = np.sqrt(x * x + y * y)
    beams: NDArray[np.float64] = np.clip(np.reshape(waves, x.shape) * 1.6 + 0.2, 0, 1)
    beams *= np.clip(1.15 - 0.6 * distance, 0, 1)
    glow = np.clip(1 - distance / 0.5, 0, 1) ** 2
    return Image.fromarray(np.clip(185 * beams + 200 * glow, 0, 235).astype(np.uint8))


def _sunbeams(image: Image.Image) -> Image.Image:
    result = image.copy()
    result.paste((255, 240, 168), (0, 0), _rays(image.width))
    return result


_FUNCTIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "pencil sketch": _pencil_sketch,
    "comic": _comic,
    "blueprint": _blueprint,
    "pop art": _pop_art,
    "black and white": _black_and_white,
    "sepia": _sepia,
    "night": _night,
    "negative": _negative,
    "snow": _snow,
    "rain": _rain,
    "fog": _fog,
    "sunbeams": _sunbeams,
}
assert set(_FUNCTIONS) == set(EFFECT_CATEGORY)


WEAK = 10.0
"""Mean change, of 255, below which an effect is hardly seen."""


def weak_effects(image: Image.Image) -> list[str]:
    """The effects that would hardly change some third of a picture (RGB), such as black and white on a grey one."""
    before = np.asarray(image.resize((BASE_SIZE, BASE_SIZE)), dtype=np.float32)
    found = []
    for effect in EFFECT_CATEGORY:
        after = np.asarray(apply_effect(Image.fromarray(before.astype(np.uint8)), effect), dtype=np.float32)
        thirds = np.array_split(np.abs(after - before).mean(-1), 3, axis=1)
        if min(third.mean() for third in thirds) < WEAK:
            found.append(effect)
    return found


def apply_effect(image: Image.Image, effect: str, stops: bool = False) -> Image.Image:
    """A picture with an effect.

    Args:
        image: RGB, square.
        effect: a name of `EFFECTS`.
        stops: leave out the right third.

    Returns:
        A new RGB image of the same size.
    """
    result = _FUNCTIONS[effect](image)
    if stops:
        edge = round(image.width * 2 / 3)
        result.paste(image.crop((edge, 0, *image.size)), (edge, 0))
    return result
