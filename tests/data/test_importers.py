"""Importers of published formats, with the formats' known faults, and the export back."""

import base64
import copy
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from editreward.benchmarks import BENCHMARKS
from editreward.benchmarks.editreward_bench import parse_ranking, verdict_of
from editreward.cli import command as cli
from editreward.data.benchmark_items import BenchmarkItem, Comparison, comparisons_of, read_benchmark
from editreward.data.export import export_pairs
from editreward.data.importers import FORMATS, ImportFault, ImportOptions, Source, import_dataset, running
from editreward.data.importers.faults import RowFault
from editreward.data.importers.reading import read_rows
from editreward.data.sources import load_groups, raw_groups
from editreward.data.storage import write_groups
from tests.helpers.pictures import picture, save
from tests.helpers.published_rows import bench_rows, import_bench, pair_rows, run

DIMENSIONS = ("instruction_following", "visual_quality")


def groups_of(output: Path, split: str = "train") -> list[dict[str, Any]]:
    return [
        row for file in sorted((output / "data").glob(f"{split}-*.parquet")) for row in pq.read_table(file).to_pylist()
    ]


def faults_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "import_faults.jsonl").read_text().splitlines()]


# EditReward-Data


def published_group(root: Path, number: int, scores: list[tuple[int, int]], prompt: str | None = None) -> list[dict]:
    """The published rows of one group, every pair once."""
    folder = f"{number:032x}"
    prompt = f"make it {number}" if prompt is None else prompt
    source = save(root, f"{folder}/source.png", 1000 * number)
    made = []
    for index, (first, second) in enumerate(scores):
        model = f"editor{index}_seed42" if index % 2 else f"editor{index}"
        path = save(root, f"{folder}/{model}_data_gen.png", 1000 * number + index + 1)
        made.append((model, path, first, second))
    rows = []
    for a, b in combinations(made, 2):
        if sum(b[2:]) > sum(a[2:]):
            a, b = b, a
        row = {"prompt": prompt, "choice_dist": None, "confidence": None, "path_src": source}
        row |= {"path1": a[1], "path2": b[1], "model1": a[0], "model2": b[0]}
        for side, one in (("1", a), ("2", b)):
            row |= {f"model{side}_dim1_score": one[2], f"model{side}_dim2_score": one[3]}
            row[f"model{side}_overall_score"] = one[2] + one[3]
        rows.append(row | {"tie_case": sum(a[2:]) == sum(b[2:])})
    return rows


def published_file(root: Path, groups: int = 3, candidates: int = 7, seed: int = 0) -> tuple[Path, dict, list[dict]]:
    """A published file of shuffled pairs, and the scores that it was made from by image path."""
    rng = random.Random(seed)
    truth, rows = {}, []
    for number in range(groups):
        scores = [(rng.randint(1, 4), rng.randint(1, 4)) for _ in range(candidates)]
        new = published_group(root, number, scores)
        rows += new
        for index, pair in enumerate(scores):
            model = f"editor{index}_seed42" if index % 2 else f"editor{index}"
            truth[f"{number:032x}/{model}_data_gen.png"] = pair
    rng.shuffle(rows)
    file = root / "train.json"
    file.write_text(json.dumps(rows))
    return file, truth, rows


def check_groups(groups: list[dict], truth: dict, root_bytes: dict[str, bytes]) -> None:
    """Compare imported groups with what the file was made from."""
    by_bytes = {data: path for path, data in root_bytes.items()}
    found = {}
    for group in groups:
        number = int(group["instruction"].removeprefix("make it "))
        assert by_bytes[group["source_images"][0]["bytes"]] == f"{number:032x}/source.png"
        for candidate in group["candidates"]:
            path = by_bytes[candidate["image"]["bytes"]]
            name = path.split("/")[1].removesuffix("_data_gen.png")
            assert path.startswith(f"{number:032x}/")
            assert (candidate["editor"], candidate["seed"]) == (
                name.split("_seed")[0],
                42 if "_seed" in name else None,
            )
            assert path not in found
            found[path] = tuple(candidate["scores"][name] for name in DIMENSIONS)
    assert found == truth


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}


def test_pairs_become_the_groups_that_they_were_made_from(tmp_path):
    file, truth, _ = published_file(tmp_path / "in")
    images = files_below(tmp_path / "in")
    report = run("editreward-data", file, tmp_path / "out")
    shutil.rmtree(tmp_path / "in")  # images are embedded
    groups = groups_of(tmp_path / "out")
    check_groups(groups, truth, images)
    assert {group["group_id"] for group in groups} == {f"{number:032x}" for number in range(3)}
    assert report["rows"] == {"train.json": 63} and (report["groups"], report["candidates"]) == (3, 21)
    assert report["errors"] == report["notes"] == {} and not (tmp_path / "out" / "import_faults.jsonl").exists()
    assert not (tmp_path / "out" / ".import").exists() and report["ignored_columns"] == {}
    assert len(load_groups(tmp_path / "out")) == 3


def test_a_dataset_with_embedded_images_gives_the_same_groups(tmp_path):
    _, truth, rows = published_file(tmp_path / "in")
    images = files_below(tmp_path / "in")
    renamed = {"path_src": "source_image", "path1": "image1", "path2": "image2"}
    table = [
        {renamed.get(k, k): {"bytes": images[v], "path": None} if k in renamed else v for k, v in row.items()}
        for row in rows
    ]
    image_columns = {name: datasets.Image() for name in renamed.values()}
    kept = [{k: v for k, v in row.items() if k not in ("choice_dist", "confidence")} for row in table]
    kinds = {k: datasets.Value("string" if isinstance(v, str) else "int64") for k, v in kept[0].items()}
    features = datasets.Features({**kinds, "tie_case": datasets.Value("bool"), **image_columns})
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    for number in range(4):
        part = datasets.Dataset.from_list(kept[number::4], features=features)
        part.to_parquet(folder / f"train-{number:05d}-of-00004.parquet")
    shutil.rmtree(tmp_path / "in")
    report = run("editreward-data", folder.parent, tmp_path / "out", columns=renamed)
    check_groups(groups_of(tmp_path / "out"), truth, images)
    assert report["rows"] == {"hub": 63}
    single = run("editreward-data", folder / "train-00000-of-00004.parquet", tmp_path / "one", columns=renamed)
    assert single["rows"] == {"train-00000-of-00004.parquet": len(rows[0::4])}


def test_json_lines_are_read_like_json(tmp_path):
    file, truth, rows = published_file(tmp_path / "in")
    lines = tmp_path / "in" / "train.jsonl"
    lines.write_text("\n\n".join(json.dumps(row) for row in rows))
    run("editreward-data", lines, tmp_path / "out")
    check_groups(groups_of(tmp_path / "out"), truth, files_below(tmp_path / "in"))


def test_a_candidate_with_two_scores_is_reported_with_its_rows_and_gets_none(tmp_path):
    rows = published_group(tmp_path, 0, [(4, 4), (3, 3), (2, 2)])
    rows[1] |= {"model1_dim1_score": 3, "model1_overall_score": 7}
    file = tmp_path / "train.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(ImportFault, match=r"row 1 of train.json: .*4 in row 0 .* 3 in row 1 .*--on-fault list"):
        run("editreward-data", file, tmp_path / "out")
    report = run("editreward-data", file, tmp_path / "out", on_fault="list")
    assert report["errors"] == {"contradictory-score": 1}
    (fault,) = faults_of(tmp_path / "out")
    assert (fault["severity"], fault["row"], fault["file"]) == ("error", 1, "train.json")
    (group,) = groups_of(tmp_path / "out")
    scores = [tuple(candidate["scores"].values()) for candidate in group["candidates"]]
    assert scores == [(None, 4), (3, 3), (2, 2)]


