"""Does a scorer know where an edit is wrong? Its maps on simulated edits, whose faults are known to the pixel."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from editreward.groups import EditGroup
from editreward.groups.where import BOX_THRESHOLD, Map, Where
from editreward.simulation import SimulatedGroup, render_scene, simulate_group
from editreward.simulation.grounding import PIXEL_THRESHOLD, requested_scene
from editreward.statistics import Share, share_of_rows, shares_by

Mask: TypeAlias = NDArray[np.bool_]
Mapper: TypeAlias = Callable[[SimulatedGroup], Sequence[Mapping[str, Map]]]
"""From a group to a map by dimension of each of its candidates."""

ALL = "all"
FOLLOWING, QUALITY = "instruction_following", "visual_quality"
TOLERANCE = 0.03
"""Of the side: a point this near to a place is on it (15 pixels of 500, as in Zhang et al., 2018)."""
MOST_OF_THE_IMAGE = 0.5
"""A fault that covers more of the image is nowhere in particular."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one edit, and where.

    Attributes:
        group, candidate: which.
        dimension: that it lowers.
        kind: for reports.
        mask: (height, width), where it is.
    """

    group: SimulatedGroup
    candidate: int
    dimension: str
    kind: str
    mask: Mask


def faults_of(group: SimulatedGroup) -> Iterator[Fault]:
    """All faults of a group's edits that are somewhere in particular.

    Instruction following: where the edited scene differs from the requested one. Visual quality: where the image
    differs from its scene as it was before the artefact.
    """
    size = group.source.width
    for index, candidate in enumerate(group.candidates):
        clean = render_scene(candidate.scene, size)
        requested = render_scene(requested_scene(group.task, candidate.scene), size)
        masks = []
        if candidate.scores[FOLLOWING] < 4:
            masks.append((FOLLOWING, group.category, differing(clean, requested)))
        if candidate.artefact:
            masks.append((QUALITY, candidate.artefact, differing(candidate.image, clean)))
        for dimension, kind, mask in masks:
            if 0 < mask.mean() <= MOST_OF_THE_IMAGE:
                yield Fault(group, index, dimension, kind, mask)


def differing(first: Image.Image, second: Image.Image) -> Mask:
    """Where two images of one size differ visibly."""
    a, b = np.asarray(first, dtype=np.int16), np.asarray(second, dtype=np.int16)
    return np.asarray((np.abs(a - b) > PIXEL_THRESHOLD).any(-1))


def points_at(values: Map, mask: Mask) -> bool:
    """Whether the highest value of a map, of equal ones the middle one, is on a mask or near to it."""
    rows, columns = np.nonzero(values >= values.max())
    row, column = rows[len(rows) // 2], columns[len(columns) // 2]
    there = np.argwhere(mask)
    near = TOLERANCE * max(mask.shape)
    return bool((((there - (row, column)) ** 2).sum(-1) <= near**2).any())


def overlap(values: Map, mask: Mask) -> float:
    """Intersection over union of a mask and of where a map reaches half of its highest value."""
    high = float(values.max())
    found = values >= BOX_THRESHOLD * high if high > 0 else np.zeros_like(mask)
    return float((found & mask).sum() / (found | mask).sum())


def by_random(group: SimulatedGroup) -> list[dict[str, Map]]:
    """Baseline: values of no meaning, smooth ones."""
    rng = np.random.default_rng(Random(group.group_id).getrandbits(32))
    size = group.source.size
    made = [rng.random((4, 4), dtype=np.float32) for _ in group.candidates]
    maps = [np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BILINEAR)) for cells in made]
    return [{FOLLOWING: values, QUALITY: values} for values in maps]


def by_centre(group: SimulatedGroup) -> list[dict[str, Map]]:
    """Baseline: the nearer to the middle the higher."""
    rows, columns = np.indices(group.source.size[::-1], dtype=np.float32)
    middle = [(side - 1) / 2 for side in rows.shape]
    values = 1 - np.hypot((rows - middle[0]) / rows.shape[0], (columns - middle[1]) / rows.shape[1])
    return [{FOLLOWING: values, QUALITY: values} for _ in group.candidates]


def by_difference(group: SimulatedGroup) -> list[dict[str, Map]]:
    """Baseline: by how much a pixel differs from the source's, the greatest difference of its channels."""
    source = np.asarray(group.source, dtype=np.float32)
    maps = [np.abs(np.asarray(c.image, dtype=np.float32) - source).max(-1) / 255 for c in group.candidates]
    return [{FOLLOWING: values, QUALITY: values} for values in maps]


BASELINES: dict[str, Mapper] = {
    "random map": by_random,
    "the centre": by_centre,
    "difference of images": by_difference,
}


def by_scorer(where: Callable[[EditGroup], Sequence[Where]]) -> Mapper:
    """From what shows a scorer's maps of a group."""

    def mapper(group: SimulatedGroup) -> list[Mapping[str, Map]]:
        edited = [candidate.image for candidate in group.candidates]
        return [found.maps for found in where(EditGroup([group.source], group.instruction, edited))]

    return mapper


@dataclass(frozen=True)
class Pointing:
    """How well maps show faults.

    Attributes:
        points: by kind of fault ("all" first), the share of faults that the map's highest value is on.
        overlaps: by kind, the mean intersection over union.
    """

    points: Mapping[str, Share]
    overlaps: Mapping[str, float]


def pointing(faults: Sequence[Fault], maps: Mapping[str, Sequence[Mapping[str, Map]]], dimension: str) -> Pointing:
    """The pointing game and the overlap in one dimension.

    Args:
        faults: of any groups.
        maps: by group id, of each candidate by dimension.
        dimension: whose faults and maps.
    """
    chosen = [fault for fault in faults if fault.dimension == dimension]
    found = [maps[fault.group.group_id][fault.candidate][dimension] for fault in chosen]
    hits = [points_at(values, fault.mask) for values, fault in zip(found, chosen, strict=True)]
    shares = [overlap(values, fault.mask) for values, fault in zip(found, chosen, strict=True)]
    kinds, groups = [fault.kind for fault in chosen], [fault.group.group_id for fault in chosen]
    means = {kind: np.mean([share for share, of in zip(shares, kinds, strict=True) if of == kind]) for kind in kinds}
    return Pointing(
        {ALL: share_of_rows(hits, groups), **{str(kind): one for kind, one in shares_by(hits, kinds, groups).items()}},
        {ALL: float(np.mean(shares)), **{kind: float(mean) for kind, mean in means.items()}},
    )


def pointing_groups(number: int, start: int = 0, candidates: int = 4, world: str = "shapes") -> list[SimulatedGroup]:
    """Groups of the test split to point at, half of whose edits are near misses, most of these without artefacts."""
    seeds = range(start, start + number)
    return [simulate_group(seed, "test", candidates, near_misses=0.5, world=world) for seed in seeds]


def pointing_table(results: Mapping[str, Pointing]) -> str:
    """Results by what made the maps, as Markdown: the pointing game, and the overlap in brackets."""
    names = list(results)
    lines = [f"| fault | n | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for kind, share in next(iter(results.values())).points.items():
        cells = [f"{100 * r.points[kind].value:.0f} % ({100 * r.overlaps[kind]:.0f} %)" for r in results.values()]
        lines.append(f"| {kind} | {share.total} | {' | '.join(cells)} |")
    return "\n".join(lines)
