"""The tiny `qwen2_5_vl` model: its configuration, its first weights, and one pass over packed groups."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from modeling_editreward import TreeBlocks, ancestor_table
from research.tiny_vlm.arguments import ModelArguments
from research.tiny_vlm.tokenizer import begin_as_nouns, names_things, transfer_embeddings


def build_config(args: ModelArguments, tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """The configuration of a tiny Qwen2.5-VL: full attention in every vision block, tied embeddings."""
    token_id = tokenizer.convert_tokens_to_ids
    half_head = args.hidden_size // args.heads // 2
    height_width = half_head * 3 // 8  # the shares of the published models: 16 : 24 : 24
    mrope_section = args.mrope_section or [half_head - 2 * height_width, height_width, height_width]
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": args.hidden_size,
            "intermediate_size": args.intermediate_size,
            "num_hidden_layers": args.layers,
            "num_attention_heads": args.heads,
            "num_key_value_heads": args.kv_heads,
            "max_position_embeddings": 8192,
            "max_window_layers": args.layers,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": args.rope_theta,
                "mrope_section": mrope_section,
            },
            "bos_token_id": token_id("<|endoftext|>"),
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": token_id("<|endoftext|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": args.vision_depth,
            "hidden_size": args.vision_hidden_size,
            "intermediate_size": args.vision_intermediate_size,
            "num_heads": args.vision_heads,
            "patch_size": args.patch_size,
            "spatial_merge_size": args.merge_size,
            "temporal_patch_size": 1,
            "window_size": args.image_size,
            "out_hidden_size": args.hidden_size,
            "fullatt_block_indexes": list(range(args.vision_depth)),
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build_image_processor(args: ModelArguments) -> Qwen2VLImageProcessorPil:
    """The image processor that goes with the model: every image is resized to the area it was trained on."""
    return Qwen2VLImageProcessorPil(
        min_pixels=args.image_size**2,
        max_pixels=args.image_size**2,
        patch_size=args.patch_size,
        merge_size=args.merge_size,
        temporal_patch_size=1,
    )


def build_model(args: ModelArguments, tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """The model with its first weights: random, or those of `init_from`."""
    model = Qwen2_5_VLForConditionalGeneration(build_config(args, tokenizer))
    if args.init_from:
        begin_with(model, tokenizer, args.init_from, args.insert_at)
    return model


@torch.no_grad()
def begin_with(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: str | Path, insert_at: int
) -> None:
    """Take over the weights of an earlier model of the same width, possibly shallower and with another tokenizer.

    Layers that it lacks are put before its layer `insert_at` and begin as the identity: their outputs are zero.
    """
    earlier = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    weights = earlier.state_dict()
    layers, own = earlier.config.text_config.num_hidden_layers, model.config.text_config.num_hidden_layers
    prefix = "model.language_model.layers."
    state = model.state_dict()
    for name, value in weights.items():
        if name.startswith(prefix):
            number, rest = name.removeprefix(prefix).split(".", 1)
            shift = own - layers if int(number) >= insert_at else 0
            name = f"{prefix}{int(number) + shift}.{rest}"
        if "embed_tokens" in name or "lm_head" in name:
            before = AutoTokenizer.from_pretrained(folder)
            value = transfer_embeddings(before, value, tokenizer)
            if names_things(tokenizer) and not names_things(before):
                value = begin_as_nouns(value, tokenizer)
        state[name] = value
    for number in range(insert_at, insert_at + own - layers):
        for output in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
            state[f"{prefix}{number}.{output}"] = torch.zeros_like(state[f"{prefix}{number}.{output}"])
    model.load_state_dict(state)


def normalise(patches: torch.Tensor, processor: Qwen2VLImageProcessorPil) -> torch.Tensor:
    """uint8 patches (patches, 3 * area) to the normalised float32 that the model reads."""
    mean = torch.tensor(processor.image_mean).view(3, 1)
    std = torch.tensor(processor.image_std).view(3, 1)
    pixels = patches.view(len(patches), 3, -1).float() / 255
    return ((pixels - mean) / std).flatten(1)


def image_features(visual: Qwen2_5_VisionTransformerPretrainedModel, pixel_values: Tensor, side: int) -> Tensor:
    """What the vision tower gives of square images of one size: (image tokens, hidden_size), as `get_image_features`.

    Two thirds more images a second than its own way, which knows images of all sizes.

    Args:
        pixel_values: (images * side * side, 3 * area) in the processor's order.
        side: patches along one side.
    """
    config = visual.config
    merge, heads, patches = config.spatial_merge_size, config.num_heads, side * side
    rows, columns = (
        at.reshape(side // merge, merge, side // merge, merge).transpose(1, 2).reshape(-1, 1).float()
        for at in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    )
    quarter = config.hidden_size // heads // 4
    frequencies = 10000.0 ** (-torch.arange(quarter) / quarter)
    angles = torch.cat([rows * frequencies, columns * frequencies], dim=-1)
    angles = torch.cat([angles, angles], dim=-1)
    hidden = F.linear(pixel_values, visual.patch_embed.proj.weight.flatten(1)).view(-1, patches, config.hidden_size)

    def turned(one: Tensor) -> Tensor:
        first, second = one.chunk(2, dim=-1)
        return one * angles.cos().to(one.dtype) + torch.cat([-second, first], dim=-1) * angles.sin().to(one.dtype)

    for block in visual.blocks:
        qkv = block.attn.qkv(block.norm1(hidden)).view(len(hidden), patches, 3, heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(turned(qkv[0]), turned(qkv[1]), qkv[2])
        hidden = hidden + block.attn.proj(attended.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    features: Tensor = visual.merger(hidden.flatten(0, 1))
    return features


def run_packed(
    model: Qwen2_5_VLForConditionalGeneration,
    batch: dict[str, Any],
    processor: Qwen2VLImageProcessorPil,
    depth: int | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Run the model on a batch of packed groups.

    Args:
        depth: run only so many layers of the language model.

    Returns:
        Image features (image tokens, hidden_size), and the outputs (groups, length, hidden_size) of the layers, that
        of the last one normalised.
    """
    vlm, vision = model.model, model.config.vision_config
    language_model = vlm.language_model
    hidden = language_model.embed_tokens(batch["input_ids"])
    features = hidden[0, :0]
    if len(batch["patches"]):
        side = int(processor.size["longest_edge"] ** 0.5 // vision.patch_size)
        features = image_features(vlm.visual, normalise(batch["patches"], processor), side)
        image_mask = batch["input_ids"] == model.config.image_token_id
        hidden = hidden.masked_scatter(image_mask[..., None], features.to(hidden.dtype))
    position_embeddings = language_model.rotary_emb(hidden, batch["position_ids"])
    tree_blocks = TreeBlocks.of(batch["segment_ids"], ancestor_table(batch["segment_parents"]))
    states = []
    for layer in language_model.layers[:depth]:
        hidden = layer(hidden, attention_mask=None, position_embeddings=position_embeddings, tree_blocks=tree_blocks)
        states.append(hidden)
    if len(states) == len(language_model.layers):
        states[-1] = language_model.norm(hidden)
    return features, states
