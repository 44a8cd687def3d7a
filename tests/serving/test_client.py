"""The client: what it sends, when it comes again, when it gives up."""

import asyncio
import base64
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
from editreward.serving.settings import Limits, Settings
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


def test_a_turned_image_in_a_mode_that_png_has_not_stays_upright():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PIXELS).convert("CMYK").save(file, "JPEG", exif=exif)
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


class MadeOnAccess:
    """A sequence that makes each item when it is asked for, as a column of `datasets` does."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        return (painted(i) for i in range(self.count))


def test_sources_that_are_made_on_access_are_not_taken_for_each_other():
    groups, _ = gathered(MadeOnAccess(20), [painted(1)] * 20, ["x"] * 20)
    sources = [load_image(base64.b64decode(group["sources"][0])).getpixel((0, 0))[0] for group in groups]
    assert sources == list(range(20))


def test_requests_are_no_longer_than_a_server_takes_unless_a_group_is_by_itself():
    groups = [{"sources": ["s" * 10], "edited": ["x" * 10] * size} for size in (1, 2, 1, 8, 1)]
    sizes = [[len(one["edited"]) for one in part] for part in portions(groups, size=50)]
    assert sizes == [[1, 2], [1], [8], [1]]


def test_a_group_that_is_too_large_by_itself_is_refused_with_advice():
    settings = Settings(limits=Limits(body_bytes=1000))
    noise = Image.effect_noise((40, 40), 90).convert("RGB")
    with serving(ColourScorer(), settings=settings) as url, Client(url) as client:
        with pytest.raises(ServerError, match="send fewer edits at a time, or .* a larger --max-body") as error:
            client.rewards(sources=[painted(1)], edited=[noise], instructions=["x"])
    assert error.value.status == 413


def test_large_requests_are_sent_in_portions_of_whole_groups():
    groups = [{"sources": ["x"], "edited": ["x"] * size} for size in (30, 30, 5, 100, 1)]
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


class Page:
    """Something else at the address."""

    def __init__(self, status, headers):
        self.status, self.headers = status, headers

    def __call__(self, request):
        return httpx.Response(self.status, text="<html>", headers=self.headers)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (200, {}, "answered without JSON: is this an EditReward server"),
        (307, {"Location": "https://other/"}, "307: the server is elsewhere, give its own address: https://other/"),
        (304, {}, "answered 304"),
    ],
)
def test_what_is_no_answer_of_a_server_is_told(kind, status, headers, told):
    with pytest.raises(ServerError, match=told) as error:
        ask(Page(status, headers), 5, kind)
    assert error.value.status == status


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
