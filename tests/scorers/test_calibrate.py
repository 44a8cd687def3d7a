"""Scale and spread of any scorer, fitted on annotated groups, saved, and found again by `load_scorer`."""

import argparse
import json
import shutil

import numpy as np
import pytest
import yaml

from editreward import CandidateScore, DimensionScore, EditGroup, GroupScores, Unscored, cli, load_scorer
from editreward.cli.scorer_options import add_scorer_options, options_of_scores
from editreward.groups.scores import Pass
from editreward.resources import resource
from editreward.scorers.calibrated import CalibratedScorer
from editreward.scorers.calibrating import fit_scorer, save_as_yaml
from tests.helpers.backbones import make_image

DIMENSIONS = ("style", "detail")
IMAGE = make_image(0)


def rows_of(rng, groups=60, candidates=4):
    """Annotated rows whose scores follow 2.5 + 0.5 x a hidden number per dimension; and the hidden numbers by id."""
    rows, hidden = [], {}
    for number in range(groups):
        x = rng.normal(size=(candidates, 2))
        y = np.clip(2.5 + 0.5 * x + rng.normal(scale=0.2, size=x.shape), 1, 4)
        hidden[str(number)] = x
        edits = [{"image": IMAGE, "scores": dict(zip(DIMENSIONS, map(float, one), strict=True))} for one in y]
        rows.append({"group_id": str(number), "source_images": [IMAGE], "instruction": "edit", "candidates": edits})
    return rows, hidden


class Hidden:
    """Says the hidden numbers of a group, on a scale of its own."""

    name, fingerprint, dimensions, scale, calibrated, notes = "hidden", "hidden 1", DIMENSIONS, None, False, ()

    def __init__(self, hidden, std=None, passes=0, rng=None):
        self.hidden, self.std, self.passes, self.rng = hidden, std, passes, rng

    def __call__(self, groups):
        return [GroupScores(tuple(map(self.score, self.hidden[group.group_id]))) for group in groups]

    def score(self, x):
        dimensions = {name: DimensionScore(10 * v, self.std) for name, v in zip(DIMENSIONS, x, strict=True)}
        told = tuple(
            Pass(10 * x.mean() + e, {}, {}, {}) for e in (self.rng.normal(size=self.passes) if self.passes else ())
        )
        reward = np.mean([one.overall for one in told]) if told else 10 * x.mean()
        return CandidateScore(dimensions, float(reward), self.std and self.std / 2**0.5, passes=told)


@pytest.mark.parametrize("std", [None, 0.001])
def test_a_fitted_scorer_says_people_s_scores_with_intervals_that_hold(std):
    rows, hidden = rows_of(np.random.default_rng(0))
    fit = fit_scorer(Hidden(hidden, std), rows)
    assert sorted(fit.calibration) == ["detail", "overall", "style"] and fit.groups == 60 and fit.link is None
    new_rows, new_hidden = rows_of(np.random.default_rng(1), groups=300)
    scorer = CalibratedScorer(Hidden(new_hidden, std), fit.calibration)
    assert scorer.calibrated and scorer.scale == (1.0, 4.0) and scorer.dimensions == DIMENSIONS
    inside = []
    for row, scores in zip(new_rows, scorer([EditGroup([], "", [], r["group_id"]) for r in new_rows]), strict=True):
        for one, score in zip(row["candidates"], scores.scores, strict=True):
            assert score.overall.std_calibrated and score.overall.calibrated
            error = score.style.mean - one["scores"]["style"]
            assert abs(error) < 1.5
            inside.append(abs(error) <= 1.96 * score.style.std)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_a_scorer_that_writes_gets_probabilities_and_its_passes_noise_is_taken_into_account():
    rng = np.random.default_rng(2)
    rows, hidden = rows_of(rng, groups=80)
    fit = fit_scorer(Hidden(hidden, passes=4, rng=rng), rows)
    assert fit.link is not None and fit.link.pairs > 300 and fit.link.log_loss < 0.4
    scorer = CalibratedScorer(Hidden(hidden, passes=4, rng=rng), fit.calibration, fit.link_data())
    (scores,) = scorer([EditGroup([], "", [], "3")])
    assert sum(scores.probabilities) == pytest.approx(1)
    assert np.argmax(scores.probabilities) in scores.order[:2]
    one = scores.scores[0]
    variance = fit.link.variance.variance(one.pass_std**2 / 4)
    assert one.reward_std == pytest.approx(variance**0.5)
    factor = fit.calibration["overall"]["std_factor"] * fit.calibration["overall"]["slope"]
    assert one.overall.std == pytest.approx(factor * one.reward_std)
    # The probability of a pair is that of the link.
    a, b = scores.scores[:2]
    expected = fit.link.probability([a.reward - b.reward], [[a.pass_std**2 / 4, b.pass_std**2 / 4]])
    assert scores.preferences[0][1] == pytest.approx(expected[0], abs=1e-6)


