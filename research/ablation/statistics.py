"""Means over seeds and their intervals."""

from collections.abc import Mapping, Sequence

import numpy as np

from editreward.statistics.estimate import NAN, Estimate

CONFIDENCE = 0.95


def estimate(values: Sequence[float]) -> Estimate:
    """Mean with Student's t interval, which takes the values for independent and normal.

    Returns:
        NaN without a value; without an interval for one. The total is the number of values.
    """
    from scipy.stats import t

    count = len(values)
    mean = float(np.mean(values)) if count else NAN
    if count < 2:
        return Estimate(mean, NAN, NAN, count)
    half_width = float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - half_width, mean + half_width, count)


def half_width(value: Estimate) -> float:
    """Of an interval around the mean; NaN where there is none."""
    return (value.high - value.low) / 2


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
