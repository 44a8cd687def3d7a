"""From numbers to scores: within a prompt, over the prompts of a pass, and over passes. Each rule by its name."""

import math
from collections.abc import Callable, Mapping, Sequence


def _minimum(values: Sequence[float], low: float, high: float) -> float:
    return min(values)


def _mean(values: Sequence[float], low: float, high: float) -> float:
    return math.fsum(values) / len(values)


def _batch_evaluate_minimum(values: Sequence[float], low: float, high: float) -> float:
    """The published RL path. Without a number: the middle. Out of range: 12.5 on the scale of 0..10."""
    smallest = min(values, default=(low + high) / 2)
    return smallest if low <= smallest <= high else low + 1.25 * (high - low)


REDUCTIONS: Mapping[str, Callable[[Sequence[float], float, float], float]] = {
    "min": _minimum,
    "mean": _mean,
    "batch_evaluate_min": _batch_evaluate_minimum,
}
"""From a prompt's numbers, on the set's scale, to its score. `batch_evaluate_min` is EditScore's, faults included."""


def _geometric_mean(values: Sequence[float]) -> float:
    """Raises ValueError for a negative number."""
    return math.sqrt(math.prod(values)) if len(values) == 2 else math.prod(values) ** (1 / len(values))


COMBINATIONS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda values: math.fsum(values) / len(values),
    "min": min,
    "geometric_mean": _geometric_mean,
}
"""Of the prompts' scores to the overall score of a pass."""

PASS_RULES: Mapping[str, str] = {
    "average_last": "mean of the passes' overall scores",
    "evaluate_average_first": "EditScore's `evaluate`: the first prompt's first number, and the scores of the other "
    "prompts, each averaged over the passes, then combined; the other numbers of the first prompt do not count",
    "batch_evaluate_average_first": "EditScore's `batch_evaluate`: the prompts' scores averaged over the passes, then "
    "combined",
}
"""Of the passes to the overall score. Both published code paths call theirs `average_first`, and differ."""


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN where one of the values is."""
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values) / len(values)