def test_what_cannot_be_scored_stays_unscored_and_is_counted():
    rows, hidden = rows_of(np.random.default_rng(3), groups=30)

    class Half(Hidden):
        def __call__(self, groups):
            answers = super().__call__(groups)
            return [GroupScores((Unscored("broken"), *one.candidates[1:])) for one in answers]

    fit = fit_scorer(Half(hidden), rows)
    assert fit.unscored == 30
    (scores,) = CalibratedScorer(Half(hidden), fit.calibration)([EditGroup([], "", [], "0")])
    assert list(scores.unscored) == [0] and scores.scored[1].overall.calibrated


def test_rows_without_scores_and_scorers_that_know_nothing_are_refused():
    rows, hidden = rows_of(np.random.default_rng(4), groups=70)
    for row in rows:
        for one in row["candidates"]:
            one["scores"] = dict.fromkeys(DIMENSIONS)
    with pytest.raises(ValueError, match="no row has scores"):
        fit_scorer(Hidden(hidden), rows)
    rows, hidden = rows_of(np.random.default_rng(4), groups=70)
    with pytest.raises(ValueError, match=r"hidden, style: .*slope"):
        fit_scorer(Hidden({name: -x for name, x in hidden.items()}), rows)


def test_rows_with_scores_are_found_behind_any_number_without(tmp_path):
    rows, hidden = rows_of(np.random.default_rng(5), groups=200)
    for row in rows[:150]:
        for one in row["candidates"]:
            one["scores"] = None
    assert fit_scorer(Hidden(hidden), rows).groups == 50


def test_the_command_writes_a_scorer_that_loads(tmp_path, capsys):
    file = tmp_path / "ssim.yaml"
    options = ["--data", "simulated", "--limit", "40", "--scorer", "ssim", "--output", str(file)]
    assert cli.main(["calibrate", *options]) == 0
    out = capsys.readouterr().out
    assert "overall" in out and "within 50, 80, 95 %" in out
    line = yaml.safe_load(file.read_text())["calibration"]["overall"]
    raw, fitted = load_scorer("ssim"), load_scorer(file)
    group = EditGroup([make_image(0)], "edit", [make_image(1), make_image(0)])
    (before,), (after,) = raw([group]), fitted([group])
    assert fitted.calibrated and after.overall == before.overall  # rewards stay raw, and rank
    expected = [line["intercept"] + line["slope"] * reward for reward in before.overall]
    assert [one.overall.mean for one in after.scores] == pytest.approx(expected)
    file.write_text(yaml.safe_dump({"scorer": "ssim", "calibration": {"style": {"intercept": 0, "slope": 1}}}))
    with pytest.raises(ValueError, match="ssim.yaml: a calibration has lines"):
        load_scorer(file)


