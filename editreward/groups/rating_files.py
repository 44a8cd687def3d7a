"""Ratings and tuple rankings from JSON-lines files, and ratings from a dataset's `annotations`."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from editreward.data.schema import SCORE_RANGE
from editreward.groups.ratings import Purpose, Rating, TupleRanking

SCALE = (int(SCORE_RANGE[0]), int(SCORE_RANGE[1]))
"""Lowest and highest score that an annotator can give. Annotators give whole numbers."""


def read_ratings(path: str | os.PathLike[str]) -> list[Rating]:
    """Ratings from a JSON-lines file whose lines have the fields of `Rating`.

    Raises:
        ValueError: a line is no rating, or rates again what an earlier one rated; file and line are named.
    """
    ratings: list[Rating] = []
    for line, record in _records(path, Rating):
        ratings.append(_rating(record, f"{path}, line {line}"))
    check_ratings(ratings, where=str(path))
    return ratings


def _rating(record: Mapping[str, Any], where: str) -> Rating:
    scores, candidate = record["scores"], record["candidate"]
    if not isinstance(scores, dict) or not scores:
        raise ValueError(f'{where}: "scores" must be an object of dimension: score, not {scores!r}.')
    if isinstance(candidate, bool) or not isinstance(candidate, int) or candidate < 0:
        raise ValueError(f'{where}: "candidate" must be an index from 0, not {candidate!r}.')
    for name in ("annotator", "group_id"):
        if not isinstance(record[name], str) or not record[name]:
            raise ValueError(f'{where}: "{name}" must be a text that is not empty, not {record[name]!r}.')
    if record.get("purpose", "work") not in get_args(Purpose):
        raise ValueError(f'{where}: "purpose" must be one of {", ".join(get_args(Purpose))}.')
    for name in ("seconds", "submitted_at"):
        value = record.get(name, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ValueError(f'{where}: "{name}" must be a number of seconds, not {value!r}.')
    return Rating(**record)


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


def ratings_of_group(group: Mapping[str, Any]) -> list[Rating]:
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
    for line, record in _records(path, TupleRanking):
        where = f"{path}, line {line}"
        for name in ("candidates", "ranks"):
            values = record[name]
            if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
                raise ValueError(f'{where}: "{name}" must be a list of whole numbers, not {values!r}.')
        ranking = TupleRanking(**record)
        if ranking.ranks and len(ranking.candidates) != len(ranking.ranks):
            raise ValueError(f"{where}: {len(ranking.candidates)} candidates but {len(ranking.ranks)} ranks.")
        if ranking.tuple_id in rankings:
            raise ValueError(f"{where}: tuple {ranking.tuple_id} is ranked twice. Keep the valid ranking.")
        rankings[ranking.tuple_id] = ranking
    return list(rankings.values())


def _records(path: str | os.PathLike[str], kind: type[Rating] | type[TupleRanking]) -> Iterator[tuple[int, dict]]:
    """Line numbers and objects of a JSON-lines file, checked for the fields of a dataclass. Empty lines may be."""
    known = {field.name for field in dataclasses.fields(kind)}
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    with Path(path).open(encoding="utf-8") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                record = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {line}: not JSON ({error}).") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {line}: an object is needed, with {', '.join(sorted(required))}.")
            for names, problem in ((required - set(record), "no"), (set(record) - known, "unknown")):
                if names:
                    raise ValueError(f"{path}, line {line}: {problem} field {', '.join(sorted(names))}.")
            yield line, record
