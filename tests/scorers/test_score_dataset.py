"""`editreward score --dataset` and the scorer's stream: every row once, in order, bounded memory, after any stop."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from editreward.cli import command as cli
from editreward.data.sources import numbered_rows
from editreward.data.storage import write_groups
from editreward.scorers.dataset import score_dataset
from editreward.scorers.registry import CompletedScorer, load_scorer
from editreward.scorers.reward_model import EditRewardScorer, SkippedGroup
from editreward.simulation import simulate_group
from tests.helpers.pictures import file_of
from tests.helpers.processes import free_port
from tests.helpers.scorers import ColourScorer, Share, painted

ROWS = 7


@pytest.fixture(scope="module")
def scorer(random_model_dir) -> EditRewardScorer:
    return EditRewardScorer.from_pretrained(random_model_dir, device="cpu", max_batch_tokens=400)


def groups():
    return [simulate_group(number, candidates=1 + number % 3, size=84) for number in range(ROWS)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven groups, of which row 4 has no candidate and row 5 a file that is no image."""
    rows = [group.to_row() for group in groups()]
    rows[4]["candidates"] = []
    rows[5]["candidates"][1]["image"] = {"bytes": b"no image", "path": "broken.png"}
    folder = tmp_path_factory.mktemp("data") / "groups"
    write_groups(rows, folder)
    return folder


def read(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def arguments(group):
    return group.source, [candidate.image for candidate in group.candidates], group.instruction


def test_a_dataset_has_a_line_per_row_with_the_scorers_scores_or_the_reason(data, scorer, tmp_path):
    report = score_dataset(scorer, str(data), tmp_path / "scores.jsonl")
    records = read(tmp_path / "scores.jsonl")
    assert [record["row"] for record in records] == list(range(ROWS))
    assert list(tmp_path.iterdir()) == [tmp_path / "scores.jsonl"]
    for group, record in zip(groups(), records, strict=True):
        assert record["group_id"] == group.group_id
        if record["row"] == 4:
            assert record["candidates"] == [] and record["best"] is None
            continue
        if record["row"] == 5:  # its other candidates are scored
            assert [candidate["rank"] for candidate in record["candidates"]].count(None) == 1
            assert record["error"] is None and record["candidates"][1]["error"].startswith("edited[1] is not an image")
            assert record["candidates"][1]["reward"] is None and record["candidates"][0]["reward"] is not None
            continue
        best = scorer.best_of(*arguments(group))
        assert record["error"] is None and record["best"] == best.index
        for candidate, score in zip(record["candidates"], best.scores, strict=True):
            assert candidate["reward"] == pytest.approx(score.reward, abs=1e-5)
            quality = candidate["dimensions"]["visual_quality"]
            assert quality["std"] == pytest.approx(score.visual_quality.std, rel=1e-4)
    assert records[4]["error"].startswith("edited is an empty list")
    assert (report.groups, report.failed, report.reused) == (6, 2, 0)
    assert [name for name, _ in report.failures] == [groups()[4].group_id, groups()[5].group_id]


@pytest.mark.parametrize("kept", [0, 3, ROWS])
def test_a_run_that_was_stopped_goes_on_where_it_was(data, scorer, tmp_path, kept, monkeypatch):
    score_dataset(scorer, str(data), tmp_path / "whole.jsonl")
    output, part = tmp_path / "scores.jsonl", tmp_path / "scores.jsonl.part-0-of-1"
    with pytest.MonkeyPatch.context() as patch:  # stops before the parts become the output
        patch.setattr("editreward.scorers.dataset.write_scores", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_dataset(scorer, str(data), output)
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[: 1 + kept]) + (lines[1 + kept][:20] if kept < ROWS else b""))
    asked = []

    class Counting(CompletedScorer):
        def __call__(self, groups):
            asked.extend(groups)
            return super().__call__(groups)

    report = score_dataset(Counting(scorer), str(data), output)
    assert len(asked) == ROWS - kept and report.reused == kept
    for resumed, whole in zip(read(output), read(tmp_path / "whole.jsonl"), strict=True):
        assert resumed["row"] == whole["row"] and resumed["error"] == whole["error"]
        rewards = [[candidate["reward"] for candidate in record["candidates"]] for record in (resumed, whole)]
        assert rewards[0] == pytest.approx(rewards[1], abs=1e-5)


