"""What stands before the annotation app: sessions, addresses, sizes, tries, and streams of one's own."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from editreward.annotation import gate
from editreward.annotation.gate import COOKIE, MOST_TRIES, SIGN_IN_BYTES, Gate, Streams, Tries

KEYS = {"key-of-ada": "ada", "key-of-grace": "grace"}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers with what it was sent, and by whom."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = {"body": body.decode("latin-1"), "annotator": scope.get("state", {}).get("annotator")}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def ask(guard: Gate, method: str, path: str, key: str = "", content: Any = None) -> httpx.Response:
    async def send() -> httpx.Response:
        headers = {"Cookie": f"{COOKIE}={key}"} if key else {}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://here") as client:
            return await client.request(method, path, headers=headers, content=content)

    return asyncio.run(send())


@pytest.fixture
def guard() -> Gate:
    return Gate(echo, KEYS.get)


async def in_parts(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1000):
        yield bytes(1000)


@pytest.mark.parametrize("content", [b"x" * (SIGN_IN_BYTES + 1), in_parts(10_000_000)])
def test_a_long_form_is_refused_before_anybody_reads_it(content):
    async def app(*_: Any) -> None:
        pytest.fail("the app was asked")

    assert ask(Gate(app, KEYS.get), "POST", "/sign-in", content=content).status_code == 413


def test_what_is_short_enough_arrives_whole(guard):
    answer = ask(guard, "POST", "/sign-in", content=b"x" * SIGN_IN_BYTES)
    assert answer.json() == {"body": "x" * SIGN_IN_BYTES, "annotator": None}
    answer = ask(guard, "POST", "/gradio_api/queue/join", "key-of-ada", b"x" * 50_000)
    assert answer.json() == {"body": "x" * 50_000, "annotator": "ada"}
    assert ask(guard, "POST", "/gradio_api/queue/join", "key-of-ada", bytes(gate.REQUEST_BYTES + 1)).status_code == 413


def test_a_request_that_does_not_arrive_is_given_up(monkeypatch):
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.05)

    async def slow() -> AsyncIterator[bytes]:
        yield b"name="
        await asyncio.sleep(5)

    assert ask(Gate(echo, KEYS.get), "POST", "/sign-in", content=slow()).status_code == 408


@pytest.mark.parametrize("number", ["9" * 19, "9" * 30, "9" * 5000, "٣", "-1", "1.0", "0x1"])
def test_numbers_that_no_database_knows_lead_nowhere(guard, number):
    for path in (f"/image/{number}/source/0", f"/image/1/source/{number}", f"/tuple/{number}/candidate/0"):
        assert ask(guard, "GET", path, "key-of-ada").status_code == 404
    assert ask(guard, "GET", "/image/1/source/0", "key-of-ada").status_code == 200


def named(way: str, page: str) -> tuple[str, str, bytes | None]:
    """A request that names a page of Gradio's: method, path, content."""
    return {
        "data": ("GET", f"/gradio_api/queue/data?session_hash={page}", None),
        "twice": ("GET", f"/gradio_api/queue/data?session_hash=mine&session_hash={page}", None),
        "heartbeat": ("GET", f"/gradio_api/heartbeat/{page}", None),
        "join": ("POST", "/gradio_api/queue/join", json.dumps({"session_hash": page, "data": []}).encode()),
        "cancel": ("POST", "/gradio_api/cancel", json.dumps({"session_hash": page}).encode("utf-16")),
    }[way]


@pytest.mark.parametrize("way", ["data", "twice", "heartbeat", "join", "cancel"])
def test_nobody_reads_the_stream_of_somebody_elses_page(guard, way):
    method, path, content = named("join", "page1")
    assert ask(guard, method, path, "key-of-ada", content).status_code == 200
    method, path, content = named(way, "page1")
    assert ask(guard, method, path, "key-of-grace", content).status_code == 403
    method, path, content = named(way, "page2")
    assert ask(guard, method, path, "key-of-grace", content).status_code == 200
    method, path, content = named("join", "page1")
    assert ask(guard, method, path, "key-of-ada", content).status_code == 200


def test_pages_of_others_are_not_forgotten_by_opening_many(monkeypatch):
    monkeypatch.setattr(gate, "MOST_STREAMS", 3)
    streams = Streams()
    assert streams.belongs("hers", "ada")
    assert all(streams.belongs(f"page{number}", "grace") for number in range(100))
    assert not streams.belongs("hers", "grace") and streams.belongs("hers", "ada")
    assert sum(map(len, streams._pages.values())) == 4


def test_after_some_wrong_tries_an_address_has_to_wait():
    now = [0.0]
    tries = Tries(lambda: now[0])
    for _ in range(MOST_TRIES - 1):
        assert tries.begin("192.0.2.1") == 0
    assert tries.begin("192.0.2.1") == 0
    tries.succeeded("192.0.2.1")  # one's own token does not wipe out tries with those of others
    assert tries.begin("192.0.2.1") == 0
    now[0] = 100.5
    assert tries.begin("192.0.2.1") == 500
    assert tries.begin("192.0.2.2") == 0
    now[0] = gate.TRIES_SECONDS
    assert tries.begin("192.0.2.1") == 0


def test_an_address_is_what_one_person_has(monkeypatch):
    tries = Tries(lambda: 0.0)
    assert [tries.begin(f"2001:db8::{number:x}") for number in range(MOST_TRIES + 1)][-1] > 0
    assert tries.begin("2001:db8:0:1::1") == 0 and tries.begin("") == 0 and tries.begin("unix:") == 0
    monkeypatch.setattr(gate, "MOST_ADDRESSES", 5)
    assert all(tries.begin(f"198.51.100.{number}") == 0 for number in range(100))
    assert len(tries._times) <= 8
