"""Metrics against brute force, scipy, scikit-learn and simulation, and on degenerate data."""

import math
from dataclasses import astuple
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_array
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from editreward.statistics import (
    accuracy_at_threshold,
    accuracy_with_ties,
    accuracy_without_ties,
    bootstrap,
    brier_score,
    coin_floor,
    compare,
    compare_shares,
    correlation,
    dimension_metrics,
    expected_calibration_error,
    fisher_average,
    grouped_correlation,
    human_to_human,
    interval_coverage,
    log_loss,
    macro_share,
    mean_of_groups,
    mean_then_tanh,
    near_tie_accuracy,
    pair_metrics,
    random_scores_floor,
    relations_of_scores,
    reliability_bins,
    share_of,
    share_of_rows,
    shares_by,
    tuned_random_accuracy,
    tuple_accuracy,
    tuple_outcomes,
    z_normalised,
    z_normalised_correlation,
)
from editreward.statistics.resampling import ratio_estimates

PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.integers(-1, 1)), min_size=1, max_size=30)
NAN = math.nan

# Tuples of TIGER-Lab's EditReward-Bench, and the row of random answers in table 2 of the paper, in percent.
TUPLES = {2: 186, 3: 150, 4: 148}
PUBLISHED_RANDOM = {2: 25.81, 3: 11.33, 4: 1.35, "overall": 13.84}


# Pairs


@settings(max_examples=200, deadline=None)
@given(PAIRS, st.integers(0, 4))
def test_accuracies_count_pairs(pairs, threshold):
    differences, truths = zip(*pairs, strict=True)
    right = [(0 if abs(d) <= threshold else np.sign(d)) == t for d, t in pairs]
    share = accuracy_at_threshold(differences, truths, threshold)
    assert (share.value, share.total) == (pytest.approx(np.mean(right)), len(pairs))
    ordered = [d * t > 0 for d, t in pairs if t]
    share = accuracy_without_ties(differences, truths)
    assert share.total == len(ordered)
    assert share.value == pytest.approx(np.mean(ordered)) if ordered else math.isnan(share.value)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e300, 1e300), st.integers(-1, 1)), min_size=1, max_size=30))
def test_no_threshold_is_better_than_the_best_and_no_smaller_one_is_as_good(pairs):
    differences, truths = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))

    def right(threshold):
        return int((np.where(np.abs(differences) <= threshold, 0, np.sign(differences)) == truths).sum())

    accuracy, threshold = accuracy_with_ties(differences, truths)
    tried = sorted({0.0, *np.abs(differences), *np.nextafter(np.abs(differences), np.inf)})
    best = max(map(right, tried))
    assert accuracy == best / len(pairs)
    assert threshold == min(t for t in tried if right(t) == best)


def test_ties_only_and_constant_scores_and_one_pair_and_none():
    assert accuracy_with_ties([3.0, -2.0, 0.5], [0, 0, 0]) == (1, 3)
    assert accuracy_with_ties([0.0, 0.0, 0.0], [1, -1, 0]) == (pytest.approx(1 / 3), 0)
    assert accuracy_with_ties([2.0], [1]) == (1, 0)
    assert accuracy_with_ties([2.0], [-1]) == (0, 0)
    nothing = pair_metrics([], [])
    assert all(math.isnan(number) for number in (*accuracy_with_ties([], []), nothing.tie_threshold))
    assert (nothing.with_ties.total, nothing.without_ties.total) == (0, 0)
    assert math.isnan(accuracy_without_ties([1.0, 2.0], [0, 0]).value)


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize(
    "metric",
    [
        lambda values: accuracy_with_ties(values, [1, 0, -1]),
        lambda values: accuracy_without_ties(values, [1, 0, -1]),
        lambda values: accuracy_at_threshold(values, [1, 0, -1], 0.5),
        lambda values: near_tie_accuracy(values, [1, 0, -1]),
        lambda values: tuple_accuracy(values, [1, 1, -1], "aaa", [3, 3, 3]),
        lambda values: dimension_metrics({"quality": values}, {"quality": [1, 0, -1]}),
        lambda values: correlation(values, [1, 2, 3]),
        lambda values: grouped_correlation([1, 2, 3], values, "aab"),
        lambda values: z_normalised_correlation(values, [1, 2, 3], "aaa"),
        lambda values: expected_calibration_error(values),
        lambda values: reliability_bins(values),
        lambda values: brier_score(values),
        lambda values: log_loss(values),
        lambda values: interval_coverage(values, [1, 1, 1], [1, 2, 3]),
        lambda values: compare(lambda scores, rows: scores.mean(), values, [1, 2, 3]),
    ],
)
def test_scores_that_are_not_finite_are_refused_with_their_row(metric, bad):
    with pytest.raises(ValueError, match=r"row 1 is -?(nan|inf)"):
        metric([0.5, bad, 0.5])


