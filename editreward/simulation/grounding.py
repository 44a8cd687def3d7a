"""Dense targets on the image tokens of simulated groups: what each cell shows, and where images differ."""

from dataclasses import replace
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from editreward.simulation.artefacts import ARTEFACTS
from editreward.simulation.edits import EditTask, perfect
from editreward.simulation.groups import SimulatedGroup
from editreward.simulation.rendering import render_scene
from editreward.simulation.world import COLOURS, PATTERNS, SHAPES, SIZES, TONES, Scene

ATTRIBUTES: tuple[str, ...] = (
    *(f"colour {name}" for name in COLOURS),
    *(f"shape {name}" for name in SHAPES),
    *(f"size {name}" for name in SIZES),
    *(f"pattern {name}" for name in PATTERNS),
    *(f"tone {name}" for name in TONES),
    *(f"artefact {name}" for name in ARTEFACTS),
    *(f"severity {score}" for score in (1, 2, 3)),
)
"""What a cell can show: of the objects in it, of the background, and of the artefact (a severity is its score)."""

COMPARISONS: tuple[str, ...] = ("changed", "to change", "wrong")
"""Of a cell: edited and source differ; source and requested result differ; edited and requested result differ."""

COVERED = 0.2
"""An object is in a cell that it covers to this share, or that holds this share of it (bounding boxes)."""
DIFFERENT = 0.015
"""Two images differ in a cell where this share of its pixels does,"""
PIXEL_THRESHOLD = 24
"""each by more than this, of 255, in some channel."""
SAME_PLACE = 0.06
"""Objects this close, as a fraction of the side, are in one place: where exactly is the editor's choice."""


def scene_attributes(scene: Scene, side: int) -> NDArray[np.bool_]:
    """What every cell of a side x side grid shows: (side * side, `ATTRIBUTES`), row by row."""
    grid = np.zeros((side, side, len(ATTRIBUTES)), dtype=bool)
    edges = np.arange(side + 1) / side
    grid[:, :, ATTRIBUTES.index(f"pattern {scene.background.pattern}")] = True
    grid[:, :, ATTRIBUTES.index(f"tone {scene.background.tone}")] = True
    for thing in scene.objects:
        radius = SIZES[thing.size] / 2
        along_x, along_y = (
            np.clip(np.minimum(edges[1:], middle + radius) - np.maximum(edges[:-1], middle - radius), 0, None)
            for middle in (thing.x, thing.y)
        )
        covered = np.outer(along_y, along_x) >= COVERED * min(1 / side**2, (2 * radius) ** 2)
        names = [f"colour {thing.colour}", f"shape {thing.shape}", f"size {thing.size}"]
        if thing.second_colour:
            names.append(f"colour {thing.second_colour}")
        for name in names:
            grid[covered, ATTRIBUTES.index(name)] = True
    return grid.reshape(-1, len(ATTRIBUTES))


def requested_scene(task: EditTask, edited: Scene | None = None) -> Scene:
    """The scene that the instruction asks for, its objects where `edited` has them if that is as good a place."""
    scene = perfect(task, Random(0))
    if edited is None:
        return scene
    found = {thing.key: thing for thing in edited.objects}
    objects = []
    for thing in scene.objects:
        other = found.get(thing.key, thing)
        near = abs(other.x - thing.x) < SAME_PLACE and abs(other.y - thing.y) < SAME_PLACE
        objects.append(replace(thing, x=other.x, y=other.y) if near else thing)
    return replace(scene, objects=tuple(objects))


def differing_cells(first: Image.Image, second: Image.Image, side: int) -> NDArray[np.bool_]:
    """Where two images of one size differ: (side * side,), row by row."""
    a, b = np.asarray(first, dtype=np.int16), np.asarray(second, dtype=np.int16)
    differs = (np.abs(a - b) > PIXEL_THRESHOLD).any(-1)
    cell = len(differs) // side
    trimmed = differs[: side * cell, : side * cell]
    return np.asarray(trimmed.reshape(side, cell, side, cell).mean((1, 3)) > DIFFERENT).reshape(-1)


def group_attributes(group: SimulatedGroup, side: int) -> NDArray[np.bool_]:
    """What the source and every candidate show: (1 + candidates, side * side, `ATTRIBUTES`)."""
    images = [scene_attributes(group.scene, side)]
    for candidate in group.candidates:
        cells = scene_attributes(candidate.scene, side)
        if candidate.artefact:
            cells[:, ATTRIBUTES.index(f"artefact {candidate.artefact}")] = True
            cells[:, ATTRIBUTES.index(f"severity {candidate.scores['visual_quality']}")] = True
        images.append(cells)
    return np.stack(images)


def group_comparisons(group: SimulatedGroup, side: int) -> NDArray[np.float32]:
    """Where the images of a group differ: (1 + candidates, side * side, `COMPARISONS`).

    0 or 1; NaN where there is nothing to compare: the source has only "to change". Artefacts count for nothing.
    """
    size = group.source.width
    source = render_scene(group.scene, size)
    cells = np.full((1 + len(group.candidates), side * side, len(COMPARISONS)), np.nan, dtype=np.float32)
    cells[0, :, 1] = differing_cells(source, render_scene(requested_scene(group.task), size), side)
    for index, candidate in enumerate(group.candidates, start=1):
        edited = render_scene(candidate.scene, size)
        requested = render_scene(requested_scene(group.task, candidate.scene), size)
        pairs = ((source, edited), (source, requested), (edited, requested))
        cells[index] = np.stack([differing_cells(*pair, side) for pair in pairs], axis=-1)
    return cells
