"""`editreward score --table`, and what files of scores hold: rows per edit or group, the best of them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from editreward.cli import command as cli
from editreward.data.storage import write_groups
from editreward.data.table_groups import TableGroups
from editreward.groups import CandidateScore, DimensionScore, GroupScores, Unscored
from editreward.scorers.baselines import content_of
from editreward.scorers.dataset import score_dataset
from editreward.scorers.registry import CompletedScorer
from editreward.scorers.score_files import Choice
from tests.helpers.pictures import picture

ROWS = [
    ["key", "prompt", "before", "after", "model"],
    ["r1", "give it a hat", "cat.png", "a.png", "one"],
    ["r2", '=HYPERLINK("x")', "dog.png", "c.png", "one"],
    ["r3", "give it a hat", "cat.png", "b.png", "two"],
    ["r4", "give it a hat", "cat.png", "none.png", "two"],
    ["r5", '=HYPERLINK("x")', "dog.png", "d.png", "+two"],
]
NAMES = ("cat", "dog", "a", "b", "c", "d")
REWARDS = {"a": 0.25, "b": 0.75, "c": 3.0, "d": -1.0}
SCORER = """
class Constant:
    name = fingerprint = "constant"
    def __call__(self, groups):
        from editreward.groups import GroupScores
        return [GroupScores([float(len(group.instruction))] * len(group.edited)) for group in groups]
