"""Pair losses over Gaussian rewards.

For two candidates of one group the reward difference is z ~ N(d, s^2), with d = mu_i - mu_j and
s = sqrt(sigma_i^2 + sigma_j^2). A new loss is a module here and a line in `LOSSES`. It is called with d, s and whether
the pair is a tie, each of shape `(pairs,)`; a loss with `knows_ties = False` is never given a tie.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editreward.data.pairs import WeightedPairs
from editreward.expectations import expected_softplus, log_expected_sigmoid


def pair_difference(mean: Tensor, std: Tensor, pairs: WeightedPairs) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the reward difference "winner minus loser" of each pair.

    Args:
        mean (`torch.Tensor` of shape `(candidates, dimensions + 1)`): Mean rewards, of the aggregate last.
        std (`torch.Tensor` of shape `(candidates, dimensions + 1)`): Their standard deviations.
        pairs (`WeightedPairs`): The pairs, each with the dimension that it trains.

    Returns:
        The two tensors of shape `(pairs,)`.
    """
    winner, loser = (pairs.winner, pairs.dimension), (pairs.loser, pairs.dimension)
    return mean[winner] - mean[loser], torch.hypot(std[winner], std[loser])


class PairLoss(nn.Module):
    """What a loss says of itself: the `link` of the probability that it trains, and whether it takes ties."""

    link = "logistic"
    knows_ties = False


class NllLoss(PairLoss):
    """-log E[sigmoid(z)], the negative log of the preference probability (arXiv 2509.26346, eq. 4).

    Called with the mean and the standard deviation of the reward difference of each pair and whether it is a tie, all
    of shape `(pairs,)`; returns the loss of each pair in float32 or wider, not reduced.
    """

    def forward(self, mean: Tensor, std: Tensor, tie: Tensor | None = None) -> Tensor:
        return -log_expected_sigmoid(mean, std)


class ExpectedNllLoss(PairLoss):
    """E[-log sigmoid(z)], an upper bound of [`NllLoss`] by Jensen's inequality: what the published code samples.

    Called and returning as [`NllLoss`].
    """

    def forward(self, mean: Tensor, std: Tensor, tie: Tensor | None = None) -> Tensor:
        return expected_softplus(mean, std)


class BradleyTerryTiesLoss(PairLoss):
    """Negative log likelihood of the model of Rao and Kupper (1967), where ties have a probability: a baseline.

    With k = 5, a win is e^d / (e^d + k), a tie (k^2 - 1) e^d / ((e^d + k) (1 + k e^d)). Called and returning as
    [`NllLoss`]; the standard deviation plays no part.
    """

    knows_ties = True
    log_k = math.log(5.0)

    def forward(self, mean: Tensor, std: Tensor, tie: Tensor | None = None) -> Tensor:
        mean = mean.float() if mean.dtype in (torch.float16, torch.bfloat16) else mean
        win = F.softplus(self.log_k - mean)
        if tie is None:
            return win
        log_k = torch.full_like(mean, self.log_k)
        draw = (
            torch.logaddexp(mean, log_k) + F.softplus(mean + self.log_k) - mean - math.log(math.expm1(2 * self.log_k))
        )
        return torch.where(tie, draw, win)


# The values of `--loss`.
LOSSES: dict[str, type[PairLoss]] = {
    "nll": NllLoss,
    "expected_nll": ExpectedNllLoss,
    "bradley_terry_ties": BradleyTerryTiesLoss,
}
