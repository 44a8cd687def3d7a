"""What `jpeg_draft` saves on a large photograph, and what it changes, with the bundled model.

    OMP_NUM_THREADS=1 python performance/jpeg_draft.py

The photograph is scikit-image's `astronaut`, scaled up to 12 megapixels and stored as JPEG; its edits are tinted
copies. Seconds are of CPU time, the median over the repetitions in turns.
"""

import editreward.scripts

import argparse
import io
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from statistics import median

import numpy as np
import torch
from measuring import measure
from PIL import Image

from editreward.scorers.reward_model import EditRewardScorer
from processing_editreward import load_image

CPU = torch.device("cpu")
TINTS = ((255, 255, 255), (255, 90, 90), (90, 255, 90), (90, 90, 255))


def photographs() -> list[bytes]:
    """The photograph and three edits, 4000 x 3000 pixels, as JPEG files of quality 90."""
    with (files("skimage") / "data" / "astronaut.png").open("rb") as file:
        image = Image.open(file).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
    stored = []
    for tint in TINTS:
        buffer = io.BytesIO()
        Image.blend(image, Image.new("RGB", image.size, tint), 0.0 if tint == TINTS[0] else 0.3).save(
            buffer, "JPEG", quality=90
        )
        stored.append(buffer.getvalue())
    return stored


def decode(file: bytes, side: int, draft: bool) -> Image.Image:
    image = load_image(file, draft_pixels=side**2 if draft else None)
    return image.resize((side, side), Image.Resampling.BICUBIC)


def main(words: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args(words)
    source, *edited = photographs()
    lines = [
        "| pixels | decode and resize, ms: whole, draft | largest difference of pixels, of 255 | mean |",
        "|--|--|--|--|",
    ]
    for side in (448, 112):
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(args.repetitions):
            resized = {}
            for draft, taken in seconds.items():
                second, resized[draft] = measure(partial(decode, source, side, draft), CPU, "cpu")
                taken.append(second)
        whole, drafted = (np.asarray(resized[draft], dtype=float) for draft in (False, True))
        difference = np.abs(whole - drafted)
        times = ", ".join(f"{1000 * median(seconds[draft]):.0f}" for draft in (False, True))
        lines.append(f"| {side} x {side} | {times} | {difference.max():.0f} | {difference.mean():.2f} |")
    scorer, scored = EditRewardScorer.from_pretrained(device="cpu"), {}
    for draft in (False, True):
        scorer.processor.jpeg_draft = draft
        scored[draft] = scorer.score(source, edited, "make it red")
    pairs = list(zip(scored[False], scored[True], strict=True))
    reward = max(abs(a.reward - b.reward) for a, b in pairs)
    lines.append(f"\nBundled model: rewards differ by up to {reward:.2g}.")
    return "\n".join(lines)


if __name__ == "__main__":
    print(main())