"""


class ByPicture:
    """Knows the pictures."""

    name = fingerprint = "by picture"
    dimensions = ("looks",)

    def __call__(self, groups):
        known = {picture(number): REWARDS.get(name) for number, name in enumerate(NAMES)}
        return [
            Unscored("nothing to see")
            if group.instruction == "fail"
            else self.scores([known[content_of(e)] for e in group.edited])
            for group in groups
        ]

    def scores(self, rewards):
        return GroupScores.from_columns(
            rewards, {"looks": [2 * reward for reward in rewards]}, {"looks": [0.5] * len(rewards)}
        )


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / f"{name}.png").write_bytes(picture(number))
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(ROWS)
    return tmp_path


def scored(folder, name, choice=None, **options):
    output, choice = folder / name, choice or Choice(per_edit=True)
    with TableGroups(folder / "rows.csv") as table:
        report = score_dataset(CompletedScorer(ByPicture()), table, output, choice=choice, **options)
    if output.suffix == ".csv":
        with output.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file)), report
    if output.suffix == ".parquet":
        return pq.read_table(output).to_pylist(), report
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()], report


def test_a_table_has_a_row_per_edit_with_what_it_is_and_how_it_ranks(folder):
    rows, report = scored(folder, "scored.jsonl")
    assert (report.groups, report.candidates, report.written, report.failed) == (2, 4, 4, 0)
    told = [
        (r["row"], r["id"], r["source"], r["image"], r["editor"], r["rank"], r["reward"], r["looks"]) for r in rows
    ]
    assert told == [
        ("line 2", "r1", "cat.png", "a.png", "one", 2, 0.25, 0.5),
        ("line 4", "r3", "cat.png", "b.png", "two", 1, 0.75, 1.5),
        ("line 3", "r2", "dog.png", "c.png", "one", 1, 3.0, 6.0),
        ("line 6", "r5", "dog.png", "d.png", "+two", 2, -1.0, -2.0),
    ]
    assert [r["instruction"] for r in rows] == ["give it a hat"] * 2 + ['=HYPERLINK("x")'] * 2
    assert rows[0]["group_id"] == rows[1]["group_id"] != rows[2]["group_id"]
    assert {r["looks_std"] for r in rows} == {0.5} and {r["error"] for r in rows} == {None}
    assert scored(folder, "scored.parquet")[0] == rows


def test_a_csv_has_the_same_and_no_cell_acts_as_a_formula(folder):
    rows, _ = scored(folder, "scored.csv")
    expected, _ = scored(folder, "scored.jsonl")
    for row, plain in zip(rows, expected, strict=True):
        assert list(row) == list(plain)
        assert float(row["reward"]) == plain["reward"] and row["image"] == plain["image"] and row["error"] == ""
    assert (
        rows[2]["instruction"] == '\'=HYPERLINK("x")' and rows[3]["editor"] == "'+two" and rows[3]["reward"] == "-1.0"
    )
    assert (folder / "scored.csv").read_bytes().startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize(
    ("choice", "images"),
    [
        (Choice(best_per_group=True), ["b.png", "c.png"]),
        (Choice(top=3), ["c.png", "b.png", "a.png"]),
        (Choice(top=1, best_per_group=True), ["c.png"]),
        (Choice(top=100), ["c.png", "b.png", "a.png", "d.png"]),
    ],
)
def test_the_best_are_those_with_the_highest_rewards(folder, choice, images):
    rows, report = scored(folder, "scored.jsonl", choice)
    assert [row["image"] for row in rows] == images and report.written == len(images)


def test_a_group_that_cannot_be_scored_says_why_in_its_row(folder):
    with (folder / "rows.csv").open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(["r6", "fail", "cat.png", "a.png", "one"])
    rows, report = scored(folder, "scored.csv")
    assert report.failed == 1 and rows[-1]["error"] == "nothing to see" and rows[-1]["reward"] == ""
    rows, _ = scored(folder, "best.jsonl", Choice(best_per_group=True))
    assert [row["image"] for row in rows] == ["b.png", "c.png"]


def test_a_dataset_names_image_editor_and_instruction(folder):
    row = {
        "group_id": "g",
        "origin": "x",
        "category": "add",
        "instruction": "give it a hat",
        "language": "en",
        "source_images": [str(folder / "cat.png")],
        "candidates": [{"image": str(folder / f"{name}.png"), "editor": f"the {name}"} for name in "ab"],
    }
    write_groups([row], folder / "groups")
    for suffix in ("jsonl", "parquet"):
        score_dataset(CompletedScorer(ByPicture()), str(folder / "groups"), folder / f"groups.{suffix}")
    (record,) = [json.loads(line) for line in (folder / "groups.jsonl").read_text().splitlines()]
    (row,) = pq.read_table(folder / "groups.parquet").to_pylist()
    assert [candidate.pop("pass_std") for candidate in row["candidates"]] == [None] * len(row["candidates"])
    assert row == record
    assert (record["instruction"], record["best"]) == ("give it a hat", 1)
    assert [(c["image"], c["editor"], c["rank"]) for c in record["candidates"]] == [
        ("a.png", "the a", 2),
        ("b.png", "the b", 1),
    ]
    score_dataset(CompletedScorer(ByPicture()), str(folder / "groups"), folder / "groups.csv", progress=None)
    with (folder / "groups.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [(row["row"], row["group_id"], row["image"]) for row in csv.DictReader(file)] == [
            ("0", "g", "a.png"),
            ("0", "g", "b.png"),
        ]


def test_the_command_says_which_columns_it_read_and_lists_rows_that_were_left_out(folder, capsys, monkeypatch):
    (folder / "mine.py").write_text(SCORER)
    words = ["score", "--table", str(folder / "rows.csv"), "--output", str(folder / "out.csv")]
    words += ["--scorer", f"{folder / 'mine.py'}:Constant"]
    assert cli.main([*words, "--top", "2"]) == 1
    out = capsys.readouterr().out
    assert (
        "out.csv (2 rows): 2 groups with 4 candidates" in out
        and "instruction from prompt, source from before, edited from after" in out
    )
    assert "1 row was left out:\n  line 5: there is no file 'none.png'" in out
    assert "no common scale" in out
    (folder / "out.csv").unlink()
    (folder / "rows.csv").write_text("a,b\n1,2\n")
    assert cli.main(words) == 2
    assert "no column is called instruction" in capsys.readouterr().err
    (folder / "rows.csv").write_text("prompt,before,after\n")
    assert cli.main(words) == 2
    assert "rows.csv can be scored. It has no rows." in capsys.readouterr().err
    (folder / "rows.csv").write_text("prompt,before,after\nx,none.png,a.png\n")
    assert cli.main(words) == 2
    assert "rows.csv can be scored. line 2: there is no file 'none.png'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--table", "rows.csv"], "`--table` needs --output as well"),
        (["--dataset", "simulated", "--limit", "1"], "`--dataset` needs --output as well"),
        (["--source", "cat.png", "--edited", "a.png"], "`--source` needs --instruction as well"),
        ([], "--source, --edited, --instruction missing; or score a file: --table or --dataset"),
        (["--table", "rows.csv", "--dataset", "simulated", "--output", "a.csv"], "are two ways to score"),
        (["--table", "rows.csv", "--output", "a.csv", "--split", "x"], "without --split"),
        (["--dataset", "simulated", "--output", "a.csv", "--images", "."], "without --images"),
        (["--table", "rows.csv", "--output", "a.xlsx"], "must end in .csv, .jsonl, .parquet"),
        (["--table", "rows.csv", "--output", "a.csv", "--top", "0"], "`--top` must be at least 1"),
        (["--table", "row.csv", "--output", "a.csv"], "There is no file row.csv (`--table`). Did you mean rows.csv?"),
        (["--table", "rows.csv", "--output", "a.csv", "--column", "x"], "--column takes FIELD=COLUMN"),
        (["--table", "rows.csv", "--output", "a.csv", "--column", "x=y"], "no field 'x'"),
        (["--table", "rows.csv", "--output", "a.csv", "--tpo", "3"], "no option --tpo: did you mean --top?"),
    ],
)
def test_what_is_missing_or_does_not_go_together_is_said_in_one_line(words, message, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    try:
        status = cli.main(["score", *words])
    except SystemExit as stop:
        status = stop.code
    err = capsys.readouterr().err
    assert status == 2 and message in err and err.count("\n") == 1


WRONG = [
    ["score", "--source", "nowhere.png", "--edited", "a.png", "--instruction", "x"],
    ["score", "--source", "cat.png", "--edited", "nowhere.png", "--instruction", "x"],
    ["score", "--source", "cat.png", "--edited", "a.png", "--instruction", "x", "--model", "./nowhere"],
    ["score", "--table", "nowhere.csv", "--output", "a.csv"],
    ["score", "--table", "rows.csv", "--images", "nowhere/", "--output", "a.csv"],
    ["score", "--dataset", "./nowhere", "--output", "a.csv"],
    ["convert", "--checkpoint", "nowhere.bin", "--backbone", "x", "--templates", "rows.csv", "--output", "o"],
    ["merge", "--adapter", "./nowhere", "--output", "o"],
    ["generate", "--instructions", "./nowhere", "--editors", "rows.csv", "--output", "o"],
    ["generate", "--instructions", "simulated", "--editors", "nowhere.yaml", "--output", "o"],
    ["bench", "own", "--data", "./nowhere"],
    ["bench", "compare", "nowhere/result.json", "nowhere"],
    ["bench", "robustness", "--data", "./nowhere"],
    ["push", "model", "--model", "./nowhere", "--repo-id", "a/b"],
    ["data", "import", "table", "--input", "nowhere.csv", "--output", "o"],
    ["data", "check", "./nowhere"],
    ["data", "stats", "./nowhere", "--output", "o"],
    ["data", "flag", "./nowhere"],
    ["data", "contamination", "./nowhere", "./nowhere"],
    ["annotate", "report", "--database", "nowhere.sqlite", "--output", "o"],
]


def test_a_wrong_path_is_told_before_anything_slow_is_imported(folder):
    code = f"""
