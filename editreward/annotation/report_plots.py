"""The plots of the quality report, each a PNG image."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from editreward.annotation.quality import AnnotatorQuality, Difference
from editreward.groups.ratings import SCALE, Rating
from editreward.reports.style import COLOURS, FAINT, GRID, INK
from editreward.statistics.agreement import Agreement

FLAGGED = "#c0392b"
SCORES = ("#c0392b", "#e08e5b", "#8fb8de", "#2f6fde")
"""Of the scores 1 to 4."""

MOST = 30
"""Annotators in a plot, those with the most groups; a note says so where there are more."""


def data_uri(figure: Figure) -> str:
    """A figure as the `src` of an image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def agreement_plot(agreements: Sequence[Agreement]) -> Figure:
    """Exact agreement, unanimity and alpha with their intervals."""
    figure = _figure(7.5, 0.9 + 0.75 * len(agreements))
    axes = _axes(figure, "x")
    for place, (name, label) in enumerate(
        {"exact": "exact agreement", "unanimous": "unanimous", "alpha": "Krippendorff's alpha"}.items()
    ):
        for row, entry in enumerate(agreements):
            estimate = getattr(entry, name)
            if np.isnan(estimate.value):
                continue
            height = row + 0.22 * (place - 1)
            axes.plot([estimate.low, estimate.high], [height, height], color=COLOURS[place], linewidth=2)
            label_once = label if row == 0 else None
            axes.plot([estimate.value], [height], "o", color=COLOURS[place], markersize=6, label=label_once)
    axes.set_yticks(range(len(agreements)), [entry.dimension for entry in agreements])
    axes.set_ylim(len(agreements) - 0.5, -0.5)
    axes.set_xlim(min(0.0, axes.get_xlim()[0]), 1.02)
    _legend(axes)
    return figure


def confusion_plot(agreements: Sequence[Agreement]) -> Figure:
    """How often two annotators gave a candidate which scores, in shares of each row."""
    figure = _figure(3.1 * len(agreements) + 0.4, 3.3)
    for place, entry in enumerate(agreements, start=1):
        axes = figure.add_subplot(1, len(agreements), place)
        counts = np.array(entry.confusion, dtype=float)
        shares = np.divide(
            counts,
            counts.sum(axis=1, keepdims=True),
            where=counts.sum(axis=1, keepdims=True) > 0,
            out=np.zeros_like(counts),
        )
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), share in np.ndenumerate(shares):
            if counts[i, j]:
                axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if share > 0.55 else INK)  # fmt: skip
        axes.set_xticks(range(len(counts)), [str(score) for score in entry.scores])
        axes.set_yticks(range(len(counts)), [str(score) for score in entry.scores])
        axes.set_title(entry.dimension, fontsize=10)
        axes.set_xlabel("another annotator, % of row", color=FAINT)
        if place == 1:
            axes.set_ylabel("one annotator", color=FAINT)
    return figure


def kappa_plot(entry: Agreement) -> Figure:
    """Quadratic-weighted kappa of every pair of annotators in one dimension."""
    weight: dict[str, int] = {}
    for pair in entry.pairs:
        for name in (pair.first, pair.second):
            weight[name] = weight.get(name, 0) + pair.candidates
    names = sorted(sorted(weight, key=lambda name: (-weight[name], name))[:MOST])
    table = np.full((len(names), len(names)), np.nan)
    for pair in entry.pairs:
        if pair.first in names and pair.second in names:
            i, j = names.index(pair.first), names.index(pair.second)
            table[i, j] = table[j, i] = pair.kappa.value
    side = 1.6 + 0.5 * len(names)
    figure = _figure(side + 0.6, side)
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(table), cmap="RdYlBu", vmin=-1, vmax=1)
    for (i, j), kappa in np.ndenumerate(table):
        if not np.isnan(kappa):
            axes.text(j, i, f"{kappa:.2f}", ha="center", va="center", fontsize=7, color=INK)
    axes.set_xticks(range(len(names)), [_plain(name) for name in names], rotation=90)
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.set_title(f"{entry.dimension}{_only(len(weight))}", fontsize=10)
    figure.colorbar(image, shrink=0.7)
    return figure


