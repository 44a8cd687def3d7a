"""`editreward bench own`: one's own annotations as a benchmark, against a count by hand."""

import json

import pytest

from editreward.benchmarks.own import items_of, verdicts
from editreward.cli import command as cli
from editreward.data.storage import write_groups
from tests.helpers.pictures import picture

SCORER = """
class ByLength:
    name = fingerprint = "by length"
    def __call__(self, groups):
        from editreward.groups import GroupScores
        return [GroupScores([float(len(edited)) for edited in group.edited]) for group in groups]
"""
IF, VQ = "instruction_following", "visual_quality"


def candidate(following, quality):
    return {"scores": {IF: following, VQ: quality}}


def test_pairs_are_compared_by_sums_and_by_preferences_where_a_score_is_missing():
    candidates = [candidate(4.0, 1.0), candidate(2.0, 3.0), candidate(1.0, 1.0), candidate(None, 4.0)]
    preferences = [
        {"chosen": 3, "rejected": 2, "weight": 1.0},
        {"chosen": 2, "rejected": 0, "weight": 1.0},  # the scores say otherwise, and are more
        {"chosen": 0, "rejected": 3, "weight": 1.0},
        {"chosen": 3, "rejected": 0, "weight": 1.0},  # contradicts itself
        {"chosen": 9, "rejected": 0, "weight": 1.0},
    ]
    assert list(verdicts(candidates, preferences)) == [
        (0, 1, "tie"),
        (0, 2, "first"),
        (1, 2, "first"),
        (2, 3, "second"),
    ]
    row = {"group_id": "g", "category": "add", "candidates": candidates, "preferences": preferences}
    assert [(item.group_id, item.item_id, item.task) for item in items_of(row)][0] == ("g", "0-1", "add")


def padded(number, size):
    """A picture in a file of so many bytes."""
    data = picture(number)
    return data + bytes(size - len(data))


@pytest.fixture
def data(tmp_path):
    """Nine groups by one annotator: the longest file is the best in seven, the worst in one; one has no scores."""
    rows = []
    for number in range(9):
        sizes = [2000, 3000, 4000] if number < 7 else [4000, 3000, 2000]
        scores = [None] * 3 if number == 8 else [1.0, 2.0, 4.0]
        rows.append(
            {
                "group_id": f"g{number}",
                "instruction": f"edit {number}",
                "source_images": [{"bytes": picture(number)}],
                "candidates": [
                    {
                        "image": {"bytes": padded(100 + 3 * number + place, size)},
                        "scores": {IF: score, VQ: score},
                        "annotations": [] if score is None else [{"annotator": "me", IF: score, VQ: score}],
                    }
                    for place, (size, score) in enumerate(zip(sizes, scores, strict=True))
                ],
            }
        )
    write_groups(rows, tmp_path / "groups")
    (tmp_path / "mine.py").write_text(SCORER)
    return tmp_path


def test_the_accuracy_is_the_share_of_pairs_in_which_the_scorer_agrees(data, capsys):
    words = ["bench", "own", "--data", str(data / "groups"), "--scorer", f"{data / 'mine.py'}:ByLength", "--no-cache"]
    assert cli.main([*words, "--output", str(data / "result")]) in (0, None)
    out = capsys.readouterr().out
    assert "1 of 9 groups have no two edits with annotations" in out and "24 comparisons are few" in out
    result = json.loads((data / "result" / "result.json").read_text())
    (accuracy,) = [m for m in result["measures"] if m["name"] == "accuracy without ties"]
    assert accuracy["value"] == pytest.approx(21 / 24)


def test_data_without_annotations_and_no_data_are_said(data, capsys):
    assert cli.main(["bench", "own", "--scorer", "random"]) == 2
    assert "needs your annotated groups: --data GROUPS" in capsys.readouterr().err
    row = {
        "instruction": "x",
        "source_images": [{"bytes": picture(0)}],
        "candidates": [{"image": {"bytes": picture(1)}}],
    }
    write_groups([row], data / "bare")
    assert cli.main(["bench", "own", "--data", str(data / "bare"), "--scorer", "random"]) == 2
    assert "has no group with two edits whose scores" in capsys.readouterr().err
