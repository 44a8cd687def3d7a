"""What the Space is made of: what strangers send is read within limits, shown escaped, and never costs others."""

import asyncio
import base64
import csv
import io
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import types
import unicodedata
import zipfile
import zlib
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import httpx
import huggingface_hub
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.responses import JSONResponse

from editreward.data.storage import write_groups
from editreward.data.tables import FORMULA_STARTS
from editreward.groups import EditGroup, GroupScores, Unscored
from editreward.reports.text import percent
from editreward.scorers.reward_model import EditRewardScorer
from editreward.serving.sharing import SharedScorer
from editreward_space import batch as batching
from editreward_space import pages, tables
from editreward_space.batch import BatchProgress, BestEdits, run_batch, texts, write_files
from editreward_space.images import NamedImage, checked_image, data_uri, read_upload, shown
from editreward_space.quota import BLOCK, Quota, UploadQuota
from editreward_space.scratch import Scratch
from editreward_space.service import Service, Upload, on_zero_gpu
from editreward_space.settings import MEGABYTE, InputError, Settings
from editreward_space.tables import BatchItem, ImageArchive, TableRow, read_table, table_items

SPACE = Path(__file__).parents[2] / "space"

NASTY = '<img src=x onerror="alert(1)"></p><script>alert(2)</script> ${alert(3)} {{4}} & \' "'
BLANKS = (" ", "\u00a0", "\u200b", "\u3000", "\ufeff", "\u2060", "\u00ad", "\u202e", "\x7f", " \u200b \u200b")
SETTINGS = Settings(max_image_mb=1, max_batch_mb=3, max_rows=50)


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def named(seed: int, name: str = "") -> NamedImage:
    return checked_image(picture(seed), name or f"{seed}.png", SETTINGS)


def make_group(seed: int, edits: int = 2, instruction: str = "paint it red") -> Upload:
    return Upload([named(seed)], [named(seed + 1 + edit) for edit in range(edits)], instruction)


@pytest.fixture(scope="module")
def scorer(random_model_dir: Path) -> EditRewardScorer:
    return EditRewardScorer.from_pretrained(random_model_dir, device="cpu")


@pytest.fixture
def service(scorer: EditRewardScorer) -> Service:
    return Service(scorer, SETTINGS)


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


# Settings


def test_settings_come_from_the_environment_and_a_wrong_one_is_named():
    settings = Settings.from_environment({"EDITREWARD_SPACE_MODEL": "org/model", "EDITREWARD_SPACE_MAX_ROWS": "7"})
    assert (settings.model, settings.max_rows, settings.max_queue) == ("org/model", 7, Settings().max_queue)
    for wrong in ("0", "-1", "many", "1.5"):
        with pytest.raises(ValueError, match="EDITREWARD_SPACE_MAX_ROWS"):
            Settings.from_environment({"EDITREWARD_SPACE_MAX_ROWS": wrong})


# Sharing one model


def test_groups_that_wait_are_scored_in_one_batch_with_the_scores_they_get_alone(scorer):
    started, go, sizes = threading.Event(), threading.Event(), []

    def score(groups):
        sizes.append(len(groups))
        if len(sizes) == 1:
            started.set()
            assert go.wait(60)
        return scorer(groups)

    shared = SharedScorer(score, max_groups=4)
    inputs = [
        EditGroup([picture(10 * user)], "paint it red", [picture(10 * user + edit) for edit in (1, 2)])
        for user in range(6)
    ]
    found: dict[int, list] = {}
    users = [
        threading.Thread(target=lambda user=user: found.update({user: shared([inputs[user]])})) for user in range(6)
    ]
    users[0].start()
    assert started.wait(60)
    for user in users[1:]:
        user.start()
    while len(shared._waiting) < 6:
        time.sleep(0.01)
    go.set()
    for user in users:
        user.join()
    assert sizes == [1, 4, 1]
    for user, one in enumerate(inputs):
        (result,) = found[user]
        (expected,) = scorer([one])
        assert [s.reward for s in result.scores] == pytest.approx([s.reward for s in expected.scores], abs=1e-5)


