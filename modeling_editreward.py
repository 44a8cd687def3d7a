"""EditReward model: a vision-language backbone with Gaussian reward heads, over packed edit groups."""

import copy
import dataclasses
import itertools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import (
    AttentionInterface,
    AutoModel,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.utils import ModelOutput, find_adapter_config_file

try:
    from .configuration_editreward import (
        HUB_ARGUMENTS,
        EditRewardConfig,
        check_choice,
        load_tokenizer,
        reward_tokens,
    )
except ImportError:  # Installed beside the `editreward` package, these files are top-level modules.
    from configuration_editreward import (
        HUB_ARGUMENTS,
        EditRewardConfig,
        check_choice,
        load_tokenizer,
        reward_tokens,
    )


def tree_flex_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: BlockMask,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Flex attention under a ready block mask, in the form of transformers' attention functions."""
    if query.device.type != "cpu":
        return flex_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    # The compiled CPU kernel has no backward pass, and torch 2.13 fails to build it for changing shapes.
    output = flex_attention(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True)
    return output.transpose(1, 2).contiguous(), None


CACHED_LOGITS = 2**20
"""Attention logits that a CPU core's cache holds, roughly."""


def masked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Dot-product attention of `(batch, heads, tokens, head_dim)` under a bool mask; keys may have fewer heads."""
    if key.shape[1] != query.shape[1]:
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
    on_cpu = query.device.type == "cpu"
    dtype = torch.get_autocast_dtype("cpu") if on_cpu and torch.is_autocast_enabled("cpu") else query.dtype
    if not on_cpu or dtype.itemsize > 2:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    # In half precision the fused CPU kernel takes twice as long as plain products, its backward pass up to five times.
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):
        return plain_attention((query * scaling).to(dtype), key.to(dtype), value.to(dtype), mask)


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention by plain products, of so many rows and heads at once that the logits stay in the cache."""
    rows, heads = query.shape[:2]
    at_once = max(1, CACHED_LOGITS // (query.shape[2] * key.shape[2]))  # heads of all rows
    if rows * heads > at_once:
        dim, size = (0, max(1, at_once // heads)) if rows > 1 else (1, at_once)
        queries, keys, values = (x.split(size, dim) for x in (query, key, value))
        masks = mask.split(size) if mask is not None and dim == 0 else [mask] * len(keys)
        pieces = zip(queries, keys, values, masks, strict=True)
        return torch.cat([plain_attention(*piece) for piece in pieces], dim)
    logits = query @ key.transpose(-1, -2)
    if mask is not None:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return logits.softmax(-1) @ value


def tree_blocks_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    tree_blocks: "TreeBlocks | None" = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Tree attention without most of what the tree forbids, in the form of transformers' attention functions.

    Each segment attends to its path from the root, all segments of a depth at once. A dense mask over the packed group
    would have every candidate compute its attention to every earlier one and throw it away.
    """
    if tree_blocks is None:
        raise ValueError(f"{TREE_BLOCKS!r} is the model's own attention; choose `attn_implementation='sdpa'`.")
    groups, heads, length, head_dim = query.shape
    query, key, value = (F.pad(x.transpose(1, 2).flatten(0, 1), (0, 0, 0, 0, 0, 1)) for x in (query, key, value))

    def gather(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x.index_select(0, index.flatten()).view(*index.shape, *x.shape[1:]).transpose(1, 2)

    outputs = []
    for query_index, key_index, mask in tree_blocks.levels:
        keys, values = gather(key, key_index), gather(value, key_index)
        if tree_blocks.prefix is not None:
            before = (x.expand(len(keys), -1, -1, -1) for x in tree_blocks.prefix[module.layer_idx])
            keys, values = (torch.cat(pair, dim=2) for pair in zip(before, (keys, values), strict=True))
            mask = F.pad(mask, (keys.shape[2] - mask.shape[-1], 0), value=True)
        blocks = gather(query, query_index), keys, values
        outputs.append(masked_attention(*blocks, mask, scaling).transpose(1, 2).flatten(0, 1))
    output = torch.cat(outputs).index_select(0, tree_blocks.slot_of_token.flatten())
    return output.view(groups, length, heads, head_dim), None


_VISION_RUNS = WeakTensorKeyDictionary()


def vision_runs(bounds: list[int], device: torch.device) -> dict[int, torch.Tensor | None]:
    """Patches between bounds, those of runs of equal length together, by that length; None for all."""
    starts: dict[int, list[int]] = {}
    for start, end in zip(bounds, bounds[1:], strict=False):
        starts.setdefault(end - start, []).append(start)
    if len(starts) == 1:
        return dict.fromkeys(starts)
    return {
        length: (torch.tensor(first)[:, None] + torch.arange(length)).flatten().to(device)
        for length, first in starts.items()
    }


def packed_vision_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention within each image or window of a batch, `(1, heads, patches, head_dim)`, all of a length at once."""
    runs: dict[int, torch.Tensor | None] = {query.shape[2]: None}
    if cu_seq_lens_q is not None:
        # All layers are given the same tensor, and reading it makes the host wait for a GPU.
        if cu_seq_lens_q not in _VISION_RUNS:
            _VISION_RUNS[cu_seq_lens_q] = vision_runs(cu_seq_lens_q.tolist(), query.device)
        runs = _VISION_RUNS[cu_seq_lens_q]

    def attend(patches: torch.Tensor | None, length: int) -> torch.Tensor:
        """Attention within runs of `length` patches; `patches` picks them, `None` takes all."""

        def split(x: torch.Tensor) -> torch.Tensor:
            x = x[0].transpose(0, 1)  # (patches, heads, head_dim)
            x = x if patches is None else x.index_select(0, patches)
            return x.reshape(-1, length, *x.shape[1:]).transpose(1, 2)

        output = masked_attention(split(query), split(key), split(value), None, scaling)
        return output.transpose(1, 2).flatten(0, 1)

    if len(runs) == 1:
        return attend(None, *runs).unsqueeze(0), None
    output = torch.cat([attend(patches, length) for length, patches in runs.items()])
    order = torch.cat([patches for patches in runs.values() if patches is not None]).argsort()
    return output.index_select(0, order).unsqueeze(0), None


# The backbones refuse flex attention by its own name, although their text models run on any attention function that
# takes a ready mask: a name must not contain "flex_attention", or the refusal applies to it too. And they hand images
# to an attention function one by one unless its name contains "flash". Each loaded copy of this module has its own
# names: models from several repositories in one process share the register.
MODULE = f"{zlib.crc32(__name__.encode()):08x}"
TREE_FLEX = f"editreward_tree_flex_{MODULE}"
TREE_BLOCKS = f"editreward_tree_blocks_{MODULE}"
PACKED_VISION = f"editreward_vision_like_flash_{MODULE}"
AttentionInterface.register(TREE_FLEX, tree_flex_forward)
AttentionInterface.register(TREE_BLOCKS, tree_blocks_forward)
AttentionInterface.register(PACKED_VISION, packed_vision_forward)

PACKINGS = ("tree", "unpacked")
REPLACED_ATTENTION = (None, "sdpa", "flex_attention")
MASKED_ATTENTION = ("eager", TREE_BLOCKS, TREE_FLEX)  # the others know no masks but padding


@dataclass
class EditRewardOutput(ModelOutput):
    """
    Scores of all candidates of a batch of groups, one group's candidates after another's.

    Args:
        mean (`torch.FloatTensor` of shape `(candidates, dimensions)`): Mean of each score.
        log_std (`torch.FloatTensor` of shape `(candidates, dimensions)`): Log of each score's standard deviation.
        reward (`torch.FloatTensor` of shape `(candidates,)`): Aggregated mean, to rank by.
        reward_std (`torch.FloatTensor` of shape `(candidates,)`): Standard deviation of the reward.
        group_index (`torch.LongTensor` of shape `(candidates,)`): Group (row of the batch) of each candidate.
        hidden_states (`torch.FloatTensor` of shape `(tokens, hidden_size)`, *optional*):
            Those of the last layer at the `hidden_positions` that were asked for.
    """

    mean: torch.Tensor | None = None
    log_std: torch.Tensor | None = None
    reward: torch.Tensor | None = None
    reward_std: torch.Tensor | None = None
    group_index: torch.Tensor | None = None
    hidden_states: torch.Tensor | None = None


def aggregate(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    aggregation: str,
    uncertainty_aggregation: str,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Combine the dimensions' Gaussians into one (eq. 3 of arXiv 2509.26346).

    Args:
        mean, log_std: Shape `(..., dimensions)`.
        aggregation: `mean`, `min` or `sum` of the means, or `smooth_min`: -t log(mean(exp(-mean / t))) at the
            temperature t.
        uncertainty_aggregation: `propagate` takes the dimensions as independent: the standard deviation of their mean
            or sum, or that of the dimension that is the minimum; for `smooth_min` to first order (the delta method),
            with the derivatives softmax(-mean / t) as weights. `reference` is the published code's: mean of the log
            standard deviations for `mean`, element-wise minimum for `min`, and the same as `propagate` for `sum`.
        temperature: Of `smooth_min`.

    Returns:
        The mean and the log standard deviation, each of shape `(...)`.
    """
    if aggregation == "min":
        lowest, index = mean.min(dim=-1)
        if uncertainty_aggregation == "reference":
            return lowest, log_std.min(dim=-1).values
        return lowest, log_std.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    if aggregation == "smooth_min":
        # Relative to the lowest, of which the sum does not depend, and exact to rounding at any temperature.
        lowest = mean.detach().min(dim=-1, keepdim=True).values
        excess = torch.expm1((lowest - mean) / temperature).mean(dim=-1)
        reward = lowest.squeeze(-1) - temperature * torch.log1p(excess)
        log_weights = torch.log_softmax(-mean / temperature, dim=-1)
        return reward, torch.logsumexp(2 * (log_weights + log_std), dim=-1) / 2
    log_std_of_sum = torch.logsumexp(2 * log_std, dim=-1) / 2
    if aggregation == "sum":
        return mean.sum(dim=-1), log_std_of_sum
    if uncertainty_aggregation == "reference":
        return mean.mean(dim=-1), log_std.mean(dim=-1)
    return mean.mean(dim=-1), log_std_of_sum - math.log(mean.shape[-1])


def set_backbone_attention(backbone_config: PreTrainedConfig, attn_implementation: str | None) -> None:
    """Give vision tower and language model of a built backbone the attention functions for `attn_implementation`.

    `sdpa`, the default, and `flex_attention` are replaced by functions that use them; others are taken as they are.
    """
    text, vision = attn_implementation, attn_implementation
    if attn_implementation in REPLACED_ATTENTION:
        text = TREE_FLEX if attn_implementation == "flex_attention" else TREE_BLOCKS
        vision = PACKED_VISION
    backbone_config.get_text_config()._attn_implementation_internal = text
    backbone_config.vision_config._attn_implementation_internal = vision


def ancestor_table(segment_parents: torch.Tensor) -> torch.Tensor:
    """Which segments a segment's tokens attend to.

    Args:
        segment_parents: `(groups, segments)`, -1 for the root and for padding. Parents come before their children.

    Returns:
        Bool tensor `(groups, segments, segments)`: entry `[g, i, j]` tells whether j is i or an ancestor of i.
    """
    groups, segments = segment_parents.shape
    table = torch.eye(segments, dtype=torch.bool, device=segment_parents.device).repeat(groups, 1, 1)
    node = segment_parents
    while (node >= 0).any():
        is_node = node >= 0
        node = node.clamp(min=0)
        table |= F.one_hot(node, segments).bool() & is_node.unsqueeze(-1)
        node = torch.where(is_node, segment_parents.gather(1, node), -1)
    return table


def tree_mask(segment_ids: torch.Tensor, ancestors: torch.Tensor) -> torch.Tensor:
    """Bool attention mask `(groups, 1, sequence_length, sequence_length)`: causal, within a token's path to the root.

    Padding (segment -1) attends like the root, so that no row is empty; it lies at the end, where nothing attends to
    it.
    """
    groups, length = segment_ids.shape
    segments = segment_ids.clamp(min=0)
    by_query = ancestors.gather(1, segments.unsqueeze(-1).expand(-1, -1, ancestors.shape[-1]))
    mask = by_query.gather(2, segments.unsqueeze(1).expand(-1, length, -1))
    return mask.tril().unsqueeze(1)


def tree_block_mask(segment_ids: torch.Tensor, ancestors: torch.Tensor) -> BlockMask:
    """The same mask for flex attention, which skips blocks that the tree forbids."""
    groups, length = segment_ids.shape
    segments = segment_ids.clamp(min=0)

    def allowed(group: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return ancestors[group, segments[group, query], segments[group, key]] & (key <= query)

    return create_block_mask(allowed, groups, None, length, length, device=segment_ids.device)


Prefix: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class TreeBlocks:
    """A packed batch cut into segments, by their depth in the tree.

    Tokens are numbered through the batch, row by row; the number after the last stands for padding.
    """

    # Of each depth: numbers of each segment's tokens, (blocks, queries), and of those on its path from the root, its
    # own included, (blocks, keys); and what attends to what, (blocks, 1, queries, keys).
    levels: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    slot_of_token: torch.Tensor  # (rows, length), place of each token among the blocks' queries, level after level
    # Keys and values of each layer that all tokens attend to, (1, heads, tokens, head_dim).
    prefix: "Prefix | None" = None

    @classmethod
    def of(cls, segment_ids: torch.Tensor, ancestors: torch.Tensor) -> "TreeBlocks":
        """Cut a batch; see `tree_mask` for the arguments."""
        device, padding, count = segment_ids.device, segment_ids.numel(), ancestors.shape[1]
        # Segments are numbered through the batch, too; padding belongs to one more.
        first = torch.arange(len(segment_ids), device=device).unsqueeze(-1) * count
        owner = (first + segment_ids).masked_fill(segment_ids < 0, len(segment_ids) * count).flatten()
        sizes = owner.bincount(minlength=len(segment_ids) * count + 1)
        place = torch.arange(int(sizes[:-1].max()), device=device)
        starts = (sizes.cumsum(0) - sizes).unsqueeze(-1)
        tokens = owner.argsort(stable=True)[(starts + place).clamp(max=padding - 1)]  # (segments, longest)
        tokens = tokens.masked_fill(place >= sizes.unsqueeze(-1), padding)

        slot_of_token = torch.zeros(padding + 1, dtype=torch.long, device=device)
        levels, slots = [], 0
        ancestors = ancestors.flatten(0, 1)
        depths = ancestors.sum(-1)
        for depth in range(1, int(depths.max()) + 1):
            # Rows with fewer segments than others have empty ones.
            blocks = ((depths == depth) & (sizes[:-1] > 0)).nonzero().squeeze(-1)
            path = ancestors[blocks].nonzero()[:, 1].view(-1, depth) + blocks.unsqueeze(-1) // count * count
            query_index = tokens[blocks, : int(sizes[blocks].max())]
            key_index = tokens[path].flatten(1).sort(-1).values[:, : int(sizes[path].sum(-1).max())]
            # Padded queries attend to everything, so that no row of the mask is empty.
            mask = key_index.unsqueeze(1) <= query_index.unsqueeze(2)
            levels.append((query_index, key_index, mask.unsqueeze(1)))
            slot_of_token[query_index.flatten()] = slots + torch.arange(query_index.numel(), device=device)
            slots += query_index.numel()
        return cls(levels, slot_of_token[:padding].view_as(segment_ids))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "TreeBlocks":
        """The blocks with every tensor but those of the prefix changed."""
        levels = [(change(query), change(key), change(mask)) for query, key, mask in self.levels]
        return TreeBlocks(levels, change(self.slot_of_token), self.prefix)


@dataclass
class BatchPlan:
    """Where the parts of a batch stand: what `forward` would else read from its tensors, waiting for the GPU.

    The processor makes it on the CPU, and it travels with the batch. What moves nothing but tensors leaves it there;
    then `forward` moves it.
    """

    visual_tokens: int  # of all images that differ
    visual_places: torch.Tensor  # (places,), numbers of the batch's tokens that stand for a visual token, ascending
    visual_index: torch.Tensor  # (places,), the visual token that each of them stands for
    ancestors: torch.Tensor  # (groups, segments, segments), see `ancestor_table`
    blocks: TreeBlocks | None = None  # None: not made yet

    @classmethod
    def of(
        cls,
        input_ids: torch.Tensor,
        segment_parents: torch.Tensor,
        image_token_id: int,
        image_sizes: Sequence[int],
        image_index: Sequence[int],
    ) -> "BatchPlan":
        """Plan a batch, but for its blocks. See `EditRewardModel.forward` for the tensors.

        Args:
            image_token_id: Stands for a visual token in `input_ids`.
            image_sizes: Visual tokens of each image that differs.
            image_index: Which of them stands in each place for an image.

        Raises:
            ValueError: If the images do not fit their places.
        """
        ends = list(itertools.accumulate(image_sizes))
        tokens = [torch.arange(ends[i] - image_sizes[i], ends[i]) for i in image_index if i < len(ends)]
        index = torch.cat(tokens) if tokens else torch.zeros(0, dtype=torch.long)
        places = (input_ids == image_token_id).flatten().nonzero().squeeze(-1)
        check_visual_tokens(len(places), len(index))
        return cls(sum(image_sizes), places, index.to(places.device), ancestor_table(segment_parents))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "BatchPlan":
        """The plan with every tensor changed."""
        places, index, ancestors = map(change, (self.visual_places, self.visual_index, self.ancestors))
        return BatchPlan(self.visual_tokens, places, index, ancestors, self.blocks and self.blocks.map(change))

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "BatchPlan":
        """The plan on a device."""
        return self.map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "BatchPlan":
        """The plan in memory that a GPU copies from by itself, as the data loader asks for."""
        return self.map(torch.Tensor.pin_memory)

    def without_prefix(self, length: int, start: int) -> "BatchPlan":
        """The plan of rows of `length` tokens without their first `start` ones, which are no images."""
        rows, columns = self.visual_places // length, self.visual_places % length
        places = rows * (length - start) + columns - start
        return dataclasses.replace(self, visual_places=places, blocks=None)


def check_visual_tokens(places: int, found: int) -> None:
    """Raise a `ValueError` unless there are as many visual tokens as there are places for some."""
    if places != found:
        raise ValueError(
            f"`input_ids` has places for {places} visual tokens, the images give {found}. "
            "Pass the processor's output unchanged."
        )


def check_no_arguments(given: Mapping[str, object]) -> None:
    """Raise a `TypeError` for what wrappers pass to every model, unless it is None or `return_dict`."""
    unknown = sorted(name for name, value in given.items() if value is not None and name != "return_dict")
    if unknown:
        raise TypeError(f"`EditRewardModel.forward` has no argument {', '.join(unknown)}.")


@dataclass
class _Sequences:
    """Rows of embedded tokens that the language model runs over, and where in them its output is read."""

    inputs_embeds: torch.Tensor  # (rows, length, hidden_size)
    position_ids: torch.Tensor  # (3, rows, length)
    visual_index: torch.Tensor  # (rows, length), number of the visual token among the batch's; -1 for text
    segment_ids: torch.Tensor  # (rows, length), -1 for padding
    ancestors: torch.Tensor  # (rows, segments, segments), see `ancestor_table`
    positions: torch.Tensor  # (tokens, 2), a row and a column each: where the output is read
    blocks: TreeBlocks | None = None  # None: not made yet

    def unpack(self) -> "_Sequences":
        """Give each root-to-leaf path a row of its own."""
        rows, columns = self.positions.unbind(-1)
        leaves = torch.stack([rows, self.segment_ids[rows, columns]], dim=-1)
        leaves, path_of_token = leaves.unique(dim=0, return_inverse=True)
        path_rows, path_leaves = leaves.unbind(-1)
        # (paths, length of the packed rows): whether a token is on the path
        segments = self.segment_ids[path_rows]
        on_path = self.ancestors[path_rows, path_leaves].gather(1, segments.clamp(min=0)) & (segments >= 0)
        lengths = on_path.sum(-1, keepdim=True)
        # A stable sort brings each path's tokens to the front, in order.
        source = torch.sort((~on_path).long(), dim=-1, stable=True).indices[:, : int(lengths.max())]
        is_padding = torch.arange(source.shape[1], device=source.device) >= lengths
        column_on_path = on_path.long().cumsum(-1) - 1
        token_columns = column_on_path[path_of_token, columns]
        path_rows = path_rows.unsqueeze(-1)
        return _Sequences(
            inputs_embeds=self.inputs_embeds[path_rows, source],
            position_ids=self.position_ids[:, path_rows, source],
            visual_index=self.visual_index[path_rows, source].masked_fill(is_padding, -1),
            segment_ids=-is_padding.long(),
            ancestors=torch.ones(len(leaves), 1, 1, dtype=torch.bool, device=source.device),
            positions=torch.stack([path_of_token, token_columns], dim=-1),
        )

    def attention_inputs(self, attention: str, prefix: Prefix | None = None) -> dict[str, object]:
        """The tree in the form that an attention function takes."""
        if attention == TREE_BLOCKS:
            tree_blocks = self.blocks or TreeBlocks.of(self.segment_ids, self.ancestors)
            tree_blocks.prefix = prefix
            return {"attention_mask": None, "tree_blocks": tree_blocks}
        if attention == TREE_FLEX:
            return {"attention_mask": tree_block_mask(self.segment_ids, self.ancestors)}
        if attention == "eager":  # adds its mask to the attention logits
            mask = tree_mask(self.segment_ids, self.ancestors)
            lowest = torch.finfo(self.inputs_embeds.dtype).min
            return {
                "attention_mask": torch.zeros_like(mask, dtype=self.inputs_embeds.dtype).masked_fill(~mask, lowest)
            }
        return {"attention_mask": (self.segment_ids >= 0).long()}


def choose_packing(packing: str | None, attention: str, prefix: Prefix | None = None) -> str:
    """The packing that `forward` was asked for, or what suits the attention.

    Raises:
        ValueError: If the attention cannot run it, or not after a computed prefix.
    """
    packing = packing or ("tree" if attention in MASKED_ATTENTION else "unpacked")
    check_choice("packing", packing, PACKINGS)
    if packing == "tree" and attention not in MASKED_ATTENTION:
        raise ValueError(f"Attention {attention!r} cannot run a tree mask; use `packing='unpacked'`.")
    if prefix is not None and (attention != TREE_BLOCKS or packing != "tree"):
        raise ValueError("`prefix` needs `attn_implementation='sdpa'` and `packing='tree'`.")
    return packing


def _type_of_base(base: str, adapter: str | Path, config: EditRewardConfig, hub_kwargs: Mapping[str, object]) -> str:
    """The model type of what an adapter with this configuration sits on.

    Raises:
        ValueError: If it cannot be found, or is no model that the adapter fits.
    """
    try:
        base_config, _ = PreTrainedConfig.get_config_dict(base, **hub_kwargs)
    except OSError as error:
        raise ValueError(
            f"The adapter {adapter} sits on {base}, which is neither a folder here nor a Hub repository that can "
            "be reached. If it has moved, say where it is with `base_model_name_or_path`, or change that entry of "
            "adapter_config.json."
        ) from error
    found = base_config.get("model_type")
    if found not in (config.model_type, config.backbone_config.model_type):
        raise ValueError(
            f"The adapter {adapter} needs a {config.backbone_config.model_type} model or an EditReward model to "
            f"sit on; {base} is of type {found!r}."
        )
    return found


class RewardHeads(nn.Module):
    """MLPs from the hidden state at a reward token to a Gaussian, in float32 or wider whatever the backbone is."""

    def __init__(self, config: EditRewardConfig) -> None:
        super().__init__()
        count = len(config.dimensions) if config.head_type == "multi" else 1
        wide, narrow = config.head_hidden_sizes
        # `from_config(config, dtype=torch.bfloat16)` sets the default type.
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(config.hidden_size, wide, dtype=dtype),
                nn.ReLU(),
                nn.Dropout(config.head_dropout),
                nn.Linear(wide, narrow, dtype=dtype),
                nn.ReLU(),
                nn.Linear(narrow, 2, dtype=dtype),
            )
            for _ in range(count)
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(candidates, dimensions, hidden_size)` to `(candidates, dimensions, 2)`: mean and log of the deviation."""
        with torch.autocast(hidden_states.device.type, enabled=False):
            hidden_states = hidden_states.to(next(self.parameters()).dtype)
            if len(self.mlps) == 1:
                return self.mlps[0](hidden_states)
            return torch.stack([mlp(hidden_states[:, i]) for i, mlp in enumerate(self.mlps)], dim=1)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "RewardHeads":
        # `model.to(torch.bfloat16)`, `.half()` and the like move the heads, and leave them in float32.
        def apply_keeping_precision(tensor: torch.Tensor) -> torch.Tensor:
            target = fn(tensor.new_empty(0)) if tensor.is_floating_point() else None
            if target is not None and target.is_floating_point() and target.dtype.itemsize < 4:
                return tensor.to(target.device)
            return fn(tensor)

        return super()._apply(apply_keeping_precision, recurse)


class EditRewardModel(PreTrainedModel):
    """
    Scores the candidates of edit groups.

    The backbone is a vision-language model without its language-model head. It runs once over each packed group; the
    heads read the hidden states of the reward tokens.
    """

    config_class = EditRewardConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    model_tags = ["reward-model", "image-editing", "editreward"]  # of the card that `push_to_hub` makes
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["heads"]
    _no_split_modules = ["RewardHeads"]  # and the backbone's layers; units of FSDP, the heads in their own precision

    def __init__(self, config: EditRewardConfig, backbone: PreTrainedModel | None = None) -> None:
        """
        Args:
            config: The model's configuration.
            backbone: A loaded backbone to build on, in place of a new one.
        """
        super().__init__(config)
        if backbone is None:
            if config._attn_implementation in REPLACED_ATTENTION:
                # A backbone is built with attention that it knows, and given ours below.
                config.backbone_config._attn_implementation = "sdpa"
            backbone = AutoModel.from_config(config.backbone_config)
        self.backbone = backbone
        # One object, so that a change of attention reaches the layers, which hold on to their configuration.
        config.backbone_config = backbone.config
        set_backbone_attention(config.backbone_config, config._attn_implementation)
        self.heads = RewardHeads(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # The backbone initialises itself. Its small normal distribution would leave heads of this depth with next to
        # no gradient, so their layers take torch's default.
        if isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            initialization.uniform_(module.weight, -bound, bound)
            initialization.uniform_(module.bias, -bound, bound)

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | Path,
        *,
        dtype: torch.dtype | str = "auto",
        attn_implementation: str | None = None,
        quantization_config: object = None,
        hub_kwargs: Mapping[str, object] | None = None,
        **config: object,
    ) -> "EditRewardModel":
        """Start a reward model from a vision-language model, with heads and reward tokens but no language-model head.

        Args:
            name_or_path: Folder or Hub id of a Qwen2.5-VL, MiMo-VL or Qwen3-VL checkpoint.
            dtype: The backbone's; by default that of its checkpoint. The heads are in float32 or wider.
            attn_implementation: As in `from_pretrained`.
            quantization_config: As in `from_pretrained`; of the backbone.
            hub_kwargs: `revision`, `token`, `cache_dir` ... to load the backbone with.
            config: Fields of [`EditRewardConfig`].
        """
        unknown = sorted(set(config) - set(EditRewardConfig.__dataclass_fields__))
        if unknown:
            raise ValueError(f"An EditReward model's configuration has no field {unknown[0]!r}.")
        hub_kwargs = {"trust_remote_code": False, **(hub_kwargs or {})}
        backbone = AutoModel.from_pretrained(
            name_or_path, dtype=dtype, quantization_config=quantization_config, **hub_kwargs
        )
        reward_config = EditRewardConfig(backbone_config=backbone.config, dtype=backbone.dtype, **config)
        reward_config._attn_implementation = attn_implementation
        model = cls._on_backbone(reward_config, backbone)
        vocabulary = set(load_tokenizer(name_or_path, **hub_kwargs).get_vocab())
        vocabulary.update(reward_tokens(reward_config.layout, reward_config.dimensions))
        # Backbones pad their embeddings beyond the tokenizer; only too few rows need new ones.
        if len(vocabulary) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(vocabulary))
        return model

    @classmethod
    def _on_backbone(cls, config: EditRewardConfig, backbone: PreTrainedModel) -> "EditRewardModel":
        """A model with new heads on a loaded backbone."""
        model = cls(config, backbone)
        model.name_or_path = backbone.name_or_path
        model.heads.to(backbone.device)
        if getattr(backbone, "is_quantized", False):
            # What else of transformers, accelerate and TRL looks at must know.
            for name in (
                "hf_quantizer",
                "is_quantized",
                "quantization_method",
                "is_loaded_in_4bit",
                "is_loaded_in_8bit",
            ):
                if hasattr(backbone, name):
                    setattr(model, name, getattr(backbone, name))
            config.quantization_config = backbone.config.quantization_config
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: object, **kwargs: Any) -> Any:
        """As in transformers, but a checkpoint that lacks weights is an error, and heads are never quantized.

        The folder or repository may be that of an adapter (LoRA), which needs peft: the model that it names is loaded
        and the adapter put into its layers. `base_model_name_or_path=...` says where that model is now.

        Raises:
            ValueError: If weights are missing, named in the message: random ones would give random scores.
        """
        quantization = kwargs.get("quantization_config")
        for field in ("llm_int8_skip_modules", "modules_to_not_convert"):  # of bitsandbytes, of torchao
            if hasattr(quantization, field):
                kwargs["quantization_config"] = quantization = copy.copy(quantization)
                setattr(quantization, field, [*(getattr(quantization, field) or ()), "heads"])
        with_info = kwargs.pop("output_loading_info", False)
        adapter = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")  # as `AutoModel` hands it on
        if adapter is None:
            hub_kwargs = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
            if find_adapter_config_file(pretrained_model_name_or_path, **hub_kwargs):
                adapter = pretrained_model_name_or_path
        if adapter is not None:
            model = cls.load_adapted(adapter, **kwargs).get_base_model()
            model._hf_peft_config_loaded = True  # saved as an adapter again
            info: dict[str, set[str]] = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
            return (model, info) if with_info else model
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        missing = sorted(info["missing_keys"])
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks weights of the model: {shown}. Is it an EditReward "
                "checkpoint, saved whole? A reward model on a plain VLM starts with `EditRewardModel.from_backbone`."
            )
        return (model, info) if with_info else model

    @classmethod
    def load_adapted(
        cls,
        adapter: str | Path,
        *,
        base_model_name_or_path: str | Path | None = None,
        config: EditRewardConfig | None = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """The `peft.PeftModel` of an adapter, on the model that it names.

        Args:
            adapter: Folder or Hub id of the adapter, which also holds the EditReward configuration.
            base_model_name_or_path: Where the model is that it sits on, a vision-language model or an EditReward
                model, if not where the adapter says.
            config: The adapter's configuration, if it is loaded already.
            dtype: That of the base; by default the one it had in training. Adapter and heads are in float32.
            attn_implementation: As in `from_pretrained`.
            kwargs: `revision`, `token` ... of the adapter, and what else `from_pretrained` takes, for the base.

        Raises:
            ImportError: If peft is not installed.
            ValueError: If the base cannot be found or is another model, or if weights are missing.
        """
        try:
            from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
            from peft.utils import load_peft_weights
        except ImportError as error:
            raise ImportError(f"{adapter} is an adapter, and loading one takes peft: `pip install peft`.") from error

        for name in ("adapter_kwargs", "trust_remote_code", "_from_auto", "ignore_mismatched_sizes"):
            kwargs.pop(name, None)
        hub_kwargs = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        hub_kwargs = {name: value for name, value in hub_kwargs.items() if value is not None}
        peft_config = PeftConfig.from_pretrained(str(adapter), **hub_kwargs)
        config = copy.deepcopy(config) or EditRewardConfig.from_pretrained(adapter, **hub_kwargs)
        base = str(base_model_name_or_path or peft_config.base_model_name_or_path)
        # The base is a repository of its own.
        base_kwargs = {name: value for name, value in hub_kwargs.items() if name not in ("revision", "subfolder")}
        if base_model_name_or_path is None and peft_config.revision:
            base_kwargs["revision"] = peft_config.revision
        base_type = _type_of_base(base, adapter, config, base_kwargs)
        loading = {"dtype": config.dtype if dtype in (None, "auto") else dtype, **base_kwargs, **kwargs}
        config._attn_implementation = attn_implementation
        model = cls._load_base(base, base_type, config, **loading)

        peft_config.inference_mode = True
        adapted = PeftModel(model, peft_config)
        weights = load_peft_weights(str(adapter), device="cpu", **hub_kwargs)
        missing = sorted(set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) - set(weights))
        if missing:
            raise ValueError(f"The adapter {adapter} lacks weights: {', '.join(missing[:5])}. Copy or train it again.")
        set_peft_model_state_dict(adapted, weights)
        return adapted.eval()

    @classmethod
    def _load_base(cls, base: str, base_type: str, config: EditRewardConfig, **loading: object) -> "EditRewardModel":
        """What an adapter sits on: an EditReward model, or a vision-language model, which gets fresh heads."""
        if base_type == config.model_type:
            return cls.from_pretrained(base, config=config, **loading)
        rows = config.get_text_config().vocab_size
        model = cls._on_backbone(config, AutoModel.from_pretrained(base, trust_remote_code=False, **loading))
        if rows != model.get_input_embeddings().num_embeddings:
            # New rows are those of reward tokens, which the adapter holds.
            model.resize_token_embeddings(rows, mean_resizing=False)
        return model

    def save_pretrained(self, save_directory: str | Path, *args: object, **kwargs: object) -> None:
        """As in transformers; beside an adapter's weights it saves the configuration too, to load it from there."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self._hf_peft_config_loaded and kwargs.get("is_main_process", True):
            self.config.save_pretrained(save_directory)

    def set_attn_implementation(self, attn_implementation: str | dict, *args: object, **kwargs: object) -> None:
        """As in transformers: `sdpa`, `flex_attention`, `eager` or a flash attention."""
        if isinstance(attn_implementation, dict):
            raise ValueError("`attn_implementation` is one name for the whole model here, not a dictionary.")
        use_flex = attn_implementation == "flex_attention"
        super().set_attn_implementation("sdpa" if use_flex else attn_implementation, *args, **kwargs)
        self.config._attn_implementation_internal = attn_implementation
        set_backbone_attention(self.config.backbone_config, attn_implementation)

    @property
    def dtype(self) -> torch.dtype:
        """The widest type of the backbone's weights, or that of what an adapter sits on."""
        # What is saved is loaded in this type; where training left frozen weights narrower, it must not round others.
        if hasattr(self, "peft_config"):
            return super().dtype
        dtypes = {p.dtype for p in self.backbone.parameters() if p.is_floating_point()}
        return max(dtypes, key=lambda dtype: (dtype.itemsize, str(dtype)))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.backbone.set_input_embeddings(value)

    def enable_input_require_grads(self) -> None:
        """As in transformers, but a frozen vision tower stays out of the backward pass."""
        super().enable_input_require_grads()
        if not any(parameter.requires_grad for parameter in self.backbone.visual.parameters()):
            self.disable_input_require_grads()
            hook = self.get_input_embeddings().register_forward_hook(lambda *call: call[-1].requires_grad_(True))
            self._require_grads_hooks = [hook]

    def forward(
        self,
        input_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        segment_parents: torch.Tensor,
        position_ids: torch.Tensor,
        pixel_values: torch.Tensor | None,
        image_grid_thw: torch.Tensor,
        reward_positions: torch.Tensor,
        group_index: torch.Tensor,
        image_index: torch.Tensor | None = None,
        image_features: Sequence[torch.Tensor] | None = None,
        prefix: Prefix | None = None,
        hidden_positions: torch.Tensor | None = None,
        packing: str | None = None,
        plan: BatchPlan | None = None,
        **kwargs: object,
    ) -> EditRewardOutput:
        """Score packed groups, as [`EditRewardProcessor`] makes them.

        Args:
            input_ids (`torch.LongTensor` of shape `(groups, sequence_length)`): Tokens, padded on the right.
            segment_ids (`torch.LongTensor` of shape `(groups, sequence_length)`): Segment of each token, -1: padding.
            segment_parents (`torch.LongTensor` of shape `(groups, segments)`): Parent of each segment, -1: none.
            position_ids (`torch.LongTensor` of shape `(3, groups, sequence_length)`): Temporal, height and width.
            pixel_values (`torch.FloatTensor` of shape `(patches, patch_dim)`): Patches of all images. Gradients flow
                to them.
            image_grid_thw (`torch.LongTensor` of shape `(images, 3)`): Patch grid of each image.
            reward_positions (`torch.LongTensor` of shape `(candidates, dimensions, 2)`): Row and column of each
                reward token.
            group_index (`torch.LongTensor` of shape `(candidates,)`): Group of each candidate.
            image_index (`torch.LongTensor` of shape `(places,)`, *optional*): Which image stands in each place for
                one, in order of appearance. By default each stands in one.
            image_features (`list[torch.FloatTensor]`, *optional*): Of each image, from `encode_images`, in place of
                `pixel_values`.
            prefix (`list[tuple[torch.FloatTensor, torch.FloatTensor]]`, *optional*): From `encode_prefix`, of the
                tokens that all rows begin with, which are then not computed again. For the model's own attention.
            hidden_positions (`torch.LongTensor` of shape `(tokens, 2)`, *optional*): Row and column of further tokens
                whose hidden states to return.
            packing (`str`, *optional*): `tree` runs a group as one row under a tree mask; `unpacked` runs each
                root-to-leaf path as a row. By default unpacked for flash attention, which knows no masks, tree
                otherwise. Scores are the same.
            plan ([`BatchPlan`], *optional*): From the processor. Made here without it, for which the host waits for
                the GPU a few times.
            kwargs: Arguments that wrappers pass to every model: all must be None.
        """
        check_no_arguments(kwargs)
        attention = self.config.get_text_config()._attn_implementation
        packing = choose_packing(packing, attention, prefix)
        if image_features is None:
            if pixel_values is None:
                raise ValueError("Pass the images, as `pixel_values` or `image_features`.")
            image_features = self.encode_images(pixel_values, image_grid_thw)
        sizes = [image.shape[1] for image in image_features]
        plan = self._plan(plan, input_ids, segment_parents, sizes, image_index)

        positions = reward_positions.flatten(0, 1)
        reward_count = len(positions)
        if hidden_positions is not None:
            positions = torch.cat([positions, hidden_positions])
        if prefix is not None:
            start = prefix[0][0].shape[2]
            plan = plan.without_prefix(input_ids.shape[1], start)
            input_ids, segment_ids, position_ids = (x[..., start:] for x in (input_ids, segment_ids, position_ids))
            positions = torch.stack([positions[:, 0], positions[:, 1] - start], dim=-1)

        hidden_states = self._hidden_states(
            input_ids, segment_ids, position_ids, positions, image_features, plan, attention, packing, prefix
        )
        of_rewards = hidden_states[:reward_count].unflatten(0, reward_positions.shape[:2])
        mean, log_std = self.heads(of_rewards).unbind(-1)
        config = self.config
        reward, reward_log_std = aggregate(
            mean, log_std, config.aggregation, config.uncertainty_aggregation, config.aggregation_temperature
        )
        return EditRewardOutput(
            mean=mean,
            log_std=log_std,
            reward=reward,
            reward_std=reward_log_std.exp(),
            group_index=group_index,
            hidden_states=None if hidden_positions is None else hidden_states[reward_count:],
        )

    def _plan(
        self,
        plan: BatchPlan | None,
        input_ids: torch.Tensor,
        segment_parents: torch.Tensor,
        image_sizes: Sequence[int],
        image_index: torch.Tensor | None,
    ) -> BatchPlan:
        """The plan that a batch came with, or one made here, on the batch's device.

        Raises:
            ValueError: If the images give another number of visual tokens than there are places for.
        """
        if plan is None:
            index = range(len(image_sizes)) if image_index is None else image_index.tolist()
            image_token_id = self.config.backbone_config.image_token_id
            plan = BatchPlan.of(input_ids, segment_parents, image_token_id, image_sizes, index)
        check_visual_tokens(plan.visual_tokens, sum(image_sizes))
        return plan.to(input_ids.device)

    def _hidden_states(
        self,
        input_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        position_ids: torch.Tensor,
        positions: torch.Tensor,
        image_features: Sequence[torch.Tensor],
        plan: BatchPlan,
        attention: str,
        packing: str,
        prefix: Prefix | None,
    ) -> torch.Tensor:
        """Hidden states of the language model's last layer at `positions`, `(tokens, hidden_size)`."""
        features, *deepstack = (layer[plan.visual_index] for layer in torch.cat(list(image_features), dim=1))
        # A tensor of its own, as what a layer hands on: a compiled layer would be built once more for a view.
        places = plan.visual_places // input_ids.shape[1], plan.visual_places % input_ids.shape[1]
        inputs_embeds = self.get_input_embeddings()(input_ids)
        inputs_embeds = inputs_embeds.index_put(places, features.to(inputs_embeds.dtype))
        visual_order = torch.arange(len(features), device=input_ids.device)
        visual_index = torch.full_like(input_ids, -1).index_put(places, visual_order)
        sequences = _Sequences(
            inputs_embeds, position_ids, visual_index, segment_ids, plan.ancestors, positions, plan.blocks
        )
        if packing == "unpacked":
            sequences = sequences.unpack()
        visual_inputs: dict[str, torch.Tensor | list[torch.Tensor]] = {}
        if deepstack:
            visual_mask = sequences.visual_index >= 0
            picked = visual_order if packing == "tree" else sequences.visual_index[visual_mask]
            visual_inputs["visual_pos_masks"] = visual_mask
            visual_inputs["deepstack_visual_embeds"] = [layer[picked] for layer in deepstack]
        hidden_states = self.backbone.language_model(
            inputs_embeds=sequences.inputs_embeds,
            **sequences.attention_inputs(attention, prefix),
            position_ids=sequences.position_ids,
            use_cache=False,
            **visual_inputs,
        ).last_hidden_state
        rows, columns = sequences.positions.unbind(-1)
        return hidden_states[rows, columns]

    def encode_prefix(self, input_ids: torch.Tensor) -> Prefix:
        """Keys and values, by layer, of text that all rows begin with; `input_ids` of shape `(tokens,)`."""
        segment_ids, cache = torch.zeros_like(input_ids)[None], DynamicCache()
        ancestors = torch.ones(1, 1, 1, dtype=torch.bool, device=input_ids.device)
        self.backbone.language_model(
            inputs_embeds=self.get_input_embeddings()(input_ids[None]),
            attention_mask=None,
            tree_blocks=TreeBlocks.of(segment_ids, ancestors),
            position_ids=torch.arange(len(input_ids), device=input_ids.device).expand(3, 1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        return [(layer.keys, layer.values) for layer in cache.layers]

    def encode_images(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> list[torch.Tensor]:
        """What the language model is given of each image, `(1 + layers, visual_tokens, hidden_size)`.

        First the visual tokens, then what Qwen3-VL adds to them in its first layers. See `forward` for the arguments.
        """
        output = self.backbone.get_image_features(pixel_values, image_grid_thw, return_dict=True)
        sizes = (image_grid_thw.prod(-1) // self.backbone.visual.spatial_merge_size**2).tolist()
        layers = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        # Some releases split them by image.
        by_image = [layer.split(sizes) if isinstance(layer, torch.Tensor) else layer for layer in layers]
        return [torch.stack(image) for image in zip(*by_image, strict=True)]


EditRewardModel.register_for_auto_class("AutoModel")

__all__ = ["BatchPlan", "EditRewardModel", "EditRewardOutput", "TreeBlocks", "aggregate"]
