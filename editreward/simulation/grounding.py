"""Targets of simulated groups: what each image cell shows and should show, where images differ, what is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import accumulate
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from editreward.simulation.artefacts import ARTEFACTS
from editreward.simulation.collage.assets import names
from editreward.simulation.edits import EditTask, perfect
from editreward.simulation.groups import ENLARGED, SimulatedGroup
from editreward.simulation.instructions import CATEGORIES, COLLAGE_CATEGORIES
from editreward.simulation.world import (
    COLOURS,
    EFFECT_CATEGORY,
    OWN,
    PATTERNS,
    PLACE_NAMES,
    SHAPES,
    SIZES,
    SUBJECTS,
    TONES,
    Scene,
)
from editreward.simulation.worlds import WORLDS, render_scene

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

ASKED: tuple[str, ...] = tuple(name for name in ATTRIBUTES if name.split()[0] not in ("artefact", "severity"))
"""What a cell of the requested scene can show; the first of `ATTRIBUTES`, in their order."""

MISMATCHES: tuple[str, ...] = ("colour", "shape", "size", "background")
"""Of a cell: what is shown is not what is asked for, in this respect."""

REQUEST: dict[str, tuple[str, ...]] = {
    "category": CATEGORIES,
    "target colour": tuple(COLOURS),
    "target shape": tuple(SHAPES),
    "new colour": tuple(COLOURS),
    "new shape": tuple(SHAPES),
    "size": tuple(SIZES),
    "place": PLACE_NAMES,
    "pattern": tuple(PATTERNS),
    "tone": tuple(TONES),
}
"""What an instruction says, and the values of each part. The target is an object that the source shows."""


@dataclass(frozen=True)
class Vocabulary:
    """The names of what cells can show and instructions can say.

    Args:
        attributes: of a cell; those of the scene come first, those of artefacts last.
        request: parts of an instruction, and the values of each.
    """

    attributes: tuple[str, ...]
    request: Mapping[str, tuple[str, ...]]

    @cached_property
    def index(self) -> dict[str, int]:
        """Attribute to its number."""
        return {name: number for number, name in enumerate(self.attributes)}

    @cached_property
    def request_slices(self) -> dict[str, slice]:
        """Part of an instruction to where its values stand among those of all parts."""
        ends = list(accumulate(map(len, self.request.values())))
        return {part: slice(end - len(self.request[part]), end) for part, end in zip(self.request, ends, strict=True)}

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """What a cell of the requested scene can show: the first of the attributes, in their order."""
        return tuple(name for name in self.attributes if name.split()[0] not in ("artefact", "severity"))


SHAPES_VOCABULARY = Vocabulary(ATTRIBUTES, REQUEST)
"""Of the world of shapes alone."""


@cache
def vocabulary_of(worlds: tuple[str, ...]) -> Vocabulary:
    """The vocabulary of some worlds: that of the world of shapes, or one that serves all.

    Raises:
        FileNotFoundError: the collage world's file is not installed.
    """
    if worlds == ("shapes",):
        return SHAPES_VOCABULARY
    colours, things = (*COLOURS, OWN), (*SHAPES, *(name for name in names() if name not in SHAPES))
    patterns = (*PATTERNS, *SUBJECTS)
    attributes = (
        *(f"colour {name}" for name in colours),
        *(f"shape {name}" for name in things),
        *(f"size {name}" for name in SIZES),
        *(f"pattern {name}" for name in patterns),
        *(f"tone {name}" for name in TONES),
        *(f"effect {name}" for name in EFFECT_CATEGORY),
        *(f"artefact {name}" for name in (*ARTEFACTS, ENLARGED)),
        *(f"severity {score}" for score in (1, 2, 3)),
    )
    values = {"category": COLLAGE_CATEGORIES, "pattern": patterns, "effect": tuple(EFFECT_CATEGORY)}
    values |= dict.fromkeys(("target colour", "new colour"), colours)
    values |= dict.fromkeys(("target shape", "new shape"), things)
    return Vocabulary(attributes, {**REQUEST, **values})


COVERED = 0.2
"""An object is in a cell that it covers to this share, or that holds this share of it (bounding boxes)."""
DIFFERENT = 0.015
"""Two images differ in a cell where this share of its pixels does,"""
PIXEL_THRESHOLD = 24
"""each by more than this, of 255, in some channel."""
SAME_PLACE = 0.06
"""Objects this close, as a fraction of the side, are in one place: where exactly is the editor's choice."""


