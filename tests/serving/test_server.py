"""The server: scores, batches, overload, deadlines, limits, the token, what is logged and counted."""

import asyncio
import base64
import concurrent.futures
import contextlib
import json
import logging
import socket
import threading
import time

import httpx
import pytest
from PIL import Image
from starlette.datastructures import URL

from editreward import load_scorer
from editreward.rewards import Gate, Shaping
from editreward.serving import AsyncClient, Client, NoReward, ServerError
from editreward.serving.errors import RequestError
from editreward.serving.service import AskedGroup, Service
from editreward.serving.settings import Limits, Settings
from editreward.simulation import simulate_group
from tests.helpers.scorers import ColourScorer, painted
from tests.helpers.server import HTTP, body_of, serving, text_of

EDITS = [painted(10, 20, 2), painted(200, 100, 4), painted(0, 40, 6)]


def test_scores_are_the_scorers_own():
    scorer = load_scorer()
    group = simulate_group(3, candidates=3)
    edited = [candidate.image for candidate in group.candidates]
    expected = scorer.best_of(group.source, edited, group.instruction)
    with serving(scorer) as url, Client(url) as client:
        (found,) = client.score([{"sources": [group.source], "instruction": group.instruction, "edited": edited}])
        rewards = client.rewards(sources=[group.source] * 3, edited=edited, instructions=[group.instruction] * 3)
        about = client.about()
    for plain, own in zip(found["candidates"], expected.to_dict()["candidates"], strict=True):
        assert plain["reward"] == pytest.approx(own["reward"], abs=1e-5)
        assert plain["reward_std"] == pytest.approx(own["reward_std"], abs=1e-5)
        assert plain["probability_best"] == pytest.approx(own["probability_best"], abs=1e-5)
        assert plain["dimensions"].keys() == own["dimensions"].keys()
        assert all(
            plain["dimensions"][k]["mean"] == pytest.approx(own["dimensions"][k]["mean"], abs=1e-5)
            for k in own["dimensions"]
        )
    assert found["best"] == expected.index and found["preferences"][0][0] == pytest.approx(0.5)
    assert rewards == pytest.approx([one.reward for one in expected.scores], abs=1e-5)
    assert about["limits"]["groups"] == 64 and type(about["limits"]["groups"]) is int
    assert about["fingerprint"] == scorer.fingerprint and about["dimensions"] == list(scorer.dimensions)


def open_when_queued(gate, url, edits):
    """Let the scorer go on when so many edits wait."""
    while f"editreward_queued_edits {edits}.0" not in httpx.get(f"{url}/metrics", timeout=60).text:
        time.sleep(0.05)
    gate.set()


def test_concurrent_single_requests_share_passes():
    scorer = ColourScorer(gate=threading.Event())
    with serving(scorer) as url, Client(url, timeout=60) as client:

        def ask(red):
            return client.rewards(sources=[painted(1)], edited=[painted(red)], instructions=["x"])

        with concurrent.futures.ThreadPoolExecutor(65) as pool:
            first = pool.submit(ask, 0)
            while not scorer.calls:
                time.sleep(0.01)
            others = [pool.submit(ask, red) for red in range(2, 128, 2)]
            open_when_queued(scorer.gate, url, 63)
            found = [one.result() for one in (first, *others)]
    assert found == [[red / 2 + 1] for red in range(0, 128, 2)]
    assert scorer.calls == [1, 63]


def test_async_calls_share_passes_too():
    scorer = ColourScorer(gate=threading.Event())

    async def ask(url):
        async with AsyncClient(url, timeout=60) as client:

            def one(red):
                return client.rewards(sources=[painted(1)], edited=[painted(red)], instructions=["x"])

            first = asyncio.ensure_future(one(0))
            while not scorer.calls:
                await asyncio.sleep(0.01)
            opened = asyncio.to_thread(open_when_queued, scorer.gate, url, 49)
            *found, _ = await asyncio.gather(first, *map(one, range(2, 100, 2)), opened)
            return found, (await client.about())["name"]

    with serving(scorer) as url:
        found, name = asyncio.run(ask(url))
    assert found == [[red / 2 + 1] for red in range(0, 100, 2)] and name == "colours"
    assert scorer.calls == [1, 49]


