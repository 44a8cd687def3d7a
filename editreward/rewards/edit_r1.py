"""Edit-R1 (UniWorld-V2): `fn(ref_images, images, prompts, metadatas) -> (scores, {})`; and OmniGen2-RL.

Their process takes the client of one file (`editreward serve --write-client FILE`) and its `edit_r1_reward` and
`evaluate_images`; these are the same functions where the package can be imported.
"""

from collections.abc import Callable
from pathlib import Path

from editreward.client import edit_r1_reward
from editreward.client import evaluate_images as evaluate_images
from editreward.rewards.sources import Rewards, rewards_of


def reward(
    source: str | Rewards = "http://127.0.0.1:8000", *, token_file: str | Path | None = None, timeout: float = 600.0
) -> Callable[..., tuple[list[float], dict[str, object]]]:
    """The reward function, sources first; arguments as for `flow_grpo.reward`. It raises where an edit failed."""
    return edit_r1_reward(rewards_of(source, token_file, timeout).rewards)
