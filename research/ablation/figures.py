"""Figures of an ablation's report, as small PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editreward.reports.style import LIGHT, figure_style
from research.ablation.plan import Study
from research.ablation.statistics import estimate, half_width

Result = Mapping[str, Any]
Arms = Mapping[str, Mapping[int, Result]]

DPI = 100
GREY, BLUE = LIGHT.neutral, LIGHT.series[0]


@figure_style()
def draw_arms(study: Study, arms: Arms, path: Path) -> Path:
    """Accuracy of each arm: a dot for each seed, a bar for the mean's interval."""
    figure, (axes,) = _figure(1, width=7.0, height=0.9 + 0.36 * len(arms))
    for row, name in enumerate(arms):
        values = _accuracy(arms[name])
        if not values:
            continue
        mean = estimate(values)
        colour = GREY if name == study.base else BLUE
        if mean.total > 1:
            axes.errorbar(mean.value, row, xerr=half_width(mean), color=colour, fmt="|", capsize=3, markersize=12)
        axes.plot(values, [row] * len(values), "o", color=colour, markersize=4, alpha=0.7)
    if arms[study.base]:
        axes.axvline(float(np.mean(_accuracy(arms[study.base]))), color=GREY, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(arms)), [study.arms[name].label for name in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel("accuracy on test pairs, %")
    axes.grid(axis="x")
    return _save(figure, path)


@figure_style()
def draw_factors(study: Study, arms: Arms, path: Path) -> Path:
    """Accuracy of a 2 x 2 experiment: the second factor on the axis, a line for each level of the first."""
    figure, (axes,) = _figure(1, width=4.5, height=3.2)
    second = list(dict.fromkeys(arm.levels[1] for arm in study.arms.values()))
    for number, level in enumerate(dict.fromkeys(arm.levels[0] for arm in study.arms.values())):
        points = [
            (second.index(arm.levels[1]), estimate(_accuracy(arms[name])))
            for name, arm in study.arms.items()
            if arm.levels[0] == level
        ]
        points.sort(key=lambda point: point[0])
        axes.errorbar(
            [x + 0.03 * (2 * number - 1) for x, _ in points],
            [value.value for _, value in points],
            yerr=[0.0 if np.isnan(value.low) else half_width(value) for _, value in points],
            label=f"{study.factors[0]}: {level}",
            color=(GREY, BLUE)[number],
            marker="o",
            capsize=3,
        )
    axes.set_xticks(range(len(second)), second)
    axes.set_xlim(-0.4, len(second) - 0.6)
    axes.set_xlabel(study.factors[1])
    axes.set_ylabel("accuracy on test pairs, %")
    axes.legend(fontsize=8)
    axes.grid(axis="y")
    return _save(figure, path)


CURVES = (
    ("train", "loss", "loss in training"),
    ("validation", "loss", "loss on validation groups"),
    ("validation", "accuracy", "accuracy on validation groups"),
)


@figure_style()
def draw_curves(study: Study, arms: Arms, path: Path) -> Path:
    """Loss and accuracy by the share of the training that is done: mean over seeds, and their range as a band."""
    figure, axes = _figure(len(CURVES), width=10.0, height=3.4)
    for (part, name, title), plot in zip(CURVES, axes, strict=True):
        for arm, by_seed in arms.items():
            if not by_seed:
                continue
            runs = list(by_seed.values())
            length = min(len(run["curves"][part]["step"]) for run in runs)
            share = np.array(runs[0]["curves"][part]["step"][:length]) / runs[0]["steps"]
            values = np.array([run["curves"][part][name][:length] for run in runs])
            (line,) = plot.plot(
                100 * share, values.mean(axis=0), label=study.arms[arm].label, linewidth=1.3, marker="."
            )
            plot.fill_between(100 * share, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.15)
        plot.set_title(title)
        plot.set_xlabel("training done, %")
        plot.grid()
    axes[-1].legend(fontsize=7)
    return _save(figure, path)


def _accuracy(by_seed: Mapping[int, Result]) -> list[float]:
    return [100 * result["metrics"]["accuracy"] for result in by_seed.values()]


def _figure(panels: int, width: float, height: float) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _save(figure: Any, path: Path) -> Path:
    # Without the date and the library's version, so that equal figures are equal files.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path
