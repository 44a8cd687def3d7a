"""Official aggregation of GEdit-Bench and ImgEdit-Bench, against sums written out and against their layouts."""

import csv
import math
import random
from fractions import Fraction

import pytest

from editreward.benchmarks.editing import gedit_bench, imgedit_bench
from editreward.benchmarks.editing.gedit_bench import TASKS, Judgement, aggregate, read_judgements, write_judgements


def judged(seed: int = 0, per_task: int = 6) -> list[Judgement]:
    """Judgements with scores that minima of whole numbers have; the tasks have different numbers of them."""
    rng, found = random.Random(seed), []
    for place, task in enumerate(TASKS):
        for number in range(per_task + place):
            language = "en" if number % 2 else "cn"
            path = f"/results/fullset/{task}/{language}/{number}"
            scores = float(rng.randint(0, 10)), float(rng.randint(0, 10))
            text = f'make "it", {number}\nthen stop'
            inside = number % 3 < 2
            found.append(Judgement(task, f"{path}_SRCIMG.png", f"{path}.png", text, *scores, inside, language))
    return found


@pytest.mark.parametrize("language", ["en", "cn"])
@pytest.mark.parametrize("intersection", [False, True])
def test_the_overall_score_is_the_mean_over_tasks_of_the_mean_of_roots(language, intersection):
    judgements = judged()
    scores = aggregate(judgements, language, intersection)
    semantics, quality, overall = [], [], []
    for task in TASKS:
        rows = [
            j for j in judgements if j.task == task and j.language == language and (j.intersection or not intersection)
        ]
        assert scores.counts[task] == len(rows)
        semantics.append(Fraction(sum(int(j.semantics) for j in rows), len(rows)))
        quality.append(Fraction(sum(int(j.quality) for j in rows), len(rows)))
        overall.append(math.fsum(math.sqrt(j.semantics * j.quality) for j in rows) / len(rows))
        assert scores.by_task[task].semantics == pytest.approx(float(semantics[-1]), rel=1e-14)
        assert scores.by_task[task].overall == pytest.approx(overall[-1], rel=1e-14)
    assert scores.means.semantics == pytest.approx(float(sum(semantics) / 11), rel=1e-14)
    assert scores.means.quality == pytest.approx(float(sum(quality) / 11), rel=1e-14)
    assert scores.means.overall == pytest.approx(math.fsum(overall) / 11, rel=1e-14)
    assert scores.means.overall != pytest.approx(math.sqrt(scores.means.semantics * scores.means.quality), abs=1e-3)


def test_an_empty_task_and_an_unknown_language_are_errors():
    with pytest.raises(ValueError, match="no language 'zh'.*`cn`"):
        aggregate(judged(), "zh")
    without = [j for j in judged() if (j.task, j.language) != ("ps_human", "cn")]
    with pytest.raises(ValueError, match=r"No judged edit of ps_human \(cn\)"):
        aggregate(without, "cn")
    aggregate(without, "en")
    outside = [j for j in judged() if j.task != "text_change" or not j.intersection]
    with pytest.raises(ValueError, match=r"text_change \(en, intersection\)"):
        aggregate(outside, "en", intersection=True)


def test_tables_have_the_published_columns_and_come_back_as_they_were(tmp_path):
    judgements = judged()
    files = write_judgements(tmp_path / "gpt4o" / "eval_results_new", "mine", judgements)
    assert files[0].name == "mine_background_change_gpt_score.csv" and files[-1].name == "mine_combined_gpt_score.csv"
    with files[0].open(newline="") as file:
        first = next(csv.DictReader(file))
    assert list(first) == [
        *("source_image", "edited_image", "instruction", "sementics_score", "quality_score"),
        *("intersection_exist", "instruction_language"),
    ]
    assert first["intersection_exist"] == "True" and first["instruction"] == 'make "it", 0\nthen stop'
    assert sum(1 for _ in csv.DictReader(files[-1].open(newline=""))) == len(judgements)
    assert gedit_bench.editor_of(files[0].parent) == "mine"
    found, faults = read_judgements(files[0].parent, "mine")
    assert found == judgements and not faults


