"""Ray Serve: the same answers from two replicas, and a killed one loses no request of our client."""

import concurrent.futures
import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

pytest.importorskip("ray", reason='no Ray: pip install -e ".[ray]", as make test-rest does')
import grpc  # comes with Ray

from editreward.cli import main
from editreward.client import Client
from editreward.serving.ray_app import DEPLOYMENT, NAME, RayArguments, run_config
from editreward.validation import validated
from tests.helpers.processes import free_port
from tests.helpers.scorers import painted
from tests.helpers.server import body_of

pytestmark = pytest.mark.slow  # only `make test-rest` installs Ray

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "serve").glob("*.yaml"))
SCORER = """
import time
from tests.helpers.scorers import ColourScorer

class Slow(ColourScorer):
    def __call__(self, groups):
        if any(group.instruction == "slow" for group in groups):
            time.sleep(15)
        return super().__call__(groups)

def slow():
    return Slow(seconds=0.1)
"""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_what_ray_serve_takes_and_stay_on_loopback(path):
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load(path.read_text())
    schema = ServeDeploySchema.model_validate(content)
    (ours,) = schema.applications
    assert ours.import_path == "editreward.serving.ray_app:build"
    assert validated(RayArguments, ours.args, "args").scorer == "org/EditReward"
    (deployment,) = content["applications"][0]["deployments"]
    assert deployment["name"] == NAME and deployment["backpressure_config"] == DEPLOYMENT["backpressure_config"]
    assert content["http_options"]["host"] == "127.0.0.1" and "dashboard-host=0" not in path.read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"args": {"scorrer": "x"}}, "scorrer is unknown"),
        ({"import_path": "other:app"}, "must be one, with `import_path"),
        ({"deployments": [{"name": "Other"}]}, "called EditReward, not 'Other'"),
    ],
)
def test_a_wrong_config_is_refused_before_ray_starts(tmp_path, change, told):
    content = yaml.safe_load(CONFIGS[0].read_text())
    content["applications"][0] |= change
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=told):
        run_config(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "must have entries, not None"),
        ("[]", "must have entries"),
        ("applications: 3", "applications"),
        ("applications: [3]", "applications, entry 1 must have entries"),
        ("{", "is not YAML"),
    ],
)
def test_a_config_of_another_form_is_refused_by_name(tmp_path, content, told):
    path = tmp_path / "serve.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path}.*{told}"):
        run_config(path)


def test_a_config_that_others_can_reach_needs_a_token(tmp_path):
    content = yaml.safe_load(CONFIGS[0].read_text())
    content["http_options"]["host"] = "0.0.0.0"
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="--token-file"):
        run_config(path)


def test_a_config_needs_the_engine(capsys):
    assert main(["serve", "--config", str(CONFIGS[0])]) == 2
    assert "add `--engine ray`" in capsys.readouterr().err


def replicas():
    """Process ids of the replicas that run on this machine."""
    titles = {int(one.parent.name): one.read_bytes() for one in Path("/proc").glob("[0-9]*/cmdline") if one.is_file()}
    return [pid for pid, title in titles.items() if title.startswith(b"ray::ServeReplica") and NAME.encode() in title]


@pytest.fixture
def ray_server(tmp_path):
    """`editreward serve --engine ray` with two replicas, in a process of its own."""
    (tmp_path / "slow_scorer.py").write_text(SCORER)
    content = yaml.safe_load((ROOT / "configs" / "serve" / "one_machine.yaml").read_text())
    port = free_port()
    content["http_options"]["port"] = port
    content["applications"][0]["args"] = {"scorer": f"{tmp_path / 'slow_scorer.py'}:slow", "max_edits": 4}
    (deployment,) = content["applications"][0]["deployments"]
    deployment |= {"ray_actor_options": {"num_cpus": 0.1}, "health_check_period_s": 1}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "editreward.cli", "serve", "--engine", "ray"]
    command += ["--config", str(tmp_path / "serve.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    log = tmp_path / "log.txt"
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment | {"PYTHONPATH": str(ROOT)}) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 600
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            with contextlib.suppress(httpx.TransportError):
                if len(replicas()) == 2 and httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            time.sleep(1)
        yield url, process, log
        if process.poll() is None:
            process.terminate()


def is_loopback(address):
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def listening(process):
    """Where the process and its children listen: address, port and title of the process."""
    everyone = [process, *process.children(recursive=True)]
    return [
        (found.laddr.ip, found.laddr.port, " ".join(one.cmdline()))
        for one in everyone
        for found in one.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN
    ]


def refusal(port):
    """What a gRPC server says to a caller without a token."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=30)
    return error.value.code()


def test_a_killed_replica_loses_no_request_and_sigterm_ends_it_all(ray_server):
    url, process, log = ray_server
    with Client(url, timeout=600) as client:

        def ask(red):
            return client.rewards(sources=[painted(1)], edited=[painted(red)], instructions=["x"])

        assert ask(40) == [21]
        ports = listening(psutil.Process(process.pid))
        assert len({port for address, port, _ in ports if is_loopback(address)} | {httpx.URL(url).port}) > 1
        # A port of each replica is on all addresses, as SECURITY.md says; without the token it answers nobody.
        seen = [(title, port) for address, port, title in ports if not is_loopback(address)]
        assert all(title.startswith("ray::ServeReplica") for title, _ in seen), seen
        assert {refusal(port) for _, port in seen} <= {grpc.StatusCode.UNAUTHENTICATED}

        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            asked = [pool.submit(ask, 2 * (i % 100)) for i in range(200)]
            time.sleep(1)
            os.kill(replicas()[0], signal.SIGKILL)
            found = [one.result() for one in asked]
    assert found == [[i % 100 + 1] for i in range(200)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        body = body_of([painted(40)], instruction="slow")
        accepted = [pool.submit(httpx.post, f"{url}/v1/score", json=body, timeout=120) for _ in range(4)]
        time.sleep(5)
        process.terminate()
        assert [one.result().status_code for one in accepted] == [200] * 4
    assert process.wait(120) == 0, log.read_text()[-3000:]
