"""The report of an ablation: tables with intervals over seeds, figures, and the reader's own words, which are kept."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from editreward.statistics.estimate import NAN, Estimate
from research.ablation.figures import draw_arms, draw_curves, draw_factors
from research.ablation.plan import Ablation, Study
from research.ablation.statistics import estimate, factorial_effects, half_width, paired_difference

Result = Mapping[str, Any]
Arms = dict[str, dict[int, Result]]  # results of a study by arm and seed

# Columns: heading, name of the metric, factor, decimals.
COLUMNS = (
    ("instruction following, %", "accuracy_instruction_following", 100, 1),
    ("visual quality, %", "accuracy_visual_quality", 100, 1),
    ("log loss", "log_loss", 1, 3),
)

WRITTEN = "<!-- written: {} -->\n{}<!-- end -->"
BLOCK = re.compile(WRITTEN.format("(.*?)", "(.*?)").replace("\n", r"\n"), re.DOTALL)
TO_WRITE = "*Not written yet.*\n"


def write_report(ablation: Ablation, results: Mapping[str, Result], config: str) -> list[Path]:
    """Write the report and its figures.

    Text between `<!-- written: NAME -->` and `<!-- end -->` in an earlier report is kept: `summary` at the top and one
    block for each study.

    Args:
        ablation: the plan.
        results: finished runs by key. Those that the plan doesn't have are left alone.
        config: the file that the plan was read from.

    Returns:
        The files written.

    Raises:
        ValueError: no run has finished, or a block would be lost, since there is no study of its name.
    """
    report = Path(ablation.report)
    written = read_blocks(report)
    lost = sorted(written.keys() - {"summary", *ablation.studies})
    if lost:
        raise ValueError(f"{report} has text on {lost[0]!r}, which is no study: rename or remove its block.")
    finished = {name: arms_of(ablation, name, results) for name in ablation.studies}
    used = {
        result["key"]: result for arms in finished.values() for by_seed in arms.values() for result in by_seed.values()
    }
    if not used:
        raise ValueError(f"{ablation.results} holds no run of this ablation.")
    folder = Path(ablation.results).parent
    folder.mkdir(parents=True, exist_ok=True)
    report.parent.mkdir(parents=True, exist_ok=True)
    files, sections = [report], []
    for name, study in ablation.studies.items():
        arms = finished[name]
        pictures = []
        if any(arms.values()):
            pictures.append(draw_arms(study, arms, folder / f"{name}.png"))
        if study.factors and all(arms.values()):
            pictures.append(draw_factors(study, arms, folder / f"{name}_effects.png"))
        if study.curves and any(arms.values()):
            pictures.append(draw_curves(study, arms, folder / f"{name}_curves.png"))
        files += pictures
        links = [f"![{study.title}]({path.relative_to(report.parent).as_posix()})" for path in pictures]
        parts = [f"## {study.title}", study.about.strip(), study_table(study, arms, len(ablation.seeds_of(name)))]
        parts += [effects_table(study, arms)] if study.factors and all(arms.values()) else []
        parts += ["\n".join(links), block(name, written)]
        sections.append("\n\n".join(part for part in parts if part))
    page = [head(ablation, list(used.values()), config), block("summary", written), *sections]
    report.write_text("\n\n".join(page) + "\n", encoding="utf-8")
    return files


def arms_of(ablation: Ablation, study: str, results: Mapping[str, Result]) -> Arms:
    """The finished runs of a study."""
    arms: Arms = {arm: {} for arm in ablation.studies[study].arms}
    for arm in arms:
        for seed in ablation.seeds_of(study):
            result = results.get(ablation.run_of(study, arm, seed).key)
            if result is not None:
                arms[arm][seed] = result
    return arms


def head(ablation: Ablation, results: Sequence[Result], config: str) -> str:
    """Title, how to run it, and what the numbers are."""
    train = [result["settings"]["train"] for result in results]
    hours = sum(result["train_seconds"] + result["evaluation_seconds"] for result in results) / 3600
    runs = f"{len(results)} ({len(ablation.seeds)} seeds an arm)"
    test_groups = _listed(result["metrics"]["test_groups"] for result in results)
    steps = sorted({result["steps"] for result in results})
    noise = _listed(f"{t.get('simulated_annotators', 0)} with noise {t.get('simulated_noise', 0):g}" for t in train)
    versions = _listed(", ".join(f"{k} {v}" for k, v in sorted(result["versions"].items())) for result in results)
    return f"""\
# Ablations in miniature

What each option of the training does, on simulated groups ([simulation.md](simulation.md)) with simulated annotator
noise and a tiny vision-language model. It may be otherwise at 7B, on people's scores.

    python -m research.ablation --config {config} --jobs 2           # all runs
    python -m research.ablation --config {config} --report           # this page from `{ablation.results}`

