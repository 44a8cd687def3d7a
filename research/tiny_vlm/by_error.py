"""Near misses drawn more often where the model does not tell them: errors by attribute and category."""

from collections.abc import Sequence
from typing import Any

import torch

from editreward.simulation import WORLDS
from editreward.simulation.instructions import COLLAGE_CATEGORIES
from editreward.simulation.near_misses import ALL_NEAR_MISSES, MISSED_IN, Weights

KEPT = 0.98
"""Of what was counted, at each step: about the last fifty steps count."""
LEAST = 0.1
"""Error below which a kind gets no rarer: what is told is still shown."""


class ErrorShares:
    """Running errors by attribute and category, in memory that processes which make data share."""

    def __init__(self, worlds: Sequence[str] = ("shapes",)) -> None:
        self.attributes = {attribute for world in worlds for attribute in MISSED_IN[world]}
        self.categories = {category for world in worlds for category in WORLDS[world].categories}
        shape = 2, len(ALL_NEAR_MISSES), len(COLLAGE_CATEGORIES)
        self._counts = torch.zeros(shape).share_memory_()  # wrong pairs, pairs

    def add(self, scores: torch.Tensor, batch: dict[str, Any]) -> None:
        """Count a batch: pairs of a perfect edit and a near miss of its group that the scores put in the wrong order.

        Args:
            scores: (groups, candidates), higher is better.
            batch: with `following` and `missed` (groups, candidates), and `category` (groups,), index in
                `COLLAGE_CATEGORIES`.
        """
        self._counts.mul_(KEPT)
        perfect = (batch["following"] == 4) & (batch["missed"] < 0)
        for group, candidate in (batch["missed"] >= 0).nonzero().tolist():
            beside = scores[group][perfect[group]]
            place = int(batch["missed"][group, candidate]), int(batch["category"][group])
            wrong = (scores[group, candidate] >= beside).sum()
            self._counts[(slice(None), *place)] += torch.stack([wrong, torch.tensor(len(beside))])

    def errors(self) -> dict[tuple[str, str], float]:
        """Shares of wrong pairs; what was hardly seen is taken for chance, a half."""
        wrong, pairs = self._counts.clone()
        shares = (wrong + 0.5) / (pairs + 1)
        return {
            (attribute, category): float(shares[i, j])
            for i, (attribute, faults) in enumerate(ALL_NEAR_MISSES.items())
            for j, category in enumerate(COLLAGE_CATEGORIES)
            if category in faults and category in self.categories and attribute in self.attributes
        }

    def weights(self) -> Weights:
        """In proportion to the errors, with a mean of 1."""
        errors = {key: max(error, LEAST) for key, error in self.errors().items()}
        mean = sum(errors.values()) / len(errors)
        return {key: error / mean for key, error in errors.items()}
