"""EditReward model: a vision-language backbone with Gaussian reward heads, over packed edit groups."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.utils import ModelOutput


try:
    from .configuration_editreward import EditRewardConfig, reward_tokens
except ImportError:  # Installed beside the `editreward` package, these files are top-level modules.
    from configuration_editreward import EditRewardConfig, reward_tokens


# The backbones refuse flex attention by its own name, although their text models run on any attention function that
# takes a ready mask. The name must not contain "flex_attention", or the refusal applies to it too.
TREE_FLEX = "editreward_tree_flex"


def tree_flex_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: BlockMask,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Flex attention under a ready block mask, in the form of transformers' attention functions."""
    if query.device.type != "cpu":
        return flex_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    # The compiled CPU kernel has no backward pass, and torch 2.13 fails to build it for changing shapes.
    output = flex_attention(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(TREE_FLEX, tree_flex_forward)

PACKINGS = ("tree", "unpacked")
MASKED_ATTENTION = ("eager", "sdpa", TREE_FLEX)  # the others know no masks but padding


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
    """

    mean: torch.Tensor | None = None
    log_std: torch.Tensor | None = None
    reward: torch.Tensor | None = None
    reward_std: torch.Tensor | None = None
    group_index: torch.Tensor | None = None


def aggregate(
    mean: torch.Tensor, log_std: torch.Tensor, aggregation: str, uncertainty_aggregation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Combine the dimensions' Gaussians into one (eq. 3 of arXiv 2509.26346).

    Args:
        mean, log_std: Shape `(..., dimensions)`.
        aggregation: `mean`, `min` or `sum` of the means.
        uncertainty_aggregation: `propagate` takes the dimensions as independent: the standard deviation of their mean
            or sum, or that of the dimension that is the minimum. `reference` is the published code's: mean of the log
            standard deviations for `mean`, element-wise minimum for `min`, and the same as `propagate` for `sum`.

    Returns:
        The mean and the log standard deviation, each of shape `(...)`.
    """
    if aggregation == "min":
        lowest, index = mean.min(dim=-1)
        if uncertainty_aggregation == "reference":
            return lowest, log_std.min(dim=-1).values
        return lowest, log_std.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    log_std_of_sum = torch.logsumexp(2 * log_std, dim=-1) / 2
    if aggregation == "sum":
        return mean.sum(dim=-1), log_std_of_sum
    if uncertainty_aggregation == "reference":
        return mean.mean(dim=-1), log_std.mean(dim=-1)
    return mean.mean(dim=-1), log_std_of_sum - math.log(mean.shape[-1])


def _set_backbone_attention(backbone_config: PreTrainedConfig, attn_implementation: str | None) -> None:
    """Set the attention of vision tower and language model, of which only the latter can use tree attention."""
    use_flex = attn_implementation == "flex_attention"
    backbone_config._attn_implementation = "sdpa" if use_flex else attn_implementation
    if use_flex:
        backbone_config.get_text_config()._attn_implementation = TREE_FLEX


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


@dataclass
class _Sequences:
    """Rows of embedded tokens that the language model runs over, and where the reward tokens are in them."""

    inputs_embeds: torch.Tensor  # (rows, length, hidden_size)
    position_ids: torch.Tensor  # (3, rows, length)
    visual_index: torch.Tensor  # (rows, length), number of the visual token among the batch's; -1 for text
    segment_ids: torch.Tensor  # (rows, length), -1 for padding
    ancestors: torch.Tensor  # (rows, segments, segments), see `ancestor_table`
    reward_positions: torch.Tensor  # (candidates, dimensions, 2), a row and a column each

    def unpack(self) -> "_Sequences":
        """Give each root-to-leaf path a row of its own."""
        rows, columns = self.reward_positions.flatten(0, 1).unbind(-1)
        leaves = torch.stack([rows, self.segment_ids[rows, columns]], dim=-1)
        leaves, path_of_reward = leaves.unique(dim=0, return_inverse=True)
        path_rows, path_leaves = leaves.unbind(-1)
        # (paths, length of the packed rows): whether a token is on the path
        segments = self.segment_ids[path_rows]
        on_path = self.ancestors[path_rows, path_leaves].gather(1, segments.clamp(min=0)) & (segments >= 0)
        lengths = on_path.sum(-1, keepdim=True)
        # A stable sort brings each path's tokens to the front, in order.
        source = torch.sort((~on_path).long(), dim=-1, stable=True).indices[:, : int(lengths.max())]
        is_padding = torch.arange(source.shape[1], device=source.device) >= lengths
        column_on_path = on_path.long().cumsum(-1) - 1
        reward_columns = column_on_path[path_of_reward, columns]
        path_rows = path_rows.unsqueeze(-1)
        return _Sequences(
            inputs_embeds=self.inputs_embeds[path_rows, source],
            position_ids=self.position_ids[:, path_rows, source],
            visual_index=self.visual_index[path_rows, source].masked_fill(is_padding, -1),
            segment_ids=-is_padding.long(),
            ancestors=torch.ones(len(leaves), 1, 1, dtype=torch.bool, device=source.device),
            reward_positions=torch.stack([path_of_reward, reward_columns], dim=-1).view_as(self.reward_positions),
        )

    def attention_mask(self, attention: str) -> torch.Tensor | BlockMask:
        """The mask in the form that an attention function takes."""
        if attention == TREE_FLEX:
            return tree_block_mask(self.segment_ids, self.ancestors)
        if attention not in MASKED_ATTENTION:
            return (self.segment_ids >= 0).long()
        mask = tree_mask(self.segment_ids, self.ancestors)
        if attention == "sdpa":
            return mask
        # The eager path adds its mask to the attention logits.
        lowest = torch.finfo(self.inputs_embeds.dtype).min
        return torch.zeros_like(mask, dtype=self.inputs_embeds.dtype).masked_fill(~mask, lowest)


class RewardHeads(nn.Module):
    """MLPs from the hidden state at a reward token to a Gaussian, kept in float32 or wider whatever the backbone is."""

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
        """`(candidates, dimensions, hidden_size)` to `(candidates, dimensions, 2)`: mean and log standard deviation."""
        with torch.autocast(hidden_states.device.type, enabled=False):
            hidden_states = hidden_states.to(next(self.parameters()).dtype)
            if len(self.mlps) == 1:
                return self.mlps[0](hidden_states)
            return torch.stack([mlp(hidden_states[:, i]) for i, mlp in enumerate(self.mlps)], dim=1)

    def _apply(self, fn: Any, recurse: bool = True) -> "RewardHeads":
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
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["heads"]

    def __init__(self, config: EditRewardConfig, backbone: PreTrainedModel | None = None) -> None:
        """
        Args:
            config: The model's configuration.
            backbone: A loaded backbone to build on, in place of a new one.
        """
        super().__init__(config)
        if backbone is None:
            _set_backbone_attention(config.backbone_config, config._attn_implementation)
            backbone = AutoModel.from_config(config.backbone_config)
        self.backbone = backbone
        # One object, so that a change of attention reaches the layers, which hold on to their configuration.
        config.backbone_config = backbone.config
        _set_backbone_attention(config.backbone_config, config._attn_implementation)
        self.heads = RewardHeads(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # The backbone initialises itself. Its small normal distribution would leave heads of this depth with next to no
        # gradient, so their layers take torch's default.
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
        hub_kwargs: dict[str, Any] | None = None,
        **config: Any,
    ) -> "EditRewardModel":
        """Start a reward model from a vision-language model: drop its language-model head, add heads and reward tokens.

        Args:
            name_or_path: Folder or Hub id of a Qwen2.5-VL, MiMo-VL or Qwen3-VL checkpoint.
            dtype: The backbone's; by default that of its checkpoint. The heads are in float32 or wider.
            attn_implementation: As in `from_pretrained`.
            hub_kwargs: `revision`, `token`, `cache_dir` ... to load the backbone with.
            config: Fields of [`EditRewardConfig`].
        """
        hub_kwargs = hub_kwargs or {}
        backbone = AutoModel.from_pretrained(name_or_path, dtype=dtype, **hub_kwargs)
        reward_config = EditRewardConfig(backbone_config=backbone.config, dtype=backbone.dtype, **config)
        reward_config._attn_implementation = attn_implementation
        model = cls(reward_config, backbone)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **hub_kwargs)
        tokenizer.add_tokens(reward_tokens(reward_config.layout, reward_config.dimensions), special_tokens=True)
        # Backbones pad their embeddings beyond the tokenizer; only too few rows need new ones.
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer))
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but a checkpoint that lacks weights is an error rather than a warning.

        Raises:
            ValueError: If weights are missing, named in the message: random ones would give random scores.
        """
        with_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        missing = sorted(info["missing_keys"])
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks weights of the model: {shown}. Is it an EditReward checkpoint, "
                "saved whole? A reward model on a plain VLM starts with `EditRewardModel.from_backbone`."
            )
        return (model, info) if with_info else model

    def set_attn_implementation(self, attn_implementation: str | dict, *args: Any, **kwargs: Any) -> None:
        """As in transformers; `flex_attention` sets tree attention in the language model and sdpa in the rest."""
        if attn_implementation == "flex_attention":
            super().set_attn_implementation("sdpa", *args, **kwargs)
            self.config._attn_implementation_internal = "flex_attention"
            _set_backbone_attention(self.config.backbone_config, "flex_attention")
        else:
            super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.backbone.set_input_embeddings(value)

    def forward(
        self,
        input_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        segment_parents: torch.Tensor,
        position_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.Tensor,
        reward_positions: torch.Tensor,
        group_index: torch.Tensor,
        packing: str | None = None,
        **kwargs: Any,
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
            packing (`str`, *optional*): `tree` runs a group as one row under a tree mask; `unpacked` runs each
                root-to-leaf path as a row. By default unpacked for flash attention, which knows no masks, tree
                otherwise. Scores are the same.
            kwargs: Passed to the backbone's language model.
        """
        attention = self.config.get_text_config()._attn_implementation
        packing = packing or ("tree" if attention in MASKED_ATTENTION else "unpacked")
        if packing not in PACKINGS:
            raise ValueError(f"`packing` is {packing!r}; choose one of: {', '.join(PACKINGS)}.")
        if packing == "tree" and attention not in MASKED_ATTENTION:
            raise ValueError(f"Attention {attention!r} cannot run a tree mask; use `packing='unpacked'`.")

        features, deepstack = self._encode_images(pixel_values, image_grid_thw)
        is_visual = input_ids == self.config.backbone_config.image_token_id
        if int(is_visual.sum()) != len(features):
            raise ValueError(
                f"`input_ids` has places for {int(is_visual.sum())} visual tokens, the images give {len(features)}. "
                "Pass the processor's output unchanged."
            )
        inputs_embeds = self.get_input_embeddings()(input_ids)
        inputs_embeds = inputs_embeds.masked_scatter(is_visual.unsqueeze(-1), features.to(inputs_embeds.dtype))
        visual_index = (is_visual.flatten().long().cumsum(0) - 1).view_as(input_ids).masked_fill(~is_visual, -1)

        sequences = _Sequences(
            inputs_embeds, position_ids, visual_index, segment_ids, ancestor_table(segment_parents), reward_positions
        )
        if packing == "unpacked":
            sequences = sequences.unpack()
        if deepstack:
            visual_mask = sequences.visual_index >= 0
            picked = sequences.visual_index[visual_mask]
            kwargs["visual_pos_masks"] = visual_mask
            kwargs["deepstack_visual_embeds"] = [layer[picked] for layer in deepstack]
        hidden_states = self.backbone.language_model(
            inputs_embeds=sequences.inputs_embeds,
            attention_mask=sequences.attention_mask(attention),
            position_ids=sequences.position_ids,
            use_cache=False,
            **kwargs,
        ).last_hidden_state

        rows, columns = sequences.reward_positions.unbind(-1)
        mean, log_std = self.heads(hidden_states[rows, columns]).unbind(-1)
        reward, reward_log_std = aggregate(mean, log_std, self.config.aggregation, self.config.uncertainty_aggregation)
        return EditRewardOutput(
            mean=mean, log_std=log_std, reward=reward, reward_std=reward_log_std.exp(), group_index=group_index
        )

    def _encode_images(
        self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Visual tokens of all images, `(visual_tokens, hidden_size)`, and what Qwen3-VL adds in its first layers."""
        output = self.backbone.get_image_features(pixel_values, image_grid_thw, return_dict=True)
        deepstack = [torch.cat(layer) for layer in getattr(output, "deepstack_features", None) or []]
        return torch.cat(output.pooler_output), deepstack


EditRewardModel.register_for_auto_class("AutoModel")

__all__ = ["EditRewardModel", "EditRewardOutput", "aggregate"]
