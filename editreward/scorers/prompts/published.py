"""How the published EditScore reads answers, for comparison with it alone: it guesses, and these rules say where.

Its two entry points read differently. `evaluate` asks again where it finds nothing, and in the end draws numbers at
random (`guesses`); `batch_evaluate` never asks again, takes numbers from wherever it finds some, and puts the middle
of the range where it finds none. Reproduced from its behaviour, in code of our own.
"""

import json
import random
import re
from collections.abc import Callable, Mapping

from editreward.scorers.prompts.answers import ParsedAnswer, ParseFailure

REFUSAL = "I'm sorry, but I can't assist with that request."
"""`evaluate` guesses at once after exactly this answer."""

TRIES = 3
"""Calls of `evaluate` for a pass, the last of which it does not read. All with the same seed."""

DELIMITER = "||V^=^V||"
STRAIGHT = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'"})


def guesses(seed: int, high: int = 25) -> tuple[int, int]:
    """What `evaluate` puts in place of an unreadable pass, on a Hugging Face back end.

    Args:
        seed: of the pass; Python's generator was just seeded with it.
        high: end of the range of the sub-scores.

    Returns:
        The number for both scores of the first prompt, and for both of the second.
    """
    generator = random.Random(seed)
    return generator.randint(0, high), generator.randint(0, high)


def parse_evaluate(text: str) -> ParsedAnswer | ParseFailure:
    """Read an answer as `evaluate` does."""
    if text == "rate_limit_exceeded":
        return ParseFailure("the answer says that the rate limit is exceeded", "ValueError")
    content = _json_part(text)
    if content is None:
        listed = text[text.find("[") : text.rfind("]") + 1]
        if re.match(r"\[\d+, ?\d+\]$", listed):
            return ParsedAnswer(tuple(map(float, json.loads(listed))), "System: output is simply a list of scores")
        if _is_small_number(text):
            return ParsedAnswer((float(int(text)),), "System: output is simply a number")
        return ParseFailure("there is no JSON object in it")
    content = content.strip().replace("\n", "").translate(STRAIGHT)
    try:
        found = json.loads(content)
        if not isinstance(found["score"], list):
            found["score"] = [found["score"]]
    except (ValueError, KeyError, TypeError, IndexError):
        found = _repaired(content)
    if found is False:
        return ParseFailure("the answer could not be repaired")
    return _of_evaluate(found)


def _json_part(text: str) -> str | None:
    if text.count(DELIMITER) == 2:
        start, end = text.find(DELIMITER) + len(DELIMITER), text.rfind(DELIMITER)
    else:
        start, end = text.find("{"), text.rfind("}") + 1
        if start == -1 or end == 0:
            return None
    return text[start:end] if start != end else None


def _is_small_number(text: str) -> bool:
    try:
        return 0 <= int(text) <= 10
    except ValueError:
        return False


def _of_evaluate(found: object) -> ParsedAnswer | ParseFailure:
    """What `evaluate` makes of a value, or the exception that it lets out."""
    if not isinstance(found, dict):
        return ParseFailure(f"the answer is a {type(found).__name__}", "TypeError")
    for key in ("score", "reasoning"):
        if key not in found:
            return ParseFailure(f"{key} is missing", "KeyError")
    numbers = found["score"]
    if isinstance(numbers, str) or not hasattr(numbers, "__len__"):
        return ParseFailure("the score is no list", "TypeError")
    if not numbers:
        return ParseFailure("there is no score in it", "ValueError")
    if not all(isinstance(number, int | float) for number in numbers):
        return ParseFailure("a score is not a number", "TypeError")
    reason = found["reasoning"]
    try:
        return ParsedAnswer(tuple(map(float, numbers)), "" if reason is None else str(reason))
    except OverflowError as error:
        return ParseFailure(str(error), "OverflowError")