def test_a_group_that_cannot_be_scored_costs_the_callers_other_groups_nothing(scorer):
    good = EditGroup([picture(0)], "paint it red", [picture(1)])
    results = SharedScorer(scorer)([good, EditGroup([picture(0)], "paint it red", [b"no image"])])
    assert isinstance(results[0], GroupScores)
    assert isinstance(results[1], Unscored) and results[1].reason.startswith("edited[0] is not an image")


def test_a_failing_call_is_the_callers_alone():
    calls = []

    def score(groups):
        calls.append([group.instruction for group in groups])
        if "bad" in calls[-1]:
            raise RuntimeError("out of quota")
        return [GroupScores(()) for _ in groups]

    shared = SharedScorer(score)
    shared._waiting.append(waiting := types.SimpleNamespace(group=EditGroup([], "other", []), result=None))
    with pytest.raises(RuntimeError, match="quota"):
        shared([EditGroup([], "bad", [])])
    assert calls == [["bad", "other"]] and waiting.result is None and shared._waiting == [waiting]
    assert shared([EditGroup([], "good", [])]) and waiting.result is not None and not shared._waiting


def test_who_waits_too_long_is_told_and_leaves_the_line():
    shared = SharedScorer(lambda groups: [])
    with shared._free, pytest.raises(TimeoutError, match="busy"):
        shared([EditGroup([], "late", [])], timeout=0.01)
    assert not shared._waiting


def test_on_zero_gpu_the_scorer_is_called_on_the_lent_gpu(monkeypatch):
    assert on_zero_gpu(len) is len
    module = types.ModuleType("spaces")
    module.GPU = lambda function: lambda *arguments: ("on the GPU", function(*arguments))
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "spaces", module)
    assert on_zero_gpu(len)([1, 2]) == ("on the GPU", 2)


# Images


