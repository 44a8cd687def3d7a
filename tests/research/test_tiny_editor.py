import json
import shutil

import numpy as np
import pytest

from editreward.editors.reward_source import Rewarded
from editreward.resources import resource
from research.tiny_editor.blind import agreement, report, sheets
from research.tiny_editor.data import FOLLOWING, QUALITY, SIDE, WORDINGS, triple
from research.tiny_editor.experiments import arm_of, load, noise_for, ordered, print_best_of_n
from research.tiny_editor.offline import best_share, sampled_pairs, triple_rows, triple_scores
from research.tiny_editor.train import learning_rate


def test_best_of_n_takes_the_edit_with_the_highest_score_of_each_draw(tmp_path, capsys):
    tasks = [
        {"grades": [[1, 4], [4, 3], [2, 2], [4, 1]], "scores": {"good": [0, 9, 0, 1], "bad": [9, 0, 1, 0]}},
        {"grades": [[1, 4], [1, 3], [4, 2], [1, 1]], "scores": {"good": [1, 0, 5, 2], "bad": [None, 3, 0, 2]}},
    ]
    for index, task in enumerate(tasks):
        (tmp_path / f"{index:05d}.json").write_text(json.dumps(task))
    print_best_of_n(tmp_path, ["good", "bad"], 2, 4)
    good, bad = capsys.readouterr().out.splitlines()[2:]
    assert [cell.split()[0] for cell in good.split(" | ")[2:]] == ["37.5%", "75.0%", "100.0%"]
    assert [cell.split()[0] for cell in bad.split(" | ")[2:]] == ["37.5%", "0.0%", "0.0%"]
    assert good.split(" | ")[-1].rstrip(" |").endswith(", 2.50")


def test_triples_are_as_imperfect_as_they_are_said_to_be():
    made = [triple(seed) for seed in range(60)]
    images, texts, _ = made[0]
    assert [one.shape for one in images] == [(SIDE, SIDE, 3)] * 3 and len(texts) == WORDINGS
    scores = np.array([scores for _, _, scores in made])
    assert abs((scores[:, 0] == 4).mean() - FOLLOWING[4]) < 0.2 and abs((scores[:, 1] == 4).mean() - QUALITY[4]) < 0.2
    same = [np.array_equal(one[0][1], one[0][2]) for one in made if tuple(one[2]) == (4, 4)]
    assert np.mean(same) > 0.5  # added and moved objects have a jitter of their own


def test_the_learning_rate_rises_stays_and_falls():
    rates = [learning_rate(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] < 0.05 and rates[100] == rates[690] == 1.0 and rates[850] < 0.6 and rates[-1] == 0.02


def test_noise_leaves_the_share_of_pairs_in_order_that_was_asked_for():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, 9, size=4000).astype(float)
    first, second = truth[:2000], truth[2000:]
    parts = first != second
    std = noise_for(0.7, np.abs(first - second)[parts])
    noisy = first + std * rng.standard_normal(2000) - second - std * rng.standard_normal(2000)
    assert np.mean((noisy * (first - second) > 0)[parts]) == pytest.approx(0.7, abs=0.03)


def test_a_weak_truth_is_fitted_to_the_edits_of_best_of_n(tmp_path):
    with pytest.raises(FileNotFoundError, match="run that first"):
        arm_of("truth-80", tmp_path)
    folder = tmp_path / "best-of-n"
    folder.mkdir()
    (folder / "00000.json").write_text(json.dumps({"scores": {"truth": [2, 4, 8, 8]}}))
    assert arm_of("truth-80", tmp_path).reward.startswith("truth:")


def test_pairs_are_ordered_as_by_the_judge():
    assert ordered(np.array([[1.0, 2, 3]]), np.array([[4, 4, 8]])) == 1
    assert ordered(np.array([[1.0, 1, 0]]), np.array([[4, 6, 6]])) == 0.25


def test_agreement_counts_grades_verdicts_and_order():
    cells = agreement(np.array([4, 4, 3, 1]), np.array([4, 3, 3, 2]))
    assert cells == ["50.0 %", "75.0 %", "90.0 %"]  # one of five pairs is a tie of the inspector's


def test_the_best_share_are_those_with_the_highest_scores_ties_drawn():
    assert best_share(np.array([1.0, 9, 3, 7, 2, 5]), 1 / 3, 0) == [1, 3]
    drawn = {tuple(best_share(np.zeros(6), 1 / 3, seed)) for seed in range(20)}
    assert len(drawn) > 3 and all(len(set(one)) == 2 for one in drawn)
    assert best_share(np.array([-np.inf, 1, -np.inf]), 1 / 3, 0) == [1]


def test_triples_are_scored_by_their_truth_or_by_a_reward():
    rows = triple_rows(3)
    truth = triple_scores(rows, None)
    assert truth.shape == (3,) and ((truth >= 2) & (truth <= 8)).all()

    def reward(asked, sources, edited):
        assert [one.instruction for one in asked] == [row["instruction"] for row in rows]
        return Rewarded(np.array([1.0, np.nan, 2.0], dtype=np.float32), {1: "failed"})

    assert triple_scores(rows, reward).tolist() == [1, -np.inf, 2]


def test_pairs_are_the_best_and_the_worst_of_an_editors_edits():
    def brightness(rows, sources, edited):
        return Rewarded(np.array([np.asarray(one).mean() for one in edited], dtype=np.float32), {})

    adapter = load(resource("checkpoints/tiny-editor"))
    made = list(sampled_pairs(adapter, brightness, 2, samples=3, steps=2, seed=0))
    assert [row["preferences"] for row in made] == [[{"chosen": 0, "rejected": 1, "weight": 1.0}]] * 2
    for row in made:
        better, worse = (np.asarray(one["image"]).mean() for one in row["candidates"])
        assert better > worse and row["source_images"][0].size == row["candidates"][0]["image"].size
    flat = sampled_pairs(adapter, lambda r, s, e: Rewarded(np.ones(len(e), np.float32), {}), 1, 2, 2, 0)
    assert list(flat) == []


def test_outputs_of_several_editors_are_mixed_and_return_to_their_editor(tmp_path, capsys):
    first, second = resource("checkpoints/tiny-editor"), tmp_path / "second"
    shutil.copytree(first, second)
    sheets(tmp_path / "blind", [first, second], 3)
    key = json.loads((tmp_path / "blind" / "key.json").read_text())
    assert sorted((one["task"], one["editor"]) for one in key) == sorted(
        (task, str(editor)) for task in range(3) for editor in (first, second)
    )
    grades = [f"{number} {4 if one['editor'] == str(second) else 2} 3" for number, one in enumerate(key)]
    (tmp_path / "blind" / "grades.txt").write_text("\n".join(grades))
    report(tmp_path / "blind")
    lines = capsys.readouterr().out.splitlines()
    cells = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1:]
        for line in lines
        if line.startswith(f"| {tmp_path}") or str(first) in line
    }
    assert cells[str(first)][:2] == ["3", "0 %, 3.00"] and cells[str(second)][:2] == ["3", "100 %, 3.00"]
    assert cells[str(first)][2:] == cells[str(second)][2:]  # the inspectors see the same images
