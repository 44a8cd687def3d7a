"""From differences of scores to probabilities of preferences, for scorers that give none.

A scorer that writes its scores (a generative one, a judge) is asked n times; the spread of its passes is noise of
decoding. What it says of people is fitted on labelled pairs: the true difference of a pair is taken for
z ~ N(d, s^2) with d the difference of the mean scores and s^2 = sigma_i^2 + sigma_j^2, where

    sigma^2 = constant + slope x pass_std^2 / n,

and the first is preferred with probability E[sigmoid(z / T)] (`logistic`) or Phi(d / sqrt(T^2 + s^2)) (`probit`), T
the temperature of the link. With T = 1 these are the reward model's own links.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from configuration_editreward import PREFERENCE_LINKS, check_choice
from editreward.statistics.checks import finite
from editreward.statistics.expectations import log_expected_sigmoid, log_ndtr

# Weight of the preference for equal parts where the data do not say what is whose, in nats of a whole data set.
EQUAL_PARTS = 1e-4
MIN_PAIRS = 20
# Nats a candidate by which the spread of passes must at least improve the fit to count at all: rounding.
NO_GAIN = 1e-9
# A temperature whose square is a smaller share of the scores' variance has run into its bound of 0.
LEAST_SHARE = 0.01
# Temperatures and variances are fitted from e^-20 to e^20 times the size of the differences.
MOST_LOG = 20.0


@dataclass(frozen=True)
class VarianceFit:
    """Variance of a score's error, `constant + slope * pass_variance`, in squared units of the score.

    Attributes:
        constant: of a score whose passes agree.
        slope: of the variance of the mean over the passes, pass_std^2 / n.
    """

    constant: float
    slope: float

    def variance(self, pass_variance: ArrayLike) -> np.ndarray:
        """The variance at each `pass_variance`, pass_std^2 / n, any shape."""
        return self.constant + self.slope * np.asarray(pass_variance, dtype=float)


@dataclass(frozen=True)
class PairLink:
    """What makes probabilities of preferences of differences of scores.

    Attributes:
        temperature: of the link, in units of the score.
        variance: of a score's error.
        link: `logistic` or `probit`.
        log_loss: mean of -log of the probability of what was preferred, over the pairs of the fit, in nats.
        pairs: how many these were.
        variance_share: share of the errors' variance, as `fit_variance` found it, that `variance` is: 1, or less where
            pairs are surer than that variance allows.
    """

    temperature: float
    variance: VarianceFit
    link: str
    log_loss: float
    pairs: int
    variance_share: float = 1.0

    def probability(self, differences: ArrayLike, pass_variances: ArrayLike) -> np.ndarray:
        """Probability that the first of each pair is preferred.

        Args:
            differences: score of the first minus score of the second, shape (pairs,).
            pass_variances: pass_std^2 / n of the two, shape (pairs, 2).
        """
        d, v = torch.as_tensor(np.asarray(differences, float)), torch.as_tensor(np.asarray(pass_variances, float))
        variance = 2 * self.variance.constant + self.variance.slope * v.sum(dim=-1)
        return _log_probability(d, variance, torch.tensor(self.temperature).double(), self.link).exp().numpy()


def fit_variance(errors: ArrayLike, pass_variances: ArrayLike) -> VarianceFit:
    """Fit the variance of scores' errors, by the likelihood of Gaussian errors, on annotated scores.

    Args:
        errors: calibrated score minus annotated score, shape (candidates,).
        pass_variances: pass_std^2 / n of each, shape (candidates,). All alike, the whole variance is the constant.

    Returns:
        The fit. Its slope is 0 where the spread of the passes tells nothing of the errors; its constant is at least
        the mean square error over candidates + 1, also if all scores whose passes agree are free of error.

    Raises:
        ValueError: a value is not finite or a variance is negative (its row is named), or all errors are 0.
    """
    errors = finite("errors", errors)
    pass_variances = _not_negative("pass_variances", pass_variances, len(errors))
    square = float(np.mean(errors**2)) if len(errors) else 0.0
    if square == 0:
        raise ValueError("There is no error to fit a variance on.")
    if np.ptp(pass_variances) == 0:
        return VarianceFit(square, 0.0)
    e2, v = torch.from_numpy(errors**2), torch.from_numpy(pass_variances)
    middle, least = float(v.mean()), square / (len(errors) + 1)

    def loss(parts: Tensor) -> Tensor:
        variance = least + square * parts[0].exp() + square / middle * parts[1].exp() * v
        return 0.5 * (variance.log() + e2 / variance).mean()

    found = _minimise(loss, [-0.7, -0.7])
    if float(loss(found)) > 0.5 * (math.log(square) + 1) - NO_GAIN:
        return VarianceFit(square, 0.0)
    constant, slope = found.exp().tolist()
    return VarianceFit(least + square * constant, square / middle * slope)


def fit_pair_link(
    differences: ArrayLike,
    pass_variances: ArrayLike,
    outcomes: ArrayLike,
    link: str = "logistic",
    variance: VarianceFit | None = None,
) -> PairLink:
    """Fit temperature and variance of the scores by maximum likelihood on labelled pairs.

    Pairs tell T^2 + 2 x constant, not which part is the link's and which the scores' (exactly so for `probit`, nearly
    for `logistic`). Where annotated scores are at hand, `fit_variance` tells it: give its result. Otherwise parts that
    the pairs cannot tell apart are taken to be equal, which changes no probability of the pairs but lower bounds.

    Pairs may be surer than annotated scores allow: errors of one group go together, or are smaller where scores are
    far apart. The best temperature is then 0. In that case the variance keeps its form and is scaled down, to a part
    that is equal to the link's.

    Outcomes are smoothed by one imagined pair each way (Platt 1999), so that a scorer that orders all pairs as people
    do gets finite numbers.

    Args:
        differences: score of the first minus score of the second, shape (pairs,).
        pass_variances: pass_std^2 / n of the two, shape (pairs, 2).
        outcomes: 1 where the first is preferred, 0 where the second is, or the share of votes; shape (pairs,).
        link: `logistic` or `probit`.
        variance: of the scores; the temperature alone is fitted then, unless that leads to 0.

    Raises:
        ValueError: there are fewer than 20 pairs, or the differences do not predict the outcomes; or a value is not
            finite or out of range, and its row is named.
    """
    check_choice("link", link, PREFERENCE_LINKS)
    d, v, y = _checked_pairs(differences, pass_variances, outcomes)
    unit = float(np.sqrt(np.mean(d**2)))
    smoothed = torch.from_numpy((y * len(d) + 1) / (len(d) + 2))
    of_d, of_v, middle = torch.from_numpy(d / unit), torch.from_numpy(v / unit**2), float(v.mean()) / unit**2

    def log_loss(temperature: Tensor, s2: Tensor) -> Tensor:
        first, second = (_log_probability(sign * of_d, s2, temperature, link) for sign in (1, -1))
        return -(smoothed * first + (1 - smoothed) * second).mean()

    def s2_of(parts: Tensor) -> Tensor:
        return parts[1].exp() + (parts[2].exp() * of_v / middle if middle > 0 else of_v)

    def loss(parts: Tensor) -> Tensor:
        unequal = (parts[1:] - 2 * parts[0]).square()
        # Above all the two that pairs never tell apart.
        return log_loss(parts[0].exp(), s2_of(parts)) + EQUAL_PARTS / len(d) * (unequal[0] + unequal[1] / 100)

    share = 1.0
    if variance is None:
        found = _minimise(loss, [0.0, 0.0, 0.0])
        temperature, s2 = found[0].exp(), s2_of(found)
        slope = float(found[2].exp()) / middle if middle > 0 else 0.0
        variance = VarianceFit(float(found[1].exp()) * unit**2 / 2, slope)
    else:
        s2 = torch.from_numpy((2 * variance.constant + variance.slope * v) / unit**2)
        temperature, share = _fit_temperature(log_loss, s2)
        s2, variance = s2 * share, VarianceFit(share * variance.constant, share * variance.slope)
    return PairLink(float(temperature) * unit, variance, link, float(log_loss(temperature, s2)), len(d), share)


def _fit_temperature(log_loss: Callable[[Tensor, Tensor], Tensor], s2: Tensor) -> tuple[Tensor, float]:
    """The best temperature for differences of variance `s2`, (pairs,), and the share of it that leaves one above 0."""
    mean = float(s2.mean())
    temperature = _minimise(lambda parts: log_loss(parts[0].exp(), s2), [0.0])[0].exp()
    if temperature.square() >= LEAST_SHARE * mean:
        return temperature, 1.0
    form = s2 / mean
    temperature = _minimise(lambda parts: log_loss(parts[0].exp(), form * (2 * parts[0]).exp()), [0.0])[0].exp()
    return temperature, float(temperature.square()) / mean


def _checked_pairs(
    differences: ArrayLike, pass_variances: ArrayLike, outcomes: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences, the sums of their two pass variances and outcomes, shape (pairs,), that a link can be fitted on."""
    d = finite("differences", differences)
    y = finite("outcomes", outcomes, len(d))
    first, second = np.asarray(pass_variances, dtype=float).reshape(len(d), 2).T
    v = _not_negative("pass_variances", first, len(d)) + _not_negative("pass_variances", second, len(d))
    for row in np.flatnonzero((y < 0) | (y > 1)):
        raise ValueError(f"outcomes: row {row} is {y[row]:g}, which is not between 0 and 1")
    if len(d) < MIN_PAIRS:
        raise ValueError(f"only {len(d)} pairs are labelled; a link needs {MIN_PAIRS}")
    if not (d * (y - 0.5)).sum() > 0:
        raise ValueError("the differences do not predict which edit is preferred; there is no link to be fitted")
    return d, v, y


