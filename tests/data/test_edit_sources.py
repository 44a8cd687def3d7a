"""Edits as people have them: shards, folders, patterns and Hub datasets as groups, one at a time, and their faults."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editreward.cli import command as cli
from editreward.data.edit_sources import SourceOptions, StreamedGroups, open_source
from editreward.data.importers.table_edits import NAMES, TableOptions, read_edits
from editreward.data.presets import PRESETS, preset_columns
from editreward.data.storage import write_groups
from editreward.data.table_groups import TableGroups
from editreward.simulation import simulate_group
from tests.helpers.pictures import picture, save


def shard(path, members):
    """Write a tar file of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            information = tarfile.TarInfo(name)
            information.size = len(data)
            archive.addfile(information, io.BytesIO(data))
    return path


def sample(key, source, edited, instruction="make it red", **more):
    told = json.dumps({"instruction": instruction, **more}).encode()
    return [
        (f"{key}.source.png", picture(source)),
        (f"{key}.edited.png", picture(edited)),
        (f"{key}.json", told),
    ]


def read(source, **options):
    opened = StreamedGroups(str(source), SourceOptions(**options))
    return opened, [row for _, row in opened.group_rows()]


def shown(rows):
    """Source, edits and instruction of each group as their bytes."""
    return [
        (
            [image["bytes"] for image in row["source_images"]],
            [candidate["image"]["bytes"] for candidate in row["candidates"]],
            row["instruction"],
        )
        for row in rows
    ]


# Shards


def test_samples_of_shards_are_groups_in_the_order_of_the_shards(tmp_path):
    shard(tmp_path / "s" / "001.tar", sample("a/b", 5, 6, id="third"))
    shard(tmp_path / "s" / "000.tar", [*sample("1", 1, 2, category="colour"), *sample("2", 3, 4, editor="one")])
    opened, rows = read(tmp_path / "s")
    assert shown(rows) == [([picture(one)], [picture(two)], "make it red") for one, two in ((1, 2), (3, 4), (5, 6))]
    assert [row["category"] for row in rows] == ["colour", None, None]
    assert [row["candidates"][0]["editor"] for row in rows] == [None, "one", None]
    assert [row["candidates"][0]["row"] for row in rows] == ["000.tar, row 0", "000.tar, row 1", "001.tar, row 0"]
    assert (rows[2]["group_id"], opened.faults, opened.rows) == ("third", [], 3)
    _, by_pattern = read(tmp_path / "s" / "*.tar")
    assert shown(by_pattern) == shown(rows)


def test_samples_of_one_source_and_instruction_that_follow_each_other_are_one_group(tmp_path):
    members = [*sample("1", 1, 2), *sample("2", 1, 3), *sample("3", 9, 4), *sample("4", 1, 5)]
    _, rows = read(shard(tmp_path / "x.tar", members))
    assert [len(row["candidates"]) for row in rows] == [2, 1, 1]


def test_bare_extensions_are_columns_that_can_be_named(tmp_path):
    """The layout of many converted sets: `jpg`, `jpg2` and `txt`, none of which is a numbered form of another."""
    members = [("7.jpg", picture(1, "JPEG")), ("7.jpg2", picture(2, "JPEG")), ("7.txt", "Zünde es an".encode())]
    columns = {"source": "jpg", "edited": "jpg2", "instruction": "txt"}
    _, rows = read(shard(tmp_path / "x.tar", members), columns=columns)
    assert shown(rows) == [([picture(1, "JPEG")], [picture(2, "JPEG")], "Zünde es an")]


