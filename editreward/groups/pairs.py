"""Preference pairs of edit groups, derived from the scores of their candidates.

Scores are tensors of shape `(candidates, dimensions)`, with NaN where a candidate has no score in a dimension. The
candidates of all groups of a batch lie one after another, and `group_index` tells whose each is.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from configuration_editreward import check_choice

# What becomes of a pair with equal overall scores, the values of `--ties`; see `training_pairs`.
TIES = ("drop", "disentangle", "as_published", "dimension", "bradley_terry_ties")

# Scores are means over a few annotators' ratings: a smaller difference is the rounding of equal scores.
TIE_TOLERANCE = 1e-4


class WeightedPairs(NamedTuple):
    """Pairs to train on, tensors of shape `(pairs,)`.

    Args:
        winner, loser (`torch.LongTensor`): Candidate indices.
        weight (`torch.FloatTensor`): Weight in the loss.
        dimension (`torch.LongTensor`): The dimension whose rewards the pair trains, -1 for the aggregate.
        tie (`torch.BoolTensor`): The two are equally good, for a loss that knows ties.
        probability (`torch.FloatTensor`): Soft label, the probability that the winner is preferred; 1 otherwise.
    """

    winner: Tensor
    loser: Tensor
    weight: Tensor
    dimension: Tensor
    tie: Tensor
    probability: Tensor

    @property
    def candidate(self) -> Tensor:
        """A candidate of each sample, which tells its group."""
        return self.winner

    def difference(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the reward difference "winner minus loser", of shape `(pairs,)`.

        Args:
            mean (`torch.Tensor` of shape `(candidates, dimensions + 1)`): Mean rewards, of the aggregate last.
            std (`torch.Tensor` of shape `(candidates, dimensions + 1)`): Their standard deviations.
        """
        winner, loser = (self.winner, self.dimension), (self.loser, self.dimension)
        return mean[winner] - mean[loser], torch.hypot(std[winner], std[loser])


