"""Prompts as tokens and images, and the tree of what they begin with in common."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from editreward.scorers.generative.attention import Segment
from editreward.scorers.generative.images import ImagePatches
from editreward.scorers.prompts import ImagePart, MarkupPart, Prompt, PromptSet, RenderedMessage, TextPart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARED_TOKENS = 48
"""Tokens that must be saved for prompts to share a beginning; fewer are not worth a segment."""

Atom: TypeAlias = "int | ImagePatches"
"""A text token, or an image."""


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as the engine takes it.

    Attributes:
        atoms: its text tokens and images, in order.
    """

    atoms: tuple[Atom, ...]

    @property
    def images(self) -> tuple[ImagePatches, ...]:
        return tuple(atom for atom in self.atoms if isinstance(atom, ImagePatches))

    @property
    def keys(self) -> tuple[int | str, ...]:
        """The same for equal prompts: text tokens, and hashes of images."""
        return tuple(atom.key if isinstance(atom, ImagePatches) else atom for atom in self.atoms)

    def ids(self, image_token_id: int) -> list[int]:
        """Token ids with a placeholder for each visual token, as transformers' processors give them."""
        return [
            i
            for atom in self.atoms
            for i in ([image_token_id] * atom.tokens if isinstance(atom, ImagePatches) else [atom])
        ]

    def __len__(self) -> int:
        return sum(atom.tokens if isinstance(atom, ImagePatches) else 1 for atom in self.atoms)


class PromptTokenizer:
    """Makes tokens of the prompts of a set.

    Args:
        tokenizer: of the model.
        model_type: of the model, such as `qwen2_5_vl`; it decides on the markup.
        image_token: the model's placeholder for one visual token.
        chat_template: for prompt sets without a fixed markup for the model; by default the tokenizer's.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerFast", model_type: str, image_token: str, chat_template: str | None = None
    ) -> None:
        self.tokenizer, self.model_type, self.image_token = tokenizer, model_type, image_token
        self.chat_template = chat_template or tokenizer.chat_template
        self._special = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def __call__(
        self,
        prompts: PromptSet,
        prompt: Prompt,
        instruction: str,
        images: Mapping[str, Sequence[ImagePatches]],
    ) -> PromptTokens:
        """Tokens of a prompt, up to where the answer begins.

        Args:
            prompts: the set.
            prompt: one of its prompts.
            instruction: what the edit was to do.
            images: those of each slot, by its name.

        Raises:
            ValueError: the markup does not fit the prompt, or an instruction that may hold special tokens stands for
                an image.
        """
        messages = prompt.render(instruction, len(images["source"]))
        places = [part for message in messages for part in message.parts if isinstance(part, ImagePart)]
        shown = [images[place.slot][place.index] for place in places]
        markup = prompts.markup_for(self.model_type)
        pieces = self._of_template(messages) if markup is None else markup.pieces(messages)
        return PromptTokens(tuple(self._atoms(pieces, shown, prompts.special_tokens_in_text)))

    def plain(self, text: str) -> list[int]:
        """Tokens of a text in which nothing is special."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _atoms(
        self, pieces: Sequence[MarkupPart | TextPart], images: Sequence[ImagePatches], all_special: bool
    ) -> list[Atom]:
        atoms: list[Atom] = []
        left = list(images)
        text = ""
        for piece in pieces:
            is_special = isinstance(piece, MarkupPart) or all_special
            for part in self._pattern.split(piece.text) if is_special else [piece.text]:
                if not is_special or part not in self._special:
                    text += part
                    continue
                atoms += self.plain(text) if text else []
                text = ""
                if part == self.image_token and not left:
                    raise ValueError(f"the prompt has more places for images than its {len(images)} images")
                atoms.append(left.pop(0) if part == self.image_token else self._special[part])
        atoms += self.plain(text) if text else []
        if left:
            raise ValueError(f"the prompt has places for {len(images) - len(left)} of its {len(images)} images")
        return atoms

    def _of_template(self, messages: Sequence[RenderedMessage]) -> list[MarkupPart | TextPart]:
        """The messages in the model's own chat template. Texts are put in after it has run."""
        texts: list[str] = []
        turns = []
        for message in messages:
            content: list[dict[str, str]] = []
            for part in message.parts:
                if isinstance(part, ImagePart):
                    content.append({"type": "image"})
                else:
                    content.append({"type": "text", "text": f"\ue000{len(texts)}\ue001"})
                    texts.append(part.text)
            turns.append({"role": message.role, "content": content})
        rendered = self.tokenizer.apply_chat_template(
            turns, chat_template=self.chat_template, tokenize=False, add_generation_prompt=True
        )
        pieces: list[MarkupPart | TextPart] = []
        places = re.split("\ue000(\\d+)\ue001", rendered)
        if [int(place) for place in places[1::2]] != list(range(len(texts))):
            raise ValueError(
                "The base's chat template does not keep the texts of a message in order; give the prompt set a fixed "
                "`markup` for it (docs/judges.md)."
            )
        for index, piece in enumerate(places):
            pieces.append(TextPart(texts[int(piece)]) if index % 2 else MarkupPart(piece))
        return pieces


