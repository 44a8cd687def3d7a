"""What is gained by not computing again what groups share, on the bundled model, one pair of ways after another.

    OMP_NUM_THREADS=1 python performance/reuse.py

Each row is a way of scoring simulated groups through `EditRewardScorer` with and without one saving: seconds of CPU
time, median of the ratios and their range over the repetitions, and the largest difference of rewards.
"""

import editreward.scripts

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measuring import measure, ratio_of

from editreward.scorers.reward_model import EditRewardScorer
from editreward.simulation import simulate_group

CPU = torch.device("cpu")


def rewards(scored: Sequence[Any]) -> list[float]:
    return [score.reward for group in scored for score in group]


def compare(
    name: str, without: Callable[[int], list[float]], with_it: Callable[[int], list[float]], repetitions: int
) -> str:
    """A row of the table; the ways take the number of the repetition."""
    seconds: tuple[list[float], list[float]] = ([], [])
    most = 0.0
    for repetition in range(-1, repetitions):
        results = []
        for way, taken in zip((without, with_it), seconds, strict=True):
            second, result = measure(lambda: way(repetition), CPU, "cpu")  # noqa: B023
            results.append(result)
            if repetition >= 0:  # the first is to warm up
                taken.append(second)
        most = max(most, *(abs(a - b) for a, b in zip(*results, strict=True)))
    ratio = ratio_of(*seconds)
    low, high = ratio["ratio_range"]
    return f"| {name} | {ratio['ratio']:.2f} ({low:.2f} to {high:.2f}) | {most:.1g} |"


def main(words: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    args = parser.parse_args(words)
    plain = EditRewardScorer.from_pretrained(device="cpu")
    plain.reuse_prompt = False
    prompted = EditRewardScorer(plain.model, plain.processor)
    cached = EditRewardScorer(plain.model, plain.processor, image_cache_size=1)
    row = simulate_group(3, "test").to_row()
    source, instruction = row["source_images"], row["instruction"]
    edited = [candidate["image"] for candidate in row["candidates"]]

    def edits(start: int, count: int) -> list[Any]:
        return [edited[(start + index) % len(edited)] for index in range(count)]

    def score(scorer: EditRewardScorer, count: int) -> Callable[[int], list[float]]:
        return lambda repetition: rewards([scorer.score(source, edits(repetition, count), instruction)])

    packed = [plain.processor.pack(source, list(pair), instruction) for pair in itertools.combinations(edits(0, 4), 2)]

    @torch.no_grad()
    def pairs(share_images: bool) -> list[float]:
        batch = plain.processor.collate(packed, share_images=share_images)
        return plain.model(**batch).reward.tolist()

    several = 8
    groups = [[source] * several, [edits(index, 1) for index in range(several)], [instruction] * several]
    lines = ["| saving | times as fast (range) | largest difference |", "|---|--:|--:|"]
    for name, without, with_it in [
        ("images shared: all 6 pairs of 4 edits", lambda _: pairs(False), lambda _: pairs(True)),
        ("source kept: N = 1", score(prompted, 1), score(cached, 1)),
        ("source kept: N = 4", score(prompted, 4), score(cached, 4)),
        ("prompt's beginning: N = 1", score(plain, 1), score(prompted, 1)),
        ("prompt's beginning: N = 8", score(plain, 8), score(prompted, 8)),
        (
            f"prompt's beginning: {several} groups of N = 1",
            lambda _: rewards(plain.score(*groups)),
            lambda _: rewards(prompted.score(*groups)),
        ),
    ]:
        lines.append(compare(name, without, with_it, args.repetitions))
    table = "\n".join(lines)
    print(table)
    return table


if __name__ == "__main__":
    main()
