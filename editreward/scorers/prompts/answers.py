"""The strict rule: exactly the named sub-scores, finite and in range, or the reason why not. Never a guess."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editreward.scorers.prompts.prompt_set import AnswerForm, SubScore

REASONING = "{reasoning}"
"""The slot of the reasoning in a form."""
NUMBER = r"-?(?:0|[1-9]\d*)(?:\.\d+)?"


@dataclass(frozen=True)
class ParsedAnswer:
    """What an answer says.

    Attributes:
        numbers: by position, as the answer has them; the strict rule gives one for each sub-score.
        reason: its reasoning in words; empty where there is none.
        guessed: whether a published rule made the numbers up, or took them from where they may mean something else.
    """

    numbers: tuple[float, ...]
    reason: str = ""
    guessed: bool = False


@dataclass(frozen=True)
class ParseFailure:
    """Why an answer gives no scores.

    Attributes:
        reason: what is wrong with it.
        error: name of the exception that the published code raises for it; empty where that code asks again. Always
            empty under the strict rule.
    """

    reason: str
    error: str = ""


def parse_strictly(text: str, form: AnswerForm, sub_scores: Sequence[SubScore]) -> ParsedAnswer | ParseFailure:
    """Read an answer by the strict rule.

    Around the answer there may be prose and a code fence. Line breaks inside a JSON string are let pass, because they
    leave no doubt about any number.
    """
    if not text.strip():
        return ParseFailure("the answer is empty")
    try:
        if form.lines:
            found: tuple[list[object], str] = _of_lines(text, len(sub_scores))
        elif form.form is not None:
            found = _of_form(text, form.form, sub_scores)
        else:
            found = _of_object(text, form, [score.name for score in sub_scores])
        numbers = tuple(_checked(value, score) for value, score in zip(found[0], sub_scores, strict=True))
    except _NoAnswer as error:
        return ParseFailure(str(error))
    return ParsedAnswer(numbers, found[1])


class _NoAnswer(ValueError):
    pass


def _checked(value: object, score: SubScore) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NoAnswer(f"{score.name} is {_short(value)}, not a number")
    if not score.low <= value <= score.high:  # nor is NaN
        raise _NoAnswer(f"{score.name} is {_short(value)}, out of {score.low}..{score.high}")
    return float(value)


def _of_form(text: str, form: str, sub_scores: Sequence[SubScore]) -> tuple[list[object], str]:
    """Numbers and reasoning of an answer that has exactly a form; blanks may differ."""
    pattern = re.escape(form).replace(re.escape(REASONING), "(?P<reasoning>(?s:.*))")
    for place, score in enumerate(sub_scores):
        pattern = pattern.replace(re.escape(f"{{{score.name}}}"), f"(?P<number_{place}>{NUMBER})")
    pattern = pattern.replace(r"\ ", r"\s*")
    match = re.fullmatch(pattern, _without_fence(text))
    if match is None:
        raise _NoAnswer(f"the answer is not of the form {form}: {_short(text)}")
    found = match.groupdict()
    numbers = [json.loads(found[f"number_{place}"]) for place in range(len(sub_scores))]
    return numbers, found.get("reasoning", "").strip()


def _of_lines(text: str, count: int) -> tuple[list[object], str]:
    """Numbers of the lines "CRITERION: n", and all else that is said."""
    found: list[object] = []
    rest = []
    for line in _without_fence(text).splitlines():
        _, *numbers = line.strip().split(": ")
        if len(numbers) == 1 and numbers[0].isdecimal():
            found.append(int(numbers[0]))
        elif line.strip():
            rest.append(line.strip())
    if len(found) != count:
        raise _NoAnswer(f"{len(found)} lines CRITERION: n, not {count}: {_short(text)}")
    return found, " ".join(rest)


def _of_object(text: str, form: AnswerForm, names: Sequence[str]) -> tuple[list[object], str]:
    """Values of the sub-scores, and the reasoning, of the one JSON object that holds them."""
    wanted = {form.scores} if form.scores else set(names)
    objects = list(_objects(text))
    answers = [found for found in objects if wanted & found.keys()]
    if len(answers) != 1:
        raise _NoAnswer(_why_not_one(text, objects, answers, wanted))
    found = answers[0]
    if missing := sorted(wanted - found.keys()):
        raise _NoAnswer(f"{missing[0]} is missing")
    if found.repeated:
        raise _NoAnswer(f"{found.repeated} is there twice")
    if form.scores:
        values = found[form.scores]
        if not isinstance(values, list) or len(values) != len(names):
            raise _NoAnswer(f"{form.scores} is {_short(values)}, not a list of {len(names)} numbers")
    else:
        values = [found[name] for name in names]
    for name, value in found.items():
        if name not in (*wanted, form.reasoning) and isinstance(value, int | float):
            raise _NoAnswer(f"{name} was not asked for")
    reason = found.get(form.reasoning) if form.reasoning else None
    return values, reason if isinstance(reason, str) else ""


def _why_not_one(text: str, objects: Sequence[object], answers: Sequence[object], wanted: set[str]) -> str:
    if len(answers) > 1:
        return f"there are {len(answers)} answers in it"
    if objects:
        return f"{min(wanted)} is missing"
    if "{" not in text:
        return f"there is no JSON object in {_short(text)}"
    closed = text.rstrip().removesuffix("```").rstrip().endswith("}")
    return "it is not JSON" if closed else "it is cut off, or not JSON"


class _Object(dict[str, object]):
    """A JSON object that knows which of its keys came twice."""

    repeated = ""


def _object(pairs: list[tuple[str, object]]) -> _Object:
    made = _Object(pairs)
    names = [name for name, _ in pairs]
    made.repeated = next((name for name in names if names.count(name) > 1), "")
    return made


def _objects(text: str) -> Iterator[_Object]:
    """The outermost JSON objects in a text."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, strict=False)
    place = text.find("{")
    while place != -1:
        try:
            found, end = decoder.raw_decode(text, place)
        except RecursionError:  # each further brace would take as long
            return
        except ValueError:  # of numbers with thousands of digits, too
            end = place + 1
        else:
            yield found
        place = text.find("{", end)


def _without_fence(text: str) -> str:
    match = re.fullmatch(r"\s*```\w*\s*(.*?)\s*```\s*", text, re.DOTALL)
    return match.group(1) if match else text.strip()


def _short(value: object, longest: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}…"
