"""Losses over Gaussian rewards.

A loss says what it trains on (`samples`: pairs of candidates, or single ones) and gives the loss of each sample, not
reduced. For a pair the reward difference is z ~ N(d, s^2), with d = mu_i - mu_j and s = sqrt(sigma_i^2 + sigma_j^2);
for a single candidate d is the reward minus its target. A new loss is a module here and a line in `LOSSES`; or any
[`RewardLoss`], passed to the trainer as an object.
"""

import math
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.groups.pairs import WeightedPairs, WeightedScores, training_pairs, training_scores
from editreward.statistics.expectations import expected_softplus, log_expected_sigmoid, log_ndtr
from editreward.training.terms import Annotation, ArraySamples

# Middle of the scale of a score, 1 to 4.
MIDDLE_SCORE = 2.5


class LossOptions(Protocol):
    """What losses read of the training arguments."""

    ties: str
    tie_weight: float
    label_smoothing: float
    vote_labels: bool
    regression_offset: float | None
    pointwise_scale: float


class RewardLoss(nn.Module):
    """A loss, called with the mean and the standard deviation of each sample's difference and, for pairs, with whether
    each is a tie, all of shape `(samples,)`. Returns the loss of each sample in float32 or wider.

    Attributes:
        link: The link of the preference probabilities of a model trained with it, saved in the model's config.
        knows_ties: It takes pairs that are marked as ties; others are never given any.
        pairwise: Its samples are pairs. Options about pairs say nothing to the others.
        trains_std: It depends on the standard deviations.
        vote_labels: It reads the annotators' own scores.
    """

    link = "logistic"
    knows_ties = False
    pairwise = True
    trains_std = True
    vote_labels = False

    @classmethod
    def from_arguments(cls, args: LossOptions, dimensions: list[str]) -> "RewardLoss":
        """The loss as the training arguments ask for it, for a model of `dimensions`."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What messages and model cards call it: a value of `--loss`, or its class."""
        return next((name for name, known in LOSSES.items() if type(self) is known), type(self).__name__)

    def check_dimensions(self, dimensions: list[str]) -> None:
        """Raise a `ValueError` if it cannot train a model of `dimensions`."""

    def samples(self, annotation: Annotation, dimension: int | None = None) -> ArraySamples:
        """What to train on in a batch, for the aggregate (`None`) or a dimension's own scores."""
        raise NotImplementedError

    def of(self, samples: Any, mean: Tensor, std: Tensor) -> Tensor:
        """The loss of each sample, `(samples,)`.

        Args:
            samples: As from `samples`, of tensors.
            mean, std (`torch.Tensor` of shape `(candidates, dimensions + 1)`): The rewards, of the aggregate last.
        """
        raise NotImplementedError


