"""The statistics of a dataset as Markdown and as a figure."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from editreward.publishing.stats import LEVELS, OVERALL, DatasetStatistics
from editreward.reports.page import Table
from editreward.reports.plots import shortened
from editreward.reports.style import LIGHT, POSTER, figure_style, title_of

NAME = 26
"""Characters of a name in a chart."""

BARS = 12
"""Names that a chart shows by themselves; the others are one bar."""


def as_markdown(statistics: DatasetStatistics) -> str:
    """The statistics as Markdown tables, without a title."""
    tables = [
        _sizes(statistics),
        *_kinds(statistics),
        _means(statistics),
        *_scores(statistics),
        _tie_shares(statistics),
    ]
    samples = [[name, f"{number:,}"] for name, number in statistics.samples.items()]
    tables.append(Table(["strategy", "samples"], samples, "Training samples by tie strategy:"))
    if statistics.agreement:
        rows = [
            [name, f"{found.exact.total:,}", found.exact.text(), found.alpha.text(2)]
            for name, found in statistics.agreement.items()
        ]
        caption = "Agreement of annotators (95 % intervals over groups):"
        header = ["dimension", "candidates", "exact", "Krippendorff's alpha, ordinal"]
        tables.append(Table(header, rows, caption))
    parts = [table.markdown() for table in tables] + [f"Note: {note}" for note in statistics.notes]
    return "\n\n".join(parts) + "\n"


def _sizes(statistics: DatasetStatistics) -> Table:
    groups_by_size = ", ".join(f"{size} ({count:,} groups)" for size, count in statistics.group_sizes.items())
    rows = [
        ["groups", ", ".join(f"{split} {count:,}" for split, count in statistics.splits.items())],
        ["candidates", f"{statistics.candidates:,}, of which {statistics.scored_candidates:,} have all scores"],
        ["candidates per group", groups_by_size or "none"],
        ["different source images", f"{statistics.source_files:,}"],
        ["different instructions", f"{statistics.instructions:,}"],
        ["instruction length, characters", _spread(statistics.instruction_length, "g")],
        ["source images, megapixels", _spread(statistics.source_sizes, ".2g")],
        ["candidates, megapixels", _spread(statistics.candidate_sizes, ".2g")],
        ["dimensions", ", ".join(statistics.dimensions)],
        ["editors", f"{len(statistics.editors):,}"],
        ["annotators", f"{statistics.annotators:,}" if statistics.annotators else "not recorded"],
        ["annotations per candidate", ", ".join(f"{n} ({c:,})" for n, c in statistics.annotations.items()) or "none"],
        ["possible pairs", f"{statistics.pairs:,}"],
        ["preferences given", f"{statistics.preferences:,}"],
    ]
    return Table(["", ""], rows, names=2)


def _kinds(statistics: DatasetStatistics) -> list[Table]:
    """Groups by origin, category and language."""
    kinds = {"origin": statistics.origins, "category": statistics.categories, "language": statistics.languages}
    return [
        Table(
            [kind, "groups", "share"],
            [[name, f"{count:,}", f"{100 * count / statistics.groups:.1f} %"] for name, count in counts.items()],
        )
        for kind, counts in kinds.items()
    ]


def _means(statistics: DatasetStatistics) -> Table:
    names = list(dict.fromkeys([*statistics.dimensions, OVERALL]))  # the only dimension may be called so
    of_editors = [(name, statistics.editors[name], means) for name, means in statistics.editor_means.items()]
    rows = [
        [name, f"{number:,}", *(means[dimension].text(2) for dimension in names)]
        for name, number, means in [("all", statistics.candidates, statistics.means), *of_editors]
    ]
    caption = "Mean scores (95 % intervals over groups); overall is the sum of the dimensions:"
    return Table(["editor", "candidates", *names], rows, caption)


def _scores(statistics: DatasetStatistics) -> list[Table]:
    """Candidates by score in each dimension, and in every two."""
    rounding = " Scores between two whole numbers count for the nearer one." if statistics.fractional else ""
    levels = list(map(str, LEVELS))
    rows = [[name, *(f"{statistics.histograms[name][n]:,}" for n in LEVELS)] for name in statistics.dimensions]
    tables = [Table(["dimension", *levels], rows, "Candidates by score." + rounding)]
    for pair, joint in statistics.joint.items():
        first, second = pair.split("|")
        correlation = statistics.correlation[pair]
        told = "is undefined" if correlation is None else f"{correlation:.2f}"
        caption = f"Candidates by {first} (rows) and {second} (columns); Spearman's rank correlation {told}."
        rows = [[level, *(f"{n:,}" for n in counts)] for level, counts in zip(levels, joint, strict=True)]
        tables.append(Table(["", *levels], rows, caption))
    return tables


def _tie_shares(statistics: DatasetStatistics) -> Table:
    shares = [*statistics.ties.items(), ("overall ties in which dimensions disagree", statistics.disagreeing_ties)]
    rows = [[name, f"{share.total:,}", share.text()] for name, share in shares]
    return Table(["", "of", "ties"], rows, "Pairs of candidates of a group with equal scores:")


def _spread(values: tuple[float, float, float] | None, form: str) -> str:
    if values is None:
        return "none"
    low, middle, high = (format(value, form) for value in values)
    return f"{middle}, from {low} to {high}" if low != high else middle


def draw(statistics: DatasetStatistics, path: str | os.PathLike[str], title: str) -> None:
    """Draw the statistics: origins, categories, editors, score histograms, joint distribution and ties.

    Args:
        statistics: what to draw.
        path: the picture, PNG, SVG or PDF by its suffix.
        title: heading of the picture.
    """
    with figure_style(settings=POSTER):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.16, wspace=0.04, hspace=0.04, rect=(0, 0, 1, 0.905))
        figure = Figure(figsize=(13, 8.4), dpi=150, facecolor=LIGHT.paper, layout=layout)
        FigureCanvasAgg(figure)
        figure.text(0.012, 0.965, title, fontsize=17, fontweight="bold", va="center")
        figure.text(0.012, 0.925, headline(statistics), fontsize=10.5, color=LIGHT.faint, va="center")
        handles = [
            Patch(color=LIGHT.series[place % len(LIGHT.series)], label=title_of(name))
            for place, name in enumerate(statistics.dimensions)
        ]
        figure.legend(handles=handles, loc="center right", bbox_to_anchor=(0.99, 0.965), ncols=4, fontsize=10.5)
        grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 1.2))
        _bars(figure.add_subplot(grid[0, 0]), "Origins", statistics.origins)
        _bars(figure.add_subplot(grid[0, 1]), "Categories", statistics.categories)
        _editors(figure.add_subplot(grid[0, 2]), statistics)
        _histograms(figure.add_subplot(grid[1, 0]), statistics)
        _joint(figure.add_subplot(grid[1, 1]), statistics)
        _ties(figure.add_subplot(grid[1, 2]), statistics)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def write_report(statistics: DatasetStatistics, folder: str | os.PathLike[str], title: str) -> None:
    """Write `statistics.json`, `statistics.md` and `statistics.png` into a folder, which is made."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(statistics.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
    (folder / "statistics.json").write_text(content + "\n", encoding="utf-8")
    (folder / "statistics.md").write_text(f"# {title}\n\n{as_markdown(statistics)}", encoding="utf-8")
    draw(statistics, folder / "statistics.png", title)


