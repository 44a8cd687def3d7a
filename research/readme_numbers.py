"""Make README's picture and numbers from the bundled model: run it after every change of the weights.

    python research/readme_numbers.py

The picture shows ranked groups, held out from training, one of each simulated world; their scores are also in the
file's `scores` text, where a test compares them with the model's. The table is that of the model's `results.json` and
`results_collage.json`, which `research/evaluate_simulated.py` writes.
"""

import editreward.scripts

import argparse
import json
import re
from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo

from editreward import load_scorer
from editreward.cli.demo_groups import simulated_group
from editreward.groups import Scorer
from editreward.reports.picture import ScoredGroup, draw_groups
from editreward.statistics import Share

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "checkpoints" / "editreward-tiny"
PICTURE = ROOT / "docs" / "ranking.png"
README = ROOT / "README.md"
WORLDS = ("shapes", "collage")
TABLE = re.compile(r"\| \| shapes \|.*\n(\|.*\n)+")


def main() -> None:
    """Write the picture and the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    scorer = load_scorer(MODEL, device="cpu")
    groups = shown_groups(scorer)
    text = PngInfo()
    text.add_text("scores", json.dumps(list(map(shown_scores, groups))))
    draw_groups(groups, scorer.notes).save(PICTURE, pnginfo=text, optimize=True)
    readme = README.read_text(encoding="utf-8")
    table = accuracy_table(*map(results_of, WORLDS))
    README.write_text(TABLE.sub(lambda _: table, readme), encoding="utf-8")


def shown_groups(scorer: Scorer) -> list[ScoredGroup]:
    """What the picture shows: of each world the first held-out group with an English instruction."""
    return [simulated_group(scorer, seed=0, world=world) for world in WORLDS]


def results_of(world: str) -> dict[str, Any]:
    """What is recorded of the model on the test set of a world."""
    file = MODEL / ("results.json" if world == "shapes" else f"results_{world}.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def shown_scores(group: ScoredGroup) -> list[dict[str, float]]:
    """What the picture shows of each candidate, in the order given: the overall score, and the dimensions'."""
    return [
        {
            **({"overall": round(one.overall.mean, 2)} if one.overall else {}),
            **{name: round(value.mean, 2) for name, value in one.dimensions.items()},
        }
        for one in group.scores.scores
    ]


def accuracy_table(*results: dict[str, Any]) -> str:
    """README's table of how good the bundled model is, of its results in each of `WORLDS`."""
    names = [name for name in results[0]["shuffled_instructions"] if name != "overall"][::-1] + ["overall"]
    lines = ["| | shapes | shuffled | collage | shuffled | chance |", "|---|---|---|---|---|---|"]
    for name in names:
        cells = [name.replace("_", " ")]
        for of in results:
            shuffled = of["shuffled_instructions"][name]["value"]
            cells += [Share(**of[name]["accuracy"]).text(), f"{100 * shuffled:.1f} %"]
        lines.append(f"| {' | '.join(cells)} | 50 % |")
    four = " | | ".join(Share(**of["strict_ranking"]["4"]).text() for of in results)
    lines.append(f"| strict ranking of 4, overall | {four} | | 4.2 % |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
