"""Where something speaks against an edit: maps over the edited image, boxes, and a heat picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Map: TypeAlias = NDArray[np.float32]
"""(height, width), values in 0..1."""

NOT_AS_ASKED, UNASKED, ARTEFACT = "not as asked", "changed without being asked", "artefact"

BOX_THRESHOLD = 0.5
BOX_GRID = 64
"""Boxes are found on a map of at most so many cells along a side."""
SMALLEST_BOX = 0.002
"""Of the image's area: what is smaller is no box."""
HEAT = (226, 26, 28)
MOST_HEAT = 0.75
"""Opacity of the heat where a map is 1."""


@dataclass(frozen=True)
class Box:
    """A rectangle, in pixels of the edited image: `left <= x < right`, `top <= y < bottom`.

    Attributes:
        strength: the map's largest value in it.
    """

    left: int
    top: int
    right: int
    bottom: int
    strength: float


@dataclass(frozen=True)
class Where:
    """What speaks against one edited image, and where.

    Attributes:
        image: the edited image, upright RGB.
        maps: by dimension, float32 of shape (height, width) of the image, in 0..1: 0, nothing speaks against it here.
        reasons: the same by reason (`not as asked`, `changed without being asked`, `artefact`), where the method tells
            them apart.
        method: what made the maps: `heads`, `gradients` or `occlusion`. Those of heads are probabilities; those of the
            others are relative to the largest value in the group.
    """

    image: Image.Image
    maps: Mapping[str, Map]
    reasons: Mapping[str, Map] = field(default_factory=dict)
    method: str = ""

    def map(self, name: str | None = None) -> Map:
        """The map of a dimension or of a reason; without a name the largest value of all dimensions.

        Raises:
            KeyError: there is none of that name.
        """
        if name is None:
            return np.maximum.reduce(list(self.maps.values()))
        known = {**self.reasons, **self.maps}
        if name not in known:
            raise KeyError(f"There is no map {name!r}, only: {', '.join(known)}.")
        return known[name]

    def boxes(self, name: str | None = None, threshold: float = BOX_THRESHOLD) -> list[Box]:
        """Rectangles around the connected places where a map reaches a threshold, the strongest first."""
        values = self.map(name)
        height, width = values.shape
        rows, columns = (np.linspace(0, n, min(n, BOX_GRID) + 1).astype(int) for n in (height, width))
        coarse = np.maximum.reduceat(np.maximum.reduceat(values, rows[:-1], axis=0), columns[:-1], axis=1)
        found = []
        for cells in _connected(coarse >= threshold):
            (top, left), (bottom, right) = cells.min(0), cells.max(0) + 1
            left, top, right, bottom = (int(x) for x in (columns[left], rows[top], columns[right], rows[bottom]))
            if (right - left) * (bottom - top) >= SMALLEST_BOX * height * width:
                found.append(Box(left, top, right, bottom, float(coarse[tuple(cells.T)].max())))
        return sorted(found, key=lambda box: -box.strength)

    def picture(self, name: str | None = None, boxes: bool = True) -> Image.Image:
        """The edited image in pale grey under the heat of a map, with its boxes."""
        pale = np.asarray(self.image.convert("L").convert("RGB"), dtype=np.float32) * 0.7 + 255 * 0.3
        opacity = MOST_HEAT * self.map(name)[..., None]
        heated = pale * (1 - opacity) + np.array(HEAT, dtype=np.float32) * opacity
        picture = Image.fromarray(heated.round().astype(np.uint8))
        drawing = ImageDraw.Draw(picture)
        for box in self.boxes(name) if boxes else ():
            line = max(1, round(min(picture.size) / 150))
            drawing.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=HEAT, width=line)
        return picture

    def to_dict(self) -> dict[str, object]:
        """Plain data: by map, the boxes and the largest value."""
        return {
            "method": self.method,
            **{
                name: {"highest": float(values.max()), "boxes": [vars(box) for box in self.boxes(name)]}
                for name, values in {**self.maps, **self.reasons}.items()
            },
        }


def _connected(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Rows and columns, (cells, 2), of each set of true cells that touch along an edge."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    found = []
    while left:
        cells, todo = [], [left.pop()]
        while todo:
            row, column = todo.pop()
            cells.append((row, column))
            for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if cell in left:
                    left.remove(cell)
                    todo.append(cell)
        found.append(np.array(sorted(cells)))
    return found