def test_other_wrong_arguments_are_refused_with_their_row():
    with pytest.raises(ValueError, match="truths: row 1 is 2"):
        accuracy_with_ties([1.0, 2.0], [1, 2])
    with pytest.raises(ValueError, match=r"truths must have the shape \(2,\), not \(1,\)"):
        accuracy_with_ties([1.0, 2.0], [1])
    with pytest.raises(ValueError, match="threshold is -1"):
        accuracy_at_threshold([1.0], [1], -1)
    with pytest.raises(ValueError, match="3 groups are given for 1 rows"):
        accuracy_without_ties([1.0], [1], groups="abc")
    with pytest.raises(ValueError, match="no scores for quality; there are scores for following"):
        dimension_metrics({"following": [1.0]}, {"following": [1], "quality": [1]})
    with pytest.raises(ValueError, match="row 1 is 1.5, which is not between 0 and 1"):
        brier_score([0.5, 1.5])
    with pytest.raises(ValueError, match="second: row 0 is 0.5"):
        compare_shares([1], [0.5])
    with pytest.raises(ValueError, match="'pearson'"):
        correlation([1, 2], [1, 2], "pearson")


def test_a_dimension_is_judged_where_it_has_a_truth():
    truth = relations_of_scores([3.3333, 2.0, NAN, 1.0], [3.33333, 1.0, 2.0, 2.5])
    assert truth.tolist()[:2] + truth.tolist()[3:] == [0, 1, -1]
    assert math.isnan(truth[2])
    found = dimension_metrics({"a": [0.1, 1, 5, 1], "b": [1, 1, 1, 1]}, {"a": truth}, groups=list("xxyy"))
    assert found.keys() == {"a"}
    assert (found["a"].without_ties.value, found["a"].without_ties.total) == (0.5, 2)
    assert found["a"].with_ties.value == pytest.approx(2 / 3)
    assert (found["a"].with_ties.total, found["a"].tie_threshold) == (3, 0.1)


def test_a_near_tie_needs_almost_equal_scores_and_a_preference_needs_none_of_it():
    found = near_tie_accuracy([1.0, 1e-7, -1.0, 0.0, 1e-6, -1e-5, 0.0], [1, 1, 1, 1, 0, 0, 0])
    assert (found.preferences.value, found.preferences.total) == (0.5, 4)
    assert (found.ties.value, found.ties.total) == (pytest.approx(2 / 3), 3)
    assert (found.together.value, found.together.total) == (pytest.approx(4 / 7), 7)


# Tuples


def random_tuples(rng, count, tied=0.3):
    """Rows of tuples of 2, 3 and 4 whose candidates have few different scores: difference, truth, tuple, K."""
    rows = []
    for number in range(count):
        k = int(rng.integers(2, 5))
        truth, score = rng.permutation(k), rng.integers(0, 5, size=k)
        tie = k == 2 and rng.random() < tied
        for a, b in combinations(range(k), 2):
            rows.append((score[a] - score[b], 0 if tie else np.sign(truth[a] - truth[b]), f"t{number}", k))
    rng.shuffle(rows)
    differences, truths, tuples, sizes = zip(*rows, strict=True)
    return np.array(differences, dtype=float), np.array(truths, dtype=float), list(tuples), np.array(sizes, dtype=int)


def brute_force_tuples(differences, truths, tuples, sizes):
    """By the protocol's words, with every threshold tried."""
    differences, truths, sizes = (column.astype(float) for column in (differences, truths, sizes))
    rows = list(zip(differences, truths, tuples, sizes, strict=True))
    best = 0
    for threshold in {0.0, *map(abs, differences)}:
        right = sum((0 if abs(d) <= threshold else np.sign(d)) == t for d, t, _, k in rows if k == 2)
        best = max(best, right)
    strict, pairwise = {2: best}, {2: best}
    for k in (3, 4):
        of_k = [row for row in rows if row[3] == k]
        pairwise[k] = sum(d * t > 0 for d, t, _, _ in of_k)
        strict[k] = sum(all(d * t > 0 for d, t, i, _ in of_k if i == name) for name in {i for _, _, i, _ in of_k})
    return strict, pairwise


