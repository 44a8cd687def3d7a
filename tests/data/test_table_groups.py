"""A user's table as groups: what columns mean, what is one group, which rows are left out; imports and scoring."""

import csv
import json
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editreward.cli import command as cli
from editreward.data.importers import FORMATS, ImportOptions, Source, import_dataset
from editreward.data.importers.table_edits import NAMES, TableOptions, columns_of, read_edits
from editreward.data.sources import load_groups, raw_groups
from editreward.data.table_groups import TableGroups
from editreward.data.tables import TableError
from tests.helpers.pictures import picture

IF, VQ = "instruction_following", "visual_quality"
OPTIONS = TableOptions(dimensions=(IF, VQ))


@pytest.fixture
def folder(tmp_path):
    """Images cat.png and dog.png, and edits a.png to f.png of them."""
    for number, name in enumerate(("cat", "dog", *"abcdef")):
        (tmp_path / f"{name}.png").write_bytes(picture(number))
    return tmp_path


def write(folder, rows, name="rows.csv"):
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / name


def imported(folder, rows, **options):
    report = import_dataset(
        FORMATS["table"],
        [Source(str(write(folder, rows)))],
        folder / "out",
        ImportOptions(on_fault="list", overwrite=True, **options),
        progress=False,
    )
    faults = folder / "out" / "import_faults.jsonl"
    lines = [json.loads(line) for line in faults.read_text().splitlines()] if faults.exists() else []
    return list(raw_groups(load_groups(folder / "out"))), report, lines


# Columns


@pytest.mark.parametrize("field", ["instruction", "source", "edited", "editor", "group"])
def test_every_common_name_is_found_whatever_its_case_blanks_and_punctuation(field):
    names = {
        "instruction": "instruction",
        "source": "source",
        "edited": "edited",
        "editor": "editor",
        "group": "group",
    }
    for name in NAMES[field]:
        for spelled in (name, name.upper(), name.replace("_", " ").title(), f" {name.replace('_', '-')} "):
            columns = columns_of({**names, field: spelled}.values(), OPTIONS)
            assert columns[field] == [spelled]


def test_numbered_columns_are_in_the_order_of_their_numbers_and_scores_go_with_them():
    values = {"prompt": "x", "src": "cat.png", "Edited_10": "j", "edited_2": "b", "edited": "a"}
    values |= {f"{VQ}_10": "1", f"score_{VQ}": "no", f"{VQ}_2": "2,5", VQ: "4", "editor": "one"}
    row = read_edits(values, TableOptions(dimensions=(VQ,)))
    assert [(edit.image, edit.scores[VQ], edit.editor) for edit in row.edits] == [
        ("a", 4.0, "one"),
        ("b", 2.5, "one"),
        ("j", 1.0, "one"),
    ]
    assert row.columns["edited"] == ["edited", "edited_2", "Edited_10"]


def test_lists_say_what_is_known_of_each_edit():
    values = {
        "instruction": "x",
        "source": ["cat", "dog"],
        "edited": ["a", "b"],
        "model": ["m", "n"],
        "seed": [1, 2.0],
    }
    row = read_edits({**values, VQ: [1, None]}, TableOptions(dimensions=(VQ,)))
    assert list(row.sources) == ["cat", "dog"]
    assert [(edit.image, edit.editor, edit.seed, edit.scores[VQ]) for edit in row.edits] == [
        ("a", "m", 1, 1.0),
        ("b", "n", 2, None),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"instruction": " "}, "instruction is empty"),
        ({"source": ""}, "source names no image"),
        ({"edited": None}, "edit 1 has a score and no image"),
        ({"edited": "", VQ: ""}, "edited names no image"),
        ({VQ: "good"}, "must be a number, not 'good'"),
        ({VQ: "5"}, r"visual_quality is 5, outside of 1 to 4 \(another scale: --scale"),
        ({VQ: "nan"}, None),
        ({VQ: float("inf")}, "is inf, outside"),
        ({VQ: [1, 2]}, "told 2 times for 1 edited"),
        ({"seed": "1.5"}, "seed must be a whole number"),
        ({"instruction": 3.5}, None),
        ({"instruction": {"a": 1}}, "instruction must be a text, not dict"),
    ],
)
def test_a_cell_that_says_nothing_or_something_else_is_named(values, message):
    row = {"instruction": "x", "source": "cat", "edited": "a", VQ: "2", **values}
    if message is None:
        read_edits(row, TableOptions(dimensions=(VQ,)))
        return
    with pytest.raises(ValueError, match=message):
        read_edits(row, TableOptions(dimensions=(VQ,)))


