"""Dense targets of simulated groups against the scenes and the faults that made them."""

import numpy as np
import pytest
from PIL import Image

from editreward.simulation import Background, Scene, SceneObject, simulate_group, simulate_near_miss
from editreward.simulation.grounding import (
    ASKED,
    ATTRIBUTES,
    COMPARISONS,
    MISMATCHES,
    REQUEST,
    differing_cells,
    group_asked,
    group_attributes,
    group_comparisons,
    group_mismatches,
    request_values,
    scene_attributes,
)

GROUPS = [simulate_group(seed, candidates=7, size=84) for seed in range(40)]
CHANGED, TO_CHANGE, WRONG = range(3)


def named(cells: np.ndarray, kind: str) -> set[str]:
    """The names of a kind of attribute that any of the cells shows."""
    return {name.partition(" ")[2] for name, shown in zip(ATTRIBUTES, cells.any(0), strict=True) if shown} & {
        name.partition(" ")[2] for name in ATTRIBUTES if name.startswith(kind + " ")
    }


def test_an_object_is_told_in_its_own_cells_and_the_background_in_all():
    thing = SceneObject(0, "red", "star", "small", x=0.15, y=0.85)
    cells = scene_attributes(Scene((thing,), Background("dots", "lilac")), side=4).reshape(4, 4, -1)
    for name in ("colour red", "shape star", "size small"):
        shown = cells[..., ATTRIBUTES.index(name)]
        assert shown[3, 0] and not shown[:2].any() and not shown[:, 2:].any()
    assert cells[..., ATTRIBUTES.index("pattern dots")].all() and cells[..., ATTRIBUTES.index("tone lilac")].all()
    assert cells.any((0, 1)).sum() == 5


def test_every_object_of_every_image_is_in_some_cell():
    for group in GROUPS:
        scenes = [group.scene, *(candidate.scene for candidate in group.candidates)]
        for scene, cells in zip(scenes, group_attributes(group, 4), strict=True):
            assert named(cells, "shape") == {thing.shape for thing in scene.objects}
            assert named(cells, "size") == {thing.size for thing in scene.objects}
            colours = {thing.colour for thing in scene.objects}
            assert named(cells, "colour") == colours | {t.second_colour for t in scene.objects if t.second_colour}


def test_artefacts_are_told_everywhere_with_their_severity():
    for group in GROUPS:
        for candidate, cells in zip(group.candidates, group_attributes(group, 4)[1:], strict=True):
            artefact = {candidate.artefact} if candidate.artefact else set()
            assert named(cells, "artefact") == artefact
            assert named(cells, "severity") == ({str(candidate.scores["visual_quality"])} if artefact else set())


def test_differing_cells_are_where_pixels_differ():
    first = Image.new("RGB", (84, 84), "white")
    second = first.copy()
    second.paste("red", (50, 10, 60, 20))
    differs = differing_cells(first, second, 4).reshape(4, 4)
    assert np.argwhere(differs).tolist() == [[0, 2]]
    assert not differing_cells(first, first.point([max(0, v - 10) for v in range(256)] * 3), 4).any()


def test_comparisons_agree_with_the_scores():
    faultless = ignored = 0
    for group in GROUPS:
        cells = group_comparisons(group, 4)
        assert np.isnan(cells[0, :, [CHANGED, WRONG]]).all() and not np.isnan(cells[1:]).any()
        assert cells[0, :, TO_CHANGE].any()
        for candidate, own in zip(group.candidates, cells[1:], strict=True):
            if candidate.fault == "none":
                faultless += 1
                assert not own[:, WRONG].any() and own[:, CHANGED].any()
            else:
                assert own[:, WRONG].any(), candidate.fault
            if candidate.fault == "ignored":
                ignored += 1
                assert not own[:, CHANGED].any() and (own[:, WRONG] == own[:, TO_CHANGE]).all()
    assert faultless > 20 and ignored > 20


def test_fewer_wrong_cells_mean_a_better_score_in_most_pairs():
    right = []
    for group in GROUPS:
        wrong = group_comparisons(group, 4)[1:, :, WRONG].sum(-1)
        scores = [candidate.scores["instruction_following"] for candidate in group.candidates]
        right += [
            0.5 if wrong[i] == wrong[j] else float((wrong[i] < wrong[j]) == (scores[i] > scores[j]))
            for i in range(7)
            for j in range(i)
            if scores[i] != scores[j]
        ]
    assert np.mean(right) == pytest.approx(0.85, abs=0.07)  # what the image tokens are taught decides most pairs


def test_names_are_distinct():
    assert len(set(ATTRIBUTES)) == len(ATTRIBUTES) and len(set(COMPARISONS)) == len(COMPARISONS)


def test_mismatches_name_the_respect_in_which_a_near_miss_is_wrong():
    respects = {"colour": "colour", "shape": "shape", "size": "size", "pattern": "background", "tone": "background"}
    seen = set()
    for seed in range(64):
        pair = simulate_near_miss(seed, size=84)
        cells = group_mismatches(pair, 4)
        assert np.isnan(cells[0]).all()
        for candidate, own in zip(pair.candidates, cells[1:], strict=True):
            wrong = {name for name, amiss in zip(MISMATCHES, np.nan_to_num(own).any(0), strict=True) if amiss}
            if candidate.missed is None:
                assert not wrong
            elif candidate.missed in respects and (candidate.missed, pair.category) != ("size", "resize"):
                # A fault of size may cover further cells, where all of the object is amiss.
                assert respects[candidate.missed] in wrong
                assert candidate.missed == "size" or wrong == {respects[candidate.missed]}
                seen.add(candidate.missed)
            else:
                assert wrong
    assert seen == set(respects)


def test_cells_should_show_what_the_perfect_edit_shows():
    for group in GROUPS[:15]:
        asked = group_asked(group, 4)
        shown = group_attributes(group, 4)[..., : len(ASKED)]
        for candidate, wanted, own in zip(group.candidates, asked[1:], shown[1:], strict=True):
            if candidate.fault == "none":
                assert (wanted == own).all()
        assert (asked[0] != shown[0]).any()


def test_a_request_is_what_the_english_instruction_names():
    for seed in range(60):
        group = simulate_group(seed, split="validation", candidates=1, size=84)
        said = {
            part: values[index]
            for (part, values), index in zip(REQUEST.items(), request_values(group.task), strict=True)
            if index >= 0
        }
        assert said.pop("category") == group.category
        if group.language == "en":
            text = group.instruction.lower()
            for part, value in said.items():
                if part != "size" or group.category == "add":
                    assert (value if part != "pattern" else value.rstrip("s")) in text, (part, value, text)
