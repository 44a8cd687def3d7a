"""Datasets of edit groups: what is written is read back, from every place and in bounded steps."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError
from PIL import Image

from editreward.data.schema import check_features, dimensions_of, encode_group, group_features
from editreward.data.sources import load_groups, raw_groups, split_names
from editreward.data.storage import GroupWriter, write_groups


def picture(seed: int, size: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def make_group(number: int, candidates: int = 3, **columns) -> dict:
    """A group of random images; `columns` replace what it has."""
    return {
        "group_id": f"g{number}",
        "origin": "made",
        "category": "recolour",
        "instruction": f"Färbe es {number} 蓝",
        "language": "de",
        "source_images": [picture(100 * number)],
        "candidates": [
            {
                "image": picture(100 * number + 1 + index),
                "editor": f"editor-{index}",
                "seed": index,
                "scores": {"instruction_following": 1.0 + index, "visual_quality": None},
                "annotations": [{"annotator": "ann", "instruction_following": 2.0, "visual_quality": 3.0}],
                "rationale": None,
            }
            for index in range(candidates)
        ],
        "preferences": [{"chosen": 1, "rejected": 0, "weight": 0.5}],
        **columns,
    }


def on_disk(group: dict, folder: Path, suffix: str) -> dict:
    """The group with its images saved as files."""
    folder.mkdir(parents=True, exist_ok=True)

    def save(image: Image.Image, name: str) -> str:
        path = folder / f"{group['group_id']}-{name}{suffix}"
        image.save(path)
        return str(path)

    return {
        **group,
        "source_images": [save(image, f"s{i}") for i, image in enumerate(group["source_images"])],
        "candidates": [{**c, "image": save(c["image"], f"c{i}")} for i, c in enumerate(group["candidates"])],
    }


def without_images(group: dict) -> dict:
    return {
        **group,
        "source_images": len(group["source_images"]),
        "candidates": [{**candidate, "image": None} for candidate in group["candidates"]],
    }


def images_of(group: dict) -> list:
    return [*group["source_images"], *(candidate["image"] for candidate in group["candidates"])]


def assert_same_groups(found, expected):
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert without_images(one) == without_images(other)
        for image, truth in zip(images_of(one), images_of(other), strict=True):
            np.testing.assert_array_equal(np.asarray(image), np.asarray(truth))


@pytest.fixture(scope="module")
def groups() -> list[dict]:
    return [make_group(number) for number in range(20)]


@pytest.fixture(scope="module")
def folder(groups, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    write_groups(groups, folder)
    return folder


def test_a_folder_gives_back_what_was_written(folder, groups):
    assert split_names(folder) == ["train"]
    dataset = load_groups(folder)
    assert dataset.features == group_features()
    assert_same_groups(dataset, groups)


def test_streaming_gives_the_same_rows(folder, groups):
    assert_same_groups(load_groups(folder, streaming=True), groups)


def test_a_parquet_file_and_a_saved_dataset_give_the_same_rows(folder, groups, tmp_path):
    [shard] = (folder / "data").glob("*.parquet")
    dataset = load_groups(shard)
    assert_same_groups(dataset, groups)
    assert_same_groups(load_groups(shard, streaming=True), groups)
    dataset.save_to_disk(tmp_path / "one")
    DatasetDict({"validation": dataset}).save_to_disk(tmp_path / "several")
    for streaming in (False, True):
        assert_same_groups(load_groups(tmp_path / "one", streaming=streaming), groups)
        assert_same_groups(load_groups(tmp_path / "several", "validation", streaming=streaming), groups)
    assert split_names(tmp_path / "one") == ["train"] and split_names(tmp_path / "several") == ["validation"]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_embedded_images_are_the_files_themselves_and_outlive_them(groups, suffix, tmp_path):
    filed = [on_disk(group, tmp_path / "images", suffix) for group in groups[:2]]
    opened = {**filed[1], "source_images": [Image.open(path) for path in filed[1]["source_images"]]}
    digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for group in filed for path in images_of(group)]
    write_groups([filed[0], opened], tmp_path / "stored")
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    stored = list(raw_groups(load_groups(tmp_path / "stored")))
    records = [record for group in stored for record in images_of(group)]
    assert [hashlib.sha256(record["bytes"]).hexdigest() for record in records] == digests
    assert all(os.sep not in record["path"] for record in records), "no folder of this machine is published"
    assert all(image.size == (16, 16) for group in load_groups(tmp_path / "stored") for image in images_of(group))


@pytest.mark.parametrize("listed", [False, True], ids=["plain", "files listed in README.md"])
def test_a_folder_that_is_written_again_or_has_the_name_of_another_is_read_anew(tmp_path, listed):
    data_files = "  data_files:\n  - split: train\n    path: data/train-*.parquet\n"
    for parent, instruction in (("a", "first"), ("b", "second"), ("a", "third")):
        folder = tmp_path / parent / "same-name"
        write_groups([make_group(0, instruction=instruction)], folder)
        if listed:
            (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n{data_files}---\n")
        assert load_groups(folder)[0]["instruction"] == instruction
        assert next(iter(load_groups(folder, streaming=True)))["instruction"] == instruction


def test_raw_rows_are_written_again_byte_for_byte(folder, tmp_path, monkeypatch, groups):
    # A file with a stored image's name in the working folder must not take that image's place.
    filed = on_disk(groups[0], tmp_path / "images", ".jpg")
    write_groups([filed], tmp_path / "one")
    raw = list(raw_groups(load_groups(tmp_path / "one")))
    monkeypatch.chdir(tmp_path)
    picture(7).save(tmp_path / raw[0]["source_images"][0]["path"])
    write_groups(raw, tmp_path / "two")
    assert list(raw_groups(load_groups(tmp_path / "two"))) == raw


def test_images_of_different_forms_may_be_mixed(tmp_path):
    picture(3).save(tmp_path / "a.png")
    png = (tmp_path / "a.png").read_bytes()
    forms = [{"bytes": png, "path": None}, picture(3), str(tmp_path / "a.png"), tmp_path / "a.png", png]
    forms.append(np.asarray(picture(3)))
    write_groups([make_group(0, source_images=forms)], tmp_path / "stored")
    [group] = load_groups(tmp_path / "stored")
    assert len(group["source_images"]) == len(forms)
    for image in group["source_images"]:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(picture(3)))


def test_shards_end_at_the_size_asked_for_and_hold_every_row(groups, tmp_path):
    shards = write_groups(groups, tmp_path, max_shard_bytes=1)
    names = [f"train-{index:05d}-of-00003.parquet" for index in range(3)]
    assert [shard.name for shard in shards] == names == sorted(os.listdir(tmp_path / "data"))
    assert [pq.ParquetFile(shard).metadata.num_rows for shard in shards] == [8, 8, 4]
    assert_same_groups(load_groups(tmp_path), groups)
    write_groups(groups[:1], tmp_path)
    assert os.listdir(tmp_path / "data") == ["train-00000-of-00001.parquet"]
    assert_same_groups(load_groups(tmp_path), groups[:1])


def test_row_groups_are_small_so_that_a_reader_holds_little(folder):
    [shard] = (folder / "data").glob("*.parquet")
    metadata = pq.ParquetFile(shard).metadata
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [8, 8, 4]


def test_splits_of_one_folder_do_not_touch_each_other(groups, tmp_path):
    write_groups(groups[:3], tmp_path, "train")
    write_groups(groups[3:5], tmp_path, "test")
    write_groups(groups[5:6], tmp_path, "train")
    assert sorted(split_names(tmp_path)) == ["test", "train"]
    assert [group["group_id"] for group in load_groups(tmp_path, "test")] == ["g3", "g4"]
    assert [group["group_id"] for group in load_groups(tmp_path, "train")] == ["g5"]


def test_a_run_that_fails_leaves_the_older_shards(groups, tmp_path):
    write_groups(groups[:3], tmp_path)

    def failing():
        yield from groups[3:15]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_groups(failing(), tmp_path, max_shard_bytes=1)
    assert os.listdir(tmp_path / "data") == ["train-00000-of-00001.parquet"]
    assert_same_groups(load_groups(tmp_path), groups[:3])
    with pytest.raises(ValueError, match="'bad'"):  # in the last batch, which is written on closing
        write_groups([make_group(0), {"group_id": "bad"}], tmp_path)
    assert os.listdir(tmp_path / "data") == ["train-00000-of-00001.parquet"]


def test_what_a_killed_run_left_is_not_read_and_goes_away(groups, tmp_path):
    write_groups(groups[:3], tmp_path)
    killed = GroupWriter(tmp_path, max_shard_bytes=1)
    for group in groups[3:15]:
        killed.write(group)
    assert len(os.listdir(tmp_path / "data")) == 3
    killed._lock.release()  # as the system does for a dead process
    assert_same_groups(load_groups(tmp_path), groups[:3])
    write_groups(groups[:2], tmp_path)
    assert os.listdir(tmp_path / "data") == ["train-00000-of-00001.parquet"]


def test_no_groups_are_an_error_that_leaves_the_older_shards(groups, tmp_path):
    write_groups(groups[:1], tmp_path)
    with pytest.raises(ValueError, match="no group to write as split 'train'"):
        write_groups([], tmp_path)
    assert_same_groups(load_groups(tmp_path), groups[:1])


def test_other_dimensions_have_their_own_columns(tmp_path):
    candidate = {"image": picture(1), "scores": {"consistency": 2.5}, "annotations": []}
    write_groups([make_group(0, candidates=0) | {"candidates": [candidate] * 2}], tmp_path, dimensions=["consistency"])
    dataset = load_groups(tmp_path)
    assert dimensions_of(dataset.features) == ["consistency"]
    assert dataset[0]["candidates"][1]["scores"] == {"consistency": 2.5}
    for wrong in ([], ["a", "a"], ["annotator"]):
        with pytest.raises(ValueError, match="dimensions"):
            group_features(wrong)


def test_what_is_left_out_inside_of_a_column_is_null_or_empty():
    group = make_group(0) | {"candidates": [{"image": b"x"}], "category": None}
    del group["preferences"]
    encoded = encode_group(group, group_features())
    assert encoded["preferences"] == [] and encoded["category"] is None
    assert encoded["candidates"] == [
        {
            "image": {"bytes": b"x", "path": None},
            "editor": None,
            "seed": None,
            "scores": {"instruction_following": None, "visual_quality": None},
            "annotations": [],
            "rationale": None,
        }
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": [{"image": b"x", "score": 3}]}, r"unknown candidates\[0\]: score"),
        ({"candidates": [{"image": b"x", "scores": {"beauty": 3}}]}, r"unknown candidates\[0\].scores: beauty"),
        ({"candidates": [{"image": 3}]}, r"candidates\[0\].image is not an image"),
        ({"candidates": {"image": b"x"}}, "candidates must be a list"),
        ({"candidates": ["a.png"]}, r"candidates\[0\] must be a mapping"),
        ({"source_images": "a.png"}, "source_images must be a list"),
        ({"source_images": ["nowhere/a.png"]}, "nowhere/a.png"),
        ({"preferences": [{"chosen": "first", "rejected": 1, "weight": 1.0}]}, r"preferences\[0\].chosen.*'first'"),
        ({"instruction": 3}, "instruction must be a string, not 3"),
        ({"candidates": [{"image": b"x", "scores": {"visual_quality": "4"}}]}, r"scores.visual_quality .* not '4'"),
        ({"extra": 1}, "unknown column extra"),
    ],
)
def test_a_row_that_does_not_fit_is_named(change, message, tmp_path):
    with pytest.raises(ValueError, match="Group 'g5' does not fit the schema: .*" + message):
        write_groups([make_group(4), make_group(5) | change], tmp_path)
    incomplete = make_group(6)
    del incomplete["instruction"], incomplete["origin"]
    with pytest.raises(ValueError, match="Group 'g6' does not fit the schema: no column instruction"):
        write_groups([incomplete], tmp_path)


def test_what_is_no_dataset_of_groups_is_told(folder, tmp_path):
    Dataset.from_dict({"group_id": ["a"], "text": ["b"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other.parquet is not a dataset of .*: no column .*candidates.*text"):
        load_groups(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other fields in candidates"):
        check_features(group_features() | {"candidates": group_features()["preferences"]}, "x")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.jsonl").write_text('{"group_id": "a"}\n')
    with pytest.raises(ValueError, match="texts holds no Parquet files"):
        load_groups(tmp_path / "texts", streaming=True)
    with pytest.raises(FileNotFoundError, match=r"missing\.parquet"):
        load_groups(tmp_path / "missing.parquet")
    with pytest.raises(FileNotFoundError, match="no folder or file .*missing. Check the path"):
        load_groups(tmp_path / "missing")
    (tmp_path / "broken.png").write_bytes(b"GIF89a")
    (tmp_path / "empty").mkdir()
    for read in (load_groups, split_names):
        with pytest.raises(
            ValueError, match=r"broken.png is not a Parquet file. A dataset is a Parquet file, a folder"
        ):
            read(tmp_path / "broken.png")
        with pytest.raises((ValueError, FileNotFoundError), match="empty holds no .* files. A dataset is a Parquet"):
            read(tmp_path / "empty")


def test_a_name_that_is_neither_here_nor_on_the_hub_is_told(monkeypatch):
    def not_there(*_, **__):
        raise DatasetNotFoundError("Dataset 'nope' doesn't exist")

    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("editreward.data.sources.get_dataset_split_names", not_there)
    with pytest.raises(FileNotFoundError, match="no folder or file nope here, and no such dataset on the Hub"):
        load_groups("nope")
    monkeypatch.setattr("editreward.data.sources.get_dataset_split_names", unreachable)
    with pytest.raises(
        ConnectionError, match="no folder or file nope here, and the Hub.* cannot be reached: no route"
    ):
        split_names("nope")


def test_splits_must_be_there_and_have_names(folder, tmp_path):
    for place in (folder, next((folder / "data").iterdir())):
        with pytest.raises(ValueError, match="no split 'test', only: train"):
            load_groups(place, "test")
    with pytest.raises(ValueError, match="name of a split"):
        GroupWriter(tmp_path, "my-split")


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_without_the_types_of_hugging_face_is_cast(folder, groups, streaming, tmp_path):
    [shard] = (folder / "data").glob("*.parquet")
    table = pq.read_table(shard)
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "plain.parquet")
    dataset = load_groups(tmp_path / "plain.parquet", streaming=streaming)
    assert dataset.features == group_features()
    assert_same_groups(dataset, groups)


def test_a_shard_that_was_cut_off_is_named(groups, tmp_path):
    shards = write_groups(groups, tmp_path, max_shard_bytes=1)
    shards[1].write_bytes(shards[1].read_bytes()[:-100])
    for place in (tmp_path, shards[1]):
        with pytest.raises(ValueError, match=r"train-00001-of-00003\.parquet is not a complete Parquet file"):
            load_groups(place)


def test_splits_of_other_columns_are_named(groups, tmp_path):
    write_groups(groups[:1], tmp_path, "test")
    write_groups([make_group(0, candidates=0)], tmp_path, "train", dimensions=["consistency"])
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet has other columns or fields than .*test-0"):
        load_groups(tmp_path)


# Streams a dataset in a process of its own and prints by how many bytes its memory grew.
STREAM = """
import resource, sys
from editreward.data.sources import load_groups, raw_groups

