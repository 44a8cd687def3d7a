"""Drawing the world of shapes with Pillow. Sprites and backgrounds are drawn once, supersampled, and cached."""

import math
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from editreward.simulation.world import SIZES, TONES, Background, Scene

SUPERSAMPLING = 8

COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (216, 32, 38),
    "orange": (250, 132, 12),
    "yellow": (250, 218, 24),
    "green": (34, 146, 52),
    "cyan": (18, 196, 208),
    "blue": (34, 66, 214),
    "purple": (126, 36, 158),
    "pink": (250, 104, 184),
    "black": (28, 28, 30),
}

TONE_RGB: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "grey": ((226, 226, 226), (184, 184, 184)),
    "beige": ((244, 230, 200), (214, 192, 150)),
    "pale green": ((208, 234, 206), (156, 204, 156)),
    "pale blue": ((204, 224, 246), (148, 186, 228)),
    "lilac": ((226, 210, 242), (186, 162, 218)),
    "pale pink": ((252, 216, 222), (232, 170, 184)),
}
"""Light and dark variant of each background tone."""

OUTLINE_SHADE = 0.55


def _regular(points: int, radius: float, inner: float | None = None) -> list[tuple[float, float]]:
    """Corners of a polygon or (with `inner`) of a star around (0.5, 0.5), the first one at the top."""
    count = points if inner is None else 2 * points
    radii = [radius if inner is None or i % 2 == 0 else inner for i in range(count)]
    angles = [2 * math.pi * i / count for i in range(count)]
    return [(0.5 + r * math.sin(a), 0.5 - r * math.cos(a)) for r, a in zip(radii, angles, strict=True)]


def _heart() -> list[tuple[float, float]]:
    points = []
    for i in range(120):
        t = 2 * math.pi * i / 120
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((0.5 + x / 33, 0.46 - y / 31))
    return points


POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(0.07, 0.07), (0.93, 0.07), (0.93, 0.93), (0.07, 0.93)],
    "triangle": [(0.5, 0.03), (0.99, 0.93), (0.01, 0.93)],
    "star": [(x, y + 0.04) for x, y in _regular(5, 0.53, 0.22)],
    "heart": _heart(),
    "diamond": [(0.5, 0.0), (0.9, 0.5), (0.5, 1.0), (0.1, 0.5)],
    "cross": [
        (0.34, 0.02), (0.66, 0.02), (0.66, 0.34), (0.98, 0.34), (0.98, 0.66), (0.66, 0.66),
        (0.66, 0.98), (0.34, 0.98), (0.34, 0.66), (0.02, 0.66), (0.02, 0.34), (0.34, 0.34),
    ],
    "arrow": [(0.5, 0.0), (0.96, 0.5), (0.66, 0.5), (0.66, 1.0), (0.34, 1.0), (0.34, 0.5), (0.04, 0.5)],
}  # fmt: skip
"""Corners in the unit square; circle, ring and crescent are ellipses."""


@cache
def shape_masks(shape: str, pixels: int) -> tuple[Image.Image, Image.Image]:
    """Anti-aliased masks ("L", pixels x pixels) of the whole shape and of its inside within the outline."""
    side = pixels * SUPERSAMPLING
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)

    def ellipse(left: float, top: float, right: float, bottom: float, fill: int) -> None:
        draw.ellipse((left * side, top * side, right * side - 1, bottom * side - 1), fill=fill)

    if shape in POLYGONS:
        draw.polygon([(x * side, y * side) for x, y in POLYGONS[shape]], fill=255)
    else:
        ellipse(0.02, 0.02, 0.98, 0.98, 255)
        if shape == "ring":
            ellipse(0.29, 0.29, 0.71, 0.71, 0)
        elif shape == "crescent":
            ellipse(0.32, -0.06, 1.14, 0.76, 0)
    inside = mask.filter(ImageFilter.MinFilter(2 * round(0.026 * side) + 1))
    return mask.reduce(SUPERSAMPLING), inside.reduce(SUPERSAMPLING)


@lru_cache(maxsize=8192)
def sprite(
    shape: str, colour: str, pixels: int, second_colour: str | None, remnant: bool
) -> tuple[Image.Image, Image.Image]:
    """Colours (RGB) and mask (L) of an object, both pixels x pixels."""
    mask, inside = shape_masks(shape, pixels)
    fill = Image.new("RGB", (pixels, pixels), COLOUR_RGB[colour])
    if second_colour:
        fill.paste(COLOUR_RGB[second_colour], (0, pixels // 2, pixels, pixels))
    outline = fill.point([int(value * OUTLINE_SHADE) for value in range(256)] * 3)
    outline.paste(fill, (0, 0), inside)
    if remnant:
        mask = mask.copy()
        mask.paste(0, (0, 0, pixels, round(pixels * 0.58)))
    return outline, mask


@lru_cache(maxsize=1024)
def background_image(background: Background, size: int) -> Image.Image:
    """The background alone, RGB, size x size. Cached: copy it before drawing on it."""
    light, dark = TONE_RGB[background.tone]
    unit = size / 112
    image = Image.new("RGB", (size, size), light)
    draw = ImageDraw.Draw(image)
    if background.pattern == "plain":
        draw.rectangle((0, 0, size, size), fill=tuple((a + b) // 2 for a, b in zip(light, dark, strict=True)))
    elif background.pattern == "gradient":
        ramp = Image.linear_gradient("L").resize((size, size), Image.Resampling.BILINEAR)
        bottom = Image.new("RGB", (size, size), tuple(int(value * 0.86) for value in dark))
        image = Image.composite(bottom, image, ramp)
    elif background.pattern == "stripes":
        for i in range(0, 7):
            draw.rectangle((0, (16 * i + 8) * unit, size, (16 * i + 16) * unit - 1), fill=dark)
    elif background.pattern == "checkerboard":
        for row in range(8):
            for column in range(row % 2, 8, 2):
                left, top = 14 * column * unit, 14 * row * unit
                draw.rectangle((left, top, left + 14 * unit - 1, top + 14 * unit - 1), fill=dark)
    elif background.pattern == "dots":
        large = Image.new("L", (4 * size, 4 * size), 0)
        dots = ImageDraw.Draw(large)
        for row in range(8):
            for column in range(9):
                x, y = (14 * column + 7 * (row % 2)) * unit * 4, (14 * row + 7) * unit * 4
                radius = 3.4 * unit * 4
                dots.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        image.paste(dark, (0, 0), large.reduce(4))
    elif background.pattern == "horizon":
        draw.rectangle((0, 62 * unit, size, size), fill=tuple(int(value * 0.9) for value in dark))
    elif background.pattern == "speckles":
        rng = np.random.default_rng(list(TONES).index(background.tone))
        for x, y in rng.random((420, 2)) * size:
            draw.rectangle((x, y, x + 1.2 * unit, y + 1.2 * unit), fill=dark)
    return image


def render_shapes(scene: Scene, size: int) -> Image.Image:
    """Draw a scene of the world of shapes without artefacts: RGB, size x size."""
    image = background_image(scene.background, size).copy()
    if scene.remainder:
        edge = round(size * 2 / 3)
        image.paste(background_image(scene.remainder, size).crop((edge, 0, size, size)), (edge, 0))
    for thing in scene.objects:
        pixels = round(SIZES[thing.size] * size)
        colours, mask = sprite(thing.shape, thing.colour, pixels, thing.second_colour, thing.remnant)
        corner = (round(thing.x * size - pixels / 2), round(thing.y * size - pixels / 2))
        image.paste(colours, corner, mask)
    return image
