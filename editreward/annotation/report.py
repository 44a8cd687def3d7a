"""The quality report of an annotation: a self-contained HTML page and the same as JSON."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from editreward.annotation.quality import KnownAnswers, Quality, References, differences_by_annotator
from editreward.annotation.report_plots import (
    agreement_plot,
    confusion_plot,
    data_uri,
    drift_plot,
    kappa_plot,
    score_plot,
    time_plot,
)
from editreward.groups.rating_files import ratings_of_group
from editreward.groups.ratings import Rating
from editreward.reports.style import figure_style
from editreward.statistics.agreement import Estimate

TEMPLATE = Path(__file__).with_name("report.html")
ROWS_SHOWN = 100
"""Rows of the page's long tables; the JSON has all."""


def write_report(
    quality: Quality,
    ratings: Sequence[Rating],
    folder: str | os.PathLike[str],
    references: References | None = None,
    title: str = "Annotation quality",
) -> list[Path]:
    """Write `report.html` and `report.json`.

    Args:
        quality: as `assess` returns.
        ratings, references: what it was made of.
        folder: where to write.
        title: heading of the page.

    Returns:
        The two files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "report.html", folder / "report.json"
    page.write_text(as_html(quality, ratings, references or {}, title), encoding="utf-8")
    data.write_text(json.dumps(as_json(quality), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return [page, data]


def as_json(quality: Quality) -> dict[str, Any]:
    """The report as JSON data; what is undefined is null."""
    result: dict[str, Any] = _without_nan(asdict(quality))
    return result


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def as_html(quality: Quality, ratings: Sequence[Rating], references: References, title: str) -> str:
    """The report as a page that needs no other file."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {
        "percent": lambda estimate: format_estimate(estimate, 100, ".1f", " %"),
        "estimate": format_estimate,
        "number": lambda value: "–" if math.isnan(value) else f"{value:.2f}",
        "passed": format_passed,
    }
    pairs = [(entry.dimension, pair) for entry in quality.agreement for pair in entry.pairs]
    pairs.sort(key=lambda item: (math.isnan(item[1].kappa.value), item[1].kappa.value))
    with figure_style():
        plots = _plots(quality, ratings, references)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        quality=quality,
        flagged=sum(bool(person.flags) for person in quality.annotators),
        pairs=pairs,
        plots=plots,
        shown=ROWS_SHOWN,
    )


def _plots(quality: Quality, ratings: Sequence[Rating], references: References) -> dict[str, list[dict[str, str]]]:
    live = [rating for rating in ratings if rating.purpose != "calibration"]
    measured = [entry for entry in quality.agreement if entry.candidates]
    order = sorted(quality.annotators, key=lambda person: (-person.groups, person.annotator))
    names = [person.annotator for person in order if person.groups]
    agreement, pairs, annotators = [], [], []
    if measured:
        agreement.append(("Agreement with intervals", agreement_plot(measured)))
        agreement.append(("Scores of two annotators", confusion_plot(measured)))
        pairs += [(f"Kappa by pair, {entry.dimension}", kappa_plot(entry)) for entry in measured]
    if names:
        annotators.append(("Scores by annotator", score_plot(live, quality.dimensions, names)))
    if any(person.drift for person in quality.annotators):
        differences = differences_by_annotator(live, references, quality.dimensions, quality.set_aside)
        annotators.append(("Differences over time", drift_plot(differences, quality.annotators, quality.dimensions)))
    if any(rating.seconds > 0 for rating in live):
        annotators.append(("Time by annotator", time_plot(live, names, quality.limits.fast_seconds)))
    return {
        place: [{"alt": alt, "src": data_uri(figure)} for alt, figure in figures]
        for place, figures in (("agreement", agreement), ("pairs", pairs), ("annotators", annotators))
    }


def format_estimate(estimate: Estimate, factor: float = 1, form: str = ".3f", unit: str = "") -> str:
    """A value with its interval in words, "0.815 (0.700 to 0.902)"; "–" where undefined."""
    if math.isnan(estimate.value):
        return "–"
    value = f"{factor * estimate.value:{form}}{unit}"
    if math.isnan(estimate.low):
        return value
    return f"{value} ({factor * estimate.low:{form}} to {factor * estimate.high:{form}})"


def format_passed(known: KnownAnswers | None) -> str:
    """Groups passed of those with known answers."""
    return f"{known.passed} of {known.groups}" if known else "–"


def as_text(quality: Quality) -> str:
    """The report in short, for the terminal."""
    groups = ", ".join(f"{count} {purpose} groups" for purpose, count in quality.groups.items())
    lines = [f"{groups}, {len(quality.annotators)} annotators."]
    for entry in quality.agreement:
        if entry.candidates:
            lines.append(
                f"{entry.dimension}: exact {format_estimate(entry.exact, 100, '.1f', ' %')}, "
                f"alpha {format_estimate(entry.alpha)}, {entry.candidates} candidates."
            )
    for person in quality.annotators:
        gold = f", gold groups passed: {format_passed(person.gold)}" if person.gold else ""
        flags = f". FLAGGED: {'; '.join(person.flags)}" if person.flags else ""
        lines.append(f"{person.annotator}: {person.groups} groups{gold}{flags}.")
    lines.append(f"{len(quality.to_check)} groups to cross-check.")
    return "\n".join(lines + [f"Note: {note}" for note in quality.notes])


def ratings_of_dataset(rows: Sequence[Mapping[str, Any]] | Any) -> list[Rating]:
    """The ratings in the `annotations` of rows as `raw_groups` gives them.

    Raises:
        ValueError: two groups have the same id, or an annotation has no annotator's name.
    """
    ratings: list[Rating] = []
    seen: set[str] = set()
    for row in rows:
        if row["group_id"] in seen:
            raise ValueError(f"Two groups are called {row['group_id']!r}. See editreward data check.")
        seen.add(row["group_id"])
        ratings += ratings_of_group(row)
    return ratings


def references_of_dataset(rows: Sequence[Mapping[str, Any]] | Any) -> dict[str, list[dict[str, float]]]:
    """Known answers out of the `scores` of rows as `raw_groups` gives them."""
    return {
        row["group_id"]: [
            {name: score for name, score in (candidate["scores"] or {}).items() if score is not None}
            for candidate in row["candidates"]
        ]
        for row in rows
    }
