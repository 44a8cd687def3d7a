"""Bad input is a 4xx that names the field, whatever it is; property tests on the OpenAPI schema."""

import base64
import io
import json

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from PIL import Image
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from editreward.serving.app import create_app
from editreward.serving.service import Service
from editreward.serving.settings import Limits, Settings
from tests.helpers.scorers import ColourScorer, painted
from tests.helpers.server import HTTP, body_of, serving, text_of

LIMITS = Limits(body_bytes=200_000, image_pixels=10_000, groups=3, edits=4, candidates=3, sources=2)
LIMITED = Settings(limits=LIMITS)

GOOD = text_of(painted(10, 20))


def group(**change):
    return {"groups": [{"sources": [GOOD], "instruction": "x", "edited": [GOOD]} | change]}


def cut_off():
    content = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(content, "PNG")
    return base64.b64encode(content.getvalue()[:600]).decode()


def bomb():
    """A PNG of few bytes that says it has 100 megapixels."""
    content = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


CASES = {
    "no JSON": ("{", 422, "body"),
    "no object": ("[]", 422, "body"),
    "NaN": ("NaN", 422, "body"),
    "not UTF-8": (b'{"groups": "\xff"}', (400, 422), None),
    "nothing": ("", 422, "body"),
    "deep nesting": ("[" * 50_000, (400, 422), None),
    "no groups": ({"groups": []}, 422, "groups"),
    "groups missing": ({}, 422, "groups"),
    "null": ({"groups": None}, 422, "groups"),
    "unknown field": (group(scource=[GOOD]), 422, "groups.0.scource"),
    "unknown field above": (group() | {"timeout": 3}, 422, "timeout"),
    "no edits": (group(edited=[]), 422, "groups.0.edited"),
    "no sources": (group(sources=[]), 422, "groups.0.sources"),
    "empty instruction": (group(instruction=""), 422, "groups.0.instruction"),
    "number for a text": (group(instruction=3), 422, "groups.0.instruction"),
    "text for a list": (group(edited=GOOD), 422, "groups.0.edited"),
    "number for an image": (group(edited=[3]), 422, "groups.0.edited.0"),
    "no base64": (group(edited=["%%%"]), 422, "groups.0.edited.0"),
    "a path": (group(edited=["/etc/passwd"]), 422, "groups.0.edited.0"),
    "a file address": (group(edited=["file:///etc/passwd"]), 422, "groups.0.edited.0"),
    "an address": (group(sources=["http://127.0.0.1:1/x.png"]), 422, "groups.0.sources.0"),
    "no image": (group(edited=[base64.b64encode(b"no image").decode()]), 422, "groups.0.edited.0"),
    "cut off": (group(edited=[cut_off()]), 422, "groups.0.edited.0"),
    "a bomb": (group(sources=[bomb()]), 422, "groups.0.sources.0"),
    "too large": (group(edited=[text_of(painted(1, size=(200, 100)))]), 422, "groups.0.edited.0"),
    "too thin": (group(edited=[text_of(painted(1, size=(900, 1)))]), 422, "groups.0.edited.0"),
    "too many groups": ({"groups": group()["groups"] * 4}, 413, "groups"),
    "too many edits": ({"groups": group(edited=[GOOD] * 3)["groups"] * 2}, 413, "groups"),
    "too many candidates": (group(edited=[GOOD] * 4), 413, "groups.0.edited"),
    "too many sources": (group(sources=[GOOD] * 3), 413, "groups.0.sources"),
    "long instruction": (group(instruction="x" * 4001), 413, "groups.0.instruction"),
    "too many bytes": (group(instruction="x" * 200_000), 413, "body"),
}


@pytest.fixture(scope="module")
def server():
    with serving(ColourScorer(), settings=LIMITED) as url:
        yield url


@pytest.mark.parametrize("case", CASES)
def test_a_bad_request_is_a_4xx_that_names_the_field(server, case):
    content, status, field = CASES[case]
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    answer = HTTP.post(f"{server}/v1/score", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (status if isinstance(status, tuple) else (status,)), answer.text
    told = answer.json()
    assert isinstance(told["error"], str) and told["error"] and "\n" not in told["error"]
    assert len(answer.content) < 2000  # nothing of the request comes back
    if field is not None:
        assert field in [one["field"] for one in told["fields"]] and field in told["error"]
    assert HTTP.post(f"{server}/v1/score", json=group()).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_content_type_is_refused(server, kind):
    answer = HTTP.post(f"{server}/v1/score", content=json.dumps(group()), headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert answer.json()["error"] == f"Content-Type: it is {kind or 'missing'}; send application/json"
    assert [one["field"] for one in answer.json()["fields"]] == ["Content-Type"]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_that_is_no_time_is_refused(server, seconds):
    answer = HTTP.post(f"{server}/v1/score", json=group(), headers={"X-Timeout-Seconds": seconds})
    assert answer.status_code == 422 and "X-Timeout-Seconds" in answer.json()["error"]


@pytest.mark.parametrize(
    ("data", "told"),
    [({}, "request"), ({"request": "{"}, "request"), ({"request": '{"groups": []}'}, "request.groups")],
)
def test_a_bad_form_is_refused(server, data, told):
    files = {"a": ("a.png", base64.b64decode(GOOD))}
    answer = HTTP.post(f"{server}/v1/score/files", data=data, files=files)
    assert answer.status_code == 422 and answer.json()["fields"][0]["field"] == told


def test_a_broken_form_is_refused(server):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = HTTP.post(f"{server}/v1/score/files", content=b"--x\r\nnonsense", headers=headers)
    assert 400 <= answer.status_code < 500 and answer.json()["error"]


def test_a_body_longer_than_it_says_is_cut(server):
    def endless():
        for _ in range(100):
            yield b"x" * 10_000

    answer = HTTP.post(f"{server}/v1/score", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_unknown_paths_and_methods_are_json_errors(server):
    assert HTTP.get(f"{server}/nothing").json() == {"error": "Not Found", "fields": []}
    answer = HTTP.get(f"{server}/v1/score")
    assert answer.status_code == 405 and "POST" in answer.headers["allow"]


schema = schemathesis.openapi.from_dict(create_app(Service([ColourScorer()], settings=LIMITED)).openapi())


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_the_schema_allows_or_forbids_gets_a_documented_answer(case, server):
    response = case.call(base_url=server)
    assert response.status_code != 500  # 504: a timeout of next to nothing is allowed
    case.validate_response(response, checks=[status_code_conformance, response_schema_conformance])


def test_the_examples_of_the_openapi_page_are_answered(server):
    document = HTTP.get(f"{server}/openapi.json").json()
    image = document["components"]["schemas"]["WireGroup"]["properties"]["edited"]["items"]["examples"][0]
    answer = HTTP.post(f"{server}/v1/score", json=group(sources=[image], edited=[image]))
    assert answer.status_code == 200
    assert (
        body_of([painted(1)])["groups"][0].keys() < document["components"]["schemas"]["WireGroup"]["properties"].keys()
    )
