"""The quality report of an annotation: a self-contained HTML page and the same as JSON."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from editreward.annotation.quality import KnownAnswers, Quality, References
from editreward.annotation.report_plots import agreement_plots, annotator_plots, kappa_plot
from editreward.groups.rating_files import ratings_of_group
from editreward.groups.ratings import Rating
from editreward.groups.rows import GroupRows
from editreward.reports.page import Cell, Page, Section, Strong, Table

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
    page.write_text(report_page(quality, ratings, references or {}, title).html(), encoding="utf-8")
    data.write_text(json.dumps(as_json(quality), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return [page, data]


def as_json(quality: Quality) -> dict[str, object]:
    """The report as JSON data; what is undefined is null."""
    return {name: _without_nan(value) for name, value in asdict(quality).items()}


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def report_page(quality: Quality, ratings: Sequence[Rating], references: References, title: str) -> Page:
    """The report as a page. Arguments as for `write_report`."""
    groups = ", ".join(
        f"{count} {purpose} groups ({quality.ratings[purpose]} ratings of candidates)"
        for purpose, count in quality.groups.items()
    )
    flagged = sum(bool(person.flags) for person in quality.annotators)
    text = [
        f"{groups}. {len(quality.annotators)} annotators, {flagged} flagged; {len(quality.to_check)} groups to "
        "cross-check."
    ]
    text += [f"Note: {note}" for note in quality.notes]
    sections = [_agreement(quality), *_pairs(quality), _annotators(quality, ratings, references), _to_check(quality)]
    return Page(title, text, sections)


def _agreement(quality: Quality) -> Section:
    text = [
        "Work groups only, candidates with at least two annotators; 95 % bootstrap intervals over groups. Exact: two "
        "annotators give the same score. Unanimous: all who rated the candidate do."
    ]
    header = ["dimension", "groups", "candidates", "exact", "unanimous", "Krippendorff's alpha, ordinal"]
    rows = [
        [one.dimension, f"{one.groups}", f"{one.candidates}", one.exact.text(), one.unanimous.text(), one.alpha.text()]
        for one in quality.agreement
    ]
    measured = [one for one in quality.agreement if one.candidates]
    return Section("Agreement", text, [Table(header, rows)], agreement_plots(measured) if measured else [])


def _pairs(quality: Quality) -> list[Section]:
    pairs = [(one.dimension, pair) for one in quality.agreement for pair in one.pairs]
    pairs.sort(key=lambda item: (math.isnan(item[1].kappa.value), item[1].kappa.value))
    if not pairs:
        return []
    rows = [
        [name, f"{p.first}, {p.second}", f"{p.groups}", f"{p.candidates}", p.exact.text(), p.kappa.text()]
        for name, p in pairs[:ROWS_SHOWN]
    ]
    text = ["Kappa is Cohen's with quadratic weights."]
    if len(pairs) > ROWS_SHOWN:
        text.append(f"{ROWS_SHOWN} of {len(pairs)}, lowest kappa first; all are in report.json.")
    table = Table(["dimension", "annotators", "groups", "candidates", "exact", "kappa"], rows, names=2)
    plots = [kappa_plot(one) for one in quality.agreement if one.pairs]
    return [Section("Pairs of annotators", text, [table], plots)]


def _annotators(quality: Quality, ratings: Sequence[Rating], references: References) -> Section:
    text = [
        "Above others and distance: mean difference and mean absolute difference from the mean of the others' scores, "
        "or from the known answer, in points. A gold or calibration group is passed if its scores reach the terms of "
        "the calibration round by themselves."
    ]
    if quality.set_aside:
        text.append(f"Nobody is compared with {', '.join(quality.set_aside)}, who drifted.")
    header = ["annotator", "groups", "seconds per candidate"]
    for name in quality.dimensions:
        header += [f"{name}: mean", "above others", "distance"]
    rows: list[list[Cell]] = []
    for person in quality.annotators:
        numbers = [person.seconds]
        for name in quality.dimensions:
            numbers += [person.mean[name], person.level[name], person.distance[name]]
        known = [format_passed(person.gold), format_passed(person.calibration)]
        cells = [person.annotator, f"{person.groups}", *map(_number, numbers), *known]
        rows.append([*cells, Strong("; ".join(person.flags)) if person.flags else ""])
    table = Table([*header, "gold passed", "calibration passed", "flags"], rows, remarks=1)
    return Section("Annotators", text, [table], annotator_plots(quality, ratings, references))


def _to_check(quality: Quality) -> Section:
    if not quality.to_check:
        return Section("Groups to cross-check", ["None."])
    rows = [
        [group.group_id, ", ".join(group.annotators), "; ".join(group.reasons)]
        for group in quality.to_check[:ROWS_SHOWN]
    ]
    number = len(quality.to_check)
    text = [f"The first {ROWS_SHOWN} of {number}; all are in report.json."] if number > ROWS_SHOWN else []
    return Section("Groups to cross-check", text, [Table(["group", "annotators", "reasons"], rows, names=3)])


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


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
                f"{entry.dimension}: exact {entry.exact.text()}, alpha {entry.alpha.text()}, "
                f"{entry.candidates} candidates."
            )
    for person in quality.annotators:
        gold = f", gold groups passed: {format_passed(person.gold)}" if person.gold else ""
        flags = f". FLAGGED: {'; '.join(person.flags)}" if person.flags else ""
        lines.append(f"{person.annotator}: {person.groups} groups{gold}{flags}.")
    lines.append(f"{len(quality.to_check)} groups to cross-check.")
    return "\n".join(lines + [f"Note: {note}" for note in quality.notes])


def ratings_of_dataset(rows: GroupRows) -> list[Rating]:
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


def references_of_dataset(rows: GroupRows) -> dict[str, list[dict[str, float]]]:
    """Known answers out of the `scores` of rows as `raw_groups` gives them."""
    return {
        row["group_id"]: [
            {name: score for name, score in (candidate["scores"] or {}).items() if score is not None}
            for candidate in row["candidates"]
        ]
        for row in rows
    }
