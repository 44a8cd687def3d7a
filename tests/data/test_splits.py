"""Splits by source image: nothing leaks, nothing moves, fractions are met on average."""

import itertools
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editreward.data.splits import Sources, assign_splits, check_fractions, find_leak

HALVES = {"train": 0.5, "test": 0.5}
# Few bases with few flipped bits, so that exact and near copies and groups of several sources are frequent.
images = st.builds(
    lambda base, flips: (base * 0x9E3779B97F4A7C15) % 2**64 ^ sum(1 << bit for bit in flips),
    st.integers(1, 12),
    st.sets(st.integers(0, 63), max_size=5),
)
datasets = st.lists(st.lists(images, max_size=3), min_size=1, max_size=14)


def sources_of(groups) -> list[Sources]:
    return [Sources(f"g{number}", "train", tuple(hashes)) for number, hashes in enumerate(groups)]


@given(datasets, st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_no_source_image_and_no_near_copy_is_in_two_splits(groups, seed):
    try:
        splits = assign_splits(sources_of(groups), HALVES, seed)
    except ValueError as error:
        assert "would be empty" in str(error)
        return
    assert len(splits) == len(groups)
    for (one, split), (other, other_split) in itertools.combinations(zip(groups, splits, strict=True), 2):
        if any((a ^ b).bit_count() <= 4 for a in one for b in other):
            assert split == other_split
    placed = [Sources(s.group_id, split, s.hashes) for s, split in zip(sources_of(groups), splits, strict=True)]
    assert find_leak(placed) is None


def test_a_leak_is_found_through_near_copies():
    groups = [Sources("a", "train", (0b1111,)), Sources("b", "test", (0b0,)), Sources("c", "test", (2**40 - 1,))]
    assert find_leak(groups) == (groups[0], groups[1])
    assert find_leak(groups, near_bits=3) is None


def test_splits_do_not_depend_on_order_and_stay_when_the_dataset_grows():
    groups = sources_of([[value * 0x9E3779B97F4A7C15 % 2**64] for value in range(1, 301)])
    fractions = {"train": 0.8, "validation": 0.1, "test": 0.1}
    splits = dict(zip(groups, assign_splits(groups, fractions), strict=True))
    assert dict(zip(groups[::-1], assign_splits(groups[::-1], fractions), strict=True)) == splits
    assert assign_splits(groups[:200], fractions) == [splits[group] for group in groups[:200]]
    assert assign_splits(groups, fractions, seed=1) != list(splits.values())


def test_fractions_are_met_on_average():
    groups = sources_of([[value * 0x9E3779B97F4A7C15 % 2**64] for value in range(1, 2001)])
    counts = Counter(assign_splits(groups, {"a": 0.7, "b": 0.2, "c": 0.1}))
    # Three standard deviations of binomials of 2,000.
    assert abs(counts["a"] - 1400) < 62 and abs(counts["b"] - 400) < 54 and abs(counts["c"] - 200) < 41


def test_groups_without_a_source_are_on_their_own():
    by_split = defaultdict(list)
    for number, split in enumerate(assign_splits(sources_of([[]] * 40), HALVES)):
        by_split[split].append(number)
    assert len(by_split) == 2


@pytest.mark.parametrize(
    "fractions", [{}, {"a": 0.5}, {"a": 0.0, "b": 1.0}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}]
)
def test_fractions_that_are_none_are_refused(fractions):
    with pytest.raises(ValueError, match="must be positive and sum to 1"):
        check_fractions(fractions)


def test_an_empty_split_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="split 'test' would be empty: 3 groups have 1 different source images"):
        assign_splits(sources_of([[7], [7], [7]]), {"train": 0.999, "test": 0.001})
