"""Triples to train the tiny editor on: source, instruction, edit; as imperfect as collected ones.

    python -m research.tiny_editor.data --output runs/tiny-editor/triples --tasks 60000

Each task is rendered once: its source, the exact edit, and an edit as an edit dataset might hold it.
"""

import argparse
import os
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from transformers import AutoTokenizer

from editreward.files import atomic_file
from editreward.resources import resource
from editreward.simulation import ARTEFACTS, CATEGORIES, apply_artefact, render_scene, task_words
from editreward.simulation.edits import perfect, realise, sample_task
from editreward.simulation.instructions import fill_wording, varied_wording
from editreward.simulation.world import Scene

SIDE = 56
"""Scenes are drawn at twice the side, as simulated groups are, and halved."""
TEXT_LENGTH = 64
WORDINGS = 2
CHUNK = 2000
FOLLOWING = {4: 0.55, 3: 0.17, 2: 0.18, 1: 0.10}
"""Shares of the instruction-following scores among a dataset's edits,"""
QUALITY = {4: 0.65, 3: 0.15, 2: 0.12, 1: 0.08}
"""and of their visual-quality scores."""


def rendered(scene: Scene) -> Image.Image:
    """The scene as an editor sees it that halves a simulated group's images."""
    return render_scene(scene, 2 * SIDE).reduce(2)


def triple(seed: int) -> tuple[list[np.ndarray], list[str], tuple[int, int]]:
    """Source, exact edit and imperfect edit, uint8; `WORDINGS` instructions; the imperfect edit's scores."""
    rng = Random(f"tiny-editor {seed}")
    task = sample_task(rng.choice(CATEGORIES), False, rng)
    texts = []
    for _ in range(WORDINGS):
        language = "en" if rng.random() < 0.7 else "zh"
        texts.append(fill_wording(varied_wording(task.category, language, rng), task_words(task, language)))
    following = rng.choices(list(FOLLOWING), list(FOLLOWING.values()))[0]
    quality = rng.choices(list(QUALITY), list(QUALITY.values()))[0]
    exact = rendered(perfect(task, rng))
    edit = rendered(realise(task, following, rng).scene)
    if quality < 4:
        edit = apply_artefact(edit, rng.choice(tuple(ARTEFACTS)), quality, rng)
    images = [np.asarray(image) for image in (rendered(task.source), exact, edit)]
    return images, texts, (following, quality)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=60000)
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(resource("checkpoints/tiny-vlm"))
    for start in range(0, args.tasks, CHUNK):
        path = args.output / f"{start:07d}.npz"
        if path.exists():
            continue
        made = [triple(seed) for seed in range(start, start + CHUNK)]
        tokens = tokenizer(
            [text for _, texts, _ in made for text in texts],
            padding="max_length",
            truncation=True,
            max_length=TEXT_LENGTH,
            return_tensors="np",
        )
        with atomic_file(path) as part, open(part, "wb") as file:
            np.savez(
                file,
                images=np.array([images for images, _, _ in made]),
                input_ids=tokens["input_ids"].reshape(CHUNK, WORDINGS, -1).astype(np.uint16),
                lengths=tokens["attention_mask"].sum(1).reshape(CHUNK, WORDINGS).astype(np.uint8),
                scores=np.array([scores for _, _, scores in made], dtype=np.uint8),
            )


if __name__ == "__main__":
    main()
