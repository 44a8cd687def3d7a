"""Whole commands where a decoder raises something odd for one image: that one is named, the rest is done."""

import io
import json
import struct
import zlib

import pytest
from PIL import BmpImagePlugin

from editreward.cli import command as cli
from editreward.data.sources import load_groups, raw_groups
from editreward.data.storage import write_groups
from tests.helpers.pictures import file_of, noise

SCORES = {"instruction_following": 2, "visual_quality": 3}


def bmp(seed):
    out = io.BytesIO()
    noise(seed).save(out, "BMP")
    return out.getvalue()


@pytest.fixture
def odd_decoder(request, monkeypatch):
    """From now on BMP files are opened, and decoding one raises something that Pillow does not announce."""

    def load(self):
        raise request.param("odd")

    monkeypatch.setattr(BmpImagePlugin.BmpImageFile, "load", load)


def candidate(data):
    image = {"bytes": data, "path": None}
    return {"image": image, "editor": "e", "seed": 0, "scores": SCORES, "annotations": [], "rationale": None}


@pytest.fixture
def data(tmp_path):
    """Groups a, b and c of two candidates, of which b's second is a BMP, and a table of the same edits."""
    (tmp_path / "in").mkdir()
    rows, lines = [], []
    for number, name in enumerate("abc"):
        names = ("source.png", "0.png", "1.png")
        files = {file: file_of(noise(3 * number + place)) for place, file in enumerate(names)}
        files |= {"1.png": bmp(8)} if name == "b" else {}
        for file, content in files.items():
            (tmp_path / "in" / f"{name}-{file}").write_bytes(content)
        edits = [candidate(files[file]) for file in ("0.png", "1.png")]
        row = {"group_id": name, "origin": "o", "category": "c", "instruction": "blur", "language": "en"}
        sources = [{"bytes": files["source.png"], "path": None}]
        rows.append({**row, "source_images": sources, "candidates": edits, "preferences": []})
        lines += [f"{name},in/{name}-source.png,in/{name}-{file},blur,2,3" for file in ("0.png", "1.png")]
    write_groups(rows, tmp_path / "groups")
    header = "group,source,edited,instruction,instruction_following,visual_quality"
    (tmp_path / "rows.csv").write_text("\n".join([header, *lines]))
    return tmp_path


def run(data, *words):
    return cli.main([str(data / word[2:]) if word.startswith("./") else word for word in words])


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("odd_decoder", [AssertionError], indirect=True)
def test_check_flag_and_stats_name_one_image(data, odd_decoder, capsys, monkeypatch):
    assert run(data, "data", "check", "./groups", "--json") == 1
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert (fault["kind"], fault["group_id"], fault["place"]) == ("broken_image", "b", "candidates[1].image")
    assert run(data, "data", "flag", "./groups", "--output", "./flags.jsonl") == 0
    (flagged,) = lines_of(data / "flags.jsonl")
    assert flagged["group_id"] == "b" and [flag["kind"] for flag in flagged["flags"]] == ["unreadable"]
    monkeypatch.setattr(BmpImagePlugin.BmpImageFile, "_open", BmpImagePlugin.BmpImageFile.load)
    capsys.readouterr()
    assert run(data, "data", "stats", "./groups", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["candidates"] == 6 and "group 'b', candidates[1].image" in " ".join(told["notes"])


@pytest.mark.parametrize("odd_decoder", [struct.error], indirect=True)
def test_import_lists_one_image_and_imports_the_rest(data, odd_decoder, capsys):
    words = ("--input", "./rows.csv", "--output", "./out", "--on-fault", "list")
    assert run(data, "data", "import", "table", *words) in (0, 1)
    (fault,) = lines_of(data / "out" / "import_faults.jsonl")
    assert "b-1.png" in json.dumps(fault)
    groups = {row["group_id"]: len(row["candidates"]) for row in raw_groups(load_groups(data / "out"))}
    assert groups["a"] == groups["c"] == 2 and groups.get("b", 0) < 2


@pytest.mark.parametrize("odd_decoder", [zlib.error], indirect=True)
def test_publish_names_one_image(data, odd_decoder, capsys):
    assert run(data, "data", "publish", "./groups", "--repo", "me/edits", "--dry-run", "./out") == 2
    assert "faults (broken_image 1); the first: b (train, row 1): candidates[1].image" in capsys.readouterr().err


@pytest.mark.parametrize("odd_decoder", [MemoryError], indirect=True)
def test_scores_and_curation_lack_one_image(data, odd_decoder, capsys):
    assert run(data, "score", "--dataset", "./groups", "--scorer", "ssim", "--output", "./scores.jsonl") == 1
    rewards = [[one.get("reward") for one in row["candidates"]] for row in lines_of(data / "scores.jsonl")]
    assert [[reward is None for reward in row] for row in rewards] == [[False] * 2, [False, True], [False] * 2]
    assert run(data, "score", "--table", "./rows.csv", "--scorer", "ssim", "--output", "./scores.csv") == 1
    failed = [line for line in (data / "scores.csv").read_text().splitlines() if "cannot be read as an image" in line]
    assert len(failed) == 1 and "in/b-1.png" in failed[0]
    words = ("--scorer", "ssim", "--output", "./kept", "--by", "overall", "--top-k", "9")
    assert run(data, "curate", "./groups", *words) == 0
    dropped = [line for line in lines_of(data / "kept" / "decisions.jsonl") if not line["kept"]]
    assert [(line["group_id"]) for line in dropped] == ["b"]
