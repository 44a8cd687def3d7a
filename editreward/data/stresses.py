"""Simulated groups as edits come in real life: shifted, framed, saved anew, small, faintly noisy, or with a remark.

`bench robustness` measures the same changes; here they are for training.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

import numpy as np
from PIL import Image

from editreward.data import image_changes
from editreward.data.instructions import random_remark, with_remark
from editreward.simulation import SimulatedCandidate, SimulatedGroup
from editreward.simulation.artefacts import ARTEFACTS, apply_artefact
from editreward.simulation.groups import ENLARGED, ENLARGED_FROM
from editreward.simulation.world import Scene
from editreward.simulation.worlds import render_scene

FAINTEST = 2.0
"""Standard deviation, of 255, of the faintest noise."""
SLIGHT_NOISE = ARTEFACTS["noise"][1][0]
"""That of the noise whose visual quality is 3."""
MOST_BORDER = 0.06
"""Of the shorter side."""
BORDERS = ("white", "white", "black", "grey")


def stressed_group(group: SimulatedGroup, rng: Random, graded: bool = True) -> SimulatedGroup:
    """The group under one stress, at times with a remark as a second one. The size of its images stays.

    Scores stay, too, but for noise that is fainter than the simulation's: between 4 and 3, by its strength.

    Args:
        group: simulated.
        rng: decides which stress, and its details.
        graded: with faint noise, whose scores are fractions.
    """
    kinds: list[Callable[[SimulatedGroup, Random], SimulatedGroup]] = [_shifted, _framed, _saved_anew, _drawn_small]
    if graded:
        kinds.append(_faintly_noisy)
    chance = rng.random()
    if chance < 0.7:
        group = rng.choice(kinds)(group, rng)
    if chance > 0.5:
        group = replace(group, instruction=with_remark(group.instruction, random_remark(group.language, rng), rng))
    return group


def _changed(group: SimulatedGroup, change: Callable[[Image.Image], Image.Image], rng: Random) -> SimulatedGroup:
    """About half of the candidates changed."""
    return replace(
        group,
        candidates=[
            replace(one, image=_fitted(change(one.image), one.image.size)) if rng.random() < 0.5 else one
            for one in group.candidates
        ],
    )


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _shifted(group: SimulatedGroup, rng: Random) -> SimulatedGroup:
    """By up to two pixels, each edit on its own."""

    def change(image: Image.Image) -> Image.Image:
        return image_changes.shifted(image, rng.randint(-2, 2), rng.randint(-2, 2))

    return _changed(group, change, rng)


def _framed(group: SimulatedGroup, rng: Random) -> SimulatedGroup:
    """The same border around all images, source included; what they show moves by less than a border's width."""
    change = partial(image_changes.bordered, share=rng.uniform(0, MOST_BORDER), colour=rng.choice(BORDERS))
    candidates = [replace(one, image=_fitted(change(one.image), one.image.size)) for one in group.candidates]
    return replace(group, source=_fitted(change(group.source), group.source.size), candidates=candidates)


def _saved_anew(group: SimulatedGroup, rng: Random) -> SimulatedGroup:
    """As a good JPEG or WebP, or resized and back."""

    def change(image: Image.Image) -> Image.Image:
        if rng.random() < 0.5:
            return image_changes.resized(image, rng.uniform(0.9, 2.0))
        return image_changes.recoded(image, rng.choice(("JPEG", "WEBP")), quality=rng.randint(93, 98))

    return _changed(group, change, rng)


def _drawn_small(group: SimulatedGroup, rng: Random) -> SimulatedGroup:
    """All images, source included, as of an editor that knows few pixels: what is small there is no damage."""
    side = rng.choice(ENLARGED_FROM)

    def drawn(scene: Scene) -> Image.Image:
        return render_scene(scene, group.source.width).resize((side, side), Image.Resampling.BOX)

    def enlarged(image: Image.Image) -> Image.Image:
        return image.resize(group.source.size, Image.Resampling.BICUBIC)

    candidates = []
    for one in group.candidates:
        image = drawn(one.scene)
        if one.artefact == ENLARGED:
            one = replace(one, artefact=None, scores={**one.scores, "visual_quality": 4})
        elif one.artefact:
            image = apply_artefact(image, one.artefact, int(one.scores["visual_quality"]), rng)
        candidates.append(replace(one, image=enlarged(image)))
    return replace(group, source=enlarged(drawn(group.scene)), candidates=candidates)


def _faintly_noisy(group: SimulatedGroup, rng: Random) -> SimulatedGroup:
    """Noise on clean edits, fainter than the faintest that the simulation makes."""
    return replace(
        group, candidates=[one if one.artefact else _with_faint_noise(one, rng) for one in group.candidates]
    )


def _with_faint_noise(candidate: SimulatedCandidate, rng: Random) -> SimulatedCandidate:
    level = rng.choice((0.0, rng.uniform(FAINTEST, SLIGHT_NOISE)))
    if level == 0:
        return candidate
    height, width = candidate.image.height, candidate.image.width
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal((height, width, 3), dtype=np.float32)
    scores = {**candidate.scores, "visual_quality": 4 - level / SLIGHT_NOISE}
    return replace(candidate, image=image_changes.noisy(candidate.image, level, noise), scores=scores)
