"""`editreward curate` from shards to shards: what is kept, what is said, the same bytes however it was made."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from editreward.cli import command as cli
from editreward.curation.acceptance import Condition
from editreward.curation.curate import Curation, RiskControl, Selection, curate
from editreward.data import storage
from editreward.data.edit_sources import SourceOptions, StreamedGroups, open_source
from editreward.data.sources import load_groups, raw_groups
from editreward.data.storage import ShardWriter, write_groups
from tests.data.test_edit_sources import shard
from tests.helpers.hub_server import Hub, run_with_hub
from tests.helpers.pictures import file_of, noise
from tests.helpers.processes import start
from tests.helpers.scorers import GREEN, RED, ColourScorer, Share, painted

EDITS = 150


class Stops(ColourScorer):
    """Is killed in its second call."""

    def __call__(self, groups):
        if self.calls:
            raise KeyboardInterrupt
        return super().__call__(groups)


def source_image(number):
    image = Image.new("RGB", (16, 12), (number, 10, 10))
    image.putpixel((15, 11), (0, number, 0))
    return image


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Edits whose score grows with their number; 20 is white, which fails, 30 its source, 40 no image, 50 has none."""
    members = []
    for number in range(EDITS):
        edited = {20: painted(255, 255, 255), 30: source_image(30)}.get(number, painted(number, number, number % 7))
        parts = [
            ("source.png", file_of(source_image(number))),
            ("edited.png", b"no image" if number == 40 else file_of(edited)),
            ("json", json.dumps({"instruction": "x", "category": f"c{number % 3}", "editor": "e"}).encode()),
        ]
        members += [(f"{number:03d}.{name}", data) for name, data in parts if (number, name) != (50, "edited.png")]
    folder = tmp_path_factory.mktemp("shards")
    shard(folder / "0.tar", members[:200])
    shard(folder / "1.tar", members[200:])
    return folder


def run(shards, output, scorer=None, curation=None, **options):
    source = StreamedGroups(str(shards), SourceOptions())
    return curate(scorer or ColourScorer(), source, output, curation or Curation(Selection(top_k=30)), **options)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out"
    run(shards, output)
    return output


def test_the_best_are_kept_with_their_images_scores_and_origin(whole):
    (file,) = (whole / "data").glob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    numbers = range(EDITS - 30, EDITS)
    assert [row["edited_image"]["bytes"] for row in rows] == [file_of(painted(n, n, n % 7)) for n in numbers]
    assert [row["source_images"][0]["bytes"] for row in rows] == [file_of(source_image(n)) for n in numbers]
    assert [row["overall"] for row in rows] == [n + 1 for n in numbers]  # an instruction adds its length
    assert rows[0]["scores"] == {RED: numbers[0] + 1, GREEN: numbers[0] + 1}
    assert rows[0]["id"] == "1.tar/120" and rows[0]["row"].startswith("1.tar, row ")
    loaded = load_dataset(str(whole), split="train")
    assert loaded.num_rows == 30 and isinstance(loaded[0]["edited_image"], Image.Image)


def test_every_edit_is_accounted_for(whole):
    decisions = [json.loads(line) for line in (whole / "decisions.jsonl").read_text().splitlines()]
    why = {line["id"].split("/")[1]: line["dropped"] for line in decisions}
    assert why["020"] == why["040"] == "could not be scored" and why["030"] == "equals its source"
    assert why["119"] == "others are better" and why["120"] is None
    faults = [json.loads(line) for line in (whole / "faults.jsonl").read_text().splitlines()]
    assert len(decisions) == EDITS - len(faults) and len({line["id"] for line in decisions}) == len(decisions)
    assert {"missing-column"} <= {fault["kind"] for fault in faults}
    summary = json.loads((whole / "summary.json").read_text())
    dropped = sum(step["dropped"] for step in summary["steps"])
    assert summary["edits"] == len(decisions) == summary["kept"] + dropped