def test_one_bad_image_costs_its_own_edit_only():
    white = painted(255, 255, 255)
    body = body_of([EDITS[0], EDITS[1], white])
    body["groups"][0]["edited"].insert(1, base64.b64encode(b"no image").decode())
    body["groups"].append({"sources": ["%"], "instruction": "x", "edited": [text_of(EDITS[0])], "group_id": "bad"})
    with serving(ColourScorer()) as url:
        answer = HTTP.post(f"{url}/v1/score", json=body)
        assert answer.status_code == 200
        first, second = answer.json()["groups"]
        with Client(url) as client, pytest.raises(NoReward, match="1 of 2 edits have no reward; edit 1: white is no"):
            client.rewards(sources=[EDITS[0]] * 2, edited=[EDITS[0], white], instructions=["x"] * 2)
    assert [one["shaped"] for one in first["candidates"]] == [16, None, 151, None]
    assert [one["rank"] for one in first["candidates"]] == [2, None, 1, None] and first["best"] == 2
    assert "not an image" in first["candidates"][1]["error"]
    assert first["candidates"][3]["error"] == "white is no colour"
    assert first["preferences"][0][1] is None and first["preferences"][0][2] == pytest.approx(0, abs=1e-3)
    assert second["group_id"] == "bad" and "base64" in second["error"] and second["candidates"][0]["shaped"] is None


def test_rewards_are_shaped_as_the_server_was_told():
    shaping = Shaping(win_rate=True, gate=Gate("visual_quality", 30, -1))
    with serving(ColourScorer(), shaping) as url, Client(url) as client:
        found = client.rewards(sources=[painted(1)] * 3, edited=EDITS, instructions=["x"] * 3)
        assert client.about()["shaping"]["gate"] == {"dimension": "visual_quality", "floor": 30, "value": -1}
        with pytest.raises(NoReward, match="two scored edits"):
            client.rewards(sources=[painted(1)], edited=EDITS[:1], instructions=["x"])
    assert found[0] == -1 and found[1] == pytest.approx(1, abs=1e-3) and 0 < found[2] < 1


def test_uploaded_files_are_scored_without_base64(tmp_path):
    files = {name: (name, base64.b64decode(text_of(image))) for name, image in zip("sab", EDITS, strict=True)}
    request = {"groups": [{"sources": ["s"], "instruction": "x", "edited": ["a", "b"]}]}
    with serving(ColourScorer()) as url:
        answer = HTTP.post(f"{url}/v1/score/files", data={"request": json.dumps(request)}, files=files)
        assert [one["reward"] for one in answer.json()["groups"][0]["candidates"]] == [151, 21]
        del files["b"]
        answer = HTTP.post(f"{url}/v1/score/files", data={"request": json.dumps(request)}, files=files)
        assert answer.status_code == 422
        assert answer.json()["fields"] == [
            {"field": "request.groups.0.edited.1", "reason": "the form has no file 'b'"}
        ]


def test_a_full_queue_is_429_and_the_client_comes_again():
    scorer = ColourScorer(seconds=0.05)
    settings = Settings(max_queued=4, max_edits=2, max_wait=0)
    statuses = []
    with serving(scorer, settings=settings) as url, httpx.Client() as http, Client(url, timeout=60) as client:

        def raw(red):
            answer = http.post(f"{url}/v1/score", json=body_of([painted(red)]), timeout=30)
            statuses.append((answer.status_code, answer.headers.get("retry-after")))

        def ask(red):
            return client.rewards(sources=[painted(1)], edited=[painted(red)], instructions=["x"])

        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            list(pool.map(raw, range(40)))
            assert list(pool.map(ask, range(0, 60, 2))) == [[red / 2 + 1] for red in range(0, 60, 2)]
    assert {status for status, _ in statuses} == {200, 429}
    assert all(int(wait) >= 1 for status, wait in statuses if status == 429)


def test_a_late_request_costs_no_pass():
    gate = threading.Event()
    scorer = ColourScorer(gate=gate)
    with serving(scorer, settings=Settings(max_wait=0)) as url:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(HTTP.post, f"{url}/v1/score", json=body_of(EDITS[:1]), timeout=30)
            while not scorer.calls:
                time.sleep(0.005)
            late = HTTP.post(f"{url}/v1/score", json=body_of(EDITS[1:]), headers={"X-Timeout-Seconds": "0.1"})
            assert late.status_code == 504
            gate.set()
            assert first.result().status_code == 200
        assert HTTP.post(f"{url}/v1/score", json=body_of(EDITS[:1])).status_code == 200
    assert scorer.calls == [1, 1]


def test_a_client_that_is_gone_costs_no_pass():
    gate = threading.Event()
    scorer = ColourScorer(gate=gate)
    with serving(scorer, settings=Settings(max_wait=0)) as url:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(HTTP.post, f"{url}/v1/score", json=body_of(EDITS[:1]), timeout=30)
            while not scorer.calls:
                time.sleep(0.005)
            with pytest.raises(httpx.ReadTimeout):
                HTTP.post(f"{url}/v1/score", json=body_of(EDITS[1:]), timeout=0.3)
            time.sleep(0.2)
            gate.set()
            assert first.result().status_code == 200
    assert scorer.calls == [1]


