"""The package as others get it: built, installed into an empty environment, used outside the repository."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.environments import make_environment, required

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
ALL_HELP = """
import argparse
from editreward.cli.command import build_parser

def show(parser):
    parser.format_help()
    print(parser.prog)
    for action in parser._actions:
        for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            show(command)

show(build_parser())
"""

Run = Callable[..., str]


def build(kind: str, source: Path, output: Path) -> Path:
    """Build a "wheel" or "sdist" of a folder, as pip does."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(output)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return output / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git knows, and of new files."""
    work = tmp_path_factory.mktemp("sdist")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (work / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            (work / "copy" / name).write_bytes((ROOT / name).read_bytes())
    return build("sdist", work / "copy", work)


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Built from the sdist."""
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    return build("wheel", sdist.parent / sdist.name.removesuffix(".tar.gz"), sdist.parent)


def content(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.CRC for info in archive.infolist() if not info.filename.endswith("RECORD")}


def test_the_repository_builds_the_same_wheel_as_the_sdist(sdist, wheel, tmp_path):
    assert content(build("wheel", sdist.parent / "copy", tmp_path)) == content(wheel)


def test_the_wheel_holds_every_file_of_the_package_and_of_the_bundled_folders(sdist, wheel):
    copy, files = sdist.parent / "copy", content(wheel)
    for folder, prefix in {
        "editreward": "",
        **dict.fromkeys(("checkpoints", "configs", "dataset_card", "space"), "editreward/bundled/"),
    }.items():
        expected = {prefix + str(path.relative_to(copy)) for path in (copy / folder).rglob("*") if path.is_file()}
        assert expected <= files.keys(), sorted(expected - files.keys())
    assert not [name for name in files if name.startswith(("tests/", "research/", "docs/"))]


@pytest.fixture(scope="module", params=["environment", "target"])
def run(request, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python where the wheel is installed, in a new environment or with `pip install --target`."""
    work = tmp_path_factory.mktemp(request.param)
    names = required(["editreward[data,demo,eval,generate,annotate,space,train]"]) - {"editreward"}
    python = make_environment(work / "environment", names)
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(work), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if request.param == "target":
        install += ["--target", str(work / "target")]
        environment["PYTHONPATH"] = str(work / "target")
    subprocess.run([*install, str(wheel)], check=True)

    def run_python(*words: str) -> str:
        done = subprocess.run([python, *words], cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-3000:]}"
        return done.stdout

    where = run_python("-c", "import editreward; print(editreward.__file__)")
    assert where.startswith(str(work))
    return run_python


def test_every_help_is_printed(run):
    programs = run("-c", ALL_HELP).splitlines()
    assert {"editreward score", "editreward train", "editreward push space"} <= set(programs)


def test_the_demo_draws_its_picture(run):
    assert "Picture: demo.png" in run("-m", "editreward.cli", "demo", "--output", "demo.png")


def test_a_bundled_recipe_trains_a_model_that_scores_and_can_be_pushed(run):
    train = ["-m", "editreward.cli", "train", "--config", "tiny", "--output_dir", "run", "--max_steps", "2"]
    train += ["--simulated_train_groups", "8", "--simulated_eval_groups", "2", "--per_device_train_batch_size", "2"]
    train += ["--eval_strategy", "no", "--dataloader_num_workers", "0", "--dataloader_persistent_workers", "false"]
    run(*train)
    scene = run("-m", "editreward.resources", "space/examples/scene").strip()
    images = ["--source", f"{scene}/0-source.png", "--edited", f"{scene}/edit-a.png", f"{scene}/edit-b.png"]
    score = ["-m", "editreward.cli", "score", *images, "--instruction", "x", "--json"]
    assert len(json.loads(run(*score, "--model", "run"))["candidates"]) == 2
    assert json.loads(run(*score))["model"] == "editreward-tiny"
    run("-m", "editreward.cli", "push", "model", "--model", "run", "--repo-id", "org/name", "--dry-run", "pushed")


def test_the_space_starts_where_it_lies_and_as_it_is_pushed(run):
    start = (
        "import sys; sys.path.insert(0, sys.argv[1]); import app, editreward; print(app.demo and editreward.__file__)"
    )
    run("-c", start, run("-m", "editreward.resources", "space").strip())
    run("-m", "editreward.cli", "push", "space", "--repo-id", "org/name", "--dry-run", "space")
    assert Path(run("-c", start, "space").strip()).parts[-3:] == ("space", "editreward", "__init__.py")


def test_recipes_for_several_gpus_are_found(run):
    path = run("-m", "editreward.resources", "configs/accelerate/fsdp2.yaml").strip()
    run(
        "-c",
        "import sys; from accelerate.commands.config import config_args as c; c.load_config_from_file(sys.argv[1])",
        path,
    )
