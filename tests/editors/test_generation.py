"""Candidate generation: editors, runs that are killed and resumed, several processes, the draw, the dataset."""

import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from editreward.cli import command as cli
from editreward.data.sources import load_groups, raw_groups
from editreward.data.storage import write_groups
from editreward.editors.dataset import BalancedDraw, check_sources
from editreward.editors.editors import SimulatedEditor, read_editors, resize
from editreward.editors.instructions import Instructions, SourceRow, dataset_instructions, simulated_instructions
from editreward.editors.run import generate
from editreward.editors.store import CandidateStore, Record
from editreward.simulation import EDITORS, render_scene, simulate_group
from editreward.simulation.edits import perfect

ROOT = Path(__file__).parents[2]
SIMULATED = ROOT / "configs" / "simulated_editors.yaml"
SIZE = 84


class FakePipeline:
    """Has the interface of a diffusers pipeline; what it does depends on the prompt."""

    calls: list[dict] = []
    broken = False

    @classmethod
    def from_pretrained(cls, checkpoint, torch_dtype, **load):
        if checkpoint == "missing":
            raise OSError("there is no such checkpoint")
        return cls()

    def set_progress_bar_config(self, disable):
        pass

    def to(self, device):
        pass

    def __call__(self, image, prompt, generator, strength=1.0):
        self.calls.append({"image": image, "prompt": prompt, "strength": strength})
        if "fail" in prompt or self.broken:
            raise RuntimeError("out of\nmemory")
        first = image[0] if isinstance(image, list) else image
        noise = torch.randint(1, 256, (first.height, first.width, 3), generator=generator).to(torch.uint8).numpy()
        result = Image.new("RGB", first.size) if "black" in prompt else Image.fromarray(noise)
        return SimpleNamespace(images=[result], nsfw_content_detected=["withhold" in prompt])


@pytest.fixture(autouse=True)
def fake_pipeline():
    FakePipeline.calls, FakePipeline.broken = [], False


def fake(name: str, **keys) -> dict:
    return {"name": name, "pipeline": f"{__name__}.FakePipeline", "checkpoint": "fake", **keys}


def editors_file(folder: Path, *editors: dict, seeds=(0, 1)) -> Path:
    file = folder / "editors.yaml"
    file.write_text(yaml.safe_dump({"seeds": list(seeds), "editors": list(editors)}))
    return file


