"""Pairs of groups against a loop over all ordered pairs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editreward.groups.pairs import TIES, batch_pairs, batch_ties, majority_preferences, training_pairs, vote_shares

NAN = float("nan")


def group_pairs(scores, dimension=None):
    """The pairs of one group."""
    return batch_pairs(scores, np.zeros(len(scores), dtype=int), dimension)


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
    arguments = (np.array(scores), np.array(groups), dimension)
    assert as_set(batch_pairs(*arguments)) == wins
    assert as_set(batch_ties(*arguments)) == ties
    pairs = training_pairs(*arguments)
    assert as_set(pairs) == wins and (pairs.weight == 1).all()


def test_a_group_of_seven_distinct_candidates_has_21_pairs():
    scores = np.array([[i / 2, 1.0] for i in range(7)])
    winner, loser = group_pairs(scores)
    assert len(winner) == 21 and (winner > loser).all()
    assert len(group_pairs(scores, dimension=1)[0]) == 0


def test_equal_sums_of_rounded_means_are_ties():
    # 10/3 + 8/3 and 11/3 + 7/3 differ in float32.
    scores = np.array([[10 / 3, 8 / 3], [11 / 3, 7 / 3], [3.333, 2.667]])
    assert len(group_pairs(scores)[0]) == 0
    assert len(batch_ties(scores, np.zeros(3))[0]) == 3


def test_a_null_score_takes_its_candidate_out_of_the_pairs_that_it_decides():
    scores = np.array([[1.0, 3.0], [2.0, NAN], [3.0, 4.0]])
    assert as_set(group_pairs(scores)) == {(2, 0)}
    assert as_set(group_pairs(scores, dimension=0)) == {(2, 1), (2, 0), (1, 0)}
    assert as_set(group_pairs(scores, dimension=1)) == {(2, 0)}


def test_annotated_preferences_replace_the_overall_pairs_of_their_group_only():
    scores = np.array([[1.0], [2.0], [1.0], [2.0]])
    groups = np.array([0, 0, 1, 1])
    preferences, weight = np.array([[2, 3]]), np.array([0.5])
    overall = training_pairs(scores, groups, preferences=preferences, preference_weight=weight)
    assert [t.tolist() for t in overall] == [[1, 2], [0, 3], [1.0, 0.5], [-1, -1], [False, False], [1.0, 1.0]]
    by_dimension = training_pairs(scores, groups, 0, preferences=preferences, preference_weight=weight)
    assert as_set(by_dimension) == {(1, 0), (3, 2)}


score = st.sampled_from([1.0, 2.0, 10 / 3, 4.0, NAN])


@given(st.lists(st.lists(st.lists(score, min_size=2, max_size=2), min_size=3, max_size=3), min_size=4, max_size=4))
@settings(max_examples=50, deadline=None)
def test_vote_shares_are_those_counted_by_a_loop(annotations):
    for dimension in (-1, 0, 1):
        deciding = [[sum(x) if dimension < 0 else x[dimension] for x in candidate] for candidate in annotations]
        for i, j in itertools.permutations(range(4), 2):
            votes = [
                1.0 if a > b else 0.0 if a < b else 0.5
                for a, b in zip(deciding[i], deciding[j], strict=True)
                if a + b == a + b
            ]
            found = vote_shares(np.array(annotations), *(np.array([x]) for x in (i, j, dimension))).item()
            assert found == pytest.approx(sum(votes) / len(votes) if votes else NAN, nan_ok=True)


def test_votes_are_soft_labels_of_scored_pairs_and_not_of_annotated_preferences_or_ties():
    # Two of three prefer candidate 1 to 0; the third is unscored in group 1, whose preference stands as it is.
    annotators = np.array([[[1.0], [1.0], [3.0]], [[2.0], [4.0], [2.0]], [[1.0], [2.0], [NAN]], [[3.0], [3.0], [NAN]]])
    scores, groups = np.array([[5 / 3], [8 / 3], [1.5], [3.0]]), np.array([0, 0, 1, 1])
    pairs = training_pairs(scores, groups, annotator_scores=annotators)
    assert [pairs.winner.tolist(), pairs.loser.tolist()] == [[1, 3], [0, 2]]
    assert pairs.probability.tolist() == pytest.approx([2 / 3, 1.0]) and pairs.weight.tolist() == [1.0, 1.0]
    preferred = np.array([[0, 1]]), np.array([0.5])
    pairs = training_pairs(scores, groups, None, "drop", *preferred, annotator_scores=annotators)
    assert (pairs.winner.tolist(), pairs.probability.tolist()) == ([3, 0], [1.0, 1.0])
    ties = training_pairs(np.ones((2, 1)), groups[:2], None, "bradley_terry_ties", annotator_scores=annotators[:2])
    assert (ties.tie.tolist(), ties.probability.tolist()) == ([True], [1.0])
    # Nobody has scored both: the label stays as it is.
    nobody = training_pairs(scores[:2], groups[:2], annotator_scores=np.full((2, 0, 1), NAN))
    assert nobody.probability.tolist() == [1.0]


def test_the_majority_of_annotated_preferences_weighs_both_orders():
    preferences = np.array([[0, 1], [1, 0], [2, 3], [4, 5], [5, 4], [4, 5], [6, 7], [7, 6]])
    weight = np.array([0.7, 0.3, 0.2, 0.4, 0.6, 0.4, 0.5, 0.5])
    kept, kept_weight = majority_preferences(preferences, weight)
    assert kept.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert kept_weight.tolist() == pytest.approx([0.7, 0.2, 0.8])
    assert [len(x) for x in majority_preferences(preferences[:0], weight[:0])] == [0, 0]


def samples_of(scores, groups, ties, tie_weight=0.25):
    """What a strategy makes of scores: sorted (winner, loser, weight, dimension, tie)."""
    pairs = training_pairs(np.array(scores), np.array(groups), None, ties, tie_weight=tie_weight)
    return sorted(zip(*(column.tolist() for column in pairs[:5]), strict=True))


def expected_samples(scores, groups, ties, tie_weight=0.25):
    """The same by a loop over all pairs of candidates, from the definitions."""
    samples = []
    for i, j in itertools.combinations(range(len(scores)), 2):
        if groups[i] != groups[j]:
            continue
        total = sum(scores[i]) - sum(scores[j])
        differences = [a - b for a, b in zip(scores[i], scores[j], strict=True)]
        if abs(total) > 1e-3:
            samples.append((i, j, 1.0, -1, False) if total > 0 else (j, i, 1.0, -1, False))
        elif ties == "bradley_terry_ties":
            samples.append((i, j, tie_weight, -1, True))
        elif ties == "dimension":
            for dimension, difference in enumerate(differences):
                if difference != 0:
                    samples.append((*((i, j) if difference > 0 else (j, i)), tie_weight, dimension, False))
        elif ties != "drop" and (any(differences) or ties == "as_published"):
            # Equal sums and different parts: some dimension prefers each.
            samples += [(i, j, tie_weight, -1, False), (j, i, tie_weight, -1, False)]
    return sorted(samples)


@pytest.mark.parametrize("ties", TIES)
def test_tie_strategies_on_every_combination_of_scores_of_two_candidates(ties):
    for values in itertools.product([1.0, 2.0, 3.0, 4.0], repeat=4):
        scores = [list(values[:2]), list(values[2:])]
        samples = samples_of(scores, [0, 0], ties)
        assert samples == expected_samples(scores, [0, 0], ties)
        if ties == "disentangle":  # eq. 6: opposite labels exactly where the sums are equal and the parts are not
            opposite = {sample[:2] for sample in samples} == {(0, 1), (1, 0)}
            assert opposite == (sum(scores[0]) == sum(scores[1]) and scores[0] != scores[1])


@given(
    st.integers(1, 8).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0]), min_size=2, max_size=2), min_size=n, max_size=n),
            st.lists(st.integers(0, 2), min_size=n, max_size=n),
        )
    ),
    st.sampled_from(TIES),
)
@settings(max_examples=100, deadline=None)
def test_tie_strategies_lose_no_pair_and_double_none(case, ties):
    scores, groups = case
    samples = samples_of(scores, groups, ties)
    assert samples == expected_samples(scores, groups, ties)
    assert len({sample[:2] + sample[3:4] for sample in samples}) == len(samples)


def test_equal_scores_of_a_dimension_are_ties_of_its_own_loss_only_for_bradley_terry_ties():
    scores, groups = np.array([[1.0, 2.0], [1.0, 3.0]]), np.zeros(2)
    for ties in TIES:
        pairs = training_pairs(scores, groups, 0, ties)
        assert pairs.tie.tolist() == ([True] if ties == "bradley_terry_ties" else [])
        assert (pairs.dimension == 0).all()


def test_a_third_dimension_can_decide_a_tie_one_way_only_with_another_against_it():
    scores = [[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]]
    assert [sample[:4] for sample in samples_of(scores, [0, 0], "dimension")] == [
        (0, 1, 0.25, 0),
        (1, 0, 0.25, 1),
        (1, 0, 0.25, 2),
    ]
    assert len(samples_of(scores, [0, 0], "disentangle")) == 2


def test_unknown_tie_strategy_is_named():
    with pytest.raises(ValueError, match="'keep'.*drop"):
        training_pairs(np.zeros((2, 1)), np.zeros(2), ties="keep")
