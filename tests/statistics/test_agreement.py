"""Agreement of annotators, against published examples, the libraries and loops over all pairs of scores."""

import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from editreward.groups.rating_files import read_rankings, read_ratings
from editreward.groups.ratings import Rating, TupleRanking
from editreward.statistics.agreement import (
    OVERALL,
    agreement,
    alpha_of_tables,
    dimensions_of_ratings,
    kappa_of_tables,
    ordinal_alpha,
    quadratic_kappa,
    score_table,
)

NAN = float("nan")
VALUES = np.arange(1, 5)

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: 4 observers, 12 units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)

# 85 mammograms, read by two radiologists (Boyd et al. 1982), as in the Stata reference manual's entry on kappa, which
# prints 0.6714 for quadratic weights ("w2").
MAMMOGRAMS = np.array([[21, 12, 0, 0], [4, 17, 1, 0], [3, 9, 15, 2], [0, 0, 0, 1]])


def ratings_of(columns, dimension="quality", per_group=2):
    """Ratings from a table of shape (annotators, candidates), some of them None, `per_group` candidates per group."""
    return [
        Rating(f"annotator-{row}", f"group-{column // per_group}", column % per_group, {dimension: float(score)})
        for row, scores in enumerate(columns)
        for column, score in enumerate(scores)
        if score is not None
    ]


def of_table(table):
    first, second = [], []
    for i, j in itertools.product(range(len(table)), repeat=2):
        first += [i + 1] * table[i][j]
        second += [j + 1] * table[i][j]
    return np.array(first), np.array(second)


def test_alpha_of_krippendorffs_example_is_the_published_one():
    assert round(ordinal_alpha(KRIPPENDORFF), 3) == 0.815


def test_kappa_of_the_published_mammogram_table():
    assert round(quadratic_kappa(*of_table(MAMMOGRAMS), VALUES), 4) == 0.6714
    assert round(float(kappa_of_tables(MAMMOGRAMS)), 4) == 0.6714


scores_of_three = st.lists(st.tuples(*[st.one_of(st.none(), st.integers(1, 4))] * 3), min_size=2, max_size=16)


@given(scores_of_three)
@settings(max_examples=60, deadline=None)
def test_agreement_equals_loops_over_all_pairs_of_scores(units):
    columns = list(zip(*units, strict=True))
    assume(any(score is not None for scores in columns for score in scores))
    result = agreement(ratings_of(columns), "quality", ["quality"], resamples=5)

    compared = [[s for s in unit if s is not None] for unit in units]
    compared = [unit for unit in compared if len(unit) >= 2]
    together = [pair for unit in compared for pair in itertools.combinations(unit, 2)]
    assert result.candidates == len(compared)
    assert_same(result.exact.value, mean([a == b for a, b in together]))
    assert_same(result.unanimous.value, mean([len(set(unit)) == 1 for unit in compared]))
    assert_same(result.alpha.value, alpha_by_pairs(compared))

    assert np.array(result.confusion).sum() == 2 * len(together)
    for a, b in together:
        result.confusion[a - 1][b - 1] -= 1
        result.confusion[b - 1][a - 1] -= 1
    assert not np.any(result.confusion)

    found = {(pair.first, pair.second): pair for pair in result.pairs}
    for i, j in itertools.combinations(range(3), 2):
        both = [(unit[i], unit[j]) for unit in units if unit[i] is not None and unit[j] is not None]
        pair = found.pop((f"annotator-{i}", f"annotator-{j}"), None)
        assert (pair is None) == (not both)
        if pair is not None:
            assert pair.candidates == len(both)
            assert_same(pair.exact.value, mean([a == b for a, b in both]))
            observed = mean([(a - b) ** 2 for a, b in both])
            expected = mean([(a - b) ** 2 for (a, _), (_, b) in itertools.product(both, repeat=2)])
            assert_same(pair.kappa.value, 1 - observed / expected if expected else NAN)
    assert not found


def mean(values):
    return sum(values) / len(values) if values else NAN


def assert_same(found, expected):
    assert found == pytest.approx(expected, nan_ok=True, abs=1e-12)