def _log_probability(difference: Tensor, variance: Tensor, temperature: Tensor, link: str) -> Tensor:
    """Log of the probability that the first is preferred."""
    if link == "probit":
        return log_ndtr(difference / torch.sqrt(temperature.square() + variance))
    std = variance.clamp_min(1e-300).sqrt() / temperature
    return log_expected_sigmoid(difference / temperature, std.clamp_min(1e-4).expand_as(difference))


def _minimise(loss: Callable[[Tensor], Tensor], start: list[float]) -> Tensor:
    """The parameters, logarithms, at the smallest loss.

    Where the loss is flat the search takes steps as far as infinity: beyond `MOST_LOG` nothing changes.
    """
    parts = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parts], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(parts.clamp(-MOST_LOG, MOST_LOG))
        value.backward()
        return value

    optimizer.step(closure)
    found = parts.detach().clamp(-MOST_LOG, MOST_LOG)
    if not all(map(math.isfinite, found.tolist())):
        raise ValueError("The fit did not converge: the pairs do not determine it.")
    return found


def _not_negative(name: str, values: ArrayLike, length: int) -> np.ndarray:
    array = finite(name, values, length)
    for row in np.flatnonzero(array < 0):
        raise ValueError(f"{name}: row {row} is {array[row]:g}, which is negative")
    return array
