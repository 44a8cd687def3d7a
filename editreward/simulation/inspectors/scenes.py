"""The inspector that explains an image: by which scene, of those that deserve some score, and by which artefact.

It draws scenes of every fault that the task can have, takes the one that is nearest to the image, then looks for
objects that no scene explains, and at last for the artefact that explains the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image

from editreward.simulation.artefacts import apply_artefact
from editreward.simulation.edits import (
    ANY_FLAW,
    FAILURES,
    OWN_FLAWS,
    EditTask,
    Realisation,
    perfect,
    unrelated,
)
from editreward.simulation.inspectors.grades import Grades, check_world
from editreward.simulation.rendering import sprite
from editreward.simulation.world import COLOURS, SIZES, Scene, SceneObject
from editreward.simulation.worlds import render_scene

SIDE = 56
"""Images are compared at this side,"""
DRAWN = 112
"""scenes are drawn at this one and reduced."""

DRAWS = 14
"""Seeds of a fault."""
REFINED = 4
"""Nearest scenes whose objects are moved to where they fit best, before one of them is taken."""
LARGE_ERROR = 60.0
"""Errors beyond count no more: one odd spot must not decide."""
PRESENT = 0.5
"""Share of an object's own energy by which it must explain the image."""
DONE, HALF_DONE = 0.5, 0.2
"""Share of the change that the image must show to be right, or partly so."""


@dataclass(frozen=True)
class Inspection(Grades):
    """What this inspector found.

    Attributes:
        fault: of the scene in a few words, "none" where nothing is wrong.
        artefact: what damaged the image, None where nothing did.
        explained: share of the squared difference between source and explaining scene that the image shows, at most 1;
            1 where these are the same.
    """

    fault: str
    artefact: str | None
    explained: float


@dataclass(frozen=True)
class Hypothesis:
    """A scene and what it deserves."""

    score: int
    fault: str
    scene: Scene


def inspect(task: EditTask, image: Image.Image) -> Inspection:
    """Grade an edit of a task.

    Args:
        task: what was asked for.
        image: RGB, square; of any side, best 56 or a multiple.

    Raises:
        ValueError: the task is of another world than that of shapes.
    """
    check_world(task)
    pixels = reduced(image)
    known = hypotheses(task)
    errors = _fits(task).errors(_smooth(pixels))
    nearest = [known[place] for place in errors.argsort()[:REFINED]]
    refined = [_refined(one.scene, task, pixels) for one in nearest]
    choice = min(range(len(nearest)), key=lambda place: (round(refined[place][1], 3), -nearest[place].score))
    best = replace(nearest[choice], scene=refined[choice][0])
    score, fault = best.score, best.fault
    drawn = drawing(best.scene)
    stray = _stray(best.scene, pixels, drawn)
    if stray is not None:
        score, fault = min(score, 3), fault if score < 4 else "extra object"
        drawn = drawing(replace(best.scene, objects=(*best.scene.objects, stray)))
    explained = _explained(pixels, drawing(task.source), drawn)
    if score == 4 and explained < DONE:
        score, fault = (3, "unclear") if explained >= HALF_DONE else (2, "unclear")
    quality, artefact = _quality(np.asarray(image.convert("RGB"), dtype=np.float32), best.scene, stray)
    return Inspection(score, quality, fault, artefact, explained)


def reduced(image: Image.Image) -> np.ndarray:
    """The image at `SIDE`, float32 of 0..255, (side, side, 3)."""
    small = image.convert("RGB")
    if small.size != (SIDE, SIDE):
        small = small.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


