"""The result of the stresses as JSON and Markdown."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from editreward.benchmarks.measures import Measure
from editreward.benchmarks.protocols import OVERALL
from editreward.benchmarks.robustness.measures import (
    BEATEN,
    EDITS_RANKED,
    FLIPS,
    OVERTAKEN,
    RANK,
    RISES,
    SIZE_OF_SHIFT,
    SPEARMAN,
    STEPS_DOWN,
    TRUE_RANK,
    Finding,
)
from editreward.benchmarks.robustness.stresses import CRITERIA, FALLS, INVARIANT, LOSES, NO_GAIN
from editreward.groups import GroupScores
from editreward.statistics import Estimate, Share

RESULT_VERSION = 1

HEADINGS = {
    INVARIANT: "Should stay",
    FALLS: "Should fall with strength",
    LOSES: "Should lose to the group's best edit",
    NO_GAIN: "Should gain nothing",
}


@dataclass(frozen=True)
class RobustnessResult:
    """What the stresses found.

    Attributes:
        model: name, revision, fingerprint and notes of the scorer.
        data: name and hash of the data, counts, what was left out.
        findings: by stress.
        units: standard deviation within groups by score, which shifts are multiples of.
        notes: what a reader should know of this run.
        environment: versions, and when.
        answers: scores by stress and group id; "as they are" has those without a stress.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    findings: list[Finding]
    units: dict[str, float]
    notes: list[str]
    environment: dict[str, Any]
    answers: Mapping[str, Mapping[str, GroupScores]]

    @property
    def applied(self) -> list[Finding]:
        """Of the stresses that the data allow."""
        return [finding for finding in self.findings if finding.met is not None]

    @property
    def summary(self) -> str:
        """In how many stresses the scores did as expected."""
        return f"{sum(bool(finding.met) for finding in self.applied)} of {len(self.applied)} stresses as expected"

    def to_dict(self) -> dict[str, Any]:
        """As JSON data. Measures have the form of a benchmark's, a stress being a subset."""
        return {
            "version": RESULT_VERSION,
            "benchmark": "robustness",
            "model": self.model,
            "data": self.data,
            "criteria": CRITERIA,
            "units": self.units,
            "notes": self.notes,
            "stresses": [
                {
                    "name": finding.stress.name,
                    "about": finding.stress.about,
                    "expectation": finding.stress.expectation,
                    "levels": list(finding.stress.levels),
                    "groups": finding.groups,
                    "met": finding.met,
                    "needs": finding.stress.needs if finding.met is None else None,
                    "unanswered": dict(finding.unanswered),
                }
                for finding in self.findings
            ],
            "measures": [measure.to_dict() for finding in self.findings for measure in _measures(finding)],
            "environment": self.environment,
        }

    def markdown(self) -> str:
        """A table for every expectation."""
        lines = [f"# Robustness: {self.model['name']}", ""]
        for note in (*self.model["notes"], *self.notes):
            lines += [f"Note: {note}", ""]
        lines += [
            f"{self.data['groups']:,} groups ({self.data['name']}): {self.summary}. Shifts are multiples of the "
            "standard deviation of the scores within groups; in brackets 95 % intervals over groups.",
        ]
        dimensions = [name for name in self.units if name != OVERALL]
        for expectation, columns in COLUMNS.items():
            found = [finding for finding in self.applied if finding.stress.expectation == expectation]
            if found:
                lines += ["", f"## {HEADINGS[expectation]}", "", f"As expected where {CRITERIA[expectation]}.", ""]
                lines += _table(found, dimensions, columns)
        missing = [finding.stress for finding in self.findings if finding.met is None]
        if missing:
            listed = ", ".join(f"{stress.name} (needs {stress.needs})" for stress in missing)
            lines += ["", f"Not applicable to these data: {listed}."]
        for finding in self.applied:
            if finding.unanswered:
                lines += ["", f"{finding.stress.name}: {len(finding.unanswered):,} groups without an answer."]
        for kind, ids in self.data["groups_left_out"].items():
            lines += ["", f"Left out: {len(ids):,} groups, {kind.replace('_', ' ')}."]
        for kind, number in self.data["faults"].items():
            lines += ["", f"Found in the data: {number:,} x {kind.replace('_', ' ')}."]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write `result.json`, `result.md`, `answers.jsonl` (every score) and `robustness.png`."""
        from editreward.benchmarks.robustness.figure import draw

        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            {"stress": stress, "group_id": group_id, **asdict(scores)}
            for stress, answers in self.answers.items()
            for group_id, scores in answers.items()
        ]
        texts = {
            "result.json": json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n",
            "result.md": self.markdown(),
            "answers.jsonl": "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        picture = folder / "robustness.png"
        draw(self, picture)
        return [*(folder / name for name in texts), picture]


def _measures(finding: Finding) -> list[Measure]:
    levels = finding.stress.levels[1:] or ("",)
    shifts = [
        Measure(" ".join(filter(None, ("standardised shift", level, f"({name})"))), finding.stress.name, estimate)
        for name, estimates in finding.shifts.items()
        for level, estimate in zip(levels, estimates, strict=True)
    ]
    return shifts + [Measure(name, finding.stress.name, estimate) for name, estimate in finding.measures.items()]


def _rank(finding: Finding) -> str:
    if RANK not in finding.measures:
        return "-"
    text = f"{cell(finding.measures[RANK])} of {finding.measures[EDITS_RANKED].value:.3g}"
    return text + (f"; true {finding.measures[TRUE_RANK].value:.2f}" if TRUE_RANK in finding.measures else "")


COLUMNS: dict[str, tuple[tuple[str, Callable[[Finding], str]], ...]] = {
    INVARIANT: (
        (SIZE_OF_SHIFT, lambda finding: _number(finding.measures[SIZE_OF_SHIFT])),
        (FLIPS, lambda finding: cell(finding.measures[FLIPS])),
    ),
    FALLS: (
        ("overall shift by level", lambda finding: " / ".join(_number(one) for one in finding.shifts[OVERALL])),
        (SPEARMAN, lambda finding: cell(finding.measures[SPEARMAN])),
        (STEPS_DOWN, lambda finding: cell(finding.measures[STEPS_DOWN])),
    ),
    LOSES: (
        (BEATEN, lambda finding: cell(finding.measures[BEATEN])),
        (RANK, _rank),
    ),
    NO_GAIN: (
        (RISES, lambda finding: _number(finding.measures[RISES])),
        (OVERTAKEN, lambda finding: cell(finding.measures[OVERTAKEN])),
    ),
}
"""Columns of each expectation's table between the shifts and the verdict."""


