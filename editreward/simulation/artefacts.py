"""Artefacts that lower visual quality, each in three severities, all scaling with the image side."""

import io
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from PIL.JpegPresets import presets

BASE_SIZE = 112
"""Image side, in pixels, at which the strengths below are stated."""

NOISE_BANK = 256
JPEG_TABLES = cast(list[list[int]], presets["web_low"]["quantization"])


@lru_cache(maxsize=1)
def _noise_bank() -> NDArray[np.float32]:
    """Standard normal noise to crop from, (NOISE_BANK, NOISE_BANK, 3): drawing it anew costs too much."""
    return np.random.default_rng(0).standard_normal((NOISE_BANK, NOISE_BANK, 3), dtype=np.float32)


def _blur(image: Image.Image, strength: float, rng: Random) -> Image.Image:
    """Gaussian blur; strength: radius in pixels."""
    return image.filter(ImageFilter.GaussianBlur(strength * image.width / BASE_SIZE))


def _noise(image: Image.Image, strength: float, rng: Random) -> Image.Image:
    """Gaussian noise; strength: standard deviation of 255. A grain is one pixel at `BASE_SIZE`."""
    top, left = rng.randrange(NOISE_BANK - BASE_SIZE), rng.randrange(NOISE_BANK - BASE_SIZE)
    noise = _noise_bank()[top : top + BASE_SIZE, left : left + BASE_SIZE]
    if image.width != BASE_SIZE:
        nearest = np.arange(image.width) * BASE_SIZE // image.width
        noise = noise[nearest][:, nearest]
    noisy = noise * np.float32(strength)
    noisy += np.asarray(image)
    return Image.fromarray(np.clip(noisy, 0, 255, out=noisy).astype(np.uint8))


def _jpeg(image: Image.Image, strength: float, rng: Random) -> Image.Image:
    """JPEG compression at `BASE_SIZE`; strength: factor of Pillow's low-quality quantisation tables.

    Block means keep a finer step, or a severe case would change the background's tone: that is the scene's business.
    Images of other sides get the enlarged error.
    """
    small = image if image.width == BASE_SIZE else image.resize((BASE_SIZE, BASE_SIZE), Image.Resampling.BOX)
    block_mean = min(round(12 * strength), 60)
    tables = [[block_mean, *(min(round(step * strength), 255) for step in table[1:])] for table in JPEG_TABLES]
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", qtables=tables, subsampling=0)
    decoded = Image.open(buffer).convert("RGB")
    if image.width == BASE_SIZE:
        return decoded
    nearest = np.arange(image.width) * BASE_SIZE // image.width
    residual = (np.asarray(decoded, dtype=np.int16) - np.asarray(small, dtype=np.int16))[nearest][:, nearest]
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.int16) + residual, 0, 255).astype(np.uint8))


def _blocks(image: Image.Image, strength: float, rng: Random) -> Image.Image:
    """Pixelation; strength: side of a block in pixels at `BASE_SIZE`."""
    count = max(1, round(BASE_SIZE / strength))
    return image.resize((count, count), Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


def _seams(image: Image.Image, strength: float, rng: Random) -> Image.Image:
    """A badly blended patch: shifted content, other brightness; strength: multiple of 2.2 pixels and of 18 of 255.

    The patch lies anywhere: it tells nothing about where the edit is.
    """
    side = round(image.width * (0.38 + 0.12 * strength))
    left, top = rng.randrange(image.width - side + 1), rng.randrange(image.width - side + 1)
    shift = max(1, round(2.2 * strength * image.width / BASE_SIZE))
    dx, dy = rng.choice([(shift, shift), (shift, -shift), (-shift, shift), (-shift, -shift)])
    # Pillow fills what a crop reads beyond the border with black: clamp instead.
    x, y = min(max(left + dx, 0), image.width - side), min(max(top + dy, 0), image.width - side)
    change = rng.choice([-1.0, 1.0]) * 18 * strength
    patch = image.crop((x, y, x + side, y + side)).point([min(max(round(v + change), 0), 255) for v in range(256)] * 3)
    result = image.copy()
    result.paste(patch, (left, top))
    return result


@lru_cache(maxsize=64)
def _ramp(size: int, quarter_turns: int) -> Image.Image:
    """A linear ramp ("L") from 36 to 255 in one of four directions."""
    ramp = Image.linear_gradient("L").point([36 + round(value * 219 / 255) for value in range(256)])
    return ramp.resize((size, size), Image.Resampling.BILINEAR).rotate(90 * quarter_turns)


def _cast(image: Image.Image, strength: float, rng: Random) -> Image.Image:
    """Uneven colour cast; strength: share of a saturated tint, on average over the image.

    It rises from one side to the other: an even cast on a plain background would look like an edit of the background.
    """
    tint = rng.choice([(255, 150, 0), (0, 190, 40), (40, 60, 255), (220, 0, 200), (0, 200, 230), (235, 40, 20)])
    ramp = _ramp(image.width, rng.randrange(4))
    result = image.copy()
    result.paste(tint, (0, 0, *image.size), ramp.point([round(value * strength * 1.75) for value in range(256)]))
    return result


def _ghosting(image: Image.Image, strength: float, rng: Random) -> Image.Image:
    """A shifted double image; strength: share of the second image, whose shift grows along with it."""
    shift = 18 * strength * image.width / BASE_SIZE
    dx, dy = rng.choice([(1.0, 0.35), (-1.0, 0.35), (0.8, -0.6), (-0.8, -0.6)])
    ghost = image.copy()
    ghost.paste(image, (round(dx * shift), round(dy * shift)))
    return Image.blend(image, ghost, strength)


ARTEFACTS: dict[str, tuple[Callable[[Image.Image, float, Random], Image.Image], tuple[float, float, float]]] = {
    "blur": (_blur, (0.8, 1.6, 2.9)),
    "noise": (_noise, (13.0, 26.0, 50.0)),
    "jpeg": (_jpeg, (0.95, 2.5, 9.0)),
    "blocks": (_blocks, (1.9, 3.3, 5.4)),
    "seams": (_seams, (0.5, 1.2, 2.6)),
    "cast": (_cast, (0.09, 0.18, 0.33)),
    "ghosting": (_ghosting, (0.16, 0.28, 0.45)),
}
"""Each kind's function and its strengths for visual quality 3, 2 and 1."""


def apply_artefact(image: Image.Image, kind: str, visual_quality: int, rng: Random) -> Image.Image:
    """Damage an image.

    Args:
        image: RGB, square.
        kind: a name of `ARTEFACTS`.
        visual_quality: 1 (severe), 2 (visible) or 3 (slight).
        rng: decides the jitter of the strength (a few percent), positions and directions.

    Returns:
        A new RGB image of the same size.
    """
    function, strengths = ARTEFACTS[kind]
    strength = strengths[3 - visual_quality]
    return function(image, strength * rng.uniform(0.94, 1.06), rng)
