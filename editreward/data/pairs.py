"""Preference pairs of edit groups, derived from the scores of their candidates.

Scores are tensors of shape `(candidates, dimensions)`, with NaN where a candidate has no score in a dimension. The
candidates of all groups of a batch lie one after another, and `group_index` tells whose each is.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from configuration_editreward import check_choice

# What becomes of a pair with equal overall scores, the values of `--ties`. "drop": it gives no pair.
TIES = ("drop",)

# Scores are means over a few annotators' ratings: a smaller difference is the rounding of equal scores.
TIE_TOLERANCE = 1e-4


class WeightedPairs(NamedTuple):
    """Pairs to train on: candidate indices and the weight in the loss, three tensors of shape `(pairs,)`."""

    winner: Tensor
    loser: Tensor
    weight: Tensor


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
) -> WeightedPairs:
    """The pairs of a batch that enter the loss, with their weights.

    Args:
        scores, group_index, dimension:
            As for [`batch_pairs`]. Every pair that the scores give has weight 1.
        ties (`str`, defaults to `"drop"`):
            What becomes of pairs with equal scores; one of `TIES`.
        preferences (`torch.LongTensor` of shape `(preferences, 2)`, *optional*):
            Annotated preferences, (chosen, rejected) as indices into the candidates. They judge the edit as a whole:
            in the groups that have some they replace the pairs of the summed scores, and per-dimension pairs ignore
            them.
        preference_weight (`torch.Tensor` of shape `(preferences,)`, *optional*):
            Their weights.

    Raises:
        ValueError: If `ties` is unknown.
    """
    check_choice("ties", ties, TIES)
    winner, loser = batch_pairs(scores, group_index, dimension)
    weight = torch.ones(len(winner), dtype=torch.float32, device=scores.device)
    if dimension is None and preferences is not None and preference_weight is not None and len(preferences) > 0:
        by_score = ~torch.isin(group_index[winner], group_index[preferences[:, 0]])
        winner = torch.cat([winner[by_score], preferences[:, 0]])
        loser = torch.cat([loser[by_score], preferences[:, 1]])
        weight = torch.cat([weight[by_score], preference_weight])
    return WeightedPairs(winner, loser, weight)


def _difference(scores: Tensor, group_index: Tensor, dimension: int | None) -> Tensor:
    """Score of i minus score of j, `(candidates, candidates)`; NaN, which satisfies no comparison, where unknown."""
    deciding = scores.sum(dim=-1) if dimension is None else scores[:, dimension]
    same_group = group_index[:, None] == group_index[None, :]
    return (deciding[:, None] - deciding[None, :]).masked_fill(~same_group, float("nan"))