def _table(
    findings: Sequence[Finding], dimensions: Sequence[str], columns: Sequence[tuple[str, Callable[[Finding], str]]]
) -> list[str]:
    headings = [name.replace("_", " ") for name in dimensions]
    header = ["stress", "", "overall shift", *headings, *(heading for heading, _ in columns), "as expected"]
    lines = [header, ["---"] * len(header)]
    for finding in findings:
        stress = finding.stress
        about = stress.about + (f": {' / '.join(stress.levels[1:])}" if stress.levels else "")
        shifts = [_number(finding.shifts[name][-1]) for name in dimensions]
        cells = [stress.name, about, cell(finding.shift), *shifts, *(text(finding) for _, text in columns)]
        lines.append([*cells, "yes" if finding.met else "**no**"])
    return [f"| {' | '.join(line)} |" for line in lines]


def _number(estimate: Estimate) -> str:
    """The value, a share in percent."""
    if math.isnan(estimate.value):
        return "-"
    return f"{100 * estimate.value:.1f} %" if isinstance(estimate, Share) else f"{estimate.value:.2f}"


def cell(estimate: Estimate) -> str:
    """The value and its interval, as text."""
    if math.isnan(estimate.low):
        return _number(estimate)
    scale, digits = (100, 1) if isinstance(estimate, Share) else (1, 2)
    low, high = (f"{scale * bound:.{digits}f}" for bound in (estimate.low, estimate.high))
    return f"{_number(estimate)} ({low} to {high})"
