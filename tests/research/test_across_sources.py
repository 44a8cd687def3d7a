"""Order of edits of different sources, against brute force."""

from itertools import combinations

import numpy as np
import pytest

from research.across_sources import across, measure, within


def groups(rng, offset, count=60):
    """Groups whose scores are the truth, but for an offset of each group."""
    truths = [rng.integers(1, 5, size=5).astype(float) for _ in range(count)]
    return [truth + rng.normal(scale=offset) for truth in truths], truths


def test_pairs_of_one_group_are_all_its_pairs_of_different_truth():
    rng = np.random.default_rng(0)
    scores, truths = [rng.normal(size=4) for _ in range(20)], [rng.integers(1, 4, size=4) for _ in range(20)]
    right = [
        (s[i] > s[j]) == (t[i] > t[j])
        for s, t in zip(scores, truths, strict=True)
        for i, j in combinations(range(4), 2)
        if t[i] != t[j]
    ]
    found = within(scores, truths)
    assert found.value == pytest.approx(np.mean(right)) and found.total == len(right)


def test_offsets_between_groups_cost_order_across_and_nothing_within():
    rng = np.random.default_rng(1)
    scores, truths = groups(rng, offset=2.0)
    found = measure(scores, truths)
    assert found["within"].value == 1 and found["across"].value < 0.85
    assert found["removed"].value > found["across"].value + 0.1
    assert found["mean"] < found["kept_mean"] < found["best_mean"]
    # Of all pairs of two groups, about the share that the sample says.
    right = []
    for (s, t), (u, v) in combinations(zip(scores, truths, strict=True), 2):
        differ = t[:, None] != v
        right.append(((s[:, None] > u) == (t[:, None] > v))[differ])
    assert found["across"].value == pytest.approx(np.concatenate(right).mean(), abs=0.02)
    assert measure(*groups(rng, offset=0.0))["across"].value == 1


def test_random_scores_order_nothing():
    rng = np.random.default_rng(2)
    _, truths = groups(rng, 0.0)
    assert across([rng.normal(size=5) for _ in truths], truths).value == pytest.approx(0.5, abs=0.03)
