"""Fixed chat markup, for models that were trained with a hand-made one instead of their backbone's chat template."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic.dataclasses import dataclass as checked_dataclass

from editreward.scorers.prompts.messages import ImagePart, RenderedMessage, TextPart
from editreward.validation import KNOWN_ENTRIES_ONLY

IMAGE_NUMBER = "{number}"
"""In `Markup.image`: the number of the image, from 1."""


@dataclass(frozen=True)
class MarkupPart:
    """Text of the markup, whose special tokens are special."""

    text: str


@checked_dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class Markup:
    """Chat text around the one user message of a prompt.

    Args:
        prefix: what stands before the message, a system turn included.
        image: what stands for an image; `{number}` is its number in the prompt, from 1.
        suffix: what stands after the message, up to where the answer begins.
    """

    prefix: str
    image: str
    suffix: str

    def pieces(self, messages: Sequence[RenderedMessage]) -> tuple[MarkupPart | TextPart, ...]:
        """The prompt as text, in pieces: special tokens act in a `MarkupPart` and are plain text in a `TextPart`.

        Raises:
            ValueError: there is more than the one user message that the markup is made for.
        """
        if [message.role for message in messages] != ["user"]:
            raise ValueError("a fixed markup holds one user message, and its own system text in `prefix`.")
        pieces: list[MarkupPart | TextPart] = [MarkupPart(self.prefix)]
        number = 0
        for part in messages[0].parts:
            if isinstance(part, ImagePart):
                number += 1
                pieces.append(MarkupPart(self.image.replace(IMAGE_NUMBER, str(number))))
            else:
                pieces.append(part)
        return (*pieces, MarkupPart(self.suffix))
