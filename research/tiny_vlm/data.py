"""Batches of simulated groups: images as patches, instructions and answers as packed trees, and the dense targets."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from editreward.data.stresses import stressed_group
from editreward.simulation import SimulatedGroup, simulate_group
from editreward.simulation.captions import KINDS, RUBRICS, Target, caption, judgements, user_turn
from editreward.simulation.grounding import request_values, vocabulary_of
from editreward.simulation.groups import simulate_instruction
from editreward.simulation.instructions import COLLAGE_CATEGORIES
from editreward.simulation.near_misses import ALL_NEAR_MISSES, Weights
from editreward.training.dense import dense_targets
from research.tiny_vlm.arguments import DataArguments, ModelArguments
from research.tiny_vlm.by_error import ErrorShares
from research.tiny_vlm.distributed import rank_and_ranks
from research.tiny_vlm.images import to_patches
from research.tiny_vlm.packing import NO_KIND, Segment, collate, pack
from research.tiny_vlm.seeing import SceneBank, draw, seeing_batch

READING_SEEDS = 100_000_000
"""Seed of the first group of which only the source is shown, beside others."""

INSTRUCTION_SEEDS = 200_000_000
"""Seed of the first group of which only the instruction is shown."""

READING_RUBRIC_WEIGHTS = (1, 12, 2, 1)
COMPARING_RUBRIC_WEIGHTS = (3, 5, 1, 1)
"""Of `RUBRICS`, without and with candidates: the first one, the reward model's, costs as much as two candidates."""


@dataclass
class Prompt:
    """The token ids of a group's prompt: up to the source image, from there to an edited one, and from there on.

    `closing` ends the user turn right after the source and opens the assistant's.
    """

    before: list[int]
    close: list[int]
    reopen: list[int]
    after: list[int]
    closing: str


