"""Scorers to compare with that need no weights: chance, and likeness to the source.

Likeness to the source says nothing about the instruction: whatever it gets right, a benchmark gives away without it.
All images are turned upright and put on white first; an edited image of another size is resized to the source's,
bicubically. Of several source images the first counts.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

import images_editreward
from editreward.data.images import HASH_BITS, perceptual_hash, read_image
from editreward.groups import CandidateScore, EditGroup, EditPair, GroupScores, Unscored
from editreward.groups.group import ImageInput
from editreward.scorers.fingerprints import content_hash, fingerprint_of, versions
from editreward.scorers.registry import ScorerOptions
from images_editreward import load_image

Likeness: TypeAlias = Callable[[Image.Image, Image.Image], float]
"""From a source image and an edited one of its size, both RGB, to a number that is higher the more they are alike."""

Rate: TypeAlias = Callable[[ImageInput], float]
"""From an edited image to its score."""

HIGHEST_PSNR = 100.0
CODE = content_hash(Path(__file__).read_bytes(), Path(images_editreward.__file__).read_bytes())[:16]
"""Part of the fingerprints: other code may give other numbers."""


def decode(image: ImageInput) -> Image.Image:
    """An image as an upright RGB image.

    Raises:
        ValueError: it cannot be decoded.
    """
    return read_image(image) if isinstance(image, dict) else load_image(image)


def content_of(image: ImageInput) -> bytes:
    """What tells an image from others: the bytes of its file, or its pixels."""
    if isinstance(image, bytes):
        if not image:
            raise ValueError("the image is missing")
        return image
    if isinstance(image, str | Path) and os.path.isfile(image):  # no error for the text of a `data:` URL
        return Path(image).read_bytes()
    pixels = decode(image)
    return f"{pixels.size}".encode() + pixels.tobytes()


def resized_to(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at another size, resized bicubically."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def psnr(source: Image.Image, edited: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB; at most 100, which stands for equal images, too."""
    error = np.mean((pixels(source) - pixels(edited)) ** 2)
    return min(HIGHEST_PSNR, float(10 * np.log10(255**2 / error))) if error else HIGHEST_PSNR


SSIM_WINDOW = 11
"""Pixels of the window's side: 3.5 standard deviations to each side."""


def ssim(source: Image.Image, edited: Image.Image) -> float:
    """Structural similarity with the Gaussian window of Wang et al. 2004, mean over the channels; 1 for equal images.

    Raises:
        ValueError: the images have less than 11 pixels on a side.
    """
    from skimage.metrics import structural_similarity

    if min(source.size) < SSIM_WINDOW:
        size = f"{source.width} x {source.height}"
        raise ValueError(f"SSIM needs {SSIM_WINDOW} x {SSIM_WINDOW} pixels or more; the source image has {size}.")
    return float(
        structural_similarity(
            pixels(source),
            pixels(edited),
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def pixel_likeness(source: Image.Image, edited: Image.Image) -> float:
    """Minus the mean absolute change of a pixel's channels, 0..255."""
    return -float(np.mean(np.abs(pixels(source) - pixels(edited))))


def hash_likeness(source: Image.Image, edited: Image.Image) -> float:
    """Share of the 64 bits of the perceptual hashes that are equal; blind to colour and small changes."""
    return 1 - (perceptual_hash(source) ^ perceptual_hash(edited)).bit_count() / HASH_BITS


def pixels(image: Image.Image) -> np.ndarray:
    """Channels last, float64, 0..255."""
    return np.asarray(image, dtype=np.float64)


LIKENESSES: dict[str, tuple[Likeness, tuple[str, ...]]] = {
    "psnr": (psnr, ("pillow",)),
    "ssim": (ssim, ("pillow", "scikit-image")),
    "pixels": (pixel_likeness, ("pillow",)),
    "phash": (hash_likeness, ("pillow", "ImageHash")),
}
"""By the value of `--scorer`: the function, and the packages that its numbers depend on."""


class EditByEdit(ABC):
    """What scorers share that rate each edit by itself, overall. An edit that fails costs its own score only."""

    name: str
    fingerprint: str
    dimensions: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None
    calibrated = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def prepare(self, group: EditGroup) -> Rate:
        """What rates the edits of a group.

        Raises:
            ValueError: the source or the instruction cannot be used.
        """

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        """Score groups, as every `Scorer` does."""
        return [self._score(group) for group in groups]

    def _score(self, group: EditGroup) -> GroupScores | Unscored:
        if group.fault:
            return Unscored(group.fault)
        try:
            rate = self.prepare(group)
        except ValueError as error:
            return Unscored(str(error))
        return GroupScores(tuple(self._rated(rate, edited) for edited in group.edited))

    def _rated(self, rate: Rate, edited: ImageInput) -> CandidateScore | Unscored:
        try:
            return CandidateScore({}, rate(edited))
        except ValueError as error:  # an image that is broken, or too small for the method
            return Unscored(str(error))


class SourceLikeness(EditByEdit):
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

    def prepare(self, group: EditGroup) -> Rate:
        source = decode(group.sources[0])
        return lambda edited: self.likeness(source, resized_to(decode(edited), source.size))


class RandomScores(EditByEdit):
    """Scores drawn uniformly from 0..1 by a hash of what is scored, so that order and batches do not matter."""

    def __init__(self, seed: int = 0) -> None:
        self.name = "random scores"
        self.seed = seed
        self.fingerprint = fingerprint_of(scorer="random", seed=seed)

    def prepare(self, group: EditGroup) -> Rate:
        sources = [content_of(source) for source in group.sources]
        return lambda edited: _draw(self.seed, *sources, group.instruction, content_of(edited))


class CoinPerPair:
    """A judge that answers each pair independently and at random.

    Where ties are asked for it picks one of four verdicts: first, second, both good, both bad. The last two are ties.
    """

    def __init__(self, seed: int = 0) -> None:
        self.name = "a coin per pair"
        self.seed = seed
        self.fingerprint = fingerprint_of(scorer="coin", seed=seed)

    def compare(self, pairs: Sequence[EditPair]) -> list[float | Unscored]:
        return [self._answer(pair) for pair in pairs]

    def _answer(self, pair: EditPair) -> float | Unscored:
        try:
            images = [content_of(image) for image in (*pair.sources, pair.first, pair.second)]
        except ValueError as error:
            return Unscored(str(error))
        drawn = _draw(self.seed, *images[:-2], pair.instruction, *images[-2:])
        verdicts = (1.0, -1.0, 0.0, 0.0) if pair.ties else (1.0, -1.0)
        return verdicts[int(drawn * len(verdicts))]


def _draw(seed: int, *parts: bytes | str) -> float:
    """A number of 0..1, 1 excluded, that depends on the content alone."""
    return int(content_hash(str(seed), *parts)[:13], 16) / 16**13


def random_scorer(name: str, argument: str | None, options: ScorerOptions) -> RandomScores:
    """Made by the registry."""
    return RandomScores(options.seed or 0)


def coin_judge(name: str, argument: str | None, options: ScorerOptions) -> CoinPerPair:
    """Made by the registry."""
    return CoinPerPair(options.seed or 0)


def likeness_scorer(name: str, argument: str | None, options: ScorerOptions) -> SourceLikeness:
    """Made by the registry."""
    return SourceLikeness(name)