@pytest.mark.slow
def test_a_model_s_own_config_takes_the_calibration_and_nothing_else_changes(tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(resource("checkpoints/editreward-tiny"), folder)
    before = json.loads((folder / "config.json").read_text())
    command = ["calibrate", "--data", "simulated", "--limit", "40", "--model", str(folder), "--device", "cpu"]
    assert cli.main(command) == 0
    after = json.loads((folder / "config.json").read_text())
    assert {k: v for k, v in after.items() if k != "calibration"} == {
        k: v for k, v in before.items() if k != "calibration"
    }
    assert sorted(after["calibration"]) == ["instruction_following", "overall", "visual_quality"]
    for name, line in before["calibration"].items():  # fitted on more groups of the same world
        assert after["calibration"][name]["slope"] == pytest.approx(line["slope"], rel=0.2)
        assert after["calibration"][name]["std_factor"] > 1
    assert "±" in str(load_scorer(folder, device="cpu")([EditGroup([IMAGE], "edit", [IMAGE])])[0].scores[0].overall)


def test_the_file_keeps_the_options_that_scores_depend_on(tmp_path):
    parser = argparse.ArgumentParser()
    add_scorer_options(parser)
    args = parser.parse_args("--scorer random --seed 3 --passes 4 --device cpu --max-calls 9".split())
    assert options_of_scores(args) == {"seed": 3, "passes": 4}
    rows, hidden = rows_of(np.random.default_rng(6), groups=40)
    save_as_yaml(tmp_path / "file.yaml", "random", fit_scorer(Hidden(hidden), rows), options_of_scores(args))
    written = yaml.safe_load((tmp_path / "file.yaml").read_text())
    assert (written["scorer"], written["seed"], written["passes"]) == ("random", 3, 4)


def test_a_scorer_that_is_no_model_needs_a_file_to_write(capsys):
    assert cli.main(["calibrate", "--data", "x", "--scorer", "ssim"]) == 2
    assert "`--output FILE.yaml` is needed: ssim is no folder of a model" in capsys.readouterr().err


def test_the_file_of_a_registered_name_says_the_name_whatever_folder_is_there(tmp_path, monkeypatch, capsys):
    (tmp_path / "ssim").mkdir()
    (tmp_path / "ssim" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    command = ["calibrate", "--data", "simulated", "--limit", "24", "--scorer", "ssim"]
    assert cli.main([*command, "--output", "c.yaml"]) == 0
    assert cli.main([*command, "--output", "new/folder/c.yaml"]) == 0  # not an error after all has been scored
    assert (tmp_path / "new" / "folder" / "c.yaml").is_file()
    assert yaml.safe_load((tmp_path / "c.yaml").read_text())["scorer"] == "ssim"
    assert load_scorer(tmp_path / "c.yaml").name == "ssim to the source"
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "ssim is no folder of a model" in capsys.readouterr().err


def test_the_file_finds_what_it_names_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text("")
    (tmp_path / "own.yaml").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "editreward").mkdir()
    monkeypatch.chdir(tmp_path)
    rows, hidden = rows_of(np.random.default_rng(7), groups=40)
    fit = fit_scorer(Hidden(hidden), rows)

    def saved(spec, **options):
        save_as_yaml(tmp_path / "file.yaml", spec, fit, options)
        return yaml.safe_load((tmp_path / "file.yaml").read_text())

    assert saved("model")["scorer"] == f"{tmp_path}/model"
    assert saved("own.py:F")["scorer"] == f"{tmp_path}/own.py:F"
    assert saved("generative:model")["scorer"] == f"generative:{tmp_path}/model"
    assert saved("judge:m@http://h/v1", prompts="own.yaml")["prompts"] == f"{tmp_path}/own.yaml"
    named = saved("judge:m@http://h/v1", prompts="editreward")
    assert (named["scorer"], named["prompts"]) == ("judge:m@http://h/v1", "editreward")


def test_a_group_counts_though_its_first_candidates_have_no_annotation():
    rows, hidden = rows_of(np.random.default_rng(8), groups=30)
    whole = fit_scorer(Hidden(hidden), rows)
    without = [{**row, "candidates": [{"image": IMAGE, "scores": None}, *row["candidates"]]} for row in rows]
    more = {name: np.concatenate([np.zeros((1, 2)), x]) for name, x in hidden.items()}
    assert fit_scorer(Hidden(more), without).calibration == whole.calibration


@pytest.mark.filterwarnings("error")
def test_a_group_counts_nothing_of_which_only_what_is_unscored_was_annotated():
    rows, hidden = rows_of(np.random.default_rng(9), groups=30)
    whole = fit_scorer(Hidden(hidden), rows)

    class LosesTheFirst(Hidden):
        def __call__(self, groups):
            answers = super().__call__(groups)
            lost = [group.group_id == "more" for group in groups]
            return [
                GroupScores((Unscored("broken"), *one.candidates[1:])) if is_lost else one
                for is_lost, one in zip(lost, answers, strict=True)
            ]

    candidates = [{**one, "scores": None if n else one["scores"]} for n, one in enumerate(rows[0]["candidates"])]
    more = {**rows[0], "group_id": "more", "candidates": candidates}
    fit = fit_scorer(LosesTheFirst({**hidden, "more": hidden["0"]}), [*rows, more])
    assert fit.calibration == whole.calibration and fit.unscored == 1


def test_notes_are_what_the_scorer_says_now_and_deny_no_probabilities_that_a_link_gives():
    rng = np.random.default_rng(10)
    rows, hidden = rows_of(rng, groups=40)
    scorer = Hidden(hidden, passes=4, rng=rng)
    fit = fit_scorer(scorer, rows)
    fitted = CalibratedScorer(scorer, fit.calibration, fit.link_data())
    plain = CalibratedScorer(scorer, fit.calibration)
    written = "Scores are what m at h wrote; they are no probabilities."
    sampled = "Of 2 answers; there are no probabilities until `editreward calibrate` has fitted them."
    scorer.notes = (written, sampled, "The scorer is uncalibrated.", "So far 3 calls.")
    assert fitted.notes == ("Scores are what m at h wrote.", "Of 2 answers.", "So far 3 calls.")
    assert plain.notes == (written, sampled, "So far 3 calls.")
