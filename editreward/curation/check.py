"""Faults of a dataset of edit groups, each with the row that it is in."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from typing import Any

from editreward.data.images import pixel_digest, read_image
from editreward.data.schema import SCORE_RANGE
from editreward.groups.rows import GroupRow

FAULTS: dict[str, str] = {
    "missing_id": "the group has no id",
    "duplicate_id": "another row has the same id",
    "empty_instruction": "there is no instruction",
    "too_few_candidates": "there are fewer than two candidates, so nothing to compare",
    "missing_image": "there is no source image, or a row has no bytes of an image",
    "broken_image": "an image cannot be decoded",
    "candidate_equals_source": "a candidate has the same pixels as a source image",
    "identical_candidates": "two candidates have the same pixels",
    "score_out_of_range": f"a score is no number from {SCORE_RANGE[0]:g} to {SCORE_RANGE[1]:g}",
    "repeated_annotator": "an annotator scores a candidate twice, or has no name",
    "bad_preference": "a preference names no two candidates of the group, or has no positive weight",
    "contradictory_preferences": "preferences repeat or contradict each other, directly or in a circle",
}
"""Every kind of fault and what it means."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: one of `FAULTS`.
        split, row: where the group is; rows count from 0.
        group_id: id of the group, None where it has none.
        place: the column or field, such as "candidates[2].image"; empty if it is the whole row.
        message: what is wrong there.
    """

    kind: str
    split: str
    row: int
    group_id: str | None
    place: str
    message: str

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        return f"{self.group_id or '(no id)'} ({self.split}, row {self.row}): {place}{self.message} [{self.kind}]"


@dataclass
class CheckReport:
    """What was checked, and what was found.

    Attributes:
        groups: number of groups of each split.
        candidates: number of candidates of all groups.
        counts: number of faults of each kind that occurs.
    """

    groups: dict[str, int] = field(default_factory=dict)
    candidates: int = 0
    counts: Counter[str] = field(default_factory=Counter)


def find_faults(splits: Mapping[str, Iterable[GroupRow]], report: CheckReport) -> Iterator[Fault]:
    """Check every group and tell faults as they are found. Only ids are remembered from group to group.

    Args:
        splits: the groups of each split as they are stored (`raw_groups`).
        report: is filled as groups are read.

    Raises:
        ValueError: the rows of a split cannot be read on; the last row that could is named.
    """
    seen: dict[str, str] = {}
    for split, groups in splits.items():
        report.groups[split] = 0
        for row, group in enumerate(_named_errors(groups, split)):
            report.groups[split] += 1
            report.candidates += len(group["candidates"] or ())
            for fault in [*_id_faults(group, split, row, seen), *check_group(group, split, row)]:
                report.counts[fault.kind] += 1
                yield fault


def _named_errors(groups: Iterable[GroupRow], split: str) -> Iterator[GroupRow]:
    """The groups, and where reading fails, which was the last that could be read."""
    last = "before the first row"
    rows = iter(groups)
    while True:
        try:
            group = next(rows)
        except StopIteration:
            return
        except (OSError, ValueError) as error:
            raise ValueError(f"split {split!r} cannot be read {last}: {error}") from error
        last = f"after group {group.get('group_id')!r}"
        yield group


def _id_faults(group: GroupRow, split: str, row: int, seen: dict[str, str]) -> Iterator[Fault]:
    name = group["group_id"]
    if not name or not name.strip():
        yield Fault("missing_id", split, row, None, "group_id", "is empty")
    elif name in seen:
        yield Fault("duplicate_id", split, row, name, "group_id", f"is that of {seen[name]} too")
    else:
        seen[name] = f"{split}, row {row}"


def check_group(group: GroupRow, split: str = "train", row: int = 0) -> list[Fault]:
    """All faults of one group but those of its id.

    Args:
        group: a row as it is stored, images as `{"bytes", "path"}`.
        split, row: where it is.
    """
    candidates = [candidate or {} for candidate in group["candidates"] or ()]
    preferences = [preference or {} for preference in group["preferences"] or ()]
    found: list[tuple[str, str, str]] = []
    if not group["instruction"] or not group["instruction"].strip():
        found.append(("empty_instruction", "instruction", "is empty"))
    if len(candidates) < 2:
        found.append(("too_few_candidates", "candidates", f"{len(candidates)}, where at least 2 are needed"))
    found += _image_faults(group["source_images"] or [], [candidate.get("image") for candidate in candidates])
    for index, candidate in enumerate(candidates):
        found += _score_faults(candidate, f"candidates[{index}]")
    found += _preference_faults(preferences, len(candidates))
    return [Fault(kind, split, row, group["group_id"] or None, place, message) for kind, place, message in found]


def _image_faults(
    sources: Sequence[GroupRow | None], candidates: Sequence[GroupRow | None]
) -> Iterator[tuple[str, str, str]]:
    if not sources:
        yield "missing_image", "source_images", "there is none"
    digests: dict[str, bytes] = {}
    places = {f"source_images[{index}]": record for index, record in enumerate(sources)}
    edited = {f"candidates[{index}].image": record for index, record in enumerate(candidates)}
    for place, record in (places | edited).items():
        try:
            digests[place] = pixel_digest(read_image(record))
        except FileNotFoundError as error:
            yield "missing_image", place, str(error)
        except ValueError as error:
            yield "broken_image", place, str(error)
    for place in edited:
        for source in places:
            if place in digests and digests[place] == digests.get(source):
                yield "candidate_equals_source", place, f"has the pixels of {source}"
    for first, second in combinations(edited, 2):
        if first in digests and digests[first] == digests.get(second):
            yield "identical_candidates", second, f"has the pixels of {first}"


def _score_faults(candidate: GroupRow, place: str) -> Iterator[tuple[str, str, str]]:
    low, high = SCORE_RANGE
    scores = {f"{place}.scores.{name}": score for name, score in (candidate.get("scores") or {}).items()}
    names: Counter[str] = Counter()
    for index, annotation in enumerate(candidate.get("annotations") or ()):
        annotation = annotation or {}
        name = (annotation.get("annotator") or "").strip()
        names[name] += 1
        if not name or names[name] > 1:
            what = f"{name!r} has scored this candidate before" if name else "has no name"
            yield "repeated_annotator", f"{place}.annotations[{index}].annotator", what
        of_annotator = {key: score for key, score in annotation.items() if key != "annotator"}
        scores |= {f"{place}.annotations[{index}].{key}": score for key, score in of_annotator.items()}
    for where, score in scores.items():
        if score is not None and not low <= score <= high:  # NaN too
            yield "score_out_of_range", where, f"{score:g} is not from {low:g} to {high:g}"


def _preference_faults(preferences: list[GroupRow], candidates: int) -> Iterator[tuple[str, str, str]]:
    edges: dict[tuple[Any, Any], str] = {}
    for index, preference in enumerate(preferences):
        place = f"preferences[{index}]"
        chosen, rejected, weight = (preference.get(name) for name in ("chosen", "rejected", "weight"))
        known = range(candidates)
        if chosen not in known or rejected not in known or chosen == rejected:
            yield "bad_preference", place, f"{chosen} over {rejected}, of {candidates} candidates counted from 0"
            continue
        if weight is None or not (math.isfinite(weight) and weight > 0):
            yield "bad_preference", f"{place}.weight", f"{weight} is not a positive number"
        if (chosen, rejected) in edges:
            yield "contradictory_preferences", place, f"repeats {edges[chosen, rejected]}"
        elif (rejected, chosen) in edges:
            yield "contradictory_preferences", place, f"is the opposite of {edges[rejected, chosen]}"
        else:
            edges[chosen, rejected] = place
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for chosen, rejected in edges:
        sorter.add(rejected, chosen)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " over ".join(map(str, error.args[1]))
        yield "contradictory_preferences", "preferences", f"go in a circle: {circle}"


def fault_as_json(fault: Fault) -> dict[str, object]:
    """A fault as `editreward data check --json` prints it."""
    return asdict(fault)