@pytest.mark.parametrize("seed", range(10))
def test_tuples_are_right_if_all_their_pairs_are(seed):
    rows = random_tuples(np.random.default_rng(seed), 60)
    strict, pairwise = brute_force_tuples(*rows)
    found = tuple_accuracy(*rows)
    for k in (2, 3, 4):
        count = len({name for name, size in zip(rows[2], rows[3], strict=True) if size == k})
        assert (found.strict[k].value, found.strict[k].total) == (pytest.approx(strict[k] / count), count)
        assert found.pairwise[k].total == count * k * (k - 1) // 2
        assert found.pairwise[k].value * found.pairwise[k].total == pytest.approx(pairwise[k])
    assert (found.overall.value, found.overall.total) == (pytest.approx(sum(strict.values()) / 60), 60)
    assert found.pairwise_overall.value == pytest.approx(sum(pairwise.values()) / len(rows[0]))
    of_two = rows[3] == 2
    assert found.tie_threshold == accuracy_with_ties(rows[0][of_two], rows[1][of_two])[1]


def test_the_tie_threshold_of_pairs_leaves_larger_tuples_alone():
    # The best threshold for the two tuples of 2 is 1; the tuple of 3 has smaller differences, all in the right order.
    differences, truths = [1.0, 2.0, 0.1, 0.2, 0.1], [0, 1, 1, 1, 1]
    found = tuple_outcomes(differences, truths, ["a", "b", "c", "c", "c"], [2, 2, 3, 3, 3])
    assert (found.tuples, found.tie_threshold) == (["a", "b", "c"], 1)
    assert found.right.all() and found.pair_right.all()
    given = tuple_outcomes(differences, truths, ["a", "b", "c", "c", "c"], [2, 2, 3, 3, 3], threshold=0.5)
    assert given.right.tolist() == [False, True, True]
    # Equal scores are no strict order.
    assert not tuple_outcomes([0.0, 1.0, 1.0], [1, 1, 1], "aaa", [3, 3, 3]).right.any()


def test_incomplete_tuples_are_refused_by_name():
    with pytest.raises(ValueError, match="tuple 'b' has 2 pairs, but K = 3 needs 3"):
        tuple_outcomes([1.0, 1.0, 1.0], [1, 1, 1], ["a", "b", "b"], [2, 3, 3])
    with pytest.raises(ValueError, match=r"tuple 'b' has pairs of different K: \[2, 3\]"):
        tuple_outcomes([1.0, 1.0, 1.0], [1, 1, 1], ["a", "b", "b"], [2, 3, 2])
    nothing = tuple_accuracy([], [], [], [])
    assert (nothing.strict, nothing.overall.total) == ({}, 0)
    assert math.isnan(nothing.tie_threshold)


# Chance


def simulated_tuples(rng, tuples, ties, coin):
    """Shares of right tuples by K, and of the pool, for random scores or a coin per pair."""
    differences, truths, names, sizes, verdicts = [], [], [], [], []
    for k, count in tuples.items():
        for number in range(count):
            score = rng.normal(size=k)
            tie = k == 2 and number < ties
            for a, b in combinations(range(k), 2):
                differences.append(score[a] - score[b])
                truths.append(0 if tie else 1)
                names.append((k, number))
                sizes.append(k)
                # Better, worse, both good, both bad: either kind of tie is right where people saw one.
                verdicts.append(rng.integers(4) in ((2, 3) if tie else (0,)) if k == 2 else rng.integers(2) == 0)
    if not coin:
        found = tuple_outcomes(differences, truths, names, sizes)
        return [*(found.right[found.sizes == k].mean() for k in tuples), found.right.mean()]
    right = {}
    for name, verdict in zip(names, verdicts, strict=True):
        right[name] = right.get(name, True) and verdict
    by_k = [np.mean([value for (size, _), value in right.items() if size == k]) for k in tuples]
    return [*by_k, np.mean(list(right.values()))]


@pytest.mark.parametrize("coin", [False, True])
def test_simulated_chance_reaches_the_floors(coin):
    rng = np.random.default_rng(5)
    tuples, ties = {2: 20, 3: 15, 4: 15}, 6
    simulated = np.array([simulated_tuples(rng, tuples, ties, coin) for _ in range(400)])
    floor = (coin_floor if coin else random_scores_floor)(tuples, ties)
    error = simulated.std(axis=0) / math.sqrt(len(simulated))
    expected = [*floor.by_k.values(), floor.overall]
    assert (np.abs(simulated.mean(axis=0) - expected) < 4 * error).all()


