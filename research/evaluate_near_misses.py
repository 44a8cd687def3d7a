"""Evaluate a scorer on the committed near misses: does it read what was asked for?

    python research/evaluate_near_misses.py --scorer checkpoints/editreward-tiny

Prints, by attribute, how often the perfect edit gets the higher score; that of a model on the whole set is written
beside it as `near_misses.json`, of another world than that of shapes as `near_misses_WORLD.json`.
"""

import editreward.scripts

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from editreward import load_scorer
from editreward.benchmarks.near_misses import NearMissSet, near_miss_accuracy, near_miss_table
from editreward.benchmarks.simulated_test_set import judge


def main() -> None:
    """Read the options, evaluate, print, and write what is complete beside the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", "--model", required=True, help="any scorer: a model folder, ssim, FILE.yaml, ...")
    parser.add_argument("--near_misses", default="configs/near_misses.json", help="which pairs (%(default)s)")
    parser.add_argument("--pairs", type=int, help="only the first pairs of the set, for a quick look")
    args = parser.parse_args()
    near_misses = NearMissSet.from_json(args.near_misses)
    groups = near_misses.load()[: args.pairs]
    judgements = judge(load_scorer(args.scorer), groups)
    series = {"overall": judgements.reward, **judgements.mean}
    results = {name: near_miss_accuracy(scores, groups) for name, scores in series.items()}
    print(near_miss_table(results))
    folder = Path(args.scorer)
    if len(groups) < near_misses.pairs or not (folder / "config.json").is_file():
        return  # a part of the set says nothing that is to be kept
    shares = {
        name: {key: {value: asdict(share) for value, share in values.items()} for key, values in result.items()}
        for name, result in results.items()
    }
    stem = "near_misses" if near_misses.world == "shapes" else f"near_misses_{near_misses.world}"
    (folder / f"{stem}.json").write_text(json.dumps(shares, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