def pair_difference(pairs: WeightedPairs[Tensor], mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the reward difference "winner minus loser", of shape `(pairs,)`.

    Args:
        pairs: Which candidates.
        mean (`torch.Tensor` of shape `(candidates, dimensions + 1)`): Mean rewards, of the aggregate last.
        std (`torch.Tensor` of shape `(candidates, dimensions + 1)`): Their standard deviations.
    """
    winner, loser = (pairs.winner, pairs.dimension), (pairs.loser, pairs.dimension)
    return mean[winner] - mean[loser], torch.hypot(std[winner], std[loser])


def score_difference(samples: WeightedScores[Tensor], mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of "reward minus target", of shape `(samples,)`.

    Arguments as for [`pair_difference`]. The aggregate is replaced by the sum of the dimensions, which the targets are
    made for whatever the model's aggregation is.
    """
    mean, std = mean[:, :-1], std[:, :-1]
    mean = torch.cat([mean, mean.sum(-1, keepdim=True)], dim=-1)
    std = torch.cat([std, std.norm(dim=-1, keepdim=True)], dim=-1)
    index = samples.candidate, samples.dimension
    return mean[index] - samples.target, std[index]


class PairLoss(RewardLoss):
    """A loss of pairs "i preferred to j".

    Of a pair with the label p, 1 or its share of votes, the loss is q x loss(i over j) + (1 - q) x loss(j over i) with
    q = p (1 - label_smoothing) + (1 - p) label_smoothing.

    Args:
        ties, tie_weight: See [`training_pairs`].
        label_smoothing: Probability that an annotated order is taken for wrong.
        vote_labels: Take the batch's `annotator_labels` for soft labels, see [`training_pairs`].
    """

    def __init__(
        self, ties: str = "drop", tie_weight: float = 1.0, label_smoothing: float = 0.0, vote_labels: bool = False
    ) -> None:
        super().__init__()
        self.ties = ties
        self.tie_weight = tie_weight
        self.label_smoothing = label_smoothing
        self.vote_labels = vote_labels

    @classmethod
    def from_arguments(cls, args: LossOptions, dimensions: list[str]) -> "PairLoss":
        return cls(args.ties, args.tie_weight, args.label_smoothing, args.vote_labels)

    def check_dimensions(self, dimensions: list[str]) -> None:
        if self.ties in ("disentangle", "dimension") and len(dimensions) < 2:
            raise ValueError(f"`ties` {self.ties!r} needs two dimensions, the model has only {dimensions[0]!r}.")

    def samples(self, annotation: Annotation, dimension: int | None = None) -> WeightedPairs[np.ndarray]:
        return training_pairs(
            annotation.labels,
            annotation.group_index,
            dimension,
            self.ties,
            annotation.preferences,
            annotation.preference_weight,
            self.tie_weight,
            annotation.annotator_labels if self.vote_labels else None,
        )

    def of(self, samples: WeightedPairs[Tensor], mean: Tensor, std: Tensor) -> Tensor:
        difference, std = pair_difference(samples, mean, std)
        loss: Tensor = self(difference, std, samples.tie)
        if not self.vote_labels and self.label_smoothing == 0:
            return loss
        wrong = 1 - samples.probability
        wrong = wrong + self.label_smoothing * (1 - 2 * wrong)
        return (1 - wrong) * loss + wrong * self(-difference, std, samples.tie)


class NllLoss(PairLoss):
    """-log E[sigmoid(z)], the negative log of the preference probability (arXiv 2509.26346, eq. 4)."""

    def forward(self, mean: Tensor, std: Tensor, tie: Tensor | None = None) -> Tensor:
        return -log_expected_sigmoid(mean, std)


class ExpectedNllLoss(PairLoss):
    """E[-log sigmoid(z)], an upper bound of [`NllLoss`] by Jensen's inequality: what the published code samples."""

    def forward(self, mean: Tensor, std: Tensor, tie: Tensor | None = None) -> Tensor:
        return expected_softplus(mean, std)


class ProbitLoss(PairLoss):
    """-log Phi(d / sqrt(s^2 + 1)) = -log P(z + e > 0) for e ~ N(0, 1), in closed form."""

    link = "probit"

    def forward(self, mean: Tensor, std: Tensor, tie: Tensor | None = None) -> Tensor:
        mean, std = _at_least_float32(mean), _at_least_float32(std)
        return -log_ndtr(mean / torch.hypot(std, torch.ones_like(std)))


class BradleyTerryLoss(PairLoss):
    """-log sigmoid(d) (Bradley and Terry, 1952): a baseline. The standard deviation plays no part."""

    trains_std = False

    def forward(self, mean: Tensor, std: Tensor, tie: Tensor | None = None) -> Tensor:
        return -F.logsigmoid(_at_least_float32(mean))


class BradleyTerryTiesLoss(PairLoss):
    """Negative log likelihood of the model of Rao and Kupper (1967), where ties have a probability: a baseline.

    With k = 5, a win is e^d / (e^d + k), a tie (k^2 - 1) e^d / ((e^d + k) (1 + k e^d)). The standard deviation
    plays no part.
    """

    knows_ties = True
    trains_std = False
    log_k = math.log(5.0)

    def forward(self, mean: Tensor, std: Tensor, tie: Tensor | None = None) -> Tensor:
        mean = _at_least_float32(mean)
        win = F.softplus(self.log_k - mean)
        if tie is None:
            return win
        log_k = torch.full_like(mean, self.log_k)
        draw = (
            torch.logaddexp(mean, log_k) + F.softplus(mean + self.log_k) - mean - math.log(math.expm1(2 * self.log_k))
        )
        return torch.where(tie, draw, win)


class RegressionLoss(RewardLoss):
    """d^2 with d = R - (y_1 + ... + y_D - offset): the point-wise variant (arXiv 2509.26346, eq. 5 and table 4).

    R is the sum of a candidate's dimension means, or the mean of a single head, y are its annotated scores. For a
    dimension's own scores it is (mu_k - (y_k - offset / D))^2. Standard deviations are not trained, annotated
    preferences not read.

    Args:
        offset: What is taken from the sum of the scores. Heads start near 0, so it should be about the mean of the
            sums; the heads' biases learn the rest.
    """

    pairwise = False
    trains_std = False

    def __init__(self, offset: float = MIDDLE_SCORE * len(DEFAULT_DIMENSIONS)) -> None:
        super().__init__()
        self.offset = offset

    @classmethod
    def from_arguments(cls, args: LossOptions, dimensions: list[str]) -> "RegressionLoss":
        if args.regression_offset is not None:
            return cls(args.regression_offset)
        # `overall` is the sum of the scores of the default dimensions.
        return cls() if dimensions == ["overall"] else cls(MIDDLE_SCORE * len(dimensions))

    def samples(self, annotation: Annotation, dimension: int | None = None) -> WeightedScores[np.ndarray]:
        return training_scores(annotation.labels, dimension, self.offset)

    def of(self, samples: WeightedScores[Tensor], mean: Tensor, std: Tensor) -> Tensor:
        loss: Tensor = self(*score_difference(samples, mean, std))
        return loss

    def forward(self, mean: Tensor, std: Tensor, tie: Tensor | None = None) -> Tensor:
        return _at_least_float32(mean).square()


class GaussianLikelihood(nn.Module):
    """log sigma + (mu - x)^2 / (2 sigma^2), which is -log N(x | mu, sigma^2) but for a constant, x an annotated score.

    Pairs alone let sigma fall to nothing where they are ranked right, and leave the offset between groups open. This
    term is least where sigma is the error, and ties the offset. It is for a small weight beside a pair loss
    (`pointwise_weight`).

    Args:
        scale: Units of a raw mean that a point of the annotation scale is worth: x = scale x (score - middle). Pair
            losses choose their own, by how sure the annotators' order is; the two should about agree.
        middle: The score that a raw mean of 0 stands for.
    """

    def __init__(self, scale: float = 4.0, middle: float = MIDDLE_SCORE) -> None:
        super().__init__()
        self.scale, self.middle = scale, middle

    @classmethod
    def from_arguments(cls, args: LossOptions, dimensions: list[str]) -> "GaussianLikelihood":
        """The likelihood as the training arguments ask for it, for a model of `dimensions`."""
        # `overall` is the sum of the scores of the default dimensions.
        scores = len(DEFAULT_DIMENSIONS) if dimensions == ["overall"] else 1
        return cls(args.pointwise_scale, MIDDLE_SCORE * scores)

    def samples(self, annotation: Annotation, dimension: int) -> WeightedScores[np.ndarray]:
        """The candidates with a score in a dimension, each with weight 1; targets in units of reward."""
        found = training_scores(annotation.labels, dimension)
        return found._replace(target=self.scale * (found.target - self.middle))

    def of(self, samples: WeightedScores[Tensor], mean: Tensor, log_std: Tensor) -> Tensor:
        """The loss of each sample, `(samples,)`.

        Args:
            samples: As from `samples`, of tensors.
            mean, log_std (`torch.Tensor` of shape `(candidates, dimensions)`): Raw scores.
        """
        index = samples.candidate, samples.dimension
        loss: Tensor = self(_at_least_float32(mean[index]) - samples.target, _at_least_float32(log_std[index]))
        return loss

    def forward(self, error: Tensor, log_std: Tensor) -> Tensor:
        """The loss of errors `mu - x`, in float32 or wider."""
        error, log_std = _at_least_float32(error), _at_least_float32(log_std)
        return log_std + (error * torch.exp(-log_std)).square() / 2


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


# The values of `--loss`.
LOSSES: dict[str, type[RewardLoss]] = {
    "nll": NllLoss,
    "expected_nll": ExpectedNllLoss,
    "probit": ProbitLoss,
    "bradley_terry": BradleyTerryLoss,
    "bradley_terry_ties": BradleyTerryTiesLoss,
    "regression": RegressionLoss,
}