def _repaired(content: str) -> object:
    try:
        import json_repair  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise ValueError(
            "The published rule repairs this answer by the package json_repair: pip install json-repair. "
            "Or use the strict rule, which does not guess."
        ) from error
    return json_repair.loads(content)


def parse_batch_evaluate(text: str) -> ParsedAnswer | ParseFailure:
    """Read an answer as `batch_evaluate` does. No numbers: its reduction puts the middle of the range."""
    if not text.strip():
        return ParsedAnswer((), "Input was empty.", guessed=True)
    braces = re.search(r"\{.*\}", text, re.DOTALL)
    content = braces.group() if braces else text.strip()
    try:
        for repair in (str, _quoted, _escaped):
            try:
                found = json.loads(repair(content))
            except ValueError:
                continue
            if (answer := _of_batch(found, guessed=False)) is not None:
                return answer
        answer = _of_batch({"reasoning": _fished_reason(content), "score": _fished(content)}, guessed=True)
    except _Raises as error:
        return ParseFailure(str(error), type(error.__cause__).__name__)
    failed = f"Failed to parse after all strategies. Original output: '{text}'"
    return answer or ParsedAnswer((), failed, guessed=True)


class _Raises(Exception):
    """The published code lets an exception out here, by which its whole batch is lost."""


def _quoted(content: str) -> str:
    """Python's words as JSON's, and single quotes as double ones; or, where that is no JSON, names in quotes."""
    for python, plain in (("True", "true"), ("False", "false"), ("None", "null")):
        content = re.sub(rf"\b{python}\b", plain, content)
    doubled = content.replace("'", '"')
    try:
        json.loads(doubled)
    except ValueError:
        return re.sub(r"([{\s,])(\w+)\s*:", r'\1"\2":', content)
    return doubled


def _escaped(content: str) -> str:
    """Quotes inside the reasoning escaped. Those that were escaped already are escaped again."""
    reasoning = re.compile(r'("reasoning"\s*:\s*")(.*?)(?="\s*[,}])', re.DOTALL)
    return reasoning.sub(lambda match: match.group(1) + match.group(2).replace('"', '\\"'), content)


def _of_batch(found: object, guessed: bool) -> ParsedAnswer | None:
    if not isinstance(found, dict):
        return None
    reasons = (found.get(key) for key in ("reasoning", "reason", "rationale"))
    reason = next((value for value in reasons if isinstance(value, str)), "")
    numbers = found.get("score")
    if isinstance(numbers, int | float):
        numbers = [numbers]
    usable = [one for one in numbers if isinstance(one, int | float | str)] if isinstance(numbers, list) else []
    try:
        values = tuple(map(float, usable))
    except (ValueError, OverflowError) as error:
        raise _Raises(str(error)) from error
    return ParsedAnswer(values, reason, guessed or not values) if reason or values else None


SCORE_KEY = r"[\"']score[\"']\s*:"


def _fished(content: str) -> list[float]:
    """All numbers behind the word "score", or, without it, anywhere."""
    behind = re.search(rf"{SCORE_KEY}\s*(.*)", content, re.DOTALL | re.IGNORECASE)
    return [float(number) for number in re.findall(r"[-+]?\d*\.?\d+", behind.group(1) if behind else content)]


def _fished_reason(content: str) -> str:
    start = r"[\"']reasoning[\"']\s*:\s*[\"']?"
    between = re.search(rf"{start}(.*?)[\"']?\s*,\s*[\"']score[\"']", content, re.DOTALL | re.IGNORECASE)
    if between:
        return between.group(1).strip().replace('\\"', '"')
    score = re.search(SCORE_KEY, content, re.IGNORECASE)
    return content[: score.start()].strip() if score else content


Parser = Callable[[str], ParsedAnswer | ParseFailure]
PARSERS: Mapping[str, Parser] = {"evaluate": parse_evaluate, "batch_evaluate": parse_batch_evaluate}
"""By the value of `published` of a prompt set."""