@lru_cache(maxsize=4096)
def drawing(scene: Scene) -> np.ndarray:
    """The scene like `reduced` of an image of it."""
    return np.asarray(render_scene(scene, DRAWN).reduce(DRAWN // SIDE), dtype=np.float32)


# Scenes


def _faults(category: str) -> Iterator[tuple[int, str, Realisation, int]]:
    yield 4, "none", perfect, 1
    for score, faults in ((3, (*OWN_FLAWS[category], *ANY_FLAW)), (2, FAILURES[category])):
        for name, realisation in faults:
            yield score, name, realisation, DRAWS
    yield 1, "unrelated", unrelated, 2 * DRAWS


@lru_cache(maxsize=64)
def hypotheses(task: EditTask) -> list[Hypothesis]:
    """Scenes of the task's faults, no two that look the same, with the score that the first of them has."""
    found = {task.source.signature(): Hypothesis(1, "ignored", task.source)}
    for score, name, realisation, draws in _faults(task.category):
        for seed in range(draws):
            scene = realisation(task, Random(seed))
            if scene is not None:
                found.setdefault(scene.signature(), Hypothesis(score, name, scene))
    return list(found.values())


@lru_cache(maxsize=8)
def _fits(task: EditTask) -> "_Fits":
    return _Fits(np.stack([_smooth(drawing(one.scene)) for one in hypotheses(task)]))


def _smooth(pixels: np.ndarray) -> np.ndarray:
    """Means of 3 x 3 pixels."""
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


class _Fits:
    """Drawings, to be compared with images after the fit of a tint.

    A tint that rises over the image makes of a colour c the colour c (1 - a) + t a with a linear: a least-squares fit
    of 1, x, y, c, c x and c y to each channel.

    Args:
        drawings: (drawings, side, side, 3).
    """

    def __init__(self, drawings: np.ndarray) -> None:
        flat = drawings.reshape(len(drawings), -1, 3).transpose(0, 2, 1)[..., None] / 128 - 1
        basis = _plane()
        self.columns = np.concatenate([np.broadcast_to(basis, (*flat.shape[:3], 3)), flat * basis], axis=3)
        self.transposed = self.columns.transpose(0, 1, 3, 2)
        self.squares = self.transposed @ self.columns + 1e-4 * np.eye(6, dtype=np.float32)

    def weights(self, pixels: np.ndarray) -> np.ndarray:
        """Of the best fit to an image, (drawings, channels, 6, 1)."""
        found: np.ndarray = np.linalg.solve(self.squares, self.transposed @ pixels.reshape(-1, 3).T[None, ..., None])
        return found

    def errors(self, pixels: np.ndarray) -> np.ndarray:
        """Mean squared error of each drawing, large ones cut."""
        left = pixels.reshape(-1, 3).T[None, ..., None] - self.columns @ self.weights(pixels)
        return np.minimum(left**2, LARGE_ERROR**2).mean(axis=(1, 2, 3))


@lru_cache(maxsize=1)
def _plane() -> np.ndarray:
    """An orthonormal basis of linear functions over the image, (pixels, 3)."""
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
    made: np.ndarray = np.linalg.qr(np.stack([np.ones_like(x), x, y], axis=1).astype(np.float32))[0]
    return made


def _refined(scene: Scene, task: EditTask, pixels: np.ndarray) -> tuple[Scene, float]:
    """The scene with its new and moved objects where they fit best within their places, and its error."""
    before = {thing.key: (thing.x, thing.y) for thing in task.source.objects}
    smooth = _smooth(pixels)
    error = float(_Fits(_smooth(drawing(scene))[None]).errors(smooth)[0])
    for thing in scene.objects:
        if before.get(thing.key) == (thing.x, thing.y):
            continue
        for step, steps in ((1 / SIDE, 2), (1 / DRAWN, 1)):
            offsets = [step * number for number in range(-steps, steps + 1)]
            moved = [replace(thing, x=thing.x + dx, y=thing.y + dy) for dx in offsets for dy in offsets]
            scenes = [replace(scene, objects=tuple(m if o.key == m.key else o for o in scene.objects)) for m in moved]
            errors = _Fits(np.stack([_smooth(drawing(one)) for one in scenes])).errors(smooth)
            best = int(errors.argmin())
            scene, thing, error = scenes[best], moved[best], float(errors[best])
    return scene, error


def _stray(scene: Scene, pixels: np.ndarray, drawn: np.ndarray) -> SceneObject | None:
    """An object at an empty place that explains what the scene does not."""
    difference = (pixels - drawn).reshape(-1, 3)
    basis = _plane()
    flat = difference - basis @ (basis.T @ difference.clip(-LARGE_ERROR, LARGE_ERROR))
    residual = flat.reshape(pixels.shape)
    taken = {place for thing in scene.objects for place in thing.position}
    best: tuple[float, SceneObject | None] = (PRESENT, None)
    for place in set(range(9)) - taken:
        x, y = (place % 3 + 0.5) / 3, (place // 3 + 0.5) / 3
        window = _window(x, y, SIDE)
        if np.abs(residual[window]).max() < LARGE_ERROR:
            continue
        for size in ("small", "medium", "large"):
            for shape, colour in _looks():
                share = _share(residual[window], drawn[window], shape, colour, size)
                if share > best[0]:
                    best = share, SceneObject(900, colour, shape, size, x, y)
    return best[1]


def _window(x: float, y: float, side: int) -> tuple[slice, slice]:
    """About a place, as far as a large object may reach."""
    half = 12 * side // SIDE
    top, left = round(y * side) - half, round(x * side) - half
    return slice(max(top, 0), top + 2 * half), slice(max(left, 0), left + 2 * half)


@lru_cache(maxsize=1)
def _looks() -> tuple[tuple[str, str], ...]:
    """Shapes and colours to try: round, square and thin ones overlap all others enough."""
    return tuple((shape, colour) for shape in ("circle", "square", "cross") for colour in COLOURS)


def _share(residual: np.ndarray, drawn: np.ndarray, shape: str, colour: str, size: str) -> float:
    """How much of its own energy an object in the middle of a window explains, at the best of nine positions."""
    side = round(SIZES[size] * SIDE)
    colours, mask = (np.asarray(one, dtype=np.float32) for one in sprite(shape, colour, side, None, False))
    weight = mask[..., None] / 255
    best = -1.0
    height, width = residual.shape[:2]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            top, left = (height - side) // 2 + dy, (width - side) // 2 + dx
            there = slice(top, top + side), slice(left, left + side)
            change = weight * (colours - drawn[there])
            energy = float((change**2).sum())
            gained = float((residual[there] ** 2).sum() - ((residual[there] - change) ** 2).sum())
            best = max(best, gained / max(energy, 1.0))
    return best


def _explained(pixels: np.ndarray, source: np.ndarray, drawn: np.ndarray) -> float:
    """Share of the squared difference between two drawings that the image shows, all with the image's tint."""
    there = np.abs(source - drawn).max(axis=2) > 30
    if not there.any():
        return 1.0
    fit, other = _Fits(drawn[None]), _Fits(source[None])
    weights = fit.weights(pixels)
    fitted, before = ((one.columns @ weights)[0, ..., 0].T.reshape(pixels.shape) for one in (fit, other))
    change = (fitted - before)[there]
    return float(min(1.0, 1 - ((pixels - fitted)[there] ** 2).sum() / (change**2).sum()))


# Artefacts

KNOWN = ("blur", "jpeg", "blocks", "ghosting", "cast")
"""Artefacts that can be drawn again; noise and seams are told by what they leave."""
CLEAN = 0.6
"""Root mean square error, of 255, of an image without artefact."""
LOCAL = 6
"""Parts, of 64, that a scene which does not fit quite may spoil."""
NOISE_STEPS = (7.0, 18.5, 36.0)
SEAM_STEPS = (4.0, 14.0, 32.0)
OTHER_STEPS = (4.0, 12.0, 24.0)


def _quality(pixels: np.ndarray, scene: Scene, stray: SceneObject | None) -> tuple[int, str | None]:
    """Visual quality and the artefact, given the scene; where there is a stray object, nothing is looked at."""
    side = len(pixels)
    drawn = render_scene(scene, side) if side >= DRAWN else Image.fromarray(drawing(scene).astype(np.uint8))
    if side != drawn.width:
        drawn = drawn.resize((side, side), Image.Resampling.BOX)
    clean = np.array(drawn, dtype=np.float32)
    if stray is not None:
        window = _window(stray.x, stray.y, side)
        clean[window] = pixels[window]
        drawn = Image.fromarray(clean.astype(np.uint8))
    residual = pixels - clean
    error = _rms(residual)
    if error < CLEAN or _local(residual):
        return 4, None
    kind, quality, left = _redrawn(pixels, drawn)
    if left < 0.55 * error:
        return quality, kind
    grain = _grain(residual)
    if grain > NOISE_STEPS[0] and grain > 0.6 * error:
        return _step(grain, NOISE_STEPS), "noise"
    offset = _patch_offset(residual)
    if offset > SEAM_STEPS[0]:
        return _step(offset, SEAM_STEPS), "seams"
    return (_step(error, OTHER_STEPS), "other") if error > OTHER_STEPS[0] else (4, None)


def _local(residual: np.ndarray) -> bool:
    """Whether the image differs in so few parts that the scene is to blame, not damage."""
    cell = len(residual) // 8
    cells = np.square(residual[: 8 * cell, : 8 * cell]).reshape(8, cell, 8, cell, 3).mean(axis=(1, 3, 4))
    return int((cells > 4).sum()) <= LOCAL


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values.clip(-120, 120)).mean()))


