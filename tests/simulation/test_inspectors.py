from random import Random

import numpy as np
import pytest

from editreward.simulation import CATEGORIES, apply_artefact, render_scene, simulate_group
from editreward.simulation.edits import perfect, sample_task
from editreward.simulation.inspectors.request import compare
from editreward.simulation.inspectors.scenes import hypotheses, inspect


def task_of(category, seed=0):
    return sample_task(category, False, Random(f"{category} {seed}"))


def drawn(scene):
    return render_scene(scene, 112).reduce(2)


@pytest.mark.parametrize("grade", [inspect, compare])
@pytest.mark.parametrize("category", CATEGORIES)
def test_exact_edits_are_right_and_untouched_sources_wrong(grade, category):
    task = task_of(category)
    best = grade(task, drawn(perfect(task, Random(5))))
    assert (best.instruction_following, best.visual_quality) == (4, 4)
    worst = grade(task, drawn(task.source))
    assert (worst.instruction_following, worst.visual_quality) == (1, 4)


@pytest.mark.parametrize("grade", [inspect, compare])
def test_damage_lowers_visual_quality_alone(grade):
    task = task_of("recolour", 3)
    image = drawn(perfect(task, Random(0)))
    for kind in ("noise", "cast", "blur"):
        found = [grade(task, apply_artefact(image, kind, quality, Random(1))) for quality in (1, 2, 3)]
        assert [one.visual_quality for one in found] == sorted(one.visual_quality for one in found)
        assert found[0].visual_quality < 3 and all(one.instruction_following == 4 for one in found)


@pytest.mark.parametrize("grade", [inspect, compare])
def test_an_image_of_nothing_is_no_right_edit(grade):
    for category in ("recolour", "add", "remove", "move"):
        task = task_of(category, 1)
        assert grade(task, drawn(task.source).point(lambda value: 128)).instruction_following < 4


def test_every_fault_is_among_the_scenes_that_are_tried():
    task = task_of("move")
    assert {one.score for one in hypotheses(task)} == {1, 2, 3, 4}
    assert {"wrong object", "slightly off place", "copy left behind", "ignored"} <= {o.fault for o in hypotheses(task)}


def agreement(grade, groups, side):
    """Share of pairs of a group's candidates of different true scores that are put in order, ties as half."""
    found = {"instruction_following": [], "visual_quality": []}
    for seed in range(groups):
        group = simulate_group(seed, "validation", candidates=4)
        images = [candidate.image for candidate in group.candidates]
        if side == 56:
            images = [drawn(candidate.scene) for candidate in group.candidates]
            for place, one in enumerate(group.candidates):
                if one.artefact:
                    quality = one.scores["visual_quality"]
                    images[place] = apply_artefact(images[place], one.artefact, quality, Random(one.seed))
        grades = [grade(group.task, image) for image in images]
        for name, agreed in found.items():
            for place, first in enumerate(group.candidates):
                for other, second in zip(grades[:place], group.candidates, strict=False):
                    truth = np.sign(first.scores[name] - second.scores[name])
                    if truth:
                        agreed.append((1 + truth * np.sign(getattr(grades[place], name) - getattr(other, name))) / 2)
    return {name: float(np.mean(agreed)) for name, agreed in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("side", [56, 112])
@pytest.mark.parametrize(("grade", "following", "quality"), [(inspect, 0.94, 0.9), (compare, 0.95, 0.94)])
def test_inspectors_agree_with_the_known_scores(grade, following, quality, side):
    found = agreement(grade, 60, side)
    assert found["instruction_following"] >= following and found["visual_quality"] >= quality, found
