"""Edit-R1: rewards of a batch of edits, on a CPU with the bundled model.

    python examples/rewards/edit_r1_reward.py

In training, `editreward_client.py` has `edit_r1_reward(Client(url).rewards)`, which takes the place of
`mllm_score_continue`; OmniGen2-RL's `evaluate_images` has its own there.
"""

import numpy as np
import torch

from editreward import load_scorer
from editreward.rewards import Reward, edit_r1
from editreward.simulation import simulate_group

group = simulate_group(0, candidates=4)
images = torch.stack([torch.from_numpy(np.array(one.image)).permute(2, 0, 1) / 255 for one in group.candidates])

reward_fn = edit_r1.reward(Reward(load_scorer()))
scores, _ = reward_fn([group.source] * 4, images, [group.instruction] * 4, [{"requirement": ""}] * 4)
print(scores)