def test_floors_have_the_values_that_one_can_count():
    assert coin_floor(TUPLES).by_k == {2: 1 / 4, 3: 1 / 8, 4: 1 / 64}
    assert coin_floor(TUPLES, ties=186).by_k[2] == 1 / 2
    assert coin_floor(TUPLES, ties=60, verdicts=3).by_k[2] == pytest.approx(1 / 3)
    assert coin_floor(TUPLES, ties=93, verdicts=2).by_k[2] == 1 / 4  # who never says "tie"
    assert coin_floor(TUPLES).overall == pytest.approx((186 / 4 + 150 / 8 + 148 / 64) / 484)
    floor = random_scores_floor(TUPLES, ties=60)
    assert (floor.by_k[3], floor.by_k[4]) == (1 / 6, 1 / 24)
    assert floor.overall == pytest.approx((186 * floor.by_k[2] + 150 / 6 + 148 / 24) / 484)
    assert math.isnan(coin_floor({}).overall)
    with pytest.raises(ValueError, match="tuple of 1"):
        coin_floor({1: 5})
    for floor_of in (random_scores_floor, coin_floor):
        with pytest.raises(ValueError, match="3 of 2"):
            floor_of({2: 2}, ties=3)


def every_tuned_accuracy(pairs, ties):
    """Mean over all orders of |difference| and all outcomes of the pairs that are no tie."""
    values = []
    for tied in combinations(range(pairs), ties):
        others = [place for place in range(pairs) if place not in tied]
        for signs in product((-1, 1), repeat=len(others)):
            differences = np.arange(1.0, pairs + 1)
            differences[others] *= signs
            values.append(accuracy_with_ties(differences, [int(place not in tied) for place in range(pairs)])[0])
    return np.mean(values)


@pytest.mark.parametrize(("pairs", "ties"), [(1, 0), (1, 1), (4, 0), (4, 4), (5, 2), (6, 4), (7, 3)])
def test_tuned_random_accuracy_is_the_mean_over_all_that_can_happen(pairs, ties):
    assert tuned_random_accuracy(pairs, ties) == pytest.approx(every_tuned_accuracy(pairs, ties))


def test_tuned_random_accuracy_tends_to_all_or_nothing_tied():
    assert tuned_random_accuracy(4000, 2400) == pytest.approx(0.6, abs=0.01)
    assert tuned_random_accuracy(4000, 400) == pytest.approx(0.45, abs=0.01)
    assert 1 / 3 < tuned_random_accuracy(3000, 1000) < 0.36
    assert math.isnan(tuned_random_accuracy(0, 0))


def test_the_published_random_row_fits_the_coin_and_not_random_scores():
    right = {k: round(PUBLISHED_RANDOM[k] / 100 * count) for k, count in TUPLES.items()}
    for k, count in TUPLES.items():
        assert 100 * right[k] / count == pytest.approx(PUBLISHED_RANDOM[k], abs=0.005)
        assert stats.binomtest(right[k], count, coin_floor(TUPLES).by_k[k]).pvalue > 0.5
    # Its overall is the pool of its parts, which random scores reach with no share of ties.
    assert 100 * sum(right.values()) / 484 == pytest.approx(PUBLISHED_RANDOM["overall"], abs=0.005)
    least = min((random_scores_floor(TUPLES, ties) for ties in range(187)), key=lambda floor: floor.overall)
    assert 100 * least.overall > 20
    parts = [stats.binom(count, least.by_k[k]).var() for k, count in TUPLES.items()]
    assert (sum(right.values()) - 484 * least.overall) / math.sqrt(sum(parts)) < -3


def test_a_published_overall_that_is_not_the_pool_of_its_parts():
    # EditReward on Qwen2.5-VL-7B: 56.99 / 36.00 / 10.81, overall 36.78.
    right = [106, 54, 16]
    shares = [100 * number / count for number, count in zip(right, TUPLES.values(), strict=True)]
    assert shares == pytest.approx([56.99, 36.00, 10.81], abs=0.006)
    assert 100 * sum(right) / 484 == pytest.approx(36.36, abs=0.005)


# Correlations

