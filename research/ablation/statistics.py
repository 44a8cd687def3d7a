"""Means over seeds and their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: NaN without a value.
        half_width: of the 95 % interval; NaN for fewer than two values.
        count: number of values.
    """

    mean: float
    half_width: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """Mean with Student's t interval, which takes the values for independent and normal."""
    from scipy.stats import t

    count = len(values)
    if count == 0:
        return Estimate(float("nan"), float("nan"), 0)
    mean = float(np.mean(values))
    if count == 1:
        return Estimate(mean, float("nan"), 1)
    half_width = t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return Estimate(mean, float(half_width), count)


def paired_difference(values: Mapping[int, float], base: Mapping[int, float]) -> Estimate:
    """Mean of value minus base over the seeds that both have: what differs between seeds alone cancels."""
    return estimate([values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())])


def factorial_effects(cells: Mapping[tuple[int, int], Mapping[int, float]]) -> dict[str, Estimate]:
    """Effects in a 2 x 2 experiment, paired by seed.

    Args:
        cells: values by seed of each cell (level of the first factor, level of the second), levels 0 and 1.

    Returns:
        `first` and `second`: level 1 minus level 0 of a factor, averaged over the other one's levels; `interaction`:
        the effect of the first factor at the second one's level 1, minus that at its level 0.
    """
    seeds = sorted(set.intersection(*(set(values) for values in cells.values())))
    y = {cell: np.array([values[seed] for seed in seeds]) for cell, values in cells.items()}
    at_0, at_1 = y[1, 0] - y[0, 0], y[1, 1] - y[0, 1]
    second = (y[0, 1] - y[0, 0] + y[1, 1] - y[1, 0]) / 2
    return {
        "first": estimate(list((at_0 + at_1) / 2)),
        "second": estimate(list(second)),
        "interaction": estimate(list(at_1 - at_0)),
    }
