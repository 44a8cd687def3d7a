"""TRL: a reward function for GRPOTrainer, on a CPU with the bundled model. The policy writes a colour to paint with.

    python examples/rewards/trl_reward.py

In training: GRPOTrainer(model, reward_funcs=[reward_fn], train_dataset=...), with columns `source`, `instruction`.
"""

from PIL import Image, ImageOps

from editreward import load_scorer
from editreward.rewards import Reward, trl
from editreward.simulation import simulate_group

group = simulate_group(0, candidates=1)


def paint(source: Image.Image, instruction: str, text: str) -> Image.Image:
    """The source in shades of a colour; an unknown name raises, and the completion has no reward."""
    return ImageOps.colorize(source.convert("L"), black="black", white=text.strip())


reward_fn = trl.reward(Reward(load_scorer()), paint, alone=True)
columns = {"source": [group.source] * 3, "instruction": [group.instruction] * 3}
print(reward_fn(prompts=[group.instruction] * 3, completions=["red", "blue", "no colour"], **columns))