ROWS = st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 4)), min_size=2, max_size=25)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_correlations_are_those_of_scipy(rows):
    scores, truths = zip(*rows, strict=True)
    if len(set(scores)) == 1 or len(set(truths)) == 1:
        assert math.isnan(correlation(scores, truths))
        assert math.isnan(correlation(scores, truths, "kendall"))
        return
    assert correlation(scores, truths) == pytest.approx(stats.spearmanr(scores, truths).statistic, abs=1e-12)
    concordant = [np.sign(a[0] - b[0]) * np.sign(a[1] - b[1]) for a, b in combinations(rows, 2)]
    untied = [sum(a[side] != b[side] for a, b in combinations(rows, 2)) for side in (0, 1)]
    assert correlation(scores, truths, "kendall") == pytest.approx(sum(concordant) / math.sqrt(math.prod(untied)))


def test_one_row_and_no_row_have_no_correlation():
    assert math.isnan(correlation([1.0], [2.0]))
    assert math.isnan(correlation([], []))
    found = grouped_correlation([], [], [])
    assert found.by_subset == {}
    assert all(math.isnan(value) for value in (found.fisher, found.mean, found.mean_then_tanh))


def test_fisher_averaging_is_done_in_z():
    rng = np.random.default_rng(0)
    scores, models = rng.normal(size=90), np.repeat(["a", "b", "c"], 30)
    truths = scores + rng.normal(size=90) * np.repeat([0.2, 1.0, 4.0], 30)
    each = [stats.spearmanr(scores[models == name], truths[models == name]).statistic for name in "abc"]
    found = grouped_correlation(scores, truths, models)
    assert list(found.by_subset) == ["a", "b", "c"]
    assert list(found.by_subset.values()) == pytest.approx(each)
    assert found.fisher == pytest.approx(math.tanh(np.mean([0.5 * math.log((1 + r) / (1 - r)) for r in each])))
    assert found.mean == pytest.approx(np.mean(each))
    assert found.mean_then_tanh == pytest.approx(math.tanh(np.mean(each)))
    assert found.mean_then_tanh < found.mean < found.fisher
    assert mean_then_tanh([0.5, 0.5]) == pytest.approx(0.46, abs=0.005)


@pytest.mark.parametrize("method", ["spearman", "kendall"])
def test_a_perfect_correlation_counts_as_half_a_step_below_one(method):
    n = 6
    order = np.arange(n)
    swapped = order.copy()
    swapped[[2, 3]] = swapped[[3, 2]]
    most = (1 + correlation(order, swapped, method)) / 2
    assert fisher_average([1.0], [n], method) == pytest.approx(most)
    assert fisher_average([-1.0], [n], method) == pytest.approx(-most)
    assert fisher_average([1.0, 0.0], [n, n], method) == pytest.approx(math.tanh(math.atanh(most) / 2))
    assert fisher_average([1.0, -1.0], [2, 2], method) == pytest.approx(0, abs=1e-12)
    assert fisher_average([0.5, 0.5], [n, n], method) == pytest.approx(0.5)


def test_constant_scores_count_as_nothing_found_and_constant_truths_not_at_all():
    found = grouped_correlation([1, 2, 3, 7, 7, 7, 1, 2, 5], [1, 3, 2, 1, 2, 3, 4, 4, 1], list("aaabbbccd"))
    assert found.by_subset == {"a": pytest.approx(0.5), "b": 0}
    assert (found.constant_scores, found.constant_truths) == (["b"], ["c", "d"])
    assert found.mean == pytest.approx(0.25)


def test_normalising_within_prompts_takes_their_level_and_spread_away():
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(12), 5)
    truths = rng.normal(size=60)
    normalised = z_normalised(truths, prompts)
    for prompt in range(12):
        assert normalised[prompts == prompt] == pytest.approx(stats.zscore(truths[prompts == prompt]))
    # A score that only differs from the truth in level and scale of each prompt is perfect.
    scores = truths * rng.uniform(0.5, 2, size=12)[prompts] + rng.normal(scale=9, size=12)[prompts]
    assert z_normalised_correlation(scores, truths, prompts) == pytest.approx(1)
    assert correlation(scores, truths) < 0.5
    # A prompt with one truth says nothing; neither do constant scores. 0.1 has no exact mean of three.
    more = np.append(truths, [4.0, 4.0, 4.0])
    found = z_normalised_correlation(np.append(scores, [1, 2, 3]), more, np.append(prompts, [12] * 3))
    assert found == pytest.approx(1)
    assert z_normalised([0.1, 0.1, 0.1, 5.0], "aaab").tolist() == [0, 0, 0, 0]
    assert math.isnan(z_normalised_correlation(np.full(60, 0.1), truths, prompts))
    assert math.isnan(z_normalised_correlation([], [], []))


