"""A threshold with a guarantee: with a stated confidence, at least a share of what passes it is acceptable.

Learn-then-test (Angelopoulos et al., arXiv 2110.01052) with fixed-sequence testing: thresholds are tried from strict
to loose, in an order that no label decided, each by the exact binomial test of "less than the share is acceptable";
the first that is not rejected ends the sequence. So the chance that a threshold passes whose share is too low is at
most 1 - confidence, whatever the scores are worth.

What it needs: the labelled edits are drawn at random from those that the threshold is for, each draw independent of
the scores. Draws without replacement are more certain than the test assumes, never less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEPS = 50
"""Thresholds that are tried: quantiles of all scores."""

ROOM = 2
"""The first threshold is expected to let pass so many times the labels that the test needs if all are acceptable."""


@dataclass(frozen=True)
class Trial:
    """A threshold that was tried.

    Attributes:
        threshold: edits with this score or more pass.
        labelled, acceptable: of the labelled edits that pass.
        p_value: of "less than the share of what passes is acceptable".
    """

    threshold: float
    labelled: int
    acceptable: int
    p_value: float


@dataclass(frozen=True)
class Certificate:
    """What the test allows.

    Attributes:
        threshold: the loosest one that passed the test; None: none did.
        share, confidence: what it guarantees.
        trials: all that were made, in their order; the last may be the one that failed.
    """

    threshold: float | None
    share: float
    confidence: float
    trials: Sequence[Trial]


def labels_needed(share: float, confidence: float) -> int:
    """How many labels must pass, all of them acceptable, for a threshold to pass the test."""
    return math.ceil(math.log(1 - confidence) / math.log(share))


def sequence(scores: np.ndarray, labels: int, share: float, confidence: float) -> list[float]:
    """The thresholds in the order in which they are tried, from the scores and the number of labels alone.

    Args:
        scores: of all edits, shape (edits,).
        labels: how many of them are labelled.
        share, confidence: see `certify`.

    Returns:
        Falling thresholds; none where there are too few labels for any of them.
    """
    first = ROOM * labels_needed(share, confidence) / labels if labels else math.inf
    parts = [part for part in np.arange(1, STEPS + 1) / STEPS if part >= min(first, 1.0)]
    if labels < labels_needed(share, confidence) or not len(scores):
        return []
    falling = np.quantile(scores, [1 - part for part in parts], method="higher")
    return [float(one) for one in dict.fromkeys(falling.tolist())]


def certify(
    labelled: np.ndarray, acceptable: np.ndarray, scores: np.ndarray, share: float, confidence: float
) -> Certificate:
    """Find the loosest threshold that the test allows.

    Args:
        labelled: scores of edits that are labelled, drawn at random from all, shape (labels,).
        acceptable: whether each is, shape (labels,).
        scores: of all edits, shape (edits,).
        share: of what passes, at least so much is to be acceptable.
        confidence: probability of that, over the draw of the labels.

    Raises:
        ValueError: a share or confidence is not between 0 and 1.
    """
    from scipy.stats import binom

    for name, value in (("share", share), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"The {name} must be between 0 and 1, not {value}.")
    trials: list[Trial] = []
    found: float | None = None
    for threshold in sequence(scores, len(labelled), share, confidence):
        passing = labelled >= threshold
        number, good = int(passing.sum()), int(acceptable[passing].sum())
        p_value = float(binom.sf(good - 1, number, share)) if number else 1.0
        trials.append(Trial(threshold, number, good, p_value))
        if p_value > 1 - confidence:
            break
        found = threshold
    return Certificate(found, share, confidence, trials)


def exact_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of a share (Clopper and Pearson 1934); (0, 1) without a case."""
    from scipy.stats import beta

    if not total:
        return 0.0, 1.0
    outside = (1 - confidence) / 2
    low = float(beta.ppf(outside, successes, total - successes + 1)) if successes else 0.0
    high = float(beta.isf(outside, successes + 1, total - successes)) if successes < total else 1.0
    return low, high