def headline(statistics: DatasetStatistics) -> str:
    """The dataset in one line."""
    counts = [
        (statistics.groups, "group"),
        (statistics.candidates, "candidate"),
        (statistics.pairs, "pair"),
        (len(statistics.editors), "editor"),
        (statistics.annotators, "annotator"),
    ]
    parts = [f"{count:,} {what}{'' if count == 1 else 's'}" for count, what in counts if count]
    if statistics.agreement:
        alphas = {title_of(name).lower(): found.alpha.value for name, found in statistics.agreement.items()}
        told = [f"{name} {alpha:.2f}" for name, alpha in alphas.items() if not math.isnan(alpha)]
        parts += [f"Krippendorff's α: {', '.join(told)}"] if told else []
    return "   ·   ".join(parts)


def _bars(axes: Axes, title: str, counts: Mapping[str, int]) -> None:
    """Horizontal bars of the most frequent names, the rest in one bar."""
    shown = dict(list(counts.items())[:BARS])
    rest = sum(counts.values()) - sum(shown.values())
    if rest:
        shown[f"{len(counts) - BARS} others"] = rest
    total = sum(counts.values())
    bars = axes.barh(range(len(shown)), list(shown.values()), color=LIGHT.neutral, height=0.68)
    axes.bar_label(
        bars, [f"{count:,}  ({100 * count / total:.0f}%)" for count in shown.values()], padding=4, color=LIGHT.faint
    )
    axes.set_yticks(range(len(shown)), [shortened(name, NAME) for name in shown])
    axes.set_ylim(max(len(shown), 4) - 0.4, -0.6)
    axes.set_xlim(0, 1.42 * max(shown.values(), default=1))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_title(f"{title} (groups)")


def _editors(axes: Axes, statistics: DatasetStatistics) -> None:
    """Mean scores of the most frequent editors with their intervals, best first."""
    editors = list(statistics.editor_means)[:BARS]
    axes.set_title("Mean scores of editors")
    if not any(mean.total for mean in statistics.means.values()):
        _nothing(axes)
        return

    def rank(name: str) -> float:
        value = statistics.editor_means[name][OVERALL].value
        return 0.0 if math.isnan(value) else -value

    editors.sort(key=rank)
    step = 0.5 / max(len(statistics.dimensions), 1)
    for place, dimension in enumerate(statistics.dimensions):
        offset = (place - (len(statistics.dimensions) - 1) / 2) * step
        estimates = [statistics.editor_means[name][dimension] for name in editors]
        rows = [row + offset for row in range(len(editors))]
        colour = LIGHT.series[place % len(LIGHT.series)]
        axes.hlines(rows, [e.low for e in estimates], [e.high for e in estimates], color=colour, lw=2)
        axes.plot([e.value for e in estimates], rows, "o", ms=6, color=colour)
    for row in range(0, len(editors), 2):
        axes.axhspan(row - 0.5, row + 0.5, color=LIGHT.track, zorder=0, lw=0)
    labels = [f"{shortened(name, NAME)}  ({statistics.editors[name]:,})" for name in editors]
    axes.set_yticks(range(len(editors)), labels)
    axes.set_ylim(max(len(editors), 4) - 0.5, -0.5)
    axes.set_xlim(LEVELS[0] - 0.1, LEVELS[-1] + 0.1)
    axes.set_xticks(LEVELS)
    axes.grid(axis="x")
    hidden = len(statistics.editors) - len(editors)
    without = f"; {hidden} editors with fewer candidates are not shown" if hidden else ""
    axes.set_xlabel(f"score with 95% interval{without}")