def _step(value: float, steps: tuple[float, ...]) -> int:
    """4, and one less for each step that the value reaches."""
    return 4 - sum(value > step for step in steps)


def _redrawn(pixels: np.ndarray, drawn: Image.Image) -> tuple[str, int, float]:
    """The artefact that explains the image best, its quality, and the error that is left."""
    names, made = _damaged(drawn.size, drawn.tobytes())
    left = np.sqrt(np.square((pixels - made).clip(-120, 120)).mean(axis=(1, 2, 3)))
    best = int(left.argmin())
    return *names[best], float(left[best])


@lru_cache(maxsize=8)
def _damaged(size: tuple[int, int], pixels: bytes) -> tuple[list[tuple[str, int]], np.ndarray]:
    """A drawing with every artefact that can be drawn again: its kind and quality, and (drawings, *size, 3)."""
    drawn = Image.frombytes("RGB", size, pixels)
    names, made = [], []
    for kind in KNOWN:
        for quality in (3, 2, 1):
            for draws, jitter in _draws(kind):
                names.append((kind, quality))
                made.append(np.asarray(apply_artefact(drawn, kind, quality, _Fixed(draws, jitter))))
    return names, np.stack(made)


def _draws(kind: str) -> tuple[tuple[tuple[int, ...], float], ...]:
    """What the artefact draws, a direction, or a tint and a direction; and where in its interval the strength lies."""
    if kind == "ghosting":
        return tuple(((way,), jitter) for way in range(4) for jitter in (0.0, 0.5, 1.0))
    if kind == "cast":
        return tuple(((tint, way), 0.5) for tint in range(6) for way in range(4))
    if kind == "blocks":
        return tuple(((), step / 6) for step in range(7))
    return (((), 0.5),)