def header_only(width: int, height: int) -> bytes:
    """A PNG that declares many pixels and holds none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not an image"),
        (b"plain text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "not an image"),
        (header_only(7000, 7000), "7000 x 7000 pixels"),
        (header_only(60_000, 60_000), "megapixels"),
        (picture(0) + bytes(MEGABYTE), "larger than 1 MB"),
    ],
)
def test_files_outside_the_limits_are_refused_by_name_before_they_are_decoded(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(InputError, match=f"odd.png .*{message}"):
        read_upload(tmp_path / "odd.png", SETTINGS)


def test_a_damaged_image_is_named_on_the_page_and_in_a_batch(service):
    damaged = checked_image(picture(0)[:200], "damaged.png", SETTINGS)
    with pytest.raises(InputError, match="damaged.png"):
        shown(damaged)
    with pytest.raises(InputError, match="^damaged.png"):
        service.rank(Upload([named(0)], [named(1), damaged], "paint it red"))


@pytest.mark.parametrize(
    "group, message",
    [
        (Upload([], [named(1)], "a"), "no source"),
        (Upload([named(0)], [], "a"), "no edited"),
        (Upload([named(0)], [named(1)], " "), "instruction is empty"),
        (Upload([named(0)] * 5, [named(1)], "a"), "5 source images"),
        (Upload([named(0)], [named(1)] * 17, "a"), "17 edited images"),
        (Upload([named(0)], [named(1)], "a" * 2001), "2000 characters"),
        (Upload([named(0)], [NamedImage("big.png", b"", 170_000_000)], "a"), "170 megapixels together"),
    ],
)
def test_groups_outside_the_limits_are_refused(service, group, message):
    with pytest.raises(InputError, match=message):
        service.rank(group)


# Archives


def test_a_file_in_a_folder_of_the_archive_is_pointed_at(tmp_path):
    path = make_zip(tmp_path / "images.zip", {"images/a.png": picture(1)})
    with ImageArchive(path, SETTINGS) as archive:
        with pytest.raises(InputError, match=r"^a.png is not in images.zip, which has images/a.png\.$"):
            archive.read("a.png")
        with pytest.raises(InputError, match=r"^b.png is not in images.zip\.$"):
            archive.read("b.png")


def test_names_in_an_archive_or_table_reach_no_file_outside(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(0))
    evil = ("../evil.png", "/evil.png", "..\\evil.png", "a/../../evil.png")
    path = make_zip(tmp_path / "images.zip", {name: picture(1) for name in evil} | {"./good.png": picture(2)})
    before = sorted(tmp_path.rglob("*"))
    with ImageArchive(path, SETTINGS) as archive:
        for name in ("../secret.png", str(secret), "file://" + str(secret), "secret.png", "/etc/passwd"):
            with pytest.raises(InputError, match="is not in images.zip"):
                archive.read(name)
        assert [archive.read(name) for name in evil] == [picture(1)] * 4  # read as they are called, written nowhere
        assert archive.read("good.png") == picture(2)
    assert sorted(tmp_path.rglob("*")) == before and not Path("/evil.png").exists()


def test_a_zip_bomb_is_unpacked_no_further_than_the_limits(tmp_path):
    path = make_zip(
        tmp_path / "bomb.zip", {"bomb.png": bytes(64 * MEGABYTE)} | {f"{i}": bytes(900_000) for i in range(4)}
    )
    content = path.read_bytes()
    lying = content.replace((64 * MEGABYTE).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != content
    (tmp_path / "lying.zip").write_bytes(lying)
    with ImageArchive(path, SETTINGS) as archive:
        with pytest.raises(InputError, match="larger than 1 MB"):
            archive.read("bomb.png")
        with pytest.raises(InputError, match="more than 3 MB"):
            for name in range(4):
                archive.read(str(name))
    with ImageArchive(tmp_path / "lying.zip", SETTINGS) as archive, pytest.raises(InputError, match="damaged|larger"):
        archive.read("bomb.png")


def test_archives_that_cannot_be_used_say_why(tmp_path, monkeypatch):
    (tmp_path / "no.zip").write_bytes(b"no archive")
    with pytest.raises(InputError, match="no.zip is not a ZIP file"):
        ImageArchive(tmp_path / "no.zip", SETTINGS)
    path = make_zip(tmp_path / "images.zip", {"a.png": picture(0)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1  # marked as encrypted, in both places
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    with ImageArchive(tmp_path / "locked.zip", SETTINGS) as archive, pytest.raises(InputError, match="encrypted"):
        archive.read("a.png")
    (tmp_path / "zip64.zip").write_bytes(path.read_bytes()[:-22] + b"PK\x06\x07" + bytes(16) + path.read_bytes()[-22:])
    with pytest.raises(InputError, match="ZIP64"):
        ImageArchive(tmp_path / "zip64.zip", SETTINGS)
    monkeypatch.setattr(tables, "MAX_DIRECTORY_MB", 0)
    with pytest.raises(InputError, match="too many files"):
        ImageArchive(path, SETTINGS)


# Tables


def test_a_csv_and_a_jsonl_of_the_same_groups_are_read_alike(tmp_path):
    (tmp_path / "a.csv").write_text(
        "\ufeffinstruction,source,source_2,edited,edited_2,id,else\r\n"
        '"paint, it ""red""",a.png,b.png,c.png,d.png,one,1\r\nmake 它 blue,a.png,,c.png,,,\r\nshort,a.png\r\n',
        encoding="utf-8",
    )
    lines = [
        {"id": "one", "instruction": 'paint, it "red"', "source": ["a.png", "b.png"], "edited": ["c.png", "d.png"]},
        {"instruction": "make 它 blue", "source": "a.png", "edited": "c.png"},
        {"instruction": "short", "source": "a.png", "edited": []},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    rows = read_table(tmp_path / "a.csv", SETTINGS)
    assert rows == read_table(tmp_path / "a.jsonl", SETTINGS)
    assert rows[0] == TableRow("one", 'paint, it "red"', ["a.png", "b.png"], ["c.png", "d.png"])
    assert [row.name for row in rows] == ["one", "2", "3"]


def test_cells_beyond_the_columns_are_told_and_not_dropped(tmp_path):
    rows = "make it red, then blue,a.png,b.png\nmake it red,a.png,b.png,,\n"
    (tmp_path / "a.csv").write_text("instruction,source,edited2\n" + rows)
    bad, good = read_table(tmp_path / "a.csv", SETTINGS)
    assert isinstance(bad, str) and "more cells" in bad
    assert good == TableRow("2", "make it red", ["a.png"], ["b.png"])


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '{"instruction": 1, "source": "a", "edited": "b"}', '{"instruction": "a", "source": "a"}',
     '{"instruction": "a", "source": [1], "edited": "b"}', "[" * 100_000,
     '{"instruction": "\\ud800", "source": "a", "edited": "b"}'],
)  # fmt: skip
def test_a_bad_line_is_told_and_costs_the_others_nothing(line, tmp_path):
    good = '{"instruction": "a", "source": "a", "edited": "b"}'
    (tmp_path / "a.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    first, bad, last = read_table(tmp_path / "a.jsonl", SETTINGS)
    assert isinstance(bad, str) and bad.startswith("This row (line 2)") or bad.startswith("In this row (line 2)")
    assert (first.sources, last.name) == (["a"], "3")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", b"instruction,edited\na,b\n", "no column `source`, only: instruction, edited"),
        ("a.csv", b"a;b\nc;d\n", "no column `instruction` and no column `source` and no column `edited`, only: a, b"),
        ("a.csv", b"instruction,source,edited,edited\na,b,c,d\n", "more than one column `edited`"),
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv", b"instruction,source,edited\n", "has no rows"),
        ("a.csv", b"instruction,source,edited\n\xff\xfe,a,b\n", "UTF-8"),
        ("a.csv", b"instruction,source,edited\n" + b"a,b,c\n" * 51, "51 rows; at most 50"),
        ("a.jsonl", b"{}\n" * 51, "51 rows; at most 50"),
        ("a.txt", b"a", "neither"),
    ],
)
def test_tables_that_cannot_be_used_say_why(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / name, SETTINGS)


