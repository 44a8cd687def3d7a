"""Grade outputs of the tiny editor by eye, before an inspector sees them, and compare.

    python -m research.tiny_editor.blind sheets --output runs/blind --count 200
    python -m research.tiny_editor.blind compare --output runs/blind

The first writes contact sheets and `tasks.txt`. Write `grades.txt` from them by the rubric, a line for each output:
its number, instruction following and visual quality, 1 to 4. The second has both inspectors grade the same outputs.
"""

import editreward.scripts

import argparse
from itertools import combinations
from pathlib import Path

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


def sheets(folder: Path, editor: Path, count: int) -> None:
    """Write each output beside its source, numbered, and what was asked for."""
    adapter, rows = load(editor), simulated_instructions("test", START, count)
    folder.mkdir(parents=True, exist_ok=True)
    width, height = 2 * SIDE + 8, SIDE + 14
    lines = []
    for first in range(0, count, COLUMNS * ROWS):
        sheet = Image.new("RGB", (COLUMNS * width, ROWS * height), "white")
        draw = ImageDraw.Draw(sheet)
        for index in range(first, min(first + COLUMNS * ROWS, count)):
            row = rows.read(index)
            (edited,) = edits(adapter, row, [index])
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
    same_order = ((1 + truth * order) / 2)[truth != 0].mean()
    shares = ((by_eye == found).mean(), ((by_eye == 4) == (found == 4)).mean(), same_order)
    return [f"{100 * share:.1f} %" for share in shares]


def report(folder: Path) -> None:
    """Print how far each inspector agrees with the grades by eye."""
    grades = {int(n): (int(a), int(b)) for n, a, b in map(str.split, (folder / "grades.txt").read_text().splitlines())}
    rows = simulated_instructions("test", START, max(grades) + 1)
    images = {index: Image.open(folder / f"{index:03d}.png") for index in grades}
    print("| inspector | dimension | same grade | both right, or both not | pairs in the same order |")
    print("|---" * 5 + "|")
    for name, grade in (("scenes", inspect), ("request", compare)):
        found = [grade(simulated_task(rows.read(index)), image) for index, image in images.items()]
        for place, dimension in enumerate(("instruction_following", "visual_quality")):
            by_eye = np.array([pair[place] for pair in grades.values()])
            cells = agreement(by_eye, np.array([getattr(one, dimension) for one in found]))
            print("| " + " | ".join([name, dimension, *cells]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["sheets", "compare"])
    parser.add_argument("--output", type=Path, default=Path("runs/blind"))
    parser.add_argument("--editor", type=Path, default=None, help="Folder; default: the bundled tiny editor.")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    if args.step == "sheets":
        sheets(args.output, args.editor or resource("checkpoints/tiny-editor"), args.count)
    else:
        report(args.output)


if __name__ == "__main__":
    main()
