"""The client: what it sends, when it comes again, when it gives up."""

import asyncio
import io
import math
import threading
import time

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from editreward.client import AsyncClient, Client, ServerError, encode, gathered, portions
from editreward.rewards.inputs import to_image
from images_editreward import load_image
from tests.helpers.scorers import ColourScorer, painted
from tests.helpers.server import serving

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
FORMS = {
    "PIL": Image.fromarray(PIXELS),
    "HWC": PIXELS,
    "CHW": np.moveaxis(PIXELS, -1, 0),
    "tensor": torch.from_numpy(PIXELS).permute(2, 0, 1),
    "floats": PIXELS / np.float32(255),
    "float tensor": torch.from_numpy(PIXELS).permute(2, 0, 1) / 255,
    "just outside": (torch.from_numpy(PIXELS).permute(2, 0, 1) / 255) * 1.02 - 0.01,
    "bfloat16": (torch.from_numpy(PIXELS).permute(2, 0, 1) / 255).bfloat16(),
    "RGBA": Image.fromarray(PIXELS).convert("RGBA"),
    "grey": Image.fromarray(PIXELS).convert("L"),
    "palette": Image.fromarray(PIXELS).convert("P"),
    "CMYK": Image.fromarray(PIXELS).convert("CMYK"),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_server_sees_the_pixels_that_the_package_would(form):
    image = FORMS[form]
    assert load_image(encode(image)).tobytes() == load_image(to_image(image, "image")).tobytes()


def test_an_image_stays_upright():
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[274] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    opened = Image.open(io.BytesIO(file.getvalue()))
    assert load_image(encode(opened)).tobytes() == load_image(file.getvalue()).tobytes()


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.full((4, 4, 3), -1.0), "from -1 to -1"),
        (np.full((4, 4, 3), math.nan), "nan"),
        (np.zeros((5, 4, 7), np.uint8), r"\(5, 4, 7\)"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
    ],
)
def test_arrays_that_are_no_images_are_refused_by_name(image, told):
    with pytest.raises(ValueError, match=f"Edit 1: .*{told}"):
        gathered([painted(1)] * 2, [painted(2), image], ["x", "x"])


def test_edits_of_one_source_and_instruction_are_a_group():
    sources = [painted(1), painted(2), painted(1), painted(1)]
    groups, places = gathered(sources, [painted(i) for i in range(4)], ["a", "a", "a", "b"])
    assert places == [[0, 2], [1], [3]] and [len(group["edited"]) for group in groups] == [2, 1, 1]
    arrays = torch.stack([torch.full((3, 4, 4), value) for value in (0.1, 0.2, 0.1)])
    assert gathered(arrays, arrays, ["a"] * 3)[1] == [[0, 2], [1]]
    with pytest.raises(ValueError, match="1 sources, 2 edited"):
        gathered(sources[:1], sources[:2], ["a", "a"])


def test_large_requests_are_sent_in_portions_of_whole_groups():
    groups = [{"edited": ["x"] * size} for size in (30, 30, 5, 100, 1)]
    assert [[len(one["edited"]) for one in part] for part in portions(groups)] == [[30, 30], [5], [100], [1]]
    with serving(ColourScorer()) as url, Client(url) as client:
        found = client.rewards(
            sources=[painted(1), painted(3)] * 80,
            edited=[painted(2 * i) for i in range(120)] + [painted(4)] * 40,
            instructions=["x"] * 160,
        )
    assert found == [i + 1 for i in range(120)] + [3] * 40


def test_the_async_client_encodes_images_beside_the_event_loop(monkeypatch):
    threads = set()

    def noted(image):
        threads.add(threading.current_thread())
        return "x"

    async def run():
        client = AsyncClient("http://127.0.0.1:1")
        answer = {"groups": [{"candidates": [{"shaped": 1.0}]}]}
        client._http = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=answer)))
        await client.score([{"sources": [painted(1)], "instruction": "x", "edited": [painted(2)]}])
        await client.rewards(sources=[painted(1)], edited=[painted(2)], instructions=["x"])

    monkeypatch.setattr("editreward.client.text_of", noted)
    asyncio.run(run())
    assert threads and threading.main_thread() not in threads


class Answers:
    """A server that gives the answers of a list, and notes when it was asked."""

    def __init__(self, *answers):
        self.answers, self.times, self.headers = list(answers), [], []

    def __call__(self, request):
        self.times.append(time.monotonic())
        self.headers.append(request.headers)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, body, *more = answer
        return httpx.Response(status, json=body, headers=more[0] if more else {})


def ask(answers, timeout=5.0, kind=Client):
    client = kind("http://127.0.0.1:1", token="secret", timeout=timeout)
    transport = httpx.MockTransport(answers)
    if kind is Client:
        client._http = httpx.Client(transport=transport, headers=client._connection.headers)
        return client.about()

    async def run():
        client._http = httpx.AsyncClient(transport=transport, headers=client._connection.headers)
        return await client.about()

    return asyncio.run(run())


GOOD = (200, {"name": "x"})


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_overload_lost_connections_and_failures_are_tried_again(kind):
    answers = Answers((429, {}), httpx.ConnectError("refused"), (503, {}), (500, {}), httpx.ReadError("reset"), GOOD)
    assert ask(answers, 20, kind) == {"name": "x"}
    assert len(answers.times) == 6
    assert all(headers["authorization"] == "Bearer secret" for headers in answers.headers)
    assert [float(one["x-timeout-seconds"]) for one in answers.headers] == sorted(
        (float(one["x-timeout-seconds"]) for one in answers.headers), reverse=True
    )


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_retry_after_is_kept(kind):
    answers = Answers((429, {}, {"Retry-After": "1"}), GOOD)
    ask(answers, 5, kind)
    assert answers.times[1] - answers.times[0] >= 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("status", "body"),
    [(422, {"error": "groups: empty", "fields": [{"field": "groups", "reason": "empty"}]}), (401, {})],
)
def test_a_refusal_is_final(kind, status, body):
    answers = Answers((status, body))
    with pytest.raises(ServerError) as error:
        ask(answers, 5, kind)
    assert error.value.status == status and error.value.fields == body.get("fields", [])
    assert len(answers.times) == 1 and "secret" not in str(error.value)


@pytest.mark.parametrize("answer", [(429, {}, {"Retry-After": "30"}), (503, {}), httpx.ConnectError("refused")])
def test_the_deadline_ends_it(answer):
    started = time.monotonic()
    with pytest.raises(ServerError):
        ask(Answers(answer), timeout=0.5)
    assert time.monotonic() - started < 20  # not the 30 s that the server asks for


def test_a_server_that_always_fails_is_given_up():
    answers = Answers((500, {"error": "The scorer failed"}))
    with pytest.raises(ServerError, match="answered 500: The scorer failed"):
        ask(answers, 60)
    assert len(answers.times) == 4


def test_an_address_needs_its_scheme():
    with pytest.raises(ValueError, match="must begin with http"):
        Client("localhost:8000")
