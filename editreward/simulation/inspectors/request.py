"""The inspector that compares an image with its source and with the exact requested image, by a small trained network.

Trained on scored candidates of the simulated world (`research/tiny_editor/inspector.py`), it never looks for which
fault a scene has.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from editreward.simulation.edits import EditTask, perfect
from editreward.simulation.inspectors.grades import Grades, check_world
from editreward.simulation.world import Scene
from editreward.simulation.worlds import render_scene

SIDE = 56
WEIGHTS = Path(__file__).with_suffix(".safetensors")


def compare(task: EditTask, image: Image.Image) -> Grades:
    """Grade an edit of a task.

    Args:
        task: what was asked for.
        image: RGB, square.

    Raises:
        ValueError: the task is of another world than that of shapes.
    """
    check_world(task)
    with torch.no_grad():
        scores = _network()(torch.from_numpy(beside(task, image))[None].float())[0].argmax(dim=-1) + 1
    return Grades(*scores.tolist())


class Comparison(nn.Module):
    """Convolutions over what `beside` gives, to logits of the scores 1..4 of both dimensions: (batch, 2, 4)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def step(a: int, b: int, side: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, side, stride, side // 2), nn.GroupNorm(4, b), nn.SiLU()]

        self.layers = nn.Sequential(
            *step(15, width, 5, 2),
            *step(width, 2 * width, 3, 2),
            *step(2 * width, 2 * width, 3, 1),
            *step(2 * width, 3 * width, 3, 2),
            *step(3 * width, 3 * width, 3, 1),
        )
        self.head = nn.Sequential(nn.Linear(6 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 8))

    def forward(self, images: Tensor) -> Tensor:
        """`images`: (batch, 15, side, side) of 0..255, differences of -255..255."""
        found = self.layers(images / 64).flatten(2)
        return self.head(torch.cat([found.mean(2), found.amax(2)], dim=1)).unflatten(1, (2, 4))


@lru_cache(maxsize=1)
def _network() -> Comparison:
    network = Comparison()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return network.eval()


def beside(task: EditTask, image: Image.Image) -> np.ndarray:
    """Image, source and request, and the image minus each of these, int16 (15, side, side).

    An object that is added or moved may lie anywhere within its place: the request is the nearest drawing.
    """
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.int16)
    source = _drawn(task.source)
    request = min((_drawn(scene) for scene in _requests(task)), key=lambda one: float(np.abs(pixels - one).mean()))
    return np.concatenate([pixels, source, request, pixels - source, pixels - request], axis=2).transpose(2, 0, 1)


@lru_cache(maxsize=256)
def _drawn(scene: Scene) -> np.ndarray:
    return np.asarray(render_scene(scene, 2 * SIDE).reduce(2), dtype=np.int16)


def _requests(task: EditTask) -> Iterator[Scene]:
    """The requested scene, its new or moved object anywhere within its place's jitter."""
    scene = perfect(task, Random(0))
    if task.category not in ("add", "move") or task.result is None:
        yield scene
        return
    place = task.result.place
    for dy in (-0.06, -0.02, 0.02, 0.06):
        for dx in (-0.06, -0.02, 0.02, 0.06):
            x, y = (place % 3 + 0.5 + dx) / 3, (place // 3 + 0.5 + dy) / 3
            things = tuple(replace(o, x=x, y=y) if o.key == task.result.key else o for o in scene.objects)
            yield replace(scene, objects=things)
