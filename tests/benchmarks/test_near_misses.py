"""The evaluation on near misses, with scorers whose result is known."""

from pathlib import Path

import numpy as np
import pytest

from editreward.benchmarks.near_misses import (
    NearMissSet,
    missed_attribute,
    near_miss_accuracy,
    near_miss_table,
)
from editreward.simulation import NEAR_MISSES, groups_hash, simulate_near_miss

ROOT = Path(__file__).parents[2]
PAIRS = [simulate_near_miss(seed, size=84) for seed in range(48)]
TRUTH = [np.array([float(c.scores["instruction_following"]) for c in pair.candidates]) for pair in PAIRS]


def test_a_scorer_that_knows_the_truth_gets_all_and_one_that_inverts_it_none() -> None:
    right = near_miss_accuracy(TRUTH, PAIRS)
    assert all(share.value == 1 for shares in right.values() for share in shares.values())
    assert set(right["attribute"]) == set(NEAR_MISSES)
    assert sum(share.total for share in right["attribute and category"].values()) == len(PAIRS)
    wrong = near_miss_accuracy([-scores for scores in TRUTH], PAIRS)
    equal = near_miss_accuracy([np.zeros(2) for _ in PAIRS], PAIRS)
    assert wrong["all"]["all"].value == equal["all"]["all"].value == 0


def test_a_scorer_that_reads_colours_only_gets_those_pairs() -> None:
    blind = [s if missed_attribute(pair) == "colour" else -s for s, pair in zip(TRUTH, PAIRS, strict=True)]
    shares = near_miss_accuracy(blind, PAIRS)["attribute"]
    assert {name for name, share in shares.items() if share.value == 1} == {"colour"}
    table = near_miss_table({"instruction_following": near_miss_accuracy(blind, PAIRS)}).splitlines()
    assert table[0] == "| near misses | instruction following |"
    assert next(line for line in table if line.startswith("| colour |")).startswith("| colour | 100.0 %")


def test_a_set_is_known_by_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "set.json"
    file.write_text(f'{{"split": "test", "pairs": 3, "size": 84, "seed": 5, "sha256": "{groups_hash(PAIRS[5:8])}"}}')
    assert [pair.group_id for pair in NearMissSet.from_json(file).load()] == [pair.group_id for pair in PAIRS[5:8]]
    file.write_text('{"split": "test", "pairs": 3, "size": 84, "seed": 5, "sha256": "other"}')
    with pytest.raises(ValueError, match="hash"):
        NearMissSet.from_json(file).load()


@pytest.mark.slow
def test_the_committed_set_is_the_one_that_was_hashed() -> None:
    assert len(NearMissSet.from_json(ROOT / "configs" / "near_misses.json").load()) == 2000
