"""What curation gains on simulated edits with known truth: kept edits against random, the true order and baselines.

    python research/curation_curves.py --groups 200 --output docs/curation.json

Edits of different sources are ordered by each scorer, as `editreward curate --top-share` does, and the best 10 to 90 %
are kept. Measured of what is kept: the mean truth (sum of both true scores, 2 to 8) and the precision, the share that
is acceptable (both true scores at least `ACCEPTABLE`). "random" is the mean of all, "true order" the best there is.
Intervals are over groups. Larger runs: more groups, other scorers, GPUs by `--device`.
"""

import editreward.scripts

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from editreward import load_scorer
from editreward.data.rows import edit_group
from editreward.data.sources import SimulatedGroups
from editreward.groups import GroupScores
from editreward.reports.style import LIGHT, figure_style
from editreward.statistics.resampling import bootstrap

SHARES = tuple(part / 10 for part in range(1, 10))
ACCEPTABLE = 3.0
SCORERS = ("checkpoints/editreward-tiny", "psnr", "ssim", "phash", "pixels", "random")


def main() -> None:
    """Measure scorers, print the tables of docs/curation.md and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", nargs="+", default=list(SCORERS), help="any scorers (%(default)s)")
    parser.add_argument("--groups", type=int, default=200, help="simulated groups (%(default)s)")
    parser.add_argument("--start", type=int, default=0, help="number of the first (%(default)s)")
    parser.add_argument("--size", type=int, default=112, help="side of their images in pixels (%(default)s)")
    parser.add_argument("--device", help="of scorers that run somewhere")
    parser.add_argument("--samples", type=int, default=200, help="of the bootstrap (%(default)s)")
    parser.add_argument("--output", help="a .json file for the numbers")
    parser.add_argument("--figure", help="a .png file for the curves")
    args = parser.parse_args()
    simulated = SimulatedGroups(args.groups, args.start, args.size)
    rows = [simulated.row(number, "test") for number in range(args.start, args.start + args.groups)]
    truth, group = truths(rows)
    curves, seconds = {"true order": curve(truth.sum(axis=1), truth, group, args.samples)}, {}
    for name in args.scorer:
        began = time.perf_counter()
        scores = scores_of(name, rows, args.device)
        seconds[name] = round(time.perf_counter() - began, 1)
        curves[name] = curve(scores, truth, group, args.samples)
    about = {"groups": args.groups, "start": args.start, "edits": len(truth), "size": args.size, "seconds": seconds}
    about |= {"random": everything(truth)}
    print(tables(curves, about))
    if args.output:
        Path(args.output).write_text(json.dumps({**about, "curves": curves}, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        draw(curves, about, Path(args.figure))


def draw(curves: Mapping[str, Sequence[Mapping[str, float]]], about: Mapping[str, Any], file: Path) -> None:
    """The curves with their intervals: mean truth and precision by the share that is kept."""
    from matplotlib.figure import Figure

    with figure_style(LIGHT):
        figure = Figure(figsize=(9, 3.8))
        panels = figure.subplots(1, 2)
        for axes, (name, unit, scale) in zip(
            panels, (("mean", "mean truth, 2 to 8", 1), ("precision", "acceptable, %", 100)), strict=True
        ):
            for number, (scorer, points) in enumerate(curves.items()):
                colour = LIGHT.series[number % len(LIGHT.series)] if number else LIGHT.ink
                shares = [100 * point["share"] for point in points]
                axes.plot(shares, [scale * point[name] for point in points], color=colour, label=Path(scorer).name)
                low, high = ([scale * point[f"{name}_{end}"] for point in points] for end in ("low", "high"))
                axes.fill_between(shares, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.axhline(scale * about["random"][name], color=LIGHT.faint, linestyle=(0, (4, 3)), linewidth=1)
            axes.set_xlabel("kept, %")
            axes.set_title(unit, loc="left")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.savefig(file, dpi=110, metadata={"Software": None})


def truths(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """True scores, shape (edits, dimensions), and the group of each edit, shape (edits,)."""
    of_edits = [(number, list(c["scores"].values())) for number, row in enumerate(rows) for c in row["candidates"]]
    return np.array([scores for _, scores in of_edits], dtype=float), np.array([number for number, _ in of_edits])


def scores_of(name: str, rows: Sequence[Mapping[str, Any]], device: str | None) -> np.ndarray:
    """Rewards of all edits, shape (edits,).

    Raises:
        ValueError: an edit has no score.
    """
    scorer = load_scorer(name, device=device) if device else load_scorer(name)
    found: list[float] = []
    for start in range(0, len(rows), 64):
        for scores in scorer([edit_group(row) for row in rows[start : start + 64]]):
            if not isinstance(scores, GroupScores):
                raise ValueError(f"{name}: {scores.reason}")
            found += [one.reward for one in scores.scores]
    return np.array(found)


def curve(scores: np.ndarray, truth: np.ndarray, group: np.ndarray, samples: int) -> list[dict[str, float]]:
    """Mean truth and precision of what is kept, with intervals over groups, for each of `SHARES`.

    Args:
        scores: what orders the edits, shape (edits,).
        truth: shape (edits, dimensions).
        group: of each edit, shape (edits,).
        samples: of the bootstrap.
    """
    overall, good = truth.sum(axis=1), np.all(truth >= ACCEPTABLE, axis=1).astype(float)
    points = []
    for share in SHARES:
        point = {"share": share}
        for name, values in (("mean", overall), ("precision", good)):
            found = bootstrap(partial(of_best, scores, values, share), len(scores), group, samples)
            point |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        points.append(point)
    return points


def of_best(scores: np.ndarray, values: np.ndarray, share: float, rows: np.ndarray) -> float:
    """Mean value of the best rows by score, a share of them."""
    best = np.argsort(-scores[rows], kind="stable")[: max(1, round(share * len(rows)))]
    return float(values[rows][best].mean())


def everything(truth: np.ndarray) -> dict[str, float]:
    """Mean truth and precision of all edits: what a random choice keeps, on average."""
    return {"mean": float(truth.sum(axis=1).mean()), "precision": float((truth >= ACCEPTABLE).all(axis=1).mean())}


def tables(curves: Mapping[str, Sequence[Mapping[str, float]]], about: Mapping[str, Any]) -> str:
    """Two tables in Markdown: mean truth and precision by the share that is kept."""
    parts = []
    for name, unit, scale, digits in (("mean", "Mean truth", 1, 2), ("precision", "Precision, %", 100, 0)):
        header = f"| {unit} | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"
        lines = [header, "|---|" + "---:|" * len(SHARES)]
        for scorer, points in curves.items():
            cells = [f"{scale * point[name]:.{digits}f}" for point in points]
            lines.append(f"| {Path(scorer).name} | " + " | ".join(cells) + " |")
        whole = f"{scale * about['random'][name]:.{digits}f}"
        lines.append(f"| all edits (a random choice) | {' | '.join([whole] * len(SHARES))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
