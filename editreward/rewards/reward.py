"""`Reward`: from edits to float32 rewards, NaN for what failed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from editreward.groups import EditGroup, GroupScores, Scorer, Unscored
from editreward.rewards.guard import SPREAD_TOLERANCE, Guard
from editreward.rewards.inputs import gather
from editreward.rewards.self_check import self_check
from editreward.rewards.shaping import Shaping
from editreward.scorers.fingerprints import content_hash, fingerprint_of
from editreward.scorers.registry import check_answers


class RewardError(RuntimeError):
    """An edit has no reward, and the framework has no place for that.

    Attributes:
        reasons: why, by position of the edit.
    """

    def __init__(self, reasons: Mapping[int, str], count: int) -> None:
        index, reason = next(iter(reasons.items()))
        super().__init__(f"{len(reasons)} of {count} edits have no reward; edit {index}: {reason}")
        self.reasons = dict(reasons)


@dataclass(frozen=True)
class RewardBatch:
    """Rewards of a batch of edits.

    Attributes:
        values: rewards, float32 of shape `(edits,)`; NaN for what failed.
        reasons: why an edit failed, by position.
        details: by name, float32 of shape `(edits,)`: `reward` and `reward_std` as the scorer gave them, and of each
            dimension its mean, by its name, and its standard deviation, NAME_std. Those of further scorers have their
            number before: `1/reward`.
        group_of: for each edit the position of its group, of shape `(edits,)`; -1 for one whose images failed.
        zero_spread: the groups of two and more edits with one reward for all, by position and instruction.
    """

    values: np.ndarray
    reasons: dict[int, str]
    details: dict[str, np.ndarray] = field(default_factory=dict)
    group_of: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    zero_spread: dict[int, str] = field(default_factory=dict)

    def complete(self) -> list[float]:
        """The rewards, for frameworks that take no NaN.

        Raises:
            RewardError: an edit failed.
        """
        if self.reasons:
            raise RewardError(self.reasons, len(self.values))
        rewards: list[float] = self.values.tolist()
        return rewards


class Reward:
    """Rewards of edits for reinforcement learning.

    Args:
        scorer: who scores; or several, which `shaping.ensemble` makes one.
        shaping: what becomes of the scores; by default nothing.
        guard: a second scorer, which watches.
        check: refuse a scorer whose scores do not depend on the images or the instruction, see `self_check`.

    Raises:
        ValueError: the shaping does not fit the scorer, or the check failed.
    """

    def __init__(
        self,
        scorer: Scorer | Sequence[Scorer],
        shaping: Shaping | None = None,
        *,
        guard: Guard | None = None,
        check: bool = True,
    ) -> None:
        self.scorers: list[Scorer] = list(scorer) if isinstance(scorer, list | tuple) else [scorer]  # type: ignore[list-item]
        self.shaping, self.guard = shaping or Shaping(), guard
        self.shaping.check([one.dimensions for one in self.scorers], [one.scale for one in self.scorers])
        if check:
            for one in self.scorers:
                self_check(one)

    def __call__(
        self,
        *,
        sources: Sequence[object],
        edited: Sequence[object],
        instructions: Sequence[str],
        metadata: Sequence[object] | None = None,
    ) -> RewardBatch:
        """Rewards of edits.

        Args:
            sources: for each edit its source image, or a list of several.
            edited: the edits. Images as in `rewards.inputs.to_image`; an array or tensor of all of them, too.
            instructions: for each edit what it was to do.
            metadata: is not looked at; training loops have it.

        Returns:
            Rewards in the order of the edits. What failed is NaN and has a reason.

        Raises:
            ValueError: the arguments have different lengths.
        """
        batch = gather(sources, edited, instructions)
        answers = [_answers(scorer, batch.groups) for scorer in self.scorers]
        values = np.full(len(instructions), math.nan)
        reasons = dict(batch.failed)
        details: dict[str, np.ndarray] = {}
        for number, places in enumerate(batch.places):
            found, failed = self.shape([one[number] for one in answers], len(places))
            values[list(places)] = found
            reasons |= {places[index]: reason for index, reason in failed.items()}
            for scorer, one in enumerate(answers):
                _note(details, f"{scorer}/" if scorer else "", one[number], places, len(values))
        made = RewardBatch(
            values.astype(np.float32),
            dict(sorted(reasons.items())),
            details,
            batch.group_of,
            _zero_spread(values, batch.groups, batch.places),
        )
        if self.guard is not None and batch.groups:
            rewards = [values[list(places)] for places in batch.places]
            # The mean of a group's win rates is always 0.5.
            scores = list(map(_own, answers[0], rewards)) if self.shaping.win_rate else None
            self.guard.watch(batch.groups, rewards, scores)
        return made

    def rewards(
        self, *, sources: Sequence[object], edited: Sequence[object], instructions: Sequence[str]
    ) -> list[float]:
        """As a call, for frameworks that take no NaN: `editreward.client.Client` has the same method.

        Raises:
            RewardError: an edit failed.
        """
        return self(sources=sources, edited=edited, instructions=instructions).complete()

    def shape(self, answers: Sequence[GroupScores | Unscored], count: int) -> tuple[np.ndarray, dict[int, str]]:
        """Rewards of one group of `count` candidates from its scorers' answers, and why there is none, by position."""
        good = [one for one in answers if isinstance(one, GroupScores)]
        for one in answers:
            if isinstance(one, Unscored):
                return np.full(count, math.nan), dict.fromkeys(range(count), one.reason)
        return self.shaping(good)


