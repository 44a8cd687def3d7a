"""What all parts speak: edit groups, their scores, the interface of scorers, ratings and pairs. No torch here."""

from editreward.groups.group import EditGroup, EditPair
from editreward.groups.scorer import PairwiseJudge, Scorer
from editreward.groups.scores import CandidateScore, DimensionScore, GroupScores, Pass, Unscored

__all__ = [
    "CandidateScore",
    "DimensionScore",
    "EditGroup",
    "EditPair",
    "GroupScores",
    "PairwiseJudge",
    "Pass",
    "Scorer",
    "Unscored",
]
