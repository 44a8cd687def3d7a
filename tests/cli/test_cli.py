"""The `editreward` command: tables, JSON, exit codes and one-line errors."""

import argparse
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from editreward import EditRewardScorer, __version__
from editreward.cli import command as cli
from editreward.cli import demo_groups as demo
from editreward.data.storage import write_groups
from editreward.reports.ranking import ranking_table
from editreward.simulation import simulate_groups

INSTRUCTION = "把红色的圆变成蓝色"


@pytest.fixture
def images(tmp_path: Path) -> dict[str, str]:
    paths = {}
    for name, colour in {"source": "red", "a": "blue", "b": "green", "c": "white"}.items():
        paths[name] = str(tmp_path / f"{name}.png")
        Image.new("RGB", (64, 48), colour).save(paths[name])
    return paths


@pytest.fixture
def score_arguments(images: dict[str, str], random_model_dir: Path) -> list[str]:
    """`editreward score` of three edits."""
    edited = [images[name] for name in "abc"]
    return [
        *("score", "--source", images["source"], "--edited", *edited, "--instruction", INSTRUCTION),
        *("--model", str(random_model_dir), "--device", "cpu"),
    ]


def test_score_prints_a_ranked_table(score_arguments, images, random_model_dir, capsys):
    assert cli.main(score_arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [line.split() for line in out.splitlines() if line[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert {row[1] for row in rows} == {images[name] for name in "abc"}
    assert INSTRUCTION in out and images["source"] in out
    assert out.count("(uncalibrated)") == 2 and "Note: The model is uncalibrated" in out
    scorer = EditRewardScorer.from_pretrained(random_model_dir, device="cpu")
    best = scorer.best_of(images["source"], [images[name] for name in "abc"], INSTRUCTION)
    assert rows[0][1] == images["abc"[best.index]]
    score = best.scores[best.index]
    for value in score.dimensions.values():
        assert f"{value.mean:.2f}" in rows[0]
    assert "±" not in out  # nobody has measured what this model's standard deviations are worth


def test_json_has_every_candidate_in_the_order_given(score_arguments, images, random_model_dir, capsys):
    assert cli.main([*score_arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    result = json.loads(out)
    scorer = EditRewardScorer.from_pretrained(random_model_dir, device="cpu")
    best = scorer.best_of(images["source"], [images[name] for name in "abc"], INSTRUCTION)
    assert result["instruction"] == INSTRUCTION and result["source"] == [images["source"]]
    assert result["best"] == best.index
    assert any("uncalibrated" in note for note in result["notes"])
    assert [candidate["file"] for candidate in result["candidates"]] == [images[name] for name in "abc"]
    assert [candidate["rank"] for candidate in result["candidates"]] == best.ranks
    for candidate, score, probability in zip(result["candidates"], best.scores, best.probabilities, strict=True):
        assert candidate["reward"] == pytest.approx(score.reward, abs=1e-5)
        assert candidate["probability_best"] == pytest.approx(probability, abs=1e-5)
        for name, value in score.dimensions.items():
            assert candidate["dimensions"][name]["mean"] == pytest.approx(value.mean, abs=1e-5)
            assert candidate["dimensions"][name]["calibrated"] is False
            assert candidate["dimensions"][name]["std_calibrated"] is False


def test_where_is_drawn_and_told(score_arguments, images, tmp_path, capsys):
    picture = tmp_path / "new" / "where.png"
    assert cli.main([*score_arguments, "--json", "--where", str(picture)]) == 0
    candidates = json.loads(capsys.readouterr().out)["candidates"]
    assert [one["where"]["method"] for one in candidates] == ["gradients"] * 3
    assert all(0 <= one["where"]["visual_quality"]["highest"] <= 1 for one in candidates)
    with Image.open(picture) as drawn:
        assert drawn.width > 700 and drawn.height > 700
    assert cli.main([*score_arguments, "--where", "where.txt"]) == 2
    assert "`--where where.txt` must end in .png" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("fault", ["spent", "unsaved"])
def test_scores_are_printed_though_where_cannot_be_drawn(images, tmp_path, capsys, monkeypatch, fault, as_json):
    picture = tmp_path / "where.png"
    if fault == "unsaved":
        picture.mkdir()
    else:
        monkeypatch.setattr("editreward.scorers.where.where", _spent)
    words = ["score", "--source", images["source"], "--edited", images["a"], images["b"], "--instruction", INSTRUCTION]
    words += ["--scorer", "ssim", "--where", str(picture), *(["--json"] if as_json else [])]
    assert cli.main(words) == 1
    out, err = capsys.readouterr()
    why = "the budget is spent" if fault == "spent" else "Is a directory"
    assert err == "" and f"`--where {picture}` could not be drawn: " in out and why in out
    if as_json:
        found = json.loads(out)
        assert all(one["reward"] is not None and "where" not in one for one in found["candidates"])
        assert why in found["notes"][-1]
    else:
        assert [line[0] for line in out.splitlines() if line[:1].isdigit()] == ["1", "2"] and "Picture" not in out


def _spent(scorer, group):
    raise ValueError("the budget is spent")


def test_source_and_edited_may_be_repeated(score_arguments, images, capsys):
    assert cli.main([*score_arguments, "--source", images["a"], "--edited", images["source"], "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["source"] == [images["source"], images["a"]]
    assert len(result["candidates"]) == 4


def test_the_table_shows_the_scale_of_a_calibrated_model(random_model_dir, images):
    scorer = EditRewardScorer.from_pretrained(random_model_dir, device="cpu")
    names = scorer.model.config.dimensions
    line = {"intercept": 2.5, "slope": 1.0, "std_factor": 2.0}
    scorer.model.config.calibration = {names[0]: line, names[1]: {"intercept": 2.5, "slope": 1.0}}
    best = scorer.best_of(images["source"], [images["a"]], "x")
    header, row = ranking_table(["a.png"], best).splitlines()
    assert header.count("(1..4)") == 3 and "overall (1..4)" in header and "uncalibrated" not in header
    assert row.startswith("1     a.png")
    # The dimension whose standard deviations are calibrated shows them; P(best) of one edit says nothing.
    assert row.count("±") == 1 and "%" not in row and "P(best)" not in header


def change(arguments: list[str], option: str, *values: str) -> list[str]:
    """The arguments with other values of one option."""
    start = arguments.index(option) + 1
    end = next((i for i in range(start, len(arguments)) if arguments[i].startswith("--")), len(arguments))
    return [*arguments[:start], *values, *arguments[end:]]


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("--source", ["missing.png"], "There is no file missing.png (`--source`)"),
        ("--edited", ["missing.png"], "There is no file missing.png (`--edited`)"),
        ("--edited", [__file__], "edited[0]"),
        ("--edited", [os.devnull], "is a pipe or a device, not an image file"),
        ("--instruction", [" "], "instruction is empty"),
        ("--model", ["no/such-model"], "no/such-model is neither a model folder nor a Hub repository"),
        ("--model", ["."], "no config.json"),
        ("--device", ["warp"], "'warp' cannot be used"),
        ("--dtype", ["int8"], "invalid choice: 'int8'"),
        ("--edited", [], "--edited: expected at least one argument"),
        ("--revision", ["v1"], "`--revision`: only with a `--dataset`"),
        ("--split", ["test"], "`--split`: only with a `--dataset`"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(score_arguments, option, values, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = score_arguments if option in score_arguments else [*score_arguments, option]
    try:
        code = cli.main(change(arguments, option, *values))
    except SystemExit as stop:  # argparse leaves this way
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("editreward score: error: ") and message in err


def test_debug_shows_the_traceback(score_arguments, capsys):
    assert cli.main([*change(score_arguments, "--source", "missing.png"), "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("editreward score: error: ")


def test_a_fault_of_the_program_is_told_by_its_type(score_arguments, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(EditRewardScorer, "__call__", fail)
    assert cli.main(score_arguments) == 2
    assert capsys.readouterr().err.endswith("ZeroDivisionError: division by zero (--debug shows the traceback)\n")


@pytest.mark.parametrize(
    ("words", "extra"),
    [(["score"], "data"), (["data", "check", "x"], "data"), (["merge"], "train"), (["bench", "genai-bench"], "eval")],
)
def test_a_package_that_is_not_installed_is_named_with_what_brings_it(words, extra, capsys, monkeypatch):
    def run(args):
        import no_such_package  # noqa: F401

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda *_: argparse.Namespace(**arguments))
    arguments = {"command": words[0], "command_parser": argparse.ArgumentParser(), "run": run, "debug": False}
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert f"No module named 'no_such_package': pip install \"editreward[{extra}]\"" in err
    assert len(err.splitlines()) == 1
    assert extra in metadata.metadata("editreward").get_all("Provides-Extra")


@pytest.mark.parametrize("output", ["demo", "demo.xyz", "folder/"])
def test_the_demos_picture_needs_a_name_that_can_be_written(output, capsys):
    assert cli.main(["demo", "--output", output]) == 2
    out, err = capsys.readouterr()
    assert out == "" and f"`--output {output}` must end in .png or .jpg" in err


def test_help_does_not_import_torch():
    code = (
        "import sys, editreward.cli.command as c\ntry: c.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "score" in result.stdout and "demo" in result.stdout


@pytest.mark.slow
def test_the_installed_command_runs(score_arguments, images, tmp_path):
    command = [str(Path(sys.executable).with_name("editreward")), *score_arguments, "--json"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, stdin=subprocess.DEVNULL
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert len(json.loads(result.stdout)["candidates"]) == 3


HALF_A_STREAM = """
import sys
from editreward.cli import command, main
from editreward.data.sources import raw_groups, stream_splits

def run(argv):
    kept.append(iter(raw_groups(stream_splits(sys.argv[1])["train"])))
    print(next(kept[0])["group_id"])
    return 3

kept = []
command.main = run
main()
"""


@pytest.mark.slow
def test_a_command_ends_with_its_status_whatever_stream_is_left(tmp_path):
    # Left to itself, Python aborts or waits for ever at its end, most times.
    write_groups((group.to_row() for group in simulate_groups(80, "train")), tmp_path / "groups")
    words = [sys.executable, "-c", HALF_A_STREAM, str(tmp_path / "groups")]
    for _ in range(2):
        ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        assert (ended.returncode, ended.stdout) == (3, "simulated-train-000000\n"), ended.stderr


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"editreward {__version__}\n"


def test_the_demo_recolours_the_crockery_and_nothing_else():
    photo, blue = demo.load_photo(), demo.recolour(demo.load_photo(), hue=150)
    saucer, coffee, wood = (130, 220), (290, 150), (540, 200)
    red, _, blueish = blue.getpixel(saucer)
    assert blueish > 2 * red
    for place in (coffee, wood):
        assert blue.getpixel(place) == photo.getpixel(place)


def test_demo_ranks_two_groups_and_draws_them(random_model_dir, tmp_path, capsys):
    output = tmp_path / "new folder" / "demo.png"
    arguments = ["demo", "--model", str(random_model_dir), "--device", "cpu", "--output", str(output)]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("rank  edited image") == 2 and "Simulated scene, held out from training" in out
    for name in ("as asked", "wrong colour", "blurred", "untouched"):
        assert name in out
    assert f"Picture: {output}" in out
    with Image.open(output) as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(2**24)) > 1000
    assert cli.main([*arguments, "--worlds", "shapes", "collage"]) == 0
    again = capsys.readouterr().out
    assert again.count("rank  edited image") == 3 and "Simulated collage, held out from training" in again
    first = out.index("Simulated scene")
    assert out[first : out.index("Edits of a photograph")] in again, "the demo is deterministic"