@dataclass
class TokenTree:
    """Prompts in one row of tokens, what they begin with in common once.

    Attributes:
        ids: token ids, with the image token's for visual ones.
        positions: of shape (3, tokens).
        images: the images in the row, each with the place of its first token; an image may stand in several places.
        segments: from the roots down.
        paths: for each prompt the ranges of the row that it is made of.
        next_positions: for each prompt the position of the first token of an answer.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    images: list[tuple[int, ImagePatches]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    paths: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    next_positions: list[int] = field(default_factory=list)

    @property
    def position_ids(self) -> Tensor:
        return torch.from_numpy(np.concatenate(self.positions, axis=1))


class TreeBuilder:
    """Builds a `TokenTree`.

    Args:
        prompts: all different.
        image_token_id: of the model.
        merge: side of the square of patches that makes a visual token.
        shared_tokens: see `SHARED_TOKENS`.
    """

    def __init__(
        self, prompts: Sequence[PromptTokens], image_token_id: int, merge: int, shared_tokens: int = SHARED_TOKENS
    ) -> None:
        self.prompts, self.keys = prompts, [prompt.keys for prompt in prompts]
        self.image_token_id, self.merge, self.shared_tokens = image_token_id, merge, shared_tokens
        self.tree = TokenTree()

    def build(self) -> TokenTree:
        """The tree of the prompts."""
        count = len(self.prompts)
        self.tree.paths, self.tree.next_positions = [()] * count, [0] * count
        self._split(list(range(count)), 0, (), 0)
        return self.tree

    def _split(self, members: list[int], start: int, path: tuple[tuple[int, int], ...], position: int) -> None:
        """Add what is left of prompts that agree up to an atom."""
        first = self.keys[members[0]]
        end = min(len(self.keys[member]) for member in members)
        end = next((i for i in range(start, end) if any(self.keys[m][i] != first[i] for m in members)), end)
        size = len(PromptTokens(self.prompts[members[0]].atoms[start:end]))
        if len(members) == 1 or size * (len(members) - 1) >= self.shared_tokens:
            path, position = self._add(self.prompts[members[0]].atoms[start:end], path, position)
            start = end
        by_next: dict[object, list[int]] = {}
        for member in members:
            if len(self.keys[member]) == start:
                self.tree.paths[member], self.tree.next_positions[member] = path, position
            else:
                key = self.keys[member][end] if len(self.keys[member]) > end else None
                by_next.setdefault(key, []).append(member)
        for group in by_next.values():
            self._split(group, start, path, position)

    def _add(
        self, atoms: Sequence[Atom], path: tuple[tuple[int, int], ...], position: int
    ) -> tuple[tuple[tuple[int, int], ...], int]:
        """Add a segment below a path; the path with it, and the position behind it."""
        tree = self.tree
        begin = len(tree.ids)
        for atom in atoms:
            if isinstance(atom, ImagePatches):
                frames, rows, columns = atom.grid[0], atom.grid[1] // self.merge, atom.grid[2] // self.merge
                tree.images.append((len(tree.ids), atom))
                tree.ids += [self.image_token_id] * atom.tokens
                tree.positions.append(position + np.indices((frames, rows, columns)).reshape(3, -1))
                position += max(rows, columns)
            else:
                tree.ids.append(atom)
                tree.positions.append(np.full((3, 1), position))
                position += 1
        tree.segments.append(Segment(begin, len(tree.ids), path))
        return (*path, (begin, len(tree.ids))), position