def test_each_rater_is_compared_with_the_mean_of_the_others():
    rng = np.random.default_rng(2)
    quality = rng.normal(size=40)
    ratings = quality + rng.normal(scale=0.7, size=(3, 40))
    ratings[0, :5] = ratings[1:, 5:8] = NAN
    found = human_to_human(ratings, lambda rating, others, rows: correlation(rating, others))
    for rater in range(3):
        others = [other for other in range(3) if other != rater]
        rows = [
            row for row in range(40) if not np.isnan(ratings[rater, row]) and not np.isnan(ratings[others, row]).all()
        ]
        mean = [np.nanmean(ratings[others, row]) for row in rows]
        assert found.rows[rater] == len(rows)
        assert found.by_rater[rater] == pytest.approx(stats.spearmanr(ratings[rater, rows], mean).statistic)
    assert found.value == pytest.approx(np.mean(found.by_rater))


def test_raters_that_cannot_be_compared():
    def statistic(rating, others, rows):
        return correlation(rating, others)

    found = human_to_human([[1, 2, 3], [1, 2, 3], [5, 5, 5]], statistic)
    assert found.by_rater[:2] == pytest.approx([1, 1])
    assert math.isnan(found.by_rater[2])
    assert found.value == pytest.approx(1)
    alone = human_to_human([[1, NAN], [NAN, 2]], statistic)
    assert math.isnan(alone.value)
    assert alone.rows == [0, 0]
    with pytest.raises(ValueError, match="two raters"):
        human_to_human([[1, 2, 3]], statistic)
    with pytest.raises(ValueError, match="row 1 of rater 0"):
        human_to_human([[1, math.inf], [1, 2]], statistic)


# Probabilities


def oriented(probabilities, rng):
    """The same pairs for scikit-learn: half of them turned around, so that both labels occur."""
    turned = rng.random(len(probabilities)) < 0.5
    return np.where(turned, 0, 1), np.where(turned, 1 - probabilities, probabilities)


def test_scores_of_probabilities_are_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    probabilities = rng.beta(3, 1.5, size=200)
    labels, of_first = oriented(probabilities, rng)
    assert brier_score(probabilities) == pytest.approx(sklearn_metrics.brier_score_loss(labels, of_first))
    assert log_loss(probabilities) == pytest.approx(sklearn_metrics.log_loss(labels, of_first))
    assert (brier_score([0.5]), log_loss([0.5])) == (0.25, pytest.approx(math.log(2)))
    assert math.isfinite(log_loss([0.0]))
    assert math.isnan(brier_score([])) and math.isnan(log_loss([])) and math.isnan(expected_calibration_error([]))


def test_a_reliability_diagram_is_that_of_scikit_learn():
    rng = np.random.default_rng(4)
    probabilities = rng.beta(3, 1.5, size=500)
    bins = reliability_bins(probabilities)
    confidence = np.maximum(probabilities, 1 - probabilities)
    # scikit-learn bins 0..1, so that its upper ten of twenty bins are ours.
    accuracy, mean = calibration_curve(probabilities > 0.5, confidence, n_bins=20)
    filled = [found for found in bins if found.count]
    assert [found.accuracy for found in filled] == pytest.approx(accuracy)
    assert [found.confidence for found in filled] == pytest.approx(mean)
    for found in filled:
        right = round(found.accuracy * found.count)
        wilson = stats.binomtest(right, found.count).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))
        inside = (confidence >= found.start) & (confidence < found.end)
        assert found.count == inside.sum()
    assert (bins[0].start, bins[-1].end) == (0.5, 1)
    error = sum(found.count * abs(found.confidence - found.accuracy) for found in filled) / 500
    assert expected_calibration_error(probabilities) == pytest.approx(error)


def test_a_confidence_at_an_edge_belongs_to_the_bin_that_starts_there():
    bins = reliability_bins([one.start for one in reliability_bins([])])
    assert [(one.count, one.confidence) for one in bins] == [(1, one.start) for one in bins]


