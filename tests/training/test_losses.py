"""Losses and probabilities against adaptive numerical integration."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special
from scipy.stats import norm

from editreward.groups.pairs import WeightedPairs, training_pairs, training_scores
from editreward.reports.text import percent
from editreward.statistics.preferences import best_of_probabilities, preference_probability
from editreward.training import EditRewardTrainingArguments
from editreward.training.losses import LOSSES, GaussianLikelihood, RegressionLoss, pair_difference
from editreward.training.terms import Annotation, as_tensors

# Far from the peak the integrand underflows, and `quad` says that it cannot reach a relative error there.
pytestmark = pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")

FUNCTIONS = {name: loss() for name, loss in LOSSES.items()}
SCHEMES = {name: FUNCTIONS[name] for name in ("nll", "expected_nll")}  # which choose a quadrature by s
TOLERANCE = {torch.float64: 1e-8, torch.float32: 5e-6}
MEANS = (-50.0, -23.3, -7.0, -1.3, 0.0, 0.4, 11.0, 50.0)
STDS = (1e-4, 0.2, 0.999, 1.0, 1.5, 7.1, 60.0, 142.0)


def annotation_of(labels, group_index=None, preferences=(), preference_weight=(), annotators=None) -> Annotation:
    """The annotation of a batch, of one group unless it is said."""
    return Annotation(
        np.asarray(labels, dtype=np.float32),
        np.zeros(len(labels), dtype=int) if group_index is None else np.asarray(group_index),
        np.asarray(preferences, dtype=int).reshape(-1, 2),
        np.asarray(preference_weight, dtype=np.float32),
        None if annotators is None else np.asarray(annotators, dtype=np.float32),
    )


def integrate_gaussian(f, d: float, s: float) -> float:
    """E[f(z)] for z ~ N(d, s^2), adaptively, for an f with all its structure around 0 and at most exponential."""
    low, high = d - 14 * s, d + 14 * s
    # The integrand peaks near d, or near d + s^2 and 0 where f grows or falls exponentially.
    peaks = [d, d + s * s, d - s * s, 0.0]
    marks = {
        p + k * w for p, w in zip(peaks, (s, s, s, 1.0), strict=True) for k in (-30, -12, -5, -2, 0, 2, 5, 12, 30)
    }
    edges = [low, *sorted(m for m in marks if low < m < high), high]
    scale = s * math.sqrt(2 * math.pi)
    return math.fsum(
        integrate.quad(lambda z: f(z) * math.exp(-0.5 * ((z - d) / s) ** 2) / scale, a, b, epsabs=0, epsrel=1e-10)[0]
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    )


# Of a win; ties have a test of their own.
CLOSED_FORMS = {
    "probit": lambda d, s: -mpmath.log(mpmath.erfc(-d / mpmath.sqrt(2 * (s * s + 1))) / 2),
    "bradley_terry": lambda d, s: mpmath.log(1 + mpmath.exp(-d)),
    "bradley_terry_ties": lambda d, s: -mpmath.log(mpmath.exp(d) / (mpmath.exp(d) + 5)),
    "regression": lambda d, s: d * d,
}


def reference(name: str, d: float, s: float) -> tuple[float, float, float]:
    """Loss and its derivatives in d and log s; those of expectations in log s by Stein's lemma, s^2 E[f''(z)]."""
    if name in CLOSED_FORMS:
        with mpmath.workdps(40):
            formula = CLOSED_FORMS[name]
            d, log_s = mpmath.mpf(d), mpmath.log(s)
            gradients = [
                mpmath.diff(lambda *x: formula(x[0], mpmath.exp(x[1])), (d, log_s), n) for n in ((1, 0), (0, 1))
            ]
            return tuple(float(x) for x in (formula(d, mpmath.exp(log_s)), *gradients))
    slope = lambda z: special.expit(z) * special.expit(-z)  # noqa: E731
    curvature = lambda z: slope(z) * (special.expit(-z) - special.expit(z))  # noqa: E731
    if name == "expected_nll":
        return (
            integrate_gaussian(lambda z: float(-special.log_expit(z)), d, s),
            -integrate_gaussian(lambda z: special.expit(-z), d, s),
            s * s * integrate_gaussian(slope, d, s),
        )
    p = integrate_gaussian(special.expit, d, s)
    return -math.log(p), -integrate_gaussian(slope, d, s) / p, -s * s * integrate_gaussian(curvature, d, s) / p


