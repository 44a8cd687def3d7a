"""Metrics, calibration and the evaluation on simulated groups."""

import math
from dataclasses import asdict, replace
from itertools import combinations, permutations
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editreward.benchmarks.near_misses import NearMissSet
from editreward.benchmarks.simulated_test_set import (
    Judgements,
    TestSet,
    evaluate,
    report_table,
    shuffled_instructions,
)
from editreward.simulation import ARTEFACTS, groups_hash, simulate_groups
from editreward.statistics import (
    accuracy_with_ties,
    calibrate_groups,
    calibration_error,
    conformal_factor,
    expected_calibration_error,
    fit_calibration,
    pair_accuracy,
    rank_correlation,
    share_of,
    strict_ranking_accuracy,
)

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
    with pytest.raises(ValueError, match="scores of group 0: row 1 is nan"):
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


@pytest.mark.parametrize("mean", [0.0, -700.0, 1e-9])
def test_scores_that_are_the_same_but_for_rounding_are_no_scores(mean):
    means = np.float32(mean) * (1 + np.finfo(np.float32).eps * np.arange(8))
    with pytest.raises(ValueError, match="All its scores are"):
        fit_calibration(means, np.linspace(1, 4, 8) * (-1 if mean < 0 else 1))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-1, 1)), min_size=1, max_size=30))
def test_accuracy_with_ties_is_the_best_over_all_thresholds(pairs):
    def right(threshold):
        return sum((0 if abs(d) <= threshold else np.sign(d)) == truth for d, truth in pairs)

    accuracy, threshold = accuracy_with_ties(*zip(*pairs, strict=True))
    assert accuracy == pytest.approx(max(right(t) for t in range(5)) / len(pairs))
    assert accuracy == pytest.approx(right(threshold) / len(pairs))


def test_probabilities_that_come_true_as_often_as_they_say_have_no_calibration_error():
    sharp = [0.9] * 90 + [0.1] * 10
    assert expected_calibration_error(sharp) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error([0.5] * 7) == 0
    # Half of these are right.
    assert expected_calibration_error([0.9] * 5 + [0.1] * 5) == pytest.approx(0.4)
    # Bins weigh as their pairs: 10 pairs off by 0.4, 30 off by 0.05.
    assert expected_calibration_error([0.9] * 5 + [0.1] * 5 + [0.65] * 21 + [0.35] * 9) == pytest.approx(5.5 / 40)


def annotated(rng, groups=40):
    """Groups whose scores follow a line, but for noise and an offset of each group."""
    means = [rng.normal(size=rng.integers(2, 8)) for _ in range(groups)]
    offsets = rng.normal(scale=0.2, size=groups)
    noise = [rng.normal(scale=0.1, size=len(mean)) for mean in means]
    scores = [np.clip(2.5 + 0.4 * m + o + n, 1, 4).round(6) for m, o, n in zip(means, offsets, noise, strict=True)]
    return means, [np.full(len(mean), 0.5) for mean in means], scores


def test_groups_are_calibrated_on_all_and_judged_on_groups_that_the_fit_did_not_see():
    means, stds, scores = annotated(np.random.default_rng(2))
    scores[0][0] = np.nan
    line, error = calibrate_groups(means, stds, scores)
    known = ~np.isnan(np.concatenate(scores))
    flat_means, flat_scores = np.concatenate(means)[known], np.concatenate(scores)[known]
    slope, intercept = np.polyfit(flat_means, flat_scores, 1)
    assert [line[name] for name in ("intercept", "slope", "groups")] == pytest.approx([intercept, slope, 40])

    squares, of_mean, ratios = [], [], []
    for fold in range(5):
        chosen = np.concatenate([np.full(len(mean), i % 5 == fold) for i, mean in enumerate(means)])[known]
        slope, intercept = np.polyfit(flat_means[~chosen], flat_scores[~chosen], 1)
        difference = intercept + slope * flat_means[chosen] - flat_scores[chosen]
        squares.append(difference**2)
        of_mean.append((flat_scores[~chosen].mean() - flat_scores[chosen]) ** 2)
        of_fold = [len(mean) - (i == 0) for i, mean in enumerate(means) if i % 5 == fold]
        ratios.append(np.split(abs(difference) / (0.5 * slope), np.cumsum(of_fold)[:-1]))
    assert error.rmse == pytest.approx(np.sqrt(np.concatenate(squares).mean()))
    assert error.rmse_of_mean == pytest.approx(np.sqrt(np.concatenate(of_mean).mean()))
    assert line["std_factor"] == pytest.approx(
        quantile_over_groups([r for fold in ratios for r in fold], 0.95) / 1.96, rel=1e-4
    )
    inside = []
    for fold in range(5):
        others = [r for other in range(5) if other != fold for r in ratios[other]]
        inside.append(np.concatenate(ratios[fold]) <= quantile_over_groups(others, 0.95))
    assert error.coverage == line["coverage_95"] == pytest.approx(np.concatenate(inside).mean())
    assert error.std_correlation == pytest.approx(0, abs=0.3)


