"""The sign-flip test against all flips, its level by simulation, and the number of cases against simulated power."""

import itertools

import numpy as np
import pytest

from editreward.statistics.sign_flips import cases_needed, sign_flip_p_value


@pytest.mark.parametrize("seed", range(3))
def test_the_p_value_of_few_cases_is_that_of_all_flips(seed):
    differences = np.random.default_rng(seed).normal(0.4, 1, 8)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=8)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9)
    assert sign_flip_p_value(differences) == pytest.approx(expected)


def test_without_a_difference_p_values_are_small_as_often_as_they_should():
    rng = np.random.default_rng(2)
    p_values = [sign_flip_p_value(rng.normal(size=12)) for _ in range(400)]
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.09


def test_many_cases_agree_with_the_normal_test():
    differences = np.random.default_rng(0).normal(0.2, 1, 100)
    statistic = abs(differences.sum()) / np.sqrt((differences**2).sum())
    from scipy.stats import norm

    assert sign_flip_p_value(differences) == pytest.approx(2 * norm.sf(statistic), abs=0.015)


def test_as_many_cases_as_are_said_find_the_difference_four_times_of_five():
    rng = np.random.default_rng(4)
    seen = rng.normal(0.0, 1, 50)
    seen = (seen - seen.mean()) / seen.std(ddof=1) * 1.0 + 0.5
    number = cases_needed(seen)
    assert number == 32  # ((1.960 + 0.842) / 0.5)^2 = 31.4
    found = [abs(x.mean()) / x.std(ddof=1) * np.sqrt(number) > 1.96 for x in rng.normal(0.5, 1, (2000, number))]
    assert 0.75 < np.mean(found) < 0.85


def test_what_tells_nothing_has_no_number():
    assert np.isnan(sign_flip_p_value(np.zeros(0)))
    assert sign_flip_p_value(np.zeros(5)) == 1
    assert cases_needed(np.zeros(5)) is None and cases_needed(np.ones(1)) is None


@pytest.mark.parametrize("number", [3, 30])
@pytest.mark.parametrize("function", [sign_flip_p_value, cases_needed])
def test_a_difference_that_is_no_number_is_no_evidence(function, number):
    with pytest.raises(ValueError, match="differences: row 1 is nan"):
        function(np.array([1.0, np.nan, *np.ones(number - 2)]))