def png(colour: str | tuple, size=(16, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def source_dataset(folder: Path, instructions: list[str], sources: int = 1) -> Path:
    """A dataset of rows without candidates."""
    rows = [
        {
            "group_id": f"row/{index}",
            "origin": "test",
            "category": "colour",
            "instruction": instruction,
            "language": "en",
            "source_images": [{"bytes": png((index, number, 200)), "path": None} for number in range(sources)],
            "candidates": [],
        }
        for index, instruction in enumerate(instructions)
    ]
    write_groups(rows, folder)
    return folder


def run(instructions: Path | str, editors: Path, output: Path, *options: str) -> int:
    arguments = ["--instructions", str(instructions), "--editors", str(editors), "--output", str(output)]
    return cli.main(["generate", *arguments, *options])


def lines(output: Path) -> list[dict]:
    """All manifest lines."""
    manifests = sorted((output / "candidates").glob("manifest-*.jsonl"))
    return [json.loads(line) for manifest in manifests for line in manifest.read_text().splitlines()]


def content(output: Path, split: str = "train") -> list[dict]:
    """The dataset as it is stored."""
    return list(raw_groups(load_groups(output, split)))


# Editors


def test_a_missing_file_of_editors_is_named(tmp_path, capsys):
    assert run(tmp_path, Path("nope.yaml"), tmp_path / "out") == 2
    assert "There is no file nope.yaml (`--editors`)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_default_editors_make_twelve_candidates_and_their_pipelines_take_what_the_file_says():
    editors = read_editors(ROOT / "configs" / "editors.yaml")
    assert len(editors) == 6 and sum(len(editor.seeds) for editor in editors) == 12
    for editor in editors:
        editor.check()
    simulated = read_editors(SIMULATED)
    assert len(simulated) == 6 and {*EDITORS} < {editor.name for editor in simulated}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "a"}, "editor a: needs exactly one of the keys pipeline, simulated, images"),
        ({"name": "a", "pipeline": "FluxKontextPipeline"}, "editor a: checkpoint is missing"),
        ({"name": "a/b", "images": "x"}, "'a/b'"),
        (fake("a", call={"generator": 1}), "'call' must not set generator"),
        (fake("a", dtype="float8"), "dtype"),
        (fake("a", placement="moon"), "placement"),
        (fake("a", pixel=5), "editor a: pixel is unknown"),
        (fake("a", image_list="yes"), "image_list must be true or false, not 'yes'"),
        (fake("a", prompt="edit it"), "{instruction}"),
        (fake("a", seeds=[0, 0]), "seeds: must be different numbers, not [0, 0]"),
        (fake("a", seeds=[True]), "editor a: seeds, entry 1 must be a whole number, not True."),
        ({"name": "a", "simulated": True}, "sim-expert"),
        ({"name": "a", "simulated": {"instruction_following": 2, "visual_quality": 0}}, "following must be at most 1"),
        ({"name": "a", "images": "x", "files": "{seed}.png"}, "{group_id}"),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(tmp_path, entry, message):
    file = editors_file(tmp_path, fake("good"), entry)
    with pytest.raises(ValueError) as caught:
        read_editors(file)
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_editors_with_one_name_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="two editors are named 'A'"):
        read_editors(editors_file(tmp_path, fake("a"), fake("A")))


def test_arguments_that_a_pipeline_does_not_take_are_found_before_anything_is_loaded(tmp_path, capsys):
    data = source_dataset(tmp_path / "in", ["x"])
    assert run(data, editors_file(tmp_path, fake("a", call={"strenth": 1})), tmp_path / "out") == 2
    assert "takes no 'strenth', but: image, prompt, generator, strength" in capsys.readouterr().err
    entry = {"name": "a", "pipeline": "FluxKontextPipelin", "checkpoint": "x"}
    assert run(data, editors_file(tmp_path, entry), tmp_path / "out") == 2
    assert "Did you mean FluxKontextPipeline" in capsys.readouterr().err
    assert FakePipeline.calls == []


def test_a_pipeline_gets_image_prompt_and_arguments_as_the_file_says(tmp_path):
    data = source_dataset(tmp_path / "in", ["turn it red"], sources=2)
    editor = fake("a", image_list=True, prompt="please {instruction}!", pixels=2048, call={"strength": 0.5})
    assert run(data, editors_file(tmp_path, editor), tmp_path / "out") == 0
    first = FakePipeline.calls[0]
    assert first["prompt"] == "please turn it red!" and first["strength"] == 0.5
    assert [image.size for image in first["image"]] == [(48, 48)] * 2


@settings(max_examples=50, deadline=None)
@given(st.integers(20, 3000), st.integers(20, 3000), st.sampled_from([128**2, 512**2]))
def test_resized_images_keep_shape_and_size_nearly(width, height, pixels):
    result = resize(Image.new("L", (width, height)), pixels)
    assert result.width % 16 == result.height % 16 == 0
    ideal = (math.sqrt(pixels * width / height), math.sqrt(pixels * height / width))
    assert all(abs(side - wanted) <= 8 or side == 16 for side, wanted in zip(result.size, ideal, strict=True))


# Simulated editors


def test_true_scores_follow_the_skill():
    for name, skill in EDITORS.items():
        editor = SimulatedEditor(name, (0,), *skill)
        drawn = [editor.scores(f"simulated-train-{number:06d}", 0) for number in range(2000)]
        for dimension, mean in zip(("instruction_following", "visual_quality"), skill, strict=True):
            # The two dimensions' weights factorise, so each has its own distribution over 1..4.
            weights = np.exp(-((np.arange(4) / 3 - mean) ** 2) / (2 * 0.35**2))
            shares = np.bincount([scores[dimension] for scores in drawn], minlength=5)[1:] / len(drawn)
            assert np.abs(shares - weights / weights.sum()).max() < 0.05


