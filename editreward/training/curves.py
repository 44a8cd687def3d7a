"""Loss and accuracy over the steps of a run, as a picture."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from editreward.reports.picture import BAR_COLOURS, FAINT, INK, TRACK
from editreward.training.metrics import metric_name


def series(log_history: Sequence[Mapping[str, float]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric in a log history, the first value of each step.

    The last evaluation of a run may be of the best weights, not of its last step's.
    """
    found: dict[int, float] = {}
    for entry in log_history:
        if name in entry:
            found.setdefault(int(entry["step"]), entry[name])
    return list(found), list(found.values())


def draw_curves(
    log_history: Sequence[Mapping[str, float]], prefixes: Sequence[str], dimensions: Sequence[str], path: str | Path
) -> bool:
    """Draw loss and accuracy in training and on each evaluation set.

    Args:
        log_history: of the trainer's state.
        prefixes: of the metrics of each evaluation set.
        dimensions: whose accuracies to draw, besides the overall one.
        path: the picture.

    Returns:
        Whether there was anything to draw: two steps at least.
    """
    if len(series(log_history, "loss")[0]) < 2:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axes, title, metrics in zip(
        panels,
        ("Loss", "Pairs ranked right"),
        (
            [("loss", "loss")],
            [(metric_name("accuracy", d), (d or "overall").replace("_", " ")) for d in (None, *dimensions)],
        ),
        strict=True,
    ):
        for colour, (metric, label) in zip(cycle(BAR_COLOURS), metrics, strict=False):
            steps, values = series(log_history, metric)
            axes.plot(steps, values, color=colour, alpha=0.35, lw=1.2, label=f"{label}, training")
            for style, prefix in zip(("-", "--", ":", "-.") * len(prefixes), prefixes, strict=False):
                steps, values = series(log_history, f"{prefix}_{metric}")
                if steps:
                    name = "evaluation" if prefix == "eval" else prefix.removeprefix("eval_")
                    axes.plot(steps, values, style, color=colour, marker="o", ms=3, lw=1.8, label=f"{label}, {name}")
        axes.set_title(title, loc="left", color=INK, fontweight="bold")
        axes.set_xlabel("step", color=FAINT)
        axes.grid(color=TRACK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(frameon=False, fontsize=7.5, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path)
    return True
