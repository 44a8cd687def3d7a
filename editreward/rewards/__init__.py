"""From scores to rewards for reinforcement learning, and one wrapper per framework."""

from editreward.rewards.guard import Guard, GuardReport
from editreward.rewards.reward import Reward, RewardBatch, RewardError
from editreward.rewards.self_check import self_check
from editreward.rewards.shaping import Ensemble, Gate, Shaping

__all__ = ["Ensemble", "Gate", "Guard", "GuardReport", "Reward", "RewardBatch", "RewardError", "Shaping", "self_check"]