def test_empty_bins_and_certain_predictions():
    bins = reliability_bins([1.0, 0.0, 0.5], bins=5)
    assert [found.count for found in bins] == [1, 0, 0, 0, 2]
    assert (bins[0].accuracy, bins[4].accuracy, bins[4].confidence) == (0.5, 0.5, 1)
    assert all(math.isnan(value) for value in astuple(bins[2])[3:])
    assert sum(found.count for found in reliability_bins([])) == 0
    # Quadrature may exceed 1 by rounding.
    assert (expected_calibration_error([1 + 1e-12]), log_loss([1 + 1e-12])) == (0, 0)


def test_exact_gaussians_are_covered_as_often_as_they_say():
    rng = np.random.default_rng(6)
    means, stds = rng.normal(size=4000), rng.uniform(0.5, 2, size=4000)
    found = interval_coverage(means, stds, rng.normal(means, stds), levels=(0.5, 0.9, 0.99))
    for level, share in found.items():
        assert share.value == pytest.approx(level, abs=0.02)
        assert share.total == 4000
    assert interval_coverage([0.0, 0.0], [1.0, 1.0], [1.9, 2.0], levels=(0.95,))[0.95].value == 0.5
    with pytest.raises(ValueError, match="row 0 is -1"):
        interval_coverage([0.0], [-1.0], [0.0])
    with pytest.raises(ValueError, match="level 1.5"):
        interval_coverage([0.0], [1.0], [0.0], levels=[1.5])


# Intervals and comparisons


def test_intervals_of_means_are_those_of_scipy():
    values = np.random.default_rng(7).exponential(size=80)
    found = mean_of_groups(values)
    reference = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=0).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.03)


def test_intervals_of_ratios_are_those_of_whole_groups():
    # Groups of 10 equal values: what varies is the group, so the standard error is 1 / sqrt(groups), and a bootstrap
    # over rows would give an interval that is too narrow by sqrt(10).
    values = np.random.default_rng(0).normal(size=400)
    sums, counts = np.column_stack([10 * values, np.zeros(400)]), np.column_stack([np.full(400, 10), np.zeros(400)])
    found, nothing = ratio_estimates(sums, counts, 1000)
    assert found.value == pytest.approx(values.mean()) and found.total == 4000
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert nothing.total == 0 and all(math.isnan(number) for number in (nothing.value, nothing.low, nothing.high))
    [sparse, _] = ratio_estimates(csr_array(sums), csr_array(counts), 1000)
    assert astuple(sparse) == pytest.approx(astuple(found))


def test_intervals_of_ratios_contain_the_true_mean_as_often_as_they_say():
    generator, hits = np.random.default_rng(1), 0
    for seed in range(200):
        sizes = generator.integers(1, 8, size=(60, 1)).astype(float)
        [found] = ratio_estimates(sizes * generator.normal(size=(60, 1)), sizes, 300, seed)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_rows_of_a_group_are_drawn_together():
    right = np.repeat(np.random.default_rng(8).random(50) < 0.5, 8)
    groups = np.repeat(np.arange(50), 8)
    alone, together = share_of_rows(right), share_of_rows(right, groups)
    assert alone.value == together.value
    # All rows of a group are the same: only the groups are evidence, so the interval is sqrt(8) times as wide.
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(math.sqrt(8), rel=0.15)
    shuffled = np.random.default_rng(9).permutation(400)
    assert share_of_rows(right[shuffled], [f"group {g}" for g in groups[shuffled]]).value == together.value


def test_any_statistic_has_the_interval_of_its_vectorised_form():
    rng = np.random.default_rng(10)
    right, groups = rng.random(60) < 0.7, rng.integers(0, 20, size=60)
    # Groups in the order of first occurrence, as both draw the same ones.
    general = bootstrap(lambda rows: right[rows].mean(), 60, groups, seed=3)
    share = share_of_rows(right, groups, seed=3)
    assert (general.value, general.low, general.high, general.total) == pytest.approx(astuple(share))


