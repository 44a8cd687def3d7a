"""Edit groups: sources, instructions, and edits whose two grades are drawn, then carried out."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from PIL import Image

from research.open_edits.assets import Assets, Thing
from research.open_edits.following import CATEGORIES, Draft, Task, categories
from research.open_edits.quality import flawed
from research.open_edits.scenes import Painter, Pixels

FOLLOWING, QUALITY = "instruction_following", "visual_quality"
FEWEST, MOST = 4, 7
"""Candidates of a group."""
ORIGIN = "open-edits"


@dataclass(frozen=True)
class OpenGroup:
    """A group: its row of the dataset schema, and what only the benchmark knows.

    Attributes:
        row: with PNG files.
        about: a line of `edits.jsonl`.
        pixels: hash of each image's pixels, the source's first.
    """

    row: dict[str, Any]
    about: dict[str, Any]
    pixels: list[str]


def png(pixels: Pixels) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def of_kinds(things: list[Thing], number: int, rng: np.random.Generator) -> list[Thing]:
    """Things of different kinds."""
    found: dict[str, Thing] = {}
    for index in rng.permutation(len(things)):
        found.setdefault(things[index].kind, things[index])
        if len(found) == number:
            break
    return list(found.values())


def make_task(painter: Painter, number: int, category: str, seed: int) -> tuple[Task, np.random.Generator]:
    """The source and the instruction of a group."""
    rng = np.random.default_rng((seed, number))
    assets = painter.assets
    photographs = list(assets.photographs)
    photograph = photographs[int(rng.integers(len(photographs)))]
    language = "zh" if rng.random() < 1 / 3 else "en"
    draft = Draft(painter, language, rng, photograph, of_kinds(list(assets.cutouts), 6, rng))
    return CATEGORIES[category][0](draft), rng


def make_group(painter: Painter, number: int, category: str, seed: int) -> OpenGroup:
    """A group.

    Args:
        painter: has the assets.
        number: of the group.
        category: of the edit, of `CATEGORIES`.
        seed: of all groups.
    """
    task, rng = make_task(painter, number, category, seed)
    size = int(rng.integers(FEWEST, MOST + 1))
    grades = [(following, quality) for following in range(1, 5) for quality in range(1, 5)]
    drawn = [grades[index] for index in rng.permutation(len(grades))[:size]]
    candidates, edits, images = [], [], [task.source_image]
    seen = set()
    for following, quality in drawn:
        edit = task.make(following, rng)
        grade = min(quality, edit.cap)
        if grade < 4 and grade == edit.cap:
            image, flaw = edit.image, "clean"
        else:
            image, flaw = flawed(edit, grade, category, rng)
        digest = sha256(image.tobytes()).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        images.append(image)
        scores = {FOLLOWING: following, QUALITY: grade}
        candidates.append({"image": {"bytes": png(image)}, "editor": edit.tool, "scores": scores})
        edits.append({"tool": edit.tool, "done": edit.done, "flaw": flaw, **scores})
    name = f"open-edits-{number:03d}"
    row = {
        "group_id": name,
        "origin": ORIGIN,
        "category": category,
        "instruction": task.instruction,
        "language": task.language,
        "source_images": [{"bytes": png(task.source_image)}],
        "candidates": candidates,
    }
    known = "no object" if not task.names else "known" if all(thing.known for thing in task.names) else "new"
    about = {
        "group_id": name,
        "names": known,
        "objects": [thing.name for thing in task.names],
        "photograph": task.source.photograph.file,
        "edits": edits,
    }
    pixels = [sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest() for image in images]
    return OpenGroup(row, about, pixels)


def make_groups(assets: Assets, count: int, seed: int = 0) -> Iterator[OpenGroup]:
    """Groups, categories mixed: any first ones have about the same shares of each."""
    painter = Painter(assets)
    for number, category in zip(range(count), categories(), strict=False):
        yield make_group(painter, number, category, seed)


def labels_of(group: OpenGroup) -> str:
    """All of a group but the pixels."""
    row = {name: group.row[name] for name in ("group_id", "category", "instruction", "language")}
    return json.dumps([row, group.about], sort_keys=True, ensure_ascii=False)
