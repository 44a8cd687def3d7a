"""The result of the stresses as a picture."""

import os
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from editreward.benchmarks.protocols import OVERALL
from editreward.benchmarks.robustness.measures import BEATEN, FLIPS, OVERTAKEN, Finding
from editreward.benchmarks.robustness.stresses import FALLS, HEADINGS, INVARIANT, LOSES, MOST, NO_GAIN, SMALL
from editreward.reports.style import LIGHT, POSTER, figure_style, title_of
from editreward.statistics import Estimate


def draw(
    findings: Sequence[Finding],
    names: Sequence[str],
    title: str,
    about: str,
    path: str | os.PathLike[str] | BinaryIO,
) -> None:
    """Draw shifts that should be none, curves that should fall, and what should lose.

    Args:
        findings: of the stresses that the data allow.
        names: of the scores, the overall one first.
        title: heading of the picture.
        about: the line below it.
        path: the picture, PNG, SVG or PDF by its suffix, or an open file to write a PNG to.
    """
    with figure_style(settings=POSTER):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.03, rect=(0, 0, 1, 0.9))
        figure = Figure(figsize=(12, 7.2), dpi=100, facecolor=LIGHT.paper, layout=layout)
        FigureCanvasAgg(figure)
        figure.text(0.012, 0.962, title, fontsize=16, fontweight="bold", va="center")
        figure.text(0.012, 0.918, about, fontsize=10, color=LIGHT.faint, va="center")
        handles = [_key(name, colour) for name, colour in zip(names, _colours(names), strict=True)]
        figure.legend(handles=handles, loc="center right", bbox_to_anchor=(0.99, 0.962), ncols=4, fontsize=10)
        grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1), height_ratios=(1.25, 1))
        _still(figure.add_subplot(grid[:, 0]), _of(findings, INVARIANT) + _of(findings, NO_GAIN), names)
        _falling(figure.add_subplot(grid[0, 1]), _of(findings, FALLS))
        _losing(figure.add_subplot(grid[1, 1]), _of(findings, LOSES))
        figure.savefig(path)


def _of(findings: Sequence[Finding], expectation: str) -> list[Finding]:
    return [finding for finding in findings if finding.stress.expectation == expectation]


def _colours(names: Sequence[str]) -> list[str]:
    """The overall score in the colour of text, dimensions in theirs."""
    return [LIGHT.ink, *(LIGHT.series[place % len(LIGHT.series)] for place in range(len(names) - 1))]


def _key(name: str, colour: str) -> Line2D:
    return Line2D([], [], color=colour, marker="o", lw=2, ms=5, label=title_of(name))


def _bounds(estimates: Sequence[Estimate]) -> tuple[list[float], list[float], list[float]]:
    return [e.value for e in estimates], [e.low for e in estimates], [e.high for e in estimates]


def _still(axes: Axes, findings: Sequence[Finding], names: Sequence[str]) -> None:
    """Shifts of what should stay, then of what should gain nothing, which may fall."""
    axes.set_title("Shift where there should be none (below: no rise)")
    axes.axvspan(-SMALL, SMALL, color=LIGHT.track, lw=0, zorder=0)
    axes.axvline(0, color=LIGHT.faint, lw=0.8, zorder=1)
    split = sum(finding.stress.expectation == INVARIANT for finding in findings)
    rows = [row + (0.6 if row >= split else 0) for row in range(len(findings))]
    step = 0.54 / max(len(names) - 1, 1)
    for place, (name, colour) in enumerate(zip(names, _colours(names), strict=True)):
        value, low, high = _bounds([finding.shifts[name][0] for finding in findings])
        at = [row + (place - (len(names) - 1) / 2) * step for row in rows]
        axes.hlines(at, low, high, color=colour, lw=2)
        axes.plot(value, at, "o", ms=4.5, color=colour)
    for row, finding in zip(rows, findings, strict=True):
        share = finding.measures.get(FLIPS) or finding.measures[OVERTAKEN]
        what = "flip" if finding.stress.expectation == INVARIANT else "overtake"
        text = f"{100 * share.value:.1f}% {what}" if share.total else "no pairs"
        colour = LIGHT.good if finding.met else LIGHT.bad
        axes.text(1.01, row, text, transform=axes.get_yaxis_transform(), va="center", color=colour, fontsize=8.5)
    axes.set_yticks(rows, [finding.stress.name for finding in findings])
    for label, finding in zip(axes.get_yticklabels(), findings, strict=True):
        label.set_color(LIGHT.ink if finding.met else LIGHT.bad)
    axes.set_ylim(max([*rows, 2]) + 0.6, -0.6)
    axes.set_xlabel(f"mean shift in standard deviations within groups, 95% interval; shaded: ±{SMALL}")
    axes.grid(axis="x")


def _falling(axes: Axes, findings: Sequence[Finding]) -> None:
    axes.set_title(f"{HEADINGS[FALLS]} (overall)")
    ends: list[float] = []
    for place, finding in enumerate(findings):
        colour = LIGHT.series[place % len(LIGHT.series)]
        value, low, high = ([0.0, *numbers] for numbers in _bounds(finding.shifts[OVERALL]))
        at = np.arange(len(value))
        axes.fill_between(at, low, high, color=colour, alpha=0.16, lw=0)
        axes.plot(at, value, "o-", color=colour, ms=4.5, lw=2, label=_verdict(finding))
        ends.append(at[-1])
    axes.axhline(0, color=LIGHT.faint, lw=0.8)
    axes.set_xticks(range(int(max(ends, default=0)) + 1))
    axes.set_xlabel("strength, in steps")
    axes.set_ylabel("mean shift")
    axes.grid(axis="y")
    if findings:
        axes.legend(loc="lower left")


def _losing(axes: Axes, findings: Sequence[Finding]) -> None:
    axes.set_title(HEADINGS[LOSES])
    rows = list(range(len(findings)))
    value, low, high = _bounds([finding.measures[BEATEN] for finding in findings])
    colours = [LIGHT.good if finding.met else LIGHT.bad for finding in findings]
    axes.barh(rows, [1.0] * len(rows), color=LIGHT.track, height=0.3)
    axes.barh(rows, value, color=colours, height=0.3)
    axes.hlines(rows, low, high, color=LIGHT.ink, lw=1.5)
    for row, finding, share, colour in zip(rows, findings, value, colours, strict=True):
        axes.text(0, row - 0.32, finding.stress.name, va="center")
        axes.text(1, row - 0.32, f"{100 * share:.0f}%", va="center", ha="right", color=colour, fontweight="bold")
    axes.vlines(
        [MOST] * len(rows), [row - 0.2 for row in rows], [row + 0.2 for row in rows], color=LIGHT.faint, lw=1.5
    )
    axes.set_yticks([])
    axes.set_ylim(max([*rows, 2]) + 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(f"groups in which it is more than {SMALL} below; line: {MOST:.0%}")


def _verdict(finding: Finding) -> str:
    return finding.stress.name + ("" if finding.met else ", not as expected")
