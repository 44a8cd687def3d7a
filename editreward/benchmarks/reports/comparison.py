"""Results of several scorers on one benchmark, side by side, with paired tests of their differences."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from editreward.benchmarks.measures import Measure, json_number
from editreward.benchmarks.reports.report import number, with_interval
from editreward.benchmarks.reports.saved import SavedResult, read_result
from editreward.reports import plots
from editreward.reports.page import Cell, Page, Plot, Section, Strong, Table
from editreward.statistics import Estimate, PairedDifference, holm

STEM = "comparison"
ALPHA = 0.05
TOLERANCE = 1e-6
"""Within which a measure is the same when it is computed again from the saved answers."""

DRAWN = 20
"""Measures in a plot."""


@dataclass(frozen=True)
class Difference:
    """One scorer against another in one measure, on the cases that both have.

    Attributes:
        first, second: their places in the comparison.
        paired: the difference, first minus second, with its interval and p-value.
        adjusted: the p-value after Holm's correction over all pairs of scorers in this measure.
        cases: number of shared cases.
    """

    first: int
    second: int
    paired: PairedDifference
    adjusted: float
    cases: int


@dataclass(frozen=True)
class ComparedMeasure:
    """One measure of all scorers.

    Attributes:
        name, subset: as in the results.
        is_share: it is a share; else another number.
        lower_is_better: it is an error.
        estimates: of each scorer, None where it has no such measure.
        chances: what random scores reach on each scorer's cases, None where it isn't known.
        differences: of every two scorers that can be tested.
    """

    name: str
    subset: str
    is_share: bool
    lower_is_better: bool
    estimates: list[Estimate | None]
    chances: list[float | None]
    differences: list[Difference] = field(default_factory=list)

    @property
    def is_part(self) -> bool:
        """It is of one category, language, task or the like."""
        return ": " in self.subset

    @property
    def is_common(self) -> bool:
        """It says something of the benchmark, the same whoever is scored."""
        return not self.differences and len({None if e is None else e.value for e in self.estimates}) == 1

    @property
    def leader(self) -> int | None:
        """The scorer with the best value; None where fewer than two have one."""
        known = {i: e.value for i, e in enumerate(self.estimates) if e is not None and not math.isnan(e.value)}
        if len(known) < 2:
            return None
        return (min if self.lower_is_better else max)(known, key=known.__getitem__)

    @property
    def not_beaten(self) -> list[tuple[int, float]]:
        """Scorers that the leader is not significantly better than, with the adjusted p-values; NaN: not tested."""
        leader = self.leader
        tested = {
            d.first if d.second == leader else d.second: d for d in self.differences if leader in (d.first, d.second)
        }
        found = []
        for other, estimate in enumerate(self.estimates):
            if other != leader and estimate is not None and not math.isnan(estimate.value):
                p = tested[other].adjusted if other in tested else math.nan
                if not p < ALPHA:
                    found.append((other, p))
        return found

    @property
    def best(self) -> int | None:
        """The scorer that is significantly better than every other; None if there is none."""
        return self.leader if self.leader is not None and not self.not_beaten else None


@dataclass(frozen=True)
class Comparison:
    """Scorers on one benchmark.

    Attributes:
        results: what is compared.
        labels: names of the scorers, all different.
        measures: of any of them.
        notes: what a reader must know.
    """

    results: list[SavedResult]
    labels: list[str]
    measures: list[ComparedMeasure]
    notes: list[str]

    def page(self) -> Page:
        """As a page."""
        data = self.results[0].data["data"]
        title = f"{self.results[0].benchmark.title}: {len(self.results)} scorers side by side"
        text = [
            f"{data['name']}, SHA-256 {data['sha256'][:16]}. Shares in percent, 95 % intervals resampled by group.",
            f"Bold: significantly better than every other scorer (paired tests on the same cases, p < {ALPHA:g}"
            + (", Holm's correction over all pairs of scorers of a measure" if len(self.labels) > 2 else "")
            + "). Measures are not corrected against each other.",
        ]
        parts = [measure for measure in self.measures if measure.is_part]
        tables = [self._table([measure for measure in self.measures if not (measure.is_part or measure.is_common)])]
        if parts:
            caption = f"The same by category, task and the like ({len(parts)})"
            tables.append(replace(self._table(parts), caption=caption, is_folded=True))
        text += [f"Note: {note}" for note in self.notes]
        return Page(
            title,
            text,
            [Section("Measures", (), tables, self._plots()), self._differences(), *self._common(), self._scorers()],
        )

    def to_dict(self) -> dict[str, object]:
        """As JSON data; what is undefined is null."""
        return {
            "benchmark": self.results[0].benchmark.name,
            "data_sha256": self.results[0].data["data"]["sha256"],
            "scorers": [
                {"label": label, "folder": str(result.folder), "model": result.data["model"]}
                for label, result in zip(self.labels, self.results, strict=True)
            ],
            "notes": self.notes,
            "measures": [
                {
                    "name": measure.name,
                    "subset": measure.subset,
                    "lower_is_better": measure.lower_is_better,
                    "values": [None if e is None else _json_numbers(vars(e)) for e in measure.estimates],
                    "best": measure.best,
                    "differences": [
                        {"first": d.first, "second": d.second, "cases": d.cases, **_json_numbers(vars(d.paired))}
                        | _json_numbers({"p_value_holm": d.adjusted})
                        for d in measure.differences
                    ],
                }
                for measure in self.measures
            ],
        }

    def write(self, folder: Path) -> list[Path]:
        """Write `comparison.json`, `.md`, `.html` and `.png`."""
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / f"{STEM}.json"
        data.write_text(json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return [*self.page().write(folder, STEM), data]

    def _table(self, measures: Sequence[ComparedMeasure]) -> Table:
        rows: list[list[Cell]] = []
        for measure in measures:
            cells: list[Cell] = []
            for place, estimate in enumerate(measure.estimates):
                text = "–" if estimate is None else with_interval(estimate, measure.is_share)
                cells.append(Strong(text) if place == measure.best else text)
            rows.append([measure.name, measure.subset, *cells, self._verdict(measure)])
        return Table(["measure", "of", *self.labels, "verdict"], rows, names=2, remarks=1)

    def _verdict(self, measure: ComparedMeasure) -> str:
        """Who is best, or that nobody is, and why."""
        leader, others = measure.leader, measure.not_beaten
        if leader is None:
            return "–"
        if not measure.differences:
            return "not tested"
        if measure.best is not None:
            p = max(d.adjusted for d in measure.differences if leader in (d.first, d.second))
            return f"{self.labels[leader]} best, {_p(p)}"
        other, p = max(others, key=lambda pair: -1.0 if math.isnan(pair[1]) else pair[1])
        against = "not tested" if math.isnan(p) else _p(p)
        return f"not significant: {self.labels[leader]} ahead of {self.labels[other]}, {against}"

    def _differences(self) -> Section:
        rows: list[list[Cell]] = []
        for measure in self.measures:
            for d in [] if measure.is_part else measure.differences:
                scale, digits = (100, 1) if measure.is_share else (1, 3)
                value, low, high = (scale * x for x in (d.paired.difference, d.paired.low, d.paired.high))
                interval = "" if math.isnan(low) else f" ({low:+.{digits}f} to {high:+.{digits}f})"
                p_values = [_p(d.paired.p_value)] + ([_p(d.adjusted)] if len(self.labels) > 2 else [])
                pair = f"{self.labels[d.first]} minus {self.labels[d.second]}"
                shown = "–" if math.isnan(value) else f"{value:+.{digits}f}{interval}"
                rows.append(
                    [measure.name, measure.subset, pair, shown, *p_values, f"{d.cases:,}", f"{d.paired.groups:,}"]
                )
        header = ["measure", "of", "difference of", "points", "p", *(["p, Holm"] if len(self.labels) > 2 else [])]
        text = [
            "Shares: exact permutation test over groups; other numbers: paired bootstrap (docs/metrics.md). Those of "
            f"single categories, languages and tasks are in {STEM}.json."
        ]
        if not rows:
            return Section("Differences", ["None could be tested."])
        return Section("Differences", text, [Table([*header, "cases", "groups"], rows, names=3)])

    def _common(self) -> list[Section]:
        """What is the same for all scorers, such as how far people agree."""
        rows: list[list[Cell]] = []
        for measure in self.measures:
            estimate = measure.estimates[0]
            if measure.is_common and estimate is not None:
                rows.append([measure.name, measure.subset, with_interval(estimate, measure.is_share)])
        return (
            [Section("Whatever the scorer", tables=[Table(["measure", "of", "value"], rows, names=2)])] if rows else []
        )

    def _scorers(self) -> Section:
        rows: list[list[Cell]] = []
        for label, result in zip(self.labels, self.results, strict=True):
            model, data, versions = result.data["model"], result.data["data"], result.data["environment"]
            rows.append([
                label, model["kind"], model["revision"] or "–", str(result.folder), versions["date"],
                f"editreward {versions['editreward']}, torch {versions['torch']}, "
                f"transformers {versions['transformers']}",
                f"{data['items_judged']:,} of {data['items']:,}",
            ])  # fmt: skip
        header = ["scorer", "kind", "revision", "folder", "date", "versions", "items judged"]
        return Section("Scorers", tables=[Table(header, rows, names=6)])

    def _plots(self) -> list[Plot]:
        """One of the measures of everything, one of the parts of the first that has any, one of what is no share."""
        tested = [measure for measure in self.measures if measure.differences]
        shares = [measure for measure in tested if measure.is_share]
        parts = [m for m in shares if m.is_part]
        of_first = [m for m in parts if m.name == parts[0].name]
        chosen = [
            ("Accuracies", [m for m in shares if not m.is_part], "%"),
            (f"Parts: {parts[0].name}" if parts else "", of_first, "%"),
            ("Correlations and errors", [m for m in tested if not m.is_share], "value"),
        ]
        return [self._plot(title, measures[:DRAWN], unit) for title, measures, unit in chosen if measures]

    def _plot(self, title: str, measures: Sequence[ComparedMeasure], unit: str) -> Plot:
        is_one = len({measure.name for measure in measures}) == 1
        labels = [measure.subset if is_one else f"{measure.name}, {measure.subset}" for measure in measures]
        series: dict[str, dict[str, Estimate]] = {}
        for place, name in enumerate(self.labels):
            known = {label: m.estimates[place] for label, m in zip(labels, measures, strict=True)}
            series[name] = {label: estimate for label, estimate in known.items() if estimate is not None}
        scale = 100 if unit == "%" else 1
        chances = {
            label: scale * float(np.mean(floors))
            for label, m in zip(labels, measures, strict=True)
            if (floors := [chance for chance in m.chances if chance is not None])
        }
        best = {(self.labels[m.best], label) for label, m in zip(labels, measures, strict=True) if m.best is not None}
        alt = "; ".join(
            f"{label}: "
            + ", ".join(f"{n} {number(v[label].value, unit == '%')}" for n, v in series.items() if label in v)
            for label in labels
        )
        return Plot(
            title,
            f"{title} of all scorers with intervals, large dots: significantly best, ticks: random scores. {alt}",
            lambda figure, palette: plots.bars_plot(figure, palette, series, chances, unit, best),
            10.0,
            1.4 + len(labels) * (0.14 + 0.11 * len(series)),
        )  # fmt: skip


def compare_results(paths: Sequence[str | Path]) -> Comparison:
    """Read results and compare them.

    Args:
        paths: folders that runs wrote, or the `result.json` in them, two or more.

    Raises:
        FileNotFoundError: a file is missing; it is named.
        ValueError: fewer than two results, one given twice, or results of different benchmarks, data or labels.
    """
    results = [read_result(path) for path in paths]
    if len(results) < 2:
        raise ValueError(f"A comparison needs two results or more, not {len(results)}.")
    twice = [folder for folder, times in Counter(r.folder.resolve() for r in results).items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice.")
    for other in results[1:]:
        _check_same(results[0], other)
    measures = [_measures(result) for result in results]
    known: dict[tuple[str, str], None] = {}
    for of_result in measures:
        known |= dict.fromkeys(of_result)
    return Comparison(results, _labels(results), [_compared(key, measures) for key in known], _notes(results))


def _check_same(first: SavedResult, second: SavedResult) -> None:
    """Raise a `ValueError` unless two results answer the same questions."""
    where = f"{first.folder} and {second.folder}"
    if first.benchmark.name != second.benchmark.name:
        raise ValueError(
            f"{where} are of different benchmarks, {first.benchmark.name} and {second.benchmark.name}: compare "
            "results of one."
        )
    hashes = [result.data["data"]["sha256"] for result in (first, second)]
    if hashes[0] != hashes[1]:
        limits = {result.data["settings"]["limit"] for result in (first, second)}
        why = "--limit was not the same" if len(limits) > 1 else "another revision, split or --limit"
        raise ValueError(
            f"{where} are of different data (SHA-256 {hashes[0][:12]} and {hashes[1][:12]}; {why}): run one of them "
            "again."
        )
    if first.data["settings"]["preparation"] != second.data["settings"]["preparation"]:
        raise ValueError(f"{where} prepared the images differently: run one of them again.")
    labels = {(item.group_id, item.item_id, item.dimension): item for item in first.answers.items}
    for item in second.answers.items:
        known = labels.get((item.group_id, item.item_id, item.dimension), item)
        if (known.comparisons, known.score, known.candidates) != (item.comparisons, item.score, item.candidates):
            raise ValueError(f"{where} have different labels of item {item.item_id!r}: run one of them again.")


def _measures(result: SavedResult) -> dict[tuple[str, str], Measure | dict[str, Any]]:
    """The measures of a result with the cases they come from; as they were saved where there are no cases.

    Raises:
        ValueError: the saved numbers are not those of the saved answers.
    """
    found: dict[tuple[str, str], Measure | dict[str, Any]] = {
        (measure["name"], measure["subset"]): measure for measure in result.data["measures"]
    }
    for measure in result.benchmark.protocol(result.answers):
        saved = found.get((measure.name, measure.subset))
        again = json_number(measure.value)
        if not isinstance(saved, dict) or (saved["value"] is None) != (again is None):
            fits = False
        else:
            fits = again is None or abs(saved["value"] - again) <= TOLERANCE
        if not fits:
            raise ValueError(
                f"{result.folder}: {measure.name} of {measure.subset} is not what its answers give, which are of "
                "another version of editreward: run it again."
            )
        found[measure.name, measure.subset] = measure
    return found


def _compared(
    key: tuple[str, str], of_results: Sequence[dict[tuple[str, str], Measure | dict[str, Any]]]
) -> ComparedMeasure:
    found = [measures.get(key) for measures in of_results]
    data = [one.to_dict() if isinstance(one, Measure) else one for one in found]
    some = next(one for one in data if one is not None)
    tests = []
    for first, second in combinations(range(len(found)), 2):
        cases = [one.cases if isinstance(one, Measure) else None for one in (found[first], found[second])]
        if cases[0] is not None and cases[1] is not None:
            paired, shared = cases[0].difference(cases[1])
            if not math.isnan(paired.p_value):
                tests.append((first, second, paired, shared))
    adjusted = holm([paired.p_value for _, _, paired, _ in tests]).tolist()
    return ComparedMeasure(
        *key,
        is_share=some["unit"] == "share",
        lower_is_better=some.get("lower_is_better", False),
        estimates=[None if one is None else _estimate(one) for one in data],
        chances=[None if one is None else one.get("chance") for one in data],
        differences=[
            Difference(first, second, paired, p, shared)
            for (first, second, paired, shared), p in zip(tests, adjusted, strict=True)
        ],
    )


def _estimate(measure: dict[str, Any]) -> Estimate:
    value, low, high = (math.nan if measure[name] is None else measure[name] for name in ("value", "low", "high"))
    return Estimate(value, low, high, measure["total"])


def _labels(results: Sequence[SavedResult]) -> list[str]:
    """Names of the models, with their folders where they are not all different."""
    names = [result.data["model"]["name"] for result in results]
    with_folder = [f"{name} ({result.folder.name})" for name, result in zip(names, results, strict=True)]
    with_path = [f"{name} ({result.folder})" for name, result in zip(names, results, strict=True)]
    shown = []
    for name, short, long in zip(names, with_folder, with_path, strict=True):
        shown.append(name if names.count(name) == 1 else short if with_folder.count(short) == 1 else long)
    return shown


def _notes(results: Sequence[SavedResult]) -> list[str]:
    """What is not the same for all."""
    notes = []
    first = results[0].data
    if first["settings"]["limit"] is not None:
        notes.append(f"only the first {first['settings']['limit']:,} groups: this is no result of the benchmark.")
    if len({result.data["model"]["kind"] for result in results}) > 1:
        notes.append(
            "judges of pairs say themselves what is a tie; scorers get the tie threshold that is best for them here."
        )
    if any(result.data["settings"]["shuffle_instructions"] for result in results):
        notes.append("“instructions shuffled”: each group was shown another group's instruction.")
    if len({result.data["data"]["items_judged"] for result in results}) > 1:
        notes.append("not all scorers answered the same items: differences are of the cases that both have.")
    versions = [{**result.data["environment"], "date": "", "processes": ""} for result in results]
    different = sorted({name for one in versions for name in one if one[name] != versions[0].get(name)})
    if different:
        notes.append(f"made with different versions of {', '.join(different)}.")
    return notes


def _json_numbers(values: dict[str, object]) -> dict[str, object]:
    return {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in values.items()}


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.4f}" if value < 0.01 else f"p = {value:.2f}"
