"""Tiny random editors: real classes of diffusers, with a tokenizer that is at hand."""

from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, BatchFeature

from editreward.resources import resource

SIZE = 32
"""Side of the images that tests edit; the tiny editor's own is 16."""


def picture(seed: int, size: int = SIZE) -> Image.Image:
    """A smooth random image."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


@cache
def _tokenizer(length: int) -> Any:
    return AutoTokenizer.from_pretrained(resource("checkpoints/tiny-vlm"), model_max_length=length)


def tiny_editor(seed: int = 0) -> Any:
    """The tiny editor, tinier: 16 pixels."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from editreward.editors.tiny.pipeline import TinyEditPipeline
    from editreward.editors.tiny.transformer import TinyEditTransformer

    torch.manual_seed(seed)
    tokenizer = _tokenizer(64)
    transformer = TinyEditTransformer(
        sample_size=16, patch_size=8, width=16, heads=2, layers=1, inner=16, vocab_size=len(tokenizer), text_length=24
    )
    for parameter in transformer.to_pixels.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return _quiet(TinyEditPipeline(transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), tokenizer))


def flux_kontext() -> Any:
    """FLUX.1 Kontext, random, with the guidance of the distilled one."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxKontextPipeline,
        FluxTransformer2DModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    torch.manual_seed(0)
    words = len(_tokenizer(77))
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    clip = CLIPTextConfig(
        vocab_size=words,
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=2,
    )
    t5 = T5Config(vocab_size=words, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipeline = FluxKontextPipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=_tokenizer(77),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=_tokenizer(24),
        transformer=transformer,
    )
    return _quiet(pipeline)


class SmallProcessor:
    """What Qwen-Image-Edit asks of its processor; the real one needs torchvision."""

    def __init__(self, tokenizer: Any) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self.tokenizer = tokenizer
        self.images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28)

    def __call__(self, text: list[str], images: Any, padding: bool, return_tensors: str) -> BatchFeature:
        """Tokens, with as many of each image as it has patches; and the patches."""
        seen = self.images(images=images, return_tensors="pt")
        counts = (seen["image_grid_thw"].prod(1) // self.images.merge_size**2).tolist()
        texts = [one.replace("<|image_pad|>", "<|image_pad|>" * n) for one, n in zip(text, counts, strict=True)]
        tokens = self.tokenizer(texts, padding=padding, padding_side="right", return_tensors="pt")
        return BatchFeature(
            {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], **dict(seen)}
        )


def qwen_image_edit() -> Any:
    """Qwen-Image-Edit, random, with a processor that needs no torchvision."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = _tokenizer(1000)
    image_token, start = (tokenizer.convert_tokens_to_ids(one) for one in ("<|image_pad|>", "<|vision_start|>"))
    text_encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": len(tokenizer),
                "rope_parameters": {"mrope_section": [1, 1, 2], "rope_theta": 10000.0, "rope_type": "default"},
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
                "fullatt_block_indexes": [0],
            },
            image_token_id=image_token,
            vision_start_token_id=start,
        )
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, 0.0, -0.2, 0.3],
        latents_std=[1.5, 1.0, 0.5, 2.0],
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    pipeline = QwenImageEditPipeline(scheduler, vae, text_encoder, tokenizer, SmallProcessor(tokenizer), transformer)
    return _quiet(pipeline)


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