def test_a_run_goes_on_only_with_the_same_data_and_model(data, scorer, tmp_path):
    output = tmp_path / "scores.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("editreward.scorers.dataset.write_scores", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_dataset(scorer, str(data), output, limit=1)
    another = CompletedScorer(scorer)
    another.fingerprint = "another"
    with pytest.raises(ValueError, match="unfinished run.*fingerprint"):
        score_dataset(another, str(data), output)
    with pytest.raises(ValueError, match="another number of processes"):
        score_dataset(scorer, str(data), output, processes=Share(0, 2))
    assert score_dataset(scorer, str(data), output, limit=2).groups == 2
    with pytest.raises(FileExistsError, match="there already"):
        score_dataset(scorer, str(data), output)


def stopped(scorer, data, output, **options):
    """Leave what a run leaves that is killed before its parts become the output."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("editreward.scorers.dataset.write_scores", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_dataset(scorer, str(data), output, **options)


@pytest.mark.parametrize("remade", [[0, 1, 2, 9, 4, 5], [9, 1, 2, 3, 4, 5], [0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7]])
@pytest.mark.parametrize("limit", [None, 5])
def test_of_a_dataset_that_was_made_anew_only_equal_rows_keep_their_scores(tmp_path, remade, limit):
    data, output, asked = tmp_path / "groups", tmp_path / "scores.jsonl", []

    class Asked(CompletedScorer):
        def __call__(self, groups):
            asked.extend(group.group_id for group in groups)
            return super().__call__(groups)

    scorer = Asked(load_scorer("ssim"))
    write_groups((simulate_group(number, candidates=2, size=84).to_row() for number in range(6)), data)
    stopped(scorer, data, output, limit=limit)
    asked.clear()
    rows = [simulate_group(number, candidates=2, size=84).to_row() for number in remade]
    write_groups(rows, data)
    report = score_dataset(scorer, str(data), output, limit=limit)
    ids = [row["group_id"] for row in rows][:limit]
    same = next((place for place, number in enumerate(remade) if number != place), len(remade))
    same = min(same, 6 if limit is None else limit)
    assert [record["group_id"] for record in read(output)] == ids
    assert asked == ids[same:] and report.reused == same
    assert report.changed == (min(6, limit or 6) - same)


def test_an_image_that_changes_is_scored_anew(tmp_path):
    data, output = tmp_path / "groups", tmp_path / "scores.jsonl"
    rows = [simulate_group(number, candidates=2, size=84).to_row() for number in range(3)]
    write_groups(rows, data)
    scorer = load_scorer("ssim")
    stopped(scorer, data, output)
    rows[1]["candidates"][0]["image"] = rows[1]["source_images"][0]
    write_groups(rows, data)
    report = score_dataset(scorer, str(data), output)
    assert (report.reused, report.changed) == (1, 2)
    assert read(output)[1]["candidates"][0]["reward"] == pytest.approx(1.0)


def test_a_run_that_was_killed_after_its_output_was_there_ends_well_and_leaves_nothing(tmp_path):
    data, output = tmp_path / "groups", tmp_path / "scores.jsonl"
    write_groups((simulate_group(number, candidates=2, size=84).to_row() for number in range(3)), data)
    scorer = load_scorer("ssim")
    stopped(scorer, data, output)
    part = tmp_path / "scores.jsonl.part-0-of-1"
    kept = part.read_bytes()
    score_dataset(scorer, str(data), output)
    written = output.read_bytes()
    part.write_bytes(kept)
    assert score_dataset(scorer, str(data), output).reused == 3
    assert output.read_bytes() == written and not part.exists()
    part.write_bytes(kept)
    output.write_text("something else")
    with pytest.raises(FileExistsError, match="other content"):
        score_dataset(scorer, str(data), output)
    assert output.read_text() == "something else"


def test_a_second_run_of_one_output_is_told_and_a_dead_runs_lock_keeps_nobody(tmp_path):
    data, output = tmp_path / "groups", tmp_path / "scores.jsonl"
    write_groups((simulate_group(number, candidates=2, size=84).to_row() for number in range(3)), data)
    code = "import sys, time; from editreward.files import alone_at\n"
    code += "with alone_at(sys.argv[1]): print('locked', flush=True); time.sleep(600)"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(output.with_name("scores.jsonl.0"))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match="Another run is writing .*scores.jsonl"):
            score_dataset(load_scorer("ssim"), str(data), output)
    finally:
        other.kill()
        other.wait()
    assert (tmp_path / ".scores.jsonl.0.lock").exists()
    assert score_dataset(load_scorer("ssim"), str(data), output).groups == 3
    assert sorted(tmp_path.iterdir()) == [data, output]


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_rows_and_the_output_has_them_in_order(data, scorer, tmp_path, count):
    output = tmp_path / "scores.jsonl"
    reports = [score_dataset(scorer, str(data), output, processes=Share(index, count)) for index in range(count)]
    assert reports[:-1] == [None] * (count - 1)
    assert [record["row"] for record in read(output)] == list(range(ROWS))
    # The whole of row 4 failed, and a candidate of row 5.
    assert (reports[-1].groups, reports[-1].failed) == (ROWS - 1, 2)


def test_parquet_has_the_same_rows(data, scorer, tmp_path):
    for suffix in ("jsonl", "parquet"):
        score_dataset(scorer, str(data), tmp_path / f"scores.{suffix}", limit=6)
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(rows) == 6
    for row, record in zip(rows, read(tmp_path / "scores.jsonl"), strict=True):
        spreads = [candidate.pop("pass_std") for candidate in row["candidates"]]  # a column of scorers that write
        assert row == record and set(spreads) <= {None}


def test_rows_are_read_one_at_a_time_as_they_are_needed(data):
    numbers = [number for number, _ in numbered_rows("simulated", "train", 3, 2, limit=8)]
    assert numbers == [3, 5, 7]
    endless = numbered_rows("simulated", "train", 0, 1, limit=10**9)
    assert next(endless)[1]["group_id"] == "simulated-train-000000"
    assert [number for number, _ in numbered_rows(str(data), "train", 1, 3, limit=6)] == [1, 4]


@pytest.mark.parametrize("workers", [0, 3])
def test_a_stream_holds_a_few_batches_of_groups_and_keeps_their_order(random_model_dir, workers):
    scorer = EditRewardScorer.from_pretrained(random_model_dir, device="cpu", max_batch_tokens=300)
    scorer.num_workers = workers
    group = groups()[0]
    tokens = scorer.processor.pack(*arguments(group)).num_tokens
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            broken = len(taken) % 5 == 0
            yield group.source, [group.candidates[0].image], " " if broken else f"number {len(taken)}"

    stream = scorer.stream(endless())
    most = 0
    for number in range(40):
        result = next(stream)
        most = max(most, len(taken) - number)
        if number % 5 == 4:
            assert isinstance(result, SkippedGroup) and result.index == number
        else:
            alone = scorer.score(group.source, [group.candidates[0].image], f"number {number + 1}")
            assert result[0].reward == pytest.approx(alone[0].reward, abs=1e-5)
    assert most <= 5 / 4 * (4 * 300 / tokens + 1) + 2 * workers + 2, most
    stream.close()


def test_threads_prepare_what_one_thread_prepares(random_model_dir):
    scorer = EditRewardScorer.from_pretrained(random_model_dir, device="cpu")
    batch = [arguments(group) for group in groups()] * 3
    batch[5] = (batch[5][0], [], "nothing")
    alone = list(scorer.stream(batch))
    scorer.num_workers = 4
    for one, other in zip(alone, scorer.stream(batch), strict=True):
        assert one == other


def test_the_command_lists_bad_rows_and_exits_with_1(data, random_model_dir, tmp_path, capsys):
    model = ["--model", str(random_model_dir), "--device", "cpu"]
    output = tmp_path / "scores.jsonl"
    assert cli.main(["score", "--dataset", str(data), "--output", str(output), *model]) == 1
    out, err = capsys.readouterr()
    assert err == "" and "6 groups with" in out and "2 groups or candidates could not be scored" in out
    assert f"{groups()[5].group_id}: edited[1] is not an image" in out and "uncalibrated" in out
    simulated = ["score", "--dataset", "simulated", "--limit", "2", "--output", str(tmp_path / "simulated.parquet")]
    assert cli.main([*simulated, *model]) == 0
    assert pq.read_metadata(tmp_path / "simulated.parquet").num_rows == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "DATA"], "--output"),
        (["--dataset", "DATA", "--output", "a.txt"], "must end in .csv, .jsonl, .parquet"),
        (["--dataset", "DATA", "--output", "a.jsonl", "--instruction", "x"], "without --instruction"),
        (["--dataset", "simulated", "--output", "a.jsonl"], "--limit"),
        (["--dataset", "simulated", "--limit", "0", "--output", "a.jsonl"], "`--limit` must be at least 1"),
        (["--dataset", "simulated", "--split", "no", "--limit", "1", "--output", "a.jsonl"], "no split 'no'"),
        (["--dataset", "nowhere/at/all", "--output", "a.jsonl"], "nowhere/at/all"),
        (["--source", "a.png", "--instruction", "x"], "--edited"),
        (["--source", "a.png", "--edited", "b.png", "--instruction", "x", "--limit", "3"], "only with a `--dataset`"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(words, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(["score", *(str(data) if word == "DATA" else word for word in words)])
    except SystemExit as exit:
        status = exit.code
    err = capsys.readouterr().err
    assert status == 2 and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_process_loses_no_row_that_it_had_written(tmp_path, random_model_dir):
    output = tmp_path / "scores.jsonl"
    command = [sys.executable, "-m", "editreward.cli", "score", "--dataset", "simulated", "--limit", "10000"]
    command += ["--output", str(output), "--model", str(random_model_dir), "--device", "cpu"]
    part = tmp_path / "scores.jsonl.part-0-of-1"
    with subprocess.Popen([*command, "--max-batch-tokens", "100"]) as process:
        while not part.exists() or part.read_bytes().count(b"\n") < 4:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = part.read_bytes().count(b"\n") - 1
    command[command.index("10000")] = str(kept + 3)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{kept} of them by an earlier run" in done.stdout
    assert [record["row"] for record in read(output)] == list(range(kept + 3))


@pytest.mark.slow
def test_two_machines_score_the_rows_of_one(tmp_path, random_model_dir):
    """As docs/scale.md says, with a process on each of two machines, both of which are this one."""
    score = ["score", "--dataset", "simulated", "--limit", "7", "--model", str(random_model_dir)]
    assert cli.main([*score, "--output", str(tmp_path / "one.jsonl"), "--device", "cpu"]) == 0
    port = str(free_port())
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--num_machines", "2", "--num_processes", "2"]
    launch += ["--main_process_ip", "127.0.0.1", "--main_process_port", port]
    machines = [
        subprocess.Popen(
            [*launch, "--machine_rank", rank, "-m", "editreward.cli", *score, "--output", str(tmp_path / "two.jsonl")],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    told = [machine.communicate(timeout=600)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], told
    one, two = read(tmp_path / "one.jsonl"), read(tmp_path / "two.jsonl")
    assert [record["row"] for record in two] == list(range(7))
    for expected, found in zip(one, two, strict=True):
        for first, second in zip(expected.pop("candidates"), found.pop("candidates"), strict=True):
            assert second["reward"] == pytest.approx(first["reward"], abs=1e-5)
        assert found == expected


def test_images_are_never_taken_from_elsewhere(data, scorer, tmp_path, monkeypatch):
    # The name that is stored with an image may be that of a file here.
    Image.new("RGB", (64, 64)).save(tmp_path / "broken.png")
    monkeypatch.chdir(tmp_path)
    score_dataset(scorer, str(data), "scores.jsonl")
    assert "is not an image" in read(tmp_path / "scores.jsonl")[5]["candidates"][1]["error"]


class Rows:
    """Five groups of one edit, of images of 200 bytes or so."""

    name, rows, columns, faults = "rows", 0, {}, ()

    def number(self):
        return 5

    def group_rows(self, start=0, step=1, limit=None):
        for number in range(start, 5, step):
            image = {"bytes": file_of(painted(number)), "path": None}
            yield number, {"instruction": "x", "source_images": [image], "candidates": [{"image": image}]}


@pytest.mark.parametrize(("images", "calls"), [(1, [1] * 5), (4, [2, 2, 1]), (99, [3, 2])])
def test_fewer_groups_are_read_at_a_time_where_images_are_large(tmp_path, monkeypatch, images, calls):
    """Three groups at most, and so many images of all that a call may hold."""
    monkeypatch.setattr("editreward.scorers.dataset.GROUPS_PER_CALL", 3)
    monkeypatch.setattr("editreward.scorers.dataset.BYTES_PER_CALL", images * len(file_of(painted(1))) + 20)
    colours = ColourScorer()
    score_dataset(colours, Rows(), tmp_path / "scores.jsonl")
    assert colours.calls == calls and [row["row"] for row in read(tmp_path / "scores.jsonl")] == list(range(5))
