"""Does a scorer read? How often it prefers a perfect edit to one that is wrong in exactly one attribute."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from editreward.benchmarks.simulated_test_set import novelties, read_description
from editreward.simulation import SimulatedGroup, groups_hash, simulate_near_miss
from editreward.statistics import Share, pair_accuracy

ALL = "all"


@dataclass(frozen=True)
class NearMissSet:
    """A set of pairs of a perfect edit and a near miss, identified by what makes it and by a hash of what comes out.

    Attributes:
        split, size, world: arguments of `simulate_near_miss`.
        pairs, seed: the seeds are `seed`, `seed` + 1, ...
        sha256: `groups_hash` of it.
    """

    split: str
    pairs: int
    size: int
    seed: int
    sha256: str
    world: str = "shapes"

    @classmethod
    def from_json(cls, path: str | Path) -> "NearMissSet":
        """Read the description from a JSON file.

        Raises:
            ValueError: it has other fields; they are named.
        """
        return read_description(cls, path, "near misses", "configs/near_misses.json")

    def load(self) -> list[SimulatedGroup]:
        """Make the pairs.

        Raises:
            ValueError: they are not those that were hashed. Pillow's and numpy's versions have a small influence.
        """
        seeds = range(self.seed, self.seed + self.pairs)
        groups = [simulate_near_miss(seed, self.split, self.size, self.world) for seed in seeds]
        found = groups_hash(groups)
        if found != self.sha256:
            raise ValueError(
                f"The near misses have the hash {found}, not {self.sha256}: the generator, Pillow or numpy has "
                "changed, and results on them cannot be compared with earlier ones."
            )
        return groups


def missed_attribute(group: SimulatedGroup) -> str:
    """The attribute in which one of the pair is wrong."""
    return next(candidate.missed for candidate in group.candidates if candidate.missed)


def near_miss_accuracy(scores: Sequence[np.ndarray], groups: Sequence[SimulatedGroup]) -> dict[str, dict[str, Share]]:
    """The share of pairs in which the perfect edit has the higher score. Equal ones are wrong.

    Args:
        scores: of the two edits of each group, in the group's order.
        groups: made by `simulate_near_miss`.

    Returns:
        Under "all", "attribute", "attribute and category", "novelty" and, where some edits are about a name that is
        held out, "attribute and name": by name, the share.
    """
    truths = [
        np.array([candidate.scores["instruction_following"] for candidate in group.candidates]) for group in groups
    ]
    keys = {
        ALL: [[ALL] for _ in groups],
        "attribute": [[missed_attribute(group)] for group in groups],
        "attribute and category": [[f"{missed_attribute(group)}, {group.category}"] for group in groups],
        "novelty": [novelties(group) for group in groups],
    }
    if any(group.unseen_name for group in groups):
        known = {True: "unseen name", False: "known name"}
        keys["attribute and name"] = [[f"{missed_attribute(group)}, {known[group.unseen_name]}"] for group in groups]
    result: dict[str, dict[str, Share]] = {}
    for key, values in keys.items():
        result[key] = {}
        for value in dict.fromkeys(sum(values, [])):
            chosen = [index for index, own in enumerate(values) if value in own]
            result[key][value] = pair_accuracy([scores[i] for i in chosen], [truths[i] for i in chosen])
    return result


def near_miss_table(results: dict[str, dict[str, dict[str, Share]]]) -> str:
    """Results of `near_miss_accuracy` by the name of what was scored, as Markdown."""
    names = list(results)
    lines = [f"| near misses | {' | '.join(name.replace('_', ' ') for name in names)} |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for key, shares in results[names[0]].items():
        lines += [f"| {value} | {' | '.join(str(results[name][key][value]) for name in names)} |" for value in shares]
    return "\n".join(lines)
