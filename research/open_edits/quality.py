"""What makes an edit look bad: flaws of visual quality, made by ordinary tools, and the grade that each costs.

A flaw returns pixels, or None where it does not apply to the edit, or does not give the grade that is wanted: what
inpainting, seamless cloning and cut-outs are worth is measured against the perfect edit, which is known.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.restoration import inpaint_biharmonic

from research.open_edits.effects import clipped
from research.open_edits.scenes import Layer, Pixels, differs, float32, to_lab, uint8

Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Edit:
    """An edit before flaws.

    Attributes:
        score: of instruction following.
        done: in words.
        tool: what made it.
        image: how it looks without flaws.
        source: the image that was edited.
        under, layer: what was put in and what lies under it, where one thing was put in.
        hole: from where something was taken away, shape (height, width).
        things: where things stand in front of a background that was exchanged, shape (height, width).
        cap: the highest visual quality that it can have.
    """

    score: int
    done: str
    tool: str
    image: Pixels
    source: Pixels
    under: Pixels | None = None
    layer: Layer | None = None
    hole: Mask | None = None
    things: Mask | None = None
    cap: int = 4


Flaw: TypeAlias = Callable[[Edit, int, np.random.Generator], Pixels | None]
"""From an edit, the wanted grade and a generator to pixels."""

BLEED = {3: (4.0, 10.0), 2: (10.0, 22.0), 1: (22.0, 200.0)}
"""Seamless cloning: range of the mean Lab distance of the object from itself, by grade."""
SMEAR = {4: (0.0, 2.5), 3: (2.5, 7.0), 2: (7.0, 15.0), 1: (15.0, 200.0)}
"""Inpainting: range of the mean Lab distance of the hole from what is behind it, by grade."""
MISSED = {3: (0.03, 0.12), 2: (0.12, 0.45), 1: (0.45, 99.0)}
"""Cut-outs by GrabCut: range of the wrongly cut area, in areas of the things, by grade."""


def distance(first: Pixels, second: Pixels, mask: Mask) -> float:
    """Mean Lab distance in a mask."""
    one, other = (to_lab(float32(image[mask])[None]) for image in (first, second))
    return float(np.linalg.norm(one - other, axis=-1).mean())


def region(edit: Edit) -> Mask:
    """Where the edit is, with a margin; the middle of the image where nothing was changed."""
    changed = differs(edit.image, edit.source, 12)
    if changed.mean() < 0.004:
        changed = np.zeros_like(changed)
        height, width = changed.shape
        changed[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    return np.asarray(cv2.dilate(uint8(changed), np.ones((9, 9), np.uint8)) > 0)


def _within(edit: Edit, changed: Pixels, margin: float = 3.0) -> Pixels:
    """Changed pixels in the edited region, softly."""
    weight = cv2.GaussianBlur(float32(region(edit)), (0, 0), margin)[..., None]
    return clipped(changed * weight + edit.image * (1 - weight))


def hard_matte(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """A cut-out with a rim of the paper that it lay on."""
    if edit.layer is None or grade == 1:
        return None
    wide = {3: 3, 2: 9}[grade]
    solid = uint8(edit.layer[..., 3] > 0.4)
    rim = cv2.dilate(solid, np.ones((wide, wide), np.uint8)) > 0
    paper = np.where(edit.layer[..., 3:] > 0.4, edit.layer[..., :3], rng.choice([250.0, 25.0]))
    return uint8(np.where(rim[..., None], clipped(paper), edit.image))


def box(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """The rectangle around the object has another brightness."""
    rows, columns = np.nonzero(region(edit) if edit.layer is None else edit.layer[..., 3] > 0.4)
    if not len(rows) or grade == 1:
        return None
    made = float32(edit.image)
    inner = np.s_[max(0, rows.min() - 5) : rows.max() + 6, max(0, columns.min() - 5) : columns.max() + 6]
    made[inner] += rng.choice([-1, 1]) * {3: 16, 2: 50}[grade]
    return clipped(made)


def glow(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """A bright halo around the object."""
    if edit.layer is None or grade == 1:
        return None
    solid = float32(edit.layer[..., 3] > 0.4)
    around = cv2.GaussianBlur(cv2.dilate(solid, np.ones((5, 5), np.uint8)), (0, 0), 4) * (1 - edit.layer[..., 3])
    return clipped(edit.image + {3: 55, 2: 150}[grade] * around[..., None])


def seamless(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """OpenCV's seamless cloning, whose object takes on colours of the background."""
    if edit.layer is None or edit.under is None or grade == 4:
        return None
    solid = edit.layer[..., 3] > 0.5
    rows, columns = np.nonzero(solid)
    height, width = solid.shape
    if not len(rows) or rows.min() < 4 or columns.min() < 4 or rows.max() > height - 5 or columns.max() > width - 5:
        return None
    mask = uint8(cv2.dilate(uint8(solid), np.ones((5, 5), np.uint8)) * 255)
    mean = edit.layer[solid][:, :3].mean(0)
    patch = clipped(np.where(edit.layer[..., 3:] > 0.1, edit.layer[..., :3], mean))
    wide = np.nonzero(mask)
    middle = (int(wide[1].min() + wide[1].max() + 1) // 2, int(wide[0].min() + wide[0].max() + 1) // 2)
    kind = cv2.MIXED_CLONE if grade == 1 else cv2.NORMAL_CLONE
    made = np.asarray(cv2.seamlessClone(patch, edit.under, mask, middle, kind), dtype=np.uint8)
    low, high = BLEED[grade]
    return made if low <= distance(made, edit.image, solid) < high else None


def inpainted(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """The hole that an object leaves, filled from its edge by OpenCV or scikit-image."""
    if edit.hole is None or not edit.hole.any():
        return None
    hole = cv2.dilate(uint8(edit.hole), np.ones((7, 7), np.uint8))
    shows = np.where(hole[..., None] > 0, edit.source, edit.image)
    method = rng.integers(3)
    if method == 2:
        made = clipped(255 * inpaint_biharmonic(shows / 255.0, hole > 0, channel_axis=2, split_into_regions=False))
    else:
        made = np.asarray(cv2.inpaint(shows, hole, 5, (cv2.INPAINT_TELEA, cv2.INPAINT_NS)[method]), dtype=np.uint8)
    low, high = SMEAR[grade]
    return made if low <= distance(made, edit.image, hole > 0) < high else None


def cut_out(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """The things in front of a new background, as OpenCV's GrabCut finds them in the source."""
    if edit.things is None:
        return None
    near = cv2.dilate(uint8(edit.things), np.ones((25, 25), np.uint8)) > 0
    sure = cv2.erode(uint8(edit.things), np.ones((9, 9), np.uint8)) > 0
    mask = np.where(sure, cv2.GC_FGD, np.where(near, cv2.GC_PR_FGD, cv2.GC_BGD)).astype(np.uint8)
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    found, *_ = cv2.grabCut(edit.source, mask, None, *models, 3, cv2.GC_INIT_WITH_MASK)
    kept = (found == cv2.GC_FGD) | (found == cv2.GC_PR_FGD)
    low, high = MISSED[grade]
    if not low <= (kept ^ edit.things).sum() / max(1, edit.things.sum()) < high:
        return None
    background = cv2.inpaint(edit.image, uint8(edit.things & ~kept), 3, cv2.INPAINT_TELEA)
    return uint8(np.where(kept[..., None], edit.source, background))


def region_blur(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """What was edited is out of focus."""
    return _within(edit, np.asarray(cv2.GaussianBlur(edit.image, (0, 0), {3: 1.5, 2: 3.2, 1: 6.5}[grade])))


def region_blocks(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """What was edited consists of blocks."""
    side = {3: 2.6, 2: 5, 1: 9}[grade]
    height, width = edit.image.shape[:2]
    small = cv2.resize(edit.image, (round(width / side), round(height / side)), interpolation=cv2.INTER_AREA)
    return _within(edit, np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)), 0.7)


def jpeg(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """The whole image after strong compression."""
    buffer = io.BytesIO()
    image = Image.fromarray(edit.image)
    if grade == 1:
        image = image.resize((image.width // 2, image.height // 2))
    image.save(buffer, "JPEG", quality={3: 18, 2: 7, 1: 6}[grade])
    opened = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
    return np.asarray(opened.resize((edit.image.shape[1], edit.image.shape[0])))


def grain(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """Noise."""
    return clipped(edit.image + rng.normal(0, {3: 12, 2: 30, 1: 75}[grade], edit.image.shape))


def oversharpened(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """Dark and bright lines along all edges."""
    if grade == 1:
        return None
    image = float32(edit.image)
    return clipped(image + {3: 1.6, 2: 5.0}[grade] * (image - cv2.GaussianBlur(image, (0, 0), 2.0)))


def posterised(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """Few colours, in bands."""
    if grade == 3:
        return None
    levels = {2: 4, 1: 2}[grade]
    return clipped(np.round(float32(edit.image) / 255 * (levels - 1)) / (levels - 1) * 255)


def double(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """The whole image seen double."""
    share, shift = {3: (0.14, 5), 2: (0.32, 9), 1: (0.5, 22)}[grade]
    moved = np.roll(edit.image, (shift // 2, shift), axis=(0, 1))
    return clipped(edit.image * (1 - share) + moved * share)


def torn(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """Strips are displaced: a few pixels, or the whole image in pieces."""
    made = edit.image.copy()
    height = made.shape[0]
    tall, shift = {3: (height // 7, 3), 2: (height // 10, 10), 1: (height // 18, 45)}[grade]
    for number, top in enumerate(range(0, height, tall)):
        if number % 2 or grade == 1:
            move = int(rng.integers(shift // 2 + 1, shift + 1)) * (1 if rng.random() < 0.5 else -1)
            made[top : top + tall] = np.roll(made[top : top + tall], move, axis=1)
    return made


def smeared(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """Motion blur of everything."""
    long = {3: 5, 2: 13, 1: 41}[grade]
    kernel = np.zeros((long, long), np.float32)
    kernel[long // 2] = 1 / long
    turned = cv2.warpAffine(
        kernel, cv2.getRotationMatrix2D((long // 2, long // 2), float(rng.integers(180)), 1.0), (long, long)
    )
    return clipped(cv2.filter2D(edit.image, -1, turned / turned.sum()))


def leak(edit: Edit, grade: int, rng: np.random.Generator) -> Pixels | None:
    """A coloured light from one side."""
    height, width = edit.image.shape[:2]
    colour = float32([[250, 60, 190], [60, 250, 110], [250, 150, 20]][int(rng.integers(3))])
    ramp = np.linspace(1, 0, width, dtype=np.float32)[None, :, None] ** 1.2
    if rng.random() < 0.5:
        ramp = ramp[:, ::-1]
    weight = {3: 0.28, 2: 0.6, 1: 0.97}[grade] * ramp
    return clipped(edit.image * (1 - weight) + colour * weight)


OF_THE_EDIT: dict[str, Flaw] = {
    "a rim of paper": hard_matte,
    "a box of another brightness": box,
    "a halo": glow,
    "seamless cloning": seamless,
    "inpainting": inpainted,
    "cut out by GrabCut": cut_out,
    "the edited region is blurred": region_blur,
    "the edited region is blocky": region_blocks,
}
OF_THE_IMAGE: dict[str, Flaw] = {
    "JPEG": jpeg,
    "noise": grain,
    "oversharpened": oversharpened,
    "posterised": posterised,
    "seen double": double,
    "torn": torn,
    "motion blur": smeared,
    "a coloured light": leak,
}
FIRST = ("seamless cloning", "inpainting", "cut out by GrabCut")
"""Tried before others: what ordinary tools do to the edit."""
CONFUSING = {
    "colour": ("posterised", "a coloured light"),
    "tone": ("posterised", "a coloured light", "the edited region is blocky"),
    "style": ("posterised", "a coloured light", "the edited region is blocky", "oversharpened"),
    "restore": ("posterised", "noise", "motion blur", "the edited region is blurred", "the edited region is blocky"),
}
"""Flaws that say something about whether the instruction was followed, by category: not used there."""


def flawed(edit: Edit, grade: int, category: str, rng: np.random.Generator) -> tuple[Pixels, str]:
    """An edit with the wanted grade of visual quality: its pixels and what was done.

    Args:
        edit: before flaws.
        grade: 1 to 4; 4 is without flaws, but inpainting that is as good as perfect is taken in the place of it.
        category: of the group.
        rng: decides: half of the flaws are of the edit, half of the whole image.

    Raises:
        RuntimeError: no flaw gives the grade.
    """
    if grade == 4:
        filled = inpainted(edit, 4, rng)
        return (edit.image, "clean") if filled is None else (filled, "inpainting")
    flaws = {**OF_THE_EDIT, **OF_THE_IMAGE}
    names = [list(flaws)[number] for number in rng.permutation(len(flaws))]
    preferred = OF_THE_EDIT if rng.random() < 0.5 else OF_THE_IMAGE
    for name in sorted(names, key=lambda name: (name not in preferred, name not in FIRST)):
        made = None if name in CONFUSING.get(category, ()) else flaws[name](edit, grade, rng)
        if made is not None:
            return made, name
    raise RuntimeError(f"no flaw gives {grade}: {edit.done}")
