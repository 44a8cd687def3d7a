"""Simulated annotators, who score the candidates of simulated groups with errors."""

from collections.abc import Mapping
from random import Random
from typing import Any

LOWEST, HIGHEST = 1, 4


def annotate(row: Mapping[str, Any], annotators: int, noise: float, seed: int = 0) -> dict[str, Any]:
    """A row as simulated annotators score it: their scores in `annotations`, the means in `scores`.

    Each annotator is off by one point with the probability `noise`, in each dimension on its own: up or down alike,
    and at an end of the scale inwards.

    Args:
        row: from `SimulatedGroup.to_row`, with exact scores. It is not changed.
        annotators: how many score every candidate, at least 1. More never change what the first ones say.
        noise: 0..1.
        seed: of the errors. They depend on it and on the row's `group_id`, and on nothing else.

    Raises:
        ValueError: an argument is out of its range.
    """
    if annotators < 1 or not 0 <= noise <= 1:
        raise ValueError(f"need annotators >= 1 and a noise of 0 to 1, got {annotators} and {noise}")
    candidates = []
    for index, candidate in enumerate(row["candidates"]):
        annotations: list[dict[str, Any]] = []
        for number in range(1, annotators + 1):
            rng = Random(f"{seed}/{row['group_id']}/{index}/{number}")
            scores = {name: _noisy(score, noise, rng) for name, score in candidate["scores"].items()}
            annotations.append({"annotator": f"sim-annotator-{number}", **scores})
        means = {name: sum(a[name] for a in annotations) / annotators for name in candidate["scores"]}
        candidates.append({**candidate, "scores": means, "annotations": annotations})
    return {**row, "candidates": candidates}


def _noisy(score: float, noise: float, rng: Random) -> float:
    # Both draws are made whatever comes of the first, so that a change of `noise` leaves all other errors alone.
    is_off, goes_up = rng.random() < noise, rng.random() < 0.5
    if not is_off:
        return score
    if score + 1 > HIGHEST or (score - 1 >= LOWEST and not goes_up):
        return score - 1
    return score + 1
