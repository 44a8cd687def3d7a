"""Make README's picture and numbers from the bundled model: run it after every change of the weights.

    python research/readme_numbers.py

The picture is a ranked group of the held-out simulated groups; its scores are also in the file's `scores` text, where
a test compares them with the model's. The table is that of the model's `results.json`, which
`research/evaluate_simulated.py` writes.
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
from editreward.reports.picture import ScoredGroup, draw_groups
from editreward.statistics import Share

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "checkpoints" / "editreward-tiny"
PICTURE = ROOT / "docs" / "ranking.png"
README = ROOT / "README.md"
TABLE = re.compile(r"\| \| ranked right \| chance \| instructions shuffled \|\n(\|.*\n)+")


def main() -> None:
    """Write the picture and the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    scorer = load_scorer(MODEL, device="cpu")
    group = simulated_group(scorer, seed=0)
    text = PngInfo()
    text.add_text("scores", json.dumps(shown_scores(group)))
    draw_groups([group], scorer.notes).save(PICTURE, pnginfo=text, optimize=True)
    readme = README.read_text(encoding="utf-8")
    table = accuracy_table(json.loads((MODEL / "results.json").read_text(encoding="utf-8")))
    README.write_text(TABLE.sub(lambda _: table, readme), encoding="utf-8")


def shown_scores(group: ScoredGroup) -> list[dict[str, float]]:
    """What the picture shows of each candidate, in the order given: the overall score, and the dimensions'."""
    return [
        {
            **({"overall": round(one.overall.mean, 2)} if one.overall else {}),
            **{name: round(value.mean, 2) for name, value in one.dimensions.items()},
        }
        for one in group.scores.scores
    ]


def accuracy_table(results: dict[str, Any]) -> str:
    """README's table of how good the bundled model is, of its `results.json`."""
    names = [name for name in results["shuffled_instructions"] if name != "overall"][::-1] + ["overall"]
    lines = ["| | ranked right | chance | instructions shuffled |", "|---|---|---|---|"]
    for name in names:
        right, shuffled = Share(**results[name]["accuracy"]), results["shuffled_instructions"][name]["value"]
        lines.append(f"| {name.replace('_', ' ')} | {right.text()} | 50 % | {100 * shuffled:.1f} % |")
    four = Share(**results["strict_ranking"]["4"])
    lines.append(f"| strict ranking of 4, overall | {four.text()} | 4.2 % | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
