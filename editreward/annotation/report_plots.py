"""The plots of the quality report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from editreward.annotation.quality import Difference, Quality, References, differences_by_annotator
from editreward.groups.ratings import SCALE, Rating
from editreward.reports.page import Plot
from editreward.reports.plots import bars_plot, confusion_plot, shortened
from editreward.reports.style import LIGHT, Palette
from editreward.statistics.agreement import Agreement
from editreward.statistics.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = 24
"""Characters of an annotator's name in a plot."""

MOST = 30
"""Annotators in a plot, those with the most groups; a note says so where there are more."""


def agreement_plots(agreements: Sequence[Agreement]) -> list[Plot]:
    """Exact agreement, unanimity and alpha with their intervals; and which scores two annotators gave."""
    series: dict[str, dict[str, Estimate]] = {
        "exact agreement": {one.dimension: one.exact for one in agreements},
        "unanimous": {one.dimension: one.unanimous for one in agreements},
        "Krippendorff's alpha": {one.dimension: one.alpha for one in agreements},
    }

    def draw(figure: Figure, palette: Palette) -> None:
        bars_plot(figure, palette, series, {}, "share, or alpha")

    alt = "; ".join(f"{name}: " + ", ".join(f"{d} {e}" for d, e in of.items()) for name, of in series.items())
    return [
        Plot("Agreement with intervals", alt, draw, 7.5, 1.5 + 0.75 * len(agreements)),
        Plot(
            "Scores of two annotators",
            "How often two annotators gave a candidate which scores, in percent of each row",
            partial(_draw_confusion, agreements=agreements),
            3.1 * len(agreements) + 0.4,
            3.6,
        ),
    ]


def annotator_plots(quality: Quality, ratings: Sequence[Rating], references: References) -> list[Plot]:
    """Scores, drift and time of the annotators, as far as they are known. Calibration rounds don't count."""
    live = [rating for rating in ratings if rating.purpose != "calibration"]
    order = sorted(quality.annotators, key=lambda person: (-person.groups, person.annotator))
    names = [person.annotator for person in order if person.groups]
    plots = []
    if names:
        draw = partial(_draw_scores, ratings=live, dimensions=quality.dimensions, names=names)
        width, height = 3.8 * len(quality.dimensions) + 1, 1.5 + 0.3 * min(len(names), MOST)
        plots.append(Plot(f"Scores by annotator{_only(len(names))}", "Shares of the scores", draw, width, height))
    if any(person.drift for person in quality.annotators):
        differences = differences_by_annotator(live, references, quality.dimensions, quality.set_aside)
        draw = partial(_draw_drift, differences=differences, quality=quality)
        alt = "Running means of the differences from the others; who drifts stands out"
        plots.append(Plot("Differences over time", alt, draw, 8.5, 2.6 * len(quality.dimensions) + 0.3))
    if any(rating.seconds > 0 for rating in live):
        draw = partial(_draw_times, ratings=live, names=names, fast_seconds=quality.limits.fast_seconds)
        alt = "Seconds per candidate of each annotator's groups"
        height = 1.5 + 0.35 * min(len(names), MOST)
        plots.append(Plot(f"Time by annotator{_only(len(names))}", alt, draw, 7.5, height))
    return plots


def _draw_confusion(figure: Figure, palette: Palette, agreements: Sequence[Agreement]) -> None:
    tables = {one.dimension: (one.scores, np.array(one.confusion, dtype=float)) for one in agreements}
    confusion_plot(figure, palette, tables, "another annotator", "one annotator, % of row")


def kappa_plot(entry: Agreement) -> Plot:
    """Quadratic-weighted kappa of every pair of annotators in one dimension."""
    weight: Counter[str] = Counter()
    for pair in entry.pairs:
        weight.update({pair.first: pair.candidates, pair.second: pair.candidates})
    names = sorted(sorted(weight, key=lambda name: (-weight[name], name))[:MOST])
    table = np.full((len(names), len(names)), np.nan)
    for pair in entry.pairs:
        if pair.first in names and pair.second in names:
            i, j = names.index(pair.first), names.index(pair.second)
            table[i, j] = table[j, i] = pair.kappa.value
    side = 1.9 + 0.5 * len(names)
    title = f"Kappa by pair, {entry.dimension}{_only(len(weight))}"
    return Plot(title, f"{title}: as in the table", partial(_draw_kappa, names=names, table=table), side + 0.6, side)