def test_standard_deviations_of_which_some_are_nearly_none_are_not_made_wider_than_the_scale():
    means, stds, scores = annotated(np.random.default_rng(2))
    for std in stds[::8]:
        std[:] = 1e-9
    line, _ = calibrate_groups(means, stds, scores)
    assert "std_factor" not in line


def quantile_over_groups(ratios, level):
    """By brute force: the smallest ratio such that groups, and one more at infinity, have the level below it."""
    for value in sorted(np.concatenate(ratios)):
        if sum(np.mean(np.asarray(group) <= value + 1e-12) for group in ratios) / (len(ratios) + 1) >= level - 1e-12:
            return value
    return None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=30),
    st.sampled_from([0.5, 0.8, 0.95]),
)
def test_the_factor_is_the_conformal_quantile_over_groups(ratios, level):
    found = conformal_factor([np.array(group, dtype=float) for group in ratios], level)
    wanted = quantile_over_groups(ratios, level)
    assert (found is None) == (wanted is None)
    if wanted is not None:
        assert found == pytest.approx(wanted / NormalDist().inv_cdf((1 + level) / 2))


def test_intervals_of_new_groups_hold_what_they_promise_though_sigma_was_a_hundred_times_too_small():
    rng = np.random.default_rng(5)

    def drawn(groups):
        """Groups with an offset of their own; the standard deviations tell how noisy a candidate is."""
        means = [rng.normal(size=6) for _ in range(groups)]
        sizes = [rng.choice([0.1, 0.3], size=6) for _ in range(groups)]
        scores = [
            np.clip(2.5 + 0.2 * m + rng.normal(scale=0.1) + rng.normal(scale=s), 1, 4)
            for m, s in zip(means, sizes, strict=True)
        ]
        return means, [s / 100 for s in sizes], scores

    line, error = calibrate_groups(*drawn(200))
    new = [np.concatenate(column) for column in zip(*(zip(*drawn(2000), strict=True)), strict=True)]
    means, stds, scores = new
    again = calibration_error(
        line["intercept"] + line["slope"] * means, line["slope"] * line["std_factor"] * stds, scores, 2.5
    )
    assert again.coverage == pytest.approx(0.95, abs=0.02) and error.coverage == pytest.approx(0.95, abs=0.02)
    assert again.coverage_50 == pytest.approx(error.coverage_50, abs=0.05)
    assert again.std_correlation == pytest.approx(line["std_correlation"], abs=0.1) and again.std_correlation > 0.2


def test_too_few_groups_for_the_level_give_no_factor_and_standard_deviations_stay_as_they_are():
    line, error = calibrate_groups(*annotated(np.random.default_rng(2), groups=22))
    assert sorted(line) == ["groups", "intercept", "slope"]
    assert conformal_factor([np.ones(3)] * 18) is None and conformal_factor([np.ones(3)] * 19) is not None
    assert conformal_factor([np.zeros(3)] * 40) is None and conformal_factor([]) is None


def test_the_rank_correlation_is_spearman_s():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(6)
    first, second = rng.integers(0, 5, size=60), rng.integers(0, 5, size=60)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) == 0


def test_groups_that_cannot_calibrate_say_why():
    means, stds, scores = annotated(np.random.default_rng(3))
    with pytest.raises(ValueError, match="only preferences"):
        calibrate_groups(means, stds, [np.full_like(score, np.nan) for score in scores])
    with pytest.raises(ValueError, match="only 4 groups"):
        calibrate_groups(means[:4], stds[:4], scores[:4])
    with pytest.raises(ValueError, match=r"scores run from .* to .*, which is not"):
        calibrate_groups(means, stds, [2 * score for score in scores])
    with pytest.raises(ValueError, match="slope"):
        calibrate_groups([-mean for mean in means], stds, scores)


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


def test_a_judge_that_sees_no_seams_errs_about_seams_alone():
    groups = list(simulate_groups(60, "test"))
    blind = perfect(groups)
    for group, quality in zip(groups, blind.mean["visual_quality"], strict=True):
        quality[[edit.artefact == "seams" for edit in group.candidates]] = 4
    result = evaluate(replace(blind, truth=perfect(groups).truth), groups)
    by_artefact = result["visual_quality"]["by_artefact"]
    assert set(by_artefact) == set(ARTEFACTS)
    assert {name for name, share in by_artefact.items() if share["value"] < 1} == {"seams"}
    assert by_artefact["seams"]["value"] == 0
    assert "by_artefact" not in result["instruction_following"]
    assert "| clean, seams | - | - | 0.0 %" in report_table(result)


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


@pytest.mark.parametrize("kind", [TestSet, NearMissSet])
def test_another_file_describes_no_set(tmp_path, kind):
    file = tmp_path / "x.json"
    for text, message in (
        ('{"split": "test", "tuples": 5}', "x.json does not describe .*: it holds split, tuples. It needs .*, sha256"),
        ("[1]", "it holds a list"),
        ("split: test", "x.json is no JSON file"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            kind.from_json(file)
