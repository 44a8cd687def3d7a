"""What a model is to answer to a prompt about an annotated candidate."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from editreward.groups.ratings import SCORE_RANGE
from editreward.groups.rows import GroupRow
from editreward.scorers.prompts import Prompt, PromptSet, SubScore
from editreward.simulation.captions import rationale, sub_scores

FINE_RANGE = 5
"""Ranges up to this wide are answered in halves where the answer has reasons, wider ones in whole numbers."""


@dataclass(frozen=True)
class Target:
    """An answer to learn.

    Attributes:
        candidate: whose it is, by its position in the group.
        prompts: the prompt set.
        prompt: what is asked.
        pieces: the answer in pieces, and which of them are numbers.
    """

    candidate: int
    prompts: PromptSet
    prompt: Prompt
    pieces: list[tuple[str, bool]]

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(text for text, _ in self.pieces)


def targets_of(row: GroupRow, sets: Sequence[PromptSet]) -> Iterator[Target]:
    """All answers that the annotations of a group tell, by candidate, prompt set and prompt.

    There is none where a score is missing, or where the answer has reasons and the candidate has no rationale.

    Args:
        row: a group; of a simulated one with `simulation` reasons and sub-scores are taken from its truth.
        sets: what the model learns to answer.
    """
    truth = row.get("simulation")
    for index, candidate in enumerate(row["candidates"]):
        scores, reasons = dict(candidate.get("scores") or {}), candidate.get("rationale")
        if truth is not None:
            scores |= sub_scores(truth.candidates[index])
            reasons = rationale(truth.candidates[index])
        for prompts in sets:
            for prompt in prompts.prompts:
                numbers = numbers_of(prompts, prompt, scores)
                reason = reasons_for(prompts, prompt, reasons)
                if numbers is not None and (reason or not prompt.has_reasoning):
                    yield Target(index, prompts, prompt, prompt.answer_pieces(numbers, reason))


def numbers_of(prompts: PromptSet, prompt: Prompt, scores: Mapping[str, float | None]) -> list[float] | None:
    """The numbers of an answer.

    A sub-score is the score of its own name, or that of the dimension that it stands for. Where the dimension is that
    of the whole prompt, all its sub-scores are that score, which the reduction gives back.

    Args:
        prompts: the set.
        prompt: one of its prompts.
        scores: by dimension or sub-score, on the scale of `SCORE_RANGE`.

    Returns:
        None where a score is missing.
    """
    found = []
    for score in prompt.sub_scores:
        whole = f"{prompt.name}.{score.name}"
        of_score = [name for name, place in prompts.dimensions.items() if place == whole]
        of_prompt = [name for name, place in prompts.dimensions.items() if place == prompt.name]
        names = (whole, score.name, *of_score, *of_prompt)
        value = next((scores[name] for name in names if scores.get(name) is not None), None)
        if value is None:
            return None
        found.append(_in_range(value, score, prompt.has_reasoning))
    return found


def _in_range(value: float, score: SubScore, has_reasoning: bool) -> float:
    """A score on the scale of people's ratings as a number that an answer may hold, rounded to the nearest."""
    low, high = SCORE_RANGE
    exact = score.low + (value - low) / (high - low) * (score.high - score.low)
    step = 0.5 if has_reasoning and score.high - score.low <= FINE_RANGE else 1.0
    return min(max(step * round(exact / step), score.low), score.high)


def reasons_for(prompts: PromptSet, prompt: Prompt, written: str | None) -> str:
    """The part of a candidate's rationale that answers a prompt.

    A rationale may be in parts, each of which begins on a line of its own with the name of a dimension or of a prompt
    and a colon. One without such parts is the reason for all prompts.
    """
    if not written:
        return ""
    own = [prompt.name, *(name for name, place in prompts.dimensions.items() if place.split(".")[0] == prompt.name)]
    others = [*(one.name for one in prompts.prompts), *prompts.dimensions]
    names = "|".join(sorted(map(re.escape, others), key=len, reverse=True))
    _, *parts = re.split(rf"^({names}):[ \t]*", written.strip(), flags=re.M)
    if not parts:
        return written.strip()
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return " ".join(text.strip() for name, text in pairs if name in own and text.strip())