def test_a_faultless_candidate_is_the_clean_render_of_the_requested_scene():
    editor = SimulatedEditor("sim-expert", (0, 1, 2), *EDITORS["sim-expert"])
    edit, instructions = editor.load(), simulated_instructions("test", 0, 40, SIZE)
    compared = Counter()
    for index in range(40):
        row, group = instructions.read(index), simulate_group(index, "test", size=SIZE)
        assert row.instruction == group.instruction
        assert Image.open(io.BytesIO(row.source_images[0])).tobytes() == group.source.tobytes()
        if group.category in ("add", "move"):  # the new place has a jitter of its own
            continue
        wanted = render_scene(perfect(group.task, Random(0)), SIZE).tobytes()
        for seed in editor.seeds:
            is_perfect = editor.scores(row.group_id, seed) == {"instruction_following": 4, "visual_quality": 4}
            assert (edit(row, seed).tobytes() == wanted) == is_perfect
            compared[is_perfect] += 1
    assert min(compared.values()) > 10


def test_simulated_editors_refuse_rows_of_others():
    edit = SimulatedEditor("a", (0,), 0.5, 0.5).load()
    row = simulated_instructions("train", 3, 1, SIZE).read(0)
    with pytest.raises(ValueError, match="simulated-SPLIT-SEED"):
        edit(SourceRow("cat", None, None, "x", None, row.source_images), 0)
    with pytest.raises(ValueError, match="another instruction"):
        edit(SourceRow(row.group_id, None, None, "x", None, row.source_images), 0)


@pytest.mark.slow
def test_simulated_editors_end_to_end(tmp_path, capsys):
    output = tmp_path / "out"
    options = ("--split", "validation", "--offset", "5", "--limit", "6", "--keep", "7")
    assert run("simulated", SIMULATED, output, *options) == 0
    out = capsys.readouterr().out
    assert "6 groups, 42 candidates; 72 candidates are new" in out
    assert cli.main(["data", "check", str(output)]) == 0
    drawn = Counter()
    for number, row in enumerate(content(output, "validation")):
        group = simulate_group(5 + number, "validation", candidates=1)
        assert row["group_id"] == group.group_id and row["instruction"] == group.instruction
        assert (row["origin"], row["category"], row["language"]) == ("simulated", group.category, group.language)
        assert len(row["candidates"]) == 7 and row["preferences"] == []
        for candidate in row["candidates"]:
            assert set(candidate["scores"].values()) == {None} and candidate["annotations"] == []
        drawn.update(candidate["editor"] for candidate in row["candidates"])
    assert len(drawn) == 6 and max(drawn.values()) - min(drawn.values()) <= 2  # repeated images were left out
    # Another draw makes nothing anew.
    assert run("simulated", SIMULATED, output, *options[:-1], "3") == 0
    assert "6 groups, 18 candidates; 0 candidates are new" in capsys.readouterr().out
    assert len(lines(output)) == 72


# The draw


@settings(max_examples=100, deadline=None)
@given(
    editors=st.integers(1, 7),
    seeds=st.integers(1, 3),
    keep=st.integers(2, 12),
    groups=st.integers(1, 30),
    seed=st.integers(0, 5),
)
def test_the_draw_balances_editors_in_each_group_and_over_all(editors, seeds, keep, groups, seed):
    candidates = [(f"e{editor}", number) for editor in range(editors) for number in range(seeds)]
    balanced, again = BalancedDraw(keep, seed), BalancedDraw(keep, seed)
    total = Counter(dict.fromkeys([name for name, _ in candidates], 0))
    for group in range(groups):
        drawn = balanced.draw(f"g{group}", candidates)
        assert drawn == again.draw(f"g{group}", candidates) == sorted(set(drawn))
        assert len(drawn) == min(keep, len(candidates))
        here = Counter(dict.fromkeys(total, 0))
        here.update(candidates[index][0] for index in drawn)
        assert max(here.values()) - min(here.values()) <= 1
        total.update(here)
        assert max(total.values()) - min(total.values()) <= 1


