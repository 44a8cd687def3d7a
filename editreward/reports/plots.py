"""The plots of the reports. Each draws into a figure, or a part of one, in the colours of a palette."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from editreward.reports.style import LIGHT, Palette
from editreward.statistics.estimate import Estimate
from editreward.statistics.reliability import ReliabilityBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL = 34
"""Characters of a name in a plot, half as many again in a wide one; the tables have the whole of it."""


def shortened(name: str, length: int = LABEL) -> str:
    """A name that fits beside an axis, on one line."""
    text = " ".join(name.split())
    return text if len(text) <= length else text[: length - 1] + "…"


@dataclass(frozen=True)
class Dots:
    """A line of dots: a number for each of some methods, in one column of a plot.

    Attributes:
        name: of the column.
        values: by method; where the method has an interval, (value, low, high). In percent, or times 100.
        chance: what random scores reach, None where it isn't known.
        unit: of the axis.
    """

    name: str
    values: Mapping[str, tuple[float, float, float]]
    chance: float | None
    unit: str


def published_plot(figure: Figure, palette: Palette, columns: Sequence[Dots], ours: str) -> None:
    """A run among published numbers: a row for each method, sorted by the last column, a panel for each column."""
    last = columns[-1].values
    names = sorted({name for column in columns for name in column.values}, key=lambda n: last.get(n, (np.nan,))[0])
    names = [name for name in names if name in last] + [name for name in names if name not in last]
    for place, (axes, column) in enumerate(
        zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns, strict=True)
    ):
        axes.grid(axis="x")
        for row, name in enumerate(names):
            if name not in column.values:
                continue
            value, low, high = column.values[name]
            colour = palette.series[0] if name == ours else palette.faint
            if not np.isnan(low):
                axes.plot([low, high], [row, row], color=colour, linewidth=2.5, solid_capstyle="round", alpha=0.5)
            axes.plot([value], [row], "o", color=colour, markersize=7 if name == ours else 5,
                      markerfacecolor=colour if name == ours else palette.paper)  # fmt: skip
            axes.annotate(f"{value:.1f}", (max(value, high) if high == high else value, row), xytext=(6, 0),
                          textcoords="offset points", va="center", fontsize=7, color=colour)  # fmt: skip
        _chance(axes, palette, column.chance)
        axes.set_title(column.name, loc="left")
        axes.set_xlabel(column.unit)
        axes.margins(x=0.18)
        if place == 0:
            axes.set_yticks(range(len(names)), [shortened(name) for name in names])
            for label, name in zip(axes.get_yticklabels(), names, strict=True):
                label.set(**({"color": palette.series[0], "fontweight": "bold"} if name == ours else {}))
        axes.tick_params(length=0)


def _chance(axes: Axes, palette: Palette, chance: float | None) -> None:
    if chance is not None:
        axes.axvline(chance, color=palette.series[1], linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def bars_plot(
    figure: Figure,
    palette: Palette,
    series: Mapping[str, Mapping[str, Estimate]],
    chances: Mapping[str, float],
    unit: str,
    best: Collection[tuple[str, str]] = (),
) -> None:
    """Estimates with their intervals by label: a row for each label, a colour for each series.

    Args:
        figure, palette: where and how to draw.
        series: by series and label.
        chances: by label what random scores reach, in the unit of the axis.
        unit: of the axis; with "%" values are drawn times 100.
        best: series and label of dots that stand out.
    """
    axes = figure.subplots()
    axes.grid(axis="x")
    labels = list(dict.fromkeys(label for values in series.values() for label in values))
    step = min(0.22, 0.7 / max(1, len(series)))
    scale = 100 if unit.endswith("%") else 1
    for number, (name, values) in enumerate(series.items()):
        colour = palette.series[number % len(palette.series)]
        marker = "osD^v"[number // len(palette.series) % 5]
        axes.plot([], [], marker, color=colour, markersize=4.5, label=shortened(name))
        for label, estimate in values.items():
            row = labels.index(label) + step * (number - (len(series) - 1) / 2)
            axes.plot([scale * estimate.low, scale * estimate.high], [row, row], color=colour, linewidth=2.5,
                      alpha=0.45, solid_capstyle="round")  # fmt: skip
            size = 8.5 if (name, label) in best else 4.5
            axes.plot([scale * estimate.value], [row], marker, color=colour, markersize=size)
    for label, chance in chances.items():
        if label in labels:
            row = labels.index(label)
            axes.plot([chance, chance], [row - 0.38, row + 0.38], color=palette.ink, linewidth=1, alpha=0.6,
                      linestyle=(0, (2, 2)), zorder=1)  # fmt: skip
    is_wide = figure.bbox.width / figure.dpi > 6
    length = LABEL * 3 // 2 if is_wide else LABEL
    axes.set_yticks(range(len(labels)), [shortened(label, length) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(length=0)
    keys = [unit, "dashed: random scores" if chances else "", "large: significantly best" if best else ""]
    axes.set_xlabel("; ".join(filter(None, keys)))
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=min(3, len(series)))


def reliability_plot(figure: Figure, palette: Palette, bins: Sequence[ReliabilityBin]) -> None:
    """How often a preference comes true by how sure the scorer was, and how many pairs there are of each."""
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    colour = palette.series[0]
    filled = [one for one in bins if one.count]
    axes.grid()
    axes.plot([50, 100], [50, 100], color=palette.faint, linewidth=1, linestyle=(0, (4, 3)))
    x, y = [100 * one.confidence for one in filled], [100 * one.accuracy for one in filled]
    axes.fill_between(x, x, y, color=colour, alpha=0.12, linewidth=0)
    for one in filled:
        axes.plot([100 * one.confidence] * 2, [100 * one.low, 100 * one.high], color=colour, alpha=0.45, linewidth=2.5,
                  solid_capstyle="round")  # fmt: skip
    axes.plot(x, y, "o-", color=colour, markersize=5, linewidth=1.2)
    axes.set_ylabel("came true, %")
    axes.set_ylim(min(45.0, *(100 * one.low - 3 for one in filled)), 102)
    widths = [100 * (one.end - one.start) for one in bins]
    below.bar([100 * one.start for one in bins], [one.count for one in bins], widths, align="edge",
              color=colour, alpha=0.45, edgecolor=palette.paper)  # fmt: skip
    below.set_ylabel("pairs")
    below.set_xlabel("stated probability of the preferred edit, %")
    below.set_xlim(49, 101)
    for one in (axes, below):
        one.tick_params(length=0)


def distribution_plot(
    figure: Figure, palette: Palette, values: Mapping[str, Mapping[str, np.ndarray]], unit: str
) -> None:
    """Histograms, a panel for each score: of the edits that people put ahead, behind, or have not told apart.

    Args:
        figure, palette: where and how to draw.
        values: by score and by what people say of the edits, shape (edits,) each.
        unit: of the x axis.
    """
    panels = figure.subplots(len(values), 1, squeeze=False)[:, 0]
    for number, (axes, (name, parts)) in enumerate(zip(panels, values.items(), strict=True)):
        everything = np.concatenate(list(parts.values()))
        edges = np.histogram_bin_edges(everything, bins=min(40, max(8, int(np.sqrt(len(everything))))))
        for colour, (part, points) in zip(palette.series, parts.items(), strict=False):
            axes.hist(points, edges, color=colour, alpha=0.5, label=part, histtype="stepfilled", linewidth=0)
            axes.axvline(float(np.median(points)), color=colour, linewidth=1.4)
        axes.set_title(shortened(name), loc="left")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        if number == 0 and len(parts) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=1)
    panels[-1].set_xlabel(unit)


def confusion_plot(
    figure: Figure,
    palette: Palette,
    tables: Mapping[str, tuple[Sequence[int], np.ndarray]],
    columns: str,
    rows: str,
) -> None:
    """Tables of counts in shares of each row, a panel for each.

    Args:
        figure, palette: where and how to draw.
        tables: by title the names of rows and columns, and the counts, shape (names, names).
        columns, rows: what the columns and the rows are.
    """
    import matplotlib

    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    ramp = matplotlib.colormaps[palette.ramp]
    for place, (axes, (title, (names, counts))) in enumerate(zip(panels, tables.items(), strict=True)):
        totals = counts.sum(axis=1, keepdims=True)
        shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
        axes.imshow(shares, cmap=ramp, vmin=0, vmax=1)
        for (i, j), share in np.ndenumerate(shares):
            if totals[i, 0]:
                red, green, blue, _ = ramp(share)
                is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
                axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=8 if len(names) < 6 else 7,
                          color=LIGHT.ink if is_light else LIGHT.paper)  # fmt: skip
        axes.set_xticks(range(len(names)), map(str, names))
        axes.set_yticks(range(len(names)), map(str, names))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_anchor("N")
        axes.set_title(title, loc="left")
        axes.set_xlabel(columns)
        if place == 0:
            axes.set_ylabel(rows)


def lines_plot(
    figure: Figure, palette: Palette, panels: Mapping[str, Mapping[str, Sequence[Estimate]]], unit: str
) -> None:
    """How numbers change with a count that doubles, with their intervals: a panel for each measure.

    Args:
        figure, palette: where and how to draw.
        panels: by measure and series, the estimates for the counts 1, 2, 3, ...
        unit: of the x axis.
    """
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.grid(axis="y")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        for name, estimates in series.items():
            colour = palette.series[names.index(name) % len(palette.series)]
            counts = range(1, len(estimates) + 1)
            axes.plot(counts, [one.value for one in estimates], color=colour, linewidth=1.8, label=shortened(name))
            low, high = [one.low for one in estimates], [one.high for one in estimates]
            axes.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(title, loc="left")
        axes.set_xlabel(unit)
        axes.tick_params(length=0)
    if len(names) > 1:
        handles = {
            label: handle
            for axes in figure.axes
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