def test_shares_by_label_and_their_mean():
    right, labels = [1, 1, 0, 1, 0, 0], ["a", "a", "a", "b", "b", "c"]
    found = shares_by(right, labels)
    assert {name: (share.value, share.total) for name, share in found.items()} == {
        "a": (pytest.approx(2 / 3), 3),
        "b": (0.5, 2),
        "c": (0, 1),
    }
    # Arrays of labels, too, come in the order of their first rows.
    named = shares_by([1, 0, 0, 1, 1], np.array(["c", "a", "b", "b", "c"]))
    assert [(name, share.value) for name, share in named.items()] == [("c", 1), ("a", 0), ("b", 0.5)]
    assert macro_share(right, labels).value == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert macro_share(right, labels).total == 6
    rng = np.random.default_rng(11)
    right, labels, groups = rng.random(300) < 0.6, rng.integers(0, 4, size=300), np.arange(300) // 3
    macro = macro_share(right, labels, groups, seed=1)
    general = bootstrap(
        lambda rows: np.mean([share.value for share in shares_of(right[rows], labels[rows])]), 300, groups, seed=1
    )
    assert (macro.value, macro.low, macro.high) == pytest.approx((general.value, general.low, general.high))
    assert math.isnan(macro_share([], []).value)


def shares_of(right, labels):
    return [share_of([right[labels == label].sum()], [(labels == label).sum()]) for label in np.unique(labels)]


def test_one_group_has_no_interval_and_no_case_no_share():
    one = share_of([3], [4])
    assert (one.value, one.total) == (0.75, 4)
    assert math.isnan(one.low) and math.isnan(one.high)
    assert str(one) == "75.0 % (n = 4)"
    assert str(share_of([1, 1], [1, 1])) == "100.0 % (100.0 to 100.0, n = 2)"
    for nothing in (share_of([], []), share_of([0, 0], [0, 0]), mean_of_groups([]), bootstrap(np.mean, 0)):
        assert math.isnan(nothing.value) and math.isnan(nothing.low)
        assert nothing.total == 0


def test_a_comparison_by_pairs_is_mcnemars_exact_test():
    rng = np.random.default_rng(12)
    first, second = rng.random(60) < 0.7, rng.random(60) < 0.5
    found = compare_shares(first, second)
    won, lost = int((first & ~second).sum()), int((second & ~first).sum())
    assert found.p_value == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.low < found.difference < found.high
    turned = compare_shares(second, first)
    assert (turned.difference, turned.p_value) == (pytest.approx(-found.difference), pytest.approx(found.p_value))


@pytest.mark.parametrize("seed", range(5))
def test_a_comparison_by_groups_is_scipys_exact_permutation_test(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(10), rng.integers(1, 9, size=10))
    first, second = rng.random(len(groups)) < 0.7, rng.random(len(groups)) < 0.5
    won = [(first[groups == g].sum(), second[groups == g].sum()) for g in range(10)]
    reference = stats.permutation_test(
        tuple(np.array(won, dtype=float).T),
        lambda a, b, axis: a.sum(axis=axis) - b.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert compare_shares(first, second, groups).p_value == pytest.approx(reference.pvalue)


def test_equal_models_do_not_differ_and_the_test_is_as_strict_as_it_says():
    same = compare_shares([1, 0, 1], [1, 0, 1])
    assert (same.difference, same.p_value) == (0, 1)
    assert compare(lambda scores, rows: scores.mean(), [1, 2, 3], [1, 2, 3]).p_value == 1
    assert math.isnan(compare_shares([], []).p_value)
    rng = np.random.default_rng(13)
    groups = np.arange(240) // 6
    # Rows of a group go together: a test that took them for independent would reject far too often.
    hard = rng.random((200, 2, 40)) < 0.6
    rejected = [compare_shares(a[groups], b[groups], groups, seed=1).p_value < 0.05 for a, b in hard]
    assert np.mean(rejected) < 0.09
    alone = [compare_shares(a[groups], b[groups]).p_value < 0.05 for a, b in hard[:40]]
    assert np.mean(alone) > 0.2


def test_correlations_are_compared_on_the_same_resamples():
    rng = np.random.default_rng(14)
    truths, groups = rng.normal(size=120), np.arange(120) // 3
    good, better = truths + rng.normal(scale=2, size=120), truths + rng.normal(scale=0.5, size=120)

    def statistic(scores, rows):
        return correlation(scores, truths[rows])

    found = compare(statistic, better, good, groups, samples=400)
    assert found.difference == pytest.approx(correlation(better, truths) - correlation(good, truths))
    assert 0 < found.low < found.difference < found.high
    assert found.p_value == pytest.approx(2 / 401)
    # Scores on another scale rank the same.
    rescaled = compare(statistic, 100 * good + 7, good, groups, samples=100)
    assert (rescaled.difference, rescaled.p_value) == (pytest.approx(0, abs=1e-12), 1)
    constant = compare(statistic, np.ones(120), good, groups, samples=20)
    assert math.isnan(constant.difference) and math.isnan(constant.p_value)
