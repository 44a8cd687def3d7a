"""Near misses: edits that are perfect but for exactly one attribute, which only who reads the instruction can tell."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import TypeAlias

from editreward.simulation.edits import FAILURES, OWN_FLAWS, EditTask, Realisation
from editreward.simulation.instructions import CATEGORIES
from editreward.simulation.world import EFFECTS

Weights: TypeAlias = Mapping[tuple[str, str], float]
"""By attribute and category: how often to draw a near miss, relative to 1."""

NEAR_MISSES: dict[str, dict[str, str]] = {
    "colour": dict.fromkeys(("recolour", "add", "replace"), "wrong colour"),
    "shape": dict.fromkeys(("add", "replace"), "wrong shape"),
    "size": {"add": "wrong size", "resize": "opposite direction"},
    "object": dict.fromkeys(("recolour", "replace", "move", "resize"), "wrong object"),
    "place": dict.fromkeys(("add", "move"), "wrong place"),
    "removal": {"remove": "wrong object"},
    "pattern": {"background": "wrong pattern"},
    "tone": {"background": "wrong tone"},
}
"""Attribute to category to the fault in which only it is wrong: of `FAILURES` (score 2) or `OWN_FLAWS` (score 3)."""

ALL_NEAR_MISSES: dict[str, dict[str, str]] = {
    **NEAR_MISSES,
    "effect": dict.fromkeys(EFFECTS, "wrong effect"),
    "part": {"several": "one part ignored"},
}
"""Those of all worlds; `NEAR_MISSES` are those of the world of shapes, and the first ones."""


MISSED_IN: dict[str, tuple[str, ...]] = {
    "shapes": tuple(NEAR_MISSES),
    "collage": tuple(attribute for attribute in ALL_NEAR_MISSES if attribute != "tone"),
}
"""World to the attributes that can be missed in it: a photograph has no tone."""


def attributes_of(category: str) -> list[str]:
    """The attributes of a category of edits that can be missed."""
    return [attribute for attribute, faults in ALL_NEAR_MISSES.items() if category in faults]


def near_miss_fault(attribute: str, category: str) -> tuple[str, int, Realisation]:
    """The fault's name, its instruction-following score, and what makes its scene."""
    fault = ALL_NEAR_MISSES[attribute][category]
    for score, faults in ((2, FAILURES), (3, OWN_FLAWS)):
        for name, realisation in faults[category]:
            if name == fault:
                return fault, score, realisation
    raise KeyError(f"no fault {fault!r} in category {category!r}")


def category_weights(weights: Weights, categories: Sequence[str] = CATEGORIES) -> list[float]:
    """Of each category: the mean weight of what can be missed in it; 1 where nothing can."""
    means = []
    for category in categories:
        found = [weights.get((attribute, category), 1.0) for attribute in attributes_of(category)] or [1.0]
        means.append(sum(found) / len(found))
    return means


def pick_attribute(task: EditTask, rng: Random, weights: Weights | None = None) -> str | None:
    """An attribute that an edit of this task can miss, any with equal chances; None if the scene allows none.

    With `weights` the chances are in proportion to them. Whether the scene allows it does not depend on the stream
    that makes the near miss: every fault of `NEAR_MISSES` tries all that a scene offers.
    """
    attributes = attributes_of(task.category)
    if weights is None:
        order = rng.sample(attributes, len(attributes))
    else:  # in the order of waiting times with these rates
        waits = {one: rng.expovariate(max(weights.get((one, task.category), 1.0), 1e-6)) for one in attributes}
        order = sorted(attributes, key=lambda one: waits[one])
    for attribute in order:
        if near_miss_fault(attribute, task.category)[2](task, Random(0)) is not None:
            return attribute
    return None