class _Fixed(Random):
    """Draws what it is told to."""

    def __new__(cls, draws: tuple[int, ...], jitter: float) -> "_Fixed":
        return super().__new__(cls)

    def __init__(self, draws: tuple[int, ...], jitter: float) -> None:
        super().__init__(0)
        self.draws, self.jitter = list(draws), jitter

    def uniform(self, a: float, b: float) -> float:
        """The same place of every interval."""
        return a + (b - a) * self.jitter

    def choice(self, seq):  # type: ignore[no-untyped-def]
        """The one that comes next in `draws`."""
        return seq[self.draws.pop(0)]

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """The number that comes next in `draws`."""
        return self.draws.pop(0)


def _grain(residual: np.ndarray) -> float:
    """Standard deviation of single pixels against their neighbours, in the quieter half of the image."""
    high = (
        residual[1:-1, 1:-1]
        - (residual[:-2, 1:-1] + residual[2:, 1:-1] + residual[1:-1, :-2] + residual[1:-1, 2:]) / 4
    )
    return float(np.median(np.abs(high)) * 1.4826 / np.sqrt(1.25))


def _patch_offset(residual: np.ndarray) -> float:
    """The largest offset in brightness of a patch of two fifths of the side."""
    grey = np.median(residual, axis=2)
    side = round(0.4 * len(grey))
    step = max(1, len(grey) // 28)
    patches = np.lib.stride_tricks.sliding_window_view(grey, (side, side))[::step, ::step]
    return float(np.abs(np.median(patches.reshape(-1, side * side), axis=1)).max())
