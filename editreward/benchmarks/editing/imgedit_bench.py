"""ImgEdit-Bench, its basic part: results as published, and their aggregation.

`basic_edit.json` has for each key `id` (the source image's file), `prompt` and `edit_type`; edits are `KEY.png`.
`prompts.json` has for each type what the judge is asked, with `<edit_prompt>` where the prompt goes. `result.json` has
for each key the judge's answer: a line "CRITERION: n" for each of three criteria, n of 1..5. What failed has an object
with `error` in that place.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACE_OF_PROMPT = "<edit_prompt>"
PROMPTS, PROMPT = "imgedit", "ImgEdit"
"""The prompt set by which a scorer that writes answers is asked (`editreward.scorers.prompts`), and its prompt."""
ABOUT = "ImgEdit-Bench, basic: 737 edits of 9 types"
CONTAMINATION = (
    "EditReward-Data holds ImgEdit-Bench's instructions: a reward model that was trained on them has seen what it "
    "judges"
)
CRITERIA = 3
LOW, HIGH = 1, 5


@dataclass(frozen=True)
class ImgEditScores:
    """An editor's result.

    Attributes:
        by_type: the published number of each type: the mean of its edits' means, both rounded to two decimals.
        counts: answers that count, by type.
        mean: the unweighted mean over the types, which the published scripts leave to the reader.
        failed: why an edit has no score, by key; these are left out.
        irregular: keys of answers that the published rule counts though they are not three numbers of 1..5.
        strict: as `by_type`, without the irregular ones; a type of which nothing is left is missing.
    """

    by_type: dict[str, float]
    counts: dict[str, int]
    mean: float
    failed: dict[str, str]
    irregular: list[str]
    strict: dict[str, float]


def numbers_of(answer: str) -> list[int]:
    """The numbers of an answer by the published rule: of each line "CRITERION: n", n of digits only."""
    parts = [line.strip().split(": ") for line in answer.splitlines()]
    return [int(part[1]) for part in parts if len(part) == 2 and part[1].isdecimal()]


def aggregate(edits: Mapping[str, Mapping[str, object]], results: Mapping[str, object]) -> ImgEditScores:
    """The published aggregation, with what it drops counted.

    Args:
        edits: `basic_edit.json`.
        results: `result.json`.

    Raises:
        ValueError: an edit has no type, a type has no score, or results are of edits that there are not.
    """
    for key, edit in edits.items():
        if not isinstance(edit, Mapping) or "edit_type" not in edit:
            raise ValueError(f"Edit {key} has no edit_type: this is no basic_edit.json of ImgEdit-Bench.")
    if unknown := sorted(results.keys() - edits.keys()):
        raise ValueError(
            f"There is no edit {', '.join(unknown[:3])} in basic_edit.json ({len(unknown)} such results)."
        )
    scores: dict[str, float] = {}
    failed: dict[str, str] = {}
    irregular = []
    for key in edits:
        answer = results.get(key)
        numbers = numbers_of(answer) if isinstance(answer, str) else []
        if not numbers:
            failed[key] = _reason(answer)
            continue
        scores[key] = round(sum(numbers) / len(numbers), 2)
        if len(numbers) != CRITERIA or not all(LOW <= number <= HIGH for number in numbers):
            irregular.append(key)
    types = list(dict.fromkeys(str(edit["edit_type"]) for edit in edits.values()))
    counts = {name: sum(edits[key]["edit_type"] == name for key in scores) for name in types}
    if empty := [name for name in types if not counts[name]]:
        raise ValueError(f"No answer of {', '.join(empty)} has a score: ImgEdit-Bench is a table of all its types.")
    by_type = _by_type(edits, scores)
    strict = _by_type(edits, {key: score for key, score in scores.items() if key not in set(irregular)})
    return ImgEditScores(by_type, counts, sum(by_type.values()) / len(by_type), failed, irregular, strict)


def _reason(answer: object) -> str:
    if answer is None:
        return "there is no answer"
    if isinstance(answer, Mapping):
        return str(answer.get("error", "the answer is an object"))
    return "the answer has no line CRITERION: n"


def _by_type(edits: Mapping[str, Mapping[str, object]], scores: Mapping[str, float]) -> dict[str, float]:
    of_type: dict[str, list[float]] = {}
    for edit, key in ((edits[key], key) for key in scores):
        of_type.setdefault(str(edit["edit_type"]), []).append(scores[key])
    return {name: round(sum(values) / len(values), 2) for name, values in of_type.items()}


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that is one object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must be a JSON object, not a {type(content).__name__}.")
    return content