def test_report_and_card_say_what_was_dropped(whole):
    html, text = (whole / "report.html").read_text(), (whole / "report.md").read_text()
    for part in ("others are better", "equals its source", "c0", "missing-column"):
        assert part in html and part in text
    assert html.count("data:image/jpeg") >= 40  # ten best and ten worst, with their sources
    card = (whole / "README.md").read_text()
    assert "30 edits of" in card and "others are better" in card and "colours" in card


def test_a_killed_run_goes_on_and_two_processes_make_the_same_bytes(shards, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(shards, tmp_path / "out", Stops())
    scorer = ColourScorer()
    run(shards, tmp_path / "out", scorer)
    assert sum(scorer.calls) < EDITS - 60 and content(tmp_path / "out") == content(whole)
    for index in range(2):
        run(shards, tmp_path / "two", processes=Share(index))
    assert content(tmp_path / "two") == content(whole)


def killed_while_writing(shards, output, moment):
    """Curates, and is killed when two batches of a shard are written, or when the first shard has its name."""
    calls, (module, name) = [], {"batch": (ShardWriter, "_flush"), "name": (storage, "put_in_place")}[moment]
    original = getattr(module, name)

    def killing(*arguments):
        found = original(*arguments)
        calls.append(name)
        if len(calls) == {"batch": 2, "name": 1}[moment]:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(module, name, killing)
    run(shards, output)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["batch", "name"])
def test_a_run_that_is_killed_while_it_writes_ends_with_the_same_bytes(shards, whole, tmp_path, moment):
    output = tmp_path / "out"
    process = start(killed_while_writing, shards, output, moment, log=tmp_path / "log")
    process.join(600)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log.err").read_text()
    assert not (output / "summary.json").exists()
    assert list((output / "data").glob({"batch": ".train-*.part", "name": "train-*.parquet"}[moment]))
    scorer = ColourScorer()
    run(shards, output, scorer)
    assert scorer.calls == [] and content(output) == content(whole)


