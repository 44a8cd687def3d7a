import math

import numpy as np
import pytest

from editreward.editors.instructions import simulated_instructions
from editreward.editors.reward_source import LocalReward, ServerReward, reward_source
from tests.helpers.image_editors import picture


@pytest.fixture(scope="module")
def rows():
    return [simulated_instructions("train", 0, 2).read(index) for index in (0, 0, 1, 1)]


@pytest.fixture(scope="module")
def images(rows):
    sources = {row.group_id: row.images()[0] for row in rows}
    return [sources[row.group_id] for row in rows], [picture(number, 56) for number in range(4)]


def test_a_server_scores_whole_groups_and_its_failures_are_nan(rows, images, monkeypatch):
    asked = []

    class Client:
        def __init__(self, url, token, timeout):
            asked.append((url, token))

        def about(self):
            return {}

        def score(self, groups):
            asked.append([len(group["edited"]) for group in groups])
            shaped = [[0.5, None], [0.1, 0.2]]
            return [
                {"candidates": [{"shaped": one, "error": None if one else "too large"} for one in answer]}
                for answer in shaped
            ]

    monkeypatch.setattr("editreward.client.Client", Client)
    reward = reward_source("http://127.0.0.1:1")
    assert isinstance(reward, ServerReward)
    found = reward(rows, *images)
    assert asked == [("http://127.0.0.1:1", None), [2, 2]]
    assert np.allclose(found.values, [0.5, math.nan, 0.1, 0.2], equal_nan=True) and found.reasons == {1: "too large"}


def test_a_scorer_in_this_process_is_shaped_and_watched(rows, images, tmp_path):
    (tmp_path / "shaping.yaml").write_text("scale: 2.0\noffset: 1.0\n")
    plain, shaped = (reward_source("ssim", path, check=False) for path in (None, str(tmp_path / "shaping.yaml")))
    watched = reward_source("ssim", guard="random", check=False)
    values = plain(rows, *images).values
    assert np.allclose(shaped(rows, *images).values, 2 * values + 1) and len(set(values.tolist())) == 4
    assert isinstance(watched, LocalReward)
    watched(rows, *images)
    assert watched.reward.guard.report().calls == 1


def test_a_scorer_that_reads_no_instruction_is_refused():
    with pytest.raises(ValueError, match="instruction"):
        reward_source("ssim")


def test_the_truth_is_the_sum_of_both_grades(rows, images):
    sources, _ = images
    found = reward_source("truth")(rows, sources, sources)
    assert found.details["instruction_following"].tolist() == [1, 1, 1, 1]
    assert found.details["visual_quality"].tolist() == [4, 4, 4, 4] and found.values.tolist() == [5, 5, 5, 5]


def test_a_noisy_truth_gives_an_image_the_same_value_every_time(rows, images):
    _, edited = images
    exact, noisy = (reward_source(spec)(rows, edited, edited).values for spec in ("truth", "truth:2"))
    again = reward_source("truth:2")(rows[1:], edited[1:], edited[1:]).values
    assert (noisy != exact).all() and np.abs(noisy - exact).max() < 12
    np.testing.assert_array_equal(again, noisy[1:])
    for noise in ("much", "nan", "-1"):
        with pytest.raises(ValueError, match=f"'truth:{noise}' is no standard deviation"):
            reward_source(f"truth:{noise}")


def test_the_truth_knows_simulated_rows_only(rows, images):
    from dataclasses import replace

    with pytest.raises(ValueError, match="rows with the id simulated-SPLIT-SEED only"):
        reward_source("truth")([replace(rows[0], group_id="mine")], images[0][:1], images[1][:1])
