"""Images for a vision-language model: patches as its image processor, or as the published EditScore, makes them."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from editreward.groups.group import ImageInput
from images_editreward import load_image, stored_image

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

ImageRoute = Literal["upright", "published", "published_batch"]
"""`upright`: as everywhere here, the photograph upright, on white, resized by Pillow. `published`: as EditScore's
`evaluate` does with Hugging Face models. `published_batch`: as its `batch_evaluate`, where Qwen3-VL's images are
resized twice."""

DEFAULT_MAX_PIXELS = 1024 * 1024
"""Of an image on the route `upright`; the published code has next to no limit."""
UTILS_FACTOR, UTILS_MIN, UTILS_MAX = 28, 4 * 28**2, 16384 * 28**2
"""What the published code has its images resized to first: multiples of 28, pixels at least and at most."""


@dataclass(frozen=True)
class ImagePatches:
    """An image as the vision tower takes it.

    Attributes:
        patches: of shape (patches, patch_dim), float32.
        grid: frames, rows and columns of patches.
        tokens: that the language model sees of it.
        key: hash of its resized pixels; equal for equal images.
    """

    patches: Tensor
    grid: tuple[int, int, int]
    tokens: int
    key: str


class ImageReader:
    """Makes patches.

    Args:
        processor: the model's own image processor, for its sizes, means and standard deviations.
        model_type: `qwen2_5_vl` or `qwen3_vl`.
        route: see `ImageRoute`.
        max_pixels: of an image on the route `upright`; by default what the processor says, at most a megapixel.
    """

    def __init__(
        self,
        processor: "BaseImageProcessor",
        model_type: str,
        route: ImageRoute = "upright",
        max_pixels: int | None = None,
    ) -> None:
        self.processor, self.model_type, self.route = processor, model_type, route
        self.factor = processor.patch_size * processor.merge_size
        self.smallest, self.largest = processor.size["shortest_edge"], processor.size["longest_edge"]
        if route == "upright":
            self.largest = min(self.largest, max_pixels or DEFAULT_MAX_PIXELS)
            self.smallest = min(self.smallest, self.largest)

    def __call__(self, image: ImageInput, name: str = "image") -> ImagePatches:
        """Patches of an image.

        Args:
            image: in any form that `load_image` takes.
            name: what error messages call it.

        Raises:
            ImageError: it cannot be read.
            ValueError: it is longer than 200:1.
        """
        pixels = self.resized(image, name)
        pixels = np.ascontiguousarray(pixels)
        key = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
        made = self.processor.preprocess([Image.fromarray(pixels)], do_resize=False, return_tensors="pt")
        grid = tuple(made["image_grid_thw"][0].tolist())
        tokens = grid[0] * grid[1] * grid[2] // self.processor.merge_size**2
        return ImagePatches(made["pixel_values"], grid, tokens, key)

    def resized(self, image: ImageInput, name: str = "image") -> np.ndarray:
        """The pixels that the tower sees: (height, width, 3), 0..255."""
        if self.route == "upright":
            return np.asarray(self._by_pillow(load_image(image, name)))
        opened = stored_image(image, name)
        is_first_by_utils = self.model_type == "qwen2_5_vl"
        if is_first_by_utils or self.route == "published_batch":
            opened = _on_white(opened)
            height, width = smart_resize(opened.height, opened.width, UTILS_FACTOR, UTILS_MIN, UTILS_MAX)
            opened = opened.resize((width, height))
        if is_first_by_utils:
            return np.asarray(opened)
        return self._by_torch(opened.convert("RGB"))

    def _size(self, image: Image.Image) -> tuple[int, int]:
        height, width = smart_resize(image.height, image.width, self.factor, self.smallest, self.largest)
        return height, width

    def _by_pillow(self, image: Image.Image) -> Image.Image:
        height, width = self._size(image)
        return image.resize((width, height), Image.Resampling.BICUBIC)

    def _by_torch(self, image: Image.Image) -> np.ndarray:
        """As torchvision resizes 8-bit images, bicubically with antialiasing."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
        if pixels.shape[-2:] != self._size(image):
            pixels = F.interpolate(pixels, self._size(image), mode="bicubic", antialias=True)
        return pixels[0].permute(1, 2, 0).numpy()


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("RGB")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas
