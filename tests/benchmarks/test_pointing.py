"""The pointing game: which faults there are and where, points and overlaps in closed form, baselines."""

import numpy as np
import pytest

from editreward.benchmarks.pointing import (
    BASELINES,
    FOLLOWING,
    QUALITY,
    by_difference,
    faults_of,
    overlap,
    pointing,
    pointing_groups,
    pointing_table,
    points_at,
)


@pytest.fixture(scope="module", params=["shapes", "collage"])
def groups(request):
    return pointing_groups(8, world=request.param)


@pytest.fixture(scope="module")
def faults(groups):
    return [fault for group in groups for fault in faults_of(group)]


def test_faults_are_those_of_edits_that_lost_score(groups, faults):
    assert {fault.dimension for fault in faults} == {FOLLOWING, QUALITY}
    for fault in faults:
        candidate = fault.group.candidates[fault.candidate]
        assert candidate.scores[fault.dimension] < 4 and 0 < fault.mask.mean() <= 0.5
    lost = [(g.group_id, i) for g in groups for i, c in enumerate(g.candidates) if c.scores[FOLLOWING] < 4]
    found = {(fault.group.group_id, fault.candidate) for fault in faults if fault.dimension == FOLLOWING}
    least = 0.4 if groups[0].world == "collage" else 0.5  # the others cover most of the image
    assert found <= set(lost) and len(found) > least * len(lost)


def test_points_and_overlaps():
    mask = np.zeros((100, 100), bool)
    mask[20:40, 20:40] = True
    values = np.zeros((100, 100), np.float32)
    values[30:50, 30:50] = 1
    assert overlap(values, mask) == pytest.approx(100 / 700)
    point = np.zeros((100, 100), np.float32)
    places = ((30, 30, True), (42, 30, True), (43, 30, False), (41, 41, True), (42, 42, False))
    for row, column, expected in places:
        point[:] = 0
        point[row, column] = 1
        assert points_at(point, mask) is expected, (row, column)
    assert overlap(np.zeros((100, 100), np.float32), mask) == 0


def test_the_truth_as_a_map_points_right_everywhere_and_the_opposite_nowhere(groups, faults):
    for sign, expected in ((1, 1.0), (-1, 0.0)):
        maps = {group.group_id: [{} for _ in group.candidates] for group in groups}
        for fault in faults:
            truth = sign * fault.mask.astype(np.float32)
            if sign < 0:  # the corner that is farthest from the fault
                corners = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
                there = np.argwhere(fault.mask)
                far = max(corners, key=lambda c: ((there - (np.array(c) % np.array(truth.shape))) ** 2).sum(-1).min())
                truth = np.zeros_like(truth)
                truth[far] = 1
            maps[fault.group.group_id][fault.candidate][fault.dimension] = truth
        result = pointing(faults, maps, FOLLOWING)
        assert result.points["all"].value == pytest.approx(expected, abs=0.2 * (sign < 0))
        if sign > 0:
            assert result.overlaps["all"] == pytest.approx(1)


def test_the_difference_of_images_points_at_artefacts_better_than_chance(groups, faults):
    results = {
        name: pointing(faults, {group.group_id: mapper(group) for group in groups}, QUALITY)
        for name, mapper in BASELINES.items()
    }
    shares = {name: result.points["all"].value for name, result in results.items()}
    assert shares["difference of images"] > shares["random map"]
    table = pointing_table(results)
    assert table.splitlines()[0] == "| fault | n | random map | the centre | difference of images |"
    assert table.splitlines()[2].startswith("| all |")


def test_an_untouched_candidate_has_no_difference(groups):
    for group in groups:
        maps = by_difference(group)
        for candidate, of in zip(group.candidates, maps, strict=True):
            if candidate.image.tobytes() == group.source.tobytes():
                assert of[FOLLOWING].max() == 0
