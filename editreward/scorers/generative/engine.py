"""The engine: images encoded once, prompts computed once, all answers written together."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from editreward.scorers.generative.attention import (
    AnswerShare,
    KeysAndValues,
    Segment,
    TreeShare,
    blocks_of,
    gather,
    parts_of,
    use_shared_attention,
)
from editreward.scorers.generative.images import ImagePatches
from editreward.scorers.generative.lean import LeanModules
from editreward.scorers.generative.packed import PackedLinears
from editreward.scorers.generative.sampling import Sampling
from editreward.scorers.generative.tokens import PromptTokens, TokenTree, TreeBuilder

DEFAULT_BATCH_TOKENS = {"cpu": 16384, "gpu": 65536}
"""Tokens of prompts and answers that are held at once, by kind of device."""
PASS_TOKENS = {"cpu": 2048, "gpu": 16384}
"""Tokens of one pass through the language model: on a CPU what is larger has the system find new memory each time."""
PASS_PATCHES = {"cpu": 1024, "gpu": 65536}
"""Patches of one pass through the vision tower; an image is not cut. See `PASS_TOKENS`."""


@dataclass
class Counts:
    """What the engine has done."""

    images: int = 0
    patches: int = 0
    prefill_tokens: int = 0
    steps: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True)
class Computed:
    """A prompt after its pass through the language model.

    Attributes:
        layers: keys and values of each layer, `(heads, tokens, head_dim)`.
        hidden: of its last token, `(hidden_size,)`.
        next_position: of the answer's first token.
        seen: its token ids, for a repetition penalty.
    """

    layers: list[KeysAndValues]
    hidden: Tensor
    next_position: int
    seen: frozenset[int]


@dataclass(frozen=True)
class Request:
    """An answer that is wanted.

    Attributes:
        prompt: number of its prompt.
        seed: what its draws depend on; see `random_numbers`.
    """

    prompt: int
    seed: str = ""


@dataclass
class Answer:
    """An answer.

    Attributes:
        ids: its tokens, without the one that ends it.
        is_whole: the model ended it, or its end was seen; otherwise the token limit cut it.
    """

    ids: list[int] = field(default_factory=list)
    is_whole: bool = False


@dataclass(frozen=True)
class Continuation:
    """Tokens behind a prompt, which may stand for several texts.

    Attributes:
        ids: the tokens.
        depths: how many tokens lie between each and the prompt.
        mask: which of them attends to which, bool `(tokens, tokens)`; the prompt they all see.
    """

    ids: list[int]
    depths: list[int]
    mask: Tensor

    @classmethod
    def of_text(cls, ids: Sequence[int]) -> "Continuation":
        """A single text."""
        count = len(ids)
        return cls(list(ids), list(range(count)), torch.ones(count, count, dtype=torch.bool).tril())


def random_numbers(seed: str) -> np.random.Generator:
    """A stream of random numbers that depends on a text alone, not on device, batch or order."""
    return np.random.Generator(np.random.Philox(key=int(hashlib.sha256(seed.encode()).hexdigest()[:32], 16)))


class Engine:
    """A vision-language model that reads and writes in batches.

    Args:
        model: a transformers model with `model.visual`, `model.language_model` and `lm_head`: Qwen2.5-VL, Qwen3-VL.
        end_ids: tokens that end an answer.
        max_batch_tokens: see `DEFAULT_BATCH_TOKENS`. A single longer prompt is a batch of its own.
    """

    def __init__(self, model: PreTrainedModel, end_ids: Sequence[int], max_batch_tokens: int | None = None) -> None:
        self.model = model.eval()
        use_shared_attention(model)
        self.end_ids = frozenset(end_ids)
        kind = "cpu" if model.device.type == "cpu" else "gpu"
        self.max_batch_tokens = max_batch_tokens or DEFAULT_BATCH_TOKENS[kind]
        self.pass_tokens, self.pass_patches = PASS_TOKENS[kind], PASS_PATCHES[kind]
        self.counts = Counts()
        self.packed, self.lean = PackedLinears([model.model.language_model, model.lm_head]), LeanModules(model)

    @torch.no_grad()
    def encode(self, images: Sequence[ImagePatches], known: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Features of images by their keys, equal ones once.

        Args:
            images: any number.
            known: features that are there already; new ones are added to it.

        Returns:
            For each key `(1 + layers, tokens, hidden_size)`: the visual tokens, and what Qwen3-VL adds to them later.
        """
        features = {} if known is None else known
        new = {image.key: image for image in images if image.key not in features}
        batch: list[ImagePatches] = []
        for image in new.values():
            if batch and sum(len(one.patches) for one in (*batch, image)) > self.pass_patches:
                features |= self._encode(batch)
                batch = []
            batch.append(image)
        if batch:
            features |= self._encode(batch)
        return features

    def _encode(self, images: Sequence[ImagePatches]) -> dict[str, Tensor]:
        """Features of different images, in one pass."""
        patches = torch.cat([image.patches for image in images]).to(self.model.device)
        grids = torch.tensor([image.grid for image in images], device=self.model.device)
        with self.lean.used():
            output = self.model.model.get_image_features(patches, grids, return_dict=True)
        sizes = [image.tokens for image in images]
        layers = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        by_image = [layer.split(sizes) if isinstance(layer, Tensor) else layer for layer in layers]
        self.counts.images += len(images)
        self.counts.patches += len(patches)
        found = (torch.stack(one) for one in zip(*by_image, strict=True))
        return {image.key: one for image, one in zip(images, found, strict=True)}

    @torch.no_grad()
    def read(self, prompts: Sequence[PromptTokens], features: dict[str, Tensor] | None = None) -> list[Computed]:
        """Run the language model over prompts, what they begin with in common once.

        Args:
            prompts: all different.
            features: of their images, where they are known.
        """
        features = self.encode([image for prompt in prompts for image in prompt.images], features)
        tree = self._tree(prompts)
        share, hidden = self._run(tree, tree.segments, features)
        computed = []
        for prompt, path, position in zip(prompts, tree.paths, tree.next_positions, strict=True):
            layers = [
                (gather(key, path), gather(value, path))
                for key, value in (share.layers[i] for i in sorted(share.layers))
            ]
            seen = frozenset(prompt.ids(self.model.config.image_token_id))
            computed.append(Computed(layers, hidden[path[-1][1] - 1], position, seen))
        return computed

    @torch.no_grad()
    def follow(
        self,
        prompts: Sequence[PromptTokens],
        continuations: Sequence[Continuation],
        features: dict[str, Tensor] | None = None,
    ) -> list[Tensor]:
        """Run the language model over prompts and what may follow each, all in one pass.

        Args:
            prompts: all different.
            continuations: for each prompt.
            features: of their images, where they are known.

        Returns:
            For each prompt the hidden states of its last token and of its continuation's, `(1 + tokens, hidden_size)`.
        """
        features = self.encode([image for prompt in prompts for image in prompt.images], features)
        tree = self._tree(prompts)
        segments, starts = list(tree.segments), []
        for path, behind, one in zip(tree.paths, tree.next_positions, continuations, strict=True):
            start = len(tree.ids)
            starts.append((path[-1][1] - 1, start))
            tree.ids += one.ids
            places = behind + np.array(one.depths, dtype=np.int64)
            tree.positions.append(np.broadcast_to(places, (3, len(places))))
            segments.append(Segment(start, len(tree.ids), path, one.mask.to(self.model.device)))
        _, hidden = self._run(tree, segments, features)
        ends = (start + len(one.ids) for (_, start), one in zip(starts, continuations, strict=True))
        return [
            torch.cat([hidden[last : last + 1], hidden[start:end]])
            for (last, start), end in zip(starts, ends, strict=True)
        ]

    def _tree(self, prompts: Sequence[PromptTokens]) -> TokenTree:
        config = self.model.config
        return TreeBuilder(prompts, config.image_token_id, config.vision_config.spatial_merge_size).build()

    def _run(
        self, tree: TokenTree, segments: Sequence[Segment], features: dict[str, Tensor]
    ) -> tuple[TreeShare, Tensor]:
        """Caches of a row, and its hidden states, `(tokens, hidden_size)`."""
        device, share = self.model.device, TreeShare(len(tree.ids))
        ids = torch.tensor([tree.ids], device=device)
        embeds = self.model.get_input_embeddings()(ids)
        positions, is_visual = tree.position_ids.to(device)[:, None], torch.zeros_like(ids, dtype=torch.bool)
        deepstack: list[Tensor] = []
        if tree.images:
            places = torch.cat([torch.arange(place, place + image.tokens) for place, image in tree.images]).to(device)
            shown, *layers = torch.cat([features[image.key] for _, image in tree.images], dim=1)
            embeds[0, places], is_visual[0, places] = shown.to(embeds.dtype), True
            deepstack = [layer[places.argsort()] for layer in layers]
        hidden = []
        for share.part in parts_of(segments, self.pass_tokens):
            here = slice(share.part[0].start, share.part[-1].end)
            visual: dict[str, Tensor | list[Tensor]] = {}
            if deepstack:
                before, count = int(is_visual[:, : here.start].sum()), int(is_visual[:, here].sum())
                shown_here = [layer[before : before + count] for layer in deepstack]
                visual = {"visual_pos_masks": is_visual[:, here], "deepstack_visual_embeds": shown_here}
            with self.lean.used():
                hidden.append(self._language_model(embeds[:, here], positions[:, :, here], share, **visual))
        self.counts.prefill_tokens += len(tree.ids)
        return share, torch.cat(hidden)

    def _language_model(
        self, embeds: Tensor, positions: Tensor, share: object, **visual: Tensor | list[Tensor]
    ) -> Tensor:
        output = self.model.model.language_model(
            inputs_embeds=embeds, attention_mask=None, position_ids=positions, use_cache=False, share=share, **visual
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits in float32 or wider of hidden states, `(tokens, hidden_size)` to `(tokens, vocabulary)`."""
        found: Tensor = self.model.lm_head(hidden)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    @torch.no_grad()
    def write(
        self,
        prompts: Sequence[Computed],
        requests: Sequence[Request],
        sampling: Sampling,
        max_new_tokens: int,
        is_over: Callable[[int, list[int]], bool] | None = None,
    ) -> list[Answer]:
        """Write answers, all together; those that are over leave the batch.

        Args:
            prompts: what `read` returned.
            requests: which answers.
            sampling: how tokens are chosen.
            max_new_tokens: of an answer.
            is_over: tells from the number of a request and the tokens of its answer whether that is whole.

        Returns:
            An answer for each request, in order.
        """
        counts = [sum(request.prompt == number for request in requests) for number in range(len(prompts))]
        asked = [number for number, count in enumerate(counts) if count]
        blocks, order = blocks_of([prompts[i].layers for i in asked], [counts[i] for i in asked])
        rows = [row for i in order for row, request in enumerate(requests) if request.prompt == asked[i]]
        share = AnswerShare(blocks, len(prompts[asked[0]].layers))
        batch = _Batch(
            self, [prompts[requests[row].prompt] for row in rows], [requests[row] for row in rows], sampling
        )
        answers = [Answer() for _ in requests]
        with self.packed.used(), self.lean.used():
            first = self.logits(torch.stack([prompts[i].hidden for i in asked]))
            first = first[[asked.index(requests[row].prompt) for row in rows]]
            self._write(batch, share, rows, answers, first, max_new_tokens, is_over)
        return answers

    def _write(
        self,
        batch: "_Batch",
        share: AnswerShare,
        numbers: list[int],
        answers: list[Answer],
        logits: Tensor,
        max_new_tokens: int,
        is_over: Callable[[int, list[int]], bool] | None,
    ) -> None:
        """Fill the answers, of whose first tokens these are the logits; `numbers` are the rows' answers."""
        for step in range(max_new_tokens):
            tokens = batch.choose(logits)
            kept = []
            for row, token in zip(numbers, tokens, strict=True):
                answer = answers[row]
                answer.is_whole = token in self.end_ids
                if not answer.is_whole:
                    answer.ids.append(token)
                    answer.is_whole = is_over is not None and is_over(row, answer.ids)
                kept.append(not answer.is_whole)
            self.counts.answer_tokens += len(tokens)
            if not any(kept) or step == max_new_tokens - 1:
                break
            if not all(kept):
                numbers = [row for row, stays in zip(numbers, kept, strict=True) if stays]
                tokens = [token for token, stays in zip(tokens, kept, strict=True) if stays]
                share.keep(kept)
                batch.keep(kept)
            logits = self.logits(self._step(tokens, batch.positions(), share))

    def _step(self, tokens: Sequence[int], positions: Tensor, share: AnswerShare) -> Tensor:
        """Hidden states of a new token of each row."""
        ids = torch.tensor([tokens], device=self.model.device)
        embeds = self.model.get_input_embeddings()(ids)
        hidden = self._language_model(embeds, positions.expand(3, 1, -1), share)
        share.advance()
        self.counts.steps += 1
        return hidden


class _Batch:
    """What goes with the rows of a batch of answers beside their caches."""

    def __init__(
        self, engine: Engine, prompts: Sequence[Computed], requests: Sequence[Request], sampling: Sampling
    ) -> None:
        self.sampling, self.device = sampling, engine.model.device
        self.random = [None if sampling.is_greedy else random_numbers(request.seed) for request in requests]
        self.next = [prompt.next_position for prompt in prompts]
        self.seen = [set(prompt.seen) for prompt in prompts] if sampling.repetition_penalty != 1 else None

    def choose(self, logits: Tensor) -> list[int]:
        """The next token of each row."""
        draws = [0.0 if random is None else float(random.random()) for random in self.random]
        tokens = self.sampling.choose(logits, draws, self.seen)
        if self.seen is not None:
            for seen, token in zip(self.seen, tokens, strict=True):
                seen.add(token)
        return tokens

    def positions(self) -> Tensor:
        """Of the tokens that were chosen last, `(rows,)`."""
        found = torch.tensor(self.next, device=self.device)
        self.next = [position + 1 for position in self.next]
        return found

    def keep(self, kept: Sequence[bool]) -> None:
        """Go on with some of the rows."""
        for name in ("random", "next", "seen"):
            values = getattr(self, name)
            if values is not None:
                setattr(self, name, [value for value, stays in zip(values, kept, strict=True) if stays])
