"""The best of N by order statistics: against all subsets, an unbiased mean, and falls that chance does not explain."""

from itertools import combinations

import numpy as np
import pytest

from editreward.statistics.best_of import curve, doublings, expected_best, fall


def over_all_subsets(keys, values):
    """Mean value of the best by key, equal keys in equal parts, of every subset of each size."""
    found = []
    for number in range(1, len(keys) + 1):
        chosen = []
        for subset in combinations(range(len(keys)), number):
            best = max(keys[i] for i in subset)
            chosen.append(np.mean([values[i] for i in subset if keys[i] == best]))
        found.append(np.mean(chosen))
    return found


@pytest.mark.parametrize("keys", [[0.1, 3.0, -2.0, 0.7, 5.0, 4.5, 1.0], [1.0] * 5, [2.0]])
def test_expected_best_is_the_mean_over_all_subsets(keys):
    values = np.random.default_rng(len(keys)).normal(size=len(keys))
    assert expected_best(keys, values) == pytest.approx(over_all_subsets(keys, values), abs=1e-12)


def test_of_equal_keys_each_is_chosen_equally_often():
    """Subsets cannot tell how often ties are met, so a key below and one above are tried, too."""
    keys, values = [1.0, 0.0, 1.0, 2.0, 1.0], [5.0, 1.0, 2.0, 0.0, 8.0]
    draws = (np.random.default_rng(seed).random(5) for seed in range(60))
    jittered = [over_all_subsets(np.array(keys) + 1e-6 * one, values) for one in draws]
    assert expected_best(keys, values) == pytest.approx(np.mean(jittered, axis=0), abs=0.5)


def test_64_candidates_give_the_expected_maximum_of_a_uniform_sample():
    """The best of N uniform numbers is N / (N + 1) on average."""
    draws = np.random.default_rng(0).random((2000, 64))
    values = np.array([expected_best(row, row) for row in draws])
    numbers = np.arange(1, 65)
    assert values.mean(axis=0) == pytest.approx(numbers / (numbers + 1), abs=0.006)


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        expected_best([1.0, float("nan")], [1.0, 2.0])
    with pytest.raises(ValueError, match="a key and a value"):
        expected_best([], [])


def test_a_fall_is_found_and_none_is_made_up():
    rng = np.random.default_rng(4)
    keys = rng.normal(size=(80, 16))
    good = np.where(keys < 1.3, keys, 1.3 - 3 * (keys - 1.3)) + 0.1 * rng.normal(size=keys.shape)  # hacked at the top
    values = np.array([expected_best(*pair) for pair in zip(keys, good, strict=True)])
    found = fall(values)
    assert found is not None and found.number in (2, 4) and found.difference.high < 0 and found.p_value < 0.01
    assert curve(values)[-1].value == pytest.approx(values[:, -1].mean())
    noise = rng.normal(size=keys.shape)
    assert fall(np.array([expected_best(*pair) for pair in zip(keys, noise, strict=True)])) is None
    assert fall(values[:, :1]) is None


def test_copies_of_a_source_add_no_certainty():
    values = np.random.default_rng(1).normal(size=(6, 4))
    once, often = curve(values), curve(np.repeat(values, 10, axis=0), np.repeat(np.arange(6), 10))
    assert [one.low for one in often] == pytest.approx([one.low for one in once])


def test_numbers_double_up_to_all():
    assert [doublings(n) for n in (0, 1, 2, 12, 16)] == [[], [1], [1, 2], [1, 2, 4, 8, 12], [1, 2, 4, 8, 16]]