@contextlib.contextmanager
def slow_client(url):
    """A client of whose body only the first byte arrives."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        slow.sendall(b"Content-Length: 1000\r\n\r\n{")
        yield slow


def test_a_slow_client_holds_nobody_up():
    with serving(ColourScorer()) as url, slow_client(url) as slow:
        assert HTTP.post(f"{url}/v1/score", json=body_of(EDITS)).status_code == 200
        slow.setblocking(False)
        with pytest.raises(BlockingIOError):  # it still has its time
            slow.recv(1)


def test_a_body_that_does_not_arrive_is_given_up():
    settings = Settings(limits=Limits(body_seconds=0.2))
    with serving(ColourScorer(), settings=settings) as url, slow_client(url) as slow:
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_failing_scorer_is_a_500_and_the_server_lives_on():
    class Fragile(ColourScorer):
        def __call__(self, groups):
            if any(group.instruction == "break" for group in groups):
                raise ZeroDivisionError("secret")
            return super().__call__(groups)

    with serving(Fragile()) as url:
        answer = HTTP.post(f"{url}/v1/score", json=body_of(EDITS, instruction="break"))
        assert answer.status_code == 500 and "ZeroDivisionError" in answer.json()["error"]
        assert "secret" not in answer.text
        body = {"groups": body_of(EDITS)["groups"] + body_of(EDITS, instruction="break")["groups"]}
        answer = HTTP.post(f"{url}/v1/score", json=body)
        assert answer.status_code == 200  # what was scored is not lost
        good, bad = answer.json()["groups"]
        assert good["error"] is None and bad["error"] == "the scorer failed (ZeroDivisionError)"


def test_a_host_that_looks_like_an_open_path_needs_the_token(monkeypatch):
    url_of = property(lambda self: URL(f"http://{self.headers['host']}{self.scope['path']}"))  # as older Starlettes
    monkeypatch.setattr("starlette.requests.Request.url", url_of)
    with serving(ColourScorer(), settings=Settings(token="0123456789abcdef")) as url:
        assert HTTP.get(f"{url}/v1/scorer", headers={"Host": "x/health?"}).status_code == 401


def test_the_token_is_asked_for():
    with serving(ColourScorer(), settings=Settings(token="0123456789abcdef")) as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "0123456789abcdef"}):
            for path in ("/v1/score", "/score", "/compute", "/v1/score/files"):
                answer = HTTP.post(url + path, json=body_of(EDITS), headers=headers)
                assert answer.status_code == 401 and answer.json()["fields"][0]["field"] == "Authorization"
            assert HTTP.get(f"{url}/metrics", headers=headers).status_code == 401
        assert HTTP.get(f"{url}/health").json() == {"status": "ok", "rewards": {"editreward": ["ready"]}}
        with Client(url, token="0123456789abcdef") as client:
            assert client.rewards(sources=[EDITS[0]], edited=EDITS[:1], instructions=["x"]) == [16.0]
        with Client(url, token="wrong") as client, pytest.raises(ServerError, match="401") as error:
            client.about()
        assert error.value.status == 401


def test_metrics_count_requests_edits_failures_and_batches():
    with serving(ColourScorer()) as url:
        HTTP.post(f"{url}/v1/score", json=body_of([*EDITS, painted(255, 255, 255)]))
        HTTP.post(f"{url}/v1/score", json={"groups": []})
        HTTP.get(f"{url}/no/such/path")
        text = HTTP.get(f"{url}/metrics").text
    for line in (
        'editreward_requests_total{endpoint="/v1/score",status="200"} 1.0',
        'editreward_requests_total{endpoint="/v1/score",status="422"} 1.0',
        'editreward_requests_total{endpoint="other",status="404"} 1.0',
        'editreward_items_total{outcome="scored"} 3.0',
        'editreward_items_total{outcome="failed"} 1.0',
        'editreward_failures_total{reason="scorer"} 1.0',
        'editreward_failures_total{reason="status 422"} 1.0',
        "editreward_batch_edits_sum 4.0",
        "editreward_batch_groups_count 1.0",
        "editreward_queued_edits 0.0",
        "editreward_held_bytes 0.0",
    ):
        assert line in text.splitlines()
    for stage in ("read", "decode", "queue", "score"):
        assert f'editreward_stage_seconds_count{{stage="{stage}"}}' in text


def test_logs_say_how_it_went_and_show_no_content(caplog):
    caplog.set_level(logging.INFO, "editreward.serving")
    with serving(ColourScorer()) as url:
        HTTP.post(f"{url}/v1/score", json=body_of(EDITS, instruction="paint the secret red"))
    (record,) = [one for one in caplog.records if one.message == "request"]
    assert record.fields["status"] == 200 and record.fields["edits"] == 3 and record.fields["endpoint"] == "/v1/score"
    assert "secret" not in str(record.fields) and text_of(EDITS[0])[:20] not in str(record.fields)


def test_requests_hold_no_more_bytes_than_they_may():
    gate = threading.Event()
    scorer = ColourScorer(gate=gate)
    large = Image.new("RGB", (400, 400), (10, 20, 30))
    settings = Settings(limits=Limits(held_bytes=3 * 400 * 400 * 5))
    with serving(scorer, settings=settings) as url:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(HTTP.post, f"{url}/v1/score", json=body_of([large] * 3, large), timeout=30)
            while not scorer.calls:
                time.sleep(0.005)
            full = HTTP.post(f"{url}/v1/score", json=body_of([large], large))
            assert full.status_code == 429 and full.headers["retry-after"] == "1"
            gate.set()
            assert first.result().status_code == 200
        assert HTTP.post(f"{url}/v1/score", json=body_of([large], large)).status_code == 200
        assert "editreward_held_bytes 0.0" in HTTP.get(f"{url}/metrics").text


def test_a_request_that_can_never_be_held_is_a_413():
    large = Image.new("RGB", (400, 400), (10, 20, 30))
    with serving(ColourScorer(), settings=Settings(limits=Limits(held_bytes=3 * 400 * 400))) as url:
        decoded = HTTP.post(f"{url}/v1/score", json=body_of([large], painted(1)))
        body = HTTP.post(f"{url}/v1/score", content=b"x" * 3 * 400 * 401)
        assert "editreward_held_bytes 0.0" in HTTP.get(f"{url}/metrics").text
    assert (decoded.status_code, body.status_code) == (413, 413)
    assert "send fewer at a time" in decoded.json()["error"]


def test_a_refused_request_gives_back_all_that_its_images_held():
    """Threads may still decode its other groups when one was too much."""
    images = map(text_of, [Image.new("RGB", (400, 400)), *([painted(10)] * 20)])
    groups = [
        AskedGroup([one], "x", [one], [f"groups.{i}.sources.0", f"groups.{i}.edited.0"])
        for i, one in enumerate(images)
    ]
    service = Service([ColourScorer()], settings=Settings(limits=Limits(held_bytes=300_000)))

    async def ask():
        with pytest.raises(RequestError) as error:
            await service.score(groups, time.monotonic() + 30)
        await asyncio.to_thread(service.close)  # waits for the threads
        return error.value.status

    assert asyncio.run(ask()) == 413 and service.budget.held == 0


def test_a_late_request_is_not_decoded(monkeypatch):
    monkeypatch.setattr("editreward.serving.service.load_image", None)
    service = Service([ColourScorer()])
    group = AskedGroup([text_of(painted(1))], "x", [text_of(painted(2))], ["groups.0.sources.0", "groups.0.edited.0"])
    with pytest.raises(RequestError) as error:
        asyncio.run(service.score([group], time.monotonic() - 0.001))
    service.close()
    assert error.value.status == 504 and service.budget.held == 0


def test_no_address_is_fetched_unless_it_was_allowed():
    with serving(ColourScorer()) as other:
        body = {"groups": [{"sources": [f"{other}/docs"], "instruction": "x", "edited": [text_of(EDITS[0])]}]}
        with serving(ColourScorer()) as url:
            answer = HTTP.post(f"{url}/v1/score", json=body)
            assert answer.status_code == 422 and "operator" in answer.json()["fields"][0]["reason"]
        with serving(ColourScorer(), settings=Settings(allowed_urls=(f"{other}/images/",))) as url:
            for path in ("/docs", "/images/../docs", "/images/%2e%2e/docs"):
                body["groups"][0]["sources"] = [other + path]
                answer = HTTP.post(f"{url}/v1/score", json=body)
                assert "operator" in answer.json()["fields"][0]["reason"], path
            body["groups"][0]["sources"] = [f"{other}/images/x.png"]
            assert "answered 404" in HTTP.post(f"{url}/v1/score", json=body).json()["error"]


def test_nothing_is_unpickled():
    import pickle

    class Bomb:
        def __reduce__(self):
            return (print, ("boom",))

    with serving(ColourScorer()) as url:
        for path in ("/v1/score", "/score", "/compute", "/"):
            answer = HTTP.post(url + path, content=pickle.dumps(Bomb()))
            assert 400 <= answer.status_code < 500