ROW_FAULTS = {
    "missing-field": {"model2_dim2_score": None},
    "wrong-type": {"model2_dim2_score": "good"},
    "score-range": {"model1_dim1_score": 5, "model1_overall_score": 9},
    "wrong-sum": {"model1_overall_score": 7},
    "wrong-order": {"model2_dim1_score": 4, "model2_dim2_score": 4, "model2_overall_score": 8, "model1_dim2_score": 3}
    | {"model1_overall_score": 7},
    "same-image": {"path2": "00000000000000000000000000000000/editor0_data_gen.png"},
    "empty-text": {"prompt": " "},
    "dimensions": {"model1_dim3_score": 3},
}


@pytest.mark.parametrize("kind", ROW_FAULTS)
def test_a_bad_row_is_left_out_and_named(tmp_path, kind):
    rows = published_group(tmp_path, 0, [(4, 4), (3, 3), (2, 2)])
    bad = rows[0] | ROW_FAULTS[kind]
    file = tmp_path / "train.json"
    file.write_text(json.dumps([*rows, bad]))
    with pytest.raises(ImportFault, match=f"row 3 of train.json: .*{kind}"):
        run("editreward-data", file, tmp_path / "out")
    report = run("editreward-data", file, tmp_path / "out", on_fault="list")
    assert report["errors"] == {kind: 1} and report["rows"] == {"train.json": 4}
    assert [(fault["kind"], fault["row"]) for fault in faults_of(tmp_path / "out")] == [(kind, 3)]
    (group,) = groups_of(tmp_path / "out")
    assert [sum(candidate["scores"].values()) for candidate in group["candidates"]] == [8, 6, 4]


def test_a_row_that_is_no_object_is_left_out_and_named(tmp_path):
    rows = published_group(tmp_path, 0, [(4, 4), (3, 3)])
    (tmp_path / "train.json").write_text(json.dumps([*rows, ["not", "an", "object"]]))
    report = run("editreward-data", tmp_path / "train.json", tmp_path / "out", on_fault="list")
    assert report["errors"] == {"broken-row": 1} and report["groups"] == 1


def test_odd_rows_that_lose_nothing_are_noted(tmp_path):
    rows = published_group(tmp_path, 0, [(4, 4), (3, 4), (2, 2)])
    tie = rows[0] | {"model1_dim1_score": 3, "model1_overall_score": 7}
    rows = [rows[1], rows[2], rows[2] | {"tie_case": True}]
    (tmp_path / "train.json").write_text(json.dumps([*rows, rows[0]]))
    report = run("editreward-data", tmp_path / "train.json", tmp_path / "out")
    assert report["errors"] == {} and report["notes"] == {"duplicate-pair": 2, "tie-case": 1}
    assert tie["model1_overall_score"] == tie["model2_overall_score"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "outside"])