class GroupEncoder:
    """Makes the tree of segments of a group, with the markup of the chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, model_args: ModelArguments, args: DataArguments) -> None:
        self.tokenizer, self.args = tokenizer, args
        self.image = [tokenizer.convert_tokens_to_ids("<|image_pad|>")] * model_args.side**2
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def rubric(self, rng: Random) -> str:
        """A rubric for all groups of a batch: those with a shorter one would be padded."""
        return rng.choices(RUBRICS, READING_RUBRIC_WEIGHTS if self.args.candidates == 0 else COMPARING_RUBRIC_WEIGHTS)[
            0
        ]

    def __call__(self, group: SimulatedGroup, rubric: str, rng: Random) -> list[Segment]:
        """Source, its caption, then every candidate, `judged` of them with judgements, some with a caption."""
        prompt = self._prompt(rubric, group.instruction)
        segments = [self._given(None, prompt.before + self.image + prompt.close)]
        if rng.random() < self.args.source_captions:
            segments.append(self._answer(0, caption(group.scene), opening=prompt.closing))
        numbers = range(len(group.candidates))
        captioned = set(rng.sample(numbers, min(self.args.edited_captions, len(numbers))))
        in_words = set(rng.sample(numbers, min(self.args.judged, len(numbers))))
        for index, candidate in enumerate(group.candidates):
            node = len(segments)
            answers = index in in_words or index in captioned
            segments.append(self._given(0, prompt.reopen + self.image + (prompt.after if answers else []), index))
            scores = {
                "verdict": candidate.scores["instruction_following"],
                "quality": candidate.scores["visual_quality"],
            }
            for target in judgements(candidate) if index in in_words else ():
                segments.append(self._answer(node, target, candidate=index, score=scores.get(target.kind)))
            if index in captioned:
                segments.append(self._answer(node, caption(candidate.scene), candidate=index))
        return segments

    def before_source(self, rubric: str, instruction: str) -> list[int]:
        """The tokens of a prompt up to its source image."""
        return self._prompt(rubric, instruction).before

    def _prompt(self, rubric: str, instruction: str) -> Prompt:
        before_source, before_edited = user_turn(rubric, instruction)
        content = [
            {"type": "text", "text": before_source},
            {"type": "image"},
            {"type": "text", "text": before_edited},
            {"type": "image"},
        ]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        before, between, after = text.split("<|image_pad|>")
        reopen = before_edited + "<|vision_start|>"
        return Prompt(
            before=self._encode(before),
            close=self._encode(between.removesuffix(reopen)),
            reopen=self._encode(reopen),
            after=self._encode(after),
            closing=after[after.index("<|im_end|>") :],
        )

    def _encode(self, string: str) -> list[int]:
        return list(self.tokenizer.encode(string, add_special_tokens=False))

    def _given(self, parent: int | None, ids: list[int], candidate: int | None = None) -> Segment:
        return Segment(parent, ids, [NO_KIND] * len(ids), candidate)

    def _answer(
        self, parent: int, target: Target, opening: str = "", candidate: int | None = None, score: float | None = None
    ) -> Segment:
        cue, text = self._encode(opening + target.cue), self._encode(target.text) + [self.end]
        kinds = [NO_KIND] * len(cue) + [KINDS.index(target.kind)] * len(text)
        return Segment(parent, cue + text, kinds, candidate, score)


def instruction_batch(
    seeds: range, tokenizer: PreTrainedTokenizerFast, model_args: ModelArguments, args: DataArguments
) -> dict[str, torch.Tensor]:
    """Instructions of training groups as branches of one tree, behind one rubric; no images.

    Returns:
        The tensors of `collate`, without patches; `ends` (instructions,), the position before the source image in the
        only row; `request` (instructions, parts) as `dense_targets` gives it.
    """
    encoder, vocabulary = GroupEncoder(tokenizer, model_args, args), vocabulary_of(tuple(args.worlds))
    rubric = encoder.rubric(Random(seeds[0]))
    drawn = [simulate_instruction(seed, "train", args.worlds[seed % len(args.worlds)]) for seed in seeds]
    prompts = [encoder.before_source(rubric, instruction) for _, instruction in drawn]
    shared = len(os.path.commonprefix(prompts))
    segments = [Segment(None, prompts[0][:shared], [NO_KIND] * shared)]
    segments += [Segment(0, ids[shared:], [NO_KIND] * (len(ids) - shared)) for ids in prompts]
    packed = pack(segments, encoder.image[0], model_args.side)
    made = collate([packed], [np.zeros((0, 3 * model_args.patch_size**2), dtype=np.uint8)])
    made["ends"] = torch.tensor([len(segment.input_ids) for segment in segments]).cumsum(0)[1:] - 1
    made["request"] = torch.from_numpy(np.stack([request_values(task, vocabulary) for task, _ in drawn]))
    return made


def simulate(
    seed: int, split: str, model_args: ModelArguments, args: DataArguments, weights: Weights | None = None
) -> SimulatedGroup:
    """The group of a seed, with as many candidates as asked for, none included."""
    group = simulate_group(
        seed,
        split,
        candidates=max(1, args.candidates),
        size=model_args.image_size,
        near_misses=args.near_misses,
        near_miss_weights=weights if args.near_misses else None,
        world=args.worlds[seed % len(args.worlds)],
        enlarged=args.enlarged,
    )
    rng = Random(f"stress {seed}")
    if split == "train" and rng.random() < args.stresses:
        group = stressed_group(group, rng, graded=False)
    return replace(group, candidates=group.candidates[: args.candidates])


def make_batch(
    seeds: range,
    split: str,
    tokenizer: PreTrainedTokenizerFast,
    model_args: ModelArguments,
    args: DataArguments,
    weights: Weights | None = None,
) -> dict[str, Any]:
    """Simulate, encode and pack the groups of `seeds`.

    Returns the tensors of `collate`, `patches` among them; those of `dense_targets`;
    `following`, the score, and `missed`, the index in `ALL_NEAR_MISSES` or -1, both (groups, candidates); `category`,
    the index in `COLLAGE_CATEGORIES`, (groups,).
    """
    groups = [simulate(seed, split, model_args, args, weights) for seed in seeds]
    return batch_of(groups, list(seeds), tokenizer, model_args, args)


def batch_of(
    groups: list[SimulatedGroup],
    seeds: list[int],
    tokenizer: PreTrainedTokenizerFast,
    model_args: ModelArguments,
    args: DataArguments,
) -> dict[str, Any]:
    """The batch of these groups; the seeds choose rubrics and what is asked for in words."""
    side = model_args.side
    encoder = GroupEncoder(tokenizer, model_args, args)
    image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    rubric = encoder.rubric(Random(seeds[0]))
    packs = [
        pack(encoder(group, rubric, Random(seed)), image_token_id, side)
        for group, seed in zip(groups, seeds, strict=True)
    ]
    images = [[group.source, *(candidate.image for candidate in group.candidates)] for group in groups]
    patches = [to_patches(of_group, model_args.patch_size, model_args.merge_size) for of_group in images]
    return {
        **collate(packs, patches),
        **dense_targets(groups, side, vocabulary_of(tuple(args.worlds))),
        "following": torch.tensor(
            [[candidate.scores["instruction_following"] for candidate in group.candidates] for group in groups]
        ),
        "missed": torch.tensor(
            [
                [tuple(ALL_NEAR_MISSES).index(c.missed) if c.missed else -1 for c in group.candidates]
                for group in groups
            ]
        ),
        "category": torch.tensor([COLLAGE_CATEGORIES.index(group.category) for group in groups]),
    }


class SimulatedBatches(IterableDataset):
    """An endless stream of training batches. Batch `step` holds the same groups and new scenes whenever it is asked
    for, unless errors choose them; which scenes are shown again depends on where the stream began."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        model_args: ModelArguments,
        args: DataArguments,
        first_step: int,
        seed: int,
        errors: ErrorShares | None = None,
    ) -> None:
        self.errors = errors
        self.tokenizer, self.model_args, self.args = tokenizer, model_args, args
        self.first_step, self.seed = first_step, seed
        self.rank, self.ranks = rank_and_ranks()

    def _batch(self, step: int, args: DataArguments, offset: int = 0) -> dict[str, Any]:
        first = offset + self.seed + (step * self.ranks + self.rank) * args.groups
        seeds = range(first, first + args.groups)
        weights = None if self.errors is None else self.errors.weights()
        return make_batch(seeds, "train", self.tokenizer, self.model_args, args, weights)

    def _scenes(self, step: int, bank: SceneBank) -> dict[str, torch.Tensor]:
        """New pictures, and some that were shown before."""
        args, new = self.args, max(1, self.args.scenes - round(self.args.scenes_again * self.args.scenes))
        first = self.seed + (step * self.ranks + self.rank) * new
        size, side = self.model_args.image_size, self.model_args.side
        drawn = [
            draw(seed, args.worlds, size, side, vocabulary_of(tuple(args.worlds)))
            for seed in range(first, first + new)
        ]
        for seen in drawn:
            bank.add(seen)
        return seeing_batch(drawn + bank.again(args.scenes - new), self.model_args.patch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        step = self.first_step + (info.id if info else 0)
        bank = SceneBank(self.args.scenes_kept, step)
        while True:
            batch = self._batch(step, self.args) if self.args.groups else {}
            if self.args.reading_groups:
                reading = replace(self.args, groups=self.args.reading_groups, candidates=0, source_captions=0)
                batch["reading"] = self._batch(step, reading, READING_SEEDS)
            if self.args.instructions:
                first = INSTRUCTION_SEEDS + self.seed + (step * self.ranks + self.rank) * self.args.instructions
                seeds = range(first, first + self.args.instructions)
                batch["instructions"] = instruction_batch(seeds, self.tokenizer, self.model_args, self.args)
            if self.args.scenes:
                batch["scenes"] = self._scenes(step, bank)
            yield batch
            step += info.num_workers if info else 1
