"""Scorers to compare with: likeness to the source, which needs no weights, CLIP and LPIPS.

Likeness to the source says nothing about the instruction: whatever it gets right, a benchmark gives away without it.
All images are turned upright and put on white first; an edited image of another size is resized to the source's,
bicubically. Of several source images the first counts.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from editreward.data.images import HASH_BITS, flatten, perceptual_hash, read_image
from editreward.scorers.scorers import (
    EditGroup,
    GroupScores,
    Unscored,
    content_hash,
    fingerprint_of,
    saved_hash,
    versions,
)
from editreward.scorers.scorers import weights_hash as hash_of_weights

Likeness: TypeAlias = Callable[[Image.Image, Image.Image], float]
"""From a source image and an edited one of its size, both RGB, to a number that is higher the more they are alike."""

CLIP_MODEL = "openai/clip-vit-large-patch14"
NEUTRAL_TEXT = "a photo"
HIGHEST_PSNR = 100.0
CODE = content_hash(Path(__file__).read_bytes())[:16]
"""Part of the fingerprints: other code may give other numbers."""

SMALLEST_CHANGE = 1e-4
"""Distance of unit vectors in float32 that is more than rounding."""


def decode(data: bytes) -> Image.Image:
    """An image file as an upright RGB image.

    Raises:
        ValueError: it cannot be decoded.
    """
    return flatten(read_image({"bytes": data, "path": None}))


def resized_to(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at another size, resized bicubically."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def psnr(source: Image.Image, edited: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB; at most 100, which stands for equal images, too."""
    error = np.mean((_pixels(source) - _pixels(edited)) ** 2)
    return min(HIGHEST_PSNR, float(10 * np.log10(255**2 / error))) if error else HIGHEST_PSNR


def ssim(source: Image.Image, edited: Image.Image) -> float:
    """Structural similarity with the Gaussian window of Wang et al. 2004, mean over the channels; 1 for equal images.

    Raises:
        ValueError: the images have less than 11 pixels on a side.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            _pixels(source),
            _pixels(edited),
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def pixel_likeness(source: Image.Image, edited: Image.Image) -> float:
    """Minus the mean absolute change of a pixel's channels, 0..255."""
    return -float(np.mean(np.abs(_pixels(source) - _pixels(edited))))


def hash_likeness(source: Image.Image, edited: Image.Image) -> float:
    """Share of the 64 bits of the perceptual hashes that are equal; blind to colour and small changes."""
    return 1 - (perceptual_hash(source) ^ perceptual_hash(edited)).bit_count() / HASH_BITS


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


LIKENESSES: dict[str, tuple[Likeness, tuple[str, ...]]] = {
    "psnr": (psnr, ("pillow",)),
    "ssim": (ssim, ("pillow", "scikit-image")),
    "pixels": (pixel_likeness, ("pillow",)),
    "phash": (hash_likeness, ("pillow", "ImageHash")),
}
"""By the value of `--scorer`: the function, and the packages that its numbers depend on."""


class SourceLikeness:
    """Prefers the edits that are most like the source.

    Args:
        name: key of `LIKENESSES`.

    Raises:
        ValueError: a package is missing; the message says how to install it.
    """

    def __init__(self, name: str) -> None:
        self.likeness, packages = LIKENESSES[name]
        self.name = f"{name} to the source"
        try:
            self.fingerprint = fingerprint_of(scorer=name, code=CODE, versions=versions(*packages))
        except ModuleNotFoundError as error:
            raise ValueError(f"The scorer {name!r} needs {error.name}: pip install 'editreward[eval]'.") from error

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        return [_or_unscored(self._score, group) for group in groups]

    def _score(self, group: EditGroup) -> GroupScores:
        source = decode(group.sources[0])
        return GroupScores([self.likeness(source, resized_to(decode(edited), source.size)) for edited in group.edited])


class Lpips:
    """Prefers the edits with the smallest LPIPS distance to the source (Zhang et al. 2018), by the `lpips` package.

    Args:
        net: backbone, "alex", "vgg" or "squeeze"; its weights are downloaded at the first use.
        device: where to run.

    Raises:
        ValueError: the package or its weights are missing.
    """

    def __init__(self, net: str = "alex", device: str = "cpu") -> None:
        try:
            import lpips
        except ImportError as error:
            raise ValueError("The scorer 'lpips' needs lpips and torchvision: pip install lpips.") from error
        try:
            self.distance = lpips.LPIPS(net=net, verbose=False).to(device).eval()
        except OSError as error:
            raise ValueError(f"The weights of LPIPS ({net}) are not here and cannot be downloaded: {error}") from error
        self.device = device
        self.name = f"LPIPS ({net}) to the source"
        self.fingerprint = fingerprint_of(
            scorer="lpips",
            code=CODE,
            weights=hash_of_weights(self.distance),
            device=device,
            versions=versions("lpips", "torch"),
        )

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        return [_or_unscored(self._score, group) for group in groups]

    def _score(self, group: EditGroup) -> GroupScores:
        import torch

        source = decode(group.sources[0])
        images = [source, *(resized_to(decode(edited), source.size) for edited in group.edited)]
        # The network takes channels first, from -1 to 1.
        tensors = [torch.from_numpy(_pixels(image) / 127.5 - 1).float().permute(2, 0, 1)[None] for image in images]
        with torch.no_grad():
            first, *rest = [tensor.to(self.device) for tensor in tensors]
            return GroupScores([-float(self.distance(first, edited)) for edited in rest])