def test_the_draw_uses_seeds_alike_and_another_seed_draws_others():
    candidates = [(f"e{editor}", number) for editor in range(6) for number in range(2)]
    draws = [BalancedDraw(7, seed) for seed in (0, 1)]
    drawn = [[draw.draw(f"g{group}", candidates) for group in range(60)] for draw in draws]
    assert drawn[0] != drawn[1]
    counts = draws[0].by_seed
    assert max(counts.values()) - min(counts.values()) <= 2


def test_where_an_editor_failed_the_others_fill_its_place():
    draw = BalancedDraw(4)
    assert draw.draw("g", [("a", 0), ("b", 0), ("b", 1), ("b", 2)]) == [0, 1, 2, 3]
    assert len(draw.draw("h", [("a", 0), ("a", 1)])) == 2


# Killed and resumed


@pytest.mark.slow
def test_a_killed_run_goes_on_without_redoing_or_losing_a_candidate(tmp_path, capsys):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = ("--split", "test", "--limit", "25", "--keep", "7")
    command = ["generate", "--instructions", "simulated", "--editors", str(SIMULATED), "--output", str(killed)]
    process = subprocess.Popen(
        [sys.executable, "-m", "editreward.cli", *command, *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    manifest = killed / "candidates" / "manifest-00000.jsonl"
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if manifest.exists() and manifest.read_bytes().count(b"\n") >= 60:
            break
        time.sleep(0.002)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    before = {path: path.stat() for path in killed.glob("candidates/*/*.png") if not path.name.startswith(".")}
    assert 60 <= len(before) < 300 and not (killed / "data").exists()

    assert run("simulated", SIMULATED, killed, *options) == 0
    written = [(line["group_id"], line["editor"], line["seed"]) for line in lines(killed)]
    assert len(written) == len(set(written)) == 300
    for path, stat in before.items():
        now = path.stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert not list(killed.rglob("*.part"))
    assert run("simulated", SIMULATED, whole, *options) == 0
    assert content(killed, "test") == content(whole, "test")


@pytest.mark.slow
def test_whatever_a_kill_leaves_is_completed_and_nothing_made_twice(tmp_path):
    """A kill leaves the manifest cut anywhere, the image after its end or not, and a part of the next one."""
    data = source_dataset(tmp_path / "in", ["one", "two", "three"])
    editors = editors_file(tmp_path, fake("a"), fake("b"))
    assert run(data, editors, tmp_path / "whole") == 0
    expected = content(tmp_path / "whole")
    full = (tmp_path / "whole" / "candidates" / "manifest-00000.jsonl").read_bytes()
    rng = random.Random(0)
    for attempt in range(8):
        output = tmp_path / f"killed-{attempt}"
        shutil.copytree(tmp_path / "whole" / "candidates", output / "candidates")
        cut = rng.choice([0, len(full), rng.randrange(len(full))])
        complete = full[:cut].count(b"\n")
        (output / "candidates" / "manifest-00000.jsonl").write_bytes(full[:cut])
        store = CandidateStore(output)
        later = [json.loads(line) for line in full.splitlines()[complete:]]
        keys = [(line["group_id"], line["editor"], line["seed"]) for line in later]
        adopted = rng.random() < 0.5
        for key in keys[adopted:]:
            store.image_path(key).unlink()
        if keys:
            store.image_path(keys[0]).with_name(".x.png.part").write_bytes(b"half")
        FakePipeline.calls.clear()
        assert run(data, editors, output) == 0
        assert len(FakePipeline.calls) == len(keys[adopted:])
        written = [(line["group_id"], line["editor"], line["seed"]) for line in lines(output)]
        assert len(written) == len(set(written)) == 12
        assert content(output) == expected
        assert not list(output.rglob("*.part"))


def test_an_image_that_was_deleted_is_made_again_and_one_that_was_changed_is_an_error(tmp_path, capsys):
    data, output = source_dataset(tmp_path / "in", ["one", "two"]), tmp_path / "out"
    editors = editors_file(tmp_path, fake("a"))
    assert run(data, editors, output) == 0
    expected = content(output)
    path = CandidateStore(output).image_path(("row/0", "a", 1))
    path.write_bytes(path.read_bytes()[:-20])
    assert run(data, editors, output) == 2
    assert f"{path} has changed since it was made. Delete it" in capsys.readouterr().err
    path.unlink()
    FakePipeline.calls.clear()
    assert run(data, editors, output) == 0
    assert len(FakePipeline.calls) == 1 and content(output) == expected


def test_a_damaged_manifest_line_is_named(tmp_path, capsys):
    data, output = source_dataset(tmp_path / "in", ["one"]), tmp_path / "out"
    editors = editors_file(tmp_path, fake("a"))
    assert run(data, editors, output) == 0
    manifest = output / "candidates" / "manifest-00000.jsonl"
    manifest.write_bytes(b'{"group_id": \n' + manifest.read_bytes())
    assert run(data, editors, output) == 2
    assert f"{manifest}, line 1 is damaged" in capsys.readouterr().err


def test_two_runs_cannot_write_to_one_folder(tmp_path, capsys):
    data, output = source_dataset(tmp_path / "in", ["one"]), tmp_path / "out"
    (output / "candidates").mkdir(parents=True)
    # As a process that outlived its killed launcher would hold it.
    with FileLock(output / "candidates" / "manifest-00003.lock"):
        assert run(data, editors_file(tmp_path, fake("a")), output) == 2
    assert "Another run is writing" in capsys.readouterr().err
    assert run(data, editors_file(tmp_path, fake("a")), output) == 0


# Several processes


@pytest.mark.slow
def test_two_processes_share_the_rows_and_make_the_dataset_of_one(tmp_path):
    data = tmp_path / "two", tmp_path / "one"
    options = ("--split", "test", "--limit", "5", "--keep", "7")
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
        "-m",
        "editreward.cli",
    ]
    command = ["generate", "--instructions", "simulated", "--editors", str(SIMULATED), "--output", str(data[0])]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, *launch, *command, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Wrote ") == 1
    shares = [
        {json.loads(line)["group_id"] for line in manifest.read_text().splitlines()}
        for manifest in sorted((data[0] / "candidates").glob("manifest-*.jsonl"))
    ]
    assert [len(share) for share in shares] == [3, 2] and not shares[0] & shares[1]
    assert len(lines(data[0])) == 5 * 12
    # One process goes on where two stopped: there is nothing left to do.
    assert run("simulated", SIMULATED, data[0], *options) == 0
    assert len(lines(data[0])) == 5 * 12
    assert run("simulated", SIMULATED, data[1], *options) == 0
    assert content(data[0], "test") == content(data[1], "test")


# Failures


def test_a_failed_candidate_is_recorded_and_the_run_goes_on(tmp_path, capsys):
    data, output = source_dataset(tmp_path / "in", ["one", "fail", "withhold", "black", "two"]), tmp_path / "out"
    editors = editors_file(tmp_path, fake("a"))
    assert run(data, editors, output) == 1
    out = capsys.readouterr().out
    errors = {line["group_id"]: line["error"] for line in lines(output)}
    assert errors["row/0"] is None and errors["row/4"] is None
    assert errors["row/1"] == "RuntimeError: out of memory"
    assert "safety checker" in errors["row/2"] and "all black" in errors["row/3"]
    assert "row/1, a, seed 0: RuntimeError: out of memory" in out and "6 failed" in out
    assert "row/1: 0 of its candidates can be used" in out
    assert [row["group_id"] for row in content(output)] == ["row/0", "row/4"]
    FakePipeline.calls.clear()
    assert run(data, editors, output) == 1
    assert FakePipeline.calls == []


def test_failed_candidates_are_tried_again_on_request(tmp_path, capsys):
    data, output = source_dataset(tmp_path / "in", ["one", "two"]), tmp_path / "out"
    editors = editors_file(tmp_path, fake("a"), seeds=(0, 1, 2))
    FakePipeline.broken = True
    assert run(data, editors, output) == 2
    assert "none of the 2 rows can be used" in capsys.readouterr().err
    FakePipeline.broken = False
    assert run(data, editors, output) == 2
    assert run(data, editors, output, "--retry-failed") == 0
    assert "6 candidates are new" in capsys.readouterr().out
    assert run(data, editors, output) == 0  # the older failures no longer count
    assert [len(row["candidates"]) for row in content(output)] == [3, 3]


def test_an_editor_that_cannot_be_loaded_does_not_stop_the_others(tmp_path, capsys):
    data, output = source_dataset(tmp_path / "in", ["one"]), tmp_path / "out"
    assert run(data, editors_file(tmp_path, fake("bad", checkpoint="missing"), fake("good")), output) == 1
    out, err = capsys.readouterr()
    assert "bad cannot be loaded" in err and "there is no such checkpoint" in err
    assert [line.split() for line in out.splitlines() if line.startswith(("bad", "good"))] == [
        ["bad", "2", "0", "0", "2", "0"],
        ["good", "2", "2", "0", "0", "2"],
    ]


def test_rows_whose_source_cannot_be_read_are_named(tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.png").write_bytes(png("red"))
    rows = [{"file_name": f"{name}.png", "instruction": "x", "group_id": name} for name in ("a", "b", "c")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    editors = editors_file(tmp_path, fake("a"))
    instructions = dataset_instructions(folder)
    (folder / "a.png").unlink()
    (folder / "b.png").write_bytes(b"no image")
    report = generate(instructions, read_editors(editors), output)
    assert not report.complete
    assert set(report.dataset.left_out) == {"a", "b"}
    assert "there is no source image" in report.dataset.left_out["a"]
    reasons = {record.group_id: record.error for record in report.failures}
    assert str(folder / "a.png") in reasons["a"] and "source image 0 is not an image" in reasons["b"]
    assert [row["group_id"] for row in content(output)] == ["c"]


def test_a_row_with_several_sources_fails_where_the_editor_takes_one(tmp_path):
    data, output = source_dataset(tmp_path / "in", ["one"], sources=2), tmp_path / "out"
    assert run(data, editors_file(tmp_path, fake("a"), fake("b", image_list=True)), output) == 1
    errors = {line["editor"]: line["error"] for line in lines(output)}
    assert "image_list: true" in errors["a"] and errors["b"] is None


# What may change between runs


def test_changed_settings_of_an_editor_are_an_error_and_its_placement_is_none(tmp_path, capsys):
    data, output = source_dataset(tmp_path / "in", ["one"]), tmp_path / "out"
    assert run(data, editors_file(tmp_path, fake("a", call={"strength": 0.5})), output) == 0
    assert run(data, editors_file(tmp_path, fake("a", call={"strength": 0.7})), output) == 2
    err = capsys.readouterr().err
    assert "editor a" in err and "0.5" in err and "0.7" in err
    changed = fake("a", call={"strength": 0.5}, placement="device", seeds=[0, 1, 2])
    assert run(data, editors_file(tmp_path, changed, fake("b")), output) == 0
    assert "3 candidates are new" in capsys.readouterr().out
    assert run(data, editors_file(tmp_path, fake("b")), output) == 0
    assert "3 candidates by other editors or with other seeds are not in the dataset" in capsys.readouterr().out


def test_an_editor_that_made_nothing_yet_may_change_its_settings(tmp_path, capsys):
    rows = source_dataset(tmp_path / "rows", ["make it red"])
    ready = fake("ready")
    assert run(rows, editors_file(tmp_path, ready, fake("late", checkpoint="missing")), tmp_path / "out") == 1
    assert run(rows, editors_file(tmp_path, ready, fake("late", checkpoint="found")), tmp_path / "out") == 0
    assert {line["editor"] for line in lines(tmp_path / "out")} == {"ready", "late"}
    assert run(rows, editors_file(tmp_path, ready, fake("late", checkpoint="other")), tmp_path / "out") == 2
    assert "checkpoint 'found' became 'other'" in capsys.readouterr().err


def test_a_row_that_changed_under_its_id_is_an_error_and_rows_may_be_added(tmp_path, capsys):
    editors, output = editors_file(tmp_path, fake("a")), tmp_path / "out"
    assert run(source_dataset(tmp_path / "first", ["one"]), editors, output) == 0
    assert run(source_dataset(tmp_path / "more", ["one", "two"]), editors, output) == 0
    assert "2 candidates are new" in capsys.readouterr().out
    assert run(source_dataset(tmp_path / "other", ["uno", "two"]), editors, output) == 2
    assert "Row row/0: its instruction or source image is another one" in capsys.readouterr().err
    assert [row["instruction"] for row in content(output)] == ["one", "two"]  # the dataset is as it was


# Instructions


def test_a_folder_of_images_with_metadata_is_read_and_its_ids_do_not_depend_on_order(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(png("red"))
    (folder / "deep" / "a.png").write_bytes(png("blue"))
    rows = [
        {"file_name": "a.png", "instruction": "one", "category": "colour"},
        {"file_name": "a.png", "instruction": "two", "category": None},
        {"file_name": "deep/a.png", "instruction": "one", "category": "colour"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    instructions = dataset_instructions(folder)
    read = [instructions.read(index) for index in range(3)]
    assert [row.instruction for row in read] == ["one", "two", "one"]
    assert [row.category for row in read] == ["colour", None, "colour"]
    assert {(row.origin, row.language) for row in read} == {("in", None)}
    assert read[0].source_images == read[1].source_images == (png("red"),) != read[2].source_images
    assert len(set(instructions.ids)) == 3 and all(name.startswith("a-") for name in instructions.ids)
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, reversed(rows))))
    assert dataset_instructions(folder).ids == instructions.ids[::-1]


def test_offset_and_limit_choose_rows(tmp_path):
    data = source_dataset(tmp_path / "in", ["one", "two", "three"])
    assert dataset_instructions(data, offset=1).ids == ["row/1", "row/2"]
    assert dataset_instructions(data, offset=1, limit=1).ids == ["row/1"]
    with pytest.raises(ValueError, match="has 3 rows, none"):
        dataset_instructions(data, offset=3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "x"), ("a", "y")], "row 1 is another one with the id 'a'"),
        ([("a", "x"), ("b", " ")], "row 1 (b) has no instruction"),
        ([("", "x")], "row 0 has no group_id"),
    ],
)
def test_faulty_rows_are_named(tmp_path, rows, message):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(png("red"))
    records = [{"file_name": "a.png", "group_id": name, "instruction": text} for name, text in rows]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(ValueError) as caught:
        dataset_instructions(folder)
    assert message in str(caught.value) and str(folder) in str(caught.value)


