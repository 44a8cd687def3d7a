"""One prompt set: a YAML file with messages, sub-scores, rules and markup, checked by pydantic."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, StrictBool, model_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from editreward.scorers.fingerprints import content_hash, fingerprint_of
from editreward.scorers.prompts.answers import REASONING, ParsedAnswer, ParseFailure, parse_strictly
from editreward.scorers.prompts.markup import Markup
from editreward.scorers.prompts.messages import RenderedMessage, render, slots_of
from editreward.scorers.prompts.reductions import COMBINATIONS, REDUCTIONS, mean
from editreward.validation import KNOWN_ENTRIES_ONLY, Text, validated
from editreward.yaml_files import load_yaml

DEFAULT_PROMPTS = "editreward"
FOLDER = Path(__file__).parent

Rule = Literal["strict", "published"]
Role = Literal["system", "user", "assistant"]


def _check_name(name: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"{name!r} must be made of letters, digits and _")
    return name


Name = Annotated[Text, AfterValidator(_check_name)]


@checked_dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class SubScore:
    """One number of an answer.

    Args:
        name: key in the answer, and name in results.
        low, high: range, both ends included. Scorers that go through all numbers take the whole ones.
    """

    name: Name
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"{self.name}: low {self.low} is not below high {self.high}")

    @property
    def whole_numbers(self) -> range:
        """All whole numbers of the range."""
        return range(self.low, self.high + 1)


@checked_dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class AnswerForm:
    """What an answer looks like.

    Args:
        reasoning: key of the reasoning in a JSON object; None for an answer of scores alone.
        scores: key of a list with the sub-scores in their order; None where each has a key of its own name.
        form: the whole answer, with `{NAME}` for each sub-score, in the order of the sub-scores, and, where it holds
            reasoning, `{reasoning}` before the last of them.
        lines: the answer has a line "CRITERION: n" for each sub-score, in their order and whatever they are called
            there, among other lines.
    """

    reasoning: Name | None = None
    scores: Name | None = None
    form: Text | None = None
    lines: StrictBool = False

    def __post_init__(self) -> None:
        if self.lines and (self.form, self.reasoning, self.scores) != (None, None, None):
            raise ValueError("`lines` goes without `form`, `reasoning` and `scores`")
        if self.form is not None and (self.reasoning is not None or self.scores is not None):
            raise ValueError("`form` is the whole answer: leave `reasoning` and `scores` out")

    @property
    def is_of_scores_alone(self) -> bool:
        """Whether the answer is a form without reasoning."""
        return self.form is not None and REASONING not in self.form

    def pieces(self, sub_scores: Sequence[SubScore]) -> tuple[str | SubScore, ...]:
        """The form of scores alone, cut: texts and, between them, sub-scores. It begins and ends with a text.

        The text behind a sub-score is its closing delimiter: 2 is a prefix of 25, and only that text ends it.

        Raises:
            ValueError: the answer is not of scores alone.
        """
        if not self.is_of_scores_alone:
            raise ValueError("the answer holds reasoning: its numbers cannot be gone through without writing it.")
        return self.cut(sub_scores)

    def cut(self, sub_scores: Sequence[SubScore]) -> tuple[str | SubScore, ...]:
        """As `pieces`, of any form; its texts may hold the slot of the reasoning."""
        assert self.form is not None
        pieces: list[str | SubScore] = []
        left = self.form
        for score in sub_scores:
            before, _, left = left.partition(f"{{{score.name}}}")
            pieces += [before, score]
        return (*pieces, left)


@checked_dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class Message:
    """One message of a prompt, with slots (`editreward.scorers.prompts.messages`).

    Args:
        role: whose turn it is.
        content: text with slots, taken as it stands, line ends included.
    """

    role: Role
    content: Annotated[str, Field(min_length=1)]


@checked_dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class Prompt:
    """One question to the model.

    Args:
        name: name in results, such as "SC".
        messages: what is sent.
        sub_scores: numbers of the answer, in its order.
        answer: what the answer looks like.
        reduction: from the numbers to the prompt's score, a name of `REDUCTIONS`.
        system: system text; None: no system turn beyond what the backbone's chat template adds by itself.
    """

    name: Name
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]
    sub_scores: Annotated[tuple[SubScore, ...], Field(min_length=1)]
    answer: AnswerForm
    reduction: Literal["min", "mean", "batch_evaluate_min"] = "min"
    system: Text | None = None

    def __post_init__(self) -> None:
        names = [score.name for score in self.sub_scores]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: two sub-scores have the same name: {', '.join(names)}")
        form = self.answer.form
        if form is not None:
            places = [form.find(f"{{{name}}}") for name in names]
            if -1 in places or places != sorted(places) or any(form.count(f"{{{name}}}") > 1 for name in names):
                raise ValueError(f"{self.name}: `form` must have {{{'}, {'.join(names)}}} once each, in this order")
            texts = self.answer.cut(self.sub_scores)[::2]
            if not all(texts[1:]):
                raise ValueError(f"{self.name}: `form` must close each number with a text")
            if form.count(REASONING) > 1 or REASONING in str(texts[-1]) or "reasoning" in names:
                raise ValueError(f"{self.name}: `form` may have {REASONING} once, before the last number")

    @property
    def slots(self) -> tuple[str, ...]:
        """Slots of its messages, in order."""
        return tuple(slot for message in self.messages for slot in slots_of(message.content))

    @property
    def has_reasoning(self) -> bool:
        """Whether the answer holds more than scores."""
        return not self.answer.is_of_scores_alone

    @property
    def closing(self) -> str:
        """Text with which an answer ends: decoding may stop there once the answer is whole. Empty: no text tells."""
        if self.answer.lines:
            return ""
        if self.answer.form is None:
            return "}"
        return str(self.answer.cut(self.sub_scores)[-1])

    def render(self, instruction: str, sources: int = 1, question: str = "") -> tuple[RenderedMessage, ...]:
        """The messages for an edit, a system message first where there is one.

        Args:
            instruction: what the edit was to do: data, whatever it holds.
            sources: number of source images.
            question: what a pair is compared by, see `PromptSet.question`.
        """
        messages = [(one.role, one.content) for one in self.messages]
        if self.system is not None:
            messages.insert(0, ("system", self.system))
        return tuple(render(role, content, instruction, sources, question) for role, content in messages)

    def answer_of(self, numbers: Sequence[float], reasoning: str = "") -> str:
        """An answer in the form that is asked for: what a model is trained to write.

        Args:
            numbers: one for each sub-score.
            reasoning: left out where the answer is of scores alone.
        """
        return "".join(text for text, _ in self.answer_pieces(numbers, reasoning))

    def answer_pieces(self, numbers: Sequence[float], reasoning: str = "") -> list[tuple[str, bool]]:
        """`answer_of` cut at its numbers: each piece, and whether it is one of them. Arguments as there."""
        shown = [str(int(number) if float(number).is_integer() else number) for number in numbers]
        if self.answer.form is not None:
            cut = self.answer.cut(self.sub_scores)
            texts = [piece.replace(REASONING, reasoning) for piece in cut if isinstance(piece, str)]
        elif self.answer.lines:
            names = [f"{score.name}: " for score in self.sub_scores]
            texts = [f"Brief reasoning: {reasoning}\n{names[0]}", *(f"\n{name}" for name in names[1:]), ""]
        else:
            start = (
                f'{{"{self.answer.reasoning}": {json.dumps(reasoning, ensure_ascii=False)}, '
                if self.answer.reasoning
                else "{"
            )
            if self.answer.scores:
                texts = [f'{start}"{self.answer.scores}": [', *[", "] * (len(shown) - 1), "]}"]
            else:
                names = [f'"{score.name}": ' for score in self.sub_scores]
                texts = [start + names[0], *(f", {name}" for name in names[1:]), "}"]
        pieces = [(texts[0], False)]
        for number, text in zip(shown, texts[1:], strict=True):
            pieces += [(number, True), (text, False)]
        return pieces


@dataclass(frozen=True)
class PassScore:
    """Scores of one pass over the prompts, on the set's scale.

    Attributes:
        overall: of all prompts together.
        prompts: each prompt's score, by name.
        dimensions: by name.
    """

    overall: float
    prompts: Mapping[str, float]
    dimensions: Mapping[str, float]


@dataclass(frozen=True)
class SetScore:
    """Scores of an edit from all its passes, on the set's scale.

    Attributes:
        overall: what ranks edits.
        dimensions: mean over the passes, by name.
        passes: scores of each pass.
    """

    overall: float
    dimensions: Mapping[str, float]
    passes: tuple[PassScore, ...]


@checked_dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class PromptSet:
    """What a scorer that writes its answer asks, and how scores come of it.

    Args:
        name: what to call it.
        about: what it is, for people.
        version: raised whenever the file changes what it asks.
        scale: lowest and highest score; sub-scores are mapped onto it, range to range.
        prompts: the questions.
        dimensions: for each the prompt, or `PROMPT.SUB_SCORE`, that it is the score of.
        combination: from the prompts' scores to the overall one of a pass, a name of `COMBINATIONS`.
        passes: from the passes to the overall score, a name of `PASS_RULES`.
        parse_rule: how answers are read, unless the caller says it.
        published: which published code the rule `published` follows; None where there is none.
        markup: by type of backbone (`qwen2_5_vl`) a fixed markup; others take their own chat template.
        special_tokens_in_text: let special tokens in an instruction act, as published code does: an instruction can
            then forge a turn. Only for comparison with it.
        max_new_tokens: longest answer.
        questions: of a set of pairs: by dimension what `{question}` stands for.
    """

    name: Text
    scale: tuple[float, float]
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)]
    dimensions: dict[Name, Text]
    about: str = ""
    version: int = 1
    combination: Literal["mean", "min", "geometric_mean"] = "mean"
    passes: Literal["average_last", "evaluate_average_first", "batch_evaluate_average_first"] = "average_last"
    parse_rule: Rule = "strict"
    published: Literal["evaluate", "batch_evaluate"] | None = None
    markup: dict[Name, Markup] = Field(default_factory=dict)
    special_tokens_in_text: bool = False
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    questions: dict[Name, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "PromptSet":
        names = [prompt.name for prompt in self.prompts]
        if len(set(names)) < len(names):
            raise ValueError(f"two prompts have the same name: {', '.join(names)}")
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale must rise, not {self.scale[0]:g}..{self.scale[1]:g}")
        if self.combination == "geometric_mean" and self.scale[0] < 0:
            raise ValueError(
                f"`combination: geometric_mean` needs a scale from 0 on, not {self.scale[0]:g}..{self.scale[1]:g}"
            )
        for dimension, place in self.dimensions.items():
            prompt, _, score = place.partition(".")
            known = {one.name: [part.name for part in one.sub_scores] for one in self.prompts}
            if prompt not in known or (score and score not in known[prompt]):
                raise ValueError(f"dimension {dimension}: there is no prompt or sub-score {place!r}")
        if self.parse_rule == "published" and self.published is None:
            raise ValueError("`parse_rule: published` needs `published`, which says by whom")
        slots = {slot for prompt in self.prompts for slot in prompt.slots}
        if "text" in slots:  # a structure, whose texts bring the other markers
            return self
        if "instruction" not in slots:
            raise ValueError("no message has the marker {instruction}")
        if not slots & {"edited", "first"}:
            raise ValueError("no message has the marker {edited}, the image that is judged")
        return self

    def __getitem__(self, name: str) -> Prompt:
        """The prompt of a name."""
        return next(prompt for prompt in self.prompts if prompt.name == name)

    @cached_property
    def fingerprint(self) -> str:
        """A text that differs whenever what is asked, or how it is read, differs; texts of the set are hashed."""
        return fingerprint_of(prompts=self.name, content=content_hash(fingerprint_of(**asdict(self))))

    @property
    def is_complete(self) -> bool:
        """Whether it has its texts; a structure has not."""
        return not any("text" in prompt.slots for prompt in self.prompts)

    @property
    def is_of_pairs(self) -> bool:
        """Whether it compares two edits instead of scoring one."""
        return any("first" in prompt.slots for prompt in self.prompts)

    def question(self, dimension: str) -> str:
        """What a pair is compared by, in words; a dimension that the set does not know stands for itself."""
        return self.questions.get(dimension, dimension.replace("_", " "))

    def markup_for(self, backbone: str) -> Markup | None:
        """The fixed markup for a type of backbone; None: the backbone's own chat template."""
        return self.markup.get(backbone)

    def parse(self, prompt: Prompt, text: str, rule: Rule | None = None) -> ParsedAnswer | ParseFailure:
        """Read the answer to a prompt.

        Args:
            prompt: which was asked.
            text: the raw answer.
            rule: "strict" or, for comparison, "published"; by default the set's own.
        """
        if (rule or self.parse_rule) == "strict":
            return parse_strictly(text, prompt.answer, prompt.sub_scores)
        from editreward.scorers.prompts.published import PARSERS

        if self.published is None:
            raise ValueError(f"The prompt set {self.name!r} follows no published code: parse it strictly.")
        return PARSERS[self.published](text)

    def on_scale(self, score: SubScore, number: float) -> float:
        """A number of an answer on the set's scale."""
        low, high = self.scale
        return low + (number - score.low) * ((high - low) / (score.high - score.low))

    def reduced(self, prompt: Prompt, numbers: Sequence[float]) -> float:
        """Score of a prompt from its numbers, on the set's scale. Further numbers are taken as the last sub-score."""
        scores = [*prompt.sub_scores, *[prompt.sub_scores[-1]] * (len(numbers) - len(prompt.sub_scores))]
        values = [self.on_scale(score, number) for score, number in zip(scores, numbers, strict=False)]
        return REDUCTIONS[prompt.reduction](values, *self.scale)

    def combined(self, scores: Mapping[str, float]) -> float:
        """Overall score of a pass, from each prompt's score by name."""
        return COMBINATIONS[self.combination]([scores[prompt.name] for prompt in self.prompts])

    def of_pass(self, numbers: Mapping[str, Sequence[float]]) -> PassScore:
        """Scores of one pass.

        Args:
            numbers: of each prompt by name, in the order of its sub-scores.
        """
        prompts = {prompt.name: self.reduced(prompt, numbers[prompt.name]) for prompt in self.prompts}
        dimensions = {}
        for dimension, place in self.dimensions.items():
            name, _, score = place.partition(".")
            if not score:
                dimensions[dimension] = prompts[name]
                continue
            position = [one.name for one in self[name].sub_scores].index(score)
            dimensions[dimension] = self.on_scale(self[name].sub_scores[position], numbers[name][position])
        return PassScore(self.combined(prompts), prompts, dimensions)

    def aggregate(self, passes: Sequence[Mapping[str, Sequence[float]]]) -> SetScore:
        """Scores of an edit.

        Args:
            passes: for each pass the numbers of each prompt by name, in the order of its sub-scores.
        """
        scored = tuple(self.of_pass(numbers) for numbers in passes)
        dimensions = {name: mean([one.dimensions[name] for one in scored]) for name in self.dimensions}
        if self.passes == "average_last":
            return SetScore(mean([one.overall for one in scored]), dimensions, scored)
        averages = {prompt.name: mean([one.prompts[prompt.name] for one in scored]) for prompt in self.prompts}
        if self.passes == "evaluate_average_first":
            first = self.prompts[0]
            values = [self.on_scale(first.sub_scores[0], numbers[first.name][0]) for numbers in passes]
            averages[first.name] = mean(values)
        return SetScore(self.combined(averages), dimensions, scored)


