"""Preference pairs of edit groups, derived from the scores of their candidates.

Scores are arrays of shape `(candidates, dimensions)`, with NaN where a candidate has no score in a dimension. The
candidates of all groups of a batch lie one after another, and `group_index` tells whose each is.
"""

from typing import Generic, NamedTuple, TypeVar

import numpy as np

from configuration_editreward import check_choice

Array = TypeVar("Array")
"""`numpy.ndarray` here, `torch.Tensor` in the batches of training."""

# What becomes of a pair with equal overall scores, the values of `--ties`; see `training_pairs`.
TIES = ("drop", "disentangle", "as_published", "dimension", "bradley_terry_ties")

# Scores are means over a few annotators' ratings: a smaller difference is the rounding of equal scores.
TIE_TOLERANCE = 1e-4


class WeightedPairs(NamedTuple, Generic[Array]):
    """Pairs to train on, arrays of shape `(pairs,)`.

    Args:
        winner, loser: Candidate indices.
        weight: Weight in the loss, float32.
        dimension: The dimension whose rewards the pair trains, -1 for the aggregate.
        tie: The two are equally good, for a loss that knows ties.
        probability: Soft label, the probability that the winner is preferred, float32; 1 otherwise.
    """

    winner: Array
    loser: Array
    weight: Array
    dimension: Array
    tie: Array
    probability: Array

    @property
    def candidate(self) -> Array:
        """A candidate of each sample, which tells its group."""
        return self.winner


class WeightedScores(NamedTuple, Generic[Array]):
    """Candidates to train on one by one, arrays of shape `(samples,)`.

    Args:
        candidate: Candidate indices.
        target: What the reward is to be.
        weight: Weight in the loss, float32.
        dimension: The dimension whose reward is trained, -1 for the sum of all dimensions.
    """

    candidate: Array
    target: Array
    weight: Array
    dimension: Array