def value_and_gradients(function, points, dtype) -> torch.Tensor:
    d = torch.tensor([d for d, _ in points], dtype=dtype, requires_grad=True)
    log_s = torch.tensor([math.log(s) for _, s in points], dtype=dtype, requires_grad=True)
    value = function(d, log_s.exp())
    gradients = torch.autograd.grad(value.sum(), (d, log_s), allow_unused=True, materialize_grads=True)
    return torch.stack([value, *gradients]).detach().double()


def relative_error(computed: torch.Tensor, expected: torch.Tensor) -> float:
    return ((computed - expected).abs() / expected.abs().clamp_min(1)).max().item()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_gradients_match_adaptive_integration_on_a_grid(name):
    points = [(d, s) for d in MEANS for s in STDS]
    expected = torch.tensor([reference(name, d, s) for d, s in points], dtype=torch.float64).T
    for dtype, tolerance in TOLERANCE.items():
        assert relative_error(value_and_gradients(FUNCTIONS[name], points, dtype), expected) <= tolerance


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=40, deadline=None)
@given(d=st.floats(-50, 50), log10_s=st.floats(-4, math.log10(142)))
def test_value_and_gradients_match_adaptive_integration_anywhere(name, d, log10_s):
    s = 10**log10_s
    expected = torch.tensor([reference(name, d, s)], dtype=torch.float64).T
    for dtype, tolerance in TOLERANCE.items():
        assert relative_error(value_and_gradients(FUNCTIONS[name], [(d, s)], dtype), expected) <= tolerance


def test_the_reference_matches_integration_in_30_digits():
    d, s = -7.0, 1.5
    with mpmath.workdps(30):
        density = lambda z: mpmath.npdf(z, d, s)  # noqa: E731
        edges = [d + k * s for k in range(-14, 15, 2)]
        p = mpmath.quad(lambda z: density(z) / (1 + mpmath.exp(-z)), edges)
        q = mpmath.quad(lambda z: density(z) * mpmath.log1p(mpmath.exp(-z)), edges)
    assert reference("nll", d, s)[0] == pytest.approx(float(-mpmath.log(p)), rel=1e-10)
    assert reference("expected_nll", d, s)[0] == pytest.approx(float(q), rel=1e-10)


@pytest.mark.parametrize("function", SCHEMES.values(), ids=SCHEMES)
def test_both_schemes_in_one_call_equal_each_alone(function):
    points = [(d, s) for d in MEANS for s in STDS]
    together = value_and_gradients(function, points, torch.float64)
    alone = torch.cat([value_and_gradients(function, [point], torch.float64) for point in points], dim=1)
    assert relative_error(together, alone) < 1e-14


