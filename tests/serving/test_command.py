"""`editreward serve` as a process: what it says, what it refuses, how it ends."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import editreward.client
from editreward.cli import main
from editreward.serving import ray_environment
from editreward.serving.run import check_host, devices, read_token
from tests.helpers.scorers import painted
from tests.helpers.server import HTTP, body_of

SCORER = """
import time
from tests.helpers.scorers import ColourScorer

def slow():
    return ColourScorer(seconds=0.3)
"""


@pytest.fixture
def process(tmp_path):
    """A server in a process of its own, that takes 0.3 s for a pass."""
    (tmp_path / "slow_scorer.py").write_text(SCORER)
    command = [sys.executable, "-m", "editreward.cli", "serve", "--port", "0", "--max-edits", "1"]
    command += ["--scorer", str(tmp_path / "slow_scorer.py:slow")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as started:
        yield started
        if started.poll() is None:
            started.kill()


@pytest.mark.slow
def test_sigterm_finishes_what_was_accepted(process):
    lines = iter(process.stderr.readline, "")
    url = next(json.loads(line)["url"] for line in lines if '"serving"' in line)
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(HTTP.post(f"{url}/v1/score", json=body_of([painted(10)]), timeout=30))
        )
        for _ in range(4)
    ]
    assert HTTP.get(f"{url}/health", timeout=30).status_code == 200
    for thread in threads:
        thread.start()
    while "editreward_queued_edits 3.0" not in HTTP.get(f"{url}/metrics", timeout=30).text:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in found] == [200] * 4
    assert process.wait(30) == 0
    assert any('"stopped"' in line for line in lines)


def test_a_server_that_others_can_reach_needs_a_token(tmp_path, capsys):
    for host in ("0.0.0.0", "192.168.1.1", "example.org", "::"):
        with pytest.raises(ValueError, match="--token-file"):
            check_host(host, None)
        check_host(host, "0123456789abcdef")
    for host in ("127.0.0.1", "localhost", "::1"):
        check_host(host, None)
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "can be reached from other machines: give a `--token-file`" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["short", "", "with a space inside", "ümläut-ümläut-ümläut"])
def test_a_weak_token_is_refused(tmp_path, text):
    path = tmp_path / "token.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{path} must hold a token of 16")):
        read_token(path)
    path.write_text("0123456789abcdef\n")
    assert read_token(path) == "0123456789abcdef"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--allow-url", "http://host"], "looks like https://host/folder/"),
        (["--replicas", "0"], "`--replicas` is 0"),
        (["--shaping", "no.yaml"], "no.yaml"),
        (["--scorer", "ssim"], "the instruction of another group"),
        (["--config", "serve.yaml"], "add `--engine ray`"),
        (["--engine", "ray", "--config", "s.yaml", "--token-file", "t"], "`--token-file` has no effect with `--conf"),
        (["--engine", "ray", "--config", "s.yaml", "--scorer", "ssim"], "`--scorer` has no effect with `--config`"),
        (["--engine", "ray", "--passes", "4"], "`--passes` has no effect with `--engine ray`"),
        (["--engine", "ray", "--prices", "1", "2"], "`--prices` has no effect with `--engine ray`"),
        (["--engine", "ray", "--seed", "1"], "`--seed` has no effect with `--engine ray`"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_served(options, told, capsys):
    port = [] if "--config" in options else ["--port", "0"]
    assert main(["serve", *port, *options]) == 2
    assert told in capsys.readouterr().err


def test_gpus_take_turns(monkeypatch):
    assert devices(2) == [None, None]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices(3) == ["cuda:0", "cuda:1", "cuda:0"]


def test_the_written_client_is_one_file_that_imports_nothing_of_the_package(tmp_path, capsys):
    path = tmp_path / "editreward_client.py"
    assert main(["serve", "--write-client", str(path)]) == 0
    tree = ast.parse(path.read_text(), feature_version=(3, 10))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) == {"httpx", "PIL", "numpy"}
    assert path.read_text() == Path(editreward.client.__file__).read_text()
    code = "import editreward_client, sys; assert 'numpy' not in sys.modules and 'editreward' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"]})
    assert main(["serve", "--write-client", str(path)]) == 2  # nothing is overwritten
    assert "exists" in capsys.readouterr().err


def test_ray_is_on_loopback_unless_a_cluster_is_named(monkeypatch):
    for given, expected in (({}, "0"), ({"RAY_ADDRESS": "10.0.0.1:6379"}, None)):
        environment = dict(given)
        monkeypatch.setattr(ray_environment.os, "environ", environment)
        ray_environment.prepare()
        assert environment.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == expected
        assert environment.get("RAY_AUTH_MODE") == ("token" if expected else None)
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