class Clip:
    """Cosines between CLIP embeddings.

    Without `directional` between an edited image and the instruction. With it between the change of the image (edited
    minus source) and the instruction minus "a photo": the directional similarity of Gal et al. 2021, with the
    instruction in the place of captions, which benchmarks of edits have not. Instructions are cut at CLIP's 77 tokens.

    Args:
        model, processor: a `CLIPModel`, on the device where it is to run, and its `CLIPProcessor`.
        directional: which of the two.
    """

    def __init__(self, model: Any, processor: Any, directional: bool = False) -> None:
        self.model, self.processor, self.directional = model.eval(), processor, directional
        self.revision: str | None = getattr(model.config, "_commit_hash", None)
        self.name = "CLIP directional similarity" if directional else "CLIP similarity to the instruction"
        self.fingerprint = fingerprint_of(
            scorer="clip",
            code=CODE,
            directional=directional,
            neutral=NEUTRAL_TEXT,
            weights=hash_of_weights(model),
            processor=saved_hash(processor),
            dtype=str(model.dtype),
            device=model.device.type,
            versions=versions("torch", "transformers", "pillow"),
        )

    @classmethod
    def from_pretrained(
        cls, name: str | None = None, directional: bool = False, device: str = "cpu", revision: str | None = None
    ) -> "Clip":
        """Load a CLIP model, by default OpenAI's ViT-L/14.

        Args:
            name: folder, or id on the Hub.
            directional: see the class.
            device: where it is to run.
            revision: commit, branch or tag of a model on the Hub; by default the newest commit.

        Raises:
            ValueError: there is no such model here or on the Hub, or it is no CLIP model.
        """
        import torch
        from transformers import AutoConfig, AutoTokenizer, CLIPModel, CLIPProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        name = name or CLIP_MODEL
        try:
            config = AutoConfig.from_pretrained(name, revision=revision)
            if config.model_type != "clip":
                raise ValueError(f"{name} is a model of type {config.model_type!r}, not a CLIP model.")
            model = CLIPModel.from_pretrained(name, revision=revision, dtype=torch.float32).to(device)
            # Pillow's resizing, whether or not torchvision is installed: the two give other pixels.
            images = CLIPImageProcessorPil.from_pretrained(name, revision=revision)
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
            processor = CLIPProcessor(image_processor=images, tokenizer=tokenizer)
        except OSError as error:
            raise ValueError(f"The CLIP model {name} is neither a folder nor can it be downloaded: {error}") from error
        return cls(model, processor, directional)

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        return [_or_unscored(self._score, group) for group in groups]

    def _score(self, group: EditGroup) -> GroupScores:
        import torch

        with torch.no_grad():
            edited = self._embed_images([decode(image) for image in group.edited])
            if not self.directional:
                return GroupScores((edited @ self._embed_texts([group.instruction])[0]).tolist())
            change = edited - self._embed_images([decode(group.sources[0])])
            instruction, neutral = self._embed_texts([group.instruction, NEUTRAL_TEXT])
            # An edit that changes nothing has no direction, only rounding: its similarity is 0.
            change = torch.where(change.norm(dim=-1, keepdim=True) > SMALLEST_CHANGE, change, 0.0)
            return GroupScores(torch.cosine_similarity(change, (instruction - neutral)[None]).tolist())

    def _embed_images(self, images: list[Image.Image]) -> Any:
        """Unit vectors, shape (images, embedding size)."""
        import torch

        inputs = self.processor(images=images, return_tensors="pt").to(self.model.device)
        return torch.nn.functional.normalize(self.model.get_image_features(**inputs).pooler_output.float(), dim=-1)

    def _embed_texts(self, texts: list[str]) -> Any:
        """Unit vectors, shape (texts, embedding size)."""
        import torch

        length = self.model.config.text_config.max_position_embeddings
        options = {"padding": True, "truncation": True, "max_length": length, "return_tensors": "pt"}
        inputs = self.processor(text=texts, **options).to(self.model.device)
        return torch.nn.functional.normalize(self.model.get_text_features(**inputs).pooler_output.float(), dim=-1)


def _or_unscored(score: Callable[[EditGroup], GroupScores], group: EditGroup) -> GroupScores | Unscored:
    try:
        return score(group)
    except ValueError as error:  # an image that is broken, or too small for the method
        return Unscored(str(error))
