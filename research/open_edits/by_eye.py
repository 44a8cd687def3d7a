"""Grade edits by eye, blind, from contact sheets, and compare with the grades that they were made with.

    python -m research.open_edits.by_eye sheets --groups 140 --output runs/open-edits-by-eye
    python -m research.open_edits.by_eye record --output runs/open-edits-by-eye
    python -m research.open_edits.by_eye sheets --groups 140 --output runs/open-edits-again --again
    python -m research.open_edits.by_eye record --output runs/open-edits-again --again
    python -m research.open_edits.by_eye compare

The first writes sheets of sources and edits, these in an order of their own, and the instructions into `tasks.txt`.
Write `grades.txt` from them by the rubric: a line for each group, its number and for each edit instruction following
and visual quality, such as `7 44 31 12`. The second adds them to configs/open_edits_by_eye.json. With `--again` it is
the second round, in another order. The last prints the agreement.
"""

import editreward.scripts

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from editreward.benchmarks.open_edits import BY_EYE, FOLDER, FOUND_FILE
from editreward.data.sources import StoredRows
from editreward.groups.rows import GroupRow

COLUMNS, PER_SHEET, CELL = 6, 4, (256, 196)
DIMENSIONS = ("instruction_following", "visual_quality")
Grades = Mapping[str, Sequence[Sequence[int]]]
"""By group id, the two grades of each edit, in the order of the row."""


def order(number: int, size: int, again: bool) -> list[int]:
    """In which order the edits of a group are shown."""
    return [int(index) for index in np.random.default_rng((number, again)).permutation(size)]


def shown(row: GroupRow, number: int, again: bool) -> Image.Image:
    """Source and edits of a group, with nothing that tells their grades."""
    candidates = row["candidates"]
    records = [row["source_images"][0], *(candidates[at]["image"] for at in order(number, len(candidates), again))]
    lines = -(-len(records) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL[0], lines * CELL[1] + 14), "white")
    draw = ImageDraw.Draw(sheet)
    for place, record in enumerate(records):
        image = Image.open(io.BytesIO(record["bytes"]))
        image.thumbnail((CELL[0] - 4, CELL[1] - 4))
        left, top = place % COLUMNS * CELL[0], place // COLUMNS * CELL[1] + 14
        sheet.paste(image, (left, top))
        draw.text(
            (left + 2, top + 1),
            str(place) if place else f"{number}: source",
            "black",
            stroke_width=2,
            stroke_fill="white",
        )
    return sheet


def sheets(rows: Sequence[GroupRow], output: Path, again: bool) -> None:
    """Write contact sheets and instructions."""
    output.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(rows), PER_SHEET):
        parts = [shown(row, first + at, again) for at, row in enumerate(rows[first : first + PER_SHEET])]
        sheet = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), "white")
        top = 0
        for part in parts:
            sheet.paste(part, (0, top))
            top += part.height
        sheet.save(output / f"sheet-{first // PER_SHEET:02d}.png")
    tasks = [f"{number} ({len(row['candidates'])}): {row['instruction']}" for number, row in enumerate(rows)]
    (output / "tasks.txt").write_text("\n".join(tasks) + "\n", encoding="utf-8")


def read_grades(path: Path, rows: Sequence[GroupRow], again: bool) -> dict[str, list[list[int]]]:
    """The grades of `grades.txt`.

    Raises:
        ValueError: a line has another number of grades than the group has edits, or one that is not 1 to 4.
    """
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        number, *pairs = line.split()
        row = rows[int(number)]
        places = order(int(number), len(row["candidates"]), again)
        if len(pairs) != len(places) or any(len(pair) != 2 or not set(pair) <= set("1234") for pair in pairs):
            raise ValueError(f"{path}: group {number} has {len(places)} edits, two grades of 1 to 4 each: {line!r}")
        graded = {at: [int(grade) for grade in pair] for at, pair in zip(places, pairs, strict=True)}
        found[row["group_id"]] = [graded[at] for at in range(len(places))]
    return found


def record(rows: Sequence[GroupRow], path: Path, made: Mapping[str, str], file: Path, again: bool) -> None:
    """Add the grades of `grades.txt` to a round, with the hash of the pixels that were graded.

    Args:
        rows, path, again: as for `read_grades`.
        made: hashes of the groups.
        file: where the grades are kept.

    Raises:
        ValueError: the grades that are kept are of other edits.
    """
    saved = json.loads(file.read_text(encoding="utf-8"))
    if saved["labels_sha256"] != made["labels_sha256"]:
        raise ValueError(f"{file} has grades of other edits ({saved['labels_sha256'][:12]}): make those again")
    name, found = "again" if again else "grades", read_grades(path, rows, again)
    saved[name] |= found
    saved["pixels_sha256"][name] |= dict.fromkeys(found, made["pixels_sha256"])
    file.write_text(json.dumps(saved) + "\n", encoding="utf-8")


def agreement(first: Grades, second: Grades) -> list[str]:
    """Rows of a table: by dimension and in the sum, pairs in the same order (ties of the first as half) and edits.

    Args:
        first: who is judged.
        second: the truth; its ties are left out.
    """
    lines = []
    for name, weights in (("sum", (1, 1)), (DIMENSIONS[0], (1, 0)), (DIMENSIONS[1], (0, 1))):
        same, equal, close = [], [], []
        for group in first.keys() & second.keys():
            seen, truth = (np.array(grades[group]) @ weights for grades in (first, second))
            equal += list(seen == truth)
            close += list(np.abs(seen - truth) <= 1)
            for a, b in combinations(range(len(truth)), 2):
                if truth[a] != truth[b]:
                    same.append((1 + np.sign(seen[a] - seen[b]) * np.sign(truth[a] - truth[b])) / 2)
        shares = [f"{100 * np.mean(values):.1f} %" for values in (same, equal, close)]
        lines.append("| " + " | ".join([name.replace("_", " "), str(len(same)), *shares]) + " |")
    return lines


def compare(rows: Sequence[GroupRow], file: Path) -> None:
    """Print the agreement of the grades by eye with those of the data, and of the two rounds."""
    saved = json.loads(file.read_text(encoding="utf-8"))
    made = {
        row["group_id"]: [[int(c["scores"][name]) for name in DIMENSIONS] for c in row["candidates"]] for row in rows
    }
    for title, first, second in (
        ("by eye against the data", saved["grades"], made),
        ("second round against the data", saved["again"], made),
        ("second round against the first", saved["again"], saved["grades"]),
    ):
        if first:
            print(f"\n{title}, {len(first.keys() & second.keys())} groups\n")
            print("| | pairs | in the same order | same grade | at most one point off |\n" + "|---" * 5 + "|")
            print("\n".join(agreement(first, second)))


def main() -> None:
    """Read the options and do the step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["sheets", "record", "compare"])
    parser.add_argument("--data", type=Path, default=Path(FOLDER), help="the groups (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/open-edits-by-eye"), help="folder (%(default)s)")
    parser.add_argument("--groups", type=int, default=100, help="the first so many are shown (%(default)s)")
    parser.add_argument("--again", action="store_true", help="a second round, in another order")
    args = parser.parse_args()
    rows, file = list(StoredRows(str(args.data))), Path(BY_EYE)
    if args.step == "sheets":
        sheets(rows[: args.groups], args.output, args.again)
    elif args.step == "record":
        record(
            rows, args.output / "grades.txt", json.loads((args.data / FOUND_FILE).read_text("utf-8")), file, args.again
        )
    else:
        compare(rows, file)


if __name__ == "__main__":
    main()
