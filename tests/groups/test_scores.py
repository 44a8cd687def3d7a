"""Edit groups and their scores as all parts speak of them."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import editreward
from editreward import CandidateScore, DimensionScore, EditGroup, GroupScores, Unscored
from editreward.groups import Pass


def mixed() -> GroupScores:
    """Three candidates, of which the second is unscored."""
    first = CandidateScore({"style": DimensionScore(2.0, 0.5, True, True)}, 1.0, 0.1, reasons=("plain",))
    overall = DimensionScore(3.5, 0.4, True)
    third = CandidateScore({"style": DimensionScore(3.0, 0.25, True)}, 4.0, 0.2, answers=("{...}",), overall=overall)
    nan = math.nan
    preferences = [[0.5, nan, 0.1], [nan, nan, nan], [0.9, nan, 0.5]]
    return GroupScores((first, Unscored("broken", ("?",)), third), preferences, [0.1, nan, 0.9])


def test_a_single_image_in_place_of_a_tuple_is_refused():
    with pytest.raises(TypeError, match="`sources` of an EditGroup is a tuple of images, not a str"):
        EditGroup("a.png", "edit", ["b.png"])
    with pytest.raises(TypeError, match="`edited`.*not a bytes"):
        EditGroup(["a.png"], "edit", b"")


def test_order_ranks_and_columns_leave_out_what_is_unscored():
    scores = mixed()
    assert scores.order == [2, 0] and scores.index == 2 and scores.ranks == [2, None, 1]
    assert scores.probability == 0.9
    assert scores.overall == [1.0, pytest.approx(math.nan, nan_ok=True), 4.0]
    assert scores.dimensions["style"][::2] == [2.0, 3.0] and math.isnan(scores.dimensions["style"][1])
    assert scores.stds["overall"][::2] == [0.1, 0.2] and scores.stds["style"][::2] == [0.5, 0.25]
    assert list(scores.scored) == [0, 2] and scores.unscored == {1: Unscored("broken", ("?",))}
    with pytest.raises(ValueError, match="candidate 1 has no score: broken"):
        _ = scores.scores


def test_equal_rewards_share_a_rank_and_the_first_of_them_is_the_best():
    scores = GroupScores([2.0, 3.0, 3.0, 1.0])
    assert scores.ranks == [3, 1, 1, 4] and scores.order == [1, 2, 0, 3]


@pytest.mark.parametrize("scores", [GroupScores(()), GroupScores((Unscored("broken"),))])
def test_a_group_without_a_score_has_no_best_edit(scores):
    with pytest.raises(ValueError, match="no candidate has a score"):
        _ = scores.index
    assert scores.to_dict()["best"] is None


def test_plain_data_have_one_set_of_names_and_are_json():
    plain = json.loads(json.dumps(mixed().to_dict(), allow_nan=False))
    names = {"rank", "reward", "reward_std", "overall", "probability_best", "dimensions", "reasons", "error"}
    assert plain["best"] == 2 and [set(one) - {"answers"} for one in plain["candidates"]] == [names] * 3
    assert plain["candidates"][1] == dict.fromkeys(names) | {"reasons": [], "error": "broken", "answers": ["?"]}
    assert plain["candidates"][0]["dimensions"] == {
        "style": {"mean": 2.0, "std": 0.5, "calibrated": True, "std_calibrated": True}
    }


def test_numbers_of_numpy_and_torch_are_plain_numbers_and_json():
    for one in (np.float32, torch.tensor):
        dimension = DimensionScore(one(2.0), one(0.5), np.bool_(True), np.bool_(True))
        told = Pass(one(0.25), {}, {}, {})
        first = CandidateScore({"style": dimension}, one(1.0), one(0.25), passes=(told,), overall=dimension)
        second = CandidateScore({"style": dimension}, one(3.0))
        chances = np.array([[0.5, 0.25], [0.75, 0.5]], np.float32)
        scores = GroupScores((first, second), chances, chances[:, 0])
        plain = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
        assert [candidate["rank"] for candidate in plain["candidates"]] == [2, 1] and plain["best"] == 1
        assert plain["candidates"][0]["overall"] == plain["candidates"][0]["dimensions"]["style"]
        again = GroupScores.from_state(json.loads(json.dumps(scores.state())))
        assert again == scores and {type(found.reward) for found in scores.scores} == {float}
    assert str(GroupScores((Unscored("broken"), 1.0), probabilities=[None, 1.0]).probabilities) == "[nan, 1.0]"


def test_a_state_gives_back_an_equal_object():
    again = GroupScores.from_state(json.loads(json.dumps(mixed().state())))
    assert again.candidates == mixed().candidates
    assert str(again.preferences) == str(mixed().preferences)  # NaN is not equal to itself
    assert str(again.probabilities) == str(mixed().probabilities)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1.0, 2.0], {"style": [1.0]}), "style: 1 numbers for 2 candidates"),
        (([1.0], None, {"overall": [1.0, 2.0]}), "standard deviation of overall: 2 numbers for 1"),
        (([1.0], None, None, [[0.5, 0.5]]), "preferences of candidate 0: 2 numbers for 1"),
    ],
)
def test_columns_need_an_entry_for_each_candidate(columns, message):
    with pytest.raises(ValueError, match=message):
        GroupScores.from_columns(*columns)


def test_a_dimension_is_an_attribute_of_a_score():
    score = mixed().scored[0]
    assert score.style.mean == 2.0 and str(score.style) == "2.00 ± 0.50" and str(DimensionScore(1.0)) == "1.00"
    # A standard deviation that nobody has measured is not shown, however small.
    assert str(DimensionScore(1.0, 0.0001, True)) == "1.00"
    with pytest.raises(AttributeError, match="no dimension 'colour'; this score has: style"):
        _ = score.colour


def test_old_names_work_with_a_warning():
    with pytest.warns(DeprecationWarning, match="editreward.EditScore is editreward.CandidateScore now"):
        assert editreward.EditScore is CandidateScore
    with pytest.warns(DeprecationWarning, match="editreward.evaluation.scorers is editreward.groups now"):
        from editreward.evaluation.scorers import EditGroup as Old
    assert Old is EditGroup


def test_groups_scores_and_the_registry_need_no_torch():
    code = "import sys, editreward, editreward.groups; editreward.load_scorer; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