def test_a_folder_without_instructions_is_an_error_that_says_how_they_are_written(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png("red"))
    assert run(tmp_path / "in", editors_file(tmp_path, fake("a")), tmp_path / "out") == 2
    assert "metadata.jsonl" in capsys.readouterr().err
    assert run("simulated", SIMULATED, tmp_path / "out") == 2
    assert "--limit" in capsys.readouterr().err


def test_group_ids_that_are_no_file_names_get_files_of_their_own(tmp_path):
    store = CandidateStore(tmp_path)
    ids = ["../../etc/passwd", "a/b", "a_b", "A_b", "x" * 500, "x" * 501, "猫", "", "."]
    paths = [store.image_path((group_id, "e", 0)) for group_id in ids]
    assert len({str(path).lower() for path in paths}) == len(ids)
    for path in paths:
        assert path.resolve().parent == (tmp_path / "candidates" / "e").resolve() and len(path.name) < 100


# Images made elsewhere


def test_images_made_elsewhere_are_taken_in_and_missing_ones_recorded(tmp_path):
    folder = tmp_path / "made"
    (folder / "row").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    sideways = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    sideways.save(folder / "row" / "0-0.png", exif=exif)
    (folder / "row" / "0-1.png").write_bytes(png("green"))
    (folder / "row" / "1-0.png").write_bytes(b"no image")
    data, output = source_dataset(tmp_path / "in", ["one", "two"]), tmp_path / "out"
    assert run(data, editors_file(tmp_path, {"name": "elsewhere", "images": "made"}), output) == 1
    rows = content(output)
    assert [row["group_id"] for row in rows] == ["row/0"]
    image = np.asarray(Image.open(io.BytesIO(rows[0]["candidates"][0]["image"]["bytes"])))
    assert (image == np.rot90(pixels, -1)).all()
    errors = {(line["group_id"], line["seed"]): line["error"] for line in lines(output)}
    assert "not an image" in errors["row/1", 0] and "does not exist" in errors["row/1", 1]
    assert str(folder / "row" / "1-1.png") in errors["row/1", 1]


