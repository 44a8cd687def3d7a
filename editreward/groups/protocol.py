"""What annotators are asked: dimensions, rubric, reasons to skip and the terms of the calibration round.

Needs pydantic (`pip install "editreward[data]"`): nothing that the core install needs imports this module.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from editreward.validation import KNOWN_ENTRIES_ONLY, Text, read_yaml

DEFAULT_PROTOCOL = Path(__file__).with_name("protocol.yaml")
LEVELS = (1, 2, 3, 4)
"""The scores that an annotator can give, worst first."""

MAX_COMMENT = 1000
"""Characters of an annotator's comment."""


def check_comment(comment: str) -> None:
    """Raise a `ValueError` for a comment that is too long: the browser's limit binds no program."""
    if len(comment) > MAX_COMMENT:
        raise ValueError(f"Not saved yet: the comment has {len(comment):,} characters; {MAX_COMMENT:,} fit.")


def _check_name(name: str) -> str:
    if not name.isidentifier() or name == "annotator":
        raise ValueError(f"{name!r} will be a column: use letters, digits and _, not 'annotator'")
    return name


def _check_levels(levels: dict[int, str]) -> dict[int, str]:
    if set(levels) != set(LEVELS):
        raise ValueError("must say what 1, 2, 3 and 4 mean")
    return {level: levels[level] for level in LEVELS}


@dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class RubricDimension:
    """One thing that candidates are rated on.

    Args:
        name: name in the dataset's columns.
        title: name on the page.
        question: what to ask oneself.
        levels: what each score of `LEVELS` means.
    """

    name: Annotated[Text, AfterValidator(_check_name)]
    title: Text
    question: Text
    levels: Annotated[dict[int, Text], AfterValidator(_check_levels)]


Count = Annotated[int, Field(strict=True, ge=1)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


@dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class CalibrationTerms:
    """What it takes to pass the calibration round.

    Args:
        groups: groups in a round.
        exact: least share of scores that are at most half a point off the reference, in every dimension.
        within_one: least share of scores that are at most one point off, in every dimension.
        rounds: how often an annotator may try.
    """

    groups: Count = 5
    exact: Share = 0.5
    within_one: Share = 0.9
    rounds: Count = 3


def _check_dimensions(dimensions: tuple[RubricDimension, ...]) -> tuple[RubricDimension, ...]:
    names = [dimension.name for dimension in dimensions]
    if len(set(names)) < len(names):
        raise ValueError(f"two have the same name: {', '.join(names)}")
    return dimensions


@dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class Protocol:
    """All that annotators are asked, as `protocol.yaml` has it."""

    title: Text
    dimensions: Annotated[tuple[RubricDimension, ...], Field(min_length=1), AfterValidator(_check_dimensions)]
    skip_reasons: Annotated[tuple[Text, ...], Field(min_length=1)]
    introduction: Text = ""
    calibration: CalibrationTerms = CalibrationTerms()

    @property
    def names(self) -> list[str]:
        """Names of the dimensions."""
        return [dimension.name for dimension in self.dimensions]


def read_protocol(path: str | os.PathLike[str] = DEFAULT_PROTOCOL) -> Protocol:
    """Read a protocol from YAML.

    Raises:
        ValueError: something in it is missing, unknown or out of range; file and entry are named.
        FileNotFoundError: there is no such file.
    """
    return read_yaml(path, Protocol)
