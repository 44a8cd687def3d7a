"""The Space as `editreward push space` uploads it runs alone, where only its requirements are installed."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

from editreward import EditRewardScorer
from editreward.cli import command as cli
from tests.helpers.environments import make_environment, required

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """The uploaded folder, and the address where its app runs."""
    work = tmp_path_factory.mktemp("space")
    folder = work / "upload"
    assert cli.main(["push", "space", "--repo-id", "org/Space", "--dry-run", str(folder)]) == 0
    requirements = (folder / "requirements.txt").read_text().splitlines()
    python = make_environment(work / "environment", required(requirements))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(work),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }
    elsewhere = subprocess.run([python, "-c", "import editreward"], cwd=work, env=environment, capture_output=True)
    assert b"ModuleNotFoundError" in elsewhere.stderr, "the package must not be installed there"
    with (work / "log").open("w") as log:
        process = subprocess.Popen([python, "app.py"], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        else:
            pytest.fail(f"The app did not start:\n{(work / 'log').read_text()}")
        yield folder, f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="links to installed packages need rights on Windows")
def test_the_uploaded_folder_ranks_edits_alone(served):
    folder, address = served
    instruction = (folder / "examples" / "scene" / "instruction.txt").read_text(encoding="utf-8").strip()
    source, *edited = sorted((folder / "examples" / "scene").glob("*.png"))
    files = [[handle_file(str(path)) for path in paths] for paths in ([source], edited)]
    result = Client(address, verbose=False).predict(files[0], instruction, files[1], api_name="/rank")
    expected = EditRewardScorer.from_pretrained(device="cpu").score(source, edited, instruction)
    rewards = sorted(candidate["reward"] for candidate in result["candidates"])
    assert rewards == pytest.approx(sorted(score.reward for score in expected), abs=1e-3)
