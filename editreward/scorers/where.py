"""Where something speaks against an edit, for any scorer: what its score gains when a part of the edit is taken back.

Reward models have more direct ways (`editreward/scorers/where_model.py`).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from editreward.groups import EditGroup, GroupScores, Scorer, Unscored
from editreward.groups.where import Map, Where
from images_editreward import load_image

OVERALL = "overall"
PATCHES = 6
"""Patches along a side of an edited image, of which each is taken back in turn."""
GREY = (128, 128, 128)


def where(scorer: Scorer, group: EditGroup, patches: int = PATCHES) -> list[Where]:
    """For each candidate and dimension a map of what speaks against it, by the scorer's own means if it has some.

    Args:
        scorer: any scorer. One with a method `where_group` is asked; for any other every edit is scored again with
            each patch taken back, which costs patches x patches further edits for each one.
        group: the group.
        patches: along a side of an image.

    Returns:
        A [`Where`] for each candidate, in the order given.

    Raises:
        ValueError: the group or one of its images cannot be scored.
    """
    if group.fault:
        raise ValueError(group.fault)
    own = getattr(scorer, "where_group", None)
    found: list[Where] = occlusion(scorer, group, patches) if own is None else own(group)
    return found


def occlusion(scorer: Scorer, group: EditGroup, patches: int = PATCHES) -> list[Where]:
    """Maps of what the scores gain when a patch of the edit is replaced by the source's, or with several by grey.

    A patch that follows the instruction loses score when it is taken back, one that harms gains. What is missing in an
    edit cannot be found so. Arguments, result and errors as for [`where`].
    """
    source = load_image(group.sources[0], "source") if len(group.sources) == 1 else None
    edited = [load_image(image, f"edited[{index}]") for index, image in enumerate(group.edited)]
    groups = [
        EditGroup(group.sources, group.instruction, [image, *_taken_back(image, source, patches)]) for image in edited
    ]
    gains = [_gains(scores, patches) for scores in scorer(groups)]
    names = tuple(gains[0])
    highest = {name: max(max(float(of[name].max()), 0.0) for of in gains) for name in names}
    return [
        Where(
            image,
            {name: enlarged(np.clip(of[name], 0, None) / (highest[name] or 1.0), image.size) for name in names},
            method="occlusion",
        )
        for image, of in zip(edited, gains, strict=True)
    ]


def _taken_back(image: Image.Image, source: Image.Image | None, patches: int) -> list[Image.Image]:
    """Copies of an edited image, in each another patch as in the source, row by row."""
    before = Image.new("RGB", image.size, GREY) if source is None else source.resize(image.size)
    columns, rows = (np.linspace(0, side, patches + 1).astype(int).tolist() for side in image.size)
    copies = []
    for top, bottom in zip(rows[:-1], rows[1:], strict=True):
        for left, right in zip(columns[:-1], columns[1:], strict=True):
            copy = image.copy()
            copy.paste(before.crop((left, top, right, bottom)), (left, top))
            copies.append(copy)
    return copies


def _gains(scores: GroupScores | Unscored, patches: int) -> dict[str, NDArray[np.float32]]:
    """By dimension, what the first candidate's score gains with each patch, (patches, patches)."""
    if isinstance(scores, Unscored):
        raise ValueError(scores.reason)
    for unscored in scores.unscored.values():
        raise ValueError(unscored.reason)
    first = scores.scores[0]
    names = tuple(first.dimensions) or (OVERALL,)
    values = np.array(
        [
            [one.dimensions[name].mean if name in one.dimensions else one.reward for name in names]
            for one in scores.scores
        ]
    )
    gains = (values[1:] - values[0]).reshape(patches, patches, len(names)).astype(np.float32)
    return {name: gains[..., index] for index, name in enumerate(names)}


def enlarged(cells: NDArray[np.float32], size: tuple[int, int]) -> Map:
    """Values of a grid over an image of (width, height), bilinear between the middles of its cells."""
    smooth = Image.fromarray(np.ascontiguousarray(cells, dtype=np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.clip(np.asarray(smooth, dtype=np.float32), 0, 1)