import sys
from editreward.cli import command
for words in {WRONG}:
    status = command.main(words)
    assert status == 2, words
    heavy = {{"torch", "transformers", "datasets"}} & set(sys.modules)
    assert not heavy, (words, heavy)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == len(WRONG)
    for line, words in zip(lines, WRONG, strict=True):
        assert line.startswith("editreward ") and "nowhere" in line and "`" in line, (line, words)
    assert not [path for path in Path(folder).iterdir() if path.name == "o"]


@pytest.mark.parametrize(
    "name", ["scored.jsonl", "scored.csv", "scored.parquet", "per-group.jsonl", "per-group.parquet"]
)
def test_a_name_that_is_no_unicode_costs_no_file(folder, name):
    row = {"path": "b\udce9.png", "bytes": picture(2)}

    class Rows:
        name, rows, columns, faults = "b\udce9.tar", 1, {}, ()

        def number(self):
            return 1

        def group_rows(self, start=0, step=1, limit=None):
            image = {"bytes": picture(0), "path": None}
            candidate = {"image": row, "editor": "one\udcff", "id": "\udce9"}
            yield 0, {"group_id": "g\udce9", "instruction": "x", "source_images": [image], "candidates": [candidate]}

    output = folder / name
    choice = Choice(per_edit=name.startswith("scored"))
    assert score_dataset(CompletedScorer(ByPicture()), Rows(), output, choice=choice).written == 1
    if output.suffix == ".parquet":
        (found,) = pq.read_table(output).to_pylist()
    elif output.suffix == ".csv":
        with output.open(encoding="utf-8-sig", newline="") as file:
            (found,) = csv.DictReader(file)
    else:
        (found,) = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert found["group_id"] == "g\\udce9"
    (edit,) = found.get("candidates") or [found]
    assert (edit["image"], edit["editor"]) == ("b\\udce9.png", "one\\udcff")


def test_what_is_calibrated_overall_alone_is_told_with_its_standard_deviation(folder):
    class Overall(ByPicture):
        dimensions = ()

        def scores(self, rewards):
            overall = DimensionScore(3.0, 0.25, True, True)
            return GroupScores([CandidateScore({}, reward, overall=overall) for reward in rewards])

    rows = {}
    for suffix in ("csv", "jsonl", "parquet"):
        output = folder / f"overall.{suffix}"
        with TableGroups(folder / "rows.csv") as table:
            score_dataset(CompletedScorer(Overall()), table, output, choice=Choice(per_edit=True))
        if suffix == "csv":
            with output.open(encoding="utf-8-sig", newline="") as file:
                rows[suffix] = next(csv.DictReader(file))
        else:
            read = pq.read_table(output).to_pylist() if suffix == "parquet" else map(json.loads, output.open())
            rows[suffix] = next(iter(read))
    names = ("overall", "overall_std", "calibrated", "std_calibrated")
    assert [rows["csv"][name] for name in names] == ["3.0", "0.25", "True", "True"]
    for suffix in ("jsonl", "parquet"):
        assert [rows[suffix][name] for name in names] == [3.0, 0.25, True, True]
    (plain, *_), _ = scored(folder, "plain.jsonl")
    assert [plain[name] for name in names] == [None, None, False, False]