def list_prompt_sets() -> list[str]:
    """Names of the prompt sets that come with the package, structures included."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_content(name_or_path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """A prompt set's file, and what it says, unchecked. An existing path goes before a name.

    Raises:
        ValueError: there is no such prompt set, or the file is no YAML.
    """
    given = Path(name_or_path).expanduser()
    path = given if given.is_file() else FOLDER / f"{name_or_path}.yaml"
    if not given.is_file() and str(name_or_path) not in list_prompt_sets():
        known = ", ".join(list_prompt_sets())
        raise ValueError(f"There is no prompt set {str(name_or_path)!r}: name one of {known}, or a YAML file.")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no prompt set: it has no entries (docs/judges.md).")
    return path, content


def load_prompt_set(name_or_path: str | os.PathLike[str] = DEFAULT_PROMPTS) -> PromptSet:
    """A prompt set that can be asked.

    Args:
        name_or_path: a name of `list_prompt_sets`, or a YAML file.

    Raises:
        ValueError: there is none, something in it is missing, unknown or wrong, or it is a structure without texts.
    """
    path, content = read_content(name_or_path)
    made = validated(PromptSet, {name: value for name, value in content.items() if name != "texts"}, str(path))
    if not made.is_complete:
        how = f"`editreward prompts import --from FILE --as {made.name} --output prompts.yaml`"
        raise ValueError(
            f"The prompt set {made.name!r} comes without its texts, which are their authors'. Take them from your "
            f"copy, {how}, and name that file."
        )
    return made
