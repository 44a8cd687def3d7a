"""Rows of published datasets as they come, and their import."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from editreward.data.importers import FORMATS, ImportOptions, Source, import_dataset
from tests.helpers.pictures import picture, save

EDITSCORE_INSTRUCTION = "give it a hat\nand a from 1 to 3 tie"


def run(name: str, file: Path | str, output: Path, **options: Any) -> dict[str, Any]:
    """Import a file of the named format; returns the report."""
    return import_dataset(FORMATS[name], [Source(str(file))], output, ImportOptions(**options), progress=False)


def bench_rows(name: str, size: int, ranking: str, seed: int, first_release: bool = False) -> list[dict[str, Any]]:
    """The published rows of a tuple whose candidates are ranked like "B>A>C"."""
    order = ranking.replace("=", ">").split(">")
    tie = "=" in ranking
    rows = []
    for a, b in combinations("ABCD"[:size], 2):
        row = {"id": f"{name}_{a}vs{b}", "dataset": f"{size}pair", "instruction": f"edit {name}"}
        row |= {"source_image": {"bytes": picture(seed)}, "comparison_type": f"{a}vs{b}"}
        row["ranking"] = ranking if tie else (f"{a}>{b}" if order.index(a) < order.index(b) else f"{b}>{a}")
        for side, letter in ((1, a), (2, b)):
            row[f"candidate_{side}"] = {"bytes": picture(seed + 1 + "ABCD".index(letter))}
            row[f"model_{side}"] = f"model{letter}_seed{seed}"
            score = 7.0 if tie else 8.0 - order.index(letter)
            row[f"score_{side}"] = score
            if not first_release:
                row[f"overall_score_{side}"] = score
                row[f"instruction_following_{side}"] = score / 2 - 0.25
                row[f"visual_quality_{side}"] = score / 2 + 0.25 - 0.5 * (score == 8)
        rows.append(row)
    return rows


def import_bench(rows: list[dict], tmp_path: Path, name: str = "editreward-bench", **options: Any) -> dict[str, Any]:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return run(name, file, tmp_path / "out", **options)


def stored_groups(folder: Path) -> list[dict[str, Any]]:
    """The groups that an import wrote, as they are stored."""
    return [row for file in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def pair_rows(root: Path) -> list[dict[str, Any]]:
    """Rows in the shape of GenAI-Bench; the overall scores contradict the labels, as in half of the published rows."""

    def row(source: str, first: str, second: str, labels: tuple[int, int]) -> dict[str, Any]:
        texts = {"prompt": "edit", "choice_dist": None, "confidence": None, "model1": "one", "model2": "two"}
        label = {"model1_dim1_score": labels[0], "model2_dim1_score": labels[1]}
        overall = {"model1_overall_score": 0.1 - labels[0], "model2_overall_score": 0.9 - labels[1]}
        return {**texts, "path_src": source, "path1": first, "path2": second, **label, **overall}

    for seed, name in enumerate(("x_src", "y_src", "a", "b", "c")):
        save(root, f"images/{name}.jpg", seed)
    return [
        row("images/x_src.jpg", "images/a.jpg", "images/b.jpg", (4, 2)),
        row("images/x_src.jpg", "images/b.jpg", "images/c.jpg", (2, 4)),
        row("images/x_src.jpg", "images/a.jpg", "images/c.jpg", (2, 2)),
        row("images/y_src.jpg", "images/a.jpg", "images/b.jpg", (2, 4)),
    ]


def editscore_row(
    images: list[str], instruction: str | None, score: Any, reason: str = "because", high: int = 25
) -> dict[str, Any]:
    """A row in the form that EditScore's training reads; the wording of the question is ours."""
    question = (
        "<image>" * len(images) + f"Rate it.\nA score from 0 to {high} for this, a second score from 0 to {high}.\n"
    )
    if instruction is not None:
        question += f"\nEditing instruction: {instruction}\n"
    answer = json.dumps({"reasoning": reason, "score": score})
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, "images": images}


def editscore_rows(root: Path) -> list[dict[str, Any]]:
    """Two edits of one source and instruction, then another group; looks come first, as they may."""
    for seed, name in enumerate(("source", "a", "b", "other", "c")):
        save(root, f"{name}.png", seed)
    return [
        editscore_row(["a.png"], None, [20, 25], "smooth\nand clean"),
        editscore_row(["source.png", "a.png"], EDITSCORE_INSTRUCTION, [25, 7], "a hat"),
        editscore_row(["source.png", "b.png"], EDITSCORE_INSTRUCTION, [0, 24], "no hat"),
        editscore_row(["b.png"], None, [3, 12], "a seam"),
        editscore_row(["other.png", "c.png"], "make it blue", [13, 13], "half blue"),
    ]
