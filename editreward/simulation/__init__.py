"""Procedural edit groups with exact ground truth: for tests, demonstrations and the bundled tiny model."""

from editreward.simulation.annotators import annotate
from editreward.simulation.artefacts import ARTEFACTS, apply_artefact
from editreward.simulation.edits import EditTask, over_edits, task_words
from editreward.simulation.groups import (
    EDITORS,
    SPLITS,
    SimulatedCandidate,
    SimulatedGroup,
    groups_hash,
    novelty_in_words,
    simulate_contrast,
    simulate_group,
    simulate_groups,
    simulate_near_miss,
)
from editreward.simulation.instructions import CATEGORIES, LANGUAGES, WORDINGS
from editreward.simulation.near_misses import NEAR_MISSES
from editreward.simulation.world import (
    HELD_OUT_COMBINATIONS,
    Background,
    Scene,
    SceneObject,
    describe_change,
    describe_scene,
)
from editreward.simulation.worlds import WORLDS, render_scene

__all__ = [
    "ARTEFACTS",
    "CATEGORIES",
    "EDITORS",
    "HELD_OUT_COMBINATIONS",
    "LANGUAGES",
    "NEAR_MISSES",
    "SPLITS",
    "WORDINGS",
    "WORLDS",
    "Background",
    "EditTask",
    "Scene",
    "SceneObject",
    "SimulatedCandidate",
    "SimulatedGroup",
    "annotate",
    "apply_artefact",
    "groups_hash",
    "novelty_in_words",
    "describe_change",
    "describe_scene",
    "over_edits",
    "render_scene",
    "simulate_contrast",
    "simulate_group",
    "simulate_groups",
    "simulate_near_miss",
    "task_words",
]