# A diffusers pipeline


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory) -> Path:
    """A saved InstructPix2Pix pipeline of random weights."""
    from diffusers import (
        AutoencoderKL,
        EulerAncestralDiscreteScheduler,
        StableDiffusionInstructPix2PixPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokens),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=32,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        ),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=32),
        unet=UNet2DConditionModel(
            in_channels=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
        ),
        scheduler=EulerAncestralDiscreteScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


def test_a_diffusers_pipeline_makes_the_images_that_it_makes_when_called_by_hand(tiny_pipeline, tmp_path):
    from diffusers import StableDiffusionInstructPix2PixPipeline

    data, output = source_dataset(tmp_path / "in", ["turn it red", "add a cat"]), tmp_path / "out"
    editor = {
        "name": "tiny",
        "pipeline": "StableDiffusionInstructPix2PixPipeline",
        "checkpoint": os.path.relpath(tiny_pipeline, tmp_path),
        "pixels": 1024,
        "call": {"num_inference_steps": 2, "guidance_scale": 3.0},
    }
    assert run(data, editors_file(tmp_path, editor, seeds=(0, 7)), output) == 0
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(tiny_pipeline)
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for row in content(output):
        source = Image.open(io.BytesIO(row["source_images"][0]["bytes"])).resize((32, 32), Image.Resampling.LANCZOS)
        for candidate in row["candidates"]:
            generator = torch.Generator().manual_seed(candidate["seed"])
            expected = pipeline(
                row["instruction"], source, num_inference_steps=2, guidance_scale=3.0, generator=generator
            ).images[0]
            image = Image.open(io.BytesIO(candidate["image"]["bytes"]))
            assert np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int)).max() <= 1
            images.append(image.tobytes())
    assert len(set(images)) == 4  # every row and every seed has another image


def test_an_image_without_its_line_is_taken_only_for_the_row_that_it_was_made_for(tmp_path):
    store, key = CandidateStore(tmp_path), ("g", "editor", 0)
    store.prepare({"editor": {}})
    store.open(0)
    try:
        store.add_image(key, "source A", Image.new("RGB", (8, 8), "red"), 0.1)
        assert not store.adopt(key, "source B") and store.adopt(key, "source A")
    finally:
        store.close()


def test_rows_that_have_changed_since_their_candidates_were_made_are_noticed_at_once(tmp_path):
    row = simulated_instructions("train", 0, 1).read(0)
    record = Record(row.group_id, "a", 0, row.digest(), "hash", "pixels", None, 0.1, 0.0)
    store = CandidateStore(tmp_path)
    check_sources(Instructions([row.group_id], lambda _: row), {record.key: record}, store)
    changed = Instructions([row.group_id], lambda _: replace(row, instruction="another"))
    with pytest.raises(ValueError, match="instruction or source image is another one"):
        check_sources(changed, {record.key: record}, store)
