"""The report of one scorer on one benchmark."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from editreward.benchmarks.measures import Measure
from editreward.benchmarks.protocols import OVERALL, Answers, preference_probabilities
from editreward.benchmarks.published import Published
from editreward.benchmarks.reports.findings import (
    ACCURACY,
    AHEAD,
    Breakdown,
    Mistake,
    breakdowns,
    distributions,
    rank_confusion,
    worst_mistakes,
)
from editreward.benchmarks.reports.saved import RESULT, write_answers
from editreward.benchmarks.result import BenchmarkResult
from editreward.benchmarks.runner import rows_at
from editreward.data.images import thumbnail
from editreward.groups.rows import GroupRow, GroupRows
from editreward.reports import plots
from editreward.reports.page import Cell, Example, Page, Picture, Plot, Section, Strong, Table
from editreward.statistics import Share, expected_calibration_error, reliability_bins
from editreward.statistics.estimate import Estimate
from editreward.statistics.resampling import BOOTSTRAP_SAMPLES

STEM = "result"
THIS_RUN, ELSEWHERE = "this run", "published, not run here"
EXAMPLES = 8

LABELS = 40
"""Labels of a breakdown that are shown, those with most cases; a line says so where there are more."""

LISTED = 12
"""Ids or faults of a kind that are shown; result.json has more."""


def write_report(result: BenchmarkResult, rows: GroupRows, folder: Path, examples: int = EXAMPLES) -> list[Path]:
    """Write the result as JSON, Markdown, HTML and a figure, and the answers.

    Args:
        result: of the run.
        rows: the dataset, for the images of the examples.
        folder: where to write; made if needed.
        examples: how many of the largest mistakes to show.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / RESULT
    data.write_text(json.dumps(result.to_dict(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    page = report_page(result, rows, examples)
    return [*page.write(folder, STEM), data, *write_answers(result.answers, folder)]


def report_page(result: BenchmarkResult, rows: GroupRows, examples: int = EXAMPLES) -> Page:
    """The report as a page. Arguments as for `write_report`."""
    data = result.data
    text = [
        f"{data['items_judged']:,} of {data['items']:,} items judged, in {data['groups_judged']:,} groups of "
        f"{data['name']}. Intervals hold 95 %, resampled by group."
    ]
    text += [f"Note: {note}" for note in result.notes]
    return Page(
        title=f"{result.benchmark.title}: {result.model['name']}",
        text=text,
        sections=[
            *_published(result),
            _measures(result.measures),
            *_distinctions(result.answers),
            _mistakes(result, rows, examples),
            _data(data),
            _provenance(result),
        ],
    )


def number(value: float, is_share: bool) -> str:
    """A share in percent, another number with three digits, "–" for none."""
    if math.isnan(value):
        return "–"
    return f"{100 * value:.1f}" if is_share else f"{value:.3f}"


def with_interval(estimate: Estimate, is_share: bool | None = None) -> str:
    """An estimate with its interval, "72.1 (70.0 to 74.3)"; shares in percent."""
    share = isinstance(estimate, Share) if is_share is None else is_share
    value = number(estimate.value, share)
    if math.isnan(estimate.low) or value == "–":
        return value
    return f"{value} ({number(estimate.low, share)} to {number(estimate.high, share)})"


def _published(result: BenchmarkResult) -> list[Section]:
    """The run among published numbers, where there are any."""
    sections = []
    for published in result.published:
        ours = {m.column: m for m in result.measures if m.column is not None and m.column in published.columns}
        if ours:
            sections.append(_published_section(published, ours, result.model["name"]))
    return sections


def _published_section(published: Published, ours: Mapping[str, Measure], name: str) -> Section:
    cells: list[Cell] = [Strong(name), Strong(THIS_RUN)]
    # Both kinds of numbers, accuracies and correlations, are published times 100.
    cells += [Strong(with_interval(ours[c].estimate, True)) if c in ours else "–" for c in published.columns]
    rows = [cells]
    for method, numbers in published.rows.items():
        rows.append([method, ELSEWHERE, *("–" if one is None else f"{one:.2f}" for one in numbers)])
    text = [
        f"Numbers marked “{ELSEWHERE}” are those of {published.source}. {published.note}".strip(),
        "Accuracies in percent, correlations times 100.",
    ]
    label = f"{name} ({THIS_RUN})"
    columns = []
    for place, column in enumerate(published.columns):
        if column in ours and not math.isnan(ours[column].value):
            measure = ours[column]
            known = {m: v[place] for m, v in published.rows.items()}
            values = {m: (v, math.nan, math.nan) for m, v in known.items() if v is not None}
            values[label] = (
                100 * measure.estimate.value,
                100 * measure.estimate.low,
                100 * measure.estimate.high,
            )
            unit = "accuracy, %" if isinstance(measure.estimate, Share) else "correlation x 100"
            chance = None if measure.chance is None else 100 * measure.chance
            columns.append(plots.Dots(column, values, chance, unit))
    plot = Plot(
        "Beside published numbers",
        f"{name}, this run: "
        + ", ".join(f"{c.name} {c.values[label][0]:.1f}" for c in columns)
        + "; published numbers as in the table below, hollow dots. Dashed: random scores",
        lambda figure, palette: plots.published_plot(figure, palette, columns, label),
        10.0,
        1.3 + 0.24 * len(rows),
    )
    table = Table(["method", "", *published.columns], rows, names=2)
    return Section("Beside published numbers", text, [table], [plot] if columns else [])


def _measures(measures: Sequence[Measure]) -> Section:
    parts = [measure for measure in measures if ": " in measure.subset]
    text = [
        "Shares in percent. Random scores and coin: what a scorer of random numbers and a judge that answers every "
        "pair at random reach in expectation."
    ]
    tables = [_measures_table([measure for measure in measures if measure not in parts])]
    if parts:
        table = _measures_table(parts)
        tables.append(
            replace(table, caption=f"The same by category, task and the like ({len(parts)})", is_folded=True)
        )
    return Section("Measures", text, tables)


def _measures_table(measures: Sequence[Measure]) -> Table:
    rows: list[list[Cell]] = []
    for measure in measures:
        share = isinstance(measure.estimate, Share)
        floors = ["–" if floor is None else number(floor, share) for floor in (measure.chance, measure.coin)]
        threshold = measure.details.get("tie_threshold")
        shown = [with_interval(measure.estimate), f"{measure.estimate.total:,}", *floors]
        rows.append([measure.name, measure.subset, *shown, "" if threshold is None else f"{threshold:.4g}"])
    return Table(["measure", "of", "value", "n", "random scores", "coin", "tie threshold"], rows, names=2)


def _distinctions(answers: Answers) -> list[Section]:
    """What the measures do not show: plots first, then tables."""
    found = breakdowns(answers)
    text: list[str] = []
    drawn: list[Plot] = []
    for notes, of_part in (_parts_plot(found), _reliability(answers), _distributions(answers), _ranks(answers)):
        text += notes
        drawn += of_part
    sections = [Section("Where it is right", text, plots=drawn)]
    if found:
        sections.append(Section("By category and the like", tables=[_breakdown_table(one) for one in found]))
    return sections


def _parts_plot(found: Sequence[Breakdown]) -> tuple[list[str], list[Plot]]:
    if not found:
        return ["Parts left out: the benchmark tells none apart."], []
    one = max(found, key=lambda one: (one.kind in ("category", "task"), min(len(one.columns[OVERALL]), LABELS)))
    is_share = one.what == ACCURACY
    series = {name: dict(list(column.items())[:18]) for name, column in one.columns.items()}
    labels = list(dict.fromkeys(label for column in series.values() for label in column))
    values = "; ".join(f"{label} {number(e.value, is_share)}" for label, e in series[OVERALL].items())
    chances = dict.fromkeys(labels, 50.0) if is_share else {}
    plot = Plot(
        f"By {one.kind}",
        f"{one.what} by {one.kind}, overall: {values}",
        lambda figure, palette: plots.bars_plot(figure, palette, series, chances, "%" if is_share else "correlation"),
        height=max(3.4, 1.2 + len(labels) * (0.14 + 0.12 * len(series))),
    )
    return [f"By {one.kind}: {one.what}."], [plot]


def _breakdown_table(breakdown: Breakdown) -> Table:
    labels = list(dict.fromkeys(label for column in breakdown.columns.values() for label in column))
    rows: list[list[Cell]] = []
    for label in labels[:LABELS]:
        estimates = [column.get(label) for column in breakdown.columns.values()]
        values = ["–" if e is None else with_interval(e) for e in estimates]
        rows.append([label, *values, f"{max(e.total for e in estimates if e is not None):,}"])
    more = f" (the {LABELS} of {len(labels)} with most cases)" if len(labels) > LABELS else ""
    caption = f"{breakdown.what.capitalize()}, by {breakdown.kind}{more}"
    return Table([breakdown.kind, *breakdown.columns, "n"], rows, caption)


def _reliability(answers: Answers) -> tuple[list[str], list[Plot]]:
    pairs = answers.pairs()
    probabilities = preference_probabilities(answers, pairs)
    probabilities = probabilities[~np.isnan(probabilities)]
    if not len(probabilities):
        why = "the scorer states no probabilities" if pairs.truths.any() else "there are no pairs that are no tie"
        return [f"Reliability left out: {why}."], []
    error, bins = expected_calibration_error(probabilities), reliability_bins(probabilities)
    said = "; ".join(f"stated {100 * b.confidence:.0f} %, true {100 * b.accuracy:.0f} %" for b in bins if b.count)
    plot = Plot(
        "Are stated probabilities true?",
        f"Reliability diagram of {len(probabilities):,} pairs, expected calibration error {error:.3f}: {said}",
        lambda figure, palette: plots.reliability_plot(figure, palette, bins),
        height=4.2,
    )
    text = (
        f"Probabilities: expected calibration error {error:.3f} over {len(probabilities):,} pairs that are no tie. On "
        "the dashed line stated probabilities are true; below it the scorer is too sure."
    )
    return [text], [plot]


def _distributions(answers: Answers) -> tuple[list[str], list[Plot]]:
    values = distributions(answers)
    if not values:
        return ["Distribution of scores left out: a judge of pairs scores no edit."], []
    medians = "; ".join(
        f"{name}: " + ", ".join(f"{part} median {np.median(points):.2f}" for part, points in parts.items())
        for name, parts in values.items()
    )
    plot = Plot(
        "Scores",
        f"Distribution of scores. {medians}",
        lambda figure, palette: plots.distribution_plot(figure, palette, values, "score; lines: medians"),
        height=max(3.4, 1.0 + 1.25 * len(values)),
    )
    text = (
        "Scores: an edit is ahead if it wins more comparisons than it loses, is rated above the median, or in a "
        "dimension with annotated scores if it is above the mean of its group."
    )
    return [text] if any(AHEAD in parts for parts in values.values()) else [], [plot]


def _ranks(answers: Answers) -> tuple[list[str], list[Plot]]:
    tables = rank_confusion(answers)
    if not tables:
        return ["Ranks left out: no edits were compared."], []
    said = "; ".join(
        f"K = {k}: the best edit is ranked first in {100 * counts[0, 0] / counts[0].sum():.0f} %"
        for k, counts in tables.items()
        if counts[0].any()  # verdicts that go round in a circle leave no best edit
    )
    plot = Plot(
        "Ranks",
        f"True rank against predicted rank. {said}",
        lambda figure, palette: plots.confusion_plot(
            figure,
            palette,
            {f"K = {k}": (range(1, k + 1), counts) for k, counts in tables.items()},
            "predicted rank",
            "true rank, % of each",
        ),
        height=4.4 if len(tables) == 1 else 3.0,
    )
    return ["Ranks: edits that tie share the better one; items of nothing but ties are left out."], [plot]


def _mistakes(result: BenchmarkResult, rows: GroupRows, number_of: int) -> Section:
    mistakes = worst_mistakes(result.answers, number_of)
    title = "Largest confident mistakes"
    if not mistakes:
        return Section(title, ["None: no comparison that is no tie came out the wrong way round."])
    groups = result.answers.groups
    wanted = {groups[mistake.item.group_id].row for mistake in mistakes}
    stored = dict(rows_at(rows, wanted))
    text = ["At most one of a group. Pictures are reduced."]
    if result.settings["shuffle_instructions"]:
        text.append("The scorer was shown another group's instruction, not the one below.")
    examples = [_example(one, stored[groups[one.item.group_id].row], result.answers) for one in mistakes]
    return Section(title, text, examples=examples)


def _example(mistake: Mistake, row: GroupRow, answers: Answers) -> Example:
    item = mistake.item
    record = answers.groups[item.group_id]
    scores = answers.scores[item.group_id] if answers.scores else None
    better, worse = _letter(mistake.better), _letter(mistake.worse)
    of = "" if item.dimension == OVERALL else f" in {item.dimension}"
    if mistake.unit == "probability":
        said = f"People prefer {better}{of}; the scorer prefers {worse} with probability {mistake.confidence:.3f}."
    elif mistake.unit == "margin":
        said = f"People prefer {better}{of}; {worse} is ahead by {mistake.confidence:.3g}."
    else:
        side = "above" if mistake.confidence > 0 else "below"
        places = f"{abs(mistake.confidence):.0%} of all edits"
        said = f"{better} is rated {item.score:g} by people; the scorer puts it {places} {side} its place."
    pictures = [
        Picture(thumbnail(image), "Source" if place == 1 else f"Source {place}", [])
        for place, image in enumerate(row["source_images"], start=1)
    ]
    for index in item.candidates:
        lines = [f"editor: {record.editors[index] or 'not given'}"]
        truth = {name: values[index] for name, values in record.truth.items() if not np.isnan(values[index])}
        if truth:
            lines.append("people: " + ", ".join(f"{name} {value:.3g}" for name, value in truth.items()))
        if scores is not None:
            columns = {OVERALL: scores.overall, **scores.dimensions}
            for name, values in columns.items():
                std = f" ± {scores.stds[name][index]:.2g}" if name in scores.stds else ""
                lines.append(f"scorer: {name} {values[index]:.3g}{std}")
        mark = ""
        if mistake.unit != "places":
            mark = {mistake.better: "people's choice", mistake.worse: "scorer's choice"}.get(index, "")
        pictures.append(Picture(thumbnail(row["candidates"][index]["image"]), f"Edit {_letter(index)}", lines, mark))
    told = [said, " · ".join(filter(None, [f"group {item.group_id}", record.category, record.language, item.task]))]
    return Example(said, f"“{record.instruction}”", told[1:], pictures)


def _letter(index: int) -> str:
    """A, B, ... Z, then numbers."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def _data(data: Mapping[str, Any]) -> Section:
    """What was left out and what was found."""
    rows: list[list[Cell]] = []
    for kind, ids in data["items_left_out"].items():
        rows.append([f"left out: {_words(kind)}", _some(ids), f"{len(ids):,} items"])
    for kind, ids in data["groups_left_out"].items():
        rows.append([f"left out: {_words(kind)}", _some(ids), f"{len(ids):,} groups"])
    for group_id, reason in list(data["not_answered"].items())[:LISTED]:
        rows.append([f"not answered: {reason}", group_id, "1 group"])
    imported = data["imported"] or {"errors": {}, "listed_in": None}
    for kind, count in imported["errors"].items():
        rows.append(
            [f"left out by the import: {_words(kind)}", f"listed in {imported['listed_in']}", f"{count:,} rows"]
        )
    listed: dict[str, list[str]] = {}
    for fault in data["faults_listed"]:
        where = fault["group_id"] or f"row {fault['row']}"
        listed.setdefault(fault["kind"], []).append(f"{where}: {fault['place']} {fault['message']}")
    for kind, count in data["faults"].items():
        rows.append([f"found: {_words(kind)}", _some(listed.get(kind, []), count), f"{count:,}"])
    title = "Faults, and what was left out"
    if not rows:
        return Section(title, ["Nothing: all items were judged, and the data have no faults."])
    return Section(title, tables=[Table(["what", "which", "number"], rows, names=2)])


def _some(names: Sequence[str], of: int | None = None) -> str:
    shown = list(names[:LISTED])
    more = (len(names) if of is None else of) - len(shown)
    return "; ".join(map(str, shown)) + (f"; and {more:,} more" if more else "")


def _words(kind: str) -> str:
    return kind.replace("_", " ").replace("-", " ")


def _provenance(result: BenchmarkResult) -> Section:
    model, data, settings = result.model, result.data, result.settings
    rows: list[list[Cell]] = [
        ["model", model["name"]],
        ["kind", model["kind"]],
        ["model revision", model["revision"] or "none: not from the Hub"],
        *_rows({f"fingerprint: {name}": value for name, value in _parts(model["fingerprint"])}),
        ["dataset", data["name"]],
        ["dataset revision", data["revision"] or "none: not from the Hub"],
        ["dataset SHA-256", data["sha256"]],
        ["rows read", f"{data['rows']:,}"],
        *_rows({_words(name): "none" if value is None else value for name, value in settings.items()}),
        ["bootstrap", f"{BOOTSTRAP_SAMPLES:,} resamples of groups, seed 0"],
        *_rows(result.environment),
    ]
    return Section("Made with", tables=[Table(["", ""], rows, names=2)])


def _rows(values: Mapping[str, Any]) -> list[list[Cell]]:
    return [[name, str(value)] for name, value in values.items()]


def _parts(fingerprint: str) -> list[tuple[str, str]]:
    """The settings that a fingerprint is made of, or the fingerprint."""
    try:
        settings = json.loads(fingerprint)
    except json.JSONDecodeError:
        settings = None
    if not isinstance(settings, dict):
        return [("as given", fingerprint)]
    return [(str(name), value if isinstance(value, str) else json.dumps(value)) for name, value in settings.items()]