def test_faults_of_samples_are_named_and_the_others_go_on(tmp_path):
    members = [
        *sample("1", 1, 2)[:1],  # no edit, no instruction
        *sample("2", 3, 4),
        ("3.source.png", picture(1)),
        ("3.edited.png", picture(2)),
        ("3.json", b"{no json"),
        ("4.source.png", picture(1)),
        ("4.edited.png", picture(2)),
        ("4.instruction.txt", b"\xff\xfe"),
        *sample("5", 5, 6, instruction=" "),
        *sample("6", 5, 6),
        ("6.source.png", picture(7)),
        *sample("7", 7, 8),
    ]
    opened, rows = read(shard(tmp_path / "x.tar", members))
    assert shown(rows) == [([picture(a)], [picture(b)], "make it red") for a, b in ((3, 4), (7, 8))]
    assert [(fault.place, fault.kind) for fault in opened.faults] == [
        ("x.tar, row 0", "missing-column"),
        ("x.tar, row 2", "broken-row"),
        ("x.tar, row 3", "broken-row"),
        ("x.tar, row 4", "empty-text"),
        ("x.tar, row 5", "broken-row"),
    ]
    assert "source a second time" in opened.faults[-1].reason


@pytest.mark.parametrize("cut", [1300, 2600, 4000])
def test_a_shard_that_ends_early_costs_what_was_cut_off_and_no_other_shard(tmp_path, cut):
    whole = shard(tmp_path / "0.tar", [*sample("1", 1, 2), *sample("2", 3, 4)])
    shard(tmp_path / "1.tar", sample("3", 5, 6))
    whole.write_bytes(whole.read_bytes()[:cut])
    opened, rows = read(tmp_path / "*.tar")
    assert shown(rows)[-1] == ([picture(5)], [picture(6)], "make it red")
    assert set(map(str, shown(rows))) <= {
        str(([picture(a)], [picture(b)], "make it red")) for a, b in ((1, 2), (3, 4), (5, 6))
    }
    assert all("0.tar" in fault.place for fault in opened.faults)
    assert [fault.kind for fault in opened.faults if "ends early" in fault.reason] == ["broken-row"]


def test_a_file_that_is_no_shard_is_a_fault_and_not_the_end(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"no tar" * 1000)
    shard(tmp_path / "1.tar", sample("3", 5, 6))
    opened, rows = read(tmp_path / "*.tar")
    assert len(rows) == 1 and "0.tar" in opened.faults[0].place


# Folders, tables and datasets


def test_a_folder_of_tables_is_read_in_the_order_of_their_names(tmp_path):
    for number in range(6):
        save(tmp_path, f"{number}.png", number)
    (tmp_path / "b.jsonl").write_text('{"instruction": "x", "source": "2.png", "edited": "3.png"}\n')
    (tmp_path / "a.csv").write_text("instruction,source,edited\ny,0.png,1.png\ny,0.png,gone.png\n")
    opened, rows = read(tmp_path)
    assert shown(rows) == [([picture(0)], [picture(1)], "y"), ([picture(2)], [picture(3)], "x")]
    assert [fault.place for fault in opened.faults] == ["a.csv, line 3"]
    assert opened.faults[0].kind == "missing-image" and "gone.png" in opened.faults[0].reason


def test_a_folder_of_parquet_files_with_images_within_is_streamed(tmp_path):
    for number in range(2):
        images = [{"bytes": picture(2 * number + place), "path": None} for place in range(2)]
        columns = {"source_img": [images[0]], "target_img": [images[1]], "instruction": [f"turn {number}"]}
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "data" / f"train-{number:05d}-of-00002.parquet")
    opened, rows = read(tmp_path, preset="magicbrush")
    assert shown(rows) == [([picture(0)], [picture(1)], "turn 0"), ([picture(2)], [picture(3)], "turn 1")]
    assert opened.columns["source"] == ["source_img"]


def test_processes_share_the_groups_and_a_limit_ends_them(tmp_path):
    source = shard(tmp_path / "x.tar", [one for n in range(7) for one in sample(str(n), n, n + 10)])
    opened = StreamedGroups(str(source), SourceOptions())
    whole = dict(opened.group_rows())
    shared = [dict(opened.group_rows(start, 3, 6)) for start in range(3)]
    assert list(whole) == list(range(7))
    assert {number: row for part in shared for number, row in part.items()} == {n: whole[n] for n in range(6)}


