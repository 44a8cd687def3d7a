"""What an inspector says."""

from dataclasses import dataclass

from editreward.simulation.edits import EditTask
from editreward.simulation.world import Scene

SHAPES = Scene.world


@dataclass(frozen=True)
class Grades:
    """Scores of an edit on the rubric's scale.

    Attributes:
        instruction_following, visual_quality: 1..4.
    """

    instruction_following: int
    visual_quality: int


def check_world(task: EditTask) -> None:
    """Raise a ValueError for a task of another world than that of shapes."""
    if task.source.world != SHAPES:
        raise ValueError(f"Inspectors know the world of shapes, not {task.source.world!r}.")
