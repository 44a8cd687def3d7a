"""Scores from written answers: asking, asking again, and several passes as one score.

Whoever writes the answers, a model in this process or one behind an endpoint, is a function from `Question`s to
`Reply`s. What cannot be read is asked again, with a new seed. A candidate of which a pass stays unread is `Unscored`,
with the raw answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from editreward.groups import CandidateScore, DimensionScore, Pass, Unscored
from editreward.scorers.prompts import ParseFailure, Prompt, PromptSet

TRIES = 3
"""How often a question is asked at most."""


@dataclass(frozen=True)
class Question:
    """One prompt about one candidate, in one pass.

    Attributes:
        candidate: its position among those that are asked about.
        prompt: what is asked.
        number: of the pass, from 0.
        seed: to sample with: no two passes, nor tries, of a candidate share it.
        retry: how often it was asked before.
    """

    candidate: int
    prompt: Prompt
    number: int
    seed: int
    retry: int = 0


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: the raw answer.
        problem: why the text is no answer (refused, cut off, no reply); empty if it is one.
        final: asking again would not help.
    """

    text: str
    problem: str = ""
    final: bool = False


Ask: TypeAlias = Callable[[Sequence[Question]], Sequence[Reply]]


@dataclass
class AnswerCounts:
    """What became of questions; each is a prompt in a pass over a candidate.

    Attributes:
        asked: all of them.
        retried: those that were asked again.
        lost: those without a readable answer in the end.
        guessed: those whose numbers a published parse rule made up.
    """

    asked: int = 0
    retried: int = 0
    lost: int = 0
    guessed: int = 0

    @property
    def share_retried(self) -> float:
        """Share that needed a retry; 0 of none."""
        return self.retried / self.asked if self.asked else 0.0

    @property
    def share_lost(self) -> float:
        """Share that was lost; 0 of none."""
        return self.lost / self.asked if self.asked else 0.0

    def __str__(self) -> str:
        told = f"{self.asked} answers, {self.share_retried:.1%} needed a retry, {self.share_lost:.1%} were lost"
        return told + (f", {self.guessed} have numbers that were made up" if self.guessed else "")


@dataclass(frozen=True)
class _Found:
    """The readable answer to a question."""

    question: Question
    text: str
    numbers: tuple[float, ...]
    reason: str


_Place: TypeAlias = tuple[int, int, str]


def score_by_passes(
    prompts: PromptSet, candidates: int, ask: Ask, *, passes: int, seed: int, counts: AnswerCounts, tries: int = TRIES
) -> list[CandidateScore | Unscored]:
    """Score candidates by asking about each, `passes` times.

    Args:
        prompts: what to ask, and how to read it.
        candidates: how many there are.
        ask: answers questions, in their order. It is called with all at once, then with those to be asked again.
        passes: how often each candidate is asked about.
        seed: pass i has the seed `seed + i`; retries take seeds behind those of all passes.
        counts: to be added to.
        tries: how often a question is asked at most.

    Returns:
        For each candidate its score, without standard deviations: the spread of the passes is `pass_std`.
    """
    questions = [
        Question(candidate, prompt, number, seed + number)
        for candidate in range(candidates)
        for number in range(passes)
        for prompt in prompts.prompts
    ]
    counts.asked += len(questions)
    found: dict[_Place, _Found] = {}
    lost: dict[int, Unscored] = {}
    for retry in range(tries):
        again: list[Question] = []
        for question, reply in zip(questions, ask(questions), strict=True):
            answer = _read(prompts, question, reply, counts)
            if isinstance(answer, _Found):
                found[_place(question)] = answer
            elif reply.final or retry + 1 == tries:
                counts.lost += 1
                lost.setdefault(question.candidate, _unscored(question, answer, reply))
            else:
                counts.retried += retry == 0
                again.append(replace(question, seed=question.seed + passes, retry=retry + 1))
        questions = [question for question in again if question.candidate not in lost]
        counts.lost += len(again) - len(questions)  # nobody needs the answers of a candidate that is lost
        if not questions:
            break
    return [
        lost[candidate] if candidate in lost else _scored(prompts, candidate, passes, found)
        for candidate in range(candidates)
    ]


def _place(question: Question) -> _Place:
    return question.candidate, question.number, question.prompt.name


def _read(prompts: PromptSet, question: Question, reply: Reply, counts: AnswerCounts) -> _Found | str:
    """The answer, or why there is none."""
    if reply.problem:
        return reply.problem
    parsed = prompts.parse(question.prompt, reply.text)
    if isinstance(parsed, ParseFailure):
        return parsed.reason
    counts.guessed += parsed.guessed
    return _Found(question, reply.text, parsed.numbers, parsed.reason)


def _unscored(question: Question, reason: str, reply: Reply) -> Unscored:
    asked = f" (asked {question.retry + 1} times)" if question.retry else ""
    told = f"{question.prompt.name}, pass {question.number + 1}: {reason}{asked}"
    return Unscored(told, (reply.text,) if reply.text else ())


def _scored(prompts: PromptSet, candidate: int, passes: int, found: dict[_Place, _Found]) -> CandidateScore | Unscored:
    by_pass = [
        {prompt.name: found[candidate, number, prompt.name] for prompt in prompts.prompts} for number in range(passes)
    ]
    try:
        score = prompts.aggregate([{name: one.numbers for name, one in answers.items()} for answers in by_pass])
    except (IndexError, ValueError) as error:  # of published rules, which let anything through
        texts = tuple(one.text for answers in by_pass for one in answers.values())
        return Unscored(f"the numbers of its answers cannot be combined ({error})", texts)
    low, high = prompts.scale
    told = [
        Pass(
            overall=scored.overall,
            sub_scores={
                f"{name}.{part.name}": number
                for name, one in answers.items()
                for part, number in zip(one.question.prompt.sub_scores, one.numbers, strict=False)
            },
            reasons={name: one.reason for name, one in answers.items() if one.reason},
            answers={name: one.text for name, one in answers.items()},
            seed=next(iter(answers.values())).question.seed,
            retries=sum(one.question.retry for one in answers.values()),
            prompt_scores={name: (value - low) / (high - low) for name, value in scored.prompts.items()},
        )
        for scored, answers in zip(score.passes, by_pass, strict=True)
    ]
    reasons = tuple(reason for one in told for reason in one.reasons.values())
    dimensions = {name: DimensionScore(value) for name, value in score.dimensions.items()}
    return CandidateScore(dimensions, score.overall, reasons=reasons, passes=tuple(told))