def reward_version(scorers: Sequence[Scorer], shaping: Shaping) -> str:
    """A short name of what makes the rewards: 16 hexadecimal digits that differ whenever the rewards may differ."""
    return content_hash(*(one.fingerprint for one in scorers), fingerprint_of(**shaping.to_dict()))[:16]


def _answers(scorer: Scorer, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
    """What a scorer says of groups; an answer that breaks the interface, such as a NaN, is unscored."""
    answers = scorer(groups) if groups else []
    if len(answers) != len(groups):
        check_answers(scorer, groups, answers)
    return [checked(scorer, group, answer) for group, answer in zip(groups, answers, strict=True)]


def checked(scorer: Scorer, group: EditGroup, answer: GroupScores | Unscored) -> GroupScores | Unscored:
    """The answer, or why it cannot be used."""
    try:
        check_answers(scorer, [group], [answer])
    except ValueError as error:
        return Unscored(str(error))
    return answer


def _note(
    details: dict[str, np.ndarray], prefix: str, answer: GroupScores | Unscored, places: Sequence[int], count: int
) -> None:
    if isinstance(answer, Unscored):
        return
    columns = {"reward": answer.overall, **answer.dimensions}
    columns |= {f"{'reward' if name == 'overall' else name}_std": stds for name, stds in answer.stds.items()}
    for name, column in columns.items():
        whole = details.setdefault(prefix + name, np.full(count, math.nan, dtype=np.float32))
        whole[list(places)] = column


def _own(answer: GroupScores | Unscored, rewards: np.ndarray) -> np.ndarray:
    """The scorer's own rewards of a group, of the shape of the shaped ones; NaN where it is unscored."""
    return np.full(len(rewards), math.nan) if isinstance(answer, Unscored) else np.array(answer.overall)


def _zero_spread(values: np.ndarray, groups: Sequence[EditGroup], places: Sequence[Sequence[int]]) -> dict[int, str]:
    found = {}
    for number, (group, members) in enumerate(zip(groups, places, strict=True)):
        known = values[list(members)]
        known = known[~np.isnan(known)]
        if len(known) > 1 and np.ptp(known) <= SPREAD_TOLERANCE:
            found[number] = group.instruction
    return found
