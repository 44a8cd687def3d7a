"""Images as the vision tower takes them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image


def to_patches(images: Sequence[Image.Image | np.ndarray], patch_size: int, merge_size: int) -> np.ndarray:
    """Cut equal-sized RGB images into patches in the order of `Qwen2VLImageProcessorPil`, without normalising.

    Returns uint8 of shape (images * patches, 3 * patch_size * patch_size).
    """
    pixels = np.stack([np.asarray(image) for image in images])
    count, height, width, channels = pixels.shape
    blocks = (height // patch_size // merge_size, width // patch_size // merge_size)
    pixels = pixels.reshape(count, blocks[0], merge_size, patch_size, blocks[1], merge_size, patch_size, channels)
    return pixels.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, channels * patch_size**2)
