"""The scorer of a server answers what the server's own scorer would."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from editreward import load_scorer
from editreward.cli import main
from editreward.client import ServerError
from editreward.groups import EditGroup, GroupScores, Unscored
from editreward.rewards import Shaping
from editreward.scorers.registry import check_answers
from editreward.scorers.remote import RemoteScorer
from editreward.serving.settings import Limits, Settings
from editreward.simulation import simulate_groups
from tests.helpers.scorers import ColourScorer, painted
from tests.helpers.server import serving


def test_it_says_and_scores_what_the_servers_scorer_does():
    own = load_scorer()
    groups = [
        EditGroup([one.source], one.instruction, [candidate.image for candidate in one.candidates])
        for one in simulate_groups(2, candidates=3)
    ]
    with serving(own) as url:
        remote = load_scorer(url)
        answers = remote(groups)
    for name in ("name", "fingerprint", "dimensions", "scale", "calibrated"):
        assert getattr(remote, name) == getattr(own, name)
    assert list(remote.notes) == list(own.notes)
    check_answers(remote, groups, answers)
    for found, expected in zip(answers, own(groups), strict=True):
        assert found.overall == pytest.approx(expected.overall, abs=1e-5)
        assert found.ranks == expected.ranks
        np.testing.assert_allclose(found.preferences, expected.preferences, atol=1e-5)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        for name, values in {**expected.dimensions, **expected.stds}.items():
            assert (found.dimensions | found.stds)[name] == pytest.approx(values, abs=1e-5)


def test_what_fails_is_unscored_in_its_place(tmp_path):
    painted(40).save(tmp_path / "a.png")
    good = painted(20)
    groups = [
        EditGroup([painted(1)], "x", [good, b"no image", painted(255, 255, 255), str(tmp_path / "a.png")]),
        EditGroup([b"no image"], "x", [good]),
        EditGroup([str(tmp_path / "missing.png")], "x", [good]),
        EditGroup([painted(1)], "fail", [good]),
        EditGroup([painted(1)], "x", [np.full((8, 8, 3), 60, np.uint8)]),
        EditGroup([painted(1)], "x", [b"no image"]),
    ]
    with serving(ColourScorer(), Shaping(scale=100)) as url:
        answers = RemoteScorer(url)(groups)
    first = answers[0]
    assert first.overall[0] == 11 and first.overall[3] == 21  # the scorer's own, not the shaped reward
    assert "not an image" in first.unscored[1].reason and first.unscored[2].reason == "white is no colour"
    assert math.isnan(first.preferences[0][1]) and first.preferences[0][0] == 0.5
    assert all(isinstance(answers[index], Unscored) for index in (1, 2, 3))
    assert not answers[5].scored
    assert "missing.png" in answers[2].reason and answers[3].reason == "it was told to fail"
    assert isinstance(answers[4], GroupScores) and answers[4].overall[0] == 61


def truncated():
    """An open PIL image whose file ends too early, which is noticed when it is decoded."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:1000]))


def test_an_open_image_that_is_truncated_is_unscored_in_its_place():
    groups = [EditGroup([painted(1)], "x", [truncated(), painted(20)]), EditGroup([truncated()], "x", [painted(20)])]
    with serving(ColourScorer()) as url:
        first, second = RemoteScorer(url)(groups)
    assert list(first.unscored) == [0] and first.overall[1] == 11
    assert isinstance(second, Unscored) and "truncated" in second.reason


def test_requests_keep_to_the_bytes_that_the_server_takes():
    noise = [Image.effect_noise((40, 40), 90).convert("RGB") for _ in range(8)]
    groups = [EditGroup([painted(1)], "x", [one]) for one in noise]
    with serving(ColourScorer(), settings=Settings(limits=Limits(body_bytes=20_000))) as url:
        assert all(isinstance(one, GroupScores) for one in RemoteScorer(url)(groups))


def test_many_groups_are_sent_in_portions():
    groups = [EditGroup([painted(1)], "x", [painted(2 * i)] * 3) for i in range(50)]
    with serving(ColourScorer()) as url:
        assert [one.overall[0] for one in RemoteScorer(url)(groups)] == [i + 1 for i in range(50)]


def test_another_scorer_behind_the_address_is_noticed():
    scorer = ColourScorer()
    with serving(scorer) as url:
        remote = RemoteScorer(url)
        scorer.fingerprint = "colours 2"
        with pytest.raises(ServerError, match="load the scorer anew"):
            remote([EditGroup([painted(1)], "x", [painted(2)])])


def test_the_token_comes_from_the_environment(monkeypatch):
    with serving(ColourScorer(), settings=Settings(token="0123456789abcdef")) as url:
        with pytest.raises(ValueError, match="EDITREWARD_TOKEN"):
            load_scorer(url)
        monkeypatch.setenv("EDITREWARD_TOKEN", "0123456789abcdef")
        assert load_scorer(url).name == "colours"


def test_a_server_that_is_not_there_and_options_that_it_has_not_are_errors(monkeypatch):
    monkeypatch.setattr("editreward.client._Connection.tries", lambda self, path: _tries(self, path))
    with pytest.raises(ValueError, match="Is the server up"):
        load_scorer("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="has no `dtype`"):
        load_scorer("http://127.0.0.1:9", dtype="float32")


def _tries(connection, path):
    from editreward.client import _Tries

    return _Tries(connection.url + path, 0.2)


def test_commands_take_the_address_for_a_scorer(tmp_path, capsys):
    painted(1).save(tmp_path / "s.png")
    painted(40).save(tmp_path / "a.png")
    painted(20).save(tmp_path / "b.png")
    files = ["--source", str(tmp_path / "s.png"), "--edited", str(tmp_path / "b.png"), str(tmp_path / "a.png")]
    with serving(ColourScorer()) as url:
        assert main(["score", "--scorer", url, *files, "--instruction", "x", "--json"]) == 0
    assert '"best": 1' in capsys.readouterr().out
