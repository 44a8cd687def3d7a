"""Every option of shaping against its formula."""

import math
import statistics

import pytest

from editreward.groups import CandidateScore, DimensionScore, GroupScores, Unscored
from editreward.rewards import Ensemble, Gate, Shaping
from editreward.scorers.ensemble import Standardisation

MEANS = [(1.0, 4.0), (3.0, 2.0), (2.5, 2.5)]
STDS = [(0.5, 0.1), (0.2, 0.3), (0.0, 1.0)]
PREFERENCES = [[0.5, 0.2, 0.9], [0.8, 0.5, 0.6], [0.1, 0.4, 0.5]]


def group(means=MEANS, stds=STDS, preferences=PREFERENCES):
    """Scores of edits with dimensions "a" and "b", whose reward is 10 a + b with the standard deviation 7."""
    scores = [
        CandidateScore({"a": DimensionScore(a, sa), "b": DimensionScore(b, sb)}, 10 * a + b, 7.0)
        for (a, b), (sa, sb) in zip(means, stds, strict=True)
    ]
    return GroupScores(tuple(scores), preferences)


def shaped(shaping, *answers):
    values, failed = shaping(answers or [group()])
    assert failed == {}
    return values.tolist()


def test_without_options_the_reward_is_the_scorers():
    assert shaped(Shaping()) == [14.0, 32.0, 27.5]


def test_dimension_weights_are_a_weighted_sum():
    assert shaped(Shaping(dimension_weights={"a": 0.25, "b": -2.0})) == pytest.approx([-7.75, -3.25, -4.375])


def test_a_dimension_that_is_not_named_has_no_weight():
    assert shaped(Shaping(dimension_weights={"b": 1.0})) == [4.0, 2.0, 2.5]


def test_the_lower_bound_is_the_mean_minus_k_standard_deviations():
    assert shaped(Shaping(lower_bound=2)) == pytest.approx([0.0, 18.0, 13.5])
    weights = {"a": 0.25, "b": -2.0}
    expected = [
        0.25 * a - 2 * b - 1.5 * math.sqrt(0.0625 * sa**2 + 4 * sb**2)
        for (a, b), (sa, sb) in zip(MEANS, STDS, strict=True)
    ]
    assert shaped(Shaping(dimension_weights=weights, lower_bound=1.5)) == pytest.approx(expected)


def test_the_lower_bound_needs_standard_deviations():
    with pytest.raises(ValueError, match="`lower_bound` needs standard deviations"):
        Shaping(lower_bound=1)([GroupScores([1.0, 2.0])])


def test_the_win_rate_is_the_mean_probability_to_beat_another():
    assert shaped(Shaping(win_rate=True)) == pytest.approx([(0.2 + 0.9) / 2, (0.8 + 0.6) / 2, (0.1 + 0.4) / 2])


def test_the_win_rate_leaves_unscored_edits_out():
    candidates = (Unscored("broken"), *group().candidates[1:])
    values, failed = Shaping(win_rate=True)([GroupScores(candidates, PREFERENCES)])
    assert math.isnan(values[0]) and values[1:].tolist() == pytest.approx([0.6, 0.4])
    assert failed == {0: "broken"}


def test_a_win_rate_of_one_edit_is_no_number():
    values, failed = Shaping(win_rate=True)([GroupScores(group().candidates[:1], [[0.5]])])
    assert math.isnan(values[0]) and "two" in failed[0]


def test_scale_and_offset_then_clip():
    assert shaped(Shaping(scale=0.1, offset=-2)) == pytest.approx([-0.6, 1.2, 0.75])
    assert shaped(Shaping(scale=0.1, offset=-2, clip=(-0.5, 1.0))) == pytest.approx([-0.5, 1.0, 0.75])


def test_the_gate_replaces_what_is_below_the_floor_after_all_else():
    gate = Gate("b", floor=2.5, value=-9.0)
    assert shaped(Shaping(scale=0.1, clip=(0, 2.8), gate=gate)) == pytest.approx([1.4, -9.0, 2.75])