@pytest.mark.parametrize(
    "content",
    [
        "instruction,source,edited\nmets un béret,a.png,b.png\n".encode("utf-16"),
        "instruction;source;edited\nmets un béret;a.png;b.png\n".encode(),
        "sep=\t\r\nInstruction\tSOURCE\tedited_1\r\nmets un béret\ta.png \tb.png\r\n\t\t\r\n".encode(),
    ],
)
def test_tables_of_other_programs_are_read(content, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    assert read_table(tmp_path / "a.csv", SETTINGS) == [TableRow("1", "mets un béret", ["a.png"], ["b.png"])]


def test_a_quote_that_is_left_open_costs_its_own_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'instruction,source,edited\nfine,a,b\n"a' + b"x" * 200_000)
    first, *others = read_table(tmp_path / "a.csv", SETTINGS)
    assert first == TableRow("1", "fine", ["a"], ["b"])
    assert others and all(isinstance(row, str) and "line 3" in row for row in others[:1])


def test_names_in_an_archive_are_found_however_they_are_spelled(tmp_path):
    path = make_zip(tmp_path / "images.zip", {unicodedata.normalize("NFD", "café.png"): picture(0)})
    with ImageArchive(path, SETTINGS) as archive:
        assert archive.read("café.png") == picture(0)
    for encoding in ("utf-8", "cp1252"):  # of programs that do not say which
        stored = "café.png".encode(encoding)
        with zipfile.ZipFile(path, "w") as archive_file:
            archive_file.writestr("x" * len(stored), picture(1))
        path.write_bytes(path.read_bytes().replace(b"x" * len(stored), stored))
        with ImageArchive(path, SETTINGS) as archive:
            assert archive.read("café.png") == picture(1), encoding


# Datasets


def stored(seed: int) -> dict:
    return {"bytes": picture(seed), "path": None}


def dataset_row(name: str, source: dict) -> dict:
    candidate = {"editor": "e", "seed": 0, "scores": None, "annotations": [], "rationale": None}
    return {
        "group_id": name,
        "origin": "o",
        "category": "c",
        "instruction": "paint it red",
        "language": "en",
        "source_images": [source],
        "candidates": [{**candidate, "image": stored(1)}, {**candidate, "image": stored(2)}],
        "preferences": [],
    }


