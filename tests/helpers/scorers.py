"""A scorer without a model: it reads an edit's scores from its colour, and counts what it is asked."""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from editreward.groups import CandidateScore, DimensionScore, EditGroup, GroupScores, Unscored
from images_editreward import load_image

RED, GREEN, BLUE = "instruction_following", "visual_quality", "spread"


class Share:
    """One of several processes, which run here one after another; the last one is the main one."""

    def __init__(self, index: int, count: int = 2) -> None:
        self.index, self.count, self.is_main, self.device = index, count, index == count - 1, None

    def together(self, values):
        return values

    def from_main(self, value):
        return value


def painted(red: float, green: float = 0.0, blue: float = 0.0, size: tuple[int, int] = (16, 12)) -> Image.Image:
    """An image whose scores are `red` and `green`, with the standard deviation `blue`, all of 0..255."""
    return Image.new("RGB", size, (int(red), int(green), int(blue)))


@dataclass
class ColourScorer:
    """Red is one dimension, green the other, blue the standard deviation of both; the reward is their mean.

    An instruction adds its length. An edit that is white fails; so does a group whose instruction is "fail".

    Attributes:
        seconds: how long a call takes.
        calls: groups of each call.
        gate: a call waits until it is set.
    """

    name: str = "colours"
    fingerprint: str = "colours 1"
    dimensions: tuple[str, ...] = (RED, GREEN)
    scale: tuple[float, float] | None = (0.0, 255.0)
    calibrated: bool = False
    notes: Sequence[str] = ("Colours are no reward.",)
    seconds: float = 0.0
    calls: list[int] = field(default_factory=list)
    seen: list[EditGroup] = field(default_factory=list)
    gate: threading.Event | None = None

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        self.calls.append(len(groups))
        self.seen += groups
        if self.gate is not None:
            assert self.gate.wait(30)
        time.sleep(self.seconds)
        return [self._group(group) for group in groups]

    def _group(self, group: EditGroup) -> GroupScores | Unscored:
        if group.instruction == "fail":
            return Unscored("it was told to fail")
        scores = tuple(map(partial(self._candidate, len(group.instruction)), group.edited))
        return GroupScores(scores, [[preference(one, other) for other in scores] for one in scores])

    def _candidate(self, extra: int, image: object) -> CandidateScore | Unscored:
        try:
            red, green, blue = map(float, np.asarray(load_image(image))[0, 0])
        except ValueError as error:
            return Unscored(str(error))
        if red == green == blue == 255:
            return Unscored("white is no colour")
        means = {RED: red + extra, GREEN: green + extra}
        dimensions = {name: DimensionScore(means[name], blue) for name in self.dimensions}
        return CandidateScore(dimensions, (red + green) / 2 + extra, blue / math.sqrt(2))


def preference(one: CandidateScore | Unscored, other: CandidateScore | Unscored) -> float:
    """The probability that a Gaussian exceeds another."""
    if isinstance(one, Unscored) or isinstance(other, Unscored):
        return math.nan
    spread = math.hypot(one.reward_std or 0, other.reward_std or 0) or 1e-9
    return 0.5 * math.erfc(-(one.reward - other.reward) / spread / math.sqrt(2))
