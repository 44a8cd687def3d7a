"""Evaluate a model on the committed near misses: does it read what was asked for?

    python research/evaluate_near_misses.py --model checkpoints/editreward-tiny

Prints, by attribute, how often the perfect edit gets the higher score, and writes it beside the model as
`near_misses.json`.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import transformers

from editreward import EditRewardScorer
from editreward.benchmarks.near_misses import NearMissSet, near_miss_accuracy, near_miss_table
from editreward.benchmarks.simulated import judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--near_misses", default="configs/near_misses.json", help="which pairs (%(default)s)")
    parser.add_argument("--pairs", type=int, help="only the first pairs of the set, for a quick look")
    args = parser.parse_args()
    transformers.logging.disable_progress_bar()

    groups = NearMissSet.from_json(args.near_misses).load()[: args.pairs]
    judgements = judge(EditRewardScorer.from_pretrained(args.model), groups)
    series = {"overall": judgements.reward, **judgements.mean}
    results = {name: near_miss_accuracy(scores, groups) for name, scores in series.items()}
    print(near_miss_table(results))
    shares = {
        name: {key: {value: asdict(share) for value, share in values.items()} for key, values in result.items()}
        for name, result in results.items()
    }
    (Path(args.model) / "near_misses.json").write_text(json.dumps(shares, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
