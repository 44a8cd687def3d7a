"""The tiny editor as a pipeline of diffusers: source image and instruction in, edited image out."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from editreward.editors.tiny.transformer import TinyEditTransformer


class TinyEditPipeline(DiffusionPipeline):
    """Edits images of the simulated world.

    Args:
        transformer: predicts velocities.
        scheduler: the steps from noise to an image.
        tokenizer: of the instructions.
    """

    model_cpu_offload_seq = "transformer"

    def __init__(
        self,
        transformer: TinyEditTransformer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, tokenizer=tokenizer)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Images as the transformer takes them: float32 in -1..1, (batch, 3, side, side)."""
        side = self.transformer.config.sample_size
        small = [image.convert("RGB").resize((side, side), Image.Resampling.BOX) for image in images]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in small]))
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1

    def postprocess(self, images: Tensor) -> list[Image.Image]:
        """The inverse of `preprocess`, at the transformer's size."""
        pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return [Image.fromarray(one) for one in pixels.permute(0, 2, 3, 1).cpu().numpy()]

    def tokenize(self, prompts: Sequence[str], padding: bool | str = True) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (batch, tokens); longer texts are cut. `padding`: as tokenizers'."""
        tokens = self.tokenizer(
            list(prompts),
            padding=padding,
            padding_side="right",
            truncation=True,
            max_length=self.transformer.config.text_length,
            return_tensors="pt",
        )
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | Sequence[Image.Image],
        prompt: str | Sequence[str],
        num_inference_steps: int = 8,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[list[Image.Image] | np.ndarray]:
        """Edit images.

        Args:
            image: one or several, of any size; they are resized to squares of the transformer's size.
            prompt: the instruction of each.
            num_inference_steps: steps from noise to the image.
            generator: of the noise; or one for each image.
            latents: the noise itself, (batch, 3, side, side).
            output_type: "pil"; or "np" for floats of 0..1, (batch, side, side, 3).
            return_dict: give an object with `images`, not a tuple.

        Raises:
            ValueError: there are not as many images as prompts.
        """
        sources = [image] if isinstance(image, Image.Image) else list(image)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if len(sources) != len(prompts):
            raise ValueError(f"There are {len(sources)} images and {len(prompts)} prompts; give as many.")
        device = self._execution_device
        source = self.preprocess(sources).to(device)
        tokens = {name: one.to(device) for name, one in self.tokenize(prompts).items()}
        if latents is None:
            latents = randn_tensor(source.shape, generator=generator, device=device, dtype=torch.float32)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        for timestep in self.progress_bar(self.scheduler.timesteps):
            sigma = (timestep / self.scheduler.config.num_train_timesteps).expand(len(source))
            velocity = self.transformer(latents, sigma, source, **tokens).sample
            latents = self.scheduler.step(velocity, timestep, latents).prev_sample
        made = self.postprocess(latents)
        images: object = made
        if output_type == "np":
            images = np.stack([np.asarray(one) for one in made]).astype(np.float32) / 255
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
