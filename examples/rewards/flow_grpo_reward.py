"""flow_grpo and DiffusionNFT: rewards of a batch of edits, on a CPU with the bundled model.

    python examples/rewards/flow_grpo_reward.py

In training, `editreward serve` runs in another environment, and `editreward_client.py` (`--write-client`) has
`flow_grpo_reward(Client(url).rewards)`, to be added to `score_functions` in flow_grpo/rewards.py.
"""

import numpy as np
import torch

from editreward import load_scorer
from editreward.rewards import Reward, flow_grpo
from editreward.simulation import simulate_group

group = simulate_group(0, candidates=4)
images = torch.stack(
    [torch.from_numpy(np.array(one.image)).permute(2, 0, 1) / 255 for one in group.candidates]
)  # (N, C, H, W), 0..1, as the pipeline gives them

reward_fn = flow_grpo.reward(Reward(load_scorer()))
scores, _ = reward_fn(images, [group.instruction] * 4, [{}] * 4, ref_images=[group.source] * 4)
print(scores)
