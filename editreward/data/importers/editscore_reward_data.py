"""EditScore-Reward-Data: questions about edits with a model's answers, as EditScore (arXiv 2509.23909) is trained on.

A row is a conversation in ShareGPT form: `conversations`, a turn of "human" and one of "gpt", and `images`, as many as
the question has `<image>`. The answer is a JSON object with `reasoning` and two scores in `score`. A question with a
line "Editing instruction: ..." shows the sources and the edit, and its scores are of success and of what was to stay;
any other is about the looks of the edit, the last of its images. The latter names neither source nor instruction: it
belongs to the groups whose edit is the same image.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from editreward.data.importers.faults import RowFault
from editreward.data.importers.formats import Assembly, Built, Format, Row, short_hash
from editreward.data.schema import RATIONALE_BY, SCORE_RANGE

DIMENSIONS = ("success", "preservation", "naturalness", "artefacts")
"""The sub-scores of the prompt set `editscore`, in the order of the answers."""

PARTS = ("SC", "PQ")
"""The prompts of that set: about the instruction, about the looks."""

PUBLISHED_SCALE = (0.0, 25.0)
IMAGE = "<image>"
LABEL = re.compile(r"^[ \t]*Editing instruction:", re.M | re.I)
SCALE = re.compile(r"\bscore from (\d+) to (\d+)", re.I)


@dataclass(frozen=True)
class Answer:
    """A row as data: the images by reference, the instruction if it is told, scores 1..4, and the reason."""

    sources: list[str]
    edit: str
    instruction: str | None
    scores: list[float]
    reason: str

    @property
    def part(self) -> int:
        """Position of its prompt in `PARTS`."""
        return 0 if self.instruction is not None else 1


def parse(row: Row) -> Answer:
    """Read a row. Raises `RowFault`."""
    asked, answered = _turns(row)
    images = row.images("images")
    if asked.count(IMAGE) != len(images):
        raise RowFault(
            "wrong-number", f"the question has {asked.count(IMAGE)} {IMAGE}, and images has {len(images)} images"
        )
    rules, *told = LABEL.split(asked.replace(IMAGE, ""), maxsplit=1)
    instruction = told[0].strip() if told else None
    if instruction == "":
        raise RowFault("empty-text", "the question's editing instruction is empty")
    if instruction is not None and len(images) < 2:
        raise RowFault("missing-image", "the question has an editing instruction and only one image, no source")
    scores, reason = _answer(answered, _scale(rules))
    return Answer(images[:-1], images[-1], instruction, scores, reason)


def _turns(row: Row) -> tuple[str, str]:
    """Question and answer. Raises `RowFault`."""
    turns = row.values.get("conversations")
    if not isinstance(turns, list):
        raise RowFault("missing-field", "there is no list conversations (--column conversations=COLUMN names another)")
    spoken = []
    for turn in turns:
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys() or not isinstance(turn["value"], str):
            found = ", ".join(turn) if isinstance(turn, dict) else type(turn).__name__
            raise RowFault("wrong-type", f"a turn must have `from` and a text `value`, not {found}")
        if turn["from"] != "system":
            spoken.append((turn["from"], turn["value"]))
    if [who for who, _ in spoken] != ["human", "gpt"]:
        found = ", ".join(repr(who) for who, _ in spoken) or "none"
        raise RowFault("unknown-value", f"the turns must be by 'human' and 'gpt', not {found}")
    return spoken[0][1], spoken[1][1]


def _scale(rules: str) -> tuple[float, float]:
    """The scale that a question asks for. Raises `RowFault`."""
    asked = {(float(low), float(high)) for low, high in SCALE.findall(rules)} or {PUBLISHED_SCALE}
    if len(asked) > 1 or any(low >= high for low, high in asked):
        said = ", ".join(f"{low:g} to {high:g}" for low, high in sorted(asked))
        raise RowFault("unknown-value", f"the question asks for scores from {said}: one scale is read")
    return asked.pop()


def _answer(text: str, scale: tuple[float, float]) -> tuple[list[float], str]:
    """Scores, mapped onto 1..4, and the reason. Raises `RowFault`."""
    try:
        answer = json.loads(text[text.find("{") : text.rfind("}") + 1], strict=False)
    except json.JSONDecodeError as error:
        raise RowFault("wrong-type", f"the answer is no JSON object: {error}: {text[:80]!r}") from error
    if answer.keys() != {"reasoning", "score"}:
        raise RowFault(
            "wrong-type", f"the answer must have `reasoning` and `score`, not {', '.join(answer) or 'none'}"
        )
    if not isinstance(answer["reasoning"], str) or not answer["reasoning"].strip():
        raise RowFault("empty-text", "the answer has no text in `reasoning`")
    return _on_our_scale(answer["score"], scale), re.sub(r"\s*\n\s*", " ", answer["reasoning"].strip())


def _on_our_scale(found: Any, scale: tuple[float, float]) -> list[float]:
    numbers = found if isinstance(found, list) else [found]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers) or len(numbers) != 2:
        raise RowFault("wrong-number", f"`score` must be a list of 2 numbers, not {json.dumps(found)[:80]}")
    low, high = scale
    if not all(low <= one <= high for one in numbers):
        raise RowFault("score-range", f"`score` is {numbers}, must be {low:g} to {high:g}")
    lowest, highest = SCORE_RANGE
    return [lowest + (one - low) / (high - low) * (highest - lowest) for one in numbers]


def key(row: Row) -> list[Any]:
    """Sources and instruction, or the edit where the row tells none."""
    answer = parse(row)
    return _of_edit(answer) if answer.instruction is None else [answer.sources, answer.instruction]


def other_key(row: Row) -> list[Any] | None:
    """The key of the rows that tell no instruction and are about the same edit."""
    answer = parse(row)
    return None if answer.instruction is None else _of_edit(answer)


def _of_edit(answer: Answer) -> list[Any]:
    return ["edit", answer.edit]


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all edits of one source and instruction.

    Candidates are scored on the four sub-scores, or, of two dimensions, on the smaller of each answer's two.
    """
    answers = assembly.parsed(rows, parse)
    asked = [(row, answer) for row, answer in answers if answer.instruction is not None]
    if not asked:
        for row, answer in answers:
            message = f"no row tells the source and the instruction of the edit {answer.edit!r}"
            assembly.faults.error(row, "incomplete-group", message, "the row is left out")
        return []
    by_edit: dict[str, list[list[tuple[Row, Answer]]]] = {answer.edit: [[], []] for _, answer in asked}
    for row, answer in answers:
        by_edit[answer.edit][answer.part].append((row, answer))
    candidates = {edit: _candidate(parts, assembly) for edit, parts in by_edit.items()}
    row, first = asked[0]
    assert first.instruction is not None
    rows_of = {edit: parts[0][0][0] for edit, parts in by_edit.items()}
    group_id = f"{assembly.name}-{short_hash(first.sources, first.instruction)}"
    built = assembly.build(row, group_id, first.instruction, first.sources, candidates, rows_of=rows_of, minimum=1)
    return [] if built is None else [Built(built[0])]


