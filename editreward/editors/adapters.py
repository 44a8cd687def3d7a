"""What differs between editors that can be trained: from images and instructions to a velocity, and back to images.

A new pipeline is one subclass of `EditAdapter`, and a line in `ADAPTERS`.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor, nn

Conditions: TypeAlias = dict[str, Tensor]
"""What the transformer sees beside the noisy edit; the samples are the first dimension of each tensor."""


def repeat(conditions: Mapping[str, Tensor], times: int) -> Conditions:
    """Each sample `times` times, one after another."""
    return {name: one.repeat_interleave(times, 0) for name, one in conditions.items()}


def select(conditions: Mapping[str, Tensor], index: int | slice | Tensor) -> Conditions:
    """Some of the samples."""
    return {name: one[index] for name, one in conditions.items()}


class EditAdapter(ABC):
    """A pipeline whose transformer is trained.

    Args:
        pipeline: of diffusers.
        resolution: side in pixels of the square that sources and edits are resized to.
        guidance: how strongly the instruction guides; what that is, is the pipeline's affair.

    Attributes:
        lora_targets: names of the linear layers that LoRA adapts.
        needs: parts of the pipeline that must be there.
    """

    lora_targets: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[str, ...]] = ("transformer", "scheduler", "tokenizer")

    def __init__(self, pipeline: DiffusionPipeline, resolution: int, guidance: float) -> None:
        for name in self.needs:
            if getattr(pipeline, name, None) is None:
                raise ValueError(
                    f"The pipeline {type(pipeline).__name__} has no {name}, which training needs. Take a checkpoint "
                    "that has one, or load it without leaving parts out."
                )
        if not hasattr(pipeline.scheduler, "sigmas") or "FlowMatch" not in type(pipeline.scheduler).__name__:
            raise ValueError(
                f"The scheduler {type(pipeline.scheduler).__name__} is none of flow matching: only flow-matching "
                "editors can be trained here."
            )
        self.pipeline, self.resolution, self.guidance = pipeline, resolution, guidance
        self.device = torch.device("cpu")
        for part in self.frozen_modules():
            part.eval()  # a text encoder built anew would drop out

    @property
    def transformer(self) -> nn.Module:
        """What is trained; everything else stays as it is."""
        transformer: nn.Module = self.pipeline.transformer
        return transformer

    def frozen_modules(self) -> Iterator[nn.Module]:
        """The other networks of the pipeline."""
        for name, part in self.pipeline.components.items():
            if name != "transformer" and isinstance(part, nn.Module):
                yield part

    def square(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """The images at the size of training."""
        side = (self.resolution, self.resolution)
        return [image.convert("RGB").resize(side, Image.Resampling.LANCZOS) for image in images]

    @abstractmethod
    def encode(self, sources: Sequence[Image.Image], instructions: Sequence[str]) -> Conditions:
        """Conditions of edits, one for each source and its instruction."""

    @abstractmethod
    def latents(self, images: Sequence[Image.Image]) -> Tensor:
        """Clean edits as the transformer sees them, (batch, ...)."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one edit as the transformer sees it."""

    @abstractmethod
    def velocity(self, transformer: nn.Module, latents: Tensor, level: Tensor, conditions: Conditions) -> Tensor:
        """Velocities of noisy edits, float32.

        Args:
            transformer: `self.transformer`, or what a trainer has wrapped it in.
            latents: noisy edits, (batch, *latent_shape).
            level: (batch,), 0..1.
            conditions: as `encode` gives them.
        """

    @abstractmethod
    def images(self, latents: Tensor) -> list[Image.Image]:
        """The inverse of `latents`."""

    def levels(self, steps: int) -> Tensor:
        """Noise levels from 1 to 0 as the pipeline goes through them: (steps + 1,)."""
        scheduler = self.pipeline.scheduler
        scheduler.set_timesteps(steps)
        levels: Tensor = scheduler.sigmas.float().cpu()
        return levels


class TinyAdapter(EditAdapter):
    """The tiny editor of the simulated world; it has no guidance and one size."""

    lora_targets = ("to_qkv", "to_out", "to_gate_up", "to_down")

    def encode(self, sources: Sequence[Image.Image], instructions: Sequence[str]) -> Conditions:
        """See `EditAdapter`. Padding goes to the greatest length, so that batches can be joined."""
        tokens = self.pipeline.tokenize(instructions, padding="max_length")
        return {"source": self.latents(sources), **{name: one.to(self.device) for name, one in tokens.items()}}

    def latents(self, images: Sequence[Image.Image]) -> Tensor:
        """See `EditAdapter`: pixels in -1..1."""
        made: Tensor = self.pipeline.preprocess(images).to(self.device)
        return made

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """See `EditAdapter`."""
        side = self.pipeline.transformer.config.sample_size
        return 3, side, side

    def velocity(self, transformer: nn.Module, latents: Tensor, level: Tensor, conditions: Conditions) -> Tensor:
        """See `EditAdapter`."""
        longest = int(conditions["attention_mask"].sum(1).max())
        ids, mask = conditions["input_ids"][:, :longest], conditions["attention_mask"][:, :longest]
        made: Tensor = transformer(latents, level, conditions["source"], ids, mask, return_dict=False)[0]
        return made

    def images(self, latents: Tensor) -> list[Image.Image]:
        """See `EditAdapter`."""
        made: list[Image.Image] = self.pipeline.postprocess(latents)
        return made


