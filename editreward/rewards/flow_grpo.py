"""flow_grpo and DiffusionNFT (NVlabs): `fn(images, prompts, metadata, ref_images=None) -> (scores, {})`.

Both pin transformers 4.40, so their process takes the client of one file (`editreward serve --write-client FILE`) and
its `flow_grpo_reward`; this is the same function where the package can be imported.
"""

from collections.abc import Callable
from pathlib import Path

from editreward.client import flow_grpo_reward
from editreward.rewards.sources import Rewards, rewards_of


def reward(
    source: str | Rewards = "http://127.0.0.1:8000", *, token_file: str | Path | None = None, timeout: float = 600.0
) -> Callable[..., tuple[list[float], dict[str, object]]]:
    """The reward function.

    Args:
        source: address of a server, or a `Reward`.
        token_file: holds the server's token.
        timeout: seconds that a call may take, tries included.

    Returns:
        `fn(images, prompts, metadata, ref_images=None)`: images as float tensors (N, C, H, W) of 0..1 or uint8 arrays
        (N, H, W, C). It raises where an edit has no reward, and without `ref_images`.
    """
    return flow_grpo_reward(rewards_of(source, token_file, timeout).rewards)
