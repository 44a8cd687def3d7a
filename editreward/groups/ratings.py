"""What annotators say, as data: the interface between the app's database, the reports and the benchmark builder."""

import re
from dataclasses import dataclass, field
from typing import Literal

Purpose = Literal["work", "calibration", "gold"]
"""Why a group was shown: to be annotated; in the calibration round; as a hidden check with known answers."""

SCORE_RANGE = (1.0, 4.0)
"""Lowest and highest score of a candidate. In a dataset it may be a mean of several annotators' scores."""

SCALE = (int(SCORE_RANGE[0]), int(SCORE_RANGE[1]))
"""Lowest and highest score that an annotator can give. Annotators give whole numbers."""

PSEUDONYM = re.compile(r"annotator-(\d+)")
"""What stands for an annotator's name in data that is published."""


@dataclass(frozen=True)
class Rating:
    """One annotator's scores of one candidate.

    Args:
        annotator: name of the annotator.
        group_id: the group.
        candidate: index of the candidate in the group's row, whatever order the annotator saw.
        scores: score 1..4 by dimension.
        purpose: why the group was shown.
        seconds: time spent on the whole group until it was submitted.
        submitted_at: seconds since the epoch, UTC.
    """

    annotator: str
    group_id: str
    candidate: int
    scores: dict[str, float]
    purpose: Purpose = "work"
    seconds: float = 0.0
    submitted_at: float = 0.0


@dataclass(frozen=True)
class TupleRanking:
    """The joint ranking of a benchmark tuple in an adjudication round.

    Args:
        tuple_id: the tuple, as `editreward data build-bench` named it.
        group_id: the group that the candidates are from.
        candidates: indices of the candidates in the group's row.
        ranks: rank of each candidate, 1 is best; equal ranks are ties. Empty: to be left out of the benchmark.
        annotators: who took part.
    """

    tuple_id: str
    group_id: str
    candidates: list[int]
    ranks: list[int]
    annotators: list[str] = field(default_factory=list)
