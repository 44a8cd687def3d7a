"""Who rewards the edits that a policy makes: a scorer in this process, a server, or the simulated world itself."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image

from editreward.editors.arguments import TRUTH
from editreward.editors.editors import simulated_task
from editreward.editors.instructions import SourceRow
from editreward.rewards import Guard, Reward, Shaping
from editreward.simulation.inspectors.scenes import inspect


@dataclass(frozen=True)
class Rewarded:
    """Rewards of edits.

    Attributes:
        values: float32, (edits,); NaN for what failed.
        reasons: why, by position.
        details: more numbers of each edit, by name.
    """

    values: np.ndarray
    reasons: dict[int, str]
    details: dict[str, np.ndarray] = field(default_factory=dict)


class RewardSource(Protocol):
    """Rewards the edits of rows."""

    def __call__(
        self, rows: Sequence[SourceRow], sources: Sequence[Image.Image], edited: Sequence[Image.Image]
    ) -> Rewarded:
        """`Rewarded` of edits: for each its row, and the source as the editor saw it."""


class LocalReward:
    """A scorer in this process; see `Reward`."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    def __call__(
        self, rows: Sequence[SourceRow], sources: Sequence[Image.Image], edited: Sequence[Image.Image]
    ) -> Rewarded:
        """See `RewardSource`."""
        batch = self.reward(sources=sources, edited=edited, instructions=[row.instruction for row in rows])
        return Rewarded(batch.values, batch.reasons, batch.details)


class ServerReward:
    """An `editreward serve` somewhere."""

    def __init__(self, url: str, token: str | None) -> None:
        from editreward.client import Client

        self.client = Client(url, token=token, timeout=600)
        self.about = self.client.about()

    def __call__(
        self, rows: Sequence[SourceRow], sources: Sequence[Image.Image], edited: Sequence[Image.Image]
    ) -> Rewarded:
        """See `RewardSource`. Edits of one row are a group."""
        from editreward.client import gathered

        groups, places = gathered(sources, edited, [row.instruction for row in rows])
        values = np.full(len(rows), math.nan, dtype=np.float32)
        reasons: dict[int, str] = {}
        for answer, members in zip(self.client.score(groups), places, strict=True):
            for place, candidate in zip(members, answer["candidates"], strict=True):
                if candidate["shaped"] is None:
                    reasons[place] = str(candidate["error"])
                else:
                    values[place] = candidate["shaped"]
        return Rewarded(values, reasons)


class TrueReward:
    """What edits of simulated rows deserve, as an inspector sees it: the sum of both scores, 2..8.

    Args:
        noise: standard deviation of what is added to an edit's value; the same image of the same row always gets the
            same.
    """

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def __call__(
        self, rows: Sequence[SourceRow], sources: Sequence[Image.Image], edited: Sequence[Image.Image]
    ) -> Rewarded:
        """See `RewardSource`."""
        found = [inspect(simulated_task(row), edit) for row, edit in zip(rows, edited, strict=True)]
        details = {
            name: np.array([getattr(one, name) for one in found], dtype=np.float32)
            for name in ("instruction_following", "visual_quality")
        }
        values = details["instruction_following"] + details["visual_quality"]
        if self.noise:
            pairs = zip(rows, edited, strict=True)
            keys = [zlib.crc32(edit.tobytes(), zlib.crc32(row.group_id.encode())) for row, edit in pairs]
            drawn = [np.random.default_rng(key).standard_normal() for key in keys]
            values += np.float32(self.noise) * np.array(drawn, dtype=np.float32)
        return Rewarded(values, {}, details)


def is_truth(spec: str | None) -> bool:
    """Whether a name of a reward is that of the truth, with noise or without."""
    return (spec or "").partition(":")[0] == TRUTH


def reward_source(
    spec: str | None,
    shaping: str | None = None,
    token_file: str | None = None,
    guard: str | None = None,
    check: bool = True,
) -> RewardSource:
    """Who rewards, by name; see `EditorScriptArguments`.

    Raises:
        ValueError: there is no such scorer, or an option does not go with it.
    """
    noise = (spec or "").partition(":")[2]
    remote = (spec or "").startswith(("http://", "https://"))
    if (remote or is_truth(spec)) and (shaping or guard):
        raise ValueError(f"`reward_shaping` and `guard` are for a scorer in this process, not for {spec}.")
    if is_truth(spec):
        return TrueReward(_noise(noise) if noise else 0.0)
    if spec and remote:
        from editreward.rewards.sources import token_of

        return ServerReward(spec, token_of(token_file))
    from editreward.scorers.registry import load_scorer

    watch = Guard(load_scorer(guard)) if guard else None
    shaped = Shaping.read(shaping) if shaping else None
    return LocalReward(Reward(load_scorer(spec), shaped, guard=watch, check=check))


def _noise(text: str) -> float:
    try:
        noise = float(text)
    except ValueError:
        noise = math.nan
    if not 0 <= noise < math.inf:
        raise ValueError(f"The noise of 'truth:{text}' is no standard deviation: write truth:2.5, for example.")
    return noise
