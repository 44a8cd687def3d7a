"""The worlds that edit groups are drawn in: what each can show, how it draws it, and what things are called in it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from editreward.simulation.collage import rendering as collage_rendering
from editreward.simulation.collage.assets import HELD_OUT_STYLE, STYLES, Name, names, photographs
from editreward.simulation.instructions import CATEGORIES, COLLAGE_CATEGORIES
from editreward.simulation.rendering import render_shapes
from editreward.simulation.world import (
    ALL_COMBINATIONS,
    COLOURS,
    EFFECTS,
    HELD_OUT_COMBINATIONS,
    OWN,
    PATTERNS,
    SHAPES,
    SIZES,
    TONES,
    TRAIN_COMBINATIONS,
    Background,
    Scene,
)

BACKGROUNDS: tuple[Background, ...] = tuple(Background(pattern, tone) for pattern in PATTERNS for tone in TONES)
"""Of the world of shapes."""

COLLAGE_NAMES = 12
"""Things that may occur in one collage group,"""
ALIKE_NAMES = 6
"""about as many of them of one kind, so that some are easily confused."""
UNSEEN_NAMES = 3
"""Of those in a group with unseen names."""
COLLAGE_SUBJECTS = 6
"""Subjects of the photographs that may occur in one collage group."""
OWN_WEIGHT = 12
"""How often a thing keeps its own colours, against once in each colour."""


@dataclass(frozen=True)
class Palette:
    """What may appear in one group.

    Args:
        combinations: (colour, thing) pairs; one that is listed more often is drawn more often.
        held_out: those of them that only the test split shows, for a group that is about one of these.
        backgrounds: the backgrounds.
        style: how objects are drawn.
    """

    combinations: Sequence[tuple[str, str]]
    held_out: Sequence[tuple[str, str]]
    backgrounds: Sequence[Background]
    style: str = ""


@dataclass(frozen=True)
class World:
    """A world of edit groups.

    Args:
        name: what a dataset's name and a scene say of it.
        tag: keeps its random streams apart from those of other worlds.
        categories: of edits.
        novelties: what only the test split shows, beside wordings.
        sizes: diameter of objects as a fraction of the image side.
        palette: draws what may appear in a group, given which of the novelties it has.
        chinese: the Chinese name of a thing.
        render: draws a scene, RGB, of a size.
        effects: of a category and a background: those that would be seen.
    """

    name: str
    tag: tuple[int, ...]
    categories: tuple[str, ...]
    novelties: tuple[str, ...]
    sizes: dict[str, float]
    palette: Callable[[Collection[str], Random], Palette]
    chinese: Callable[[str], str]
    render: Callable[[Scene, int], Image.Image]
    effects: Callable[[str, Background], list[str]] = lambda category, background: []


def _shapes_palette(unseen: Collection[str], rng: Random) -> Palette:
    combinations = ALL_COMBINATIONS if "combination" in unseen else TRAIN_COMBINATIONS
    return Palette(combinations, sorted(HELD_OUT_COMBINATIONS), BACKGROUNDS)


def _collage_backgrounds(unseen: bool, rng: Random) -> list[Background]:
    """Photographs of so many subjects, one of each."""
    by_subject: dict[str, list[int]] = {}
    for photograph in photographs():
        if photograph.held_out == unseen:
            by_subject.setdefault(photograph.subject, []).append(photograph.index)
    ways = collage_rendering.VARIANTS
    return [
        Background(subject, "", rng.choice(by_subject[subject]) * ways + rng.randrange(ways))
        for subject in rng.sample(sorted(by_subject), COLLAGE_SUBJECTS)
    ]


def _shown(backgrounds: Sequence[Background]) -> set[str]:
    """What photographs show: a photograph's cow is not the cow that an instruction means."""
    shown = {photographs()[background.variant // collage_rendering.VARIANTS].details for background in backgrounds}
    return shown | {"fish" if background.pattern == "underwater" else background.pattern for background in backgrounds}


def _collage_names(unseen: bool, shown: set[str], rng: Random) -> list[Name]:
    """Things for a group, about half of one kind, none that might be taken for another or that is `shown` anyway."""
    known = [name for name in names().values() if not name.held_out and name.name not in shown]
    new = [name for name in names().values() if name.held_out and name.name not in shown]
    kind = rng.choice(known).kind
    alike = [name for name in known if name.kind == kind]
    order = [
        *(rng.sample(new, UNSEEN_NAMES) if unseen else ()),
        *rng.sample(alike, min(ALIKE_NAMES, len(alike))),
        *rng.sample(known, 2 * COLLAGE_NAMES),
    ]
    chosen: dict[str, Name] = {}
    for name in order:
        chosen.setdefault(name.cluster, name)
    return list(chosen.values())[:COLLAGE_NAMES]


def _collage_palette(unseen: Collection[str], rng: Random) -> Palette:
    style = HELD_OUT_STYLE if "style" in unseen else rng.choice([s for s in STYLES if s != HELD_OUT_STYLE])
    backgrounds = _collage_backgrounds("photograph" in unseen, rng)
    combinations: list[tuple[str, str]] = []
    held_out: list[tuple[str, str]] = []
    for name in _collage_names("name" in unseen, _shown(backgrounds), rng):
        pairs = [(OWN, name.name)] * OWN_WEIGHT
        pairs += [(colour, name.name) for colour in COLOURS if colour not in name.avoid]
        combinations += pairs
        held_out += pairs if name.held_out else []
    return Palette(combinations, held_out, backgrounds, style)


def _visible_effects(category: str, background: Background) -> list[str]:
    weak = photographs()[background.variant // collage_rendering.VARIANTS].weak
    return [effect for effect in EFFECTS[category] if effect not in weak]


SHAPES_WORLD = World(
    name="shapes",
    tag=(),
    categories=CATEGORIES,
    novelties=("combination",),
    sizes=SIZES,
    palette=_shapes_palette,
    chinese=SHAPES.__getitem__,
    render=render_shapes,
)
COLLAGE_WORLD = World(
    name="collage",
    tag=(1000,),
    categories=COLLAGE_CATEGORIES,
    novelties=("name", "style", "photograph"),
    sizes=collage_rendering.SIZES,
    palette=_collage_palette,
    chinese=lambda thing: names()[thing].chinese,
    render=collage_rendering.render,
    effects=_visible_effects,
)
WORLDS: dict[str, World] = {world.name: world for world in (SHAPES_WORLD, COLLAGE_WORLD)}


def get_world(name: str) -> World:
    """The world of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in WORLDS:
        raise ValueError(f"unknown world {name!r}: use one of {', '.join(WORLDS)}")
    return WORLDS[name]


def render_scene(scene: Scene, size: int) -> Image.Image:
    """Draw a scene without artefacts.

    Args:
        scene: what to draw; it says in which world.
        size: side in pixels.

    Returns:
        A new RGB image, size x size.
    """
    return WORLDS[scene.world].render(scene, size)