def test_a_dataset_is_read_by_bytes_only_and_no_further_than_the_limit(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(9))
    (shard,) = write_groups([dataset_row(str(number), stored(0)) for number in range(5)], tmp_path / "groups")
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[1]["source_images"] = [{"bytes": None, "path": str(secret)}]
    rows[2]["source_images"] = [{"bytes": None, "path": "http://169.254.169.254/"}]
    pq.write_table(table.from_pylist(rows, schema=table.schema), shard)
    items = list(tables._dataset_items([pq.ParquetFile(shard)], Settings(max_rows=4)))
    assert [item.name for item in items] == ["0", "1", "2", "3"]
    assert ["not embedded" in item.error for item in items] == [False, True, True, False]
    assert items[0].group.sources[0].content == picture(0) and len(items[0].group.edited) == 2


def test_of_a_large_dataset_no_more_files_are_opened_than_rows_are_scored(tmp_path, monkeypatch):
    rows = [dataset_row(str(number), stored(0)) for number in range(3)]
    paths = [f"datasets/org/x/data/train-{number:05}-of-01000.parquet" for number in range(1000)]
    (shard,) = write_groups(rows, tmp_path / "groups")
    opened = []

    class Files:
        def __init__(self, **options):
            assert options["token"] is False

        def find(self, name):
            return ["datasets/org/x/README.md", *paths]

        def open(self, path):
            opened.append(path)
            return shard.open("rb")

    monkeypatch.setattr(huggingface_hub, "HfFileSystem", Files)
    total, items = tables.dataset_items("org/x", "train", Settings(max_rows=5))
    assert [item.name for item in items] == ["0", "1", "2", "0", "1"]
    assert total > 5 and opened == paths[:2]
    total, items = tables.dataset_items("org/x", "train", Settings(max_rows=3000))
    assert total == 3000


@pytest.mark.parametrize(
    "name", ["/etc", "..", "../x", "a/../b", "org", "org/name/x", "./space", "http://h/x", "a b/c", ""]
)
def test_only_ids_of_datasets_are_looked_up(name):
    with pytest.raises(InputError, match="is not the id"):
        tables.dataset_items(name, "train", SETTINGS)


# Batches


def batch_items(names: list[str]) -> list[BatchItem]:
    return [
        BatchItem(name, "", None, "no such file") if name == "bad" else BatchItem(name, "i", make_group(10 * place))
        for place, name in enumerate(names)
    ]


def test_a_bad_row_costs_the_others_nothing_and_scores_are_the_scorers(service, scorer):
    items = batch_items(["a", "bad", "b", *"cdefgh", "bad", "i"])
    seen = list(run_batch(service, items, len(items), threading.Event()))
    last = seen[-1]
    assert [progress.done for progress in seen] == [0, 8, 11, 11] and last.finished and not last.note
    assert last.errors == 2 and [row["error"] for row in last.rows if row["group"] == "bad"] == ["no such file"] * 2
    for item in items:
        rows = [row for row in last.rows if row["group"] == item.name]
        if item.group:
            edited = [image.content for image in item.group.edited]
            best = scorer.best_of(item.group.sources[0].content, edited, item.group.instruction)
            assert [row["reward"] for row in rows] == pytest.approx([s.reward for s in best.scores], abs=1e-5)
            assert [row["rank"] for row in rows] == best.ranks
            assert [row["probability_best"] for row in rows] == pytest.approx(best.probabilities, abs=1e-5)


def test_a_batch_that_is_cancelled_or_out_of_time_keeps_what_it_has(service, scorer):
    items = batch_items([str(number) for number in range(20)])
    cancelled = threading.Event()
    for progress in run_batch(service, iter(items), 20, cancelled):
        if progress.done:
            cancelled.set()
    assert progress.finished and progress.done == 8 and len(progress.rows) == 16
    assert "Cancelled after 8 of 20" in progress.note
    *_, last = run_batch(service, iter(items), 20, cancelled)
    assert last.finished and last.done == 0 and "Cancelled after 0 of 20" in last.note
    hurried = Service(scorer, Settings(batch_seconds=0))
    *_, last = run_batch(hurried, iter(items), 20, threading.Event())
    assert last.finished and last.done == 8 and "limit of 0 seconds" in last.note

    def broken():
        yield from items[:9]
        raise InputError("the dataset cannot be read on")

    *_, last = run_batch(service, broken(), 20, threading.Event())
    assert last.finished and last.done == 8 and "cannot be read on" in last.note


