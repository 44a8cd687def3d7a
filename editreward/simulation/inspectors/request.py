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
    """Convolutions over an image beside its source and request, to logits of both scores.

    It sees the three differences, small ones enlarged (asinh), and the image.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        a, b, c = width, 2 * width, 3 * width
        sizes = [(12, a, 5, 2), (a, b, 3, 2), (b, b, 3, 1), (b, c, 3, 2), (c, c, 3, 1)]
        convolutions = [nn.Conv2d(i, o, side, stride, side // 2) for i, o, side, stride in sizes]
        self.layers = nn.Sequential(*(layer for one in convolutions for layer in (one, nn.SiLU())))
        self.head = nn.Sequential(nn.Linear(6 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 8))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the scores 1..4 of instruction following and visual quality, (batch, 2, 4).

        Args:
            images: what `beside` gives, float, (batch, 9, side, side).
        """
        image, source, request = images.split(3, dim=1)
        differences = torch.cat([image - source, image - request, request - source], dim=1)
        seen = torch.cat([(differences / 4).asinh() / 2, image / 128 - 1], dim=1)
        found = self.layers(seen).flatten(2)
        return self.head(torch.cat([found.mean(2), found.amax(2)], dim=1)).unflatten(1, (2, 4))


@lru_cache(maxsize=1)
def _network() -> Comparison:
    network = Comparison()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return network.eval()


def beside(task: EditTask, image: Image.Image) -> np.ndarray:
    """Image, source and request, uint8 (9, side, side).

    An object that is added or moved may lie anywhere within its place: the request is the nearest drawing.
    """
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.int16)
    request = min((_drawn(scene) for scene in _requests(task)), key=lambda one: float(np.abs(pixels - one).mean()))
    made = np.concatenate([pixels, _drawn(task.source), request], axis=2).transpose(2, 0, 1)
    return made.astype(np.uint8)


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
