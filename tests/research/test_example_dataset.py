"""The example dataset: the documented command makes it, through every step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from editreward.cli import command as cli
from editreward.data.sources import load_groups, raw_groups

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "simulated-edits"
SPLITS = ("train", "test")


def rows_of(folder: Path) -> dict[str, dict]:
    """Everything but images, by group: their bytes depend a little on the versions of Pillow and numpy."""
    rows = {}
    for split in SPLITS:
        for row in raw_groups(load_groups(folder, split)):
            row = {**row, "split": split, "source_images": len(row["source_images"])}
            row["candidates"] = [{**candidate, "image": None} for candidate in row["candidates"]]
            rows[row["group_id"]] = row
    return rows


def test_the_example_is_small_and_without_faults(capsys):
    files = [file for file in EXAMPLE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 3e6
    assert cli.main(["data", "check", str(EXAMPLE)]) == 0


def test_every_candidate_has_three_annotators_and_their_mean():
    rows = rows_of(EXAMPLE)
    assert len(rows) == 20
    for row in rows.values():
        for candidate in row["candidates"]:
            assert len({entry["annotator"] for entry in candidate["annotations"]}) == 3
            for dimension, score in candidate["scores"].items():
                given = [entry[dimension] for entry in candidate["annotations"]]
                assert score == pytest.approx(sum(given) / 3)


@pytest.mark.slow
def test_the_documented_command_makes_the_example(tmp_path):
    work, output = tmp_path / "work", tmp_path / "output"
    command = [
        sys.executable,
        str(ROOT / "research" / "example_dataset.py"),
        "--work",
        str(work),
        "--output",
        str(output),
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-2000:]
    assert rows_of(output) == rows_of(EXAMPLE)
    # What the steps leave behind, each read by something else than what wrote it.
    report = json.loads((work / "report" / "report.json").read_text(encoding="utf-8"))
    assert report
    imported = {row["instruction"] for row in raw_groups(load_groups(work / "imported", "train"))}
    assert imported == {row["instruction"] for row in rows_of(EXAMPLE).values()}
    final = work / "benchmark-final"
    benchmark = final if final.exists() else work / "benchmark"
    items = (benchmark / "groups" / "benchmark.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(items) >= 5
