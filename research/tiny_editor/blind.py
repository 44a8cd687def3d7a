"""Grade outputs of the tiny editor by eye, before an inspector sees them, and compare.

    python -m research.tiny_editor.blind sheets --output runs/blind --count 200
    python -m research.tiny_editor.blind compare --output runs/blind

With several `--editors` their outputs are mixed. The first writes contact sheets and `tasks.txt`. Write `grades.txt`
from them by the rubric, a line for each output: its number, instruction following and visual quality, 1 to 4. The
second has both inspectors grade the same outputs.
"""

import editreward.scripts

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from editreward.editors.editors import simulated_task
from editreward.editors.instructions import simulated_instructions
from editreward.resources import resource
from editreward.simulation.inspectors.request import compare
from editreward.simulation.inspectors.scenes import inspect
from research.tiny_editor.experiments import edits, load

SIDE = 112
COLUMNS, ROWS = 5, 8
START = 1000
"""First task, of the test split: none of the experiments'."""


def sheets(folder: Path, editors: Sequence[Path], count: int) -> None:
    """Write each output beside its source, numbered, and what was asked for; those of several editors mixed."""
    adapters, rows = [load(editor) for editor in editors], simulated_instructions("test", START, count)
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [(editor, task) for task in range(count) for editor in range(len(editors))]
    if len(editors) > 1:
        Random(0).shuffle(outputs)
    key = [{"editor": str(editors[editor]), "task": task} for editor, task in outputs]
    (folder / "key.json").write_text(json.dumps(key), encoding="utf-8")
    width, height = 2 * SIDE + 8, SIDE + 14
    lines = []
    for first in range(0, len(outputs), COLUMNS * ROWS):
        sheet = Image.new("RGB", (COLUMNS * width, ROWS * height), "white")
        draw = ImageDraw.Draw(sheet)
        for index, (editor, task) in enumerate(outputs[first : first + COLUMNS * ROWS], start=first):
            row = rows.read(task)
            (edited,) = edits(adapters[editor], row, [task])
            edited.save(folder / f"{index:03d}.png")
            x, y = (index - first) % COLUMNS * width, (index - first) // COLUMNS * height
            draw.text((x + 2, y + 1), str(index), "black")
            for place, image in enumerate((row.images()[0], edited)):
                sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.NEAREST), (x + place * (SIDE + 2), y + 13))
            lines.append(f"{index}: {row.instruction}")
        sheet.save(folder / f"sheet-{first // (COLUMNS * ROWS)}.png")
    (folder / "tasks.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def agreement(by_eye: np.ndarray, found: np.ndarray) -> list[str]:
    """Cells of a table: the same grade, right or not alike, and pairs put in the same order, ties as half."""
    pairs = list(combinations(range(len(by_eye)), 2))
    truth, order = (np.array([np.sign(one[a] - one[b]) for a, b in pairs]) for one in (by_eye, found))
    same_order = ((1 + truth * order) / 2)[truth != 0]
    shares = [(by_eye == found).mean(), ((by_eye == 4) == (found == 4)).mean()]
    cells = [f"{100 * share:.1f} %" for share in (*shares, *([same_order.mean()] if len(same_order) else []))]
    return cells if len(same_order) else [*cells, "no two differ"]


def report(folder: Path) -> None:
    """Print how far each inspector agrees with the grades by eye, and what each editor deserves by both."""
    if not (folder / "grades.txt").exists():
        raise FileNotFoundError(f"{folder / 'grades.txt'} is missing: write it from the sheets of `sheets`")
    grades = {int(n): (int(a), int(b)) for n, a, b in map(str.split, (folder / "grades.txt").read_text().splitlines())}
    key = json.loads((folder / "key.json").read_text(encoding="utf-8"))
    rows = simulated_instructions("test", START, max(one["task"] for one in key) + 1)
    tasks = [simulated_task(rows.read(key[index]["task"])) for index in grades]
    images = [Image.open(folder / f"{index:03d}.png") for index in grades]
    by_eye = np.array(list(grades.values()))
    found = {
        name: np.array(
            [
                [one.instruction_following, one.visual_quality]
                for one in (grade(task, image) for task, image in zip(tasks, images, strict=True))
            ]
        )
        for name, grade in (("scenes", inspect), ("request", compare))
    }
    print("| inspector | dimension | same grade | both right, or both not | pairs in the same order |")
    print("|---" * 5 + "|")
    for name, values in found.items():
        for place, dimension in enumerate(("instruction_following", "visual_quality")):
            cells = agreement(by_eye[:, place], values[:, place])
            print("| " + " | ".join([name, dimension, *cells]) + " |")
    print("\n| editor | outputs | by eye | " + " | ".join(f"by `{name}`" for name in found) + " |")
    print("|---" * (3 + len(found)) + "|")
    for editor in dict.fromkeys(one["editor"] for one in key):
        own = np.array([key[index]["editor"] == editor for index in grades])
        cells = [
            f"{100 * (one[own, 0] == 4).mean():.0f} %, {one[own, 1].mean():.2f}" for one in (by_eye, *found.values())
        ]
        print(f"| {editor} | {own.sum()} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["sheets", "compare"])
    parser.add_argument("--output", type=Path, default=Path("runs/blind"))
    parser.add_argument("--editors", type=Path, nargs="+", default=None, help="Folders; default: the bundled one.")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    if args.step == "sheets":
        sheets(args.output, args.editors or [resource("checkpoints/tiny-editor")], args.count)
    else:
        report(args.output)


if __name__ == "__main__":
    main()
