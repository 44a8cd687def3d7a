"""What annotators are asked: dimensions, rubric, reasons to skip and the terms of the calibration round."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEFAULT_PROTOCOL = Path(__file__).with_name("protocol.yaml")
LEVELS = (1, 2, 3, 4)
"""The scores that an annotator can give, worst first."""


@dataclass(frozen=True)
class RubricDimension:
    """One thing that candidates are rated on.

    Args:
        name: name in the dataset's columns.
        title: name on the page.
        question: what to ask oneself.
        levels: what each score of `LEVELS` means.
    """

    name: str
    title: str
    question: str
    levels: dict[int, str]


@dataclass(frozen=True)
class CalibrationTerms:
    """What it takes to pass the calibration round.

    Args:
        groups: groups in a round.
        exact: least share of scores that are at most half a point off the reference, in every dimension.
        within_one: least share of scores that are at most one point off, in every dimension.
        rounds: how often an annotator may try.
    """

    groups: int = 5
    exact: float = 0.5
    within_one: float = 0.9
    rounds: int = 3


@dataclass(frozen=True)
class Protocol:
    """All that annotators are asked, as `protocol.yaml` has it."""

    title: str
    introduction: str
    dimensions: tuple[RubricDimension, ...]
    skip_reasons: tuple[str, ...]
    calibration: CalibrationTerms

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
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    _check_keys(content, {"title", "dimensions", "skip_reasons"}, {"introduction", "calibration"}, str(path))
    if not isinstance(content["dimensions"], list) or not content["dimensions"]:
        raise ValueError(f"{path}: dimensions must be a list of at least one.")
    dimensions = tuple(
        _dimension(entry, f"{path}, dimension {number}") for number, entry in enumerate(content["dimensions"], start=1)
    )
    names = [dimension.name for dimension in dimensions]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two dimensions have the same name: {', '.join(names)}.")
    reasons = content["skip_reasons"]
    if not isinstance(reasons, list) or not reasons:
        raise ValueError(f"{path}: skip_reasons must be a list of at least one.")
    return Protocol(
        title=_text(content["title"], f"{path}: title"),
        introduction=_text(content["introduction"], f"{path}: introduction") if content.get("introduction") else "",
        dimensions=dimensions,
        skip_reasons=tuple(_text(reason, f"{path}: a skip reason") for reason in reasons),
        calibration=_calibration(content.get("calibration") or {}, f"{path}, calibration"),
    )


def _dimension(entry: Any, where: str) -> RubricDimension:
    _check_keys(entry, {"name", "title", "question", "levels"}, set(), where)
    name = _text(entry["name"], f"{where}: name")
    if not name.isidentifier() or name == "annotator":
        raise ValueError(f"{where}: the name {name!r} will be a column: use letters, digits and _, not 'annotator'.")
    levels = entry["levels"]
    if not isinstance(levels, dict) or set(levels) != set(LEVELS):
        raise ValueError(f"{where} ({name}): levels must say what 1, 2, 3 and 4 mean.")
    return RubricDimension(
        name=name,
        title=_text(entry["title"], f"{where}: title"),
        question=_text(entry["question"], f"{where}: question"),
        levels={level: _text(levels[level], f"{where}: level {level}") for level in LEVELS},
    )


def _calibration(entry: Any, where: str) -> CalibrationTerms:
    _check_keys(entry, set(), {"groups", "exact", "within_one", "rounds"}, where)
    terms = CalibrationTerms(**entry)
    for name in ("groups", "rounds"):
        value = getattr(terms, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{where}: {name} must be a whole number from 1, not {value!r}.")
    for name in ("exact", "within_one"):
        value = getattr(terms, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{where}: {name} must be a share from 0 to 1, not {value!r}.")
    return terms


def _check_keys(entry: Any, required: set[str], optional: set[str], where: str) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: entries are needed, such as {', '.join(sorted(required | optional))}.")
    missing, unknown = required - entry.keys(), entry.keys() - required - optional
    if missing or unknown:
        what = [f"no {name}" for name in sorted(missing)] + [f"unknown {name}" for name in sorted(map(str, unknown))]
        raise ValueError(f"{where}: {', '.join(what)}.")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} must be a text, not {value!r}.")
    return value.strip()
