"""From the annotation database into a dataset: `annotations` and mean `scores`, and rankings as JSON lines."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from datasets import Dataset

from editreward import files
from editreward.annotation.database import Database
from editreward.data.schema import dimensions_of
from editreward.data.sources import raw_groups
from editreward.data.storage import GroupWriter
from editreward.groups.ratings import PSEUDONYM, Rating, TupleRanking
from editreward.groups.rows import GroupRow
from editreward.resuming import row_digest


@dataclass
class ExportCounts:
    """What an export found.

    Args:
        written: groups in the new dataset.
        complete: of all groups, those with as many ratings as were asked for.
        incomplete: those with fewer, but at least one.
        unrated: those with none.
        left_out: ids of groups that were not written, having fewer ratings than `minimum`.
        ratings: ratings of whole groups that were written.
        elsewhere: ratings of whole groups that the dataset does not have, such as calibration and gold groups.
    """

    written: int = 0
    complete: int = 0
    incomplete: int = 0
    unrated: int = 0
    left_out: list[str] = field(default_factory=list)
    ratings: int = 0
    elsewhere: int = 0


def export_ratings(
    database: Database,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    split: str = "train",
    minimum: int = 0,
    pseudonyms: bool = False,
) -> ExportCounts:
    """Write a copy of a dataset with the ratings of its groups.

    Each rating becomes an entry of its candidate's `annotations`, after those that the dataset has already (one by the
    same annotator is replaced), and `scores` becomes the mean of all of them. A group without ratings stays as it is.
    Ratings from the calibration round and of gold groups are no annotations, and stay in the database.

    Args:
        database: the annotation database.
        dataset: the dataset that was annotated.
        folder, split: where to write.
        minimum: leave out groups with fewer annotators than this.
        pseudonyms: write "annotator-1", the number of the annotator in the database, for the annotator's name, also in
            the annotations that the dataset has already.

    Raises:
        ValueError: the database has no ratings of the dataset's groups, a group has changed since it was annotated, or
            the dataset has annotations by the name of somebody whose pseudonym is not known, or by a pseudonym that is
            somebody's in the database.
    """
    by_group: dict[str, dict[str, dict[int, dict[str, float]]]] = {}
    counts = ExportCounts()
    for rating in database.ratings():
        if rating.purpose == "work":
            by_group.setdefault(rating.group_id, {}).setdefault(rating.annotator, {})[rating.candidate] = rating.scores
    names = _names(database, pseudonyms)
    known = set(dataset["group_id"][:])
    counts.elsewhere = sum(len(raters) for group_id, raters in by_group.items() if group_id not in known)
    if not known & by_group.keys():
        raise ValueError(f"{database.path} has no ratings of the groups of this dataset.")
    dimensions = [*dimensions_of(dataset.features)]
    dimensions += [name for name in database.dimensions() if name not in dimensions]
    asked = database.ratings_per_group()
    with GroupWriter(folder, split, dimensions) as writer:
        for row in raw_groups(dataset):
            raters = by_group.get(row["group_id"], {})
            if raters:
                _check_unchanged(database, row)
            counts.complete += len(raters) >= asked
            counts.incomplete += 0 < len(raters) < asked
            counts.unrated += not raters
            annotated = _with_annotations(row, raters, names, dimensions)
            if pseudonyms:
                _check_pseudonyms(annotated, row, names)
            if _annotators(annotated) < minimum:
                counts.left_out.append(row["group_id"])
                continue
            counts.ratings += len(raters)
            counts.written += 1
            writer.write(annotated)
        if not counts.written:
            raise ValueError(f"No group has {minimum} annotators: nothing was written.")
    return counts


def _names(database: Database, pseudonyms: bool) -> dict[str, str]:
    return {name: f"annotator-{number}" if pseudonyms else name for name, number in database.annotators().items()}


def _check_unchanged(database: Database, row: GroupRow) -> None:
    digest = database.digest(row["group_id"])
    if digest is not None and digest != row_digest(row):
        raise ValueError(
            f"Group {row['group_id']!r} has another instruction or other images than when it was annotated: its "
            "ratings do not belong to it. Export into the dataset that was served."
        )


def _with_annotations(
    row: GroupRow,
    raters: Mapping[str, Mapping[int, Mapping[str, float]]],
    names: Mapping[str, str],
    dimensions: list[str],
) -> GroupRow:
    candidates = []
    for index, candidate in enumerate(row["candidates"]):
        new = [
            {"annotator": names[annotator], **{name: scores[index].get(name) for name in dimensions}}
            for annotator, scores in sorted(raters.items())
        ]
        replaced = {names[annotator] for annotator in raters} | set(raters)
        kept = [
            {
                "annotator": names.get(entry["annotator"], entry["annotator"]),
                **{name: entry.get(name) for name in dimensions},
            }
            for entry in candidate["annotations"] or []
            if entry["annotator"] not in replaced
        ]
        scores = {name: (candidate["scores"] or {}).get(name) for name in dimensions}
        if new:
            means = {name: _mean(entry[name] for entry in kept + new) for name in dimensions}
            scores.update({name: mean for name, mean in means.items() if mean is not None})
        candidates.append({**candidate, "scores": scores, "annotations": kept + new})
    return {**row, "candidates": candidates}


def _check_pseudonyms(row: GroupRow, before: GroupRow, names: Mapping[str, str]) -> None:
    taken = sorted(_names_of(before).intersection(names.values()))
    if taken:
        raise ValueError(
            f"Group {row['group_id']!r} has annotations by {taken[0]!r} already, who may be somebody else. Export "
            "without --pseudonyms: `editreward data publish` replaces all names."
        )
    named = sorted(name for name in _names_of(row) if not PSEUDONYM.fullmatch(name))
    if named:
        raise ValueError(
            f"Group {row['group_id']!r} has annotations by {named[0]!r}, whom the database does not know. Export "
            "without --pseudonyms: `editreward data publish` replaces all names."
        )


def _names_of(row: GroupRow) -> set[str]:
    """Who annotated a group."""
    entries = (entry for candidate in row["candidates"] for entry in candidate["annotations"] or [])
    return {entry["annotator"] for entry in entries if entry["annotator"] is not None}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _annotators(row: GroupRow) -> int:
    """How many annotators rated every candidate of a group."""
    counts = Counter(entry["annotator"] for candidate in row["candidates"] for entry in candidate["annotations"] or [])
    return sum(count >= len(row["candidates"]) for count in counts.values())


def pseudonymous(database: Database, records: Iterable[Rating | TupleRanking]) -> Iterator[Rating | TupleRanking]:
    """Ratings or rankings with pseudonyms, the same as in `export_ratings`, for the annotators' names."""
    names = _names(database, pseudonyms=True)
    for record in records:
        if isinstance(record, Rating):
            yield dataclasses.replace(record, annotator=names[record.annotator])
        else:
            yield dataclasses.replace(record, annotators=[names[name] for name in record.annotators])


def write_json_lines(records: Iterable[Rating | TupleRanking], path: str | os.PathLike[str]) -> int:
    """Write ratings or rankings as JSON lines, one object with the fields of its class each. Returns how many."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return files.write_lines(path, (json.dumps(dataclasses.asdict(record), ensure_ascii=False) for record in records))
