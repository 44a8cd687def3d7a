"""Photographs with objects in front: what the sources show, and what a perfect editor would make of them."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from research.open_edits.assets import Assets, Photograph, Thing

Pixels: TypeAlias = NDArray[np.uint8]
"""(height, width, 3), RGB."""
Layer: TypeAlias = NDArray[np.float32]
"""(height, width, 4), RGB of 0..255 and opacity of 0..1."""

LONG = 320
"""Long side of all images."""
TALLEST, WIDEST = 0.44, 0.34
"""Box of an object, in shares of the image's height and width."""
COLUMNS, ROWS = (0.19, 0.5, 0.81), (0.27, 0.5, 0.74)
"""Middles of the nine places."""
MATCHED = 0.15
"""By how much an object's mean colour is drawn to that of its surroundings."""

RENDERED = 64
"""Images that are kept."""

COLOURS = {
    "red": (200, 30, 35),
    "orange": (240, 130, 20),
    "yellow": (240, 215, 40),
    "green": (40, 150, 55),
    "blue": (35, 75, 200),
    "purple": (125, 45, 165),
    "pink": (245, 130, 180),
}


@dataclass(frozen=True)
class Placed:
    """An object in a scene.

    Attributes:
        thing: what it is.
        x, y: its middle, in shares of the image's width and height.
        size: 1 fills the box of an object.
        colour: of `COLOURS`, or None for its own.
        flipped: mirrored.
        part: only its rows from one share of its height to another one are there.
    """

    thing: Thing
    x: float
    y: float
    size: float = 1.0
    colour: str | None = None
    flipped: bool = False
    part: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Scene:
    """A photograph with objects.

    Attributes:
        photograph: the background.
        shift: which part of a photograph that is too long is taken, 0 to 1.
        aspect: width over height of the image.
        things: in front.
    """

    photograph: Photograph
    shift: float
    aspect: float
    things: tuple[Placed, ...] = ()

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return (LONG, round(LONG / self.aspect)) if self.aspect >= 1 else (round(LONG * self.aspect), LONG)

    def without(self, *things: Placed) -> "Scene":
        """The scene without some of its things."""
        return replace(self, things=tuple(one for one in self.things if one not in things))

    def with_(self, *things: Placed) -> "Scene":
        """The scene with more things in front."""
        return replace(self, things=(*self.things, *things))

    def changed(self, placed: Placed, **changes: object) -> "Scene":
        """The scene with one of its things changed."""
        new = replace(placed, **changes)  # type: ignore[arg-type]
        return replace(self, things=tuple(new if one == placed else one for one in self.things))


def float32(values: Any) -> NDArray[np.float32]:
    """As an array of this type."""
    return np.asarray(values, dtype=np.float32)


def uint8(values: Any) -> NDArray[np.uint8]:
    """As an array of this type; fractions are cut off."""
    return np.asarray(values).astype(np.uint8)


