"""Pair losses over Gaussian rewards.

For two candidates of one group the reward difference is z ~ N(d, s^2), with d = mu_i - mu_j and
s = sqrt(sigma_i^2 + sigma_j^2). A new loss is a module here and a line in `LOSSES`.
"""

import torch
from torch import Tensor, nn

from editreward.expectations import expected_softplus, log_expected_sigmoid


def pair_difference(mean: Tensor, std: Tensor, winner: Tensor, loser: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the reward difference "winner minus loser" of each pair.

    Args:
        mean (`torch.Tensor` of shape `(candidates,)`): Mean reward of each candidate.
        std (`torch.Tensor` of shape `(candidates,)`): Standard deviation of each candidate's reward.
        winner, loser (`torch.LongTensor` of shape `(pairs,)`): Candidate indices.

    Returns:
        The two tensors of shape `(pairs,)`.
    """
    return mean[winner] - mean[loser], torch.hypot(std[winner], std[loser])


class NllLoss(nn.Module):
    """-log E[sigmoid(z)], the negative log of the preference probability (arXiv 2509.26346, eq. 4).

    Called with the mean and the standard deviation of the reward difference of each pair, shape `(pairs,)`; returns
    the loss of each pair in float32 or wider, not reduced. `link` is the preference probability that it trains.
    """

    link = "logistic"

    def forward(self, mean: Tensor, std: Tensor) -> Tensor:
        return -log_expected_sigmoid(mean, std)


class ExpectedNllLoss(nn.Module):
    """E[-log sigmoid(z)], an upper bound of [`NllLoss`] by Jensen's inequality: what the published code samples.

    Called and returning as [`NllLoss`].
    """

    link = "logistic"

    def forward(self, mean: Tensor, std: Tensor) -> Tensor:
        return expected_softplus(mean, std)


# The values of `--loss`.
LOSSES: dict[str, type[nn.Module]] = {
    "nll": NllLoss,
    "expected_nll": ExpectedNllLoss,
}
