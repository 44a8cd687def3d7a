"""Links of written scores against closed forms and against what drew the data."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from editreward.statistics.pair_links import MOST_LOG, PairLink, VarianceFit, _minimise, fit_pair_link, fit_variance

PHI = NormalDist()


def test_the_variance_of_two_classes_of_candidates_is_each_class_s_own():
    # Two values of pass_std^2 / n make the model saturated: each class's variance is its mean square.
    rng = np.random.default_rng(0)
    errors = np.concatenate([rng.normal(scale=0.5, size=300), rng.normal(scale=1.5, size=200)])
    passes = np.repeat([0.1, 0.9], [300, 200])
    fit = fit_variance(errors, passes)
    first, second = (errors[:300] ** 2).mean(), (errors[300:] ** 2).mean()
    slope = (second - first) / 0.8
    assert fit.slope == pytest.approx(slope, rel=1e-5)
    assert fit.constant == pytest.approx(first - 0.1 * slope, rel=1e-5)
    assert fit.variance([0.1, 0.9]) == pytest.approx([first, second], rel=1e-5)


def test_one_pass_has_no_spread_and_its_variance_is_the_constant():
    assert fit_variance([1.0, -3.0], [0.0, 0.0]) == VarianceFit(5.0, 0.0)


def test_a_spread_of_passes_that_tells_nothing_of_the_errors_has_no_slope():
    errors = np.concatenate([np.full(50, 2.0), np.full(50, 1.0)])  # smaller where passes differ
    assert fit_variance(errors, np.repeat([0.1, 0.9], 50)) == VarianceFit(2.5, 0.0)


def test_no_error_where_passes_agree_leaves_a_variance_there():
    # By likelihood alone it would be 0, and the density of these errors infinite.
    errors, passes = np.repeat([0.0, 1.0, -1.0], [60, 20, 20]), np.repeat([0.0, 0.5], [60, 40])
    fit = fit_variance(errors, passes)
    assert fit.constant == pytest.approx(0.4 / 101, rel=1e-4)
    assert fit.variance(0.5) == pytest.approx(1.0, rel=1e-4)


def saturated(share, spread, d=2.0, pairs=400):
    """Pairs of one difference, of which a share went to the first: d, pass variances of the two, outcomes."""
    won = np.arange(pairs) < share * pairs
    return np.full(pairs, d), np.full((pairs, 2), spread), won.astype(float)


def test_the_probit_link_of_two_classes_of_pairs_has_a_closed_form():
    parts = [saturated(0.9, 0.0), saturated(0.7, 0.5)]
    d, v, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    fit = fit_pair_link(d, v, y, "probit")
    # Phi(d / sqrt(T^2 + s^2)) = share, of smoothed outcomes, in each class.
    smooth = [(share * 800 + 1) / 802 for share in (0.9, 0.7)]
    totals = [(2 / PHI.inv_cdf(share)) ** 2 for share in smooth]
    found = [fit.temperature**2 + 2 * fit.variance.variance(spread) for spread in (0.0, 0.5)]
    assert found == pytest.approx(totals, rel=1e-3)
    assert fit.variance.slope == pytest.approx((totals[1] - totals[0]) / (2 * 0.5), rel=1e-3)
    assert fit.probability([2.0, -2.0], [[0, 0], [0.5, 0.5]]) == pytest.approx([smooth[0], 1 - smooth[1]], rel=1e-3)
    # What pairs cannot tell apart is taken to be equal.
    assert 2 * fit.variance.constant == pytest.approx(fit.temperature**2, rel=0.05)


def test_a_known_variance_leaves_the_temperature_alone():
    d, v, y = saturated(0.8, 0.0)
    fit = fit_pair_link(d, v, y, "probit", VarianceFit(0.25, 1.0))
    total = (2 / PHI.inv_cdf((0.8 * 400 + 1) / 402)) ** 2
    assert fit.temperature == pytest.approx(math.sqrt(total - 0.5), rel=1e-5)
    assert fit.variance == VarianceFit(0.25, 1.0)


def test_the_logistic_temperature_without_spread_is_that_of_a_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    d = rng.normal(scale=3, size=500)
    y = (rng.random(500) < 1 / (1 + np.exp(-d / 1.7))).astype(float)
    fit = fit_pair_link(d, np.zeros((500, 2)), y, "logistic", VarianceFit(0.0, 0.0))
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(d[:, None], y)
    # Off by the smoothing of one imagined pair in 500.
    assert fit.temperature == pytest.approx(1 / regression.coef_[0, 0], rel=0.02)


def test_what_drew_the_pairs_is_found_again():
    # Votes in their expected shares: no noise of sampling, but that of the two imagined pairs.
    truth = PairLink(0.5, VarianceFit(0.3, 1.5), "logistic", 0, 0)
    spreads = np.array([[a, b] for a in (0.0, 0.4, 1.6) for b in (0.0, 0.4, 1.6)])
    d, v = np.tile(np.linspace(-3, 3, 61), 9), np.repeat(spreads, 61, axis=0)
    fit = fit_pair_link(d, v, truth.probability(d, v))
    assert fit.variance.slope == pytest.approx(1.5, rel=0.1)
    constant = [link.temperature**2 * math.pi**2 / 3 + 2 * link.variance.constant for link in (fit, truth)]
    assert constant[0] == pytest.approx(constant[1], rel=0.1)
    points, spreads = np.linspace(-3, 3, 9), np.repeat([[0.4, 1.6]], 9, axis=0)
    assert fit.probability(points, spreads) == pytest.approx(truth.probability(points, spreads), abs=0.005)


def test_a_scorer_that_orders_all_pairs_gets_finite_numbers_and_units_do_not_matter():
    rng = np.random.default_rng(3)
    d, v = rng.normal(size=50), rng.random((50, 2))
    fit = fit_pair_link(d, v, d > 0)
    scaled = fit_pair_link(10 * d, 100 * v, d > 0)
    assert 0 < fit.temperature < 1 and fit.log_loss < 0.3
    assert scaled.temperature == pytest.approx(10 * fit.temperature, rel=1e-3)
    assert scaled.probability(10 * d, 100 * v) == pytest.approx(fit.probability(d, v), abs=1e-5)


@pytest.mark.parametrize("link", ["logistic", "probit"])
def test_pairs_that_are_surer_than_the_scores_errors_scale_the_variance_down(link):
    # Errors that go together within a group cancel in its pairs, of which 9 in 10 are in order.
    parts = [saturated(0.9, 0.1), saturated(0.85, 0.3)]
    d, v, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    too_wide = VarianceFit(4.0, 2.0)
    fit = fit_pair_link(d, v, y, link, too_wide)
    assert 0 < fit.variance_share < 1
    assert fit.variance == VarianceFit(4.0 * fit.variance_share, 2.0 * fit.variance_share)
    assert fit.temperature**2 == pytest.approx((2 * fit.variance.variance(v)).mean(), rel=1e-6)
    assert fit.probability(d, v)[[0, -1]] == pytest.approx([0.9, 0.85], abs=0.03)
    assert fit.log_loss == pytest.approx(fit_pair_link(d, v, y, link).log_loss, abs=0.005)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"differences": [1.0] * 5, "pass_variances": [[0, 0]] * 5, "outcomes": [1] * 5}, "only 5 pairs"),
        ({"outcomes": [0.0] * 30}, "do not predict"),
        ({"outcomes": [2.0] + [1.0] * 29}, "outcomes: row 0 is 2"),
        ({"pass_variances": [[0, 0]] * 29 + [[0, -1]]}, "pass_variances: row 29 is -1"),
        ({"differences": [math.nan] * 30}, "differences: row 0 is nan"),
    ],
)
def test_pairs_that_fit_nothing_say_why(change, message):
    sound = {"differences": [1.0] * 30, "pass_variances": [[0.1, 0.2]] * 30, "outcomes": [1.0] * 30}
    with pytest.raises(ValueError, match=message):
        fit_pair_link(**(sound | change))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_search_that_runs_off_ends_at_its_bound(sign):
    found = _minimise(lambda parts: -sign * parts.sum(), [0.0])
    assert found.tolist() == [sign * MOST_LOG]
