"""How well scores order edits of different sources, beside edits of one source: can data be filtered by them?

    python research/across_sources.py --scorer checkpoints/editreward-tiny --groups 200

Pairs of simulated edits, whose true scores are known. Within: both edits of one source and instruction. Across: of two
groups. For each dimension and overall (sum of the true scores) the share of pairs of different true scores that are in
the right order (`scores`), and for data filtering: of the best quarter by score, which share is in the best half by
truth, and its mean true score, against a random choice and the true best quarter.

The same rank-based measures hold for raw rewards and for calibrated scores: the map is increasing and the same for all
groups. What a calibration adds is a threshold that means something; whether scores of different sources are on one
scale is a property of the weights, and is what is measured here. `removed` is the accuracy across sources after each
group's own mean error is taken out: what is lost to offsets between groups.
"""

import editreward.scripts

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editreward import load_scorer
from editreward.benchmarks.simulated_test_set import OVERALL, TestSet, judge
from editreward.statistics.estimate import Share
from editreward.statistics.resampling import share_of_rows

PARTNERS = 40
"""Edits of other groups that each edit is compared with, drawn at random."""
SHARE = 0.25
"""Of edits that a filter keeps."""


def main() -> None:
    """Measure a scorer and print the table of docs/scoring.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", default="checkpoints/editreward-tiny", help="any scorer (%(default)s)")
    parser.add_argument("--test_set", default="configs/simulated_test_set.json", help="which groups (%(default)s)")
    parser.add_argument("--groups", type=int, help="only the first groups of the set")
    parser.add_argument("--output", help="a .json file for the numbers")
    args = parser.parse_args()
    groups = TestSet.from_json(args.test_set).load()[: args.groups]
    judgements = judge(load_scorer(args.scorer), groups)
    found = {}
    for name in (OVERALL, *judgements.mean):
        scores, truths = judgements.series(name)
        found[name] = measure(scores, truths)
    print(table(found))
    if args.output:
        plain = {name: {k: getattr(v, "value", v) for k, v in of.items()} for name, of in found.items()}
        Path(args.output).write_text(json.dumps({"groups": len(groups), **plain}, indent=1) + "\n", encoding="utf-8")


def measure(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, Any]:
    """Accuracies within and across groups, and what a filter would keep.

    Args:
        scores, truths: of each group, shape (candidates,).
    """
    line = np.polyfit(np.concatenate(scores), np.concatenate(truths), 1)
    errors = [np.polyval(line, s) - t for s, t in zip(scores, truths, strict=True)]
    freed = [np.polyval(line, s) - e.mean() for s, e in zip(scores, errors, strict=True)]
    flat, truth = np.concatenate(scores), np.concatenate(truths)
    kept = np.argsort(-flat, kind="stable")[: round(SHARE * len(flat))]
    best = np.sort(truth)[::-1][: len(kept)]
    return {
        "within": within(scores, truths),
        "across": across(scores, truths),
        "removed": across(freed, truths),
        "kept_in_best_half": float((truth[kept] >= np.median(truth)).mean()),
        "kept_mean": float(truth[kept].mean()),
        "mean": float(truth.mean()),
        "best_mean": float(best.mean()),
    }


def within(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> Share:
    """Share of pairs of one group in the right order; equal scores count half."""
    right, group = [], []
    for number, (score, truth) in enumerate(zip(scores, truths, strict=True)):
        first, second = np.triu_indices(len(score), k=1)
        right.append(ordered(score[first], score[second], truth[first], truth[second]))
        group.append(np.full(len(right[-1]), number))
    return share_of_rows(np.concatenate(right), np.concatenate(group))


def across(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray], seed: int = 0) -> Share:
    """The same of pairs of two groups, `PARTNERS` for each edit; the interval resamples the groups of the first."""
    group = np.concatenate([np.full(len(score), number) for number, score in enumerate(scores)])
    score, truth = np.concatenate(scores), np.concatenate(truths)
    first = np.repeat(np.arange(len(score)), PARTNERS)
    second = np.random.default_rng(seed).integers(0, len(score), size=len(first))
    differ = (group[first] != group[second]) & (truth[first] != truth[second])
    first, second = first[differ], second[differ]
    return share_of_rows(ordered(score[first], score[second], truth[first], truth[second]), group[first])


def ordered(first: np.ndarray, second: np.ndarray, truth: np.ndarray, other: np.ndarray) -> np.ndarray:
    """1, 0.5 or 0 for each pair of different truth."""
    known = truth != other
    agreement = np.sign(first - second)[known] * np.sign(truth - other)[known]
    return (agreement + 1) / 2


def table(found: dict[str, dict[str, Any]]) -> str:
    """The numbers as Markdown."""
    lines = [
        "| scores | pairs of one source | of different sources | of different sources, offsets of groups taken out "
        "| best quarter by score: in the true best half | its mean true score | of all | of the true best quarter |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, of in found.items():
        lines.append(
            f"| {name.replace('_', ' ')} | {of['within'].text()} | {of['across'].text()} | {of['removed'].text()} "
            f"| {100 * of['kept_in_best_half']:.0f} % | {of['kept_mean']:.2f} | {of['mean']:.2f} "
            f"| {of['best_mean']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