def test_the_rows_of_a_table_come_with_their_images_or_with_what_is_wrong(tmp_path, service):
    path = make_zip(tmp_path / "images.zip", {"a.png": picture(0), "b.png": picture(1), "c.txt": b"text"})
    rows = [TableRow("1", "i", ["a.png"], ["b.png"]), "This line is bad.", TableRow("3", "i", ["a.png"], ["c.txt"])]
    rows += [TableRow("4", "i", ["a.png"], ["b.png"] * 99), TableRow("5", "i", ["x/a.png"], ["b.png"])]
    with ImageArchive(path, SETTINGS) as archive:
        items = list(table_items(rows, archive))
    *_, last = run_batch(service, items, 5, threading.Event())
    errors = [row["error"] for row in last.rows]
    assert errors[0] == "" and errors[1] == "This line is bad." and "c.txt is not an image" in errors[2]
    assert "at most 16" in errors[3] and errors[4] == "x/a.png is not in images.zip, which has a.png."


def test_a_bomb_that_many_rows_name_is_decoded_no_further_than_the_limit(tmp_path, scorer, monkeypatch):
    content = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(content, "PNG")
    path = make_zip(tmp_path / "images.zip", {"bomb.png": content.getvalue()})
    limited = Service(scorer, Settings(max_batch_megapixels=20))
    rows = [TableRow(str(number), "i", ["bomb.png"], ["bomb.png"]) for number in range(400)]
    seen = []
    monkeypatch.setattr(limited, "rank_all", lambda groups: seen.extend(groups) or scorer([g.group for g in groups]))
    with ImageArchive(path, limited.settings) as archive:
        *_, last = run_batch(limited, table_items(rows, archive), 400, threading.Event())
    assert last.finished and last.done == len(seen) == 8 and len(last.rows) == 8
    assert last.note.startswith("Stopped at the limit of 20 megapixels, after 8 of 400 groups.")


def test_large_images_are_scored_few_at_a_time():
    huge = NamedImage("a.png", b"", 60_000_000)
    items = [BatchItem(str(number), "i", Upload([huge], [huge], "i")) for number in range(5)]
    assert [len(chunk) for chunk in batching.chunks(items)] == [2, 2, 1]


def test_the_best_edits_of_a_batch_are_the_best_and_come_with_pictures(service, monkeypatch):
    monkeypatch.setattr(batching, "MOST_SHOWN", 3)
    items = batch_items(["a", "bad", "b", *"cdefgh"])
    best = BestEdits()
    *_, last = run_batch(service, items, len(items), threading.Event(), best=best)
    rows = sorted((row for row in last.rows if not row["error"]), key=lambda row: -row["reward"])
    leaders = [row for row in rows if row["rank"] == 1][:3]
    expected = [row for row in rows if row in rows[:3] or row in leaders]
    found = best.edits()
    assert [(edit.group, edit.name, edit.reward) for edit in found] == [
        (row["group"], row["edited"], row["reward"]) for row in expected
    ]
    assert [edit.leads for edit in found] == [row["rank"] == 1 for row in expected]
    of = {(item.name, image.name): image for item in items if item.group for image in item.group.edited}
    for edit in found:
        assert edit.picture == data_uri(shown(of[edit.group, edit.name]))  # small already
    page = Reader(pages.batch_page(last, service.scorer.dimensions, False, found))
    tiles = [attributes for tag, attributes in page.elements if attributes.get("class") == "er-tile"]
    assert [tile["data-leads"] for tile in tiles] == [str(int(edit.leads)) for edit in found]
    assert [attributes["max"] for tag, attributes in page.elements if attributes.get("type") == "number"] == [
        str(len(found))
    ]


def test_a_large_image_becomes_a_small_picture():
    content = io.BytesIO()
    Image.new("RGB", (3000, 1500), "red").save(content, "JPEG")
    uri = batching.thumbnail(checked_image(content.getvalue(), "a.jpg", SETTINGS))
    small = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert small.size == (200, 100) and np.abs(np.asarray(small.convert("RGB"))[50, 50] - [254, 0, 0]).max() < 8


