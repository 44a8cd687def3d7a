"""Stresses of simulated training groups: what changes, what stays, and the remarks."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from editreward.benchmarks.robustness.stresses import STRESSES
from editreward.data.instructions import REMARKS
from editreward.data.sources import SimulatedGroups
from editreward.data.stresses import SLIGHT_NOISE, _drawn_small, stressed_group
from editreward.simulation import simulate_group

GROUP = simulate_group(0, "train", size=84)


@pytest.fixture(scope="module")
def stressed():
    return [stressed_group(GROUP, Random(seed)) for seed in range(40)]


def pixels(image):
    return np.asarray(image, dtype=float)


def test_sizes_and_all_that_is_known_of_the_scenes_stay(stressed):
    for group in stressed:
        assert (group.group_id, group.task, group.scene) == (GROUP.group_id, GROUP.task, GROUP.scene)
        for before, after in zip(GROUP.candidates, group.candidates, strict=True):
            assert after.image.size == before.image.size and after.scene == before.scene
            assert after.scores["instruction_following"] == before.scores["instruction_following"]


def test_groups_are_changed_and_instructions_only_grow(stressed):
    changed = []
    for group in stressed:
        before, after = ([one.source, *(edit.image for edit in one.candidates)] for one in (GROUP, group))
        images = any((pixels(a) != pixels(b)).any() for a, b in zip(before, after, strict=True))
        changed.append(images or group.instruction != GROUP.instruction)
        assert GROUP.instruction in group.instruction
    assert np.mean(changed) > 0.9
    assert 0.3 < np.mean([group.instruction != GROUP.instruction for group in stressed]) < 0.7


def test_faint_noise_costs_in_proportion_to_its_strength(stressed):
    found = 0
    for group in stressed:
        for before, after in zip(GROUP.candidates, group.candidates, strict=True):
            lost = before.scores["visual_quality"] - after.scores["visual_quality"]
            if lost:
                found += 1
                assert before.artefact is None and 0 < lost < 1
                grey = (pixels(before.image) > 60) & (pixels(before.image) < 195)  # where nothing is clipped
                noise = (pixels(after.image) - pixels(before.image))[grey].std()
                assert noise == pytest.approx(lost * SLIGHT_NOISE, rel=0.1, abs=0.3)
    assert found


def test_of_a_small_editor_nothing_is_damaged_by_being_small():
    group = simulate_group(3, "train", size=112, enlarged=1.0)
    assert {one.artefact for one in group.candidates} > {"enlarged"}
    small = _drawn_small(group, Random(0))
    smoothed = group.source.resize((56, 56), Image.Resampling.BOX).resize((112, 112), Image.Resampling.BICUBIC)
    assert (
        np.abs(pixels(small.source) - pixels(smoothed)).mean()
        < np.abs(pixels(small.source) - pixels(group.source)).mean()
    )
    for before, after in zip(group.candidates, small.candidates, strict=True):
        assert after.image.size == before.image.size
        assert after.artefact == (None if before.artefact == "enlarged" else before.artefact)
        assert after.scores["visual_quality"] == (4 if after.artefact is None else before.scores["visual_quality"])


def test_without_fractions_scores_are_whole():
    for seed in range(40):
        for candidate in stressed_group(GROUP, Random(seed), graded=False).candidates:
            assert all(isinstance(score, int) for score in candidate.scores.values())


def test_a_share_of_the_rows_is_stressed_and_the_others_are_as_they_were():
    plain, some = (SimulatedGroups(12, size=84, stresses=share) for share in (0.0, 0.5))
    rows = [(plain.row(number, "train"), some.row(number, "train")) for number in range(12)]
    same = [
        a["instruction"] == b["instruction"]
        and all(
            (pixels(x["image"]) == pixels(y["image"])).all()
            for x, y in zip(a["candidates"], b["candidates"], strict=True)
        )
        for a, b in rows
    ]
    assert 2 <= sum(same) <= 10
    with pytest.raises(ValueError, match="simulated_stresses"):
        SimulatedGroups(1, stresses=1.5)


def test_remarks_of_training_are_not_those_of_the_benchmark():
    told = " ".join(stress.about for stress in STRESSES)
    for parts in REMARKS["en"]:
        assert not any(part.lower() in told.lower() for part in parts.split("|") if len(part) > 4)