def _draw_kappa(figure: Figure, palette: Palette, names: Sequence[str], table: np.ndarray) -> None:
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(table), cmap="RdYlBu", vmin=-1, vmax=1)
    for (i, j), kappa in np.ndenumerate(table):
        if not np.isnan(kappa):
            axes.text(j, i, f"{kappa:.2f}", ha="center", va="center", fontsize=7, color=LIGHT.ink)
    labels = [shortened(name, NAME) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90)
    axes.set_yticks(range(len(names)), labels)
    figure.colorbar(image, shrink=0.7)


def _draw_scores(
    figure: Figure, palette: Palette, ratings: Sequence[Rating], dimensions: Sequence[str], names: Sequence[str]
) -> None:
    """Shares of the scores that each annotator gives."""
    shown = names[:MOST]
    panels = figure.subplots(1, len(dimensions), squeeze=False)[0]
    colours = (palette.bad, palette.series[2], palette.neutral, palette.series[0])
    for place, (axes, dimension) in enumerate(zip(panels, dimensions, strict=True)):
        axes.grid(axis="x")
        for row, name in enumerate(shown):
            scores = [r.scores[dimension] for r in ratings if r.annotator == name and dimension in r.scores]
            left = 0.0
            for score, colour in zip(range(SCALE[0], SCALE[1] + 1), colours, strict=True):
                share = scores.count(score) / len(scores) if scores else 0.0
                axes.barh(row, share, left=left, color=colour, height=0.75, label=str(score) if row == 0 else None)
                left += share
        axes.set_yticks(range(len(shown)), [shortened(name, NAME) for name in shown] if place == 0 else [])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_title(dimension, loc="left")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def _draw_drift(
    figure: Figure,
    palette: Palette,
    differences: Mapping[str, Mapping[str, Sequence[Difference]]],
    quality: Quality,
) -> None:
    """Running mean of the difference from the others over each annotator's groups; flagged ones stand out."""
    panels = figure.subplots(len(quality.dimensions), 1, squeeze=False)[:, 0]
    shown = [person for person in quality.annotators if any(differences.get(person.annotator, {}).values())]
    for axes, dimension in zip(panels, quality.dimensions, strict=True):
        axes.grid(axis="y")
        axes.axhline(0, color=palette.faint, linewidth=1)
        for person in shown:
            entries = differences[person.annotator].get(dimension, [])
            if len(entries) < 2:
                continue
            window = max(1, min(10, len(entries) // 3))
            values = np.convolve([entry.level for entry in entries], np.ones(window) / window, mode="valid")
            at = np.arange(len(values)) + (window - 1) / 2 + 1
            flagged = any(drift.flagged and drift.dimension == dimension for drift in person.drift)
            colour = palette.bad if flagged else palette.neutral
            axes.plot(at, values, color=colour, linewidth=1 + flagged, zorder=2 + flagged)
            if flagged or len(shown) <= 6:
                name, end = shortened(person.annotator, NAME), (at[-1], values[-1])
                axes.annotate(
                    name, end, xytext=(4, 0), textcoords="offset points", fontsize=8, color=colour, va="center"
                )
        axes.set_title(dimension, loc="left")
        axes.set_ylabel("points above the others")
    panels[-1].set_xlabel("the annotator's groups in the order of time")


def _draw_times(
    figure: Figure, palette: Palette, ratings: Sequence[Rating], names: Sequence[str], fast_seconds: float
) -> None:
    """Seconds per candidate of each annotator's groups."""
    shown = names[:MOST]
    from matplotlib.ticker import LogLocator, NullFormatter

    axes = figure.subplots()
    axes.grid(axis="x")
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in shown}
    for rating in ratings:
        if rating.annotator in seconds and rating.seconds > 0:
            seconds[rating.annotator].setdefault(rating.group_id, []).append(rating.seconds)
    line = {"color": palette.faint}
    for row, of_groups in enumerate(seconds.values()):
        values = [of_group[0] / len(of_group) for of_group in of_groups.values()]
        if values:
            axes.boxplot(
                [values],
                positions=[row],
                orientation="horizontal",
                widths=0.6,
                boxprops=line,
                whiskerprops=line,
                capprops=line,
                flierprops={"markersize": 3, "markeredgecolor": palette.faint},
                medianprops={"color": palette.series[0]},
            )
    axes.axvline(fast_seconds, color=palette.bad, linewidth=1, linestyle="--")
    axes.set_xscale("log", subs=())  # no ticks but these, labelled in plain figures: the style shows no formulae
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(shown)), [shortened(name, NAME) for name in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("seconds per candidate; dashed: too fast")


def _only(number: int) -> str:
    return f" (the {MOST} of {number} annotators with the most groups)" if number > MOST else ""
