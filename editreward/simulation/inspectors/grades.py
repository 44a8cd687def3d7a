"""What an inspector says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Grades:
    """Scores of an edit on the rubric's scale.

    Attributes:
        instruction_following, visual_quality: 1..4.
    """

    instruction_following: int
    visual_quality: int
