"""Does a scorer read? Its accuracy under other groups' instructions, beside what can be reached without reading them.

    python research/shuffled_control.py --scorer checkpoints/editreward-tiny
    python research/shuffled_control.py --scorer checkpoints/editreward-tiny --groups 100    # for a quick look

Instruction following on the simulated test set. Each shuffle shows every group the instruction of another one; the
truth stays that of the own one. Unchanged images and side effects show without reading, so that more than half of the
pairs can be right. A scorer that reads should reach about what the exact scorer reaches, which applies the rule to the
instruction that is shown, or what the best scorer reaches that knows no instruction: more is read off the images.
"""

import editreward.scripts

import argparse

import numpy as np

from editreward import load_scorer
from editreward.benchmarks.simulated_test_set import (
    TestSet,
    exact_scores,
    judge,
    shuffled_instructions,
    shuffled_order,
)
from editreward.groups import Scorer
from editreward.scorers.baselines import LIKENESSES
from editreward.simulation import SimulatedGroup
from editreward.statistics import Estimate, pair_accuracy

FOLLOWING = "instruction_following"
SHUFFLES = 5
MARGIN = 0.03
"""A scorer that reads stays within this of what is reached without."""


def accuracy(scores: list[np.ndarray], groups: list[SimulatedGroup]) -> Estimate:
    """The share of pairs that differ in instruction following and are ordered right; equal scores count as half."""
    truth = [np.array([edit.scores[FOLLOWING] for edit in group.candidates], dtype=float) for group in groups]
    right, wrong = (pair_accuracy([sign * one for one in scores], truth) for sign in (1, -1))
    tied = 1 - right.value - wrong.value
    return Estimate(right.value + tied / 2, right.low + tied / 2, right.high + tied / 2, right.total)


def following(scorer: Scorer, groups: list[SimulatedGroup], instructions: list[str] | None = None) -> list[np.ndarray]:
    """Scores of instruction following; overall ones of a scorer without them."""
    judgements = judge(scorer, groups, instructions)
    return judgements.mean.get(FOLLOWING, judgements.reward)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", "--model", required=True, help="any scorer: a model folder, ssim, FILE.yaml, ...")
    parser.add_argument("--test_set", default="configs/simulated_test_set.json", help="which groups (%(default)s)")
    parser.add_argument("--groups", type=int, help="only the first groups of the set, for a quick look")
    parser.add_argument("--shuffles", type=int, default=SHUFFLES, help="default: %(default)s")
    args = parser.parse_args()
    groups = TestSet.from_json(args.test_set).load()[: args.groups]
    scorer = load_scorer(args.scorer)
    print(
        f"{scorer.name}, own instructions: {accuracy(following(scorer, groups), groups).text(1, ' %', 100)}",
        flush=True,
    )
    blind = {}
    for name in LIKENESSES:
        scores = following(load_scorer(name), groups)
        for sign, label in ((1, name), (-1, f"-{name}")):
            blind[label] = accuracy([sign * one for one in scores], groups).value
    best = max(blind, key=lambda name: blind[name])
    shuffled, exact = [], []
    for seed in range(args.shuffles):
        shown = following(scorer, groups, shuffled_instructions(groups, seed))
        shuffled.append(accuracy(shown, groups).value)
        exact.append(accuracy(exact_scores(groups, shuffled_order(len(groups), seed)), groups).value)
    reached = max(blind[best], float(np.mean(exact)))
    print(f"the best that knows no instruction ({best}): {blind[best]:.1%}")
    print(f"the exact scorer, shuffled: {np.mean(exact):.1%} ({', '.join(f'{one:.1%}' for one in exact)})")
    print(f"{scorer.name}, shuffled: {np.mean(shuffled):.1%} ({', '.join(f'{one:.1%}' for one in shuffled)})")
    verdict = "within" if np.mean(shuffled) <= reached + MARGIN else "not within"
    print(f"It is {verdict} {MARGIN:.0%} of the better of the two.")


if __name__ == "__main__":
    main()
