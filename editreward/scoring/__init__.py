"""Scoring edits with a trained model: batches, rankings, probabilities."""

from editreward.scoring.scorer import (
    BestEdit,
    DimensionScore,
    EditRewardScorer,
    EditScore,
    ModelError,
    ScoringError,
    SkippedGroup,
)

__all__ = [
    "BestEdit",
    "DimensionScore",
    "EditRewardScorer",
    "EditScore",
    "ModelError",
    "ScoringError",
    "SkippedGroup",
]
