"""Text targets for language-model training on simulated edit groups: what to say about an image and about an edit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from editreward.simulation.groups import SimulatedCandidate, SimulatedGroup
from editreward.simulation.world import Scene, describe_scene
from processing_editreward import PAPER_TEMPLATES, compact_template

SYSTEM = "You are a helpful assistant."

# The lines of the compact reward prompt before its first placeholder.
REWARD_RUBRIC = compact_template(("instruction_following", "visual_quality")).split("{")[0].rpartition("\n")[0]

# Several wordings, so that the model reads a rubric as text and does not depend on one; the reward model's most often.
RUBRICS = (
    REWARD_RUBRIC,
    "Judge the edit.",
    "Compare the edited image with the source image and score the edit from 1 to 4.",
    "Rate how well the edited image follows the instruction and how good it looks, each from 1 (worst) to 4 (best).",
)
RUBRIC_WEIGHTS = (4, 2, 2, 2)

# What the assistant turn opens with says which answer is wanted. A cue is given, never predicted.
CUES = {"caption": "Scene:", "change": "Change:", "verdict": "Following: ", "quality": "Quality: "}
KINDS = tuple(CUES)


@dataclass
class Target:
    """One answer of the assistant: `cue` is given, `text` is to be predicted."""

    kind: str
    cue: str
    text: str


def user_turn(rubric: str, instruction: str) -> tuple[str, str]:
    """The texts of the user turn before the source image and before the edited image."""
    return f"{rubric}\nInstruction: {instruction}\nSource image: ", "\nEdited image: "


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


SIDE_EFFECTS = (
    "other object resized",
    "other object shifted",
    "extra object",
    "object lost",
    "target also resized",
    "target also shifted",
    "copy left behind",
    "over-edit",
)
"""Faults of edits that do what was asked, and more."""

UNRELATED = ("unrelated", "wrong object", "replaced another object")
"""Faults of edits that do something else."""


def rationale(candidate: SimulatedCandidate) -> str:
    """What a candidate's scores are about, what has changed and which artefact there is: a line for each dimension.

    Each begins with the dimension's name.
    """
    return f"instruction_following: {candidate.change}\nvisual_quality: {candidate.artefact or 'clean'}"


def sub_scores(candidate: SimulatedCandidate) -> dict[str, float]:
    """A candidate's scores in the aspects that the prompt set `editreward` asks for; the smaller of two is the score.

    What does more than was asked is a success, and what changes only what was asked about preserves the rest. All
    artefacts are of the pixels, not of what is shown.
    """
    following = candidate.scores["instruction_following"]
    success = 4 if candidate.fault in SIDE_EFFECTS else following
    preservation = following if candidate.fault in (*SIDE_EFFECTS, *UNRELATED) else 4
    return {
        "success": success,
        "preservation": preservation,
        "plausibility": 4,
        "cleanness": candidate.scores["visual_quality"],
    }


def corpus(groups: Iterable[SimulatedGroup]) -> Iterator[str]:
    """Every text that training on `groups` shows, and the published reward prompts, for training a tokenizer."""
    # Counted often enough to become few tokens: they are read at every score.
    yield from (SYSTEM, *RUBRICS, *PAPER_TEMPLATES.values()) * 40
    for group in groups:
        yield from user_turn("", group.instruction)
        for target in (caption(group.scene), *(t for c in group.candidates for t in judgements(c))):
            yield target.cue + target.text
