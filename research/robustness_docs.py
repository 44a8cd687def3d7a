"""Put scorers under stress on simulated groups, and write the table and the figure of docs/robustness.md.

    python research/robustness_docs.py        # the bundled model and SSIM, minutes of one core
    python research/robustness_docs.py --model runs/editreward-tiny
    python research/robustness_docs.py --why                                   # and look into what fails

Answers are cached: whatever model is as it was takes seconds. What the page says of the table is written by hand, by
what `--why` prints.
"""

import editreward.scripts

import argparse
import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from editreward import EditRewardScorer
from editreward.benchmarks.robustness import RobustnessResult, Stress, changes, run_robustness, simulated
from editreward.benchmarks.robustness.measures import BEATEN, FLIPS, OVERTAKEN, SPEARMAN, Finding, scores_by_name
from editreward.benchmarks.robustness.report import cell
from editreward.benchmarks.robustness.stresses import FALLS, HEADINGS, INVARIANT, LOSES, NO_GAIN
from editreward.benchmarks.runner import Runner
from editreward.cli.bench_robustness import SIMULATED_GROUPS
from editreward.groups import EditGroup
from editreward.scorers.baselines import SourceLikeness
from editreward.scorers.folders import cache_folder
from editreward.simulation import simulate_group

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- research/robustness_docs.py writes from here -->", "<!-- to here -->"
KEYS = {INVARIANT: FLIPS, FALLS: SPEARMAN, LOSES: BEATEN, NO_GAIN: OVERTAKEN}
COLOURS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder (default: the bundled model)")
    parser.add_argument("--groups", type=int, default=SIMULATED_GROUPS, help="simulated groups (%(default)s)")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "robustness.md", help="(%(default)s)")
    parser.add_argument("--why", action="store_true", help="print shifts by subset and under variations of stresses")
    args = parser.parse_args()

    data, runner = simulated(args.groups), Runner(cache_folder())
    scorers = (EditRewardScorer.from_pretrained(args.model), SourceLikeness("ssim"))
    results = [run_robustness(data, scorer, runner) for scorer in scorers]
    if args.why:
        print("\n".join(subsets(results[0])))
        print(run_robustness(data, scorers[0], runner, VARIATIONS).markdown())

    before, rest = args.page.read_text(encoding="utf-8").split(START)
    written = "\n".join([START, "", *tables(results), "", END])
    args.page.write_text(before + written + rest.split(END)[1], encoding="utf-8")

    picture = io.BytesIO()
    results[0].draw(picture)
    # A palette: a third of the bytes.
    Image.open(picture).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        args.page.with_suffix(".png"), optimize=True
    )
    print(f"Wrote {args.page} and {args.page.with_suffix('.png')}")


def both_shifted(group: EditGroup, *, pixels: int) -> EditGroup:
    """As `changes.shifted`, with the source moved alike."""
    whole = changes.shifted(replace(group, edited=(*group.sources, *group.edited)), pixels=pixels).edited
    return replace(group, sources=whole[: len(group.sources)], edited=whole[len(group.sources) :])


def both_resized(group: EditGroup, *, scale: float) -> EditGroup:
    """As `changes.resized`, with the source resized alike."""
    whole = changes.resized(replace(group, edited=(*group.sources, *group.edited)), scale=scale).edited
    return replace(group, sources=whole[: len(group.sources)], edited=whole[len(group.sources) :])


VARIATIONS = (
    Stress("source and edits shifted", INVARIANT, "by a pixel", partial(both_shifted, pixels=1)),
    Stress("source and edits larger", INVARIANT, "as with a border", partial(both_resized, scale=120 / 112)),
    Stress("border of a pixel", INVARIANT, "white", partial(changes.bordered, share=0.001, colour="white")),
    Stress("grey border", INVARIANT, "4 %", partial(changes.bordered, share=0.04, colour="grey")),
)


def subsets(result: RobustnessResult) -> list[str]:
    """Mean shifts of each score by stress and category, language and background of the source, as Markdown."""
    before = result.answers["as they are"]
    groups = {name: simulate_group(int(name.rsplit("-", 1)[1]), "test", candidates=1) for name in before}
    kinds = {
        "category": lambda group: group.category,
        "language": lambda group: group.language,
        "background": lambda group: group.scene.background.pattern,
    }
    lines = ["| stress | score | of | shift of all edits; of the best |", "|---|---|---|---|"]
    for finding in result.applied:
        stress = finding.stress
        if stress.levels or stress.offers:
            continue
        for score, unit in result.units.items():
            for kind, of in kinds.items():
                cells: dict[str, list[np.ndarray]] = {}
                for name, after in result.answers[stress.name].items():
                    change = scores_by_name(after)[score] - scores_by_name(before[name])[score]
                    cells.setdefault(of(groups[name]), []).append(change / unit)
                shown = (f"{key} {np.mean(v):.2f}; {np.mean([one[0] for one in v]):.2f}" for key, v in cells.items())
                lines.append(f"| {stress.name} | {score} | {kind} | {', '.join(sorted(shown))} |")
    return lines


def tables(results: list[RobustnessResult]) -> list[str]:
    """A table for every expectation, the scorers side by side."""
    said = "; ".join(f"{result.model['name']}: {result.summary}" for result in results)
    lines = [f"{results[0].data['groups']:,} groups ({results[0].data['name']}). {said}."]
    for expectation, key in KEYS.items():
        header = [HEADINGS[expectation].lower(), "shift", key, "", *(result.model["name"] for result in results[1:])]
        lines += ["", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        for findings in zip(*(result.applied for result in results), strict=True):
            if findings[0].stress.expectation == expectation:
                lines.append(f"| {' | '.join(row(findings, key))} |")
    return lines


def row(findings: tuple[Finding, ...], key: str) -> list[str]:
    """Cells of a stress: of the first scorer with intervals, of the others the shift and whether it is as expected."""
    first, *others = findings
    cells = [first.stress.name, cell(first.shift), cell(first.measures[key]), verdict(first)]
    return cells + [f"{other.shift.value:.2f}, {verdict(other)}" for other in others]


def verdict(finding: Finding) -> str:
    return "yes" if finding.met else "**no**"


if __name__ == "__main__":
    main()
