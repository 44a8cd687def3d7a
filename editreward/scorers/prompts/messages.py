"""Messages with slots: texts in which `{source}`, `{edited}` and `{instruction}` stand for what is to be judged.

Only these exact names in braces are slots: any other brace is text. What fills `{instruction}` is data: a slot or a
marker in it stays text, because the message is cut at its slots before anything is filled in.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

IMAGE_SLOTS = ("source", "edited", "first", "second")
"""Slots of images: the sources, the edit; or, for a pair, the two edits in the order in which they are shown."""

SLOTS = (*IMAGE_SLOTS, "instruction", "question", "text")
"""All slots. `question`: what a pair is compared by; `text`: what `editreward prompts import` fills in a structure."""

SLOT = re.compile("|".join(rf"\{{({name})\}}" for name in SLOTS))


@dataclass(frozen=True)
class TextPart:
    """Text of a message. Nothing in it is special, whatever it looks like."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """Place of an image in a message.

    Attributes:
        slot: which image, a name of `IMAGE_SLOTS`.
        index: position among the images of that slot; there may be several sources.
    """

    slot: str
    index: int = 0


Part: TypeAlias = TextPart | ImagePart


@dataclass(frozen=True)
class RenderedMessage:
    """A message that is ready to be sent.

    Attributes:
        role: "system", "user" or "assistant".
        parts: texts and images in their order; no two texts follow each other.
    """

    role: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All its text, without the images."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


def slots_of(content: str) -> list[str]:
    """Names of the slots in a text, in order."""
    return [match.group()[1:-1] for match in SLOT.finditer(content)]


def render(role: str, content: str, instruction: str, sources: int = 1, question: str = "") -> RenderedMessage:
    """Fill the slots of a message.

    Args:
        role: whose turn it is.
        content: text with slots.
        instruction: what the edit was to do; never stripped or escaped.
        sources: number of source images.
        question: what a pair is compared by.
    """
    parts: list[Part] = []
    for part in _parts(content, {"instruction": instruction, "question": question}, sources):
        if isinstance(part, TextPart) and parts and isinstance(parts[-1], TextPart):
            part = TextPart(parts.pop().text + part.text)  # type: ignore[union-attr]
        parts.append(part)
    return RenderedMessage(role, tuple(parts))


def _parts(content: str, texts: Mapping[str, str], sources: int) -> Iterator[Part]:
    end = 0
    for match in SLOT.finditer(content):
        if match.start() > end:
            yield TextPart(content[end : match.start()])
        end, name = match.end(), match.group()[1:-1]
        if name in IMAGE_SLOTS:
            yield from (ImagePart(name, index) for index in range(sources if name == "source" else 1))
        elif texts.get(name):
            yield TextPart(texts[name])
    if content[end:]:
        yield TextPart(content[end:])
