"""Scorers to compare with that have weights of their own: LPIPS and CLIP."""

from typing import TYPE_CHECKING

import torch
from PIL import Image

from configuration_editreward import load_tokenizer
from editreward.groups import EditGroup
from editreward.groups.group import ImageInput
from editreward.scorers.baselines import CODE, EditByEdit, Rate, decode, pixels, resized_to
from editreward.scorers.fingerprints import fingerprint_of, saved_hash, versions, weights_hash
from editreward.scorers.registry import ScorerOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

CLIP_MODEL = "openai/clip-vit-large-patch14"
NEUTRAL_TEXT = "a photo"
SMALLEST_CHANGE = 1e-4
"""Distance of unit vectors in float32 that is more than rounding."""


class Lpips(EditByEdit):
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
            weights=weights_hash(self.distance),
            device=device,
            versions=versions("lpips", "torch"),
        )

    def prepare(self, group: EditGroup) -> Rate:
        source = decode(group.sources[0])
        before = self._tensor(source)

        @torch.no_grad()
        def rate(edited: ImageInput) -> float:
            return -float(self.distance(before, self._tensor(resized_to(decode(edited), source.size))))

        return rate

    def _tensor(self, image: Image.Image) -> torch.Tensor:
        """Channels first, from -1 to 1, as the network takes it."""
        return torch.from_numpy(pixels(image) / 127.5 - 1).float().permute(2, 0, 1)[None].to(self.device)


class Clip(EditByEdit):
    """Cosines between CLIP embeddings.

    Without `directional` between an edited image and the instruction. With it between the change of the image (edited
    minus source) and the instruction minus "a photo": the directional similarity of Gal et al. 2021, with the
    instruction in the place of captions, which benchmarks of edits have not. Instructions are cut at CLIP's 77 tokens.

    Args:
        model, processor: a `CLIPModel`, on the device where it is to run, and its `CLIPProcessor`.
        directional: which of the two.
    """

    def __init__(self, model: "PreTrainedModel", processor: "ProcessorMixin", directional: bool = False) -> None:
        self.model, self.processor, self.directional = model.eval(), processor, directional
        self.revision: str | None = getattr(model.config, "_commit_hash", None)
        self.name = "CLIP directional similarity" if directional else "CLIP similarity to the instruction"
        self.fingerprint = fingerprint_of(
            scorer="clip",
            code=CODE,
            directional=directional,
            neutral=NEUTRAL_TEXT,
            weights=weights_hash(model),
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
        from transformers import AutoConfig, CLIPModel, CLIPProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        name = name or CLIP_MODEL
        try:
            config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
            if config.model_type != "clip":
                raise ValueError(f"{name} is a model of type {config.model_type!r}, not a CLIP model.")
            model = CLIPModel.from_pretrained(name, revision=revision, dtype=torch.float32).to(device)
            # Pillow's resizing, whether or not torchvision is installed: the two give other pixels.
            images = CLIPImageProcessorPil.from_pretrained(name, revision=revision)
            tokenizer = load_tokenizer(name, revision=revision)
            processor = CLIPProcessor(image_processor=images, tokenizer=tokenizer)
        except OSError as error:
            raise ValueError(f"The CLIP model {name} is neither a folder nor can it be downloaded: {error}") from error
        return cls(model, processor, directional)

    @torch.no_grad()
    def prepare(self, group: EditGroup) -> Rate:
        if not self.directional:
            wanted = self._embed_texts([group.instruction])[0]
            return lambda edited: float(self._embed_image(edited) @ wanted)
        before = self._embed_image(group.sources[0])
        instruction, neutral = self._embed_texts([group.instruction, NEUTRAL_TEXT])

        def rate(edited: ImageInput) -> float:
            change = self._embed_image(edited) - before
            if change.norm() <= SMALLEST_CHANGE:  # an edit that changes nothing has no direction, only rounding
                return 0.0
            return float(torch.cosine_similarity(change, instruction - neutral, dim=-1))

        return rate

    @torch.no_grad()
    def _embed_image(self, image: ImageInput) -> torch.Tensor:
        """Unit vector, shape (embedding size,)."""
        inputs = self.processor(images=[decode(image)], return_tensors="pt").to(self.model.device)
        return torch.nn.functional.normalize(self.model.get_image_features(**inputs).pooler_output[0].float(), dim=-1)

    def _embed_texts(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors, shape (texts, embedding size)."""
        length = self.model.config.text_config.max_position_embeddings
        options = {"padding": True, "truncation": True, "max_length": length, "return_tensors": "pt"}
        inputs = self.processor(text=texts, **options).to(self.model.device)
        return torch.nn.functional.normalize(self.model.get_text_features(**inputs).pooler_output.float(), dim=-1)


def clip_scorer(name: str, argument: str | None, options: ScorerOptions) -> Clip:
    """Made by the registry: `clip:MODEL` or `clip-directional:MODEL`."""
    return Clip.from_pretrained(argument, name == "clip-directional", options.place or "cpu", options.revision)


def lpips_scorer(name: str, argument: str | None, options: ScorerOptions) -> Lpips:
    """Made by the registry."""
    return Lpips(device=options.place or "cpu")
