"""Pairs of groups against a loop over all ordered pairs."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editreward.data.pairs import batch_pairs, batch_ties, training_pairs

NAN = float("nan")


def group_pairs(scores, dimension=None):
    """The pairs of one group."""
    return batch_pairs(scores, torch.zeros(len(scores), dtype=torch.long), dimension)


def as_set(pairs) -> set[tuple[int, int]]:
    first, second = pairs[:2]
    assert len(first) == len(set(zip(first.tolist(), second.tolist(), strict=True)))
    return set(zip(first.tolist(), second.tolist(), strict=True))


scores_and_groups = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.lists(
            st.lists(st.sampled_from([1.0, 2.0, 10 / 3, 11 / 3, 4.0, NAN]), min_size=3, max_size=3),
            min_size=n,
            max_size=n,
        ),
        st.lists(st.integers(0, 2), min_size=n, max_size=n),
    )
)


@given(scores_and_groups, st.sampled_from([None, 0, 1, 2]))
@settings(max_examples=100, deadline=None)
def test_batch_pairs_are_all_pairs_of_a_group_with_different_scores(case, dimension):
    scores, groups = case
    deciding = [math.fsum(row) if dimension is None else row[dimension] for row in scores]
    wins, ties = set(), set()
    for i, j in itertools.permutations(range(len(scores)), 2):
        if groups[i] == groups[j]:
            if deciding[i] > deciding[j] + 1e-3:
                wins.add((i, j))
            elif abs(deciding[i] - deciding[j]) < 1e-3 and i < j:
                ties.add((i, j))
    arguments = (torch.tensor(scores), torch.tensor(groups), dimension)
    assert as_set(batch_pairs(*arguments)) == wins
    assert as_set(batch_ties(*arguments)) == ties
    pairs = training_pairs(*arguments)
    assert as_set(pairs) == wins and pairs.weight.eq(1).all()


def test_a_group_of_seven_distinct_candidates_has_21_pairs():
    scores = torch.tensor([[i / 2, 1.0] for i in range(7)])
    winner, loser = group_pairs(scores)
    assert len(winner) == 21 and (winner > loser).all()
    assert len(group_pairs(scores, dimension=1)[0]) == 0


def test_equal_sums_of_rounded_means_are_ties():
    # 10/3 + 8/3 and 11/3 + 7/3 differ in float32.
    scores = torch.tensor([[10 / 3, 8 / 3], [11 / 3, 7 / 3], [3.333, 2.667]])
    assert len(group_pairs(scores)[0]) == 0
    assert len(batch_ties(scores, torch.zeros(3))[0]) == 3


def test_a_null_score_takes_its_candidate_out_of_the_pairs_that_it_decides():
    scores = torch.tensor([[1.0, 3.0], [2.0, NAN], [3.0, 4.0]])
    assert as_set(group_pairs(scores)) == {(2, 0)}
    assert as_set(group_pairs(scores, dimension=0)) == {(2, 1), (2, 0), (1, 0)}
    assert as_set(group_pairs(scores, dimension=1)) == {(2, 0)}


def test_annotated_preferences_replace_the_overall_pairs_of_their_group_only():
    scores = torch.tensor([[1.0], [2.0], [1.0], [2.0]])
    groups = torch.tensor([0, 0, 1, 1])
    preferences, weight = torch.tensor([[2, 3]]), torch.tensor([0.5])
    overall = training_pairs(scores, groups, preferences=preferences, preference_weight=weight)
    assert [t.tolist() for t in overall] == [[1, 2], [0, 3], [1.0, 0.5]]
    by_dimension = training_pairs(scores, groups, 0, preferences=preferences, preference_weight=weight)
    assert as_set(by_dimension) == {(1, 0), (3, 2)}


def test_unknown_tie_strategy_is_named():
    with pytest.raises(ValueError, match="'keep'.*drop"):
        training_pairs(torch.zeros(2, 1), torch.zeros(2), ties="keep")
