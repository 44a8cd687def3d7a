"""Simulated edit groups: one source, one instruction, candidates with exact scores."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from editreward.simulation.artefacts import ARTEFACTS, apply_artefact
from editreward.simulation.edits import EditTask, Outcome, contrasting_task, perfect, realise, sample_task, task_words
from editreward.simulation.instructions import (
    JOINERS,
    fill_wording,
    joined,
    more_wordings_of,
    varied_wording,
    wordings_of,
)
from editreward.simulation.near_misses import (
    ALL_NEAR_MISSES,
    MISSED_IN,
    Weights,
    category_weights,
    near_miss_fault,
    pick_attribute,
)
from editreward.simulation.world import Scene, describe_change
from editreward.simulation.worlds import World, get_world, render_scene

SPLITS: tuple[str, ...] = ("train", "validation", "test")
ENTROPY_TAG = 20250926
"""Keeps these streams apart from any other use of small seeds. Changing it changes every group."""

CONTRAST_TAG = 1
"""Keeps contrasting groups apart from those of `simulate_group`."""

NEAR_MISS_TAG = 2
"""Keeps the draws of near misses, and pairs of them, apart from those of `simulate_group`."""

CLEAN_SHARE = 0.6
"""Of near misses and the perfect edits beside them: without artefact."""

MINIMUM_SIZE = 84
"""Below this side, slight artefacts and small faults are finer than a pixel."""

ENGLISH_SHARE = 0.7

NAME_SHARE, STYLE_SHARE, PHOTOGRAPH_SHARE = 0.5, 0.3, 0.4
"""Of the collage world's test groups: those with unseen names, in the unseen style, with unseen photographs."""

ENLARGED_FROM: tuple[int, ...] = (56, 64)
"""Sides at which candidates are drawn that are then enlarged, as an editor that works at such a size gives them."""
ENLARGED_TAG = 3
ENLARGED = "enlarged"
"""Stands in the place of an artefact: what was enlarged is a little blurred, which is slight, so that it scores 3."""

EDITORS: dict[str, tuple[float, float]] = {
    "sim-expert": (0.95, 0.95),
    "sim-obedient": (0.85, 0.3),
    "sim-painter": (0.3, 0.85),
    "sim-average": (0.55, 0.55),
    "sim-novice": (0.1, 0.1),
}
"""Simulated editors and their skill, 0..1, in instruction following and in visual quality."""

EDITOR_SPREAD = 0.35


@dataclass
class SimulatedCandidate:
    """One edited image.

    Args:
        image: RGB.
        scores: "instruction_following" and "visual_quality", 1..4; whole numbers from this module.
        scene: the edited scene, before artefacts.
        fault: what is wrong with the edit in a few words, "none" where nothing is.
        artefact: name of the artefact, None for a clean image.
        change: an English sentence telling what differs between the source's and this scene.
        editor: name of the simulated editor.
        seed: seed of this candidate's details.
        missed: the attribute of `NEAR_MISSES` that alone is wrong, None where that is not how it was made.
    """

    image: Image.Image
    scores: dict[str, float]
    scene: Scene
    fault: str
    artefact: str | None
    change: str
    editor: str
    seed: int
    missed: str | None = None