def test_text_files_beside_parquet_files_are_not_read(tmp_path):
    test_a_folder_of_parquet_files_with_images_within_is_streamed(tmp_path)
    (tmp_path / "dataset_infos.json").write_text('{"default": {"features": {}}}')
    opened, rows = read(tmp_path, preset="magicbrush")
    assert len(rows) == 2 and opened.faults == []


@pytest.mark.parametrize("name", ["rows.parquet", ""])
def test_a_parquet_file_that_is_not_complete_is_named(tmp_path, name):
    pq.write_table(pa.table({"instruction": ["x"] * 100}), tmp_path / "rows.parquet")
    (tmp_path / "rows.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"rows\.parquet is not a complete Parquet file"):
        open_source(str(tmp_path / name), SourceOptions())


def test_what_is_opened_follows_from_what_is_there(tmp_path):
    write_groups([simulate_group(0, candidates=2, size=84).to_row()], tmp_path / "groups")
    (tmp_path / "rows.csv").write_text("instruction,source,edited\n")
    shard(tmp_path / "x.tar", sample("1", 1, 2))
    kinds = {"groups": "StoredGroups", "rows.csv": "TableGroups", "x.tar": "StreamedGroups"}
    for name, kind in kinds.items():
        with open_source(str(tmp_path / name), SourceOptions()) as opened:
            assert type(opened).__name__ == kind
    with open_source("simulated", SourceOptions(limit=2)) as opened:
        assert [number for number, _ in opened.group_rows()] == [0, 1]
    with pytest.raises(FileNotFoundError, match=r"No file matches .*\*\.tar"):
        open_source(str(tmp_path / "nowhere" / "*.tar"), SourceOptions())


def test_as_many_groups_are_announced_as_the_limit_lets_through(tmp_path):
    write_groups([simulate_group(seed, candidates=2, size=84).to_row() for seed in range(3)], tmp_path / "groups")
    for limit, number in ((None, 3), (2, 2), (9, 3)):
        with open_source(str(tmp_path / "groups"), SourceOptions(limit=limit)) as source:
            assert source.number() == number == len(list(source.group_rows()))
    with open_source("simulated", SourceOptions(limit=5)) as source:
        assert source.number() == 5


# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_known_fields_and_no_image_twice(name):
    columns = PRESETS[name].columns
    assert columns.keys() <= NAMES.keys() and {"instruction", "source", "edited"} <= columns.keys()
    assert len(set(columns.values())) == len(columns)


# Rows as the sets' cards show them, with all columns, of which captions must not be taken for images.
ROWS = {
    "hq-edit": {
        "input": "a cat", "input_image": b"A", "edit": "make it red", "inverse-edit": "make it grey",
        "output": "a red cat", "output_image": b"B",
    },
    "omniedit": {
        "omni_edit_id": "task_obj_swap_1", "task": "swap", "src_img": b"A", "edited_img": b"B",
        "edited_prompt_list": ["make it red", "the cat is to be red"], "width": 1, "height": 1, "o_score": 9.0,
    },
    "sharegpt-4o-image": {
        "input_prompt": "make it red", "input_image": [b"A"], "output_image": b"B",
        "output_image_resolution": [1024, 1024],
    },
    "gpt-image-edit": {
        "id": "hqedit_edit_7", "dataset_source": "hqedit", "task": "edit", "input": b"A", "output": b"B",
        "instruction": "make it red", "instruction_type": "original", "input_description": "a cat",
    },
    "ultraedit": {
        "source_image": b"A", "edited_image": b"B", "edit_prompt": "make it red", "source_caption": "a cat",
        "target_caption": "a red cat",
    },
    "magicbrush": {
        "img_id": "1", "turn_index": 1, "source_img": b"A", "mask_img": b"M", "instruction": "make it red",
        "target_img": b"B",
    },
    "imgedit": {"input_images": [b"A"], "output_images": [b"B"], "prompt": "make it red"},
    "pico-banana": {
        "open_image_input_url": "https://example.org/a.jpg", "text": "make it red", "output_image": b"B",
        "edit_type": "colour", "summarized_text": "red", "local_input_image": b"A",
    },
}  # fmt: skip
WITHIN = ("hq-edit", "magicbrush", "omniedit", "ultraedit")
"""Sets whose Parquet files hold their images; the files of the others name them."""


def test_rows_of_published_sets_are_read_by_their_presets():
    assert ROWS.keys() == PRESETS.keys()
    for name, values in ROWS.items():
        read_row = read_edits(values, TableOptions(preset_columns(name, {})))
        found = (read_row.instruction, list(read_row.sources), [edit.image for edit in read_row.edits])
        assert found == ("make it red", [b"A"], [b"B"]), name


def published_file(folder, name):
    """A file of two rows in the form in which a set is published: Parquet, or JSON with images beside it."""
    rows = []
    for number in range(2):
        images = {b"A": 2 * number, b"B": 2 * number + 1, b"M": 9}

        def filled(value, images=images):
            if isinstance(value, list):
                return [filled(one) for one in value]
            if not isinstance(value, bytes):
                return value
            path = save(folder, f"images/{images[value]}.png", images[value])
            return {"bytes": picture(images[value]), "path": path} if name in WITHIN else path

        rows.append({column: filled(value) for column, value in ROWS[name].items()})
    ending = {"sharegpt-4o-image": "json", "gpt-image-edit": "json", "pico-banana": "jsonl"}.get(name, "parquet")
    file = folder / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        texts = list(map(json.dumps, rows))
        file.write_text(f"[{','.join(texts)}]" if ending == "json" else "\n".join(texts))
    return file


@pytest.mark.parametrize("name", PRESETS)
def test_files_in_the_form_of_a_published_set_become_groups_by_its_preset(tmp_path, name):
    with open_source(str(published_file(tmp_path, name)), SourceOptions(preset=name)) as opened:
        rows = [row for _, row in opened.group_rows()]
        assert not opened.faults and opened.columns["source"] == [PRESETS[name].columns["source"]]
    expected = [([picture(2 * n)], [picture(2 * n + 1)], "make it red") for n in range(2)]
    assert shown(rows) == expected


def test_a_named_column_goes_before_the_presets_and_an_unknown_preset_is_told():
    assert preset_columns("magicbrush", {"source": "other"})["source"] == "other"
    with pytest.raises(ValueError, match="no preset 'magic', only: gpt-image-edit"):
        preset_columns("magic", {})


def test_the_command_scores_shards_and_tells_what_it_left_out(tmp_path, capsys):
    source = shard(tmp_path / "x.tar", [*sample("1", 1, 2), *sample("2", 3, 4)[:2], *sample("3", 5, 6)])
    output = tmp_path / "scores.jsonl"
    words = ["score", "--table", str(source), "--output", str(output), "--scorer", "psnr"]
    assert cli.main(words) == 1
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["row"] for row in rows] == ["x.tar, row 0", "x.tar, row 2"]
    assert all(row["reward"] is not None for row in rows)
    assert "1 row was left out:\n  x.tar, row 1" in capsys.readouterr().out


def test_tables_still_gather_rows_wherever_they_stand(tmp_path):
    for number in range(4):
        save(tmp_path, f"{number}.png", number)
    text = "instruction,source,edited\nx,0.png,1.png\ny,0.png,2.png\nx,0.png,3.png\n"
    (tmp_path / "rows.csv").write_text(text)
    with TableGroups(tmp_path / "rows.csv") as table:
        assert [len(row["candidates"]) for _, row in table.group_rows()] == [2, 1]
        whole = table.name
    with open_source(str(tmp_path / "rows.csv"), SourceOptions(limit=1)) as table:
        assert [number for number, _ in table.group_rows()] == [0] == [n for n, _ in table.group_rows(limit=9)]
        assert table.number() == len(table) == 1 and table.name != whole