class LatentAdapter(EditAdapter):
    """Editors in the latent space of a VAE, packed 2 x 2, whose transformer sees the source after the noisy edit."""

    needs: ClassVar[tuple[str, ...]] = ("transformer", "scheduler", "tokenizer", "text_encoder", "vae")

    def __init__(self, pipeline: DiffusionPipeline, resolution: int, guidance: float) -> None:
        super().__init__(pipeline, resolution, guidance)
        multiple = 2 * pipeline.vae_scale_factor
        if resolution % multiple:
            raise ValueError(
                f"`resolution` is {resolution}; {type(pipeline).__name__} needs a multiple of {multiple}."
            )
        self.processor: VaeImageProcessor = pipeline.image_processor

    def latents(self, images: Sequence[Image.Image]) -> Tensor:
        """See `EditAdapter`: packed, (batch, tokens, channels)."""
        pixels = self.pixels(images)
        nothing = torch.zeros(len(images), *self.latent_shape, device=self.device)
        packed: Tensor = self.pipeline.prepare_latents(
            pixels.to(self.pipeline.vae.dtype),
            len(images),
            self.channels,
            self.resolution,
            self.resolution,
            self.pipeline.vae.dtype,
            self.device,
            None,
            nothing,
        )[1]
        return packed.float()

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Images as the VAE takes them."""
        made: Tensor = self.processor.preprocess(self.square(images), self.resolution, self.resolution)
        return made

    @property
    def channels(self) -> int:
        """Of a latent, before packing."""
        return int(self.pipeline.latent_channels)

    @property
    def side(self) -> int:
        """Tokens of an edit along one side."""
        return int(self.resolution // (2 * self.pipeline.vae_scale_factor))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """See `EditAdapter`."""
        return self.side**2, 4 * self.channels

    def levels(self, steps: int) -> Tensor:
        """See `EditAdapter`: shifted by the number of tokens, as both pipelines do."""
        scheduler = self.pipeline.scheduler
        config = scheduler.config
        few, many = config.base_image_seq_len, config.max_image_seq_len
        slope = (config.max_shift - config.base_shift) / (many - few)
        shift = config.base_shift + slope * (self.side**2 - few)
        options = {"mu": shift} if config.use_dynamic_shifting else {}
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **options)
        levels: Tensor = scheduler.sigmas.float().cpu()
        return levels


class FluxKontextAdapter(LatentAdapter):
    """FLUX.1 Kontext; guidance is an input of the network where it was distilled."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    needs = (*LatentAdapter.needs, "text_encoder_2", "tokenizer_2")
    most_tokens = 512

    def encode(self, sources: Sequence[Image.Image], instructions: Sequence[str]) -> Conditions:
        """See `EditAdapter`."""
        embeds, pooled, _ = self.pipeline.encode_prompt(
            list(instructions), None, device=self.device, max_sequence_length=self.most_tokens
        )
        return {"source": self.latents(sources), "embeds": embeds, "pooled": pooled}

    def velocity(self, transformer: nn.Module, latents: Tensor, level: Tensor, conditions: Conditions) -> Tensor:
        """See `EditAdapter`."""
        dtype = conditions["embeds"].dtype
        positions = torch.zeros(2, self.side, self.side, 3, device=latents.device)
        positions[1, ..., 0] = 1  # the source's
        positions[..., 1] = torch.arange(self.side)[:, None]
        positions[..., 2] = torch.arange(self.side)
        guidance = None
        if self.pipeline.transformer.config.guidance_embeds:
            guidance = torch.full_like(level, self.guidance)
        made: Tensor = transformer(
            hidden_states=torch.cat([latents, conditions["source"]], dim=1).to(dtype),
            timestep=level,
            guidance=guidance,
            pooled_projections=conditions["pooled"],
            encoder_hidden_states=conditions["embeds"],
            txt_ids=torch.zeros(conditions["embeds"].shape[1], 3, device=latents.device),
            img_ids=positions.reshape(-1, 3),
            return_dict=False,
        )[0]
        return made[:, : latents.shape[1]].float()

    def images(self, latents: Tensor) -> list[Image.Image]:
        """See `EditAdapter`."""
        vae = self.pipeline.vae
        unpacked = self.pipeline._unpack_latents(
            latents, self.resolution, self.resolution, self.pipeline.vae_scale_factor
        )
        unpacked = unpacked / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(unpacked.to(vae.dtype), return_dict=False)[0]
        made: list[Image.Image] = self.processor.postprocess(pixels.float(), output_type="pil")
        return made


