"""Risk control of a selection: labels of people decide how low a score may be.

The test is that of `editreward.statistics.risk_control`. Labels must be a random sample of what the other filters
leave: `draw_for_labels` draws it. Labels of edits that are not left (another selection was made since) are set aside
and counted: of a random sample, those that are left are one, too.
"""

import hashlib
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from editreward.curation.contamination import normalise_text
from editreward.curation.selection import Kept, ScoredEdit, Selection, score_of
from editreward.data.images import pixel_digest, read_image
from editreward.groups.ratings import SCORE_RANGE
from editreward.groups.rows import GroupRow
from editreward.statistics.estimate import Share
from editreward.statistics.risk_control import Certificate, certify, exact_interval

CALIBRATION_SHARE = 0.7
"""Of the labelled sources; what passes is measured on the others."""

OPERATORS = {">=": operator.ge, ">": operator.gt}

Key = tuple[str, str, str]
"""What tells edits apart: the pixels of the source and of the edited image, and the instruction."""


@dataclass(frozen=True)
class Condition:
    """What makes a label acceptable: `visual_quality>=3`.

    Attributes:
        dimension: of the labels, or "overall", their mean.
        comparison: one of `OPERATORS`.
        value: on the scale of people's ratings.
    """

    dimension: str
    comparison: str
    value: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read a condition. Raises a `ValueError` that says how it is written."""
        match = re.fullmatch(r"\s*(\w+)\s*(>=|>)\s*(\d+(?:\.\d+)?)\s*", text)
        if match is None:
            raise ValueError(f"--acceptable takes DIMENSION>=VALUE, such as visual_quality>=3, not {text!r}.")
        value = float(match[3])
        if not SCORE_RANGE[0] <= value <= SCORE_RANGE[1]:
            low, high = SCORE_RANGE
            raise ValueError(f"--acceptable {text}: labels are from {low:g} to {high:g}.")
        return cls(match[1], match[2], value)

    def __str__(self) -> str:
        return f"{self.dimension}{self.comparison}{self.value:g}"

    def holds(self, scores: Mapping[str, float | None]) -> bool | None:
        """Whether the scores of an edit are acceptable; None where they do not tell."""
        known = [value for value in scores.values() if value is not None]
        overall = sum(known) / len(known) if known and len(known) == len(scores) else None
        value = overall if self.dimension == "overall" else scores.get(self.dimension)
        return None if value is None else bool(OPERATORS[self.comparison](value, self.value))


@dataclass(frozen=True)
class Control:
    """What the labels allow.

    Attributes:
        conditions: what is acceptable, all of them.
        certificate: the threshold and how it was found.
        tested: share of acceptable ones among the labelled edits of other sources that pass, with an exact interval.
        labelled: labels of edits that the other filters leave.
        strange: labels of edits that they do not leave, or that are not in the source.
        repeated: labels that are not used because another edit of their source is.
    """

    conditions: Sequence[Condition]
    certificate: Certificate
    tested: Share
    labelled: int
    strange: int
    repeated: int


def key_of(edit: ScoredEdit) -> Key:
    """What an edit is recognised by."""
    return edit.source, edit.pixels, normalise_text(edit.instruction)


def read_labels(rows: Iterable[GroupRow], conditions: Sequence[Condition]) -> dict[Key, bool]:
    """Whether each labelled edit is acceptable.

    Args:
        rows: groups with scores, as `raw_groups` yields them.
        conditions: all must hold.

    Raises:
        ValueError: no edit has a score that the conditions ask for.
    """
    labels: dict[Key, bool] = {}
    for row in rows:
        source = pixel_digest(read_image(row["source_images"][0])).hex()
        for candidate in row["candidates"]:
            held = [condition.holds(candidate["scores"] or {}) for condition in conditions]
            if None not in held:
                image = pixel_digest(read_image(candidate["image"])).hex()
                labels[source, image, normalise_text(row["instruction"] or "")] = all(held)
    if not labels:
        raise ValueError(f"No labelled edit has a score for {' and '.join(map(str, conditions))}.")
    return labels


def control(
    kept: Kept,
    selection: Selection,
    labels: Mapping[Key, bool],
    conditions: Sequence[Condition],
    share: float,
    confidence: float,
    seed: int = 0,
) -> Control:
    """Drop what is below the threshold that the labels allow: everything, where they allow none.

    Args:
        kept: what the other filters left.
        selection: what orders edits.
        labels: as `read_labels` returns.
        conditions: what they were read by.
        share: of what passes, at least so much is to be acceptable.
        confidence: probability of that.
        seed: of the split of sources into those for the threshold and those to measure it.
    """
    scores = {index: score_of(kept.edits[index], selection) for index in kept.left}
    found = {index: labels[key_of(kept.edits[index])] for index in kept.left if key_of(kept.edits[index]) in labels}
    one_each: dict[str, int] = {}
    for index in sorted(found, key=lambda index: _draw(seed, kept.edits[index].pixels)):
        one_each.setdefault(kept.edits[index].source, index)
    parts: dict[bool, list[int]] = {True: [], False: []}
    for source, index in one_each.items():
        parts[_draw(seed, source) < CALIBRATION_SHARE].append(index)
    certificate = certify(
        np.array([scores[index] for index in parts[True]]),
        np.array([found[index] for index in parts[True]], dtype=bool),
        np.array([scores[index] for index in kept.left]),
        share,
        confidence,
    )
    threshold = certificate.threshold
    passing = [found[index] for index in parts[False] if threshold is not None and scores[index] >= threshold]
    value = sum(passing) / len(passing) if passing else float("nan")
    tested = Share(value, *exact_interval(sum(passing), len(passing)), len(passing))
    name = (
        "no threshold passed the test" if threshold is None else f"its score is below {threshold:.4g}, by the labels"
    )
    kept.keep(name, [index for index in kept.left if threshold is not None and scores[index] >= threshold])
    strange = len(labels) - len({key_of(kept.edits[index]) for index in found})
    return Control(conditions, certificate, tested, len(found), strange, len(found) - len(one_each))


def draw_for_labels(kept: Kept, number: int, seed: int = 0) -> list[int]:
    """Indices of edits for people to label: drawn at random from those that are left, one of a source at most."""
    drawn: dict[str, int] = {}
    for index in sorted(kept.left, key=lambda index: _draw(seed, f"label {index}")):
        drawn.setdefault(kept.edits[index].source, index)
        if len(drawn) == number:
            break
    return sorted(drawn.values())


def _draw(seed: int, text: str) -> float:
    """A number from 0 to 1 that depends on nothing but its arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed} {text}".encode()).digest()[:7], "big") / 2**56