def to_lab(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """From RGB of 0..255 to Lab."""
    return np.asarray(cv2.cvtColor(float32(pixels / 255), cv2.COLOR_RGB2LAB), dtype=np.float32)


def from_lab(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """From Lab to RGB of 0..255."""
    return float32(np.clip(cv2.cvtColor(float32(lab), cv2.COLOR_LAB2RGB), 0, 1) * 255)


def recoloured(pixels: NDArray[np.float32], weight: NDArray[np.float32], colour: str) -> NDArray[np.float32]:
    """Colour transfer in Lab: the weighted pixels get the colour's mean, and keep most of their light and shade.

    Args:
        pixels: RGB of 0..255, shape (height, width, 3).
        weight: of the pixels, for their mean, shape (height, width).
        colour: of `COLOURS`.
    """
    lab = to_lab(pixels)
    target = to_lab(float32([[COLOURS[colour]]]))[0, 0]
    mean = np.average(lab.reshape(-1, 3), axis=0, weights=weight.reshape(-1) + 1e-6)
    spread = float32([0.75, 0.25, 0.25])
    wanted = float32([0.35 * mean[0] + 0.65 * target[0], target[1], target[2]])
    return from_lab(float32((lab - mean) * spread + wanted))


class Painter:
    """Renders scenes."""

    def __init__(self, assets: Assets) -> None:
        self.assets = assets
        self._backgrounds: dict[Scene, Pixels] = {}
        self._rendered: dict[Scene, Pixels] = {}

    def background(self, scene: Scene) -> Pixels:
        """The photograph of a scene, cut to its size."""
        bare = replace(scene, things=())
        if bare not in self._backgrounds:
            image = self.assets.photographs[scene.photograph]
            width, height = scene.size
            scale = max(width / image.width, height / image.height)
            whole = image.resize(
                (max(width, round(image.width * scale)), max(height, round(image.height * scale))),
                Image.Resampling.LANCZOS,
            )
            left, top = ((whole.width - width) * scene.shift, (whole.height - height) * scene.shift)
            cut = whole.crop((round(left), round(top), round(left) + width, round(top) + height))
            self._backgrounds[bare] = np.asarray(cut)
        return self._backgrounds[bare]

    def layer(self, placed: Placed, size: tuple[int, int]) -> Layer:
        """An object on an empty image of a size."""
        width, height = size
        cut = self.assets.cutouts[placed.thing]
        scale = placed.size * min(TALLEST * height / cut.height, WIDEST * width / cut.width)
        own = max(4, round(cut.width * scale)), max(4, round(cut.height * scale))
        small = cut.convert("RGBa").resize(own, Image.Resampling.LANCZOS).convert("RGBA")
        if placed.flipped:
            small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(small, dtype=np.float32)
        colours, opacity = pixels[..., :3], pixels[..., 3] / 255
        if placed.colour:
            colours = recoloured(colours, opacity.astype(np.float32), placed.colour)
        low, high = (round(share * own[1]) for share in placed.part)
        opacity = opacity.copy()
        opacity[:low], opacity[high:] = 0, 0
        canvas = np.zeros((height, width, 4), dtype=np.float32)
        left, top = round(placed.x * width - own[0] / 2), round(placed.y * height - own[1] / 2)
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(width, left + own[0]), min(height, top + own[1])
        if x0 < x1 and y0 < y1:
            inner = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            canvas[y0:y1, x0:x1, :3], canvas[y0:y1, x0:x1, 3] = colours[inner], opacity[inner]
        canvas[..., 3] = cv2.GaussianBlur(canvas[..., 3], (0, 0), 0.5)
        return canvas

    def paste(self, under: Pixels, placed: Placed) -> Pixels:
        """Put an object onto an image: its colours drawn to the surroundings, on a soft shadow."""
        height, width = under.shape[:2]
        layer = self.layer(placed, (width, height))
        if not (layer[..., 3] > 0.5).any():
            return under
        near = around(layer)
        layer, below = layer[near], float32(under[near])
        opacity = layer[..., 3:]
        matched = self.matched(under[near], layer)
        if placed.part[1] == 1:
            below = below * (1 - 0.4 * _shadow(opacity[..., 0])[..., None])
        image = under.copy()
        image[near] = uint8(np.clip(matched * opacity + below * (1 - opacity) + 0.5, 0, 255))
        return image

    def matched(self, below: Pixels, layer: Layer) -> NDArray[np.float32]:
        """The colours of a layer, drawn to those around it."""
        inside = layer[..., 3] > 0.5
        outside = (cv2.dilate(uint8(inside), np.ones((31, 31), np.uint8)) > 0) & ~inside
        if not inside.any() or not outside.any():
            return layer[..., :3]
        lab, other = to_lab(layer[..., :3]), to_lab(float32(below))
        lab += float32(MATCHED) * (other[outside].mean(0) - lab[inside].mean(0))
        return from_lab(lab)

    def render(self, scene: Scene) -> Pixels:
        """The image of a scene. Not to be written to."""
        if scene not in self._rendered:
            if len(self._rendered) == RENDERED:
                self._rendered.clear()
            under = self.render(replace(scene, things=scene.things[:-1])) if scene.things else None
            self._rendered[scene] = self.background(scene) if under is None else self.paste(under, scene.things[-1])
        return self._rendered[scene]


def around(layer: Layer) -> tuple[slice, slice]:
    """Rows and columns of what is in a layer, with a margin for shadow and surroundings."""
    rows, columns = np.nonzero(layer[..., 3] > 0)
    top, left = max(0, int(rows.min()) - 24), max(0, int(columns.min()) - 24)
    return slice(top, int(rows.max()) + 25), slice(left, int(columns.max()) + 25)


def differs(first: Pixels, second: Pixels, by: int) -> NDArray[np.bool_]:
    """Where two images differ by more than so much in a channel, shape (height, width)."""
    difference = cv2.absdiff(first, second)
    return np.asarray(np.maximum(np.maximum(difference[..., 0], difference[..., 1]), difference[..., 2]) > by)


def _shadow(opacity: NDArray[np.float32]) -> NDArray[np.float32]:
    """A soft ellipse where an object stands, shape (height, width)."""
    rows, columns = np.nonzero(opacity > 0.5)
    shadow = np.zeros(opacity.shape, dtype=np.float32)
    middle = int((columns.min() + columns.max()) / 2), int(rows.max() - 1)
    axes = max(2, int(0.42 * (columns.max() - columns.min()))), max(2, int(0.07 * (rows.max() - rows.min())))
    cv2.ellipse(shadow, middle, axes, 0, 0, 360, 1.0, -1)
    return float32(cv2.GaussianBlur(shadow, (0, 0), 2.5))
