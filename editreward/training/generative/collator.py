"""From edit groups to batches of prompts and answers, by the code that makes the prompts for scoring."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editreward.data.rows import edit_group
from editreward.groups.rows import GroupRow
from editreward.scorers.generative.images import ImagePatches, ImageReader
from editreward.scorers.generative.loading import Writer
from editreward.scorers.generative.tokens import PromptTokens, TreeBuilder
from editreward.scorers.prompts import PromptSet
from editreward.training.bad_rows import UnreadableRow, row_id, row_name
from editreward.training.generative.answers import Target, targets_of
from processing_editreward import ImageError

IGNORED = -100
"""Label of what is not learnt."""


@dataclass(frozen=True)
class Example:
    """A prompt and its answer.

    Attributes:
        ids: token ids, image placeholders and answer included.
        positions: of shape (3, tokens).
        images: in the order of the prompt.
        answer: the number of tokens of the answer, which are the last ones.
        is_number: which of them belong to a number.
    """

    ids: list[int]
    positions: Tensor
    images: tuple[ImagePatches, ...]
    answer: int
    is_number: list[bool]


class AnswerCollator:
    """Makes batches of groups.

    Args:
        writer: the model that is trained; only its tokenizer, image processor and configuration are used.
        sets: prompt sets that it learns to answer.
        answers_per_group: how many answers of a group are in a batch, drawn anew each time; None for all.
        max_pixels: of an image.
        on_bad_row: "stop" or "skip", see `EditRewardTrainingArguments`.

    A batch has `input_ids`, `attention_mask` and `labels`, (answers, longest); `position_ids`, (3, answers, longest);
    `pixel_values` and `image_grid_thw` as the model takes them; `is_number`, bool (answers, longest), tokens of the
    answers' numbers; and `skipped`, id and reason of each group that was left out, and `used`, how many were not.
    """

    def __init__(
        self,
        writer: Writer,
        sets: Sequence[PromptSet],
        answers_per_group: int | None = None,
        max_pixels: int | None = None,
        on_bad_row: str = "stop",
    ) -> None:
        config = writer.model.config
        self.sets, self.answers_per_group, self.on_bad_row = sets, answers_per_group, on_bad_row
        self.images = ImageReader(writer.image_processor, config.model_type, "upright", max_pixels)
        self.tokenizer = writer.prompt_tokenizer()
        self.end_id, self.pad_id = writer.tokenizer.eos_token_id, writer.tokenizer.pad_token_id or 0
        self.image_token_id, self.merge = config.image_token_id, config.vision_config.spatial_merge_size
        self.longest = config.get_text_config().max_position_embeddings

    def __call__(self, rows: Sequence[GroupRow]) -> dict[str, object]:
        """The batch of some groups.

        Raises:
            ValueError: a group cannot be used, and bad rows stop the run.
        """
        examples: list[Example] = []
        skipped: list[tuple[str, str]] = []
        for row in rows:
            try:
                examples += self.examples(row)
            except ValueError as error:
                if self.on_bad_row == "stop":
                    raise
                skipped.append((row_id(row), str(error)))
        used = len(rows) - len(skipped)
        if not examples:  # the step still needs something to run: a prompt of which nothing is learnt
            examples = [Example([self.end_id] * 2, torch.arange(2).expand(3, 2), (), 0, [])]
        return {**self._padded(examples), "skipped": skipped, "used": used}

    def examples(self, row: GroupRow) -> list[Example]:
        """Prompts and answers of a group, as many as are to be in a batch.

        Raises:
            ValueError: the group cannot be used, or there is nothing in it to learn; the message names it.
        """
        if isinstance(row, UnreadableRow):
            raise ValueError(row["reason"])
        name = row_name(row)
        targets = list(targets_of(row, self.sets))
        if not targets:
            asked = ", ".join(prompts.name for prompts in self.sets)
            raise ValueError(
                f"{name}: no candidate has what an answer to {asked} needs: scores in the set's dimensions and, where "
                "the answer has reasons, a rationale (`editreward rationales` writes them)."
            )
        if self.answers_per_group is not None:
            chosen = torch.randperm(len(targets))[: self.answers_per_group].tolist()
            targets = [targets[place] for place in sorted(chosen)]
        group = edit_group(row)
        if fault := group.fault:
            raise ValueError(f"{name}: {fault}")
        try:
            sources = [self.images(image, f"source[{i}]") for i, image in enumerate(group.sources)]
            shown = {
                index: self.images(group.edited[index], f"edited[{index}]")
                for index in {target.candidate for target in targets}
            }
            return [self._example(target, group.instruction, sources, shown[target.candidate]) for target in targets]
        except (ImageError, ValueError, OSError) as error:
            raise ValueError(f"{name}: {error}") from error

    def _example(
        self, target: Target, instruction: str, sources: Sequence[ImagePatches], edited: ImagePatches
    ) -> Example:
        prompt: PromptTokens = self.tokenizer(
            target.prompts, target.prompt, instruction, {"source": list(sources), "edited": [edited]}
        )
        tree = TreeBuilder([prompt], self.image_token_id, self.merge).build()
        ids, is_number = self._answer(target)
        if len(tree.ids) + len(ids) > self.longest:
            raise ValueError(
                f"{target.prompt.name} has {len(tree.ids) + len(ids)} tokens with its answer, more than the "
                f"{self.longest} of the model: lower `--max_pixels`."
            )
        behind = torch.arange(tree.next_positions[0], tree.next_positions[0] + len(ids)).expand(3, -1)
        return Example(
            tree.ids + ids, torch.cat([tree.position_ids, behind], dim=1), prompt.images, len(ids), is_number
        )

    def _answer(self, target: Target) -> tuple[list[int], list[bool]]:
        """Tokens of an answer with its end, and which of them belong to a number."""
        made = self.tokenizer.tokenizer(
            target.text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        ranges, end = [], 0
        for text, is_number in target.pieces:
            if is_number:
                ranges.append((end, end + len(text)))
            end += len(text)
        of_numbers = [any(a < high and low < b for low, high in ranges) for a, b in made["offset_mapping"]]
        return [*made["input_ids"], self.end_id], [*of_numbers, False]

    def _padded(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        size = len(examples), max(len(example.ids) for example in examples)
        batch = {
            "input_ids": torch.full(size, self.pad_id),
            "attention_mask": torch.zeros(size, dtype=torch.long),
            "labels": torch.full(size, IGNORED),
            "position_ids": torch.zeros(3, *size, dtype=torch.long),
            "is_number": torch.zeros(size, dtype=torch.bool),
        }
        for place, example in enumerate(examples):
            end = len(example.ids)
            batch["input_ids"][place, :end] = torch.tensor(example.ids)
            batch["attention_mask"][place, :end] = 1
            batch["position_ids"][:, place, :end] = example.positions
            if example.answer:
                answer = slice(end - example.answer, end)
                batch["labels"][place, answer] = batch["input_ids"][place, answer]
                batch["is_number"][place, answer] = torch.tensor(example.is_number)
        images = [image for example in examples for image in example.images]
        if images:
            batch["pixel_values"] = torch.cat([image.patches for image in images])
            batch["image_grid_thw"] = torch.tensor([image.grid for image in images])
        return batch


def without_lists(batch: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]], int]:
    """The tensors of a batch, what was left out of it, and how many groups are in it."""
    inputs = dict(batch)
    return inputs, inputs.pop("skipped", []), inputs.pop("used", 0)
