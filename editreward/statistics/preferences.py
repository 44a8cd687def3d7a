"""Probabilities of preferences between candidates with Gaussian rewards.

Both links compare noisy rewards x = z + noise, the noise independent for each candidate: with Gumbel noise the
difference of two is logistic, which is the logistic link; Gaussian noise of variance 1/2 gives the probit link.
"Candidate k is the best" means that x_k exceeds every other x_j, so its probability is one integral, over x_k, for any
number of candidates. It is computed in float64 on the CPU: the numbers are few, and not every device has float64.
"""

import math

import numpy as np
import torch
from torch import Tensor

from configuration_editreward import PREFERENCE_LINKS, check_choice
from editreward.statistics.expectations import log_expected_sigmoid

HERMITE_NODES = 32
GUMBEL_STEP = 0.25
GUMBEL_LIMITS = (-4.0, 40.0)  # the Gumbel density is below 1e-17 outside
# Nodes of the integral over the best candidate's noisy reward: this far apart, or farther where that makes too many.
REWARD_STEP = 0.125
MAX_REWARD_NODES = 8192


def preference_probability(
    mean_i: Tensor | float,
    log_std_i: Tensor | float,
    mean_j: Tensor | float,
    log_std_j: Tensor | float,
    link: str = "logistic",
) -> Tensor:
    """Probability that i is preferred to j, for rewards z_i ~ N(mean_i, std_i^2) and z_j alike, independent.

    Args:
        mean_i, log_std_i, mean_j, log_std_j (`torch.Tensor` or `float`):
            Raw (uncalibrated) means and log standard deviations, of shapes that broadcast.
        link (`str`, defaults to `"logistic"`):
            `logistic`: E[sigmoid(z_i - z_j)]; `probit`: Phi(d / sqrt(s^2 + 1)). Use the model's
            `config.preference_link`.

    Returns:
        `torch.Tensor` of the broadcast shape, in float64 on the CPU.

    Raises:
        ValueError: If `link` is unknown.
    """
    check_choice("link", link, PREFERENCE_LINKS)
    mean = _float64(mean_i) - _float64(mean_j)
    std = torch.hypot(_float64(log_std_i).exp(), _float64(log_std_j).exp())
    if link == "logistic":
        return log_expected_sigmoid(mean, std).exp()
    return torch.special.ndtr(mean / torch.sqrt(std * std + 1))


def best_of_probabilities(mean: Tensor, log_std: Tensor, link: str = "logistic") -> Tensor:
    """Probability of each candidate to be the best one of its group.

    Under the logistic link it is E[softmax(z_1 .. z_N)], under the probit link the same with Gaussian noise in place
    of Gumbel noise. For two candidates it is [`preference_probability`].

    Args:
        mean, log_std (`torch.Tensor` of shape `(candidates,)`):
            Raw (uncalibrated) mean and log standard deviation of each candidate's reward.
        link (`str`, defaults to `"logistic"`):
            `logistic` or `probit`, the model's `config.preference_link`.

    Returns:
        `torch.Tensor` of shape `(candidates,)` that sums to 1, in float64 on the CPU.

    Raises:
        ValueError: If `link` is unknown or there is no candidate.
    """
    check_choice("link", link, PREFERENCE_LINKS)
    mean, log_std = _float64(mean), _float64(log_std)
    if mean.numel() == 0:
        raise ValueError("A group without candidates has no best one.")
    if mean.numel() == 1:
        return torch.ones_like(mean)
    if mean.numel() == 2:
        first = preference_probability(mean[0], log_std[0], mean[1], log_std[1], link)
        return torch.stack([first, 1 - first])

    std = log_std.exp()
    distribution = _gaussian_plus_gumbel if link == "logistic" else _gaussian_plus_gaussian
    # Below `low` some candidate almost surely has more; above `high` nobody has.
    low = (mean - 9 * std).max().item() + GUMBEL_LIMITS[0]
    high = (mean + 9 * std).max().item() + GUMBEL_LIMITS[1]
    nodes = min(MAX_REWARD_NODES, math.ceil((high - low) / REWARD_STEP) + 1)
    x = torch.linspace(low, high, nodes, dtype=torch.float64)

    parts = [distribution(x, m, s) for m, s in zip(mean, std, strict=True)]
    log_below = torch.stack([below.clamp_min(1e-300).log() for below, _ in parts])
    density = torch.stack([density for _, density in parts])
    others_below = torch.exp(log_below.sum(dim=0) - log_below)
    integral = (density * others_below).sum(dim=-1)
    return integral / integral.sum()


def _gaussian_plus_gumbel(x: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Distribution function and density at `x` of N(mean, std^2) plus standard Gumbel noise."""
    if std < 1:
        points, weights = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
        weight = torch.from_numpy(weights / math.sqrt(2 * math.pi))
        y = x[:, None] - mean - std * torch.from_numpy(points)
        # The exponential overflows for y far below 0, where the distribution function is 0 long before.
        tail = torch.exp(-y.clamp_min(-40.0))
        return torch.exp(-tail) @ weight, (tail * torch.exp(-tail)) @ weight
    steps = torch.arange(GUMBEL_LIMITS[0], GUMBEL_LIMITS[1] + GUMBEL_STEP, GUMBEL_STEP, dtype=torch.float64)
    weight = GUMBEL_STEP * torch.exp(-steps - torch.exp(-steps))
    u = (x[:, None] - mean - steps) / std
    density = torch.exp(-0.5 * u * u) / (std * math.sqrt(2 * math.pi))
    return torch.special.ndtr(u) @ weight, density @ weight


def _gaussian_plus_gaussian(x: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Distribution function and density at `x` of N(mean, std^2) plus Gaussian noise of variance 1/2."""
    total = torch.sqrt(std * std + 0.5)
    u = (x - mean) / total
    return torch.special.ndtr(u), torch.exp(-0.5 * u * u) / (total * math.sqrt(2 * math.pi))


def _float64(value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().double()
    return torch.tensor(value, dtype=torch.float64)