def test_columns_that_are_not_there_are_named_with_the_option_that_helps():
    with pytest.raises(ValueError, match="no column is called source.*only: instruction, b.*--column source=COLUMN"):
        columns_of(["instruction", "b"], OPTIONS)
    with pytest.raises(ValueError, match="no column 'before.png', only: instruction"):
        columns_of(["instruction", "source", "edited"], TableOptions({"source": "before.png"}))
    with pytest.raises(ValueError, match="no field 'sauce'"):
        TableOptions({"sauce": "a"})


# Imports


def test_a_spreadsheet_of_scores_becomes_groups(folder):
    rows = [
        ["Instruction", "Source", "Edited", "Model", IF, VQ, "notes"],
        ["give the cat a hat", "cat.png", "a.png", "one", 4, 3, "fine"],
        ["remove the dog", "dog.png", "c.png", "one", 1, 2, ""],
        ["give the cat\u00a0a hat \r\n", "cat.png", "b.png", "two", "2,5", "", ""],
        ["", "", "", "", "", "", ""],
    ]
    groups, report, faults = imported(folder, rows)
    assert not faults and report["ignored_columns"] == {"notes": 1}
    cat, dog = groups
    assert (cat["instruction"], cat["language"], cat["preferences"]) == ("give the cat a hat", "en", [])
    assert cat["source_images"][0]["bytes"] == (folder / "cat.png").read_bytes()
    assert [(c["editor"], c["scores"], c["image"]["bytes"] == (folder / f).read_bytes()) for c, f in
            zip(cat["candidates"], ("a.png", "b.png"), strict=True)] == [
        ("one", {IF: 4.0, VQ: 3.0}, True),
        ("two", {IF: 2.5, VQ: None}, True),
    ]  # fmt: skip
    assert [candidate["scores"] for candidate in dog["candidates"]] == [{IF: 1.0, VQ: 2.0}]


def test_scores_of_annotators_are_kept_and_their_means_taken(folder):
    rows = [
        ["instruction", "source", "edited", "annotator", VQ],
        ["x", "cat.png", "a.png", "ann", 4],
        ["x", "cat.png", "a.png", "bob", 3],
        ["x", "cat.png", "b.png", "ann", 2],
        ["x", "cat.png", "b.png", "ann", 2],
        ["x", "cat.png", "c.png", "ann", 1],
        ["x", "cat.png", "c.png", "ann", 4],
    ]
    (group,), report, faults = imported(folder, rows, dimensions=[VQ])
    assert [candidate["scores"][VQ] for candidate in group["candidates"]] == [3.5, 2.0]
    assert group["candidates"][0]["annotations"] == [{"annotator": "ann", VQ: 4.0}, {"annotator": "bob", VQ: 3.0}]
    assert [(fault["kind"], fault["row"]) for fault in faults] == [("duplicate-edit", 3), ("contradictory-score", 5)]


def test_a_rationale_that_a_scorer_wrote_stays_marked_as_its(folder):
    head = ["instruction", "source", "edited", "rationale", "rationale_by"]
    rows = [["x", "cat.png", "a.png", "a seam", "a judge"], ["x", "cat.png", "b.png", "no hat", ""]]
    (group,), _, _ = imported(folder, [head, *rows])
    assert [one["rationale_by"] for one in group["candidates"]] == ["a judge", None]
    (group,), _, _ = imported(folder, [head[:4], *(row[:4] for row in rows)])
    assert "rationale_by" not in group["candidates"][0] and group["candidates"][0]["rationale"] == "a seam"


def test_another_scale_is_mapped_and_other_columns_are_taken_by_their_names(folder):
    rows = [["text", "picture", "made", "stars"], ["x", "cat.png", "a.png", 10], ["x", "cat.png", "b.png", 5]]
    columns = {"instruction": "text", "source": "picture", "edited": "made", "overall": "stars"}
    (group,), _, _ = imported(folder, rows, columns=columns, dimensions=["overall"], scale=(0, 10))
    assert [candidate["scores"]["overall"] for candidate in group["candidates"]] == [4.0, 2.5]


def test_bad_rows_are_named_counted_and_listed_and_the_rest_goes_on(folder):
    (folder / "broken.png").write_bytes(b"no image")
    rows = [
        ["instruction", "source", "edited", VQ],
        ["x", "cat.png", "a.png", 4],
        ["x", "cat.png", "nowhere.png", 4],
        ["", "cat.png", "a.png", 4],
        ["x", "cat.png", "b.png", 9],
        ["x", "cat.png", "broken.png", 1],
        ["x", "cat.png", "../outside.png", 1],
        ["y", "dog.png", "c.png", 4, "and more"],
        ["y", "dog.png", "c.png", 3],
    ]
    groups, report, faults = imported(folder, rows, dimensions=[VQ])
    assert [(g["instruction"], len(g["candidates"])) for g in groups] == [("x", 1), ("y", 1)]
    kinds = {"missing-image": 2, "empty-text": 1, "out-of-range": 1, "broken-image": 1, "broken-row": 1}
    assert report["errors"] == kinds and len(faults) == 6
    assert any("line 8" in fault["message"] for fault in faults)


