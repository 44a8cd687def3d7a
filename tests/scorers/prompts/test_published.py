"""The published rules read the golden answers as the published code did."""

import sys

import pytest

from editreward.scorers.prompts import ParsedAnswer, ParseFailure
from editreward.scorers.prompts.published import guesses, parse_batch_evaluate, parse_evaluate
from tests.helpers.editscore import golden, number


def same(found, expected):
    return len(found) == len(expected) and all(
        a == b or (a != a and b != b) for a, b in zip(found, map(number, expected), strict=True)
    )


# Other versions of json_repair read the others otherwise.
ANY_VERSION = [row for row in golden()["parsing"] if not row["depends_on_json_repair_version"]]


def test_a_broken_answer_without_json_repair_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "json_repair", None)
    with pytest.raises(ValueError, match="pip install json-repair"):
        parse_evaluate("{'score': [1, 2]}")


@pytest.mark.parametrize("row", ANY_VERSION, ids=lambda row: row["kind"])
def test_evaluate_reads_asks_again_or_raises(row):
    found = parse_evaluate(row["answer"])
    expected = row["evaluate_as_SC"]
    if expected.get("guessed"):
        assert isinstance(found, ParseFailure) and not found.error
    elif isinstance(found, ParseFailure):
        assert found.error == expected["raises"]
    else:
        read = row["single_parser"]["returns"]
        assert same(found.numbers, read["score"])
        assert found.reason == ("" if read["reasoning"] is None else str(read["reasoning"]))


@pytest.mark.parametrize("row", golden()["parsing"], ids=lambda row: row["kind"])
def test_batch_evaluate_takes_numbers_from_anywhere(row):
    found, expected = parse_batch_evaluate(row["answer"]), row["batch_parser"]
    if "raises" in expected:
        assert isinstance(found, ParseFailure) and found.error == expected["raises"]
    else:
        assert isinstance(found, ParsedAnswer)
        assert same(found.numbers, expected["returns"]["score"])
        assert found.reason == expected["returns"]["reasoning"]


def test_made_up_numbers_are_counted_as_guesses():
    by_kind = {row["kind"]: parse_batch_evaluate(row["answer"]) for row in golden()["parsing"]}
    assert not by_kind["clean"].guessed and not by_kind["single_quotes"].guessed
    for kind in ("prose_with_numbers", "refusal", "empty", "missing_score"):
        assert by_kind[kind].guessed, kind


@pytest.mark.parametrize("row", golden()["guesses"])
def test_the_numbers_of_an_unreadable_pass_follow_from_its_seed(row):
    assert guesses(row["seed"], row["score_range"]) == (row["sc_guess"], row["pq_guess"])