def tiff_that_is_a_film() -> bytes:
    """A TIFF of 30 x 20 pixels which is a FLI film of 132 megapixels to Pillow where that looks for films first."""
    pixels, place = bytes([200]) * 1800, 0x1AF11  # where the tags are; the same bytes mark a FLI of one frame
    tags = [(256, 3, 1, 30), (257, 3, 1, 20), (258, 3, 3, 128 + 1800), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 128), (277, 3, 1, 3), (278, 3, 1, 20), (279, 4, 1, 1800)]
    header = struct.pack("<2sHIHHHH", b"II", 42, place, 12_000, 11_000, 8, 0).ljust(128, b"\0")
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return (header + pixels + struct.pack("<HHH", 8, 8, 8)).ljust(place, b"\0") + directory


def test_a_file_is_to_the_check_what_it_is_to_the_scorer(service):
    content = tiff_that_is_a_film()
    with Image.open(io.BytesIO(content), formats=["FLI"]) as film:
        assert (film.format, film.size) == ("FLI", (12_000, 11_000))
    image = checked_image(content, "a.tif", SETTINGS)
    assert image.pixels == 600 and shown(image).getpixel((29, 19)) == (200, 200, 200)
    assert service.rank(Upload([named(0)], [image, named(1)], "paint it red")).scores


def test_texts_cannot_act_as_formulas_in_the_csv_and_stay_as_they_are_in_the_parquet(tmp_path):
    starts = [blank + start for blank in ("", *BLANKS) for start in FORMULA_STARTS]
    evil = [start + "cmd|' /C calc'!A0" for start in starts]
    empty = {"rank": 1, "quality": -1.5, "reward": -2.5}
    rows = [{"group": text, "instruction": text, "edited": text, **empty, "error": text} for text in evil]
    for path in write_files(rows, tmp_path):
        assert Path(path).is_file()
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    for row, text in zip(written, evil, strict=True):
        assert [row[name] for name in texts(rows)] == ["'" + text] * 4
        assert (row["quality"], row["reward"]) == ("-1.5", "-2.5")
    assert pd.read_parquet(tmp_path / "scores.parquet")["edited"].tolist() == evil


# Pages