def score_plot(ratings: Sequence[Rating], dimensions: Sequence[str], names: Sequence[str]) -> Figure:
    """Shares of the scores that each annotator gives."""
    shown = names[:MOST]
    figure = _figure(3.8 * len(dimensions) + 1, 1.2 + 0.3 * len(shown))
    for place, dimension in enumerate(dimensions, start=1):
        axes = figure.add_subplot(1, len(dimensions), place)
        _plain_axes(axes, "x")
        for row, name in enumerate(shown):
            scores = [r.scores[dimension] for r in ratings if r.annotator == name and dimension in r.scores]
            left = 0.0
            for score, colour in zip(range(SCALE[0], SCALE[1] + 1), SCORES, strict=True):
                share = scores.count(score) / len(scores) if scores else 0.0
                axes.barh(row, share, left=left, color=colour, height=0.75, label=str(score) if row == 0 else None)
                left += share
        axes.set_yticks(range(len(shown)), [_plain(name) for name in shown] if place == 1 else [])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.set_title(dimension + (_only(len(names)) if place == 1 else ""), fontsize=10)
    _legend(figure.axes[0])
    return figure


def drift_plot(
    differences: Mapping[str, Mapping[str, Sequence[Difference]]],
    people: Sequence[AnnotatorQuality],
    dimensions: Sequence[str],
) -> Figure:
    """Running mean of the difference from the others over each annotator's groups; flagged ones stand out."""
    figure = _figure(8.5, 2.6 * len(dimensions))
    shown = [person for person in people if any(differences.get(person.annotator, {}).values())]
    for place, dimension in enumerate(dimensions, start=1):
        axes = figure.add_subplot(len(dimensions), 1, place)
        _plain_axes(axes, "y")
        axes.axhline(0, color=FAINT, linewidth=1)
        for person in shown:
            entries = differences[person.annotator].get(dimension, [])
            if len(entries) < 2:
                continue
            window = max(1, min(10, len(entries) // 3))
            values = np.convolve([entry.level for entry in entries], np.ones(window) / window, mode="valid")
            place_of = np.arange(len(values)) + (window - 1) / 2 + 1
            flagged = any(d.flagged and d.dimension == dimension for d in person.drift)
            axes.plot(
                place_of,
                values,
                color=FLAGGED if flagged else "#9aa5b8",
                linewidth=2 if flagged else 1,
                zorder=3 if flagged else 2,
            )
            if flagged or len(shown) <= 6:
                axes.annotate(
                    _plain(person.annotator), (place_of[-1], values[-1]), xytext=(4, 0), textcoords="offset points",
                    fontsize=8, color=FLAGGED if flagged else FAINT, va="center",
                )  # fmt: skip
        axes.set_title(dimension, fontsize=10)
        axes.set_ylabel("points above the others", color=FAINT, fontsize=8)
    axes.set_xlabel("the annotator's groups in the order of time", color=FAINT)
    return figure


def time_plot(ratings: Sequence[Rating], names: Sequence[str], fast_seconds: float) -> Figure:
    """Seconds per candidate of each annotator's groups."""
    shown = names[:MOST]
    figure = _figure(7.5, 1.2 + 0.35 * len(shown))
    axes = _axes(figure, "x")
    for row, name in enumerate(shown):
        seconds: dict[str, list[float]] = {}
        for rating in ratings:
            if rating.annotator == name and rating.seconds > 0:
                seconds.setdefault(rating.group_id, []).append(rating.seconds)
        values = [of_group[0] / len(of_group) for of_group in seconds.values()]
        if values:
            axes.boxplot(
                [values], positions=[row], orientation="horizontal", widths=0.6, showfliers=True,
                flierprops={"markersize": 3, "markeredgecolor": FAINT}, medianprops={"color": COLOURS[0]},
            )  # fmt: skip
    axes.axvline(fast_seconds, color=FLAGGED, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [_plain(name) for name in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("seconds per candidate", color=FAINT)
    axes.set_title(f"dashed: too fast{_only(len(names))}", fontsize=9, color=FAINT)
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _axes(figure: Figure, grid: str) -> Any:
    axes = figure.add_subplot()
    _plain_axes(axes, grid)
    return axes


def _plain_axes(axes: Any, grid: str) -> None:
    axes.grid(axis=grid, color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Any) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8, handles=handles)


def _plain(name: str) -> str:
    """A name that matplotlib takes as it is: a dollar sign would begin a formula."""
    short = name if len(name) <= 24 else name[:23] + "…"
    return short.replace("$", r"\$")


def _only(number: int) -> str:
    return f" (the {MOST} of {number} annotators with the most groups)" if number > MOST else ""
