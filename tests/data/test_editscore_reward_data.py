"""EditScore-Reward-Data: questions and answers in ShareGPT form become groups, and then answers again."""

import json
from pathlib import Path

import pytest

from editreward.data.importers import ImportFault
from editreward.data.sources import load_groups
from editreward.training.generative.answers import targets_of
from tests.helpers.generative import published_prompts
from tests.helpers.published_rows import EDITSCORE_INSTRUCTION, editscore_row, editscore_rows, run, stored_groups

FORMAT = "editscore-reward-data"


def written(root: Path, rows: list[dict]) -> Path:
    file = root / "reward.json"
    file.write_text(json.dumps(rows))
    return file


def mapped(score: float, high: float = 25) -> float:
    return pytest.approx(1 + 3 * score / high)


def test_rows_of_one_source_and_instruction_are_a_group_with_the_rows_about_the_looks_of_its_edits(tmp_path):
    report = run(FORMAT, written(tmp_path, editscore_rows(tmp_path)), tmp_path / "out")
    assert (report["groups"], report["candidates"], report["errors"], report["notes"]) == (2, 3, {}, {})
    first, second = stored_groups(tmp_path / "out")
    assert (first["instruction"], second["instruction"]) == (EDITSCORE_INSTRUCTION, "make it blue")
    assert [image["path"] for image in first["source_images"]] == ["source.png"]
    a, b = first["candidates"]
    names = ("success", "preservation", "naturalness", "artefacts")
    assert a["scores"] == dict(zip(names, map(mapped, (25, 7, 20, 25)), strict=True))
    assert b["scores"] == dict(zip(names, map(mapped, (0, 24, 3, 12)), strict=True))
    assert (a["rationale"], a["rationale_by"]) == ("SC: a hat\nPQ: smooth and clean", FORMAT)
    (c,) = second["candidates"]
    assert c["scores"] == {"success": mapped(13), "preservation": mapped(13), "naturalness": None, "artefacts": None}
    assert c["rationale"] == "SC: half blue"


def test_what_is_learnt_is_the_answers_of_the_file(tmp_path):
    rows = editscore_rows(tmp_path)
    run(FORMAT, written(tmp_path, rows), tmp_path / "out")
    groups = load_groups(str(tmp_path / "out"))
    found = [json.loads(target.text) for group in groups for target in targets_of(group, [published_prompts()])]
    answers = [json.loads(one["conversations"][1]["value"]) for one in rows]
    answers[0]["reasoning"] = "smooth and clean"
    assert sorted(map(str, found)) == sorted(map(str, answers))


def test_of_two_dimensions_each_is_the_smaller_score_of_an_answer(tmp_path):
    file = written(tmp_path, editscore_rows(tmp_path))
    run(FORMAT, file, tmp_path / "out", dimensions=("instruction_following", "visual_quality"))
    a, _ = stored_groups(tmp_path / "out")[0]["candidates"]
    assert a["scores"] == {"instruction_following": mapped(7), "visual_quality": mapped(20)}
    assert a["rationale"] == "instruction_following: a hat\nvisual_quality: smooth and clean"


def test_other_numbers_of_dimensions_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="editscore-reward-data has 4 or 2 dimensions, not 3"):
        run(FORMAT, tmp_path / "none.json", tmp_path / "out", dimensions=("a", "b", "c"))
    assert not (tmp_path / "out").exists()


def test_the_scale_is_the_one_that_the_question_asks_for(tmp_path):
    rows = editscore_rows(tmp_path)
    rows[4] = editscore_row(["other.png", "c.png"], "make it blue", [7, 10], high=10)
    run(FORMAT, written(tmp_path, rows), tmp_path / "out")
    (c,) = stored_groups(tmp_path / "out")[1]["candidates"]
    assert (c["scores"]["success"], c["scores"]["preservation"]) == (mapped(7, 10), 4)


def turns(*spoken: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for who, text in spoken]


QUESTION = "<image><image>Editing instruction: x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": None}, r"no list conversations \(--column conversations=COLUMN"),
        (
            {"conversations": [{"role": "user", "content": "x"}]},
            "must have `from` and a text `value`, not role, content",
        ),
        ({"conversations": turns(("human", QUESTION))}, "must be by 'human' and 'gpt', not 'human'"),
        ({"images": ["other.png"]}, "the question has 2 <image>, and images has 1 images"),
        ({"conversations": turns(("human", QUESTION), ("gpt", "12, 13"))}, "the answer is no JSON object"),
        (
            {"conversations": turns(("human", QUESTION), ("gpt", '{"reason": "x", "score": [1, 2]}'))},
            "must have `reasoning` and `score`, not reason, score",
        ),
        (
            {"conversations": turns(("human", QUESTION), ("gpt", '{"reasoning": "x", "score": [1]}'))},
            r"`score` must be a list of 2 numbers, not \[1\]",
        ),
        (
            {"conversations": turns(("human", QUESTION), ("gpt", '{"reasoning": "x", "score": [1, 26]}'))},
            r"`score` is \[1, 26\], must be 0 to 25",
        ),
        (
            {"conversations": turns(("human", "<image>" + QUESTION[14:]), ("gpt", "{}")), "images": ["c.png"]},
            "an editing instruction and only one image",
        ),
    ],
)
def test_errors_name_the_row_and_the_field(tmp_path, change, message):
    rows = editscore_rows(tmp_path)
    rows[4] |= change
    with pytest.raises(ImportFault, match=f"row 4 of reward.json: .*{message}"):
        run(FORMAT, written(tmp_path, rows), tmp_path / "out")


def test_rows_that_contradict_each_other_or_belong_nowhere_are_listed(tmp_path):
    rows = editscore_rows(tmp_path)
    rows += [
        editscore_row(["a.png"], None, [20, 24]),
        editscore_row(["b.png"], None, [3, 12], "again"),
        editscore_row(["lone.png"], None, [1, 2]),
    ]
    report = run(FORMAT, written(tmp_path, rows), tmp_path / "out", on_fault="list")
    assert report["errors"] == {"contradictory-score": 1, "incomplete-group": 1}
    assert report["notes"] == {"duplicate-edit": 1}
    a, b = stored_groups(tmp_path / "out")[0]["candidates"]
    assert (a["scores"]["naturalness"], a["rationale"]) == (None, "SC: a hat")
    assert b["scores"]["artefacts"] == mapped(12) and b["rationale"] == "SC: no hat\nPQ: a seam"
    with pytest.raises(ImportFault, match="no row tells the source and the instruction of the edit 'lone.png'"):
        run(FORMAT, written(tmp_path, [*editscore_rows(tmp_path), rows[-1]]), tmp_path / "lone")