def _candidate(parts: Sequence[Sequence[tuple[Row, Answer]]], assembly: Assembly) -> dict[str, Any]:
    """Scores and reasons of an edit, from the answers to each of the two prompts."""
    in_full = len(assembly.dimensions) == 4
    names = PARTS if in_full else assembly.dimensions
    scores: dict[str, float] = {}
    reasons = []
    for place, answers in enumerate(parts):
        answer = _agreed(answers, assembly)
        if answer is None:
            continue
        of_part = assembly.dimensions[2 * place : 2 * place + 2] if in_full else assembly.dimensions[place : place + 1]
        values = answer.scores if in_full else [min(answer.scores)]
        scores |= dict(zip(of_part, values, strict=True))
        reasons.append(f"{names[place]}: {answer.reason}")
    rationale = "\n".join(reasons) or None
    return {"scores": scores, "rationale": rationale, RATIONALE_BY: assembly.name if rationale else None}


def _agreed(answers: Sequence[tuple[Row, Answer]], assembly: Assembly) -> Answer | None:
    """The answer, or the first of several with the same scores; None, after a report, where scores differ."""
    for row, answer in answers[1:]:
        first, said = answers[0]
        if answer.scores != said.scores:
            message = f"the edit {said.edit!r} has other scores in row {first.number} of {first.file}"
            assembly.faults.error(row, "contradictory-score", message, "the candidate gets no score of either")
            return None
        message = f"the edit {said.edit!r} has the same scores in row {first.number} of {first.file}; taken once"
        assembly.faults.note(row, "duplicate-edit", message)
    return answers[0][1] if answers else None


FORMAT = Format(
    name="editscore-reward-data",
    fields=("conversations", "images"),
    image_fields=("images",),
    key=key,
    other_key=other_key,
    assemble=assemble,
    split="train",
    dimensions=DIMENSIONS,
    dimension_counts=(4, 2),
)
