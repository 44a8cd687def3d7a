"""UniRL: a scorer of its reward service, on a CPU with the bundled model.

    python examples/rewards/unirl_reward.py

In training, `RemoteRewardBackend` may ask `editreward serve` itself: `base_url: http://127.0.0.1:8000`,
`required_rewards: [editreward]`.
"""

from types import SimpleNamespace

from editreward.rewards.unirl import EditRewardScorer
from editreward.simulation import simulate_group

group = simulate_group(0, candidates=4)
items = [
    SimpleNamespace(history=[(group.instruction, group.source), (group.instruction, one.image)])
    for one in group.candidates
]
print([one["reward"] for one in EditRewardScorer().score(items)])