def batch_pairs(
    scores: np.ndarray, group_index: np.ndarray, dimension: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of candidates of one group with different scores, for every group of a batch.

    Args:
        scores (`np.ndarray` of shape `(candidates, dimensions)`):
            Annotated scores, NaN where there is none. A candidate without one of the scores that decide is in no pair.
        group_index (`np.ndarray` of shape `(candidates,)`):
            The group of each candidate.
        dimension (`int`, *optional*):
            Column that decides the preference. `None`: the sum of all columns.

    Returns:
        `winner` and `loser`, two arrays of shape `(pairs,)` of indices into the candidates.
    """
    winner, loser = np.nonzero(_difference(scores, group_index, dimension) > TIE_TOLERANCE)
    return winner, loser


def batch_ties(
    scores: np.ndarray, group_index: np.ndarray, dimension: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of candidates of one group with equal scores, each once. Arguments as for [`batch_pairs`]."""
    tied = np.abs(_difference(scores, group_index, dimension)) <= TIE_TOLERANCE
    first, second = np.nonzero(np.triu(tied, k=1))
    return first, second


def training_pairs(
    scores: np.ndarray,
    group_index: np.ndarray,
    dimension: int | None = None,
    ties: str = "drop",
    preferences: np.ndarray | None = None,
    preference_weight: np.ndarray | None = None,
    tie_weight: float = 1.0,
    annotator_scores: np.ndarray | None = None,
) -> WeightedPairs[np.ndarray]:
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
        preferences (`np.ndarray` of shape `(preferences, 2)`, *optional*):
            Annotated preferences, (chosen, rejected) as indices into the candidates. They judge the edit as a whole:
            in the groups that have some they replace the pairs of the summed scores, and per-dimension pairs ignore
            them. Both orders of a pair with the weights p and 1 - p are a soft label.
        preference_weight (`np.ndarray` of shape `(preferences,)`, *optional*):
            Their weights.
        tie_weight (`float`, defaults to 1.0):
            Weight of every sample that a tie gives.
        annotator_scores (`np.ndarray` of shape `(candidates, annotators, dimensions)`, *optional*):
            Scores of each annotator, NaN where there is none. They make soft labels of all pairs but annotated
            preferences and those marked as ties: see [`vote_shares`].

    Raises:
        ValueError: If `ties` is unknown.
    """
    check_choice("ties", ties, TIES)
    parts = [_equal_pairs(*batch_pairs(scores, group_index, dimension), dimension)]
    if ties == "bradley_terry_ties":
        first, second = batch_ties(scores, group_index, dimension)
        parts.append(_equal_pairs(first, second, dimension, tie_weight, tie=True))
    elif dimension is None and ties != "drop":
        parts += _tie_samples(scores, group_index, ties, tie_weight)
    pairs = WeightedPairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    if annotator_scores is not None:
        votes = vote_shares(annotator_scores, pairs.winner, pairs.loser, pairs.dimension)
        hard = np.isnan(votes) | pairs.tie
        pairs = pairs._replace(probability=np.where(hard, 1, votes).astype(np.float32))
    if dimension is None and preferences is not None and preference_weight is not None and len(preferences) > 0:
        by_score = ~np.isin(group_index[pairs.winner], group_index[preferences[:, 0]])
        annotated = _equal_pairs(preferences[:, 0], preferences[:, 1], None)._replace(weight=preference_weight)
        columns = zip(pairs, annotated, strict=True)
        pairs = WeightedPairs(*(np.concatenate([column[by_score], more]) for column, more in columns))
    return pairs


def vote_shares(
    annotator_scores: np.ndarray, first: np.ndarray, second: np.ndarray, dimension: np.ndarray
) -> np.ndarray:
    """Share of annotators who prefer `first` to `second`, equal scores counting half.

    Args:
        annotator_scores (`np.ndarray` of shape `(candidates, annotators, dimensions)`):
            Scores of each annotator, NaN where there is none.
        first, second (`np.ndarray` of shape `(pairs,)`):
            Candidates of one group each. An annotator who lacks a score that decides has no vote.
        dimension (`np.ndarray` of shape `(pairs,)`):
            Column that decides, -1 for the sum of all columns.

    Returns:
        `np.ndarray` of shape `(pairs,)`, NaN where nobody has a vote.
    """
    deciding = np.concatenate([annotator_scores, annotator_scores.sum(axis=-1, keepdims=True)], axis=-1)
    difference = deciding[first, :, dimension] - deciding[second, :, dimension]
    known = ~np.isnan(difference)
    votes = 0.5 + 0.5 * np.where(known & (np.abs(difference) > TIE_TOLERANCE), np.sign(difference), 0)
    counts = known.sum(axis=-1)
    sums: np.ndarray = np.where(known, votes, 0).sum(axis=-1)
    return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def majority_preferences(preferences: np.ndarray, preference_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each annotated pair once, in the order that weighs more; none of a balanced one.

    What a soft label of two orders says is better, to count how often a model is right.

    Args:
        preferences, preference_weight: As for [`training_pairs`].

    Returns:
        The preferences that remain, as they come first, and the sum of weights of each.
    """
    same, opposite = ((preferences[:, None] == order).all(axis=-1) for order in (preferences, preferences[:, ::-1]))
    weight, against = (of.astype(preference_weight.dtype) @ preference_weight for of in (same, opposite))
    kept = (weight > against) & ~np.tril(same, -1).any(axis=-1)
    return preferences[kept], weight[kept]


def training_scores(
    scores: np.ndarray, dimension: int | None = None, offset: float = 0.0
) -> WeightedScores[np.ndarray]:
    """The candidates that enter a loss of single candidates, each with weight 1.

    Args:
        scores, dimension:
            As for [`batch_pairs`]. A candidate without one of the scores that decide gives no sample.
        offset (`float`, defaults to 0.0):
            What is taken from the sum of a candidate's scores; from the score of one dimension its share.
    """
    if dimension is None:
        target = scores.sum(axis=-1) - offset
    else:
        target = scores[:, dimension] - offset / scores.shape[1]
    candidate = np.flatnonzero(~np.isnan(target))
    return WeightedScores(
        candidate,
        target[candidate],
        weight=np.ones(len(candidate), dtype=np.float32),
        dimension=np.full_like(candidate, -1 if dimension is None else dimension),
    )


def _equal_pairs(
    winner: np.ndarray, loser: np.ndarray, dimension: int | None, weight: float = 1.0, tie: bool = False
) -> WeightedPairs[np.ndarray]:
    """Pairs that share their weight, their dimension and whether they are ties."""
    return WeightedPairs(
        winner,
        loser,
        weight=np.full(len(winner), weight, dtype=np.float32),
        dimension=np.full_like(winner, -1 if dimension is None else dimension),
        tie=np.full(len(winner), tie),
        probability=np.ones(len(winner), dtype=np.float32),
    )


def _tie_samples(
    scores: np.ndarray, group_index: np.ndarray, ties: str, weight: float
) -> list[WeightedPairs[np.ndarray]]:
    """What candidates with equal sums give under `disentangle`, `as_published` or `dimension`."""
    first, second = batch_ties(scores, group_index)
    difference = scores[first] - scores[second]
    prefers_first, prefers_second = difference > TIE_TOLERANCE, difference < -TIE_TOLERANCE
    if ties == "dimension":
        samples = []
        for dimension in range(scores.shape[1]):
            for prefers, winner, loser in ((prefers_first, first, second), (prefers_second, second, first)):
                chosen = prefers[:, dimension]
                samples.append(_equal_pairs(winner[chosen], loser[chosen], dimension, weight))
        return samples
    one_way, other_way = prefers_first.any(axis=-1), prefers_second.any(axis=-1)
    if ties == "as_published":
        agree = ~(one_way | other_way)
        one_way, other_way = one_way | agree, other_way | agree
    return [
        _equal_pairs(first[one_way], second[one_way], None, weight),
        _equal_pairs(second[other_way], first[other_way], None, weight),
    ]


def _difference(scores: np.ndarray, group_index: np.ndarray, dimension: int | None) -> np.ndarray:
    """Score of i minus score of j, `(candidates, candidates)`; NaN, which satisfies no comparison, where unknown."""
    deciding = scores.sum(axis=-1) if dimension is None else scores[:, dimension]
    same_group = group_index[:, None] == group_index[None, :]
    return np.where(same_group, deciding[:, None] - deciding[None, :], np.nan)