@dataclass
class SimulatedGroup:
    """A source image, an instruction and its candidates.

    Args:
        group_id: "simulated-SPLIT-SEED"; of another world than that of shapes, "simulated-WORLD-SPLIT-SEED".
        source: RGB.
        scene: what the source shows.
        instruction: the instruction.
        language: "en" or "zh".
        category: one of its world's.
        unseen_wording: the wording occurs only in the test split.
        unseen_combination: the edit is about a (colour, shape) pair that occurs only in the test split.
        task: the instruction as data.
        candidates: the edited images.
        unseen_name, unseen_style, unseen_photograph: in the collage world, the edit is about a thing, objects are
            drawn in a style, the backgrounds are photographs that occur only in the test split.
    """

    group_id: str
    source: Image.Image
    scene: Scene
    instruction: str
    language: str
    category: str
    unseen_wording: bool
    unseen_combination: bool
    task: EditTask
    candidates: list[SimulatedCandidate] = field(default_factory=list)
    unseen_name: bool = False
    unseen_style: bool = False
    unseen_photograph: bool = False

    @property
    def world(self) -> str:
        """The name of its world."""
        return self.scene.world

    @property
    def origin(self) -> str:
        """The name of the dataset."""
        return "simulated" if self.world == "shapes" else f"simulated:{self.world}"

    @property
    def requested(self) -> Scene:
        """What the instruction asks for, exactly."""
        return perfect(self.task, Random(0))

    @cached_property
    def requested_image(self) -> Image.Image:
        """The exact result, RGB, as large as the source: what an editor should make."""
        return render_scene(self.requested, self.source.width)

    def to_row(self) -> dict[str, Any]:
        """This group as a row of the dataset schema, with PIL images."""
        return {
            "group_id": self.group_id,
            "origin": self.origin,
            "category": self.category,
            "instruction": self.instruction,
            "language": self.language,
            "source_images": [self.source],
            "candidates": [
                {
                    "image": candidate.image,
                    "editor": candidate.editor,
                    "seed": candidate.seed,
                    "scores": {name: float(score) for name, score in candidate.scores.items()},
                    "annotations": [],
                    "rationale": None,
                }
                for candidate in self.candidates
            ],
            "preferences": [],
        }


