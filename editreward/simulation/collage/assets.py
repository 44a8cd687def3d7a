"""What the collage world draws: names, drawings, photographs; read from `collage.zip` when they are needed."""

import io
import json
import zipfile
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from PIL import Image

ASSETS = Path(__file__).parents[1] / "collage.zip"
"""Made by `research/collage/assets.py`. LICENCES.md in it says who drew and took what, under which licences."""

STYLES: tuple[str, ...] = ("noto", "fluent", "fluent-3d", "twemoji")
HELD_OUT_STYLE = "twemoji"
"""No train or validation group is drawn in it."""

SPRITE = 96
"""Side, in pixels, of a drawing in the file."""
COLUMNS = 20
"""Drawings in a row of a style's picture."""

HELD_OUT_NAMES = 0.1
HELD_OUT_PHOTOGRAPHS = 1 / 3
"""Shares of what no train or validation group shows; of photographs in every subject."""


@dataclass(frozen=True)
class Name:
    """A thing that is drawn.

    Args:
        name, chinese: what it is called.
        index: number of its drawing in every style.
        kind: the sort of thing, such as "animal".
        cluster: things of one cluster might be taken for each other; they never occur in one group.
        avoid: colours in which it would look much like in its own.
        held_out: whether only the test split shows it.
    """

    name: str
    chinese: str
    index: int
    kind: str
    cluster: str
    avoid: tuple[str, ...]
    held_out: bool


@dataclass(frozen=True)
class Photograph:
    """A photograph.

    Args:
        index: its number.
        subject, details: what it shows, of `SUBJECTS`, and more precisely.
        weak: effects that would hardly be seen on it.
        held_out: whether only the test split shows it.
    """

    index: int
    subject: str
    details: str
    weak: tuple[str, ...]
    held_out: bool


def _archive() -> zipfile.ZipFile:
    if not ASSETS.exists():
        raise FileNotFoundError(
            f"The collage world needs {ASSETS.name} in {ASSETS.parent}, which is not there: install the package from "
            "a wheel, or make it with `python -m research.collage.assets`."
        )
    return zipfile.ZipFile(ASSETS)


def _first(share: float, names: list[str]) -> set[str]:
    """About this share of the names, chosen by their hashes."""
    return set(sorted(names, key=lambda name: sha256(name.encode()).digest())[: round(share * len(names))])


@cache
def names() -> dict[str, Name]:
    """All things that are drawn, by English name."""
    with _archive() as archive:
        rows = json.loads(archive.read("names.json"))
    held_out = _first(HELD_OUT_NAMES, [row["name"] for row in rows])
    return {
        row["name"]: Name(
            row["name"], row["zh"], index, row["kind"], row["cluster"], tuple(row["avoid"]), row["name"] in held_out
        )
        for index, row in enumerate(rows)
    }


@cache
def labels() -> dict[str, dict[str, str]]:
    """What every thing is called in other languages: English name to language code to CLDR's label."""
    with _archive() as archive:
        return {row["name"]: row["labels"] for row in json.loads(archive.read("names.json"))}


@cache
def photographs() -> tuple[Photograph, ...]:
    """All photographs."""
    with _archive() as archive:
        rows = json.loads(archive.read("photographs.json"))
    subjects: dict[str, list[str]] = {}
    for index, row in enumerate(rows):
        subjects.setdefault(row["kind"], []).append(str(index))
    held_out = set().union(*(_first(HELD_OUT_PHOTOGRAPHS, numbers) for numbers in subjects.values()))
    return tuple(
        Photograph(index, row["kind"], row["subject"], tuple(row["weak"]), str(index) in held_out)
        for index, row in enumerate(rows)
    )


@cache
def photograph(index: int) -> Image.Image:
    """A photograph, RGB. Cached: copy it before drawing on it."""
    with _archive() as archive:
        return Image.open(io.BytesIO(archive.read(f"photographs/{index:03d}.webp"))).convert("RGB")


@cache
def _style(style: str) -> Image.Image:
    with _archive() as archive:
        return Image.open(io.BytesIO(archive.read(f"drawings/{style}.webp"))).convert("RGBA")


@cache
def drawing(name: str, style: str) -> Image.Image:
    """A drawing, RGBA, `SPRITE` x `SPRITE`, standing on the lower edge. Cached."""
    index = names()[name].index
    left, top = index % COLUMNS * SPRITE, index // COLUMNS * SPRITE
    return _style(style).crop((left, top, left + SPRITE, top + SPRITE))
