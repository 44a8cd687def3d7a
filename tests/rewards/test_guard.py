"""The guard: trends, the alarm, and what is counted."""

import math

import numpy as np
import pytest
from scipy import stats

from editreward.groups import CandidateScore, GroupScores, Unscored
from editreward.rewards import Guard, Reward, Shaping
from editreward.rewards.guard import trend
from tests.helpers.scorers import GREEN, RED, ColourScorer, painted


def only(dimension, score):
    return score if isinstance(score, Unscored) else CandidateScore(score.dimensions, score.dimensions[dimension].mean)


class Reds(ColourScorer):
    """Rewards red alone, as green is for the guard."""

    def _candidate(self, extra, image):
        return only(RED, super()._candidate(extra, image))


class Greens(ColourScorer):
    def _candidate(self, extra, image):
        return only(GREEN, super()._candidate(extra, image))


def train(guard, colours, group=2, shaping=None):
    """A run whose edits have the given red and green, with a little difference within each group."""
    reward = Reward(Reds(), shaping, guard=guard, check=False)
    for red, green in colours:
        edited = [painted(red + i, green + i) for i in range(group)]
        reward(sources=[painted(1)] * group, edited=edited, instructions=[""] * group)


def test_a_trend_is_students_t_of_the_slope():
    values = np.random.default_rng(0).normal(size=20) + 0.1 * np.arange(20)
    fit = stats.linregress(np.arange(20), values)
    assert trend(list(values)) == pytest.approx(fit.slope / fit.stderr)
    assert math.isnan(trend([1.0] * 7)) and trend([1.0] * 8) == 0


def test_a_reward_that_rises_while_the_guard_falls_is_an_alarm():
    noise = np.random.default_rng(1).integers(0, 5, (20, 2))
    guard = Guard(Greens())
    with pytest.warns(UserWarning, match="ALARM: the reward rises while the guard falls"):
        train(guard, [(50 + 5 * i + noise[i, 0], 200 - 5 * i + noise[i, 1]) for i in range(20)])
    report = guard.report()
    assert report.alarm and report.reward_trend > 3 and report.guard_trend < -3
    assert report.calls == report.groups == 20 and report.zero_spread == 0 and report.agreement == 1.0


def test_a_reward_that_rises_is_seen_behind_win_rates_too():
    noise = np.random.default_rng(1).integers(0, 5, (20, 2))
    guard = Guard(Greens())
    with pytest.warns(UserWarning, match="ALARM"):
        train(
            guard,
            [(50 + 5 * i + noise[i, 0], 200 - 5 * i + noise[i, 1]) for i in range(20)],
            shaping=Shaping(win_rate=True),
        )
    assert guard.report().reward_trend > 3 and guard.report().agreement == 1.0


@pytest.mark.parametrize("slopes", [(5, 5), (-5, 5), (0, -5), (5, 0)])
def test_other_trends_are_none(slopes, recwarn):
    noise = np.random.default_rng(2).integers(0, 5, (20, 2))
    guard = Guard(Greens())
    train(guard, [(120 + slopes[0] * i + noise[i, 0], 120 + slopes[1] * i + noise[i, 1]) for i in range(20)])
    assert not guard.report().alarm and not [told for told in recwarn if "ALARM" in str(told.message)]


def test_an_alarm_is_told_once_and_again_after_it_ended():
    told = []
    guard = Guard(Greens(), window=8, on_alarm=told.append)
    up = [(50 + 5 * i, 200 - 5 * i + i % 2) for i in range(12)]
    train(guard, [*up, *([(100, 100)] * 8), *up])
    assert len(told) == 2 and told[0].alarm


def test_groups_without_spread_and_pairs_in_another_order_are_counted():
    guard = Guard(Greens())
    reward = Reward(Reds(), guard=guard, check=False)
    reward(sources=[painted(1)] * 3, edited=[painted(10, 30), painted(20, 20), painted(30, 40)], instructions=[""] * 3)
    reward(sources=[painted(1)] * 2, edited=[painted(10, 30), painted(10, 20)], instructions=[""] * 2)
    reward(sources=[painted(1)], edited=[painted(10, 30)], instructions=[""])
    report = guard.report()
    assert (report.groups, report.zero_spread) == (2, 1)
    assert report.agreement == pytest.approx(2 / 3)


def test_a_guard_may_watch_some_calls_only():
    scorer = Greens()
    guard = Guard(scorer, every=3)
    train(guard, [(i, i) for i in range(10)])
    assert len(scorer.calls) == guard.report().calls == 4 and guard.report().groups == 10


def test_what_the_guard_cannot_score_is_left_out():
    guard = Guard(Greens())
    reward = Reward(Reds(), guard=guard, check=False)
    reward(sources=[painted(1)] * 2, edited=[painted(255, 255, 255), painted(10, 30)], instructions=[""] * 2)
    reward(sources=[painted(1)], edited=[painted(10, 30)], instructions=["fail"])
    assert guard.report().calls == 1


@pytest.mark.parametrize("answers", [[], [GroupScores(())]])
def test_a_guard_that_breaks_the_interface_costs_no_reward_and_is_counted(answers):
    class Broken(ColourScorer):
        def __call__(self, groups):
            return answers

    guard = Guard(Broken())
    reward = Reward(Reds(), guard=guard, check=False)
    with pytest.warns(UserWarning, match="The guard colours failed: ValueError"):
        batch = reward(sources=[painted(1)], edited=[painted(10, 30)], instructions=[""])
    assert batch.complete() == [10] and (guard.report().failed, guard.report().calls) == (1, 0)


def test_a_guard_that_fails_costs_no_reward_and_is_counted():
    class Down(ColourScorer):
        def __call__(self, groups):
            raise ConnectionError("refused")

    guard = Guard(Down())
    reward = Reward(Reds(), guard=guard, check=False)
    with pytest.warns(UserWarning, match="The guard colours failed: ConnectionError: refused"):
        batch = reward(sources=[painted(1)], edited=[painted(10, 30)], instructions=[""])
    assert batch.complete() == [10] and (guard.report().failed, guard.report().calls) == (1, 0)
    assert str(guard.report()).endswith("the guard failed at 1 calls.")