def test_rows_without_scores_are_counted_and_never_guessed(tmp_path):
    judgements = judged()
    write_judgements(tmp_path, "mine", judgements)
    file = tmp_path / "mine_ps_human_gpt_score.csv"
    lines = [",".join(gedit_bench.COLUMNS)]
    lines += [f"s.png,{n}.png,edit,{score},5,True,en" for n, score in enumerate(["", "nan", "12.5", "refused", "7"])]
    lines += ["s.png,4.png,edit,3,5,True,en", "s.png,9.png,edit,3,5,True,zh"]
    file.write_text("\n".join(lines) + "\n")
    found, faults = read_judgements(tmp_path, "mine")
    assert [j.semantics for j in found if j.task == "ps_human"] == [7.0]
    told = ("no number", "not of 0..10", "not of 0..10", "no number", "judged before", "neither en nor cn")
    assert len(faults) == 6 and all(part in fault for part, fault in zip(told, faults, strict=True))
    assert faults[0].startswith("mine_ps_human_gpt_score.csv, line 2")
    file.unlink()
    with pytest.raises(FileNotFoundError, match="mine_ps_human"):
        read_judgements(tmp_path, "mine")


def test_repeated_judgements_have_a_mean_and_a_standard_deviation():
    scores = [aggregate(judged(seed), "en") for seed in range(3)]
    found = gedit_bench.repeated(scores)["G_O"]
    values = [one.means.overall for one in scores]
    mean = sum(values) / 3
    assert found.mean == pytest.approx(mean) and found.repeats == 3
    assert found.std == pytest.approx(math.sqrt(sum((value - mean) ** 2 for value in values) / 2))
    assert math.isnan(gedit_bench.repeated(scores[:1])["G_O"].std)


EDITS = {
    "1": {"id": "a/1.jpg", "prompt": "add", "edit_type": "add"},
    "2": {"id": "a/2.jpg", "prompt": "add", "edit_type": "add"},
    "3": {"id": "a/3.jpg", "prompt": "cut", "edit_type": "remove"},
    "4": {"id": "a/4.jpg", "prompt": "cut", "edit_type": "remove"},
}


def answer(*numbers: object) -> str:
    names = ("Prompt Compliance", "Visual Naturalness", "Physical & Detail Integrity")
    return "Reasoning: fine\n" + "\n".join(f"{name}: {number}" for name, number in zip(names, numbers, strict=False))


def test_imgedit_rounds_twice_as_the_published_scripts_do():
    results = {"1": answer(5, 4, 4), "2": answer(3, 3, 2), "3": answer(1, 1, 2), "4": answer(4, 4, 4)}
    scores = imgedit_bench.aggregate(EDITS, results)
    # 13/3 = 4.33, 8/3 = 2.67 -> 3.5; 4/3 = 1.33, 4 -> 2.665 -> 2.67 or 2.66 as Python rounds
    assert scores.by_type == {"add": 3.5, "remove": round((1.33 + 4.0) / 2, 2)}
    assert scores.mean == pytest.approx((3.5 + scores.by_type["remove"]) / 2)
    assert not scores.failed and not scores.irregular and scores.strict == scores.by_type


def test_imgedit_counts_what_has_no_score_and_what_is_irregular():
    results = {"1": answer(5, 4), "2": answer(3, 3, 3), "3": {"error": "429"}, "4": answer(4, 4, 9)}
    scores = imgedit_bench.aggregate(EDITS, results)
    assert scores.by_type == {"add": (4.5 + 3) / 2, "remove": round(17 / 3, 2)} and scores.counts == {
        "add": 2,
        "remove": 1,
    }
    assert scores.failed == {"3": "429"} and scores.irregular == ["1", "4"] and scores.strict == {"add": 3.0}
    with pytest.raises(ValueError, match="No answer of remove has a score"):
        imgedit_bench.aggregate(EDITS, results | {"4": "I cannot judge people."})
    with pytest.raises(ValueError, match="no edit 9"):
        imgedit_bench.aggregate(EDITS, results | {"9": answer(1, 1, 1)})


def test_a_file_without_types_is_no_basic_edit():
    for wrong in ("Compliance: 4", {"id": "1.jpg", "prompt": "add"}):
        with pytest.raises(ValueError, match="Edit 9 has no edit_type: this is no basic_edit.json"):
            imgedit_bench.aggregate(EDITS | {"9": wrong}, {})