@pytest.mark.slow
def test_two_processes_of_accelerate_make_the_bytes_of_one(shards, tmp_path):
    words = ["curate", str(shards), "--limit", "45", "--scorer", "pixels", "--top-share", "0.5", "--deduplicate"]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "editreward.cli"]
    result = subprocess.run(
        [sys.executable, *launch, *words, "--output", str(tmp_path / "two")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Kept ") == 1
    assert cli.main([*words, "--output", str(tmp_path / "one")]) == 0
    assert content(tmp_path / "two") == content(tmp_path / "one")


FROM_THE_HUB = """
import sys
from huggingface_hub import HfApi
from editreward.cli.command import main

folder, output = sys.argv[1:]
api = HfApi()
api.create_repo("org/edits", repo_type="dataset")
api.upload_folder(repo_id="org/edits", repo_type="dataset", folder_path=folder)
words = ["--preset", "magicbrush", "--scorer", "pixels", "--top-k", "5", "--output", output]
sys.exit(main(["curate", "org/edits", *words]))
"""


@pytest.mark.slow
def test_a_published_set_is_streamed_from_the_hub_by_its_preset(tmp_path):
    rows = [
        {
            "img_id": str(number),
            "turn_index": 1,
            "source_img": {"bytes": file_of(source_image(number)), "path": f"{number}.png"},
            "mask_img": None,
            "instruction": "x",
            "target_img": {"bytes": file_of(painted(number, 0, 0)), "path": f"{number}.png"},
        }
        for number in range(8)
    ]
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    for shard_number in range(2):
        part = pa.Table.from_pylist(rows[4 * shard_number : 4 * shard_number + 4])
        pq.write_table(part, folder / f"train-{shard_number:05d}-of-00002.parquet")
    with Hub() as hub:
        done = run_with_hub(hub, tmp_path, FROM_THE_HUB, tmp_path / "set", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Kept 5 of 8 edits" in done.stdout
    (file,) = (tmp_path / "out" / "data").glob("*.parquet")
    assert {row["instruction"] for row in pq.read_table(file).to_pylist()} == {"x"}


def test_other_settings_are_refused_and_scores_are_used_again(shards, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(shards, tmp_path / "out", Stops())
    with pytest.raises(ValueError, match="unfinished run with other settings: fingerprint"):
        run(shards, tmp_path / "out", ColourScorer(fingerprint="other"))
    with pytest.raises(FileExistsError, match="complete already"):
        run(shards, whole)
    scorer = ColourScorer()
    outcome = run(shards, tmp_path / "again", scorer, Curation(Selection(top_k=7)), scores=whole)
    assert scorer.calls == [] and len(outcome.kept.left) == 7
    with pytest.raises(ValueError, match="has scores with other settings: untouched False became True"):
        run(shards, tmp_path / "gain", scorer, Curation(Selection(min_gain=1)), scores=whole)


def test_scores_with_the_untouched_source_are_used_again_without_it(shards, tmp_path):
    run(shards, tmp_path / "gain", curation=Curation(Selection(min_gain=60)))
    scorer = ColourScorer()
    outcome = run(shards, tmp_path / "out", scorer, Curation(Selection(top_k=7)), scores=tmp_path / "gain")
    assert scorer.calls == [] and len(outcome.kept.left) == 7


def table(folder, numbers, group=None):
    """A CSV of edits of different sources, all of one group where it is named."""
    folder.mkdir(exist_ok=True)
    lines = ["source,edited,instruction" + (",group" if group else "")]
    for number in numbers:
        (folder / f"s{number}.png").write_bytes(file_of(source_image(number)))
        (folder / f"e{number}.png").write_bytes(file_of(painted(number, number)))
        lines.append(f"s{number}.png,e{number}.png,x" + (f",{group}" if group else ""))
    (folder / "rows.csv").write_text("\n".join(lines))
    return str(folder / "rows.csv")


@pytest.mark.parametrize("numbers", [range(4), range(6)])
def test_a_source_that_lost_or_got_rows_since_it_was_scored_is_told(tmp_path, numbers):
    with open_source(table(tmp_path / "edits", range(5)), SourceOptions()) as source:
        curate(ColourScorer(), source, tmp_path / "out", Curation())
    what = "fewer" if len(numbers) < 5 else "more"
    with open_source(table(tmp_path / "edits", numbers), SourceOptions()) as source:
        with pytest.raises(ValueError, match=rf"rows\.csv .* has {what} groups than when it was scored. Score anew"):
            curate(ColourScorer(), source, tmp_path / "again", Curation(), scores=tmp_path / "out")


def test_edits_of_different_sources_in_one_group_are_not_taken_for_repeated(tmp_path):
    with open_source(table(tmp_path / "edits", range(5), "all"), SourceOptions()) as source:
        outcome = curate(ColourScorer(), source, tmp_path / "out", Curation(labels=5))
    assert len(outcome.kept.left) == 5 and len({edit.id for edit in outcome.kept.edits}) == 5
    labels = list(raw_groups(load_groups(tmp_path / "out" / "to_label")))
    assert len({row["group_id"] for row in labels}) == 5


def test_gain_is_over_the_untouched_source(shards, tmp_path):
    outcome = run(shards, tmp_path / "out", curation=Curation(Selection(min_gain=60)))
    for edit in outcome.kept.edits:
        if not edit.error:
            assert edit.gain == edit.means["overall"] - _source_reward(edit)
    left = [outcome.kept.edits[index] for index in outcome.kept.left]
    assert left and all(edit.gain >= 60 for edit in left)


def _source_reward(edit):
    """Of the source of an edit, whose number its id ends with: mean of red and green, and the instruction's length."""
    return (int(edit.id.split("/")[1]) + 10) / 2 + 1


def test_sources_of_a_benchmark_are_dropped(shards, tmp_path):
    row = {"instruction": "other", "source_images": [source_image(140)], "candidates": [{"image": painted(1)}]}
    write_groups([row], tmp_path / "bench")
    outcome = run(shards, tmp_path / "out", curation=Curation(exclude=[str(tmp_path / "bench")]))
    dropped = {outcome.kept.edits[i].id for i, why in outcome.kept.why.items() if "benchmark" in why}
    assert "1.tar/140" in dropped


def test_a_second_source_image_of_a_benchmark_drops_its_edit(tmp_path):
    bench = {"instruction": "other", "source_images": [noise(7)], "candidates": [{"image": painted(1)}]}
    write_groups([bench], tmp_path / "bench")
    rows = [
        {"instruction": "x", "source_images": images, "candidates": [{"image": painted(9)}]}
        for images in ([noise(1), noise(7)], [noise(2), noise(3)])
    ]
    write_groups(rows, tmp_path / "edits")
    with open_source(str(tmp_path / "edits"), SourceOptions()) as source:
        outcome = curate(ColourScorer(), source, tmp_path / "out", Curation(exclude=[str(tmp_path / "bench")]))
    assert [outcome.kept.edits[index].row for index in outcome.kept.left] == [1]


def test_labels_are_drawn_labelled_and_decide(shards, tmp_path):
    """Of what --label draws, edits from 30 on are labelled as good: at 90 % with 95 % confidence, most pass."""
    scorer = ColourScorer(scale=None)
    run(shards, tmp_path / "first", scorer, Curation(labels=120))
    drawn = list(raw_groups(load_groups(tmp_path / "first" / "to_label")))
    assert len(drawn) == 120 and all(len(row["candidates"]) == 1 for row in drawn)
    for row in drawn:
        red = Image.open(io.BytesIO(row["candidates"][0]["image"]["bytes"])).getpixel((0, 0))[0]
        row["candidates"][0]["scores"] = {RED: 4.0, GREEN: 4.0 if red >= 30 else 1.0}
    write_groups(drawn, tmp_path / "labelled")
    risk = RiskControl([Condition.parse(f"{GREEN}>=3")], str(tmp_path / "labelled"))
    outcome = run(shards, tmp_path / "out", scorer, Curation(risk=risk), scores=tmp_path / "first")
    numbers = [int(outcome.kept.edits[i].id.split("/")[1]) for i in outcome.kept.left]
    assert sum(n >= 30 for n in numbers) / len(numbers) >= 0.9 and len(numbers) >= 90
    assert outcome.control.labelled == 120
    assert "At least 90% of what passes" in (tmp_path / "out" / "report.md").read_text()
    with pytest.raises(ValueError, match="scores from 0 to 255, labels are from 1 to 4"):
        run(shards, tmp_path / "scale", ColourScorer(), Curation(risk=risk))
    with pytest.raises(ValueError, match="choose one"):
        Curation(Selection(top_k=3), risk)


def test_a_selection_that_leaves_nothing_says_what_dropped_it(shards, whole, tmp_path):
    curation = Curation(Selection(thresholds={"overall": 999}))
    with pytest.raises(ValueError, match=r"Nothing is left .*overall is below 999: 1\d\d"):
        run(shards, tmp_path / "out", curation=curation, scores=whole)


def test_the_command_repeats_itself_from_its_settings(shards, tmp_path, capsys):
    words = ["curate", str(shards), "--scorer", "pixels", "--per-source", "1", "--quota", "c0=5", "--quota", "*=9"]
    assert cli.main([*words, "--output", str(tmp_path / "a")]) == 1  # rows that could not be read
    out = capsys.readouterr().out
    assert "Kept 23 of" in out and "its category is full" in out and "faults.jsonl" in out
    settings = str(tmp_path / "a" / "settings.json")
    assert cli.main(["curate", "--settings", settings, "--output", str(tmp_path / "b")]) == 1
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert cli.main(["curate", "--settings", settings, "--top-k", "3", "--output", str(tmp_path / "c")]) == 2
    assert "it goes without 'top_k'" in capsys.readouterr().err
    for name, text in (("other.json", "{}"), ("list.json", '{"arguments": [1]}'), ("no.json", "no JSON")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert cli.main(["curate", "--settings", str(tmp_path / name), "--output", str(tmp_path / "c")]) == 2
        assert f"{name} holds no settings that `editreward curate` wrote" in capsys.readouterr().err
    assert cli.main(["curate", "--output", str(tmp_path / "c")]) == 2
    assert cli.main(["curate", "simulated", "--quota", "x", "--output", str(tmp_path / "c")]) == 2
    assert "--quota takes NAME=VALUE" in capsys.readouterr().err