def test_images_that_cannot_be_read_are_reported_and_never_replaced(tmp_path, damage):
    root = tmp_path / "in"
    rows = published_group(root, 0, [(4, 4), (3, 3), (2, 2)]) + published_group(root, 1, [(1, 1), (2, 1)])
    bad = rows[2]["path2"]
    if damage == "outside":
        (tmp_path / "secret.png").write_bytes(picture(9))
        rows = [{k: "../secret.png" if v == bad else v for k, v in row.items()} for row in rows]
        bad = "../secret.png"
    else:
        data = (root / bad).read_bytes()
        (root / bad).unlink()
        if damage != "missing":
            (root / bad).write_bytes(data[: len(data) // 2] if damage == "truncated" else b"no image")
    file = root / "train.json"
    file.write_text(json.dumps(rows))
    kind = "missing-image" if damage in ("missing", "outside") else "broken-image"
    with pytest.raises(ImportFault, match=rf"row 1 of train.json: .*'{bad}' .*{kind}"):
        run("editreward-data", file, tmp_path / "out")
    report = run("editreward-data", file, tmp_path / "out", on_fault="list")
    assert report["errors"] == {kind: 1} and (report["groups"], report["candidates"]) == (2, 4)
    assert [len(group["candidates"]) for group in groups_of(tmp_path / "out")] == [2, 2]


@pytest.mark.parametrize("path", ["sha256:../../private.png", "sha256:{folder}/private.png", "../private.png"])
def test_no_path_of_the_input_leads_out_of_the_image_folder(tmp_path, path):
    (tmp_path / "private.png").write_bytes(picture(99))
    file, _, rows = published_file(tmp_path / "in", groups=1, candidates=3)
    secret = path.format(folder=tmp_path)
    file.write_text(json.dumps([row | {"path1": secret} if row is rows[0] else row for row in rows]))
    report = run("editreward-data", file, tmp_path / "out", on_fault="list")
    assert report["errors"]["missing-image"] == 1
    assert picture(99) not in [c["image"]["bytes"] for g in groups_of(tmp_path / "out") for c in g["candidates"]]


def test_a_text_that_is_too_long_for_a_path_is_a_missing_image_and_not_repeated(tmp_path):
    file, _, rows = published_file(tmp_path / "in", groups=1, candidates=3)
    encoded = base64.b64encode(picture(1) * 10).decode()  # as some datasets hold images
    file.write_text(json.dumps([row | {"path1": encoded} if row is rows[0] else row for row in rows]))
    assert run("editreward-data", file, tmp_path / "out", on_fault="list")["errors"]["missing-image"] == 1
    (fault,) = [fault for fault in faults_of(tmp_path / "out") if fault["kind"] == "missing-image"]
    assert encoded[:20] in fault["message"] and len(fault["message"]) < 500


def test_whatever_a_decoder_raises_is_a_broken_image(tmp_path):
    """Pillow's AVIF decoder raises RuntimeError."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(out, "AVIF")
    broken = out.getvalue().replace(b"iloc", b"free")
    with pytest.raises(RuntimeError), Image.open(io.BytesIO(broken)) as image:
        image.load()
    file, _, rows = published_file(tmp_path / "in", groups=1, candidates=3)
    (tmp_path / "in" / rows[0]["path1"]).write_bytes(broken)
    report = run("editreward-data", file, tmp_path / "out", on_fault="list")
    assert report["errors"] == {"broken-image": 1}


def test_a_group_without_its_source_or_with_one_candidate_left_is_left_out_and_named(tmp_path):
    root = tmp_path / "in"
    rows = [row for n in range(3) for row in published_group(root, n, [(4, 4), (3, 3)])]
    (root / rows[0]["path_src"]).unlink()
    (root / rows[1]["path2"]).unlink()
    (root / "train.json").write_text(json.dumps(rows))
    report = run("editreward-data", root / "train.json", tmp_path / "out", on_fault="list")
    assert report["errors"] == {"incomplete-group": 1, "missing-image": 2}
    assert [group["group_id"] for group in groups_of(tmp_path / "out")] == [f"{2:032x}"]
    assert [fault["row"] for fault in faults_of(tmp_path / "out")] == [0, 1, 1]


def test_columns_that_are_not_read_are_named_in_the_report(tmp_path):
    rows = published_group(tmp_path, 0, [(4, 4), (3, 3), (2, 2)])
    rows[1] |= {"note": "checked", "confidence": 0.5}
    (tmp_path / "train.json").write_text(json.dumps(rows))
    report = run("editreward-data", tmp_path / "train.json", tmp_path / "out")
    assert report["ignored_columns"] == {"note": 1, "confidence": 1}


def test_inputs_of_the_same_name_are_told_apart(tmp_path):
    inputs = []
    for number in range(2):
        rows = published_group(tmp_path / "images", number, [(4, 4), (3, 3)])
        inputs.append(tmp_path / str(number) / "train.json")
        inputs[-1].parent.mkdir()
        inputs[-1].write_text(json.dumps([*rows, "bad"]))
    options = ImportOptions(images=tmp_path / "images", on_fault="list")
    sources = [Source(str(file)) for file in inputs]
    report = import_dataset(FORMATS["editreward-data"], sources, tmp_path / "out", options, progress=False)
    assert report["rows"] == {str(file): 2 for file in inputs} and report["groups"] == 2
    assert [fault["file"] for fault in faults_of(tmp_path / "out")] == [str(file) for file in inputs]


def test_opposite_preferences_in_rows_of_one_number_are_reported(tmp_path):
    source, first, second = (save(tmp_path, f"{name}.png", seed) for seed, name in enumerate("abc"))
    for name, paths in (("one", (first, second)), ("two", (second, first))):
        row = {"prompt": "edit", "path_src": source, "path1": paths[0], "path2": paths[1]}
        (tmp_path / f"{name}.json").write_text(json.dumps([row]))
    inputs = [Source(str(tmp_path / "one.json")), Source(str(tmp_path / "two.json"))]
    with pytest.raises(ImportFault, match="row 0 of two.json: .*opposite of that in row 0 of one.json"):
        import_dataset(FORMATS["editreward-data"], inputs, tmp_path / "out", progress=False)


def test_a_column_for_a_field_that_the_format_has_not_is_an_error(tmp_path):
    file, _, _ = published_file(tmp_path / "in", groups=1, candidates=3)
    with pytest.raises(ValueError, match="editreward-data has no field 'path_source'.*path_src"):
        run("editreward-data", file, tmp_path / "out", columns={"path_source": "source"})
    assert not (tmp_path / "out").exists()


def test_other_dimensions_are_read_by_their_names(tmp_path):
    names = ("instruction_following", "visual_quality", "consistency")
    rows = published_group(tmp_path, 0, [(4, 4), (3, 3)])
    rows[0] |= {"model1_dim3_score": 2, "model1_overall_score": 10, "model2_dim3_score": 1, "model2_overall_score": 7}
    (tmp_path / "train.json").write_text(json.dumps(rows))
    run("editreward-data", tmp_path / "train.json", tmp_path / "out", dimensions=names)
    (group,) = groups_of(tmp_path / "out")
    assert [c["scores"] for c in group["candidates"]] == [
        dict(zip(names, v, strict=True)) for v in ((4, 4, 2), (3, 3, 1))
    ]
    bench = bench_rows("aa", 2, "A>B", 1)
    bench[0] |= {"consistency_1": 3.5, "consistency_2": 1.5}
    (tmp_path / "bench").mkdir()
    import_bench(bench, tmp_path / "bench", dimensions=names)
    (group,) = groups_of(tmp_path / "bench" / "out", "test")
    assert [c["scores"]["consistency"] for c in group["candidates"]] == [3.5, 1.5]


def test_nothing_left_is_an_error(tmp_path):
    rows = published_group(tmp_path, 0, [(4, 4), (3, 3)])
    (tmp_path / "train.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="No group is left of 1 rows .*missing-image"):
        run("editreward-data", tmp_path / "train.json", tmp_path / "out", on_fault="list", images=tmp_path.parent)


def test_two_instructions_for_one_folder_make_two_groups_with_different_ids(tmp_path):
    rows = published_group(tmp_path, 0, [(4, 4), (3, 3)], "one") + published_group(
        tmp_path, 0, [(1, 1), (1, 2)], "two"
    )
    (tmp_path / "train.json").write_text(json.dumps(rows))
    run("editreward-data", tmp_path / "train.json", tmp_path / "out")
    groups = groups_of(tmp_path / "out")
    assert [(g["group_id"], g["instruction"]) for g in groups] == [(f"{0:032x}", "one"), (f"{0:032x}-2", "two")]


def test_paths_of_another_machine_are_found_below_the_image_folder(tmp_path):
    file, truth, rows = published_file(tmp_path / "in", groups=1)
    moved = [{k: f"/pfs/data/{v}" if k.startswith("path") else v for k, v in row.items()} for row in rows]
    (tmp_path / "moved.json").write_text(json.dumps(moved))
    with pytest.raises(ImportFault, match="outside of the image folder .*--strip"):
        run("editreward-data", tmp_path / "moved.json", tmp_path / "out", images=tmp_path / "in")
    options = {"images": tmp_path / "in", "strip": "/pfs/data/", "overwrite": True}
    run("editreward-data", tmp_path / "moved.json", tmp_path / "out", **options)
    check_groups(groups_of(tmp_path / "out"), truth, files_below(tmp_path / "in"))


# Reading and going on


def test_rows_are_read_as_they_come_and_a_broken_file_is_named(tmp_path):
    file = tmp_path / "cut.json"
    file.write_text('[{"a": 1.5}, {"a": "é"}, {"a"')
    rows = read_rows(Source(str(file)))
    assert [next(rows).values, next(rows).values] == [{"a": 1.5}, {"a": "é"}]
    with pytest.raises(ValueError, match="cut.json is not valid JSON after row 1"):
        next(rows)
    file.write_text('{"rows": []}')
    with pytest.raises(ValueError, match="cut.json is not a JSON list"):
        next(read_rows(Source(str(file))))
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf [{"a": 1}]')
    assert [row.values for row in read_rows(Source(str(tmp_path / "bom.json")))] == [{"a": 1}]
    with pytest.raises(FileNotFoundError, match="There is no file .*none.json"):
        next(read_rows(Source(str(tmp_path / "none.json"))))
    with pytest.raises(ValueError, match="has no split 'test'"):
        pq.write_table(pa.table({"a": [1]}), tmp_path / "train.parquet")
        next(read_rows(Source(str(tmp_path), split="test")))


def test_a_parquet_file_is_never_held_whole(tmp_path):
    noise = random.Random(0).randbytes(100_000)
    table = pa.table({"image": [noise[n:] + noise[:n] for n in range(400)]})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=20, use_dictionary=False, compression=None)
    del table
    before, most = pa.total_allocated_bytes(), 0
    for number, row in enumerate(read_rows(Source(str(tmp_path / "train.parquet")))):
        assert row.number == number and row.values["image"] == noise[number:] + noise[:number]
        most = max(most, pa.total_allocated_bytes() - before)
    assert number == 399 and (tmp_path / "train.parquet").stat().st_size > 40_000_000
    assert most < 12_000_000  # a few row groups of 2 MB


@pytest.mark.parametrize("kind", ["parquet", "arrow", "disk"])
def test_reading_goes_on_after_any_row(tmp_path, kind):
    rows = [{"n": n, "image": {"bytes": picture(n), "path": None}} for n in range(23)]
    features = datasets.Features({"n": datasets.Value("int64"), "image": datasets.Image()})
    dataset = datasets.Dataset.from_list(rows, features=features)
    folder = tmp_path / "set"
    if kind == "parquet":
        folder.mkdir()
        for number, (start, end) in enumerate([(0, 9), (9, 9), (9, 20), (20, 23)]):
            table = pa.Table.from_pylist(rows[start:end], schema=features.arrow_schema)
            pq.write_table(table, folder / f"train-{number:05d}-of-00004.parquet", row_group_size=4)
    elif kind == "disk":
        dataset.save_to_disk(folder, num_shards=3)
    else:
        dataset.save_to_disk(tmp_path / "disk", num_shards=1)
        folder.mkdir()
        (tmp_path / "disk" / "data-00000-of-00001.arrow").rename(folder / "train.arrow")
    source = Source(str(folder / "train.arrow" if kind == "arrow" else folder))
    whole, states = [], []
    for row in read_rows(source):
        whole.append((row.number, row.values))
        states.append(json.loads(json.dumps(row.state())))
    assert whole == list(enumerate(rows))
    for n, state in enumerate(states):
        assert [(row.number, row.values) for row in read_rows(source, n + 1, state)] == whole[n + 1 :]
    assert [row.number for row in read_rows(source, 20)] == [20, 21, 22]


def test_a_parquet_file_that_was_cut_off_is_named(tmp_path):
    pq.write_table(pa.table({"a": list(range(1000))}), tmp_path / "cut.parquet")
    data = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-8])
    with pytest.raises(ValueError, match="cut.parquet is not a complete Parquet file"):
        next(read_rows(Source(str(tmp_path / "cut.parquet"))))


class Stop(Exception):
    """Stands for a process that ends."""


@pytest.mark.parametrize("embedded", [False, True])
def test_an_import_that_ends_anywhere_is_continued_to_the_same_result(tmp_path, monkeypatch, embedded):
    file, _, rows = published_file(tmp_path / "in", groups=6, candidates=3)
    rows.append(rows[0])
    bad = rows[1] | {"prompt": ""}
    rows.insert(7, bad)
    if embedded:
        images = files_below(tmp_path / "in")
        table = [{k: {"bytes": images[v]} if k.startswith("path") else v for k, v in row.items()} for row in rows]
        table = [{k: v for k, v in row.items() if v is not None} for row in table]
        (tmp_path / "hub").mkdir()
        for number in range(2):
            pq.write_table(
                pa.Table.from_pylist(table[number * 10 : number * 10 + 10]), tmp_path / f"hub/{number}.parquet"
            )
        file = tmp_path / "hub"
    else:
        file.write_text(json.dumps(rows))
    monkeypatch.setattr(running, "ROWS_PER_COMMIT", 4)
    options = {"on_fault": "list", "groups_per_shard": 2}
    expected = run("editreward-data", file, tmp_path / "whole", **options)
    assert expected["notes"] == {"duplicate-pair": 1} and expected["errors"] == {"empty-text": 1}
    calls = {"_refer": running._refer, "_rows_of": running._rows_of, "write_lines": running.write_lines}
    for place, number in [
        ("_refer", 2),
        ("_refer", 9),
        ("_refer", 17),
        ("_rows_of", 0),
        ("_rows_of", 3),
        ("write_lines", 0),
    ]:
        output = tmp_path / f"{place}-{number}"
        left = [number]

        def interrupted(*args, place=place, left=left):
            if left[0] == 0:
                raise Stop
            left[0] -= 1
            return calls[place](*args)

        with monkeypatch.context() as patch:
            patch.setattr(running, place, interrupted)
            with pytest.raises(Stop):
                run("editreward-data", file, output, **options)
        assert not list((output / "data").glob("*")) or place == "write_lines"
        with monkeypatch.context() as patch:
            seen: list[int] = []

            def watched(*args, seen=seen):
                seen.append(args[0].number)
                return calls["_refer"](*args)

            patch.setattr(running, "_refer", watched)
            assert run("editreward-data", file, output, **options) == expected
            committed = {"_refer": number // 4 * 4}.get(place, len(rows))
            assert seen == list(range(committed, len(rows)))  # nothing is read again that was recorded
        assert groups_of(output) == groups_of(tmp_path / "whole")
        assert faults_of(output) == faults_of(tmp_path / "whole")
        assert sorted(path.name for path in output.iterdir()) == ["data", "import_faults.jsonl", "import_report.json"]


@pytest.mark.slow
def test_an_import_whose_process_is_killed_is_continued_to_the_same_result(tmp_path):
    file, truth, _ = published_file(tmp_path / "in", groups=40, candidates=3)
    output = tmp_path / "out"
    script = (
        "import sys, time\n"
        "from editreward.data.importers import FORMATS, Source, import_dataset, running\n"
        "whole = running._rows_of\n"
        "running._rows_of = lambda *args: time.sleep(0.05) or whole(*args)\n"  # slow enough to be caught in the middle
        "options = running.ImportOptions(groups_per_shard=4)\n"
        "import_dataset(FORMATS['editreward-data'], [Source(sys.argv[1])], sys.argv[2], options)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(file), str(output)])
    shards = output / ".import" / "shards"
    deadline = time.monotonic() + 120
    while not (shards / "00003" / "data").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(shards.glob("*/data/part-*.parquet"))) < 10 and not (output / "data").exists()
    report = run("editreward-data", file, output, groups_per_shard=4)
    assert report["groups"] == 40
    check_groups(groups_of(output), truth, files_below(tmp_path / "in"))
    run("editreward-data", file, tmp_path / "whole", groups_per_shard=4)
    assert groups_of(output) == groups_of(tmp_path / "whole")
    assert len(list((output / "data").iterdir())) == 10


def test_a_changed_input_or_option_does_not_go_on_with_another_import(tmp_path):
    file, _, rows = published_file(tmp_path / "in", groups=1, candidates=2)
    (tmp_path / "in" / rows[0]["path1"]).unlink()
    with pytest.raises(ImportFault):
        run("editreward-data", file, tmp_path / "out")
    with pytest.raises(ValueError, match="interrupted import with other settings: origin.*--overwrite"):
        run("editreward-data", file, tmp_path / "out", origin="elsewhere")
    with pytest.raises(FileNotFoundError):
        run("editreward-data", tmp_path / "typo.json", tmp_path / "typo")
    save(tmp_path / "in", rows[0]["path1"], 5)
    run("editreward-data", file, tmp_path / "typo")  # nothing was recorded that another input could spoil
    file.write_text(json.dumps(rows) + " ")
    with pytest.raises(ValueError, match="interrupted import with other settings: input"):
        run("editreward-data", file, tmp_path / "out")
    run("editreward-data", file, tmp_path / "out", overwrite=True)
    with pytest.raises(ValueError, match="holds a dataset already"):
        run("editreward-data", file, tmp_path / "out")
    (tmp_path / "out" / ".import-done" / "images").mkdir(parents=True)  # killed while it tidied up
    assert run("editreward-data", file, tmp_path / "out")["groups"] == 1
    assert not (tmp_path / "out" / ".import-done").exists()
    assert run("editreward-data", file, tmp_path / "out", overwrite=True)["groups"] == 1


# Export


@pytest.mark.parametrize("fault", ["no input", "broken input", "faulty row"])
def test_an_import_that_fails_leaves_what_it_was_to_overwrite(tmp_path, fault):
    file, _, rows = published_file(tmp_path / "in")
    run("editreward-data", file, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    other = tmp_path / "in" / "other.json"
    if fault != "no input":
        other.write_text("nonsense" if fault == "broken input" else json.dumps([rows[0] | {"path1": 3}]))
    with pytest.raises((ValueError, FileNotFoundError)):
        run("editreward-data", other, tmp_path / "out", overwrite=True)
    assert {path: path.read_bytes() for path in before} == before


def test_overwriting_leaves_nothing_of_the_dataset_before(tmp_path):
    rows = [row | {"dataset": "2pair"} for row in bench_rows("t", 2, "A>B", 0)]
    import_bench(rows + rows, tmp_path)
    out = tmp_path / "out"
    assert (out / "benchmark.jsonl").exists() and (out / "import_faults.jsonl").exists()
    file, _, _ = published_file(tmp_path / "in")
    run("editreward-data", file, out, overwrite=True, groups_per_shard=2)
    run("editreward-data", file, out, overwrite=True)
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {"data/train-00000-of-00001.parquet", "import_report.json"}
    assert len(groups_of(out)) == 3


def odd_groups() -> list[dict[str, Any]]:
    """Groups with everything that the schema allows and pairs have no place for."""

    def candidate(image_seed: int, scores: tuple[float | None, float | None], **fields: Any) -> dict[str, Any]:
        image = {"bytes": picture(image_seed, "JPEG" if image_seed % 2 else "PNG"), "path": None}
        known = {"image": image, "editor": "edit/or", "seed": None, "annotations": [], "rationale": None}
        return {**known, "scores": dict(zip(DIMENSIONS, scores, strict=True)), **fields}

    annotation = {"annotator": "ann", "instruction_following": 4.0, "visual_quality": 3.0}
    columns = {"origin": "test", "category": "add", "language": "zh", "preferences": []}
    source = [{"bytes": picture(100), "path": None}]
    preferences = [{"chosen": 1, "rejected": 0, "weight": 0.5}, {"chosen": 2, "rejected": 1, "weight": 1.0}]
    return [
        {
            **columns,
            "group_id": "a/b %20 ?",
            "instruction": "把它变红",
            "source_images": source,
            "candidates": [
                candidate(1, (2.0, 3.0), rationale="blurred", annotations=[annotation]),
                candidate(2, (4.0, 4.0), seed=7),
                candidate(3, (3.0, 2.0), editor="a_seed3"),
                candidate(4, (2 + 1 / 3, 3.5), editor=""),
            ],
        },
        {
            **columns,
            "group_id": "..",
            "instruction": "preferences and two sources",
            "source_images": source + [{"bytes": picture(101), "path": None}],
            "candidates": [candidate(5, (1.0, 1.0)), candidate(6, (None, None)), candidate(7, (1.0, None))],
            "preferences": preferences,
        },
        {
            **columns,
            "group_id": "no pair",
            "instruction": "no pair",
            "category": "",
            "source_images": source,
            "candidates": [candidate(8, (None, 2.0), editor=None), candidate(9, (None, None))],
        },
    ]


def without_names(groups: list[dict]) -> list[dict]:
    """Groups with the images' bytes only: file names are those of the export."""
    plain = json.loads(json.dumps(groups, default=lambda data: data.hex()))
    for group in plain:
        for image in [*group["source_images"], *(candidate["image"] for candidate in group["candidates"])]:
            image["path"] = None
    return plain


@pytest.mark.parametrize("by_scorer", [False, True])
def test_importing_the_export_gives_the_same_groups(by_scorer, tmp_path):
    groups = odd_groups()
    for candidate in groups[0]["candidates"] if by_scorer else ():
        candidate["rationale_by"] = candidate["rationale"] and "a judge"
    write_groups(groups, tmp_path / "groups")
    before = list(raw_groups(load_groups(tmp_path / "groups")))
    counts = export_pairs(before, tmp_path / "pairs", DIMENSIONS)
    assert counts == {"groups": 3, "candidates": 9, "pairs": 6 + 2, "ties": 1, "groups_without_pairs": 1}
    run("editreward-data", tmp_path / "pairs" / "pairs.json", tmp_path / "again")
    assert without_names(groups_of(tmp_path / "again")) == without_names(before)


def test_a_companion_that_is_named_too_is_read_once(tmp_path):
    write_groups(odd_groups(), tmp_path / "groups")
    export_pairs(raw_groups(load_groups(tmp_path / "groups")), tmp_path / "pairs")
    inputs = [Source(str(tmp_path / "pairs" / name)) for name in ("groups.jsonl", "pairs.json")]
    import_dataset(FORMATS["editreward-data"], inputs, tmp_path / "again", progress=False)
    assert len(groups_of(tmp_path / "again")) == len(odd_groups())


def test_the_pairs_alone_give_back_what_pairs_can_say(tmp_path):
    file, truth, _ = published_file(tmp_path / "in")
    images = files_below(tmp_path / "in")
    run("editreward-data", file, tmp_path / "groups")
    export_pairs(raw_groups(load_groups(tmp_path / "groups")), tmp_path / "pairs", DIMENSIONS)
    (tmp_path / "pairs" / "groups.jsonl").unlink()
    run("editreward-data", tmp_path / "pairs" / "pairs.json", tmp_path / "again")
    check_groups(groups_of(tmp_path / "again"), truth, images)
    ids = [group["group_id"] for group in groups_of(tmp_path / "again")]
    assert sorted(ids) == sorted(group["group_id"] for group in groups_of(tmp_path / "groups"))


@pytest.mark.parametrize("ties", ["once", "both", "drop"])
def test_the_export_has_every_pair_in_the_published_fields_the_preferred_image_first(tmp_path, ties):
    file, truth, rows = published_file(tmp_path / "in")
    run("editreward-data", file, tmp_path / "groups")
    counts = export_pairs(raw_groups(load_groups(tmp_path / "groups")), tmp_path / "pairs", DIMENSIONS, ties)
    exported = json.loads((tmp_path / "pairs" / "pairs.json").read_text())
    tied = [row for row in rows if row["tie_case"]]
    assert 0 < len(tied) < len(rows) == 63
    assert counts["pairs"] == len(exported) == 63 + {"once": 0, "both": len(tied), "drop": -len(tied)}[ties]
    assert [list(row) for row in exported] == [sorted(row, key=list(exported[0]).index) for row in exported]
    assert {frozenset(row) for row in exported} == {frozenset(rows[0])}

    def name(row: dict) -> tuple:
        paths = [row["path1"].split("images/")[-1], row["path2"].split("images/")[-1]]
        scores = [row[key] for key in sorted(row) if key.endswith("_score")]
        return (*(sorted(paths) if row["tie_case"] else paths), *([] if row["tie_case"] else scores), row["tie_case"])

    strict = [row for row in exported if not row["tie_case"]]
    assert sorted(map(name, strict)) == sorted(name(row) for row in rows if not row["tie_case"])
    times = {"once": 1, "both": 2, "drop": 0}[ties]
    assert sorted(name(row) for row in exported if row["tie_case"]) == sorted([name(row) for row in tied] * times)
    assert all(isinstance(row["model1_overall_score"], int) for row in exported)


def test_the_export_names_a_group_whose_image_is_missing_and_keeps_what_is_there(tmp_path):
    groups = odd_groups()
    groups[0]["candidates"][2]["image"] = None
    with pytest.raises(ValueError, match="candidate 2 of group 'a/b %20 \\?' cannot be written: there is none"):
        export_pairs(groups, tmp_path / "pairs", DIMENSIONS)
    assert not (tmp_path / "pairs" / "pairs.json").exists()
    export_pairs(odd_groups(), tmp_path / "pairs", DIMENSIONS)
    with pytest.raises(ValueError, match="has a pairs.json already"):
        export_pairs(odd_groups(), tmp_path / "pairs", DIMENSIONS)
    assert all(path.resolve().is_relative_to(tmp_path / "pairs") for path in tmp_path.rglob("*.png"))


# EditReward-Bench of TIGER-Lab


@pytest.mark.parametrize(
    "fault, message",
    [
        ({"source_images": []}, "Group 'a': there is no source image"),
        ({"preferences": [{"chosen": 0, "rejected": 9, "weight": 1.0}]}, "Group 'a': a preference names"),
        ({"preferences": [{"chosen": 0, "rejected": -1, "weight": 1.0}]}, "Group 'a': a preference names"),
    ],
)
def test_the_export_names_a_group_that_cannot_be_written(tmp_path, fault, message):
    faulty = odd_groups()[0] | {"group_id": "a"} | fault
    write_groups([faulty], tmp_path / "groups")
    with pytest.raises(ValueError, match=message):
        export_pairs(raw_groups(load_groups(tmp_path / "groups")), tmp_path / "pairs")


def test_the_export_refuses_splits_of_different_dimensions(tmp_path, capsys):
    group = odd_groups()[0]
    write_groups([group], tmp_path / "a")
    for candidate in (other := copy.deepcopy(group))["candidates"]:
        candidate["scores"], candidate["annotations"] = {"consistency": 2.0}, []
    write_groups([other], tmp_path / "b", dimensions=["consistency"])
    splits = {"train": load_groups(tmp_path / "a"), "test": load_groups(tmp_path / "b")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "groups")
    arguments = ["data", "export", str(tmp_path / "groups"), "--format", "editreward-data", "--output", "pairs"]
    assert cli.main(arguments) == 2
    assert "splits have different dimensions" in capsys.readouterr().err


def test_benchmark_rows_become_tuples_with_all_their_verdicts(tmp_path):
    rows = [
        *bench_rows("aa", 2, "B>A", 10),
        *bench_rows("bb", 2, "A=B=Good", 20),
        *bench_rows("cc", 3, "C>A>B", 30),
        *bench_rows("dd", 4, "D>B>A>C", 40),
    ]
    random.Random(0).shuffle(rows)
    report = import_bench(rows, tmp_path)
    assert report["errors"] == report["notes"] == {} and report["items"] == 4
    items = {item.item_id: item for item in read_benchmark(tmp_path / "out")}
    groups = {group["group_id"]: group for group in groups_of(tmp_path / "out", "test")}
    assert set(items) == set(groups) == {"aa", "bb", "cc", "dd"}
    for name, ranking, seed in (("aa", "B>A", 10), ("bb", "A=B", 20), ("cc", "C>A>B", 30), ("dd", "D>B>A>C", 40)):
        item, group = items[name], groups[name]
        size = len(group["candidates"])
        assert item.subset == f"{size}pair" and item.candidates == list(range(size)) and item.group_id == name
        assert [c["image"]["bytes"] for c in group["candidates"]] == [picture(seed + 1 + n) for n in range(size)]
        assert [(c["editor"], c["seed"]) for c in group["candidates"]] == [(f"model{c}", seed) for c in "ABCD"[:size]]
        place = ranking.replace("=", ">").split(">").index
        expected = [
            Comparison(a, b, "tie" if "=" in ranking else "first" if place("ABCD"[a]) < place("ABCD"[b]) else "second")
            for a, b in combinations(range(size), 2)
        ]
        assert item.comparisons == expected
        chosen = {(p["chosen"], p["rejected"]) for p in group["preferences"]}
        strict = [c for c in expected if c.verdict != "tie"]
        assert chosen == {(c.first, c.second) if c.verdict == "first" else (c.second, c.first) for c in strict}
        assert sorted(item.rows) == [n for n, row in enumerate(rows) if row["id"].startswith(name)]
    best = groups["dd"]["candidates"][3]["scores"]
    assert best == {"instruction_following": 3.75, "visual_quality": 3.75}
    assert items["bb"].details["AvsB"] == {
        **{"ranking": "A=B=Good", "score_1": 7.0, "overall_score_1": 7.0, "score_2": 7.0, "overall_score_2": 7.0}
    }
    only_shards = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(only_shards) == ["test"] and len(only_shards["test"]) == 4


def test_rows_of_the_first_release_have_no_scores_per_dimension(tmp_path):
    import_bench(bench_rows("aa", 3, "A>B>C", 1, first_release=True), tmp_path)
    (group,) = groups_of(tmp_path / "out", "test")
    assert [tuple(c["scores"].values()) for c in group["candidates"]] == [(None, None)] * 3
    assert len(group["preferences"]) == 3


def test_a_ranking_in_the_letters_of_the_row_s_own_two_images_is_understood(tmp_path):
    rows = bench_rows("aa", 3, "C>B>A", 1)
    for row in rows:
        a, b = row["comparison_type"].split("vs")
        row["ranking"] = "B>A"
    import_bench(rows, tmp_path)
    (item,) = read_benchmark(tmp_path / "out")
    assert {comparison.verdict for comparison in item.comparisons} == {"second"}


def test_duplicate_ids_that_agree_are_taken_once_and_noted(tmp_path):
    rows = bench_rows("aa", 2, "A>B", 1) * 2 + bench_rows("bb", 3, "A>B>C", 10)
    rows.append(rows[3])
    report = import_bench(rows, tmp_path)
    assert report["errors"] == {} and report["notes"] == {"duplicate-id": 2} and report["groups"] == 2
    assert [fault["row"] for fault in faults_of(tmp_path / "out")] == [1, 5]


def test_a_duplicate_id_of_other_images_is_a_tuple_of_its_own(tmp_path):
    rows = bench_rows("aa", 3, "A>B>C", 1) + bench_rows("aa", 3, "C>B>A", 50)
    random.Random(1).shuffle(rows)
    report = import_bench(rows, tmp_path)
    assert report["errors"] == {} and report["notes"] == {"duplicate-id": 1}
    items = list(read_benchmark(tmp_path / "out"))
    assert sorted(item.group_id for item in items) == ["aa", "aa-2"] and {item.item_id for item in items} == {"aa"}
    assert sorted({comparison.verdict for comparison in item.comparisons} == {"first"} for item in items) == [
        False,
        True,
    ]


def test_a_duplicate_id_with_another_verdict_on_the_same_images_is_left_out(tmp_path):
    rows = bench_rows("aa", 2, "A>B", 1) + bench_rows("aa", 2, "B>A", 1) + bench_rows("bb", 2, "A>B", 20)
    with pytest.raises(
        ImportFault, match="row 1 of rows.parquet: rows 0 and 1 have different verdicts on AvsB of 'aa'"
    ):
        import_bench(rows, tmp_path)
    report = import_bench(rows, tmp_path, on_fault="list", overwrite=True)
    assert report["errors"] == {"contradictory-verdict": 1} and report["groups"] == report["items"] == 1


@pytest.mark.parametrize(
    "kind", ["incomplete-tuple", "broken-image", "ranking", "comparison-type", "contradictory-score", "score-range"]
)
def test_faulty_tuples_are_left_out_and_named(tmp_path, kind):
    rows = bench_rows("aa", 3, "A>B>C", 1) + bench_rows("bb", 2, "A>B", 20)
    if kind == "incomplete-tuple":
        del rows[1]
    elif kind == "broken-image":
        for row in rows[:2]:
            row["candidate_1"] = {"bytes": b"broken"}
    else:
        change = {
            "ranking": {"ranking": "A>D"},
            "comparison-type": {"comparison_type": "AvsD"},
            "contradictory-score": {"visual_quality_1": 1.0},
            "score-range": {"visual_quality_1": 5.0},
        }
        rows[1] |= change[kind]
    report = import_bench(rows, tmp_path, on_fault="list")
    assert kind in report["errors"]
    groups = groups_of(tmp_path / "out", "test")
    if kind == "contradictory-score":
        assert [c["scores"]["visual_quality"] for c in groups[0]["candidates"]] == [None, 3.75, 3.25]
    else:
        assert [group["group_id"] for group in groups] == ["bb"] and report["items"] == 1
    assert all(fault["file"] == "rows.parquet" for fault in faults_of(tmp_path / "out"))


def test_verdicts_that_are_no_ranking_are_kept_and_noted(tmp_path):
    rows = bench_rows("aa", 3, "A>B>C", 1, first_release=True)
    rows[1]["ranking"] = "C>A"
    report = import_bench(rows, tmp_path)
    assert report["notes"] == {"no-ranking": 1} and report["items"] == 1


def test_the_json_form_gives_the_same_verdicts(tmp_path):
    votes = {"A>B": "2", "B>A": "2", "A<B": "2", "A=B=Good": "2", "A=B=Bad": "2", "C>A>B": "3", "D>C>A>B": "4"}
    rows = []
    for number, ranking in enumerate(votes):
        size = int(votes[ranking])
        paths = [save(tmp_path, f"{number}/{letter}.png", 10 * number + n) for n, letter in enumerate("ABCD"[:size])]
        source = save(tmp_path, f"{number}/source.png", 10 * number + 9)
        row = {"prompt": f"edit {number}", "path_src": source, "paths_generated": paths}
        rows.append(row | {"human_vote": {"ranking": ranking, "preference": ranking}})
    bad = [
        rows[0] | {"prompt": "other", "human_vote": {"ranking": "A>C"}},
        rows[0] | {"prompt": "other", "human_vote": {"ranking": "A>B>C"}},
        rows[0] | {"prompt": "other", "human_vote": None},
        rows[0] | {"prompt": "other", "paths_generated": rows[0]["paths_generated"][:1]},
        rows[6] | {"prompt": "other", "paths_generated": [*rows[6]["paths_generated"][:3], "6/missing.png"]},
    ]
    (tmp_path / "bench.json").write_text(json.dumps([*rows, rows[3], *bad]))
    report = run("editreward-bench", tmp_path / "bench.json", tmp_path / "out", on_fault="list")
    assert report["notes"] == {"duplicate-tuple": 1}
    assert report["errors"] == {"incomplete-group": 1, "missing-image": 1, "ranking": 3, "tuple-size": 1}
    items = list(read_benchmark(tmp_path / "out"))
    verdicts = [[comparison.verdict for comparison in item.comparisons] for item in items]
    assert verdicts[:5] == [["first"], ["second"], ["second"], ["tie"], ["tie"]]
    assert verdicts[5] == ["first", "second", "second"]  # A>B, C>A, C>B
    assert verdicts[6] == ["first", "second", "second", "second", "second", "second"]
    assert [item.details["ranking"] for item in items] == list(votes)


def test_every_strict_ranking_is_read_as_written():
    for size in (2, 3, 4):
        for order in permutations("ABCD"[:size]):
            ranking = parse_ranking(" > ".join(order))
            assert parse_ranking("<".join(reversed(order))) == ranking
            for first, second in combinations("ABCD"[:size], 2):
                expected = "first" if order.index(first) < order.index(second) else "second"
                assert verdict_of(ranking, first, second) == expected
    assert parse_ranking("A=B=Good") == parse_ranking("A=B=Bad") == parse_ranking("A = B") == [["A", "B"]]
    assert parse_ranking("B>A=C") == [["B"], ["A", "C"]]
    for text in ("", "A", "A>", "A>A", "A>B<C", "A>E", "good", "A>B=Good>C", "AB"):
        with pytest.raises(RowFault):
            parse_ranking(text)


# The other benchmarks


def test_editscore_bench_keeps_task_and_dimension(tmp_path):
    def row(ids: list[str], preferred: int, other: int, dimension: str, task: str = "subject-add") -> dict[str, Any]:
        images = [{"bytes": picture(preferred)}, {"bytes": picture(other)}]
        texts = {"key": ids, "instruction": "add a cat", "task_type": task, "dimension": dimension}
        return texts | {"input_image": {"bytes": picture(0)}, "output_images": images}

    rows = [
        row(["a", "b"], 1, 2, "prompt_following"),
        row(["b", "a"], 2, 1, "consistency"),
        row(["c", "a"], 3, 1, "prompt_following"),
        row(["a", "b"], 1, 2, "prompt_following"),
        row(["a", "b"], 1, 2, "overall", task="unheard_of"),
    ]
    report = import_bench(rows, tmp_path, "editscore-bench", on_fault="list")
    assert report["errors"] == {"unknown-value": 1} and report["notes"] == {"duplicate-pair": 1}
    groups = {group["group_id"]: group for group in groups_of(tmp_path / "out", "test")}
    items = list(read_benchmark(tmp_path / "out"))
    assert [(item.dimension, item.task, item.item_id) for item in items] == [
        ("prompt_following", "subject-add", "a|b|prompt_following"),
        ("prompt_following", "subject-add", "c|a|prompt_following"),
        ("consistency", "subject-add", "b|a|consistency"),
    ]
    for item, (preferred, other) in zip(items, [(1, 2), (3, 1), (2, 1)], strict=True):
        group = groups[item.group_id]
        (comparison,) = item.comparisons
        images = [group["candidates"][index]["image"]["bytes"] for index in (comparison.first, comparison.second)]
        assert images == [picture(preferred), picture(other)] and comparison.verdict == "first"
        preference = {"chosen": comparison.first, "rejected": comparison.second, "weight": 1.0}
        assert preference in group["preferences"] and group["category"] == "subject-add"
    assert len({item.group_id for item in items}) == 2  # one per dimension


def test_compass_keeps_dimension_ties_and_several_sources(tmp_path):
    for name in ("s1", "s2", "a", "b", "c"):
        save(tmp_path, f"img/{name}.png", ord(name[0]) + len(name) + ord(name[-1]))
    rows = [
        {"source_image": "img/s1.png", "winner": "img/a.png", "loser": "img/b.png", "dimension": "IA", "label": "tie"},
        {"source_image": "img/s1.png", "winner": "img/b.png", "loser": "img/c.png", "dimension": "VQ"}
        | {"label": "preference"},
        {"source_image": ["img/s1.png", "img/s2.png"], "winner": "img/c.png", "loser": "img/a.png", "dimension": "VC"}
        | {"label": "preference"},
        {"source_image": "img/s1.png", "winner": "img/c.png", "loser": "img/b.png", "dimension": "VQ"}
        | {"label": "preference"},
        {"source_image": "img/s1.png", "winner": "img/c.png", "loser": "img/b.png", "dimension": "XX", "label": "tie"},
    ]
    (tmp_path / "reward_eval.json").write_text(json.dumps([{"prompt": "edit", **row} for row in rows]))
    report = run("editreward-compass", tmp_path / "reward_eval.json", tmp_path / "out", on_fault="list")
    assert report["errors"] == {"contradictory-pair": 1, "unknown-value": 1}
    items = list(read_benchmark(tmp_path / "out"))
    assert [(item.dimension, item.comparisons[0].verdict) for item in items] == [("IA", "tie"), ("VC", "first")]
    tie, multiple = groups_of(tmp_path / "out", "test")
    assert tie["preferences"] == [] and len(tie["candidates"]) == 2
    assert len(multiple["source_images"]) == 2 and len(multiple["preferences"]) == 1


@pytest.mark.parametrize("name", ["genai-bench", "aurora-bench"])
def test_pairs_are_labelled_by_the_first_dimension_only(tmp_path, name):
    (tmp_path / "valid.json").write_text(json.dumps(pair_rows(tmp_path)))
    report = run(name, tmp_path / "valid.json", tmp_path / "out")
    assert (report["groups"], report["candidates"], report["items"]) == (2, 5, 4)
    items = list(read_benchmark(tmp_path / "out"))
    assert [item.comparisons[0].verdict for item in items] == ["first", "second", "tie", "second"]
    assert {item.subset for item in items} == {"pairwise"} and {item.benchmark for item in items} == {name}
    assert [item.rows for item in items] == [[0], [1], [2], [3]]
    first, second = groups_of(tmp_path / "out", "test")
    assert [(p["chosen"], p["rejected"]) for p in first["preferences"]] == [(0, 1), (2, 1)]
    assert [(p["chosen"], p["rejected"]) for p in second["preferences"]] == [(1, 0)]
    assert [candidate["editor"] for candidate in first["candidates"]] == ["one", "two", "two"]
    assert all(set(c["scores"].values()) == {None} for c in first["candidates"])


def test_faults_of_pairs_are_reported_and_none_is_replaced(tmp_path):
    rows = pair_rows(tmp_path)
    turned = rows[0] | {"path1": rows[0]["path2"], "path2": rows[0]["path1"]}
    rows += [
        turned | {"model1_dim1_score": 2, "model2_dim1_score": 4},  # says the same as row 0
        rows[1] | {"model1_dim1_score": 4, "model2_dim1_score": 2},  # says the opposite of row 1
        rows[3] | {"path1": "images/missing.jpg"},
        rows[3] | {"model1_dim1_score": None},
    ]
    (tmp_path / "valid.json").write_text(json.dumps(rows))
    report = run("genai-bench", tmp_path / "valid.json", tmp_path / "out", on_fault="list")
    expected = {"contradictory-pair": 1, "incomplete-pair": 1, "missing-field": 1, "missing-image": 1}
    assert report["errors"] == expected and report["notes"] == {"duplicate-pair": 1}
    assert [item.rows for item in read_benchmark(tmp_path / "out")] == [[0], [2], [3]]
    assert {(fault["kind"], fault["row"]) for fault in faults_of(tmp_path / "out")} == {
        *(("contradictory-pair", 5), ("incomplete-pair", 6), ("missing-field", 7), ("missing-image", 6)),
        ("duplicate-pair", 4),
    }


@pytest.mark.parametrize(
    ("name", "fields"),
    [("aurora-bench", ("prompt", "input", "gen")), ("imagenhub", ("instruction", "input_path", "output_path"))],
)
def test_pointwise_scores_stay_on_their_own_scale_beside_the_groups(tmp_path, name, fields):
    for seed in range(6):
        save(tmp_path, f"{seed}.png", seed)

    def row(edited: int, score: float, model: str, source: int = 0) -> dict[str, Any]:
        values = ("edit", f"{source}.png", f"{edited}.png")
        return {**dict(zip(fields, values, strict=True)), "score": score, "model": model}

    rows = [row(1, 0.5, "m1"), row(2, 0.0, "m2"), row(3, 1.0, "m1", source=5)]
    extra = [row(1, 0.5, "m1"), row(4, 0.5, "m2"), row(4, 1.0, "m2"), row(9, 0.5, "m3")]
    (tmp_path / "points.json").write_text(json.dumps(rows + extra))
    report = run(name, tmp_path / "points.json", tmp_path / "out", on_fault="list")
    assert report["notes"] == {"duplicate-edit": 1}
    assert report["errors"] == {"contradictory-score": 1, "missing-image": 1}
    groups = {group["group_id"]: group for group in groups_of(tmp_path / "out", "test")}
    found = []
    for item in read_benchmark(tmp_path / "out"):
        (index,) = item.candidates
        candidate = groups[item.group_id]["candidates"][index]
        assert item.subset == "pointwise" and item.comparisons == [] and set(candidate["scores"].values()) == {None}
        found.append((candidate["image"]["bytes"], item.score, candidate["editor"]))
    assert found == [(picture(1), 0.5, "m1"), (picture(2), 0.0, "m2"), (picture(3), 1.0, "m1")]
    assert [len(group["candidates"]) for group in groups.values()] == [2, 1]


def test_benchmark_lines_are_read_strictly(tmp_path):
    file = tmp_path / "benchmark.jsonl"
    with pytest.raises(FileNotFoundError, match="has no benchmark.jsonl"):
        next(read_benchmark(tmp_path))
    item = BenchmarkItem("b", "3pair", "t", [0, 1, 2], comparisons_of([0, 1, 2], [2, 1, 2]), group_id="g")
    verdicts = [(c.first, c.second, c.verdict) for c in item.comparisons]
    assert verdicts == [(0, 1, "second"), (0, 2, "tie"), (1, 2, "first")]
    unknown = json.dumps(json.loads(item.to_json()) | {"ranks": [2, 1, 2]})
    file.write_text(f"{item.to_json()}\n{unknown}\n")
    lines = read_benchmark(tmp_path)
    assert next(lines) == item
    with pytest.raises(ValueError, match="Line 2 of .*benchmark.jsonl is no benchmark item"):
        next(lines)


# The commands


def test_the_command_offers_every_format():
    without_format = {"own", "simulated", "open-edits"}
    assert set(FORMATS) == {"editreward-data", "editscore-reward-data", "table", *BENCHMARKS} - without_format
    assert all(format.name == name for name, format in FORMATS.items())


def test_an_input_that_cannot_be_read_leaves_no_folder_behind(tmp_path):
    arguments = ["data", "import", "--format", "editreward-data", "--output", str(tmp_path / "out"), "--input"]
    assert cli.main([*arguments, str(tmp_path / "none.json")]) == 2
    broken = tmp_path / "broken.json"
    broken.write_text("nonsense")
    assert cli.main([*arguments, str(broken)]) == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert cli.main([*arguments, str(broken)]) == 2
    assert list((tmp_path / "out").iterdir()) == []


def test_import_and_export_as_commands(tmp_path, capsys):
    file, truth, _ = published_file(tmp_path / "in")
    out, pairs = tmp_path / "out", tmp_path / "pairs"
    arguments = ["data", "import", "--format", "editreward-data", "--input", str(file), "--output", str(out)]
    assert cli.main(arguments) == 0
    assert "63 of train.json" in (text := capsys.readouterr().out) and "3 groups with 21 candidates" in text
    assert cli.main(arguments) == 2
    assert "holds a dataset already" in capsys.readouterr().err
    assert cli.main([*arguments, "--overwrite", "--column", "nonsense"]) == 2
    assert "--column takes FIELD=COLUMN" in capsys.readouterr().err
    assert cli.main([*arguments, "--overwrite", "--images", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("editreward data import: error: ") and "There is no folder" in error and "`--images`" in error
    )
    assert cli.main(["data", "export", str(out), "--format", "editreward-data", "--output", str(pairs)]) == 0
    assert "63 pairs" in capsys.readouterr().out
    assert len(json.loads((pairs / "pairs.json").read_text())) == 63
