"""Text targets for language-model training on simulated edit groups: what to say about an image and about an edit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from editreward.simulation.groups import SimulatedCandidate, SimulatedGroup
from editreward.simulation.world import Scene, describe_scene


SYSTEM = "You are a helpful assistant."

# Several wordings, so that the model reads a rubric as text and does not depend on one. Any of them may be empty.
RUBRICS = (
    "Judge the edit.",
    "Compare the edited image with the source image and score the edit from 1 to 4.",
    "Rate how well the edited image follows the instruction and how good it looks, each from 1 (worst) to 4 (best).",
    "You are tasked with evaluating an edited image in comparison with the original source image. Instruction following: "
    "is the instruction executed accurately and completely, and nothing else changed? Visual quality: is the image "
    "clean, without blur, noise, seams or other artefacts? Assign a score from 1 (very poor) to 4 (very good) to each.",
)

# What the assistant turn opens with says which answer is wanted. A cue is given, never predicted.
CUES = {"caption": "Scene:", "change": "Change:", "verdict": "Following: ", "quality": "Quality: "}
KINDS = tuple(CUES)


@dataclass
class Target:
    """One answer of the assistant: `cue` is given, `text` is to be predicted."""

    kind: str
    cue: str
    text: str


def user_text(rubric: str, instruction: str) -> str:
    """The text of the user turn that stands before the source image."""
    return f"{rubric}\nInstruction: {instruction}\n" if rubric else f"Instruction: {instruction}\n"


def caption(scene: Scene) -> Target:
    """Names every object of a scene with its size, colour and place, then the background.

    The objects are named in reading order of their places, so that the image alone determines the text.
    """
    objects = sorted(scene.objects, key=lambda thing: (thing.place, thing.y, thing.x))
    return Target("caption", CUES["caption"], f" {describe_scene(replace(scene, objects=tuple(objects)))}")


def judgements(candidate: SimulatedCandidate) -> list[Target]:
    """What changed, whether the instruction was followed, and how good the image looks, for one candidate."""
    following = candidate.scores["instruction_following"]
    quality = candidate.scores["visual_quality"]
    return [
        Target("change", CUES["change"], f" {candidate.change}"),
        Target("verdict", CUES["verdict"], f"{following:g}, {candidate.fault}"),
        Target("quality", CUES["quality"], f"{quality:g}, {candidate.artefact or 'clean'}"),
    ]


def corpus(groups: Iterable[SimulatedGroup]) -> Iterator[str]:
    """Every text that training on `groups` shows, for training a tokenizer."""
    yield SYSTEM
    yield from RUBRICS
    for group in groups:
        yield user_text("", group.instruction)
        for target in (caption(group.scene), *(t for c in group.candidates for t in judgements(c))):
            yield target.cue + target.text