OTHER = group([(2.0, 0.0), (1.0, 0.0), (0.0, 5.0)], preferences=[[0.5, 0.6, 0.7], [0.4, 0.5, 0.8], [0.3, 0.2, 0.5]])
STANDARD = (Standardisation(20.0, 10.0), Standardisation(10.0, 5.0))
COLUMNS = [((14 - 20) / 10, (20 - 10) / 5), (1.2, 0.0), (0.75, -1.0)]


@pytest.mark.parametrize(
    ("combine", "formula"),
    [
        ("mean", statistics.fmean),
        ("minimum", min),
        ("lower", lambda both: statistics.fmean(both) - 0.5 * statistics.pstdev(both)),
    ],
)
def test_an_ensemble_of_standardised_rewards(combine, formula):
    shaping = Shaping(ensemble=Ensemble(combine, 0.5, STANDARD))
    assert shaped(shaping, group(), OTHER) == pytest.approx([formula(both) for both in COLUMNS])


def test_an_ensemble_of_win_rates_needs_no_standardisation():
    shaping = Shaping(win_rate=True, ensemble=Ensemble("minimum"))
    shaping.check([("a", "b")] * 2, [None, None])
    assert shaped(shaping, group(), OTHER) == pytest.approx([0.55, 0.6, 0.25])


def test_what_one_scorer_cannot_score_the_ensemble_cannot_either():
    candidates = (*OTHER.candidates[:2], Unscored("no answer"))
    values, failed = Shaping(ensemble=Ensemble())([group(), GroupScores(candidates)])
    assert math.isnan(values[2]) and failed == {2: "no answer"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lower_bound": -1}, "`lower_bound` is -1"),
        ({"scale": 0}, "`scale` is 0"),
        ({"clip": (1, 0)}, "`clip` goes from 1 to 0"),
        ({"dimension_weights": {"a": 0.0}}, "all zero"),
        ({"win_rate": True, "lower_bound": 1}, "`win_rate` replaces"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Shaping(**options)


@pytest.mark.parametrize(
    ("shaping", "scales", "message"),
    [
        (Shaping(dimension_weights={"c": 1.0}), [None], "names 'c', which is no dimension here: a, b"),
        (Shaping(gate=Gate("c", 1)), [None], "`gate` names 'c'"),
        (Shaping(), [None, None], "There are 2 scorers"),
        (Shaping(ensemble=Ensemble()), [None], "There is 1 scorer"),
        (Shaping(ensemble=Ensemble()), [(1, 4), (0, 10)], "Scorers without a common scale"),
        (Shaping(ensemble=Ensemble(standardisation=STANDARD[:1])), [None, None], "1 standardisations for 2"),
    ],
)
def test_options_that_do_not_fit_the_scorers_are_refused(shaping, scales, message):
    with pytest.raises(ValueError, match=message):
        shaping.check([("a", "b")] * len(scales), scales)


def test_a_file_has_all_options(tmp_path):
    shaping = Shaping(
        dimension_weights={"a": 0.5, "b": 0.5},
        lower_bound=1.0,
        ensemble=Ensemble("lower", 2.0, STANDARD),
        scale=0.25,
        offset=-0.5,
        clip=(0.0, 1.0),
        gate=Gate("b", 2.0, -1.0),
    )
    shaping.save(tmp_path / "shaping.yaml")
    assert Shaping.read(tmp_path / "shaping.yaml") == shaping


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lower_bonud: 1", "lower_bonud is unknown"),
        ("gate: {dimension: a}", "floor is missing"),
        ("gate: {dimension: a, floor: .nan}", "floor must be a number"),
        ("clip: [1, 0]", "`clip` goes from 1 to 0"),
        ("ensemble: {combine: median}", "'median'"),
        ("ensemble: {standardisation: [{mean: 0, std: 0}]}", "must be positive"),
        ("- 1", "must have entries"),
    ],
)
def test_a_wrong_file_is_refused_with_the_entry(tmp_path, text, named):
    path = tmp_path / "shaping.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="shaping.yaml") as error:
        Shaping.read(path)
    assert named in str(error.value)
