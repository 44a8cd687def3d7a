"""The result of the stresses as JSON and Markdown."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from editreward.benchmarks.measures import Measure
from editreward.benchmarks.protocols import OVERALL
from editreward.benchmarks.robustness.figure import draw
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
from editreward.benchmarks.robustness.stresses import CRITERIA, FALLS, HEADINGS, INVARIANT, LOSES, NO_GAIN
from editreward.groups import GroupScores
from editreward.reports.page import Cell, Page, Section, Strong, Table
from editreward.statistics import Estimate, Share

RESULT_VERSION = 1


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

    def to_dict(self) -> dict[str, object]:
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

    def page(self) -> Page:
        """A section with a table for every expectation."""
        text = [f"Note: {note}" for note in (*self.model["notes"], *self.notes)]
        text.append(
            f"{self.data['groups']:,} groups ({self.data['name']}): {self.summary}. Shifts are multiples of the "
            "standard deviation of the scores within groups; in brackets 95 % intervals over groups."
        )
        dimensions = [name for name in self.units if name != OVERALL]
        sections = []
        for expectation, columns in COLUMNS.items():
            found = [finding for finding in self.applied if finding.stress.expectation == expectation]
            if found:
                criterion = f"As expected where {CRITERIA[expectation]}."
                sections.append(Section(HEADINGS[expectation], [criterion], [_table(found, dimensions, columns)]))
        return Page(f"Robustness: {self.model['name']}", text, [*sections, *self._left_out()])

    def _left_out(self) -> list[Section]:
        missing = [finding.stress for finding in self.findings if finding.met is None]
        listed = ", ".join(f"{stress.name} (needs {stress.needs})" for stress in missing)
        text = [f"Not applicable to these data: {listed}."] if missing else []
        text += [
            f"{finding.stress.name}: {len(finding.unanswered):,} groups without an answer."
            for finding in self.applied
            if finding.unanswered
        ]
        text += [
            f"Left out: {len(ids):,} groups, {kind.replace('_', ' ')}."
            for kind, ids in self.data["groups_left_out"].items()
        ]
        text += [
            f"Found in the data: {number:,} x {kind.replace('_', ' ')}."
            for kind, number in self.data["faults"].items()
        ]
        return [Section("Faults, and what was left out", text)] if text else []

    def markdown(self) -> str:
        """The page as Markdown."""
        return self.page().markdown()

    def draw(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Draw the picture, PNG, SVG or PDF by its suffix, or into an open file as PNG."""
        names = [OVERALL, *(name for name in self.units if name != OVERALL)]
        about = f"{self.data['groups']:,} groups, {self.data['edits']:,} edits   ·   {self.summary}"
        draw(self.applied, names, f"Robustness: {self.model['name']}", about, path)

    def write(self, folder: Path) -> list[Path]:
        """Write `result.json`, `result.md`, `answers.jsonl` (every score) and `robustness.png`."""
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
        self.draw(picture)
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
) -> Table:
    headings = [name.replace("_", " ") for name in dimensions]
    header = ["stress", "", "overall shift", *headings, *(heading for heading, _ in columns), "as expected"]
    rows: list[list[Cell]] = []
    for finding in findings:
        stress = finding.stress
        about = stress.about + (f": {' / '.join(stress.levels[1:])}" if stress.levels else "")
        shifts = [_number(finding.shifts[name][-1]) for name in dimensions]
        cells = [stress.name, about, cell(finding.shift), *shifts, *(text(finding) for _, text in columns)]
        rows.append([*cells, "yes" if finding.met else Strong("no")])
    return Table(header, rows, names=2, remarks=1)


def _number(estimate: Estimate) -> str:
    """The value, a share in percent."""
    if math.isnan(estimate.value):
        return "–"
    return f"{100 * estimate.value:.1f} %" if isinstance(estimate, Share) else f"{estimate.value:.2f}"


def cell(estimate: Estimate) -> str:
    """The value and its interval, as text."""
    return estimate.text() if isinstance(estimate, Share) else estimate.text(2)