def alpha_by_pairs(units):
    """Ordinal alpha by its definition: observed against expected disagreement, a loop over all pairs of values."""
    values = [value for unit in units for value in unit]
    count = {value: values.count(value) for value in set(values)}
    if len(count) < 2:
        return NAN

    def difference(a, b):
        low, high = min(a, b), max(a, b)
        return (sum(n for value, n in count.items() if low <= value <= high) - (count[a] + count[b]) / 2) ** 2

    observed = sum(
        difference(unit[i], unit[j]) / (len(unit) - 1)
        for unit in units
        for i, j in itertools.permutations(range(len(unit)), 2)
    ) / len(values)
    expected = sum(difference(a, b) for a, b in itertools.permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


@given(st.lists(st.tuples(*[st.integers(1, 4)] * 2), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_formulas_of_the_bootstrap_equal_the_libraries(units):
    first, second = np.array(units, dtype=float).T
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (first.astype(int) - 1, second.astype(int) - 1), 1)
    assert_same(float(kappa_of_tables(confusion)), quadratic_kappa(first, second, VALUES))
    assert_same(float(alpha_of_tables(confusion + confusion.T)), ordinal_alpha(np.stack([first, second])))


def test_alpha_formula_equals_the_published_example_with_missing_scores():
    coincidences = np.zeros((5, 5))
    for unit in KRIPPENDORFF.T:
        given_scores = unit[~np.isnan(unit)].astype(int) - 1
        for i, j in itertools.permutations(range(len(given_scores)), 2):
            coincidences[given_scores[i], given_scores[j]] += 1 / (len(given_scores) - 1)
    assert float(alpha_of_tables(coincidences)) == pytest.approx(ordinal_alpha(KRIPPENDORFF), abs=1e-12)


def test_kappa_weighs_distances_on_the_whole_scale_though_a_score_is_unused():
    first, second = np.array([1, 1, 2, 4]), np.array([1, 2, 2, 1])  # nobody gives a 3
    observed, expected = (0 + 1 + 0 + 9) / 4, np.mean((first[:, None] - second[None, :]) ** 2)
    assert quadratic_kappa(first, second, VALUES) == pytest.approx(1 - observed / expected)


def test_intervals_resample_whole_groups():
    # Two candidates that always agree or disagree together: resampling candidates would give narrower intervals.
    groups = 40
    rng = np.random.default_rng(0)
    agree = rng.random(groups) < 0.5
    first = [2] * 2 * groups
    second = [2 if right else 3 for right in agree for _ in range(2)]
    of_groups = agreement(ratings_of([first, second]), "quality", ["quality"])
    of_candidates = agreement(ratings_of([first, second], per_group=1), "quality", ["quality"])
    share = agree.mean()
    spread = 1.96 * math.sqrt(share * (1 - share) / groups)
    assert of_groups.exact.value == of_candidates.exact.value == share
    assert of_groups.exact.low == pytest.approx(share - spread, abs=0.04)
    assert of_groups.exact.high == pytest.approx(share + spread, abs=0.04)
    assert of_candidates.exact.high - of_candidates.exact.low < 0.85 * (of_groups.exact.high - of_groups.exact.low)


def test_intervals_cover_the_true_agreement_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered, trials = 0, 60
    for seed in range(trials):
        truth = rng.integers(1, 5, 80)
        noisy = [np.where(rng.random(80) < 0.3, rng.integers(1, 5, 80), truth) for _ in range(2)]
        exact = agreement(ratings_of(noisy), "quality", ["quality"], resamples=200, seed=seed).exact
        covered += exact.low <= 0.7**2 + (1 - 0.7**2) / 4 <= exact.high
    assert covered >= 50  # of 57 expected


def test_perfect_and_undefined_agreement():
    perfect = agreement(ratings_of([[1, 2, 3, 4]] * 3), "quality", ["quality"])
    assert (perfect.alpha.value, perfect.exact.value, perfect.unanimous.value) == (1, 1, 1)
    assert all(pair.kappa.value == 1 for pair in perfect.pairs) and len(perfect.pairs) == 3
    constant = agreement(ratings_of([[2, 2, 2, 2]] * 2), "quality", ["quality"])
    assert constant.exact.value == 1 and math.isnan(constant.alpha.value) and math.isnan(constant.pairs[0].kappa.value)
    alone = agreement(ratings_of([[1, 2, 3, 4]]), "quality", ["quality"])
    assert alone.candidates == 0 and not alone.pairs and math.isnan(alone.exact.value)


def test_overall_is_the_sum_of_complete_scores():
    ratings = [
        Rating("ann", "g", 0, {"a": 1.0, "b": 4.0}),
        Rating("bob", "g", 0, {"a": 4.0, "b": 1.0}),
        Rating("bob", "g", 1, {"a": 4.0}),
    ]
    assert dimensions_of_ratings(ratings) == ["a", "b"]
    annotators, groups, scores = score_table(ratings, OVERALL, ["a", "b"])
    assert annotators == ["ann", "bob"] and groups == ["g"] and scores.tolist() == [[5], [5]]
    assert agreement(ratings, OVERALL, ["a", "b"]).exact.value == 1
    assert agreement(ratings, "a", ["a", "b"]).exact.value == 0


def test_order_of_ratings_does_not_matter():
    rng = np.random.default_rng(3)
    ratings = ratings_of(rng.integers(1, 5, (3, 20)).tolist())
    shuffled = [ratings[index] for index in rng.permutation(len(ratings))]
    assert agreement(ratings, "quality", ["quality"]) == agreement(shuffled, "quality", ["quality"])


@pytest.mark.parametrize("score", [0.0, 5.0, 2.5, NAN])
def test_scores_off_the_scale_are_named(score):
    ratings = [Rating("ann", "g1", 3, {"quality": score}), Rating("bob", "g1", 3, {"quality": 1.0})]
    with pytest.raises(ValueError, match="ann rates candidate 3 of group g1.*whole number from 1 to 4"):
        agreement(ratings, "quality", ["quality"])


def test_a_candidate_rated_twice_is_named():
    with pytest.raises(ValueError, match="ann rates candidate 0 of group g1 twice"):
        agreement([Rating("ann", "g1", 0, {"a": 1.0}), Rating("ann", "g1", 0, {"a": 2.0})], "a", ["a"])


def write_lines(path, records):
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n", encoding="utf-8")
    return path


def test_ratings_and_rankings_read_as_they_were_written(tmp_path):
    ratings = [Rating("Ann", "g", 0, {"a": 1.0}), Rating("中", "g", 1, {"a": 4.0}, "gold", 12.5, 1e9)]
    assert read_ratings(write_lines(tmp_path / "ratings.jsonl", map(asdict, ratings))) == ratings
    rankings = [TupleRanking("t", "g", [3, 1], [1, 1], ["Ann"]), TupleRanking("u", "g", [3, 1, 0], [3, 1, 2])]
    assert read_rankings(write_lines(tmp_path / "rankings.jsonl", map(asdict, rankings))) == rankings


RATING = {"annotator": "ann", "group_id": "g", "candidate": 0, "scores": {"a": 1}}
RANKING = {"tuple_id": "t", "group_id": "g", "candidates": [0, 1], "ranks": [1, 2]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": {"a": 5}}, r"'s rating of candidate 0 of group g has a 5: scores are whole numbers from 1 to 4"),
        ({"scores": {"a": "4"}}, "has a '4'"),
        ({"scores": [1]}, "line 2: scores must have entries"),
        ({"candidate": -1}, "line 2: candidate must be at least 0"),
        ({"annotator": ""}, "line 2: annotator must be a text that is not empty"),
        ({"purpose": "fun"}, "line 2: purpose must be .*work.*calibration.* or .*gold"),
        ({"seconds": -1}, "line 2: seconds must be at least 0"),
        ({"note": "x"}, "line 2: note is unknown"),
        ({"annotator": "bob"}, "bob's rating of candidate 0 of group g is there twice"),
    ],
)
def test_faulty_ratings_are_named_by_file_and_line(tmp_path, change, message):
    path = write_lines(tmp_path / "ratings.jsonl", [RATING | {"annotator": "bob"}, RATING | change])
    with pytest.raises(ValueError, match=f"ratings.jsonl.*{message}"):
        read_ratings(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": [1]}, "line 2: 2 candidates but 1 ranks"),
        ({"ranks": [1, "2"]}, "line 2: ranks, entry 2 must be a whole number"),
        ({"tuple_id": "first"}, "line 2: tuple first is ranked twice"),
    ],
)
def test_faulty_rankings_are_named_by_file_and_line(tmp_path, change, message):
    path = write_lines(tmp_path / "rankings.jsonl", [RANKING | {"tuple_id": "first"}, RANKING | change])
    with pytest.raises(ValueError, match=f"rankings.jsonl, {message}"):
        read_rankings(path)


@pytest.mark.parametrize("text", ['{"annotator": "ann"}', "[1]", "{"])
def test_lines_that_are_no_ratings_are_named(tmp_path, text):
    (tmp_path / "ratings.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="ratings.jsonl, line 1"):
        read_ratings(tmp_path / "ratings.jsonl")