class Reader(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def all_pages(service: Service) -> dict[str, str]:
    group = make_group(0, 2, NASTY)
    best = service.rank(group)
    images = [shown(image) for image in group.edited]
    rows = [{"group": NASTY, "instruction": NASTY, "edited": NASTY, "error": NASTY}]
    dimensions = service.describe()["dimensions"]
    scored = [{**rows[0], "error": "", **dict.fromkeys(dimensions, score)} for score in (1.0, 2.5, 9.0)]
    rows[0] |= dict.fromkeys(dimensions)
    return {
        "rank": pages.ranking_page([images[0]], [NASTY, NASTY], images, NASTY, best),
        "compare": pages.comparison_page([NASTY, NASTY], images, service.comparison([NASTY, NASTY], best), best),
        "batch": pages.batch_page(BatchProgress(4, 4, rows + scored, True, NASTY), dimensions, True),
        "problem": pages.problem(InputError(NASTY)),
        "note": pages.model_note({"model": NASTY, "notes": [NASTY]}),
    }


def test_what_users_write_is_text_on_every_page(service):
    for name, page in all_pages(service).items():
        read = Reader(page)
        assert NASTY in read.text, name
        for tag, attributes in read.elements:
            assert tag != "script" and not any(attribute.startswith("on") for attribute in attributes), name
            assert tag != "img" or attributes.get("src", "data:image/webp").startswith("data:image/webp"), name


def test_images_inputs_and_figures_are_named_and_scores_are_in_figures(service):
    found = all_pages(service)
    for page in found.values():
        for tag, attributes in Reader(page).elements:
            if tag == "img":
                assert attributes.get("alt")
            if tag in ("input", "progress") or attributes.get("role") == "img":
                assert attributes.get("aria-label")
    best = service.rank(make_group(0, 2, NASTY))
    for score, probability in zip(best.scores, best.probabilities, strict=True):
        for value in score.dimensions.values():
            assert f"<b>{value}</b>" in found["rank"]
        assert f"<span>{score.reward:.2f}</span>" in found["rank"] and escape(percent(probability)) in found["rank"]
    assert "uncalibrated" in found["rank"] and "uncalibrated" in found["compare"]
    assert escape(percent(best.probabilities[0])) in found["compare"]


def test_the_histogram_counts_every_score_once():
    read = Reader(pages.histogram("a", [0.5, 1.0, 1.2, 2.5, 3.999, 4.0, 9.0], calibrated=True))
    counts = [int(attributes["title"].rpartition(" ")[2]) for _, attributes in read.elements if "title" in attributes]
    assert len(counts) == pages.BINS and sum(counts) == 7
    assert (counts[0], counts[6], counts[-1]) == (3, 1, 3)
    pages.histogram("one value", [2.0], calibrated=False)


@pytest.mark.parametrize(("probability", "doubts"), [(0.5, True), (0.42, True), (0.61, False), (0.02, False)])
def test_two_edits_alike_are_told_from_a_clear_case(probability, doubts):
    assert ("does not know" in pages.doubt_between_two(probability)) == doubts


# What is stored


def test_the_quota_counts_what_comes_until_it_is_measured_again():
    quota = Quota(10 * BLOCK)
    assert quota.take(6 * BLOCK) and not quota.take(5 * BLOCK) and quota.take(4 * BLOCK) and not quota.take(1)
    quota.measured(2 * BLOCK)
    assert quota.take(8 * BLOCK) and not quota.take(1)


@pytest.mark.parametrize("declared", [True, False])
def test_an_upload_that_is_too_long_is_broken_off_also_without_its_length(declared):
    quota, taken = Quota(10 * BLOCK), []

    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            taken.append(len(message["body"]))
            if not message.get("more_body"):
                break
        await JSONResponse({})(scope, receive, send)

    async def parts():
        for _ in range(100):
            yield bytes(BLOCK)

    async def upload(content):
        transport = httpx.ASGITransport(UploadQuota(app, quota))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/gradio_api/upload", content=content)

    if declared:
        assert asyncio.run(upload(bytes(11 * BLOCK))).status_code == 507 and not taken
    else:
        asyncio.run(upload(parts()))
        assert sum(taken) == 10 * BLOCK
    quota.measured(0)
    taken.clear()
    assert asyncio.run(upload(bytes(10 * BLOCK))).status_code == 200 and sum(taken) == 10 * BLOCK


HOLDER = """
import sys, time
from editreward_space.scratch import Scratch
scratch = Scratch()
(scratch.folder / "upload.png").write_bytes(bytes(10))
with scratch.until_ended():
    print(scratch.folder, flush=True)
    time.sleep(600)
"""


def start_holder(folder: Path) -> tuple[subprocess.Popen, Path]:
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(SPACE)}
    process = subprocess.Popen([sys.executable, "-c", HOLDER], env=environment, stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def test_uploads_go_with_the_process_however_it_ends(tmp_path, monkeypatch):
    lives, lives_in = start_holder(tmp_path)
    try:
        ended, ended_in = start_holder(tmp_path)
        ended.send_signal(signal.SIGTERM)
        assert ended.wait() == 128 + signal.SIGTERM and not ended_in.exists()
        killed, killed_in = start_holder(tmp_path)
        killed.kill()
        killed.wait()
        assert (killed_in / "upload.png").exists()
        (tmp_path / "editreward-space-mine").mkdir()  # not the Space's: it has no lock
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        scratch = Scratch()
        assert not killed_in.exists() and (lives_in / "upload.png").exists() and scratch.folder.is_dir()
        scratch.close()
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {lives_in.name, f"{lives_in.name}.lock", "editreward-space-mine"}
    finally:
        lives.kill()
        lives.wait()
        for process in (lives, ended, killed):
            process.stdout.close()


# The folder


def test_the_spaces_metadata_fit_its_requirements():
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    metadata = dict(line.split(": ", 1) for line in text.split("---")[1].strip().splitlines() if ": " in line)
    requirements = (SPACE / "requirements.txt").read_text().split()
    assert metadata["sdk"] == "gradio" and metadata["app_file"] == "app.py" and metadata["license"] == "apache-2.0"
    assert f"gradio=={metadata['sdk_version']}" in requirements
    assert os.path.isfile(SPACE / metadata["app_file"])
