"""The inspector that compares: with the source, with the exact requested image, and with the edit of another object.

It looks at smoothed differences, never at which fault a scene has. Visual quality is read from the parts that nobody
asked to change.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import numpy as np
from PIL import Image

from editreward.simulation.edits import EditTask, perfect
from editreward.simulation.inspectors.grades import Grades, check_world
from editreward.simulation.world import Scene
from editreward.simulation.worlds import render_scene

SIDE = 56
CHANGED = 30
"""Two drawings differ in a pixel by more than this in some channel."""
VISIBLE = 42.0
"""A smoothed difference that is seen,"""
ABOVE_DAMAGE = 3.0
"""if it is so many times what the image has everywhere."""
SMALL, LARGE = 18, 150
"""Pixels of a side effect that counts, and of one that ruins an edit."""
GAIN = (0.5, 1.0)
"""Contrast that damage may leave."""
MOST_ASIDE = 0.25
"""Share of the image that side effects cover at most: damage covers more."""
DONE, HALF_DONE = 0.4, 0.55
"""The error of the requested change, as a share of its and the source's."""


def compare(task: EditTask, image: Image.Image) -> Grades:
    """Grade an edit of a task.

    Args:
        task: what was asked for.
        image: RGB, square.

    Raises:
        ValueError: the task is of another world than that of shapes.
    """
    check_world(task)
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    source = _drawn(task.source)
    request = min((_drawn(scene) for scene in _requests(task)), key=lambda one: float(_error(pixels, one).mean()))
    to_change = _widened(np.abs(source - request).max(axis=2) > CHANGED)
    from_request, from_source = _error(pixels, request), _error(pixels, source)
    damage = float(np.median(from_request[~to_change])) if (~to_change).any() else 0.0
    seen = max(VISIBLE, ABOVE_DAMAGE * damage)
    following = _following(task, pixels, from_request, from_source, to_change, seen)
    kept = to_change
    if task.background:
        kept = np.zeros_like(to_change)
        if from_request.mean() < from_source.mean():
            source, from_source = request, from_request
    aside = _widened(_widened(from_source > seen))
    if aside.mean() < MOST_ASIDE:
        kept = kept | aside
    return Grades(following, quality_of(pixels, source, kept))


def _following(
    task: EditTask,
    pixels: np.ndarray,
    from_request: np.ndarray,
    from_source: np.ndarray,
    to_change: np.ndarray,
    seen: float,
) -> int:
    """Instruction following, 1..4."""
    wanted, kept = float(from_request[to_change].mean()), float(from_source[to_change].mean())
    share = wanted / max(wanted + kept, 1e-6)
    aside = int((from_request[~to_change] > seen).sum())
    left = int((from_request[to_change] > seen).sum())
    if share < DONE:
        if aside < SMALL:
            return 4 if left < SMALL else 3
        return 3 if aside < LARGE else 2
    changed = int((from_source[to_change] > seen).sum())
    if share < HALF_DONE and aside < SMALL:
        return 3
    if changed >= SMALL:
        return 2
    aside = int((from_source[~to_change] > seen).sum())
    if aside < SMALL:
        return 1
    others = [float(_error(pixels, _drawn(scene)).mean()) for scene in _other_edits(task)]
    return 2 if others and min(others) < 0.9 * float(from_source.mean()) else 1


def _drawn(scene: Scene) -> np.ndarray:
    return np.asarray(render_scene(scene, 2 * SIDE).reduce(2), dtype=np.float32)


