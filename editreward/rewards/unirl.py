"""UniRL: a scorer of its reward service. Its trainer can also ask ours: `editreward serve` speaks `POST /score`.

The service finds scorers by the modules that its registry names. It has an `editreward` of its own: register this one
by another name: `register("editreward_package", EditRewardScorer)` in a module, and that module in `SCORER_MODULES`.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

from editreward.rewards.reward import Reward, reward_version
from editreward.rewards.sources import load_reward

_ABILITIES = ("input_kind", "supports_offload", "supports_grad")


class ScoreItem(Protocol):
    """What UniRL has scored, as far as it is looked at."""

    history: Sequence[tuple[str, object]]


class EditRewardScorer:
    """What UniRL's `BaseScorer` asks for: a dict of numbers for each item.

    Args:
        scorer: what `--scorer` takes, or a `Reward`.
        shaping: a YAML file.
    """

    name = "editreward"
    input_kind = "image"
    supports_offload = False
    supports_grad = False

    def __init__(self, scorer: str | Reward | None = None, shaping: str | None = None, **unused: object) -> None:
        self._reward = scorer if isinstance(scorer, Reward) else load_reward(scorer, shaping)
        # `reward` first: UniRL may take the first. No standard deviation is among them: it is no dimension.
        self.sub_metric_names = ("reward", *self._reward.scorers[0].dimensions)

    def score(self, items: Sequence[ScoreItem]) -> list[dict[str, float]]:
        """Rewards of edits.

        Args:
            items: UniRL's `ScoreItem`s: the history has a turn (instruction, image) for each source and for the edit.

        Returns:
            For each item `reward` and the dimensions; NaN, all of them, for an item that failed.

        Raises:
            ValueError: a history is too short: the reward is wired wrongly.
        """
        for item in items:
            if len(item.history) < 2:
                raise ValueError("EditReward needs a history of two turns: the source image, then the edit.")
        batch = self._reward(
            sources=[[image for _, image in item.history[:-1]] for item in items],
            edited=[item.history[-1][1] for item in items],
            instructions=[item.history[-1][0] for item in items],
        )
        columns = {"reward": batch.values} | {name: batch.details.get(name) for name in self.sub_metric_names[1:]}
        return [
            {
                name: math.nan if index in batch.reasons or column is None else float(column[index])
                for name, column in columns.items()
            }
            for index in range(len(items))
        ]

    @cached_property
    def version(self) -> str:
        """Differs whenever the rewards may differ; a client's `expected_scorer_version` is compared with it."""
        return reward_version(self._reward.scorers, self._reward.shaping)

    def health(self) -> dict[str, object]:
        """What UniRL's service says of this scorer."""
        return {key: getattr(self, key) for key in ("name", "version", *_ABILITIES)}

    def close(self) -> None:
        """Nothing to release."""

    onload = offload = drain = close