class WeightedScores(NamedTuple):
    """Candidates to train on one by one, tensors of shape `(samples,)`.

    Args:
        candidate (`torch.LongTensor`): Candidate indices.
        target (`torch.FloatTensor`): What the reward is to be.
        weight (`torch.FloatTensor`): Weight in the loss.
        dimension (`torch.LongTensor`): The dimension whose reward is trained, -1 for the sum of all dimensions.
    """

    candidate: Tensor
    target: Tensor
    weight: Tensor
    dimension: Tensor

    @property
    def tie(self) -> None:
        """No pair, no tie."""

    def difference(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of "reward minus target", of shape `(samples,)`.

        Arguments as for [`WeightedPairs.difference`]. The aggregate is replaced by the sum of the dimensions, which
        the targets are made for whatever the model's aggregation is.
        """
        mean, std = mean[:, :-1], std[:, :-1]
        mean = torch.cat([mean, mean.sum(-1, keepdim=True)], dim=-1)
        std = torch.cat([std, std.norm(dim=-1, keepdim=True)], dim=-1)
        index = self.candidate, self.dimension
        return mean[index] - self.target, std[index]


def batch_pairs(scores: Tensor, group_index: Tensor, dimension: int | None = None) -> tuple[Tensor, Tensor]:
    """All pairs of candidates of one group with different scores, for every group of a batch.

    Args:
        scores (`torch.Tensor` of shape `(candidates, dimensions)`):
            Annotated scores, NaN where there is none. A candidate without one of the scores that decide is in no pair.
        group_index (`torch.LongTensor` of shape `(candidates,)`):
            The group of each candidate.
        dimension (`int`, *optional*):
            Column that decides the preference. `None`: the sum of all columns.

    Returns:
        `winner` and `loser`, two `torch.LongTensor` of shape `(pairs,)` of indices into the candidates.
    """
    winner, loser = (_difference(scores, group_index, dimension) > TIE_TOLERANCE).nonzero(as_tuple=True)
    return winner, loser


def batch_ties(scores: Tensor, group_index: Tensor, dimension: int | None = None) -> tuple[Tensor, Tensor]:
    """All pairs of candidates of one group with equal scores, each once. Arguments as for [`batch_pairs`]."""
    tied = _difference(scores, group_index, dimension).abs() <= TIE_TOLERANCE
    first, second = tied.triu(diagonal=1).nonzero(as_tuple=True)
    return first, second


def training_pairs(
    scores: Tensor,
    group_index: Tensor,
    dimension: int | None = None,
    ties: str = "drop",
    preferences: Tensor | None = None,
    preference_weight: Tensor | None = None,
    tie_weight: float = 1.0,
    annotator_scores: Tensor | None = None,
) -> WeightedPairs:
    """The pairs of a batch that enter the loss, with their weights.

    Args:
        scores, group_index, dimension:
            As for [`batch_pairs`]. Every pair that the scores give has weight 1.
        ties (`str`, defaults to `"drop"`):
            What becomes of two candidates with equal sums of scores:

            - `drop`: they give no pair.
            - `disentangle`: where dimensions disagree, a sample for each side that some dimension prefers: two with
              opposite labels (arXiv 2509.26346, section 3.3 and eq. 6). Where all agree it gives none.
            - `as_published`: as `disentangle`, and both orders of a tie whose dimensions agree, too.
            - `dimension`: for every dimension that prefers one, a pair that trains this dimension alone.
            - `bradley_terry_ties`: a pair marked as a tie; so do equal scores in a dimension.
        preferences (`torch.LongTensor` of shape `(preferences, 2)`, *optional*):
            Annotated preferences, (chosen, rejected) as indices into the candidates. They judge the edit as a whole:
            in the groups that have some they replace the pairs of the summed scores, and per-dimension pairs ignore
            them. Both orders of a pair with the weights p and 1 - p are a soft label.
        preference_weight (`torch.Tensor` of shape `(preferences,)`, *optional*):
            Their weights.
        tie_weight (`float`, defaults to 1.0):
            Weight of every sample that a tie gives.
        annotator_scores (`torch.Tensor` of shape `(candidates, annotators, dimensions)`, *optional*):
            Scores of each annotator, NaN where there is none. They make soft labels of all pairs but annotated
            preferences and those marked as ties: see [`vote_shares`].

    Raises:
        ValueError: If `ties` is unknown.
    """
    check_choice("ties", ties, TIES)
    parts = [_plain_pairs(*batch_pairs(scores, group_index, dimension), dimension)]
    if ties == "bradley_terry_ties":
        first, second = batch_ties(scores, group_index, dimension)
        parts.append(_plain_pairs(first, second, dimension, tie_weight, tie=True))
    elif dimension is None and ties != "drop":
        parts += _tie_samples(scores, group_index, ties, tie_weight)
    pairs = WeightedPairs(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if annotator_scores is not None:
        votes = vote_shares(annotator_scores, pairs.winner, pairs.loser, pairs.dimension)
        pairs = pairs._replace(probability=votes.where(~(votes.isnan() | pairs.tie), 1).to(pairs.weight.dtype))
    if dimension is None and preferences is not None and preference_weight is not None and len(preferences) > 0:
        by_score = ~torch.isin(group_index[pairs.winner], group_index[preferences[:, 0]])
        annotated = _plain_pairs(preferences[:, 0], preferences[:, 1], None)._replace(weight=preference_weight)
        columns = zip(pairs, annotated, strict=True)
        pairs = WeightedPairs(*(torch.cat([column[by_score], more]) for column, more in columns))
    return pairs


def vote_shares(annotator_scores: Tensor, first: Tensor, second: Tensor, dimension: Tensor) -> Tensor:
    """Share of annotators who prefer `first` to `second`, equal scores counting half.

    Args:
        annotator_scores (`torch.Tensor` of shape `(candidates, annotators, dimensions)`):
            Scores of each annotator, NaN where there is none.
        first, second (`torch.LongTensor` of shape `(pairs,)`):
            Candidates of one group each. An annotator who lacks a score that decides has no vote.
        dimension (`torch.LongTensor` of shape `(pairs,)`):
            Column that decides, -1 for the sum of all columns.

    Returns:
        `torch.Tensor` of shape `(pairs,)`, NaN where nobody has a vote.
    """
    deciding = torch.cat([annotator_scores, annotator_scores.sum(-1, keepdim=True)], dim=-1)
    difference = deciding[first, :, dimension] - deciding[second, :, dimension]
    votes = 0.5 + 0.5 * difference.sign().where(difference.abs() > TIE_TOLERANCE, 0)
    return votes.where(~difference.isnan(), torch.nan).nanmean(dim=-1)


def majority_preferences(preferences: Tensor, preference_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Each annotated pair once, in the order that weighs more; none of a balanced one.

    What a soft label of two orders says is better, to count how often a model is right.

    Args:
        preferences, preference_weight: As for [`training_pairs`].

    Returns:
        The preferences that remain, as they come first, and the sum of weights of each.
    """
    same, opposite = ((preferences[:, None] == order).all(-1) for order in (preferences, preferences.flip(-1)))
    weight, against = (of.to(preference_weight.dtype) @ preference_weight for of in (same, opposite))
    kept = (weight > against) & ~same.tril(-1).any(-1)
    return preferences[kept], weight[kept]


def training_scores(scores: Tensor, dimension: int | None = None, offset: float = 0.0) -> WeightedScores:
    """The candidates that enter a loss of single candidates, each with weight 1.

    Args:
        scores, dimension:
            As for [`batch_pairs`]. A candidate without one of the scores that decide gives no sample.
        offset (`float`, defaults to 0.0):
            What is taken from the sum of a candidate's scores; from the score of one dimension its share.
    """
    if dimension is None:
        target = scores.sum(dim=-1) - offset
    else:
        target = scores[:, dimension] - offset / scores.shape[1]
    candidate = (~target.isnan()).nonzero().squeeze(-1)
    return WeightedScores(
        candidate,
        target[candidate],
        weight=torch.ones_like(candidate, dtype=torch.float32),
        dimension=torch.full_like(candidate, -1 if dimension is None else dimension),
    )


def _plain_pairs(
    winner: Tensor, loser: Tensor, dimension: int | None, weight: float = 1.0, tie: bool = False
) -> WeightedPairs:
    """Pairs that share their weight, their dimension and whether they are ties."""
    return WeightedPairs(
        winner,
        loser,
        weight=torch.full_like(winner, weight, dtype=torch.float32),
        dimension=torch.full_like(winner, -1 if dimension is None else dimension),
        tie=torch.full_like(winner, tie, dtype=torch.bool),
        probability=torch.ones_like(winner, dtype=torch.float32),
    )


def _tie_samples(scores: Tensor, group_index: Tensor, ties: str, weight: float) -> list[WeightedPairs]:
    """What candidates with equal sums give under `disentangle`, `as_published` or `dimension`."""
    first, second = batch_ties(scores, group_index)
    difference = scores[first] - scores[second]
    prefers_first, prefers_second = difference > TIE_TOLERANCE, difference < -TIE_TOLERANCE
    if ties == "dimension":
        samples = []
        for dimension in range(scores.shape[1]):
            for prefers, winner, loser in ((prefers_first, first, second), (prefers_second, second, first)):
                chosen = prefers[:, dimension]
                samples.append(_plain_pairs(winner[chosen], loser[chosen], dimension, weight))
        return samples
    one_way, other_way = prefers_first.any(-1), prefers_second.any(-1)
    if ties == "as_published":
        agree = ~(one_way | other_way)
        one_way, other_way = one_way | agree, other_way | agree
    return [
        _plain_pairs(first[one_way], second[one_way], None, weight),
        _plain_pairs(second[other_way], first[other_way], None, weight),
    ]


def _difference(scores: Tensor, group_index: Tensor, dimension: int | None) -> Tensor:
    """Score of i minus score of j, `(candidates, candidates)`; NaN, which satisfies no comparison, where unknown."""
    deciding = scores.sum(dim=-1) if dimension is None else scores[:, dimension]
    same_group = group_index[:, None] == group_index[None, :]
    return (deciding[:, None] - deciding[None, :]).masked_fill(~same_group, float("nan"))