class QwenImageEditAdapter(LatentAdapter):
    """Qwen-Image-Edit; `guidance` above 1 is classifier-free, against an empty text, rescaled as there."""

    lora_targets = FluxKontextAdapter.lora_targets
    needs = (*LatentAdapter.needs, "processor")

    def encode(self, sources: Sequence[Image.Image], instructions: Sequence[str]) -> Conditions:
        """See `EditAdapter`. Embeddings are padded to one length, so that batches can be joined."""
        made: Conditions = {"source": self.latents(sources)}
        images = self.square(sources)
        made |= self._text(images, list(instructions), "")
        if self.guidance > 1:
            made |= self._text(images, [" "] * len(images), "negative_")
        return made

    def _text(self, images: list[Image.Image], texts: list[str], prefix: str) -> Conditions:
        embeds, mask = self.pipeline.encode_prompt(texts, images, device=self.device)
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        return {f"{prefix}embeds": embeds, f"{prefix}mask": mask}

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """See `LatentAdapter`: the VAE is one of videos."""
        return super().pixels(images).unsqueeze(2)

    def velocity(self, transformer: nn.Module, latents: Tensor, level: Tensor, conditions: Conditions) -> Tensor:
        """See `EditAdapter`."""
        made = self._one(transformer, latents, level, conditions, "")
        if self.guidance <= 1:
            return made
        without = self._one(transformer, latents, level, conditions, "negative_")
        guided = without + self.guidance * (made - without)
        return guided * (made.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def _one(
        self, transformer: nn.Module, latents: Tensor, level: Tensor, conditions: Conditions, prefix: str
    ) -> Tensor:
        embeds, mask = conditions[f"{prefix}embeds"], conditions[f"{prefix}mask"]
        longest = int(mask.sum(1).max())
        embeds, mask = embeds[:, :longest], mask[:, :longest]
        guidance = None
        if self.pipeline.transformer.config.guidance_embeds:
            guidance = torch.full_like(level, self.guidance)
        made: Tensor = transformer(
            hidden_states=torch.cat([latents, conditions["source"]], dim=1).to(embeds.dtype),
            timestep=level,
            guidance=guidance,
            encoder_hidden_states_mask=None if mask.all() else mask,
            encoder_hidden_states=embeds,
            img_shapes=[[(1, self.side, self.side)] * 2] * len(latents),
            return_dict=False,
        )[0]
        return made[:, : latents.shape[1]].float()

    def images(self, latents: Tensor) -> list[Image.Image]:
        """See `EditAdapter`."""
        vae = self.pipeline.vae
        unpacked = self.pipeline._unpack_latents(
            latents, self.resolution, self.resolution, self.pipeline.vae_scale_factor
        )
        std, mean = (
            torch.tensor(one, device=latents.device).view(1, -1, 1, 1, 1)
            for one in (vae.config.latents_std, vae.config.latents_mean)
        )
        pixels = vae.decode((unpacked * std + mean).to(vae.dtype), return_dict=False)[0][:, :, 0]
        made: list[Image.Image] = self.processor.postprocess(pixels.float(), output_type="pil")
        return made


ADAPTERS: dict[str, type[EditAdapter]] = {
    "TinyEditPipeline": TinyAdapter,
    "FluxKontextPipeline": FluxKontextAdapter,
    "QwenImageEditPipeline": QwenImageEditAdapter,
}
"""By the name of the pipeline's class."""


def adapter_for(pipeline: DiffusionPipeline, resolution: int, guidance: float) -> EditAdapter:
    """The adapter of a pipeline.

    Raises:
        ValueError: there is none, or the pipeline has not what training needs.
    """
    for base in type(pipeline).__mro__:
        if base.__name__ in ADAPTERS:
            return ADAPTERS[base.__name__](pipeline, resolution, guidance)
    raise ValueError(
        f"There is no adapter for {type(pipeline).__name__}: {', '.join(ADAPTERS)} can be trained. A new one is a "
        "subclass of EditAdapter (docs/editors.md)."
    )


def join(parts: Sequence[Mapping[str, Tensor]]) -> Conditions:
    """Conditions of several batches as one; texts are padded with zeros at the end."""
    made: Conditions = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        longest = max(column.shape[1] for column in columns)
        padded = []
        for column in columns:
            missing = longest - column.shape[1]
            padding = [0, 0] * (column.ndim - 2) + [0, missing]
            padded.append(nn.functional.pad(column, padding) if missing else column)
        made[name] = torch.cat(padded)
    return made


@contextlib.contextmanager
def without_gradients(*modules: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients."""
    training = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, was in zip(modules, training, strict=True):
            module.train(was)