def test_the_command_imports_a_table_and_training_reads_it(folder, capsys):
    file = write(
        folder,
        [["prompt", "before", "after", IF, VQ], ["x", "cat.png", "a.png", 4, 1], ["x", "cat.png", "b.png", 1, 2]],
    )
    words = ["data", "import", "table", "--input", str(file), "--output", str(folder / "out")]
    assert cli.main(words) == 0
    assert "1 groups with 2 candidates" in capsys.readouterr().out
    assert len(load_groups(folder / "out")) == 1
    assert cli.main([*words[:2], *words[3:]]) == 2
    assert "say which format" in capsys.readouterr().err
    write(folder, [["a", "b"], [1, 2]])
    assert cli.main([*words, "--overwrite"]) == 2
    assert "no column is called instruction" in capsys.readouterr().err


# Groups for scoring


def test_edits_of_one_source_and_instruction_are_one_group_wherever_their_rows_stand(folder):
    rows = [["id", "instruction", "source", "edited", "editor", "category"]]
    rows += [["r1", "x", "cat.png", "a.png", "one", "add"], ["r2", "y", "dog.png", "c.png", "one", ""]]
    rows += [["r3", "x\r\n", "cat.png", "b.png", "two", "other"], ["r4", "x", "cat.png", "a.png", "one", ""]]
    with TableGroups(write(folder, rows)) as table:
        first, second = table.groups()
        assert len(table) == 2 and table.rows == 4 and not table.faults
        assert first.group.edited == (folder / "a.png", folder / "b.png") and first.group.sources == (
            folder / "cat.png",
        )
        assert (first.group.instruction, first.category) == ("x", "add")
        assert [(c.place, c.id, c.image, c.editor) for c in first.candidates] == [
            ("line 2", "r1", "a.png", "one"),
            ("line 4", "r3", "b.png", "two"),
        ]
        assert [group.number for group in table.groups(start=1, step=2)] == [1]
        assert [group.number for group in table.groups(limit=1)] == [0]
        assert list(table.groups())[0] == first, "they may be gone through again"


def test_rows_of_a_table_that_cannot_be_scored_are_listed(folder, tmp_path_factory):
    rows = [["instruction", "source", "edited"], ["x", "cat.png", "a.png"], ["x", "cat.png", "no.png"]]
    rows += [["x", "cat.png", "http://127.0.0.1/a.png"], ["x", "/etc/passwd", "a.png"], ["x", "cat.png", "a", "b"]]
    rows += [["x", "cat.png", "x" * 5000], ["x", "cat.png", "a\0.png"]]
    with TableGroups(write(folder, rows)) as table:
        assert len(table) == 1
        assert [(fault.place, fault.kind) for fault in table.faults] == [
            *((f"line {line}", "missing-image") for line in (3, 4, 5)),
            ("line 6", "broken-row"),
            ("line 7", "missing-image"),
            ("line 8", "broken-row"),
        ]
    with pytest.raises(TableError, match="rows.csv: no column is called edited"):
        TableGroups(write(folder, [["instruction", "source"], ["x", "cat.png"]])).__enter__()
    with pytest.raises(FileNotFoundError, match="no image folder"):
        TableGroups(write(folder, rows), folder / "none")


def test_names_are_found_composed_and_decomposed_and_with_backslashes(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / unicodedata.normalize("NFD", "é.png")).write_bytes(picture(9))
    rows = [["instruction", "source", "edited"], ["x", "cat.png", "sub\\é.png"]]
    with TableGroups(write(folder, rows)) as table:
        (group,) = table.groups()
    assert group.group.edited[0].name == unicodedata.normalize("NFD", "é.png")


def test_images_inside_of_rows_are_groups_too(folder):
    cells = [{"bytes": (folder / f"{name}.png").read_bytes(), "path": None} for name in ("cat", "a", "b")]
    values = {"instruction": ["x", "x"], "source": [cells[0]] * 2, "output": cells[1:]}
    pq.write_table(pa.table(values), folder / "rows.parquet")
    with TableGroups(folder / "rows.parquet") as table:
        (group,) = table.groups()
        assert [path.read_bytes() for path in group.group.edited] == [cell["bytes"] for cell in cells[1:]]
        assert [candidate.image for candidate in group.candidates] == ["embedded"] * 2
