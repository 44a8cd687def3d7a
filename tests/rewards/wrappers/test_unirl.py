"""Contract of UniRL: its scorer, and its protocol on the server."""

import math
from types import SimpleNamespace

import pytest

from editreward.rewards import Reward, Shaping
from editreward.rewards.unirl import EditRewardScorer
from tests.helpers.scorers import ColourScorer, painted
from tests.helpers.server import HTTP, serving, text_of

EDITS = [painted(10, 20), painted(255, 255, 255), painted(200, 100)]


def item(edit, source=None):
    return SimpleNamespace(history=[("x", source or painted(1)), ("x", edit)], videos=None, metadata=None)


def test_an_item_is_a_dict_of_floats_and_a_failure_is_nan():
    scorer = EditRewardScorer(Reward(ColourScorer(), check=False))
    assert scorer.name == "editreward"
    assert scorer.sub_metric_names == ("reward", "instruction_following", "visual_quality")
    found = scorer.score([*map(item, EDITS), item(None)])
    assert found[0] == {"reward": 16.0, "instruction_following": 11.0, "visual_quality": 21.0}
    assert list(found[0])[0] == "reward" and all(type(value) is float for value in found[0].values())
    assert found[2]["reward"] == 151.0
    for failed in (found[1], found[3]):
        assert failed.keys() == found[0].keys() and all(map(math.isnan, failed.values()))
    assert scorer.score([]) == []
    with pytest.raises(ValueError, match="two turns"):
        scorer.score([SimpleNamespace(history=[("x", EDITS[0])])])


def request(edit, **more):
    history = [{"text": "x", "image_b64": text_of(one, "JPEG")} for one in (painted(1), edit)]
    return {"history": history, "required_rewards": ["editreward"], "metadata": None, **more}


def test_the_server_speaks_its_protocol(server):
    health = HTTP.get(f"{server}/health").json()
    assert health["status"] == "ok" and "editreward" in health["rewards"]
    assert HTTP.get(f"{server}/rewards").json() == {"rewards": ["editreward"]}
    body = {
        "protocol_version": "1",
        "requests": [request(one, request_id=str(i), group_id="g", source_rank=0) for i, one in enumerate(EDITS)],
    }
    answer = HTTP.post(f"{server}/score", json=body)
    assert answer.status_code == 200
    found = answer.json()
    assert [list(one) for one in found["results"]] == [["editreward"], [], ["editreward"]]
    assert found["results"][2]["editreward"]["reward"] == pytest.approx(151, abs=3)  # JPEG
    assert list(found["results"][0]["editreward"]) == ["reward", "instruction_following", "visual_quality"]
    assert found["errors"] == [{}, {"editreward": "white is no colour"}, {}]
    version = HTTP.get(f"{server}/v1/scorer").json()["version"]
    assert found["identities"][1] == {
        "request_id": "1", "group_id": "g", "source_rank": 0, "scorer_version": version
    }  # fmt: skip
    assert found["protocol_version"] == "1"


def test_another_version_than_the_one_served_gets_no_scores():
    scorer, shaped = ColourScorer(), Shaping(offset=1000.0)
    edits = [painted(10), painted(20), painted(30)]

    def ask(url, *versions):
        requests = [request(one, scorer_version=version) for one, version in zip(edits, versions, strict=True)]
        answer = HTTP.post(f"{url}/score", json={"requests": requests})
        assert answer.status_code == 200
        return answer.json()

    with serving(scorer) as url:
        served = HTTP.get(f"{url}/v1/scorer").json()["version"]
        found = ask(url, served, None, "0123")
        assert [list(one) for one in found["results"]] == [["editreward"], ["editreward"], []]
        told = found["errors"]
        assert told[:2] == [{}, {}] and "0123" in told[2]["editreward"] and served in told[2]["editreward"]
        assert [one["scorer_version"] for one in found["identities"]] == [served] * 3
        assert sum(len(group.edited) for group in scorer.seen) == 2
        scorer.seen.clear()
        assert ask(url, "a", "b", "c")["results"] == [{}, {}, {}] and not scorer.seen
    with serving(scorer, shaped) as url:  # other rewards of the same scores are another version
        told = ask(url, served, served, served)["errors"]
        assert all(served in one["editreward"] for one in told)


def test_a_version_is_of_the_scorer_and_the_shaping():
    def version(fingerprint="colours 1", **shaping):
        return EditRewardScorer(Reward(ColourScorer(fingerprint=fingerprint), Shaping(**shaping), check=False)).version

    versions = {version(), version("colours 2"), version(offset=1.0), version(lower_bound=1.0)}
    assert len(versions) == 4 and version() in versions and all(len(one) == 16 for one in versions)


def test_the_scorer_has_all_that_its_service_asks_for():
    scorer = EditRewardScorer(Reward(ColourScorer(), check=False))
    assert scorer.health() == {
        "name": "editreward", "version": scorer.version, "input_kind": "image",
        "supports_offload": False, "supports_grad": False,
    }  # fmt: skip
    for hook in (scorer.onload, scorer.drain, scorer.offload, scorer.close):
        assert hook() is None
    assert scorer.score([item(EDITS[0])])[0]["reward"] == 16.0


def test_each_item_has_its_own_error(server):
    broken = request(EDITS[0])
    broken["history"][1]["image_b64"] = "AAAA"
    other = request(EDITS[0], required_rewards=["hpsv3", "editreward"])
    only_other = request(EDITS[0], required_rewards=["hpsv3"])
    answer = HTTP.post(f"{server}/score", json={"requests": [broken, other, only_other]})
    assert answer.status_code == 200
    found = answer.json()
    assert found["results"][0] == {} and "not an image" in found["errors"][0]["editreward"]
    assert "reward" in found["results"][1]["editreward"] and "not served here" in found["errors"][1]["hpsv3"]
    assert found["results"][2] == {} and list(found["errors"][2]) == ["hpsv3"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"history": [{"text": "x", "image_b64": "AAAA"}]}, "requests.0.history"),
        ({"history": [{"text": "x"}, {"text": "x", "image_b64": "AAAA"}]}, "requests.0.history.0.image_b64"),
        ({"history": [{"text": "x", "image_b64": "AAAA", "video_path": "/etc/passwd"}] * 2}, "video_path"),
        ({"required_rewards": []}, "requests.0.required_rewards"),
    ],
)
def test_a_request_that_is_wired_wrongly_is_refused(server, change, told):
    answer = HTTP.post(f"{server}/score", json={"requests": [request(EDITS[0]) | change]})
    assert answer.status_code == 422 and told in answer.json()["error"]


@pytest.mark.parametrize("change", [{"protocol_version": "2"}, {"grad_mode": True}])
def test_another_protocol_is_refused(server, change):
    plain = {"requests": [request(EDITS[0])], "protocol_version": "1", "grad_mode": False, "call_id": None}
    assert HTTP.post(f"{server}/score", json=plain).status_code == 200
    answer = HTTP.post(f"{server}/score", json=plain | change)
    assert answer.status_code == 422 and next(iter(change)) in answer.json()["error"]
