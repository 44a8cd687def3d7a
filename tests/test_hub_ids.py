"""Ids of the Hub and paths."""

import pytest

from editreward.hub_ids import check_hub_id, is_hub_id


@pytest.mark.parametrize(
    "name, answer",
    [
        ("someone/edits", True),
        ("edits", True),
        ("someone/Edits-1.0_b", True),
        ("./edits", False),
        ("../edits", False),
        ("/data/edits", False),
        ("a/b/c", False),
        ("someone/edits.git", False),
        ("someone/my edits", False),
        ("some--one/edits", False),
        ("", False),
        (None, False),
    ],
)
def test_what_the_hub_would_refuse_is_no_id(name, answer):
    assert is_hub_id(name) is answer


def test_a_path_of_that_name_is_no_id(tmp_path, monkeypatch):
    (tmp_path / "data" / "edits").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("data/edits")
    check_hub_id("data/edits")


def test_an_id_that_the_hub_would_refuse_is_named():
    with pytest.raises(ValueError, match="'a/b/c' is no id of a Hub repository"):
        check_hub_id("a/b/c")