def _check(seed: int, split: str, candidates: int, size: int) -> None:
    """Raises ValueError for what no group has."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if seed < 0 or candidates < 1 or size < MINIMUM_SIZE:
        raise ValueError(f"need seed >= 0, candidates >= 1, size >= {MINIMUM_SIZE}; got {seed}, {candidates}, {size}")


def _randoms(split: str, *numbers: int) -> tuple[Random, Random]:
    """Two independent streams of random numbers, other ones for other arguments."""
    state = np.random.SeedSequence([ENTROPY_TAG, SPLITS.index(split), *numbers]).generate_state(4)
    return Random(int(state[0]) << 32 | int(state[1])), Random(int(state[2]) << 32 | int(state[3]))


def _pick_editor(instruction_following: int, visual_quality: int, rng: Random) -> str:
    """An editor, by how likely its skill makes these scores: the scores themselves stay uniform."""
    point = ((instruction_following - 1) / 3, (visual_quality - 1) / 3)
    weights = [math.exp(-(math.dist(point, skill) ** 2) / (2 * EDITOR_SPREAD**2)) for skill in EDITORS.values()]
    return rng.choices(list(EDITORS), weights)[0]


def _simulate_candidate(
    task: EditTask,
    instruction_following: int,
    visual_quality: int,
    seed: int,
    size: int,
    missed: str | None = None,
    enlarged_from: int = 0,
    artefacts: Sequence[str] = tuple(ARTEFACTS),
) -> SimulatedCandidate:
    """A candidate with these scores; with `missed`, a near miss of that attribute, which brings its own score.

    With `enlarged_from` it is drawn with that side and enlarged: it has visual quality 3 at most.
    """
    # Two streams: what happens to the scene has no part in what happens to the pixels.
    scene_rng, pixel_rng = Random(2 * seed), Random(2 * seed + 1)
    if missed is None:
        outcome = realise(task, instruction_following, scene_rng)
    else:
        fault, instruction_following, realisation = near_miss_fault(missed, task.category)
        scene = realisation(task, scene_rng)
        assert scene is not None
        outcome = Outcome(fault, scene)
    image = render_scene(outcome.scene, enlarged_from or size)
    artefact = None
    if enlarged_from:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    if enlarged_from and visual_quality >= 3:
        visual_quality, artefact = 3, ENLARGED
    elif visual_quality < 4:
        artefact = pixel_rng.choice(artefacts)
        image = apply_artefact(image, artefact, visual_quality, pixel_rng)
    return SimulatedCandidate(
        image=image,
        scores={"instruction_following": instruction_following, "visual_quality": visual_quality},
        scene=outcome.scene,
        fault=outcome.fault,
        artefact=artefact,
        change=describe_change(task.source, outcome.scene),
        editor=_pick_editor(instruction_following, visual_quality, pixel_rng),
        seed=seed,
        missed=missed,
    )


@dataclass(frozen=True)
class _Draw:
    """What is drawn for a candidate before it is made."""

    instruction_following: int
    visual_quality: int
    seed: int
    missed: str | None = None
    enlarged_from: int = 0


def _draw(task: EditTask, score_rng: Random, near_rng: Random, near_misses: float, weights: Weights | None) -> _Draw:
    """Uniform scores; with `near_misses`, that share of near misses, and half of the others perfect."""
    plain = _Draw(score_rng.randint(1, 4), score_rng.randint(1, 4), score_rng.getrandbits(31))
    if not near_misses:
        return plain
    chance, quality = near_rng.random(), 4 if near_rng.random() < CLEAN_SHARE else near_rng.randint(1, 3)
    missed = pick_attribute(task, near_rng, weights)
    if missed and chance < near_misses:
        return replace(plain, visual_quality=quality, missed=missed)
    if chance < (1 + near_misses) / 2:
        return replace(plain, instruction_following=4, visual_quality=quality)
    return plain


class _Labels(NamedTuple):
    """What a group is reported by."""

    category: str
    language: str
    unseen_wording: bool
    unseen_combination: bool = False
    unseen_name: bool = False
    unseen_style: bool = False
    unseen_photograph: bool = False


def _draw_labels(category: str, split: str, rng: Random, world: World) -> _Labels:
    language = "en" if rng.random() < ENGLISH_SHARE else "zh"
    is_test = split == "test"
    unseen_wording = is_test and rng.random() < 0.5
    if "combination" in world.novelties:
        return _Labels(category, language, unseen_wording, unseen_combination=is_test and rng.random() < 0.5)
    shares = (NAME_SHARE, STYLE_SHARE, PHOTOGRAPH_SHARE)
    name, style, photograph = (is_test and rng.random() < share for share in shares)
    return _Labels(
        category, language, unseen_wording, unseen_name=name, unseen_style=style, unseen_photograph=photograph
    )


def _sample_task(labels: _Labels, rng: Random, world: World) -> EditTask:
    """A task that has the novelties of the labels."""
    unseen = [name for name in ("style", "photograph") if getattr(labels, f"unseen_{name}")]
    return sample_task(labels.category, labels.unseen_combination or labels.unseen_name, rng, world, unseen)


def _instruction(task: EditTask, labels: _Labels, split: str, rng: Random) -> str:
    """The task in words."""
    if not task.parts:
        wording = _draw_wording(labels, split, rng)
        return fill_wording(wording, task_words(task, labels.language))
    said = []
    for part in task.parts:
        own = wordings_of(part.category, labels.language)
        choices = own.held_out if labels.unseen_wording else own.train
        if split == "train":
            choices = (*choices, *more_wordings_of(part.category, labels.language))
        said.append(fill_wording(rng.choice(choices), task_words(part, labels.language)))
    joiners = JOINERS[labels.language]
    return joined(said[0], said[1], rng.choice(joiners.held_out if labels.unseen_wording else joiners.train))


def _draw_wording(labels: _Labels, split: str, rng: Random) -> str:
    if split == "train":
        return varied_wording(labels.category, labels.language, rng)
    wordings = wordings_of(labels.category, labels.language)
    return rng.choice(wordings.held_out if labels.unseen_wording else wordings.train)


def group_id(split: str, seed: int, world: str = "shapes", suffix: str = "") -> str:
    """The id of a group of a world."""
    parts = ["simulated", *([] if world == "shapes" else [world]), split, f"{seed:06d}"]
    return "-".join([*parts, suffix] if suffix else parts)


def simulate_group(
    seed: int,
    split: str = "train",
    candidates: int = 7,
    size: int = 112,
    near_misses: float = 0.0,
    near_miss_weights: Weights | None = None,
    world: str = "shapes",
    enlarged: float = 0.0,
    artefacts: Sequence[str] = tuple(ARTEFACTS),
) -> SimulatedGroup:
    """Make one group. The same arguments always give the same group; splits never share one.

    Args:
        seed: number of the group within its split, >= 0.
        split: "train", "validation" or "test". Only "test" uses held-out wordings and what else its world holds out.
        candidates: number of edited images; more candidates never change the first ones.
        size: side of the images in pixels, at least `MINIMUM_SIZE`. It changes the pixels, nothing else.
        near_misses: share of the candidates that are perfect but for exactly one attribute (`NEAR_MISSES`), any that
            the category has and the scene allows with equal chances. Half of the others are then perfect, and most of
            both are clean. It changes neither source nor instruction.
        near_miss_weights: by attribute and category, how often to draw such near misses, relative to 1; categories
            are drawn by the mean of theirs. Then it changes source and instruction, too.
        world: "shapes", or "collage": drawings of named things in front of photographs.
        enlarged: share of the candidates that are drawn at a side of `ENLARGED_FROM` and enlarged. That is their
            artefact, with visual quality 3, unless they have one of 2 or 1; it changes nothing else.
        artefacts: of `ARTEFACTS`, to draw from with equal chances; a name that is given twice comes twice as often.

    Returns:
        The group. Both scores of a candidate are drawn uniformly from 1..4, independently of each other, unless there
        are near misses or enlarged candidates.

    Raises:
        ValueError: an argument is out of its range.
        FileNotFoundError: the collage world's file is not installed.
    """
    _check(seed, split, candidates, size)
    where = get_world(world)
    for name, share in (("near misses", near_misses), ("enlarged candidates", enlarged)):
        if not 0 <= share <= 1:
            raise ValueError(f"need a share of {name} in 0..1; got {share}")
    if not artefacts or set(artefacts) - set(ARTEFACTS):
        raise ValueError(f"need artefacts of {', '.join(ARTEFACTS)}; got {', '.join(artefacts) or 'none'}")
    rng, score_rng = _randoms(split, seed, *where.tag)
    near_rng, _ = _randoms(split, seed, NEAR_MISS_TAG, *where.tag)
    enlarged_rng, _ = _randoms(split, seed, ENLARGED_TAG, *where.tag)
    category = rng.choice(where.categories)
    if near_miss_weights is not None:
        (category,) = near_rng.choices(where.categories, category_weights(near_miss_weights, where.categories))
    labels = _draw_labels(category, split, rng, where)
    task = _sample_task(labels, rng, where)
    draws = [_draw(task, score_rng, near_rng, near_misses, near_miss_weights) for _ in range(candidates)]
    draws = [replace(draw, enlarged_from=_enlarged_from(enlarged, enlarged_rng)) for draw in draws]
    return SimulatedGroup(
        group_id=group_id(split, seed, world),
        source=render_scene(task.source, size),
        scene=task.source,
        instruction=_instruction(task, labels, split, rng),
        **labels._asdict(),
        task=task,
        candidates=[_simulate_candidate(task, size=size, artefacts=artefacts, **asdict(draw)) for draw in draws],
    )


def simulate_instruction(seed: int, split: str = "train", world: str = "shapes") -> tuple[EditTask, str]:
    """The task and the instruction of the group that `simulate_group` makes of the same, without its images.

    Raises:
        ValueError: an argument is out of its range.
        FileNotFoundError: the collage world's file is not installed.
    """
    _check(seed, split, 1, MINIMUM_SIZE)
    where = get_world(world)
    rng, _ = _randoms(split, seed, *where.tag)
    labels = _draw_labels(rng.choice(where.categories), split, rng, where)
    task = _sample_task(labels, rng, where)
    return task, _instruction(task, labels, split, rng)


def _enlarged_from(share: float, rng: Random) -> int:
    chance, side = rng.random(), rng.choice(ENLARGED_FROM)
    return side if chance < share else 0


def simulate_groups(
    n: int,
    split: str = "train",
    seed: int = 0,
    candidates: int = 7,
    size: int = 112,
    near_misses: float = 0.0,
    world: str = "shapes",
    enlarged: float = 0.0,
) -> Iterator[SimulatedGroup]:
    """Make the n groups with seeds `seed`, `seed` + 1, ... (arguments as in `simulate_group`)."""
    for number in range(seed, seed + n):
        yield simulate_group(number, split, candidates, size, near_misses, world=world, enlarged=enlarged)


def simulate_near_miss(seed: int, split: str = "test", size: int = 112, world: str = "shapes") -> SimulatedGroup:
    """Make a pair: a perfect edit and a near miss, both clean, in any order.

    Consecutive seeds go through all attributes that can be missed in the world, and through the categories of each.

    Args:
        seed: number of the pair within its split, >= 0.
        split, size, world: as for `simulate_group`.

    Returns:
        A group of two candidates, "simulated-SPLIT-SEED-near-miss".

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(seed, split, 2, size)
    where = get_world(world)
    rng, _ = _randoms(split, seed, NEAR_MISS_TAG, NEAR_MISS_TAG, *where.tag)
    attributes = MISSED_IN[world]
    missed = attributes[seed % len(attributes)]
    categories = tuple(ALL_NEAR_MISSES[missed])
    labels = _draw_labels(categories[seed // len(attributes) % len(categories)], split, rng, where)
    _, _, realisation = near_miss_fault(missed, labels.category)
    task = _sample_task(labels, rng, where)
    while realisation(task, Random(0)) is None:
        task = _sample_task(labels, rng, where)
    instruction = _instruction(task, labels, split, rng)
    made = [
        _simulate_candidate(task, 4, 4, seed=rng.getrandbits(31), size=size, missed=attribute)
        for attribute in rng.sample((None, missed), 2)
    ]
    return SimulatedGroup(
        group_id=group_id(split, seed, world, "near-miss"),
        source=render_scene(task.source, size),
        scene=task.source,
        instruction=instruction,
        **labels._asdict(),
        task=task,
        candidates=made,
    )


def simulate_contrast(
    seed: int, split: str = "train", candidates: int = 7, size: int = 112, world: str = "shapes"
) -> SimulatedGroup:
    """Make one of two groups with the same images, in which only the instruction tells which edits are right.

    Seeds 2k and 2k + 1 make such a pair. The instructions differ in one thing: the colour, shape or place to give, the
    object, the background, or the effect. Every candidate does perfectly what one of the two asks for, in turn, so
    that it scores 4 in one group and 2 in the other; artefacts, and with them visual quality, are as in
    `simulate_group`.

    Args:
        seed: number of the group within its split, >= 0.
        split, candidates, size, world: as for `simulate_group`.

    Returns:
        The group, "simulated-SPLIT-SEED-contrast".

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(seed, split, candidates, size)
    where = get_world(world)
    rng, _ = _randoms(split, seed // 2, CONTRAST_TAG, *where.tag)
    language = "en" if rng.random() < ENGLISH_SHARE else "zh"
    other = None
    while other is None:
        category = rng.choice(where.categories)
        task = sample_task(category, False, rng, where)
        other = contrasting_task(task, rng)
    tasks = (task, other)
    wording = (
        varied_wording(category, language, rng)
        if split == "train"
        else rng.choice(wordings_of(category, language).train)
    )
    first, asked = rng.randrange(2), seed % 2
    made = [
        _simulate_candidate(tasks[(first + i) % 2], 4, rng.randint(1, 4), seed=rng.getrandbits(31), size=size)
        for i in range(candidates)
    ]
    return SimulatedGroup(
        group_id=group_id(split, seed, world, "contrast"),
        source=render_scene(task.source, size),
        scene=task.source,
        instruction=fill_wording(wording, task_words(tasks[asked], language)),
        language=language,
        category=category,
        unseen_wording=False,
        unseen_combination=False,
        task=tasks[asked],
        candidates=[
            candidate
            if (first + i) % 2 == asked
            else replace(candidate, scores={**candidate.scores, "instruction_following": 2}, fault="contrast")
            for i, candidate in enumerate(made)
        ],
    )


def groups_hash(groups: Iterable[SimulatedGroup]) -> str:
    """SHA-256, in hexadecimal, over pixels, instructions and scores: tells whether two sets of groups are one.

    Pixels depend a little on the versions of Pillow (JPEG, resampling) and numpy (noise), hence so does the hash.
    """
    digest = hashlib.sha256()
    for group in groups:
        scores = [[c.scores[name] for name in sorted(c.scores)] for c in group.candidates]
        digest.update(json.dumps([group.group_id, group.instruction, scores], ensure_ascii=False).encode())
        for image in (group.source, *(candidate.image for candidate in group.candidates)):
            digest.update(image.tobytes())
    return digest.hexdigest()


def novelty_in_words(unseen_wording: bool, unseen_combination: bool) -> str:
    """Which of a group's wording and combination occur only in the test split, in words."""
    if unseen_wording and unseen_combination:
        return "unseen wording and combination"
    if unseen_wording or unseen_combination:
        return "unseen wording" if unseen_wording else "unseen combination"
    return "seen wording and combination"
