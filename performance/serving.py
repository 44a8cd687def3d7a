"""The server against its own scorer: throughput, latency under load, an RL step, and a soak. Loopback only.

    python performance/serving.py throughput
    python performance/serving.py latency
    python performance/serving.py rl
    python performance/serving.py soak --requests 10000

The server is a process of its own with the bundled model; clients are threads of this one. Ways are measured in
turns, in wall-clock time and in CPU time of each process: on a machine that does other things only the latter says
something, and of a server whose clients are on other machines only its own counts. Set OMP_NUM_THREADS=1.
"""

import editreward.scripts

import argparse
import base64
import concurrent.futures
import contextlib
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
from PIL import Image

from editreward import load_scorer
from editreward.groups import EditGroup, Scorer
from editreward.serving.memory import keep_memory
from editreward.serving.schemas import ScoreRequest
from editreward.simulation import simulate_group
from images_editreward import load_image

CLIENTS = 32


@contextlib.contextmanager
def server(*options: str) -> Iterator[tuple[str, int]]:
    """A server in a process of its own; gives its address and process id."""
    command = [sys.executable, "-m", "editreward.cli", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = ""
        while not url:
            line = process.stderr.readline()
            if process.poll() is not None:
                raise RuntimeError(f"The server ended: {line}")
            if '"event": "serving"' in line:
                url = json.loads(line)["url"]
        pool = concurrent.futures.ThreadPoolExecutor(1)
        pool.submit(lambda: [None for _ in process.stderr or ()])  # its log must not fill the pipe
        yield url, process.pid
        process.terminate()
        process.wait()


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def simulated(count: int, edits: int = 1, seed: int = 0) -> list[EditGroup]:
    """Groups whose images are PNG files, as they come over the wire."""
    groups = []
    for number in range(seed, seed + count):
        made = simulate_group(number, candidates=edits)
        groups.append(EditGroup([png(made.source)], made.instruction, [png(one.image) for one in made.candidates]))
    return groups


def bodies(groups: Sequence[EditGroup], size: int) -> list[bytes]:
    """Requests of so many groups."""
    plain = [
        {
            "sources": [base64.b64encode(image).decode() for image in group.sources],  # type: ignore[arg-type]
            "instruction": group.instruction,
            "edited": [base64.b64encode(image).decode() for image in group.edited],  # type: ignore[arg-type]
        }
        for group in groups
    ]
    return [json.dumps({"groups": plain[i : i + size]}).encode() for i in range(0, len(plain), size)]


def connections(count: int) -> httpx.Client:
    """A client that keeps so many connections; loopback needs no certificates."""
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    return httpx.Client(timeout=600, limits=limits, trust_env=False, verify=False)


def send(url: str, requests: Sequence[bytes], clients: int) -> list[tuple[int, float]]:
    """Status and seconds of each request, sent by so many clients, each of which waits for its answers."""
    headers = {"Content-Type": "application/json"}
    with connections(clients) as http:

        def one(body: bytes) -> tuple[int, float]:
            started = time.perf_counter()
            status = http.post(f"{url}/v1/score", content=body, headers=headers).status_code
            return status, time.perf_counter() - started

        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            return list(pool.map(one, requests))


@dataclass(frozen=True)
class Spent:
    """What some work took, in seconds.

    Attributes:
        wall: wall-clock time.
        own: CPU time of this process.
        server: CPU time of the server.
    """

    wall: float
    own: float
    server: float = 0.0


def spent_on(work: Callable[[], Any], server: int | None = None) -> Spent:
    """Do some work; `server` is a process whose CPU time is looked at, too."""
    before = 0.0 if server is None else cpu_seconds(server)
    wall, own = time.perf_counter(), time.process_time()
    work()
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return Spent(wall, own, 0.0 if server is None else cpu_seconds(server) - before)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, on Linux."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shares(direct: Sequence[Spent], served: Sequence[Spent]) -> dict[str, Any]:
    """The scorer's own time over the server's, turn by turn."""
    turns = list(zip(direct, served, strict=True))
    ratios = {
        "CPU time of the server": [a.own / b.server for a, b in turns],
        "CPU time of server and clients": [a.own / (b.server + b.own) for a, b in turns],
        "wall-clock time": [a.wall / b.wall for a, b in turns],
    }
    return {
        name: {"median": statistics.median(found), "range": [min(found), max(found)]} for name, found in ratios.items()
    }


def stages(url: str) -> dict[str, float]:
    """Seconds that the server spent by stage."""
    text = httpx.get(f"{url}/metrics").text
    return {name: float(value) for name, value in re.findall(r'stage_seconds_sum{stage="(\w+)"} (\S+)', text)}


def in_lists(scorer: Scorer, groups: Sequence[EditGroup], size: int) -> None:
    for start in range(0, len(groups), size):
        scorer(groups[start : start + size])


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    """One edit per request from 32 clients, and lists of 16 from one, against the scorer on lists of 32 and 16."""
    scorer = load_scorer()
    groups = simulated(args.edits)
    ways = {
        "32 clients, one edit each": (bodies(groups, 1), CLIENTS, CLIENTS),
        "one client, lists of 16": (bodies(groups, 16), 1, 16),
    }
    direct: dict[str, list[Spent]] = {name: [] for name in ways}
    served: dict[str, list[Spent]] = {name: [] for name in ways}
    with server() as (url, pid):
        send(url, ways["32 clients, one edit each"][0][:CLIENTS], CLIENTS)
        scorer(groups[:CLIENTS])
        before = stages(url)
        for _ in range(args.repetitions):
            for name, (requests, clients, size) in ways.items():
                direct[name].append(spent_on(partial(in_lists, scorer, groups, size)))
                served[name].append(spent_on(partial(send, url, requests, clients), pid))
        wall = {name: value - before.get(name, 0) for name, value in stages(url).items()}
    ms = 1000 / len(groups)
    return {
        "share of the scorer's own throughput": {name: shares(direct[name], served[name]) for name in ways},
        "CPU ms per edit": {
            name: {
                "scorer": ms * statistics.median(one.own for one in direct[name]),
                "server": ms * statistics.median(one.server for one in served[name]),
                "clients": ms * statistics.median(one.own for one in served[name]),
            }
            for name in ways
        }
        | parts(groups, ways["32 clients, one edit each"][0]),
        "wall-clock seconds by stage": wall,
    }


def parts(groups: Sequence[EditGroup], requests: Sequence[bytes]) -> dict[str, float]:
    """CPU milliseconds per edit of what a server does beside scoring; decoding is in the scorer's own time, too."""
    texts = [[base64.b64encode(image) for image in (*group.sources, *group.edited)] for group in groups]  # type: ignore[arg-type]
    work: dict[str, Callable[[], Any]] = {
        "JSON": lambda: [ScoreRequest.model_validate(json.loads(body)) for body in requests],
        "base64": lambda: [base64.b64decode(text, validate=True) for group in texts for text in group],
        "decoding images": lambda: [
            load_image(image) for group in groups for image in (*group.sources, *group.edited)
        ],
    }
    return {name: 1000 * spent_on(one).own / len(groups) for name, one in work.items()}


def latency(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of single edits from more and more clients, up to overload of a queue of 32 edits."""
    rows = []
    requests = bodies(simulated(min(args.edits, 128)), 1)
    with server("--max-queued", "32") as (url, _):
        send(url, requests[:8], 8)
        for clients in (1, 2, 4, 8, 16, 32, 64, 128):
            asked = (requests * 2)[: max(clients * 2, 16)]
            started = time.perf_counter()
            found = send(url, asked, clients)
            seconds = time.perf_counter() - started
            good = sorted(second for status, second in found if status == 200)
            rows.append(
                {
                    "clients": clients,
                    "p50 s": statistics.median(good),
                    "p99 s": good[min(int(0.99 * len(good)), len(good) - 1)],
                    "edits a second": len(good) / seconds,
                    "statuses": dict(Counter(status for status, _ in found)),
                }
            )
    return rows


def rl(args: argparse.Namespace) -> dict[str, Any]:
    """An RL step: 16 prompts with 12 edits each arrive together. Seconds until all have their rewards.

    The published server's way, on the same weights and without HTTP: one group after another, each edit by itself, its
    source encoded and its prompt computed anew.
    """
    groups = simulated(args.prompts, 12)
    requests = bodies(groups, 1)
    scorer = load_scorer()
    alone = [EditGroup(group.sources, group.instruction, [edit]) for group in groups for edit in group.edited]
    scorer(alone[:2])
    with server() as (url, pid):
        send(url, requests[:2], 2)
        ours, theirs = [], []
        for _ in range(args.repetitions):
            ours.append(spent_on(lambda: send(url, requests, len(requests)), pid))
            theirs.append(spent_on(lambda: [scorer([one]) for one in alone]))
    return {
        "edits": len(alone),
        "server": {
            "wall s": statistics.median(one.wall for one in ours),
            "CPU s": statistics.median(one.server for one in ours),
        },
        "one after another": {
            "wall s": statistics.median(one.wall for one in theirs),
            "CPU s": statistics.median(one.own for one in theirs),
        },
        "times as fast": shares(theirs, ours),
    }


def bad_requests(good: bytes) -> list[tuple[bytes, str, str]]:
    """Ten bad requests, each with its content type and the field that its answer must name."""
    plain = json.loads(good)
    group = plain["groups"][0]
    kind = "application/json"

    def changed(**change: Any) -> bytes:
        return json.dumps({"groups": [group | change]}).encode()

    wide = base64.b64encode(png(Image.new("1", (9000, 9000)))).decode()
    return [
        (b"{", kind, "body"),
        (b'{"groups": []}', kind, "groups"),
        (changed(edited=[]), kind, "groups.0.edited"),
        (changed(instruction=""), kind, "groups.0.instruction"),
        (changed(edits=[]), kind, "groups.0.edits"),
        (changed(edited=["%%"]), kind, "groups.0.edited.0"),
        (changed(edited=[base64.b64encode(b"no image").decode()]), kind, "groups.0.edited.0"),
        (changed(edited=[group["edited"][0][:200]]), kind, "groups.0.edited.0"),
        (changed(sources=[wide]), kind, "groups.0.sources.0"),
        (changed(instruction="x" * 5000), kind, "groups.0.instruction"),
    ]


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """Many requests, 2 % of them bad in ten ways: none lost, each bad one answered with its own 4xx, memory flat."""
    draw = random.Random(0)
    good = bodies(simulated(32), 1)
    bad = bad_requests(good[0])
    plan = [draw.choice(bad) if draw.random() < 0.02 else None for _ in range(args.requests)]
    wrong: list[str] = []
    memory: list[float] = []
    with server() as (url, pid), connections(16) as http:

        def one(index: int) -> None:
            content, kind, field = plan[index] or (good[index % len(good)], "application/json", "")
            answer = http.post(f"{url}/v1/score", content=content, headers={"Content-Type": kind})
            names = [fault["field"] for fault in answer.json().get("fields", [])]
            is_right = answer.status_code == 200 if not field else 400 <= answer.status_code < 500 and field in names
            if not is_right:
                wrong.append(f"request {index}: {answer.status_code} {names}")

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for start in range(0, args.requests, max(args.requests // 20, 1)):
                list(pool.map(one, range(start, min(start + max(args.requests // 20, 1), args.requests))))
                memory.append(resident(pid))
    return {
        "requests": args.requests,
        "bad ones": sum(one is not None for one in plan),
        "wrong answers": wrong,
        "MiB resident": [round(one, 1) for one in memory],
        "growth of the second half": memory[-1] / memory[len(memory) // 2] - 1,
    }


def resident(pid: int) -> float:
    """MiB of a process, on Linux."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return int(re.findall(r"VmRSS:\s+(\d+)", file.read())[0]) / 1024


MEASURES = {"throughput": throughput, "latency": latency, "rl": rl, "soak": soak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--edits", type=int, default=128, help="of throughput and latency (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=16, help="of rl (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=10_000, help="of soak (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args()
    keep_memory()  # as the server does, so that ratios are of what serving costs
    load = os.getloadavg()[0]
    found = {"load average before": load, args.measure: MEASURES[args.measure](args)}
    text = json.dumps(found, indent=2)
    print(text)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
