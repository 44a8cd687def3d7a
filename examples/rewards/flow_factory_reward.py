"""Flow-Factory: its reward model class, on a CPU with the bundled model.

    python examples/rewards/flow_factory_reward.py

In training, the run's YAML names the class, and the server:

    rewards:
      - name: editreward
        reward_model: editreward.rewards.flow_factory.EditReward
        server_url: http://127.0.0.1:8000
"""

from types import SimpleNamespace

import torch

from editreward.rewards.flow_factory import EditReward
from editreward.simulation import simulate_group

group = simulate_group(0, candidates=4)
cpu = torch.device("cpu")
model = EditReward(SimpleNamespace(device=cpu, dtype=torch.float32), SimpleNamespace(device=cpu))
output = model(
    prompt=[group.instruction] * 4,
    image=[one.image for one in group.candidates],
    condition_images=[[group.source]] * 4,
)
print(output.rewards.tolist())