`--study NAME` runs one study, `--rehearse` two steps of every arm. Repeat the command after a stop: it goes on. The
last command writes this page, but for the texts that are marked as written.

| | |
|---|---|
| recipe | `{ablation.recipe}`; each arm changes only what its row says |
| runs | {runs}, {hours:.1f} hours in all; {_range(steps)} optimizer steps each |
| annotators | {noise} (probability of being off by one point) |
| test | {test_groups} held-out groups of `{ablation.evaluation.test_set}`, exact scores, the same for all runs |
| commits | {_listed(str(result.get("commit")) for result in results)} |
| versions | {versions} |
| machine | {_listed(result["machine"] for result in results)} |

**Columns.** Accuracy: pairs of test candidates with different sums of scores, ordered by the reward; per dimension,
by the dimension's own mean. Log loss: of the preference probability on these pairs. ± is the 95 % interval over seeds
(Student's t). Differences are paired by seed; bold ones exclude 0, which one in twenty does by chance."""


def study_table(study: Study, arms: Arms, seeds: int) -> str:
    """A row for each arm that has a run, with the number of seeds where some are missing; others are named below."""
    base = arms[study.base]
    with_paper = any(arm.paper for arm in study.arms.values())
    headings = ["arm", "accuracy, %", f"difference to *{study.arms[study.base].label}*"]
    headings += [heading for heading, *_ in COLUMNS]
    headings += [f"paper: {study.paper}"] if with_paper else []
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for name, arm in study.arms.items():
        by_seed = arms[name]
        if not by_seed:
            continue
        missing_seeds = "" if len(by_seed) == seeds else f" ({len(by_seed)} of {seeds} seeds)"
        row = [arm.label + missing_seeds, cell(estimate(metric(by_seed, "accuracy", 100)), 1)]
        if name == study.base:
            row.append("base")
        else:
            row.append(signed(paired_difference(of_seed(by_seed, "accuracy", 100), of_seed(base, "accuracy", 100))))
        row += [cell(estimate(metric(by_seed, column, factor)), decimals) for _, column, factor, decimals in COLUMNS]
        row += [arm.paper or "-"] if with_paper else []
        lines.append(f"| {' | '.join(row)} |")
    missing = [arm.label for name, arm in study.arms.items() if not arms[name]]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return "\n".join(lines)


def effects_table(study: Study, arms: Arms) -> str:
    """Effects of two factors on the accuracy."""
    first, second = levels(study)
    cells = {}
    for name, arm in study.arms.items():
        cells[first.index(arm.levels[0]), second.index(arm.levels[1])] = of_seed(arms[name], "accuracy", 100)
    effects = factorial_effects(cells)
    return "\n".join(
        [
            "| effect on the accuracy | points |",
            "|---|---|",
            f"| {study.factors[0]}: {first[1]} against {first[0]} | {signed(effects['first'])} |",
            f"| {study.factors[1]}: {second[1]} against {second[0]} | {signed(effects['second'])} |",
            f"| the first, with {second[1]} minus with {second[0]} | {signed(effects['interaction'])} |",
        ]
    )


def levels(study: Study) -> tuple[list[str], list[str]]:
    """The levels of both factors, each in the order in which the arms name them."""
    first, second = zip(*(arm.levels for arm in study.arms.values()), strict=True)
    return list(dict.fromkeys(first)), list(dict.fromkeys(second))


def of_seed(by_seed: Mapping[int, Result], name: str, factor: float) -> dict[int, float]:
    """A metric by seed, without the runs that have none."""
    values = {seed: result["metrics"].get(name) for seed, result in by_seed.items()}
    return {seed: factor * value for seed, value in values.items() if value is not None}


def metric(by_seed: Mapping[int, Result], name: str, factor: float) -> list[float]:
    return list(of_seed(by_seed, name, factor).values())


def cell(value: Estimate, decimals: int) -> str:
    """ "85.1 ± 0.6"; without an interval where there is none."""
    if value.total == 0:
        return "-"
    return f"{value.value:.{decimals}f}{_interval(value, decimals)}"


def signed(value: Estimate) -> str:
    """A difference, bold where its interval excludes 0."""
    if value.total == 0:
        return "-"
    text = f"{value.value:+.1f}{_interval(value, 1)}"
    return f"**{text}**" if value.excludes_zero else text


def _interval(value: Estimate, decimals: int) -> str:
    return "" if np.isnan(value.low) else f" ± {half_width(value):.{decimals}f}"


def read_blocks(report: Path) -> dict[str, str]:
    """The written texts of a report, by name."""
    return dict(BLOCK.findall(report.read_text(encoding="utf-8"))) if report.exists() else {}


def block(name: str, written: Mapping[str, str]) -> str:
    return WRITTEN.format(name, written.get(name, TO_WRITE))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else NAN


def _listed(values: Iterable[Any]) -> str:
    return "; ".join(sorted({str(value) for value in values}))


def _range(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