def scene_attributes(scene: Scene, side: int, vocabulary: Vocabulary = SHAPES_VOCABULARY) -> NDArray[np.bool_]:
    """What every cell of a side x side grid shows: (side * side, attributes), row by row."""
    grid = np.zeros((side, side, len(vocabulary.attributes)), dtype=bool)
    edges = np.arange(side + 1) / side
    everywhere = [f"pattern {scene.background.pattern}"]
    everywhere += [f"tone {scene.background.tone}"] if scene.background.tone else []
    everywhere += [f"effect {scene.effect}"] if scene.effect else []
    for name in everywhere:
        grid[:, :, vocabulary.index[name]] = True
    sizes = WORLDS[scene.world].sizes
    for thing in scene.objects:
        radius = sizes[thing.size] / 2
        along_x, along_y = (
            np.clip(np.minimum(edges[1:], middle + radius) - np.maximum(edges[:-1], middle - radius), 0, None)
            for middle in (thing.x, thing.y)
        )
        covered = np.outer(along_y, along_x) >= COVERED * min(1 / side**2, (2 * radius) ** 2)
        shown = [f"colour {thing.colour}", f"shape {thing.shape}", f"size {thing.size}"]
        if thing.second_colour:
            shown.append(f"colour {thing.second_colour}")
        for name in shown:
            grid[covered, vocabulary.index[name]] = True
    return grid.reshape(-1, len(vocabulary.attributes))


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


def group_attributes(
    group: SimulatedGroup, side: int, vocabulary: Vocabulary = SHAPES_VOCABULARY
) -> NDArray[np.bool_]:
    """What the source and every candidate show: (1 + candidates, side * side, attributes)."""
    images = [scene_attributes(group.scene, side, vocabulary)]
    for candidate in group.candidates:
        cells = scene_attributes(candidate.scene, side, vocabulary)
        damage = [f"artefact {candidate.artefact}", f"severity {candidate.scores['visual_quality']}"]
        for name in damage if candidate.artefact else ():
            if name in vocabulary.index:  # the first vocabulary has no word for what was enlarged
                cells[:, vocabulary.index[name]] = True
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


def group_asked(group: SimulatedGroup, side: int, vocabulary: Vocabulary = SHAPES_VOCABULARY) -> NDArray[np.bool_]:
    """What the source's and every candidate's cells should show: (1 + candidates, side * side, asked)."""
    edited = [None, *(candidate.scene for candidate in group.candidates)]
    cells = [scene_attributes(requested_scene(group.task, scene), side, vocabulary) for scene in edited]
    return np.stack(cells)[..., : len(vocabulary.asked)]


def group_mismatches(
    group: SimulatedGroup, side: int, vocabulary: Vocabulary = SHAPES_VOCABULARY
) -> NDArray[np.float32]:
    """Where candidates do not show what is asked for: (1 + candidates, side * side, `MISMATCHES`).

    0 or 1; NaN where there is nothing to compare: the source, and cells without an object in the one or the other.
    Unlike "wrong" of `group_comparisons` it does not say how pixels differ, but in which respect the objects do. An
    effect over the whole picture belongs to the background.
    """
    asked = group_asked(group, side, vocabulary)
    scenes = (group.scene, *(candidate.scene for candidate in group.candidates))
    shown = np.stack([scene_attributes(scene, side, vocabulary) for scene in scenes])[..., : len(vocabulary.asked)]
    kinds = np.array([name.split()[0] for name in vocabulary.asked])
    parts = (("colour",), ("shape",), ("size",), ("pattern", "tone", "effect"))
    cells = np.stack([(asked != shown)[..., np.isin(kinds, part)].any(-1) for part in parts], -1).astype(np.float32)
    objects = np.isin(kinds, ("colour", "shape", "size"))
    cells[~(asked | shown)[..., objects].any(-1), :3] = np.nan
    for index, scene in enumerate(scenes):
        if scene.remainder or scene.effect_stops:
            rightmost = np.arange(side * side) % side >= side * 2 // 3
            cells[index, rightmost, 3] = 1
    cells[0] = np.nan
    return cells


def request_values(task: EditTask, vocabulary: Vocabulary = SHAPES_VOCABULARY) -> NDArray[np.int64]:
    """What the instruction says, as indices into the values of the request's parts; -1 for what it does not speak of.

    Of several edits in one instruction only the category is said.
    """
    said: dict[str, str] = {"category": task.category}
    if task.target and task.category != "add":
        said |= {"target colour": task.target.colour, "target shape": task.target.shape}
    if task.result and task.category in ("recolour", "add", "replace"):
        said["new colour"] = task.result.colour
    if task.result and task.category in ("add", "replace"):
        said["new shape"] = task.result.shape
    if task.result and task.category in ("add", "resize"):
        said["size"] = task.result.size
    if task.result and task.category in ("add", "move"):
        said["place"] = PLACE_NAMES[task.result.place]
    if task.background:
        said |= {"pattern": task.background.pattern, "tone": task.background.tone}
    if task.effect:
        said["effect"] = task.effect
    return np.array(
        [values.index(said[part]) if said.get(part) else -1 for part, values in vocabulary.request.items()]
    )
