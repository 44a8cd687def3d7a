"""A check of a scorer before a run of days depends on it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from PIL import Image

from editreward.groups import EditGroup, GroupScores, Scorer, Unscored
from editreward.scorers.registry import check_answers

GROUPS = 3
TOLERANCE = 1e-6
"""Scores that differ by no more, relative to their size, are the same."""


def self_check(scorer: Scorer) -> None:
    """Be sure that scores depend on the edited image and on the instruction.

    A published reward model gave one number for everything: all its `lora_B` were zero. The check scores edits of
    three simulated groups, a black image in place of each, and the edits under the instruction of another group.

    Raises:
        ValueError: nothing could be scored, or a black image or another instruction changes no score.
    """
    from editreward.simulation import simulate_group

    groups = []
    simulated = [simulate_group(seed, candidates=2) for seed in range(GROUPS + 1)]
    for one, other in pairwise(simulated):
        edit = one.candidates[0].image
        black = Image.new("RGB", edit.size)
        groups.append(EditGroup([one.source], one.instruction, [edit, black], "self-check"))
        groups.append(EditGroup([one.source], other.instruction, [edit], "self-check"))
    answers = scorer(groups)
    check_answers(scorer, groups, answers)
    scored = list(_complete(answers))
    if not scored:
        raise ValueError(f"{scorer.name} scored none of the {GROUPS} groups of the self-check: {_reason(answers)}")
    if not any(_differ(own.overall[0], own.overall[1]) for own, _ in scored):
        raise ValueError(_told(scorer, "a black image in place of the edit"))
    if not any(_differ(own.overall[0], shuffled.overall[0]) for own, shuffled in scored):
        raise ValueError(_told(scorer, "the instruction of another group"))


def _complete(answers: Sequence[GroupScores | Unscored]) -> Iterator[tuple[GroupScores, GroupScores]]:
    """Scores of each group under its own instruction and under another, where all of it could be scored."""
    for own, shuffled in zip(answers[::2], answers[1::2], strict=True):
        if isinstance(own, GroupScores) and isinstance(shuffled, GroupScores):
            if not own.unscored and not shuffled.unscored:
                yield own, shuffled


def _reason(answers: Sequence[GroupScores | Unscored]) -> str:
    """Of the first that failed."""
    for answer in answers:
        for unscored in [answer] if isinstance(answer, Unscored) else answer.unscored.values():
            return unscored.reason
    return "no reason was given"


def _differ(first: float, second: float) -> bool:
    return abs(first - second) > TOLERANCE * max(1.0, abs(first), abs(second))


def _told(scorer: Scorer, what: str) -> str:
    return (
        f"{scorer.name} gives the same score whatever it sees: {what} changed nothing. Its weights may not be loaded "
        "(adapters of zeros?); `check=False` takes it as it is."
    )