groups = raw_groups(load_groups(sys.argv[1], streaming=True))
next(groups)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(1 for group in groups) == 399
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units elsewhere")
def test_streaming_holds_a_few_groups_in_memory_and_not_the_file(tmp_path):
    noise = np.random.default_rng(0).bytes(500_000)
    images = ({"bytes": number.to_bytes(2, "big") + noise, "path": None} for number in range(400))
    [shard] = write_groups((make_group(i, 0, source_images=[image]) for i, image in enumerate(images)), tmp_path)
    assert shard.stat().st_size > 190e6
    found = subprocess.run([sys.executable, "-c", STREAM, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 0.5 * shard.stat().st_size


def test_what_a_row_leaves_out_is_filled_in(tmp_path):
    rows = [
        {"instruction": text, "source_images": [picture(0)], "candidates": [{"image": picture(number)}]}
        for number, text in enumerate(["make it red", "变蓝"])
    ]
    rows[1]["candidates"][0]["editor"] = "mine"
    rows.append({**rows[0], "group_id": "own", "origin": None, "category": "add"})
    write_groups(rows, tmp_path, "test")
    found = list(load_groups(tmp_path, "test").remove_columns(["source_images"]))
    assert [(row["group_id"], row["origin"], row["category"], row["language"]) for row in found] == [
        ("test-000000", "unknown", "unknown", "en"),
        ("test-000001", "unknown", "unknown", "zh"),
        ("own", None, "add", "en"),
    ]
    assert [row["candidates"][0]["editor"] for row in found] == ["unknown", "mine", "unknown"]
    assert found[0]["candidates"][0]["scores"] == {"instruction_following": None, "visual_quality": None}
    with pytest.raises(ValueError, match="Group 'test-000000' does not fit the schema: no column source_images"):
        write_groups([{"instruction": "x", "candidates": []}], tmp_path, "test")


@pytest.mark.parametrize("as_tensor", [False, True])
def test_arrays_of_floats_are_stored_as_they_are_scored(as_tensor, tmp_path):
    import torch

    pixels = np.asarray(picture(1))
    floats = (pixels / 255).astype(np.float32)
    image = torch.from_numpy(floats).permute(2, 0, 1) if as_tensor else floats
    row = {"instruction": "x", "source_images": [image], "candidates": [{"image": image}]}
    write_groups([row], tmp_path)
    (found,) = load_groups(tmp_path)
    assert np.array_equal(np.asarray(found["candidates"][0]["image"]), pixels)
    row["candidates"] = [{"image": image * 7}]
    with pytest.raises(
        ValueError, match=r"candidates\[0\].image is not an image: the array holds floats from .* to 7"
    ):
        write_groups([row], tmp_path)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_arrays_of_other_integers_are_stored_as_they_are_scored(as_tensor, tmp_path):
    import torch

    pixels = np.asarray(picture(1))
    integers = pixels.astype(np.int32) if as_tensor else pixels.astype(np.uint16) * 257
    image = torch.from_numpy(integers).permute(2, 0, 1) if as_tensor else integers
    row = {"instruction": "x", "source_images": [image], "candidates": [{"image": image}]}
    write_groups([row], tmp_path)
    (found,) = load_groups(tmp_path)
    assert np.array_equal(np.asarray(found["candidates"][0]["image"]), pixels)


def test_a_second_writer_of_a_split_is_told(groups, tmp_path):
    with GroupWriter(tmp_path) as first:
        first.write(groups[0])
        with pytest.raises(ValueError, match="Another run is writing"):
            write_groups(groups[:1], tmp_path)
        write_groups(groups[:1], tmp_path, "test")
    assert_same_groups(load_groups(tmp_path), groups[:1])
    assert not list((tmp_path / "data").glob(".*"))
