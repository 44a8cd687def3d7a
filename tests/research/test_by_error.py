"""Near misses by error: what is counted, the weights that follow, and that simulation keeps to them."""

from collections import Counter

import pytest
import torch

from editreward.simulation import NEAR_MISSES, simulate_group
from editreward.simulation.instructions import CATEGORIES
from editreward.simulation.near_misses import attributes_of, category_weights
from research.tiny_vlm.by_error import KEPT, LEAST, ErrorShares

COLOUR, SIZE = list(NEAR_MISSES).index("colour"), list(NEAR_MISSES).index("size")
RECOLOUR, RESIZE = CATEGORIES.index("recolour"), CATEGORIES.index("resize")


def batch():
    return {
        "following": torch.tensor([[4, 2, 4], [4, 2, 1]]),
        "missed": torch.tensor([[-1, COLOUR, -1], [-1, SIZE, -1]]),
        "category": torch.tensor([RECOLOUR, RESIZE]),
    }


def test_errors_are_the_shares_of_pairs_in_the_wrong_order():
    shares = ErrorShares()
    for _ in range(300):
        shares.add(torch.tensor([[1.0, 0.5, 0.0], [0.3, 0.2, 0.9]]), batch())
    pairs = 1 / (1 - KEPT)  # what a sum of so many steps comes to
    errors = shares.errors()
    assert errors["colour", "recolour"] == pytest.approx((pairs + 0.5) / (2 * pairs + 1), rel=0.01)
    assert errors["size", "resize"] == pytest.approx(0.5 / (pairs + 1), rel=0.01)
    assert errors["shape", "add"] == 0.5
    weights = shares.weights()
    assert weights["colour", "recolour"] / weights["size", "resize"] == pytest.approx(0.5 / LEAST, rel=0.02)
    assert sum(weights.values()) / len(weights) == pytest.approx(1)


def test_equal_scores_are_wrong():
    shares = ErrorShares()
    shares.add(torch.zeros(2, 3), batch())
    assert shares.errors()["colour", "recolour"] == pytest.approx(2.5 / 3)


def test_groups_are_drawn_by_the_weights():
    weights = {(attribute, category): 0.01 for category in CATEGORIES for attribute in attributes_of(category)}
    weights["place", "add"], weights["place", "move"] = 10.0, 10.0
    of_category = dict(zip(CATEGORIES, category_weights(weights), strict=True))
    assert of_category["move"] > of_category["add"] > 50 * of_category["recolour"]
    groups = [simulate_group(seed, "train", 2, 84, 1.0, near_miss_weights=weights) for seed in range(30)]
    assert {group.category for group in groups} <= {"add", "move"}
    missed = Counter(edit.missed for group in groups for edit in group.candidates)
    assert missed["place"] > 0.9 * missed.total()
