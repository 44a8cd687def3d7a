"""Ratings and tuple rankings from JSON-lines files, and ratings from a dataset's `annotations`.

Needs pydantic (`pip install "editreward[data]"`): nothing that the core install needs imports this module.
"""

import os
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, StrictInt
from pydantic.dataclasses import dataclass

from editreward.groups.ratings import SCALE, Rating, TupleRanking
from editreward.groups.rows import GroupRow
from editreward.validation import KNOWN_ENTRIES_ONLY, read_json_lines

Name = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(strict=True, ge=0)]


@dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class RatingLine(Rating):
    """A `Rating` as a file has it; `check_ratings` looks at its scores."""

    annotator: Name
    group_id: Name
    candidate: Annotated[int, Field(strict=True, ge=0)]
    scores: Annotated[dict[str, Any], Field(min_length=1)]
    seconds: Seconds = 0.0
    submitted_at: Seconds = 0.0


@dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class RankingLine(TupleRanking):
    """A `TupleRanking` as a file has it."""

    candidates: list[StrictInt]
    ranks: list[StrictInt]


def read_ratings(path: str | os.PathLike[str]) -> list[Rating]:
    """Ratings from a JSON-lines file whose lines have the fields of `Rating`.

    Raises:
        ValueError: a line is no rating, or rates again what an earlier one rated; file and line are named.
    """
    ratings = [Rating(**vars(line)) for _, line in read_json_lines(path, RatingLine)]
    check_ratings(ratings, where=str(path))
    return ratings


def check_ratings(ratings: Iterable[Rating], where: str) -> None:
    """Check that scores are on the scale and that nobody rates a candidate twice for the same purpose.

    Raises:
        ValueError: what is wrong, with annotator, group and candidate, after `where`.
    """
    seen = set()
    low, high = SCALE
    for rating in ratings:
        what = f"{where}: {rating.annotator}'s rating of candidate {rating.candidate} of group {rating.group_id}"
        key = (rating.annotator, rating.group_id, rating.candidate, rating.purpose)
        if key in seen:
            raise ValueError(f"{what} is there twice (purpose {rating.purpose}). Keep the valid one.")
        seen.add(key)
        for dimension, score in rating.scores.items():
            if isinstance(score, bool) or not isinstance(score, int | float) or score not in range(low, high + 1):
                raise ValueError(f"{what} has {dimension} {score!r}: scores are whole numbers from {low} to {high}.")


def ratings_of_group(group: GroupRow) -> list[Rating]:
    """The ratings in the `annotations` of a dataset's row. A null score is one that was not given.

    Times are unknown there: `seconds` and `submitted_at` are 0.

    Raises:
        ValueError: an annotation has no annotator's name.
    """
    ratings = []
    for index, candidate in enumerate(group["candidates"]):
        for annotation in candidate["annotations"] or []:
            if not annotation["annotator"]:
                raise ValueError(
                    f"Group {group['group_id']!r}, candidate {index}: an annotation has no annotator's name. See "
                    "`editreward data check`."
                )
            scores = {name: value for name, value in annotation.items() if name != "annotator" and value is not None}
            ratings.append(Rating(annotation["annotator"], group["group_id"], index, scores))
    return ratings


def read_rankings(path: str | os.PathLike[str]) -> list[TupleRanking]:
    """Tuple rankings from a JSON-lines file whose lines have the fields of `TupleRanking`.

    Empty `ranks` mean that the annotators agreed to leave the tuple out.

    Raises:
        ValueError: a line is no ranking, or ranks a tuple again; file and line are named.
    """
    rankings: dict[str, TupleRanking] = {}
    for where, line in read_json_lines(path, RankingLine):
        ranking = TupleRanking(**vars(line))
        if ranking.ranks and len(ranking.candidates) != len(ranking.ranks):
            raise ValueError(f"{where}: {len(ranking.candidates)} candidates but {len(ranking.ranks)} ranks.")
        if ranking.tuple_id in rankings:
            raise ValueError(f"{where}: tuple {ranking.tuple_id} is ranked twice. Keep the valid ranking.")
        rankings[ranking.tuple_id] = ranking
    return list(rankings.values())