def _requests(task: EditTask) -> Iterator[Scene]:
    """The requested scene, its new or moved object anywhere within its place's jitter."""
    scene = perfect(task, Random(0))
    if task.category not in ("add", "move") or task.result is None:
        yield scene
        return
    place = task.result.place
    for dy in (-0.06, -0.02, 0.02, 0.06):
        for dx in (-0.06, -0.02, 0.02, 0.06):
            x, y = (place % 3 + 0.5 + dx) / 3, (place // 3 + 0.5 + dy) / 3
            things = tuple(replace(o, x=x, y=y) if o.key == task.result.key else o for o in scene.objects)
            yield replace(scene, objects=things)


def _other_edits(task: EditTask) -> Iterator[Scene]:
    """What was asked for, done to another object, or with an object elsewhere."""
    result = task.result
    for other in task.others:
        things = [one for one in task.source.objects if one.key != other.key]
        made = None
        if task.category == "recolour" and result:
            made = replace(other, colour=result.colour)
        elif task.category in ("replace", "add") and result:
            made = replace(other, colour=result.colour, shape=result.shape)
        elif task.category == "resize" and result:
            made = replace(other, size=result.size)
        elif task.category == "move" and result:
            made = replace(other, x=result.x, y=result.y)
        elif task.category != "remove":
            continue
        yield replace(task.source, objects=(*things, made) if made else tuple(things))
    if task.category in ("add", "replace") and result:
        taken = {place for thing in task.source.objects for place in thing.position}
        for place in set(range(9)) - taken:
            x, y = (place % 3 + 0.5) / 3, (place // 3 + 0.5) / 3
            yield replace(task.source, objects=(*task.source.objects, replace(result, key=900, x=x, y=y)))


def _error(pixels: np.ndarray, drawing: np.ndarray) -> np.ndarray:
    """The largest channel's smoothed difference, (side, side).

    What is the same over a quarter of the image counts for nothing, and contrast is brought to the drawing's.
    """
    seen, wanted = pixels - _quarters(pixels), drawing - _quarters(drawing)
    gain = (seen * wanted).sum((0, 1)) / np.maximum((wanted**2).sum((0, 1)), 1.0)
    difference = seen - gain.clip(*GAIN) * wanted
    return np.asarray(np.abs(_means(difference - _quarters(difference), 1)).max(axis=2))


def _quarters(values: np.ndarray) -> np.ndarray:
    """Medians of the four quarters, interpolated between their middles."""
    half = SIDE // 2
    medians = np.median(values.reshape(2, half, 2, half, 3), axis=(1, 3))
    weight = ((np.arange(SIDE) - half / 2 + 0.5) / half).clip(0, 1)[:, None, None]
    columns = medians[:, :1] * (1 - weight.reshape(1, SIDE, 1)) + medians[:, 1:] * weight.reshape(1, SIDE, 1)
    return np.asarray(columns[:1] * (1 - weight) + columns[1:] * weight)


def _means(values: np.ndarray, radius: int) -> np.ndarray:
    """Means of squares of 2 `radius` + 1 pixels."""
    width = 2 * radius + 1
    sums = np.pad(values, ((radius + 1, radius), (radius + 1, radius), (0, 0)), mode="edge").cumsum(0).cumsum(1)
    found = sums[width:, width:] - sums[:-width, width:] - sums[width:, :-width] + sums[:-width, :-width]
    return np.asarray(found / width**2)


def _widened(mask: np.ndarray) -> np.ndarray:
    """With the pixels beside it."""
    padded = np.pad(mask, 1)
    return np.asarray(padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:])


# Visual quality


def features(pixels: np.ndarray, drawing: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """What damage leaves, as logarithms: grain, tint, brightness, edges, and all of it: (5,).

    Args:
        pixels, drawing: the image and what it should look like, (side, side, 3).
        ignored: pixels that are not looked at.
    """
    residual = np.where(ignored[..., None], 0.0, pixels - drawing)
    smooth = _means(residual, 2)
    fine = residual - _means(residual, 1)
    flat = _means(np.abs(drawing - _means(drawing, 1)), 1).max(axis=2) < 1.0
    flat &= ~ignored
    grain = float(np.sqrt(np.square(fine[flat]).mean())) if flat.sum() > 50 else 0.0
    grey = smooth.mean(axis=2)
    tint = float(np.sqrt(np.square(smooth - grey[..., None]).mean()))
    edges = ~flat & ~ignored
    rough = float(np.sqrt(np.median(np.square(residual[edges])))) if edges.any() else 0.0
    whole = float(np.sqrt(np.square(residual.clip(-100, 100))[~ignored].mean()))
    brightness = float(np.percentile(np.abs(grey), 85))
    return np.log(np.array([grain, tint, brightness, rough, whole]) + 1.0)


def quality_of(pixels: np.ndarray, drawing: np.ndarray, ignored: np.ndarray) -> int:
    """Visual quality, 1..4: that of the damage whose features, as Gaussians, are likeliest."""
    found = features(pixels, drawing, ignored)

    def surprise(mean: tuple[float, ...], std: tuple[float, ...]) -> float:
        return float((((found - mean) / std) ** 2 + 2 * np.log(std)).sum())

    return min(DAMAGES, key=lambda one: surprise(one[2], one[3]))[0]


DAMAGES: tuple[tuple[int, str, tuple[float, ...], tuple[float, ...]], ...] = (
    (1, "blocks", (0.61, 1.01, 1.26, 1.60, 2.71), (0.35, 0.24, 0.60, 0.85, 0.27)),
    (1, "blur", (0.54, 1.18, 1.55, 2.39, 2.68), (0.31, 0.25, 0.45, 0.35, 0.28)),
    (1, "cast", (0.23, 3.56, 3.71, 3.14, 3.83), (0.12, 0.16, 0.31, 0.53, 0.12)),
    (1, "ghosting", (1.27, 1.79, 1.97, 1.37, 2.79), (0.57, 0.32, 0.62, 0.85, 0.29)),
    (1, "jpeg", (1.07, 1.36, 1.59, 2.07, 2.60), (0.53, 0.22, 0.29, 0.33, 0.21)),
    (1, "noise", (3.30, 2.18, 2.50, 3.38, 3.74), (1.10, 0.12, 0.12, 0.12, 0.12)),
    (1, "seams", (1.76, 2.17, 3.84, 1.32, 3.57), (0.76, 0.40, 0.14, 1.59, 0.12)),
    (2, "blocks", (0.14, 0.66, 0.82, 0.26, 2.39), (0.16, 0.22, 0.54, 0.44, 0.26)),
    (2, "blur", (0.23, 0.62, 0.88, 1.74, 2.19), (0.16, 0.16, 0.38, 0.33, 0.27)),
    (2, "cast", (0.19, 3.00, 3.19, 2.58, 3.31), (0.12, 0.13, 0.27, 0.53, 0.12)),
    (2, "ghosting", (0.74, 1.22, 1.40, 0.62, 2.24), (0.46, 0.30, 0.56, 0.60, 0.28)),
    (2, "jpeg", (0.94, 0.99, 1.20, 1.75, 2.22), (0.47, 0.20, 0.28, 0.34, 0.22)),
    (2, "noise", (2.83, 1.68, 1.80, 2.85, 3.23), (0.95, 0.12, 0.12, 0.12, 0.12)),
    (2, "seams", (0.79, 1.22, 3.02, 0.17, 2.80), (0.44, 0.40, 0.12, 0.68, 0.14)),
    (3, "blur", (0.01, 0.21, 0.33, 0.52, 1.30), (0.12, 0.12, 0.18, 0.60, 0.21)),
    (3, "cast", (0.17, 2.37, 2.52, 2.03, 2.65), (0.12, 0.13, 0.30, 0.44, 0.12)),
    (3, "ghosting", (0.06, 0.55, 0.68, 0.07, 1.44), (0.12, 0.18, 0.36, 0.21, 0.25)),
    (3, "jpeg", (0.72, 0.73, 0.92, 1.38, 1.85), (0.36, 0.13, 0.25, 0.40, 0.23)),
    (3, "noise", (2.28, 1.16, 1.22, 2.25, 2.61), (0.76, 0.12, 0.12, 0.12, 0.12)),
    (3, "seams", (0.47, 0.98, 1.88, 0.11, 2.32), (0.23, 0.39, 0.23, 0.48, 0.23)),
    (4, "", (0.00, 0.00, 0.00, 0.00, 0.00), (0.12, 0.12, 0.12, 0.12, 0.12)),
)
"""Visual quality, artefact, and mean and standard deviation of its features over 40 scenes at 56 pixels.

Slight blocks are finer than a pixel there.
"""
