"""Attention of the engine: prompts as a tree of shared beginnings, and answers that share their prompt's cache.

Both are handed to the language model as `share`, through the arguments that transformers passes on to attention
functions. In a tree every segment attends to its path from the root and causally to itself. While answers are
written, each row is one new token of one answer: its attention to the prompt, read once for all answers to it, and
its attention to the answer so far are merged by their log-sum-exp, which is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedConfig

from modeling_editreward import masked_attention

QUERIES_AT_ONCE = 256
"""Of a segment with a path: so much of the square above the diagonal is computed for nothing."""
PADDING = 1.1
"""Prompts whose lengths differ by less than this factor lie in one tensor of the cache."""
ROOM = 64
"""Tokens of an answer that its cache grows by."""
FUSED = "_scaled_dot_product_flash_attention_for_cpu"
"""PyTorch's attention kernel for CPUs, which also gives the log-sum-exp."""

KeysAndValues: TypeAlias = tuple[Tensor, Tensor]


class Share(Protocol):
    """What computes attention with what rows share."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention in a layer: `(1, heads, tokens, head_dim)` each, keys may have fewer heads; the same of values."""
        ...


class AttentionLayer(Protocol):
    """What is read of the module that attends."""

    layer_idx: int


def shared_forward(
    module: AttentionLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    share: Share | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention as `share` has it, in the form of transformers' attention functions."""
    if share is None:
        raise ValueError("This attention belongs to the engine of generative scorers; pass `share`.")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return share.attend(module.layer_idx, query, key, value, scaling).transpose(1, 2).contiguous(), None


SHARED = "editreward_shared"
AttentionInterface.register(SHARED, shared_forward)


@dataclass(frozen=True)
class Segment:
    """Tokens of a tree that follow one another.

    Attributes:
        start, end: where they lie in the row.
        path: the ranges of the row that they attend to beside themselves, from the root on.
        mask: which of them attends to which, bool of shape (tokens, tokens); None: causally.
    """

    start: int
    end: int
    path: tuple[tuple[int, int], ...] = ()
    mask: Tensor | None = None

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """All that the last token sees where attention is causal."""
        return (*self.path, (self.start, self.end))


def parts_of(segments: Sequence[Segment], most: int) -> list[list[Segment]]:
    """Runs of segments of at most so many tokens; longer causal segments are cut.

    Args:
        segments: in the order of the row.
        most: tokens of a part; a segment with a mask may have more.
    """
    parts: list[list[Segment]] = []
    size = most
    for segment in segments:
        start, path = segment.start, segment.path
        while start < segment.end:
            if size >= most or (segment.mask is not None and size + segment.end - start > most):
                parts.append([])
                size = 0
            end = segment.end if segment.mask is not None else min(segment.end, start + most - size)
            parts[-1].append(Segment(start, end, path, segment.mask))
            size += end - start
            path, start = (*path, (start, end)), end
    return parts


def gather(rows: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
    """Ranges of the tokens of `(..., tokens, head_dim)`, one behind another."""
    pieces = [rows[..., start:end, :] for start, end in ranges]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-2)


class TreeShare:
    """Prompts with shared beginnings in one row, which the language model runs over in parts.

    Args:
        tokens: of the row.

    Attributes:
        layers: keys and values of each layer, `(heads, tokens, head_dim)`.
        part: the segments of the part that is computed now, one behind another; those that they attend to came before.
    """

    def __init__(self, tokens: int) -> None:
        self.layers: dict[int, KeysAndValues] = {}
        self.part: Sequence[Segment] = ()
        self._tokens = tokens
        self._masks: dict[tuple[int, int], Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if layer not in self.layers:
            shape = key.shape[1], self._tokens, key.shape[3]
            self.layers[layer] = key.new_empty(shape), value.new_empty(shape)
        start, end = self.part[0].start, self.part[-1].end
        for store, new in zip(self.layers[layer], (key, value), strict=True):
            store[:, start:end] = new[0]
        output = torch.empty_like(query)
        for segment in self.part:
            here = slice(segment.start - start, segment.end - start)
            if segment.mask is None and has_fused(query):
                output[:, :, here] = self._fused(segment, query[:, :, here], layer, scaling)
                continue
            keys, values = (gather(store, segment.ranges).unsqueeze(0) for store in self.layers[layer])
            output[:, :, here] = self._segment(segment, query[:, :, here], keys, values, scaling)
        return output

    def _fused(self, segment: Segment, query: Tensor, layer: int, scaling: float) -> Tensor:
        """Causal attention of a segment to itself, merged with that to its path, in which nothing is masked."""
        own = [store[None, :, segment.start : segment.end] for store in self.layers[layer]]
        shared = query.shape[1] // own[0].shape[1]
        key, value = (x.repeat_interleave(shared, dim=1) for x in own)
        output, total = fused(query, key, value, scaling, is_causal=True)
        if not segment.path:
            return output
        key, value = (gather(store, segment.path)[None] for store in self.layers[layer])
        # Queries that share a key head lie one behind another: its keys are not copied.
        folded = query.reshape(1, key.shape[1], -1, query.shape[-1])
        before, weight = fused(folded, key, value, scaling)
        share = (weight.reshape(total.shape) - total).sigmoid().unsqueeze(-1)
        return output.lerp(before.reshape(output.shape), share)

    def _segment(self, segment: Segment, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        before = key.shape[2] - query.shape[2]
        if segment.mask is not None:
            mask = F.pad(segment.mask, (before, 0), value=True)
            return masked_attention(query, key, value, mask, scaling)
        if not before and query.dtype.itemsize > 2:  # of a GPU
            key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        pieces = []
        for start in range(0, query.shape[2], QUERIES_AT_ONCE):
            piece = query[:, :, start : start + QUERIES_AT_ONCE]
            end = before + start + piece.shape[2]
            mask = self._causal(piece.shape[2], end, query.device)
            pieces.append(masked_attention(piece, key[:, :, :end], value[:, :, :end], mask, scaling))
        return torch.cat(pieces, dim=2)

    def _causal(self, queries: int, keys: int, device: torch.device) -> Tensor:
        if (queries, keys) not in self._masks:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
            self._masks[queries, keys] = mask
        return self._masks[queries, keys]


def weighted(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> KeysAndValues:
    """Attention and its log-sum-exp: `(..., queries, head_dim)` and `(..., queries)`, both in float32 or wider."""
    if has_fused(query):
        return fused(query, key, value, scaling, mask)
    logits = (query * scaling) @ key.transpose(-1, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if mask is not None:
        logits = logits + mask
    total = logits.logsumexp(-1)
    return ((logits - total.unsqueeze(-1)).exp().to(value.dtype) @ value).to(logits.dtype), total


def has_fused(query: Tensor) -> bool:
    """Whether `fused` is there, and faster than plain products."""
    return query.device.type == "cpu" and query.dtype == torch.float32 and hasattr(torch.ops.aten, FUSED)


def fused(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None = None, is_causal: bool = False
) -> KeysAndValues:
    """As `weighted`, by PyTorch's own kernel, of `(batch, heads, tokens, head_dim)` with as many heads each."""
    kernel = getattr(torch.ops.aten, FUSED)
    output, total = kernel(query, key, value, 0.0, is_causal, attn_mask=mask, scale=scaling)
    return output, total


@dataclass
class PrefixBlock:
    """Caches of prompts of about the same length, and the rows that answer them.

    Attributes:
        layers: keys and values, each `(prompts, heads, longest, head_dim)`.
        mask: added to the logits, `(prompts, 1, 1, longest)`; None where all are of the same length.
        counts: rows that each prompt has, one prompt's after another's.
    """

    layers: list[KeysAndValues]
    mask: Tensor | None
    counts: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, caches: Sequence[Sequence[KeysAndValues]], counts: Sequence[int]) -> "PrefixBlock":
        """Join caches, each a list of layers of `(heads, tokens, head_dim)`."""
        lengths = [cache[0][0].shape[1] for cache in caches]
        longest = max(lengths)

        def joined(layer: int, which: int) -> Tensor:
            if len(caches) == 1:
                return caches[0][layer][which].unsqueeze(0)
            return torch.stack([F.pad(c[layer][which], (0, 0, 0, longest - c[layer][which].shape[1])) for c in caches])

        layers = [(joined(layer, 0), joined(layer, 1)) for layer in range(len(caches[0]))]
        mask = None
        if min(lengths) < longest:
            device = layers[0][0].device
            beyond = torch.arange(longest, device=device) >= torch.tensor(lengths, device=device)[:, None]
            mask = torch.zeros(beyond.shape, device=device).masked_fill(beyond, -torch.inf)[:, None, None]
        return cls(layers, mask, list(counts))

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def attend(self, layer: int, query: Tensor, scaling: float) -> KeysAndValues:
        """Attention of the block's rows, `(rows, key heads, queries a key head, head_dim)`, and its log-sum-exp."""
        width, prompts = max(self.counts), len(self.counts)
        slots = None
        if min(self.counts) < width:
            slots = torch.cat([torch.arange(count) + i * width for i, count in enumerate(self.counts)])
            slots = slots.to(query.device)
            query = query.new_zeros(prompts * width, *query.shape[1:]).index_copy(0, slots, query)
        heads, queries, size = query.shape[1:]
        query = query.view(prompts, width, heads, queries, size).transpose(1, 2).flatten(2, 3)
        key, value = self.layers[layer]
        output, total = weighted(query, key, value, self.mask, scaling)
        output = output.view(prompts, heads, width, queries, size).transpose(1, 2).flatten(0, 1)
        total = total.view(prompts, heads, width, queries).transpose(1, 2).flatten(0, 1)
        return (output, total) if slots is None else (output[slots], total[slots])

    def keep(self, kept: Sequence[bool]) -> "PrefixBlock | None":
        """The block with some of its rows; None without any. Caches of prompts go once half of them have no rows."""
        counts, start = [], 0
        for count in self.counts:
            counts.append(sum(kept[start : start + count]))
            start += count
        alive = [i for i, count in enumerate(counts) if count]
        if not alive:
            return None
        if 2 * len(alive) > len(counts):
            return PrefixBlock(self.layers, self.mask, counts)
        layers = [(key[alive], value[alive]) for key, value in self.layers]
        mask = None if self.mask is None else self.mask[alive]
        return PrefixBlock(layers, mask, [counts[i] for i in alive])


class AnswerShare:
    """One new token of each of several answers, which share the caches of their prompts.

    Args:
        blocks: the prompts; rows are numbered through them.
        layers: of the language model.
    """

    def __init__(self, blocks: Sequence[PrefixBlock], layers: int) -> None:
        self.blocks = list(blocks)
        self.length = 0
        self._caches: list[KeysAndValues | None] = [None] * layers

    def advance(self) -> None:
        """A token of each answer has gone through all layers."""
        self.length += 1

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        heads, size = key.shape[1], query.shape[-1]
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # (rows, heads, head_dim)
        query = query.reshape(len(query), heads, -1, size)
        keys, values = self._store(layer, key, value)
        output, total = weighted(query, keys, values, None, scaling)
        start, parts = 0, []
        for block in self.blocks:
            parts.append(block.attend(layer, query[start : start + block.rows], scaling))
            start += block.rows
        before, weight = (torch.cat(part) for part in zip(*parts, strict=True))
        share = (weight - total).sigmoid().unsqueeze(-1)  # of the prompt in the sum of exponentials
        return output.lerp(before, share).flatten(1, 2).to(query.dtype).transpose(0, 1).unsqueeze(0)

    def _store(self, layer: int, key: Tensor, value: Tensor) -> KeysAndValues:
        """Add the new token; all keys and values of the answers, `(rows, heads, tokens, head_dim)`."""
        cache = self._caches[layer]
        if cache is None or cache[0].shape[2] == self.length:
            room = key.new_empty(*key.shape[:2], ROOM, key.shape[2])
            cache = (room, room.clone()) if cache is None else tuple(torch.cat([x, room], dim=2) for x in cache)  # type: ignore[assignment]
            self._caches[layer] = cache
        assert cache is not None
        for store, new in zip(cache, (key, value), strict=True):
            store[:, :, self.length] = new
        return cache[0][:, :, : self.length + 1], cache[1][:, :, : self.length + 1]

    def keep(self, kept: Sequence[bool]) -> None:
        """Go on with some of the rows."""
        start, blocks = 0, []
        for block in self.blocks:
            blocks.append(block.keep(kept[start : start + block.rows]))
            start += block.rows
        self.blocks = [block for block in blocks if block is not None]
        for layer, cache in enumerate(self._caches):
            if cache is not None:
                index = torch.tensor(kept, device=cache[0].device).nonzero().squeeze(-1)
                self._caches[layer] = cache[0][index], cache[1][index]


def blocks_of(caches: Sequence[Sequence[KeysAndValues]], counts: Sequence[int]) -> tuple[list[PrefixBlock], list[int]]:
    """Blocks of prompts of about the same length.

    Args:
        caches: of each prompt.
        counts: rows that each prompt has.

    Returns:
        The blocks, and the prompts in the order in which they hold them.
    """
    lengths = [cache[0][0].shape[1] for cache in caches]
    order = sorted(range(len(caches)), key=lambda index: lengths[index])
    runs: list[list[int]] = []
    for index in order:
        if not runs or lengths[index] > PADDING * lengths[runs[-1][0]]:
            runs.append([])
        runs[-1].append(index)
    blocks = [PrefixBlock.of([caches[i] for i in run], [counts[i] for i in run]) for run in runs]
    return blocks, order


def use_shared_attention(model: nn.Module) -> None:
    """Give a vision-language model's two parts the attention of this module and of the reward model's tower."""
    from modeling_editreward import PACKED_VISION

    config: PreTrainedConfig = model.config
    config.get_text_config()._attn_implementation_internal = SHARED
    config.vision_config._attn_implementation_internal = PACKED_VISION
