"""Where a framework's rewards come from: a server, or a `Reward` in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from editreward.client import Client
from editreward.rewards.reward import Reward


class Rewards(Protocol):
    """What `Reward` and `editreward.client.Client` have in common."""

    def rewards(
        self, *, sources: Sequence[object], edited: Sequence[object], instructions: Sequence[str]
    ) -> list[float]: ...


def rewards_of(source: str | Rewards, token_file: str | Path | None = None, timeout: float = 600.0) -> Rewards:
    """Rewards from a server's address, or as they are.

    Args:
        source: the address of `editreward serve`, or a `Reward`.
        token_file: holds the server's token.
        timeout: seconds that a call may take, tries included.
    """
    if isinstance(source, str):
        return Client(source, token=token_of(token_file), timeout=timeout)
    return source


def token_of(path: str | Path | None) -> str | None:
    """The token in a file, if one is named."""
    return None if path is None else Path(path).read_text(encoding="utf-8").strip()


def load_reward(scorer: str | None = None, shaping: str | None = None) -> Reward:
    """A `Reward` in this process.

    Args:
        scorer: what `--scorer` takes; by default the bundled tiny model.
        shaping: a YAML file.
    """
    from editreward.rewards.shaping import Shaping
    from editreward.scorers.registry import load_scorer

    return Reward(load_scorer(scorer), Shaping.read(shaping) if shaping else None)