@pytest.mark.parametrize("function", SCHEMES.values(), ids=SCHEMES)
def test_more_pairs_than_a_chunk_and_any_shape(function, monkeypatch):
    monkeypatch.setattr("editreward.statistics.expectations.CHUNK", 7)
    d = torch.linspace(-3, 3, 40, dtype=torch.float64).reshape(8, 5)
    s = torch.logspace(-2, 2, 5, dtype=torch.float64)
    whole = function(d, s)
    assert whole.shape == (8, 5)
    for row in range(8):
        for column in range(5):
            assert torch.allclose(whole[row, column], function(d[row, column], s[column]), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_no_pairs_give_an_empty_loss_that_keeps_the_graph(name):
    mean = torch.randn(3, requires_grad=True)
    std = torch.ones(3, requires_grad=True)
    pairs = as_tensors(training_pairs(np.zeros((3, 0)), np.zeros(3)))
    loss = LOSSES[name]()(*pair_difference(pairs, mean[:, None], std[:, None]), pairs.tie)
    assert loss.shape == (0,)
    loss.sum().backward()
    assert mean.grad.eq(0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_losses_are_float32_or_wider_also_under_autocast(name, dtype):
    d, s = torch.tensor([0.5, -2.0], dtype=dtype), torch.tensor([0.5, 4.0], dtype=dtype)
    plain = LOSSES[name]()(d, s)
    assert plain.dtype == torch.promote_types(dtype, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(LOSSES[name]()(d, s), plain)


@given(d=st.floats(-50, 50), log10_s=st.floats(-4, math.log10(142)))
@settings(max_examples=50, deadline=None)
def test_expected_nll_bounds_nll_from_above(d, log10_s):
    d, s = torch.tensor(d, dtype=torch.float64), torch.tensor(10**log10_s, dtype=torch.float64)
    nll, expected_nll = LOSSES["nll"]()(d, s), LOSSES["expected_nll"]()(d, s)
    assert expected_nll >= nll - 1e-8 * max(1, nll.item())


def test_the_difference_of_a_pair_adds_variances():
    index = torch.tensor([1]), torch.tensor([0]), torch.ones(1)
    # Columns: one dimension, then the aggregate.
    mean, std = torch.tensor([[1.0, 0.0], [5.0, 2.0]]), torch.tensor([[3.0, 6.0], [4.0, 8.0]])
    for dimension, expected in ((0, (4.0, 5.0)), (-1, (2.0, 10.0))):
        pairs = WeightedPairs(
            *index, dimension=torch.tensor([dimension]), tie=torch.tensor([False]), probability=torch.ones(1)
        )
        assert tuple(part.item() for part in pair_difference(pairs, mean, std)) == expected


@given(d=st.floats(-50, 50))
@settings(max_examples=50, deadline=None)
def test_bradley_terry_ties_is_rao_and_kuppers_likelihood(d):
    loss = LOSSES["bradley_terry_ties"]()
    mean = torch.tensor([d, -d, d], dtype=torch.float64)
    win, lose, tie = (-loss(mean, torch.ones(3), torch.tensor([False, False, True]))).exp().tolist()
    assert win + lose + tie == pytest.approx(1, abs=1e-12)
    assert win == pytest.approx(math.exp(d) / (math.exp(d) + 5), rel=1e-10)
    assert tie == pytest.approx(24 * math.exp(d) / ((math.exp(d) + 5) * (1 + 5 * math.exp(d))), rel=1e-10)


def test_the_derivatives_of_a_tie_are_those_of_its_likelihood():
    d = torch.linspace(-50, 50, 41, dtype=torch.float64, requires_grad=True)
    loss = LOSSES["bradley_terry_ties"]()(d, torch.ones_like(d), torch.ones(41, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss.sum(), d)
    with mpmath.workdps(40):
        likelihood = lambda d: -mpmath.log(24 * mpmath.exp(d) / ((mpmath.exp(d) + 5) * (1 + 5 * mpmath.exp(d))))  # noqa: E731
        expected = [float(mpmath.diff(likelihood, x)) for x in d.tolist()]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-8, abs=1e-8)


PAIR_LOSSES = {name: loss for name, loss in LOSSES.items() if loss.pairwise}


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_smoothing_and_votes_mix_the_losses_of_both_orders(name):
    mean, std = torch.tensor([[0.9], [-0.4], [0.1]]).double(), torch.tensor([[0.3], [1.4], [0.8]]).double()
    annotators = [[[4.0], [1.0], [4.0], [2.0]], [[2.0], [3.0], [2.0], [2.0]], [[1.0]] * 4]
    annotation = annotation_of([[2.75], [2.25], [1.0]], annotators=annotators)
    plain = PAIR_LOSSES[name]()

    def alone(i, j):
        return plain(mean[i] - mean[j], torch.hypot(std[i], std[j])).item()

    votes = {(0, 1): 2.5 / 4, (0, 2): 3.5 / 4, (1, 2): 1.0}
    for smoothing, vote_labels in itertools.product((0.0, 0.1), (False, True)):
        loss = PAIR_LOSSES[name](label_smoothing=smoothing, vote_labels=vote_labels)
        samples = as_tensors(loss.samples(annotation, 0))
        found = loss.of(samples, mean, std)
        for i, j, value in zip(samples.winner.tolist(), samples.loser.tolist(), found.tolist(), strict=True):
            p = votes[i, j] if vote_labels else 1.0
            q = p * (1 - smoothing) + (1 - p) * smoothing
            assert value == pytest.approx(q * alone(i, j) + (1 - q) * alone(j, i), rel=1e-6)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_both_orders_of_a_preference_with_the_weights_p_and_1_minus_p_are_a_soft_label(name):
    mean, std = torch.tensor([[0.9], [-0.4]]), torch.tensor([[0.3], [1.4]])
    loss = PAIR_LOSSES[name]()
    annotation = annotation_of(np.full((2, 1), math.nan), None, [[0, 1], [1, 0]], [0.8, 0.2])
    samples = as_tensors(loss.samples(annotation))
    total = (samples.weight * loss.of(samples, mean, std)).sum() / samples.weight.sum()
    win, defeat = (loss(sign * torch.tensor([1.3]), std.norm(dim=0)).item() for sign in (1, -1))
    assert total.item() == pytest.approx(0.8 * win + 0.2 * defeat, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_finite_far_outside_of_the_contract(name):
    d = torch.tensor([-1e6, -1e4, -50.0, 0.0, 1e-6, 50.0, 1e4, 1e6]).repeat_interleave(6)
    s = torch.tensor([1e-30, 1e-4, 0.999, 1.0, 142.0, 1e10]).repeat(8)
    d.requires_grad_(), s.requires_grad_()
    for tie in (None, torch.zeros(48, dtype=torch.bool), torch.full((48,), LOSSES[name].knows_ties)):
        with torch.autocast("cpu", torch.bfloat16):
            value = LOSSES[name]()(d, s, tie)
        gradients = torch.autograd.grad(value.sum(), (d, s), allow_unused=True, materialize_grads=True)
        assert all(x.isfinite().all() for x in (value, *gradients))


def test_regression_is_the_squared_error_of_the_sum_against_the_papers_target():
    labels = np.array([[4.0, 3.0], [2.0, math.nan], [1.0, 1.5]], dtype=np.float32)
    mean, aggregate = torch.tensor([[0.5, 1.0], [0.0, 0.0], [-1.0, 2.0]]), torch.full((3, 1), 9.0)
    mean, std = torch.cat([mean, aggregate], dim=-1), torch.ones(3, 3)
    loss = RegressionLoss()
    # (R - (y_1 + y_2 - 5))^2, whatever the aggregate is; a candidate without a score is left out.
    samples = as_tensors(loss.samples(annotation_of(labels)))
    assert samples.candidate.tolist() == [0, 2] and samples.weight.tolist() == [1, 1]
    assert loss.of(samples, mean, std).tolist() == [(1.5 - 2.0) ** 2, (1.0 + 2.5) ** 2]
    by_dimension = [as_tensors(loss.samples(annotation_of(labels), k)) for k in range(2)]
    assert [term.candidate.tolist() for term in by_dimension] == [[0, 1, 2], [0, 2]]
    assert loss.of(by_dimension[0], mean, std).tolist() == [(0.5 - 1.5) ** 2, 0.5**2, (-1.0 + 1.5) ** 2]
    # The targets of the dimensions add up to that of the sum.
    first, second = (training_scores(labels, k, offset=4.5).target for k in range(2))
    assert (
        (first[[0, 2]] + second).tolist() == training_scores(labels, None, offset=4.5).target.tolist() == [2.5, -2.0]
    )


@pytest.mark.parametrize(
    ("dimensions", "given_offset", "offset"),
    [
        (["a"], None, 2.5),
        (["a", "b"], None, 5.0),
        (["a", "b", "c"], None, 7.5),
        (["overall"], None, 5.0),
        (["a"], 4.5, 4.5),
    ],
)
def test_the_offset_of_regression_is_the_middle_of_the_scale(tmp_path, dimensions, given_offset, offset):
    args = EditRewardTrainingArguments(str(tmp_path), loss="regression", regression_offset=given_offset, use_cpu=True)
    assert RegressionLoss.from_arguments(args, dimensions).offset == offset


def test_the_link_of_each_loss_is_that_of_the_probability_that_it_trains():
    mean, log_std = torch.tensor([1.3, 0.0], dtype=torch.float64), torch.tensor([0.4, -0.2], dtype=torch.float64)
    difference = (mean[:1] - mean[1:], torch.hypot(*log_std.exp())[None])
    for name in ("nll", "probit"):
        p = preference_probability(mean[0], log_std[0], mean[1], log_std[1], LOSSES[name].link)
        assert LOSSES[name]()(*difference).item() == pytest.approx(-math.log(p.item()), rel=1e-9)
    assert LOSSES["bradley_terry"]()(*difference).item() == pytest.approx(
        -math.log(preference_probability(1.3, -20.0, 0.0, -20.0, LOSSES["bradley_terry"].link).item()), rel=1e-9
    )


@given(d=st.floats(-50, 50), log_std=st.floats(-5, 4.9), other=st.floats(-5, 4.9))
@settings(max_examples=50, deadline=None)
@pytest.mark.parametrize("link", ["logistic", "probit"])
def test_preference_probabilities_of_both_orders_sum_to_one(link, d, log_std, other):
    forward = preference_probability(d, log_std, 0.0, other, link)
    backward = preference_probability(0.0, other, d, log_std, link)
    assert forward + backward == pytest.approx(1, abs=1e-8)
    if link == "probit":
        s2 = math.exp(2 * log_std) + math.exp(2 * other)
        assert forward.item() == pytest.approx(special.ndtr(d / math.sqrt(s2 + 1)), abs=1e-12)
    else:
        expected = integrate_gaussian(special.expit, d, math.hypot(math.exp(log_std), math.exp(other)))
        assert forward.item() == pytest.approx(expected, abs=1e-8)


def test_preference_probability_broadcasts_and_takes_any_dtype():
    p = preference_probability(torch.randn(4, 1, dtype=torch.bfloat16), 0.0, torch.randn(3), torch.zeros(3))
    assert p.shape == (4, 3) and p.dtype == torch.float64


@pytest.mark.parametrize("link", ["logistic", "probit"])
@pytest.mark.parametrize("stds", [(0.1, 0.2, 0.3), (0.5, 0.99, 1.0), (1.0, 2.0, 3.0), (0.01, 5.0, 60.0), (142.0,) * 3])
def test_best_of_three_matches_monte_carlo(link, stds):
    mean, std = torch.tensor([0.3, -1.0, 1.0], dtype=torch.float64), torch.tensor(stds, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z = mean + std * torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    if link == "logistic":
        share = torch.softmax(z, dim=-1)
    else:
        noise = torch.randn(z.shape, generator=generator, dtype=torch.float64) * math.sqrt(0.5)
        share = torch.nn.functional.one_hot((z + noise).argmax(dim=-1), 3).double()
    error = share.std(dim=0) / math.sqrt(len(z))
    p = best_of_probabilities(mean, std.log(), link)
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert ((p - share.mean(dim=0)).abs() < 4.5 * error).all()


@pytest.mark.parametrize("link", ["logistic", "probit"])
def test_best_of_without_uncertainty_is_the_closed_form(link):
    mean, log_std = torch.tensor([0.3, -1.0, 1.0, 0.9], dtype=torch.float64), torch.full((4,), -20.0)
    p = best_of_probabilities(mean, log_std, link)
    if link == "logistic":
        expected = torch.softmax(mean, dim=-1).tolist()
    else:
        means = mean.tolist()
        expected = [
            integrate.quad(
                lambda x, k=k: (
                    math.exp(-((x - means[k]) ** 2))
                    / math.sqrt(math.pi)
                    * math.prod(special.ndtr((x - means[j]) * math.sqrt(2)) for j in range(4) if j != k)
                ),
                -10,
                10,
            )[0]
            for k in range(4)
        ]
    assert p.tolist() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("link", ["logistic", "probit"])
def test_best_of_two_is_the_preference_and_a_hopeless_third_changes_nothing(link):
    mean, log_std = torch.tensor([0.3, -1.0, -1e4]), torch.tensor([-0.1, 1.2, 0.0])
    p = preference_probability(mean[0], log_std[0], mean[1], log_std[1], link)
    two = best_of_probabilities(mean[:2], log_std[:2], link)
    assert two[0] == p and two.sum() == 1
    assert best_of_probabilities(mean, log_std, link).tolist() == pytest.approx([*two.tolist(), 0.0], abs=1e-8)


def test_best_of_one_and_none():
    assert best_of_probabilities(torch.zeros(1), torch.zeros(1)).tolist() == [1.0]
    with pytest.raises(ValueError, match="without candidates"):
        best_of_probabilities(torch.zeros(0), torch.zeros(0))


def test_unknown_link_is_named():
    with pytest.raises(ValueError, match="'cauchy'"):
        preference_probability(0.0, 0.0, 0.0, 0.0, link="cauchy")
    with pytest.raises(ValueError, match="'cauchy'"):
        best_of_probabilities(torch.zeros(3), torch.zeros(3), link="cauchy")


@pytest.mark.parametrize(
    "probability, text",
    [
        (0.0, "0%"),
        (1e-9, "<1%"),
        (0.004, "<1%"),
        (0.006, "1%"),
        (0.5, "50%"),
        (0.994, "99%"),
        (0.997, ">99%"),
        (1.0, "100%"),
    ],
)
def test_only_what_is_certain_is_shown_as_certain(probability, text):
    assert percent(probability) == text


@settings(max_examples=50, deadline=None)
@given(st.floats(-30, 30), st.floats(-3, 3))
def test_the_gaussian_likelihood_and_its_gradient_match_finite_differences(error, log_std):
    def reference(e, s):
        return -norm.logpdf(e, scale=math.exp(s)) - math.log(2 * math.pi) / 2

    values = torch.tensor([error, log_std], dtype=torch.float64, requires_grad=True)
    loss = GaussianLikelihood()(values[0], values[1])
    loss.backward()
    assert loss.item() == pytest.approx(reference(error, log_std), rel=1e-12, abs=1e-12)
    step = 1e-5
    expected = [
        (reference(error + step, log_std) - reference(error - step, log_std)) / (2 * step),
        (reference(error, log_std + step) - reference(error, log_std - step)) / (2 * step),
    ]
    assert values.grad.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-5)


def test_the_likelihood_is_least_where_sigma_is_the_error_and_takes_only_what_is_scored():
    errors = torch.tensor([1.0, -3.0, 2.0], dtype=torch.float64)
    log_std = torch.zeros((), dtype=torch.float64, requires_grad=True)
    best = errors.square().mean().sqrt().log()
    gradient = torch.autograd.grad(GaussianLikelihood()(errors, log_std + best).sum(), log_std)[0]
    assert gradient.item() == pytest.approx(0, abs=1e-12)
    labels = np.array([[1.0, 4.0], [np.nan, 2.5]])
    likelihood = GaussianLikelihood(scale=2.0)
    first, second = (likelihood.samples(annotation_of(labels), k) for k in range(2))
    assert first.candidate.tolist() == [0] and first.target.tolist() == [-3.0]
    assert second.candidate.tolist() == [0, 1] and second.target.tolist() == [3.0, 0.0]
