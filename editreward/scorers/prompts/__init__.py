"""Prompt sets: what scorers that write their answer ask, and how the answer becomes scores.

EditScore, VIEScore and a house prompt differ in data alone. A prompt set is that data, one YAML file; whoever asks (a
model in this process, a judge behind an endpoint) takes it from `load_prompt_set`. See docs/judges.md.
"""

from editreward.scorers.prompts.answers import ParsedAnswer, ParseFailure
from editreward.scorers.prompts.markup import Markup, MarkupPart
from editreward.scorers.prompts.messages import ImagePart, RenderedMessage, TextPart
from editreward.scorers.prompts.prompt_set import (
    AnswerForm,
    PassScore,
    Prompt,
    PromptSet,
    SetScore,
    SubScore,
    list_prompt_sets,
    load_prompt_set,
)

__all__ = [
    "AnswerForm",
    "ImagePart",
    "Markup",
    "MarkupPart",
    "ParseFailure",
    "ParsedAnswer",
    "PassScore",
    "Prompt",
    "PromptSet",
    "RenderedMessage",
    "SetScore",
    "SubScore",
    "TextPart",
    "list_prompt_sets",
    "load_prompt_set",
]
