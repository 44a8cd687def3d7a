"""Risk control: the guarantee holds over 1,000 draws of labels, the test is the exact one, and it has power."""

import math

import numpy as np
import pytest

from editreward.statistics.risk_control import certify, exact_interval, labels_needed, sequence

SHARE, CONFIDENCE = 0.9, 0.95
DRAWS = 1000
MOST_FAILURES = 68
"""With failures in exactly 5 % of 1,000 draws, more than these have a probability below 1 %."""


def pool(kind, size=6000):
    """Scores and truth of edits: `chance` that one is acceptable as a function of its score."""
    rng = np.random.default_rng(7)
    scores = rng.normal(size=size)
    chance = {
        "useful": 1 / (1 + np.exp(-2.5 * scores - 1)),
        "just short": np.full(size, SHARE - 0.005),
        "worst on top": np.where(scores > 1.2, 0.8, 0.95),
        "none is good": np.full(size, 0.5),
    }[kind]
    return scores, rng.random(size) < chance


@pytest.mark.parametrize("kind", ["useful", "just short", "worst on top", "none is good"])
def test_the_share_of_what_passes_is_too_low_in_at_most_5_percent_of_1000_draws(kind):
    scores, truth = pool(kind)
    rng = np.random.default_rng(11)
    failures = 0
    for _ in range(DRAWS):
        drawn = rng.choice(len(scores), 250, replace=False)
        found = certify(scores[drawn], truth[drawn], scores, SHARE, CONFIDENCE).threshold
        failures += found is not None and truth[scores >= found].mean() < SHARE
    assert failures <= MOST_FAILURES


def test_edits_of_few_sources_do_no_harm_where_they_are_drawn_one_by_one():
    """Sources are good or bad as a whole; draws are of edits, so that the test's draws are what it takes them for."""
    rng = np.random.default_rng(3)
    sources = rng.integers(0, 60, size=6000)
    good = (rng.random(60) < 0.89)[sources]
    scores = rng.normal(size=6000)
    failures = 0
    for _ in range(DRAWS):
        drawn = rng.choice(6000, 250, replace=False)
        found = certify(scores[drawn], good[drawn], scores, SHARE, CONFIDENCE).threshold
        failures += found is not None and good[scores >= found].mean() < SHARE
    assert failures <= MOST_FAILURES


def test_a_useful_score_passes_most_of_what_could_pass():
    scores, truth = pool("useful")
    order = np.argsort(-scores)
    shares = np.cumsum(truth[order]) / np.arange(1, len(order) + 1)
    could = np.flatnonzero(shares >= SHARE)[-1] / len(order)
    drawn = np.random.default_rng(5).choice(len(scores), 1000, replace=False)
    found = certify(scores[drawn], truth[drawn], scores, SHARE, CONFIDENCE).threshold
    assert found is not None and 0.7 * could < (scores >= found).mean() <= could


def test_the_p_value_is_the_tail_of_the_binomial_and_the_sequence_ends_where_it_is_too_large():
    scores = np.arange(100.0)
    labelled, acceptable = scores[::1], scores >= 30
    certificate = certify(labelled, acceptable, scores, 0.8, 0.9)
    for trial in certificate.trials:
        tail = sum(
            math.comb(trial.labelled, k) * 0.8**k * 0.2 ** (trial.labelled - k)
            for k in range(trial.acceptable, trial.labelled + 1)
        )
        assert trial.p_value == pytest.approx(tail, rel=1e-9)
    assert [trial.p_value <= 0.1 for trial in certificate.trials] == [True] * (len(certificate.trials) - 1) + [False]
    assert certificate.threshold == certificate.trials[-2].threshold


def test_thresholds_fall_and_depend_on_no_label():
    scores = np.random.default_rng(1).normal(size=500)
    tried = sequence(scores, 200, SHARE, CONFIDENCE)
    assert tried == sorted(tried, reverse=True) and tried[-1] == scores.min()
    assert (scores >= tried[0]).mean() * 200 >= labels_needed(SHARE, CONFIDENCE)


def test_too_few_labels_pass_nothing():
    assert labels_needed(0.9, 0.95) == 29
    scores = np.arange(28.0)
    assert certify(scores, np.ones(28, dtype=bool), scores, SHARE, CONFIDENCE).threshold is None
    scores = np.arange(29.0)
    assert certify(scores, np.ones(29, dtype=bool), scores, SHARE, CONFIDENCE).threshold == 0


def test_exact_interval_is_that_of_clopper_and_pearson():
    assert exact_interval(8, 10) == pytest.approx((0.44390, 0.97479), abs=1e-5)
    assert exact_interval(0, 0) == (0.0, 1.0)
    assert exact_interval(10, 10)[1] == 1.0


@pytest.mark.parametrize(("share", "confidence"), [(1.0, 0.95), (0.9, 0.0)])
def test_a_share_or_confidence_that_is_none_is_told(share, confidence):
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        certify(np.ones(1), np.ones(1, dtype=bool), np.ones(1), share, confidence)