def _histograms(axes: Axes, statistics: DatasetStatistics) -> None:
    axes.set_title("Scores")
    if not any(sum(counts.values()) for counts in statistics.histograms.values()):
        _nothing(axes)
        return
    width = 0.8 / max(len(statistics.dimensions), 1)
    for place, dimension in enumerate(statistics.dimensions):
        counts = [statistics.histograms[dimension][level] for level in LEVELS]
        total = sum(counts)
        if not total:
            continue
        offset = (place - (len(statistics.dimensions) - 1) / 2) * width
        bars = axes.bar(
            [level + offset for level in LEVELS],
            [count / total for count in counts],
            width=0.92 * width,
            color=LIGHT.series[place % len(LIGHT.series)],
        )
        axes.bar_label(
            bars, [f"{100 * count / total:.0f}" for count in counts], padding=2, color=LIGHT.faint, fontsize=8
        )
    axes.set_xticks(LEVELS)
    axes.set_xlabel("score, rounded" if statistics.fractional else "score")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y")
    axes.margins(y=0.1)


def _joint(axes: Axes, statistics: DatasetStatistics) -> None:
    """Joint distribution of the first two dimensions."""
    axes.set_title("Joint distribution (% of candidates)")
    pair = next(iter(statistics.joint), None)
    counts = statistics.joint[pair] if pair else []
    total = sum(map(sum, counts))
    if pair is None or not total:
        _nothing(axes)
        return
    shares = [[100 * count / total for count in row] for row in counts]
    colours = LinearSegmentedColormap.from_list("paper to blue", (LIGHT.paper, "#cfe0fb", LIGHT.series[0], "#123a80"))
    peak = max(map(max, shares))
    axes.imshow(shares, cmap=colours, vmin=0, vmax=peak, origin="lower", aspect="auto")
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            colour = LIGHT.paper if share > 0.55 * peak else LIGHT.ink
            axes.text(column, row, f"{share:.1f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(LEVELS)), map(str, LEVELS))
    axes.set_yticks(range(len(LEVELS)), map(str, LEVELS))
    axes.set_xticks([level + 0.5 for level in range(len(LEVELS) - 1)], minor=True)
    axes.set_yticks([level + 0.5 for level in range(len(LEVELS) - 1)], minor=True)
    axes.grid(which="minor", color=LIGHT.paper, lw=2)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    first, second = pair.split("|")
    correlation = statistics.correlation[pair]
    axes.set_ylabel(title_of(first))
    axes.set_xlabel(title_of(second) + ("" if correlation is None else f"      (rank correlation {correlation:.2f})"))


def _ties(axes: Axes, statistics: DatasetStatistics) -> None:
    """Shares of pairs that scores decide and that they leave tied."""
    axes.set_title("Pairs of candidates of a group")
    names = [name for name in statistics.ties if statistics.ties[name].total]
    if not names:
        _nothing(axes)
        return
    colours = [LIGHT.series[place % len(LIGHT.series)] for place in range(len(statistics.dimensions))] + [LIGHT.ink]
    for row, name in enumerate(names):
        tied = statistics.ties[name].value
        colour = colours[list(statistics.ties).index(name)]
        axes.barh(row, 1 - tied, color=colour, height=0.56)
        axes.barh(row, tied, left=1 - tied, color=colour, alpha=0.28, height=0.56)
        axes.text(0.015, row, f"decided {100 * (1 - tied):.1f}%", va="center", color=LIGHT.paper, fontweight="bold")
        axes.text(1.015, row, f"tied {100 * tied:.1f}%", va="center", color=LIGHT.faint)
    disagreeing = statistics.disagreeing_ties
    if disagreeing.total and len(statistics.dimensions) > 1:
        text = f"In {100 * disagreeing.value:.0f}% of the overall ties\nthe dimensions prefer different sides."
        axes.text(0.015, len(names) - 0.45, text, va="top", color=LIGHT.faint)
    axes.set_yticks(range(len(names)), [title_of(name) for name in names])
    axes.set_ylim(max(len(names), 3) + 0.15, -0.6)
    axes.set_xlim(0, 1.3)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _nothing(axes: Axes) -> None:
    """Say that there are no scores."""
    axes.text(0.5, 0.5, "no scores", transform=axes.transAxes, ha="center", va="center", color=LIGHT.faint)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
