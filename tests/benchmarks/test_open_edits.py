"""`editreward bench open-edits`: its measures against a count by hand. What the groups are: tests/research."""

import json

import numpy as np
import pytest

from editreward.benchmarks import BENCHMARKS, load_benchmark, run_benchmark
from editreward.benchmarks import open_edits as module
from editreward.benchmarks.open_edits import ACCURACY, EYE
from editreward.benchmarks.runner import Runner
from editreward.cli import command as cli
from editreward.data.storage import write_groups
from editreward.groups import GroupScores
from editreward.resources import resource
from tests.helpers.pictures import picture

IF, VQ = "instruction_following", "visual_quality"
GRADES = {
    "open-edits-000": ("add", "en", "known", [(4, 1), (1, 4), (2, 2)]),
    "open-edits-001": ("remove", "zh", "new", [(4, 4), (3, 1), (1, 3)]),
}


class ByFollowing:
    """Knows the instruction following of every edit, and finds all of them equally good to look at."""

    name = fingerprint = "by following"

    def __call__(self, groups):
        found = []
        for group in groups:
            (grades,) = [row[3] for row in GRADES.values() if len(row[3]) and group.instruction.endswith(row[0])]
            following = [float(one) for one, _ in grades]
            found.append(GroupScores.from_columns(following, {IF: following, VQ: [0.0] * len(grades)}))
        return found


@pytest.fixture
def folder(tmp_path):
    """Two groups with known grades, as the script writes them."""
    rows, lines = [], []
    for number, (name, (category, language, known, grades)) in enumerate(GRADES.items()):
        edits = [{IF: one, VQ: other} for one, other in grades]
        rows.append(
            {
                "group_id": name,
                "category": category,
                "language": language,
                "instruction": f"please {category}",
                "source_images": [{"bytes": picture(number)}],
                "candidates": [
                    {"image": {"bytes": picture(100 + 10 * number + place)}, "scores": scores}
                    for place, scores in enumerate(edits)
                ],
            }
        )
        lines.append(json.dumps({"group_id": name, "names": known, "edits": edits}))
    write_groups(rows, tmp_path / "groups", "test")
    (tmp_path / "groups" / "edits.jsonl").write_text("\n".join(lines) + "\n")
    found = json.loads(resource(module.DESCRIPTION).read_text())
    (tmp_path / "groups" / "found.json").write_text(json.dumps(found))
    return tmp_path / "groups"


def values(folder) -> dict[tuple[str, str], float]:
    benchmark = BENCHMARKS["open-edits"]
    data = load_benchmark(benchmark, str(folder), progress=False)
    result = run_benchmark(benchmark, data, ByFollowing(), Runner(cache=None, progress=False))
    return {(measure.name, measure.subset): measure.estimate.value for measure in result.measures}


def test_a_pair_is_right_if_its_scores_are_in_the_order_of_the_grades(folder):
    found = values(folder)
    # Sums 5, 5, 4 and 8, 4, 4: four pairs differ; all are in the order of following but (1, 4) against (2, 2).
    assert found[ACCURACY, "overall"] == pytest.approx(3 / 4)
    assert found[ACCURACY, IF] == 1 and found[ACCURACY, VQ] == 0
    assert found[ACCURACY, "category: add"] == 1 / 2 and found[ACCURACY, "language: zh"] == 1
    assert found[ACCURACY, "names: known"] == 1 / 2 and found[ACCURACY, f"{IF}, names: new"] == 1


def test_grades_by_eye_stand_beside_the_result_with_ties_as_half(folder, tmp_path, monkeypatch):
    by_eye = tmp_path / "by_eye.json"
    grades = {"open-edits-000": [[4, 2], [1, 4], [1, 2]], "open-edits-001": [[1, 1]]}  # the second has other edits
    by_eye.write_text(json.dumps({"grades": grades, "again": {}}))
    original = module.resource
    monkeypatch.setattr(module, "resource", lambda name: by_eye if name == module.BY_EYE else original(name))
    found = values(folder)
    # Following: (4, 1) and (4, 2) right, (1, 2) a tie; quality: (1, 4) and (4, 2) right, (1, 2) a tie.
    assert found[f"{EYE}, {ACCURACY}", IF] == pytest.approx(5 / 6)
    assert found[f"{EYE}, {ACCURACY}", VQ] == pytest.approx(5 / 6)
    assert found[f"{EYE}, {ACCURACY}", "overall"] == 1


def test_results_say_which_groups_they_are_on(folder):
    load = lambda: load_benchmark(BENCHMARKS["open-edits"], str(folder), progress=False)  # noqa: E731
    assert load().notes == []
    found = json.loads((folder / "found.json").read_text())
    other = {**found, "pixels_sha256": "0", "made_with": {**found["made_with"], "numpy": "0.1"}}
    (folder / "found.json").write_text(json.dumps(other))
    (note,) = load().notes
    assert "some pixels differ" in note and "numpy 0.1" in note and "pillow" not in note
    (folder / "found.json").write_text(json.dumps({**other, "labels_sha256": "0", "seed": 7}))
    assert "some edits differ (seed 7" in load().notes[0]


def test_a_folder_without_the_groups_names_the_command_that_makes_them(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    assert cli.main(["bench", "open-edits", "--data", str(tmp_path / "other"), "--scorer", "random"]) == 2
    assert "python -m research.open_edits --output" in capsys.readouterr().err


def test_the_committed_grades_by_eye_are_of_the_committed_groups():
    by_eye = json.loads(resource(module.BY_EYE).read_text())
    committed = json.loads(resource(module.DESCRIPTION).read_text())
    assert by_eye["labels_sha256"] == committed["labels_sha256"] and by_eye["grades"]
    assert all(set(by_eye["pixels_sha256"][name]) == set(by_eye[name]) for name in ("grades", "again"))
    assert committed["pixels_sha256"] in by_eye["pixels_sha256"]["grades"].values()
    grades = [grade for graded in by_eye["grades"].values() for pair in graded for grade in pair]
    assert set(grades) == {1, 2, 3, 4} and np.mean(grades) > 1.5
    assert set(by_eye["again"]) <= set(by_eye["grades"])
