"""What judges make of endpoints that misbehave, in more than twenty ways. What is scored stays; nothing is guessed."""

import json
import socket
import time
from email.utils import formatdate

import pytest
from PIL import Image

from editreward.groups import CandidateScore, EditGroup, Unscored
from editreward.scorers.judges.options import JudgeOptions
from editreward.scorers.judges.scorer import JudgeScorer
from editreward.scorers.prompts import load_prompt_set
from tests.helpers.judge_server import GOOD, body, completion, good, prompt_of, says, status
from tests.helpers.processes import free_port

KEY = "sk-very-secret-key-0123456789"
GROUP = EditGroup([Image.new("RGB", (9, 9), "red")], "make it blue", [Image.new("RGB", (9, 9), "blue")])
PROMPTS = load_prompt_set()


def judge(server, **options):
    options = {"concurrency": 1, "deadline": 20.0, "cache": False} | options
    return JudgeScorer(JudgeOptions(model="m", url=server.url, **options), PROMPTS)


def hang(handler, request):
    handler.server.stopped.wait(20)


def drip(handler, request):
    """A byte from time to time, so that no read ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.stopped.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def hang_up(handler, request):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def break_off(handler, request):
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "x", "choi')
    hang_up(handler, request)


def redirect(handler, request):
    handler.send(307, {}, {"Location": handler.path})


def changed(**changes):
    return lambda handler, request: handler.send(200, completion(request, GOOD[prompt_of(request)]) | changes)


PASSING = {
    "an error of the server": status(500),
    "an overloaded server that says when to come back": status(503, headers={"Retry-After": "0.2"}),
    "too many requests": status(429, headers={"Retry-After": "0.2"}),
    "too many requests, with a date": lambda h, r: status(429, headers={"Retry-After": formatdate(usegmt=True)})(h, r),
    "a wait that makes no sense": status(429, headers={"Retry-After": "soon"}),
    "a wait that is no number": status(429, headers={"Retry-After": "nan"}),
    "a gateway's timeout in HTML": lambda h, r: h.send_bytes(504, b"<html>", "text/html"),
    "a connection that is closed": hang_up,
    "a reply that breaks off": break_off,
    "no JSON, though it says so": body(b"{oops"),
    "a page of a portal": body(b"<html>log in</html>", "text/html"),
    "bytes that are no text": body(b"\xff\xfe{"),
    "a compression that is none": body(b"xx", headers={"Content-Encoding": "gzip"}),
    "a list": body(b"[1, 2]"),
    "nothing": body(b""),
    "no choices": changed(choices=None),
    "an empty list of choices": changed(choices=[]),
    "choices of another kind": changed(choices="many"),
    "a choice without a message": changed(choices=[{"index": 0, "message": None, "finish_reason": "stop"}]),
    "no text": says(None),
    "an empty text": says("  "),
    "a number in place of a text": says(5),
    "prose": says("Very nice, 10 out of 10!"),
    "an answer that is cut off": says('{"reasoning": "it is', finish_reason="length"),
    "an answer that is whole but marked as cut off": says(GOOD["IF"], finish_reason="length"),
}
"""Misbehaviour that passes: one bad reply, then good ones."""


@pytest.mark.parametrize("name", PASSING)
def test_one_bad_reply_is_asked_again_and_the_edit_scored(name, server):
    server.plan = [PASSING[name]]
    (scores,) = judge(server)([GROUP])
    assert scores.candidates[0].reward == 2.5, scores.candidates[0]
    assert len(server.requests) == 3  # two prompts, one of them twice


LASTING = {
    "a refusal": (says(None, refusal="I cannot judge this."), "IF, pass 1: refused: I cannot judge this.", 2),
    "a content filter": (says("", finish_reason="content_filter"), "refused by the endpoint's content filter", 2),
    "a content filter as an error": (
        status(400, "The response was filtered", code="content_filter"),
        "refused by the endpoint's content filter (HTTP 400: The response was filtered)",
        2,
    ),
    "answers that are always cut off": (
        says('{"reasoning": "it is', finish_reason="length"),
        "cut off by the token limit: raise `max_new_tokens` (asked 3 times)",
        6,
    ),
    "prose each time": (says("10 out of 10"), "there is no JSON object in '10 out of 10' (asked 3 times)", 6),
    "numbers out of range": (
        says('{"success": 9, "preservation": 2}'),
        "success is 9, out of 1..4 (asked 3 times)",
        6,
    ),
    "a request that is refused": (
        status(400, "image too large"),
        "refuses the request (HTTP 400: image too large)",
        2,
    ),
    "a model that is not there": (status(404, "no such model"), "has no model 'm' (HTTP 404: no such model)", 1),
    "a quota that is spent": (status(429, "pay", code="insufficient_quota"), "the account's quota is spent", 1),
    "another model": (changed(model="tiny-cheap"), "answered with the model tiny-cheap, not 'm': ask for that one", 1),
    "a smaller model": (changed(model="m-mini"), "answered with the model m-mini, not 'm': ask for that one", 1),
}
"""Misbehaviour that stays: reason, and calls for the two prompts; 1 where the endpoint is not asked any more."""


@pytest.mark.parametrize("name", LASTING)
def test_misbehaviour_that_stays_is_told_and_costs_few_calls(name, server):
    server.usual, reason, calls = LASTING[name]
    scorer = judge(server)
    (scores,) = scorer([GROUP])
    assert isinstance(scores.candidates[0], Unscored)
    assert reason in scores.candidates[0].reason and "\n" not in scores.candidates[0].reason
    assert len(server.requests) == calls
    if calls == 1:
        scorer([GROUP])
        assert len(server.requests) == 1, "an endpoint that cannot answer is asked no more for a while"


@pytest.mark.parametrize("behaviour", [hang, drip])
def test_a_deadline_holds_whatever_the_endpoint_does(behaviour, server):
    server.usual = behaviour
    start = time.monotonic()
    (scores,) = judge(server, deadline=0.4, concurrency=4)([GROUP])
    assert "no reply within the deadline of 0.4 s" in scores.candidates[0].reason
    assert time.monotonic() - start < 10


def test_a_wait_beyond_the_deadline_is_not_waited_for(server):
    server.usual = status(429, "slow down", headers={"Retry-After": "3600"})
    (scores,) = judge(server)([GROUP])
    assert "HTTP 429: slow down, which asks to wait 3" in scores.candidates[0].reason
    assert len(server.requests) == 2


def test_the_wait_that_is_asked_for_is_kept(server):
    server.plan = [status(429, headers={"Retry-After": "0.5"})]
    times = []
    server.usual = lambda handler, request: (times.append(time.monotonic()), good(handler, request))
    start = time.monotonic()
    judge(server)([GROUP])
    assert times[0] - start >= 0.5


def test_an_endpoint_that_is_down_is_named_and_asked_no_more(server, monkeypatch):
    url = f"http://127.0.0.1:{free_port()}/v1"
    scorer = JudgeScorer(JudgeOptions(model="m", url=url, deadline=0.3, cache=False, concurrency=1), PROMPTS)
    (scores,) = scorer([GROUP])
    assert (
        f"{url} cannot be reached" in scores.candidates[0].reason and "is it running?" in scores.candidates[0].reason
    )
    calls = scorer.ledger.calls
    scorer([GROUP])
    assert scorer.ledger.calls == calls


def test_a_loop_of_redirects_ends_at_the_deadline(server):
    server.usual = redirect
    (scores,) = judge(server, deadline=1.0)([GROUP])
    assert isinstance(scores.candidates[0], Unscored)


def test_what_is_scored_stays_when_the_endpoint_goes_down(server):
    group = EditGroup(GROUP.sources, "go", [Image.new("RGB", (9, 9), colour) for colour in ("blue", "green", "white")])
    server.plan = [good] * 3
    server.usual = status(503, "down")
    (scores,) = judge(server, deadline=0.5)([group])
    assert [type(one) for one in scores.candidates] == [CandidateScore, Unscored, Unscored]
    assert "HTTP 503: down" in scores.candidates[1].reason


@pytest.mark.parametrize(
    "usage",
    [None, {}, {"prompt_tokens": -5, "completion_tokens": 1}, {"prompt_tokens": "many", "completion_tokens": 1}],
)
def test_tokens_that_make_no_sense_are_not_counted(usage, server):
    server.usual = changed(usage=usage)
    scorer = judge(server)
    (scores,) = scorer([GROUP])
    assert scores.candidates[0].reward == 2.5
    assert (scorer.ledger.read, scorer.ledger.written, scorer.ledger.calls) == (0, 0, 2)


def test_without_tokens_a_cost_cannot_be_kept_and_calling_stops(server):
    server.usual = changed(usage=None)
    (scores,) = judge(server, prices=(1.0, 1.0), max_cost=5.0)([GROUP])
    assert "does not say how many tokens it used: use max_calls" in scores.candidates[0].reason
    assert len(server.requests) == 1


def test_a_text_in_parts_is_put_together(server):
    server.usual = lambda handler, request: says(
        [
            {"type": "text", "text": GOOD[prompt_of(request)][:9]},
            {"type": "text", "text": GOOD[prompt_of(request)][9:]},
        ]
    )(handler, request)
    assert judge(server)([GROUP])[0].candidates[0].reward == 2.5


@pytest.mark.parametrize("name", ["m", "m-2026-01-31", "org/m"])
def test_the_model_itself_and_dated_versions_of_it_are_no_lie(name, server):
    server.usual = changed(model=name)
    assert judge(server)([GROUP])[0].candidates[0].reward == 2.5


def test_another_name_can_be_accepted(server):
    server.usual = changed(model="alias")
    assert judge(server, accepts_models=("alias",))([GROUP])[0].candidates[0].reward == 2.5


@pytest.mark.parametrize("code", [401, 403])
def test_a_key_is_sent_and_never_told_even_if_the_endpoint_repeats_it(
    code, server, monkeypatch, tmp_path, capfd, caplog
):
    monkeypatch.setenv("EDITREWARD_JUDGE_API_KEY", KEY)
    caplog.set_level("DEBUG")
    server.plan = [good, says(f'{{"reasoning": "{KEY}", "plausibility": 2, "cleanness": 2}}')]
    server.usual = status(code, f"Incorrect key: {KEY}")
    log = tmp_path / "log.jsonl"
    scorer = judge(server, cache=True, log=str(log))
    found = scorer([GROUP, EditGroup(GROUP.sources, "another", GROUP.edited)])
    assert [headers["authorization"] for headers in server.headers] == [f"Bearer {KEY}"] * len(server.headers)
    refused = found[1].candidates[0].reason
    assert "refuses the key of EDITREWARD_JUDGE_API_KEY" in refused and "Incorrect key: ***" in refused
    told = [repr(found), repr(scorer), str(vars(scorer.endpoint)), scorer.fingerprint, *scorer.notes, caplog.text]
    told += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert found[0].candidates[0].reasons == ("done", "***")
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 2 and log.exists()
    assert not any(KEY in text for text in (*told, *capfd.readouterr()))


def test_the_key_of_one_provider_is_not_sent_to_another(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge(server)([GROUP])
    assert KEY not in json.dumps(server.headers)
    monkeypatch.setenv("OTHER_API_KEY", "sk-other")
    judge(server, key_variable="OTHER_API_KEY")([GROUP])
    assert server.headers[-1]["authorization"] == "Bearer sk-other"


@pytest.mark.parametrize("behaviour", [hang, hang_up, break_off, body(b"<html>"), body(b"{")])
def test_calls_that_got_no_answer_count_towards_the_budget_as_expected(behaviour, server, tmp_path):
    server.usual = behaviour
    log = tmp_path / "log.jsonl"
    scorer = judge(server, prices=(1000.0, 1000.0), max_cost=1e6, deadline=0.5, log=str(log))
    scorer([GROUP])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert scorer.ledger.calls == len(lines) >= 1
    assert all(line["cost"] >= PROMPTS.max_new_tokens / 1000 and line["tokens_read"] is None for line in lines)
    assert scorer.ledger.cost == pytest.approx(sum(line["cost"] for line in lines))


def test_a_budget_is_kept_though_no_call_is_answered(server):
    server.usual = hang_up
    scorer = judge(server, prices=(0.0, 1000.0), max_cost=2.0, deadline=5.0)  # a call may write 512 tokens
    (scores,) = scorer([GROUP])
    assert "the budget of 2 is spent (max_cost)" in scores.candidates[0].reason
    assert len(server.requests) == int(2.0 / (PROMPTS.max_new_tokens / 1000))


def test_calls_that_were_refused_or_never_sent_cost_nothing(server):
    server.usual = status(503, "down")
    refused = judge(server, prices=(1.0, 1.0), deadline=0.3)
    url = f"http://127.0.0.1:{free_port()}/v1"
    unsent = JudgeScorer(JudgeOptions(model="m", url=url, deadline=0.3, cache=False, prices=(1.0, 1.0)), PROMPTS)
    for scorer in (refused, unsent):
        scorer([GROUP])
        assert scorer.ledger.calls >= 1 and scorer.ledger.cost == 0
