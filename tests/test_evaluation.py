"""Metrics, calibration and the evaluation on simulated groups."""

import math
from dataclasses import asdict
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editreward.evaluation import calibration_error, fit_calibration, pair_accuracy, strict_ranking_accuracy
from editreward.evaluation.metrics import share_of
from editreward.evaluation.simulated import (
    Judgements,
    TestSet,
    evaluate,
    report_table,
    shuffled_instructions,
)
from editreward.simulation import groups_hash, simulate_groups

GROUPS = st.lists(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 4)), min_size=1, max_size=6), min_size=1, max_size=5
)


@settings(max_examples=200, deadline=None)
@given(GROUPS)
def test_pair_accuracy_counts_every_pair_of_different_truth_once(groups):
    pairs = [pair for group in groups for pair in combinations(group, 2) if pair[0][1] != pair[1][1]]
    right = sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs)
    share = pair_accuracy([[s for s, _ in g] for g in groups], [[t for _, t in g] for g in groups])
    assert share.total == len(pairs)
    if pairs:
        assert share.value == pytest.approx(right / len(pairs))


@settings(max_examples=200, deadline=None)
@given(GROUPS, st.integers(2, 4))
def test_strict_ranking_counts_every_tuple_of_distinct_truths(groups, k):
    tuples = [chosen for group in groups for chosen in combinations(group, k) if len({t for _, t in chosen}) == k]
    right = 0
    for chosen in tuples:
        right += all((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in combinations(chosen, 2))
    share = strict_ranking_accuracy([[s for s, _ in g] for g in groups], [[t for _, t in g] for g in groups], k)
    assert share.total == len(tuples)
    if tuples:
        assert share.value == pytest.approx(right / len(tuples))


def test_random_scores_rank_a_tuple_with_probability_one_in_k_factorial():
    truths = [[1, 2, 3, 4]] * math.factorial(4)
    scores = [list(order) for order in permutations(range(4))]
    assert strict_ranking_accuracy(scores, truths, 4).value == pytest.approx(1 / 24)


def test_pairs_of_one_gap_are_counted_alone():
    share = pair_accuracy([[0, 1, 2]], [[1, 3, 2]], gap=lambda gap: gap == 1)
    assert (share.value, share.total) == (0.5, 2)


def test_the_bootstrap_interval_covers_the_true_share_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        share = share_of(rng.binomial(10, 0.7, size=60), np.full(60, 10), seed=trial)
        covered += share.low <= 0.7 <= share.high
    assert 180 <= covered <= 199


def test_no_case_gives_nan_and_scores_that_are_not_numbers_are_refused():
    assert math.isnan(pair_accuracy([[1.0, 2.0]], [[3, 3]]).value)
    with pytest.raises(ValueError, match="not numbers"):
        pair_accuracy([[1.0, math.nan]], [[1, 2]])


def test_calibration_is_the_least_squares_line():
    rng = np.random.default_rng(1)
    means = rng.normal(size=500)
    scores = 2.5 + 0.7 * means + rng.normal(scale=0.3, size=500)
    calibration = fit_calibration(means, scores)
    slope, intercept = np.polyfit(means, scores, 1)
    assert calibration == pytest.approx({"intercept": intercept, "slope": slope})
    error = calibration_error(intercept + slope * means, np.full(500, 0.3), scores, scores.mean())
    assert error.rmse == pytest.approx(0.3, rel=0.1)
    assert error.rmse_of_mean == pytest.approx(scores.std())
    assert error.coverage == pytest.approx(0.95, abs=0.03)


def test_a_calibration_that_would_turn_the_ranking_around_is_refused():
    with pytest.raises(ValueError, match="slope"):
        fit_calibration([1.0, 2.0, 3.0], [3, 2, 1])
    with pytest.raises(ValueError, match="slope"):
        fit_calibration([1.0, 1.0], [3, 2])


def perfect(groups):
    truth = {
        name: [np.array([c.scores[name] for c in group.candidates], dtype=float) for group in groups]
        for name in ("instruction_following", "visual_quality")
    }
    reward = [np.sum(pair, axis=0) for pair in zip(*truth.values(), strict=True)]
    std = {name: [np.ones_like(values) for values in groups] for name, groups in truth.items()}
    return Judgements(reward=reward, mean=truth, std=std, truth=truth)


def test_a_perfect_judge_is_perfect_in_every_subset():
    groups = list(simulate_groups(60, "test"))
    result = evaluate(perfect(groups), groups)
    for name in ("overall", "instruction_following", "visual_quality"):
        assert result[name]["accuracy"]["value"] == 1
        for key in ("by_category", "by_language", "by_novelty", "by_gap"):
            assert sum(share["total"] for share in result[name][key].values()) == result[name]["accuracy"]["total"]
            assert all(share["value"] == 1 for share in result[name][key].values())
    assert result["strict_ranking"]["4"]["value"] == 1
    assert {"1", "2", "3"} == set(result["visual_quality"]["by_gap"])
    assert "| recolour | 100.0 %" in report_table(result)


def test_shuffled_instructions_are_all_from_other_groups():
    groups = list(simulate_groups(40, "test"))
    shuffled = shuffled_instructions(groups)
    assert sorted(shuffled) == sorted(group.instruction for group in groups)
    own = [a == group.instruction for a, group in zip(shuffled, groups, strict=True)]
    assert sum(own) <= 1  # two groups may have the same instruction


def test_a_test_set_is_refused_when_its_hash_differs():
    described = TestSet("test", 5, 3, 84, 0, groups_hash(simulate_groups(5, "test", candidates=3, size=84)))
    assert [group.group_id for group in described.load()] == [f"simulated-test-{i:06d}" for i in range(5)]
    with pytest.raises(ValueError, match="hash"):
        TestSet(**{**asdict(described), "seed": 1}).load()
