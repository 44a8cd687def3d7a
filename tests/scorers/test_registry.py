"""One text names any scorer; and several scorers as one."""

import json
import subprocess
import sys

import numpy as np
import pytest

from editreward import CandidateScore, DimensionScore, EditGroup, GroupScores, Unscored, load_scorer
from editreward.groups import PairwiseJudge, Scorer
from editreward.scorers.ensemble import EnsembleScorer, Standardisation, standardisation_of
from editreward.scorers.prompts.prompt_set import FOLDER
from editreward.scorers.registry import SCORERS, check_answers, load_scorer_or_judge
from tests.helpers.backbones import make_image

OWN = """
class Lengths:
    name, fingerprint = "lengths", "lengths 1"

    def __call__(self, groups):
        from editreward import GroupScores

        return [GroupScores([len(image) for image in group.edited]) for group in groups]

nothing = lambda: 3
"""


class Fixed:
    """Says the same of every group: dimensions by name, an entry per candidate."""

    def __init__(self, name, columns, scale=(1.0, 4.0), overall=None):
        self.name = self.fingerprint = name
        self.columns, self.scale, self.calibrated = columns, scale, scale is not None
        self.dimensions, self.notes = tuple(columns), (f"note of {name}",)
        self.rewards = overall or [sum(values) for values in zip(*columns.values(), strict=True)]

    def __call__(self, groups):
        return [GroupScores.from_columns(self.rewards, self.columns, calibrated=self.calibrated) for _ in groups]


GROUP = EditGroup([b"s"], "edit", [b"a", b"bb", b"ccc"])


@pytest.mark.parametrize("name", ["random", "psnr", "ssim", "pixels", "phash"])
def test_every_baseline_keeps_to_the_interface(name):
    scorer = load_scorer(name)
    assert isinstance(scorer, Scorer)
    group = EditGroup([make_image(0)], "edit", [make_image(1), make_image(2)])
    check_answers(scorer, [group], scorer([group]))


def test_a_reward_model_is_a_scorer_and_says_what_its_scale_is(random_model_dir):
    scorer = load_scorer(random_model_dir, device="cpu")
    assert isinstance(scorer, Scorer) and scorer.scale is None and not scorer.calibrated
    bundled = load_scorer(device="cpu")
    assert bundled.scale == (1.0, 4.0) and bundled.calibrated and bundled.dimensions == scorer.dimensions


def test_a_user_s_scorer_is_completed(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    scorer = load_scorer(f"{tmp_path}/own.py:Lengths")
    assert isinstance(scorer, Scorer) and scorer.dimensions == () and scorer.scale is None
    assert scorer([GROUP])[0].overall == [1, 2, 3]
    scorer._scorer.notes = ("So far 3 calls.",)
    assert scorer.notes == ("So far 3 calls.",)
    with pytest.raises(ValueError, match="returned a int, which is no scorer"):
        load_scorer(f"{tmp_path}/own.py:nothing")


def test_a_judge_of_pairs_is_refused_where_scores_are_needed():
    assert isinstance(load_scorer_or_judge("coin"), PairwiseJudge)
    with pytest.raises(ValueError, match="a coin per pair judges pairs of edits"):
        load_scorer("coin")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("ssim", {"dtype": "float32"}, "The scorer 'ssim' has no `dtype`"),
        ("ssim:x", {}, "takes nothing after a colon"),
        ("nothing-here", {}, "neither a model folder nor a Hub repository"),
        ("http://localhost:1", {}, "Is the server up"),
        ("missing.py:F", {}, "there is no file missing.py"),
    ],
)
def test_what_cannot_be_loaded_is_named(spec, options, message):
    with pytest.raises(ValueError, match=message):
        load_scorer(spec, **options)


def test_a_registered_name_goes_before_a_folder(tmp_path, monkeypatch):
    (tmp_path / "random").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_scorer("random").name == "random scores"
    with pytest.raises(ValueError, match="is not a model folder"):
        load_scorer("./random")


def test_a_file_describes_a_scorer_or_an_ensemble(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "one.yaml").write_text("scorer: random\nseed: 7\n")
    (tmp_path / "two.yaml").write_text(
        "ensemble:\n  - own.py:Lengths\n  - scorer: random\n    seed: 7\n"
        "standardisation:\n  - {mean: 2, std: 1}\n  - {mean: 0.5, std: 0.25}\n"
    )
    assert load_scorer(tmp_path / "one.yaml").seed == 7
    (found,) = load_scorer(tmp_path / "two.yaml")([GROUP])
    (drawn,) = load_scorer("random", seed=7)([GROUP])
    expected = [((length - 2) + (one - 0.5) / 0.25) / 2 for length, one in zip((1, 2, 3), drawn.overall, strict=True)]
    assert found.overall == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("scorer: random\nensemble: []", "must have one of `scorer`, `ensemble`"),
        ("scorer: random\nsede: 1", "unknown entry 'sede'; there are: .*seed"),
        ("ensemble: [random, coin]", "judges pairs, and cannot be a member"),
        ("ensemble: [random]", "two members or more, not 1"),
        ("ensemble: [random, ssim]", "different scales cannot be averaged"),
        ("ensemble: [random, ssim]\nstandardisation: [{mean: 1, std: 0}, {mean: 1, std: 1}]", "must be positive"),
        ("ensemble: [random, ssim]\nstandardisation: [{mean: 1}]", "`mean` and `std` of each member"),
        (
            "ensemble: [random, ssim]\nstandardisation: [{mean: a, std: 1}, {mean: 1, std: 1}]",
            "scorer.yaml: .*`mean` of a standardisation must be a number, not 'a'",
        ),
        ("scorer:", "scorer.yaml: `scorer` must be a text that names a scorer, not None"),
        ("scorer: {name: random}", "`scorer` must be a text that names a scorer, not {'name': 'random'}"),
        ("ensemble: [random, 3]", "`scorer` must be a text that names a scorer, not 3"),
        ("judge:", "scorer.yaml: `judge` must be a text that names a model, not None"),
        ("judge-pairs: {model: m}", "`judge-pairs` must be a text that names a model"),
        ("generative:", "`generative` must be a text that names a model, not None"),
        ("scorer: random\nseed: abc", "scorer.yaml: `seed` must be a whole number, not 'abc'"),
        ("scorer: random\nseed: true", "`seed` must be a whole number, not True"),
        ("scorer: editreward\nmax_batch_tokens: '4096'", "`max_batch_tokens` must be a whole number, not '4096'"),
        ("scorer: editreward\nrevision: 1234567", "`revision` must be a text .in quotes.*, not 1234567"),
        ("scorer: judge:m@http://h/v1\ntemperature: warm", "`temperature` must be a number, not 'warm'"),
        ("scorer: judge:m@http://h/v1\nprices: 3", "`prices` must be two numbers, not 3"),
    ],
)
def test_a_faulty_file_is_named_with_its_entry(tmp_path, text, message):
    (tmp_path / "scorer.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_scorer(tmp_path / "scorer.yaml")


def test_scorers_of_one_scale_are_averaged_by_dimension():
    one = Fixed("one", {"a": [1.0, 2.0, 3.0], "b": [2.0, 2.0, 2.0]})
    two = Fixed("two", {"b": [4.0, 3.0, 2.0], "a": [3.0, 2.0, 1.0], "c": [1.0, 1.0, 1.0]})
    ensemble = EnsembleScorer([one, two])
    assert isinstance(ensemble, Scorer) and ensemble.dimensions == ("a", "b") and ensemble.scale == (1.0, 4.0)
    (scores,) = ensemble([GROUP])
    assert scores.dimensions == {"a": [2.0, 2.0, 2.0], "b": [3.0, 2.5, 2.0]} and scores.overall == [2.5, 2.25, 2.0]
    # Overall of the members: 1.5 and 3.5, 2 and 2.5, 2.5 and 1.5; half their differences.
    assert scores.stds["overall"] == pytest.approx([1.0, 0.25, 0.5])
    assert ensemble.notes == ("note of one", "note of two")
    two.notes = ("So far 3 calls.",)
    assert ensemble.notes == ("note of one", "So far 3 calls.")


def test_scorers_of_different_scales_need_a_standardisation():
    graded, raw = Fixed("graded", {"a": [1.0, 2.0, 3.0]}), Fixed("raw", {"a": [10.0, 30.0, 20.0]}, scale=None)
    with pytest.raises(ValueError, match=r"graded: \(1.0, 4.0\), raw: none"):
        EnsembleScorer([graded, raw])
    standards = [standardisation_of(scorer, [GROUP, GROUP]) for scorer in (graded, raw)]
    assert standards[0].mean == 2 and standards[0].std == pytest.approx(0.8**0.5)
    (scores,) = EnsembleScorer([graded, raw], standards)([GROUP])
    assert scores.overall == pytest.approx([-1 / 0.8**0.5, 0.5 / 0.8**0.5, 0.5 / 0.8**0.5])
    alike = EnsembleScorer([graded, graded], [standards[0]] * 2)
    assert (alike.dimensions, alike.scale, alike.calibrated) == ((), None, False)
    with pytest.raises(ValueError, match="1 standardisations for 2 members"):
        EnsembleScorer([graded, raw], [Standardisation(0, 1)])


def test_what_one_member_cannot_score_the_ensemble_cannot():
    class Broken(Fixed):
        def __call__(self, groups):
            score = CandidateScore({"a": DimensionScore(1.0)}, 1.0)
            return [Unscored("no source"), GroupScores((score, Unscored("no edit"), score))]

    whole, broken = Fixed("whole", {"a": [1.0, 1.0, 1.0]}), Broken("broken", {"a": []}, overall=[1.0])
    first, second = EnsembleScorer([whole, broken])([GROUP, GROUP])
    assert (
        first == Unscored("no source")
        and second.unscored == {1: Unscored("no edit")}
        and list(second.scored) == [0, 2]
    )


def test_the_names_of_all_scorers_are_known_without_torch():
    code = "import sys, editreward.scorers.registry as r; assert 'torch' not in sys.modules; print(*r.SCORERS)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == list(SCORERS)


def test_of_two_scorers_on_the_command_line_none_is_ignored(capsys):
    from editreward.cli import main

    command = ["score", "--source", "a", "--edited", "b", "--instruction", "c", "--model", "x", "--scorer", "ssim"]
    with pytest.raises(SystemExit):
        main(command)
    assert "--scorer and --model are one option" in capsys.readouterr().err


def test_loading_a_model_computes_no_fingerprint(random_model_dir, monkeypatch):
    monkeypatch.setattr("editreward.scorers.reward_model.weights_hash", lambda model: pytest.fail("hashed"))
    load_scorer(random_model_dir, device="cpu")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (GroupScores((CandidateScore({}, 1.0), "good", CandidateScore({}, 1.0))), "a str as the score of a candidate"),
        (GroupScores([1.0, 2.0, 3.0], probabilities=[1.0]), "1 probabilities for 3 candidates"),
        (GroupScores([1.0, 2.0, 3.0], probabilities=[0.5, 0.5, float("nan")]), "nan as probability to be the best"),
        (GroupScores([1.0, 2.0, 3.0], preferences=[[0.5]]), "preferences that are not 3 by 3"),
        (
            GroupScores([CandidateScore({}, 1.0), CandidateScore({"a": DimensionScore(1.0)}, 1.0), Unscored("x")]),
            "scores in different dimensions",
        ),
    ],
)
def test_answers_of_the_wrong_form_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        check_answers(Fixed("fixed", {"a": [1.0]}), [GROUP], [scores])


def test_numbers_of_numpy_are_plain_numbers():
    scores = GroupScores([np.float32(0.5), np.float64(1.5)])
    assert scores.overall == [0.5, 1.5] and {type(one) for one in scores.overall} == {float}
    columns = GroupScores.from_columns(np.array([1, 2], np.float32), {"a": np.array([1, 2], np.float32)})
    assert json.loads(json.dumps(columns.state()))["candidates"][1]["reward"] == 2
    with pytest.raises(TypeError, match="from_columns"):
        GroupScores([1.0], {"a": [1.0]})


@pytest.mark.parametrize("name", ["random", "ssim"])
@pytest.mark.parametrize(
    "group",
    [EditGroup([], "edit", [b"a"]), EditGroup([b"a"], None, [b"a"]), EditGroup([b"a"], "edit", [])],
    ids=["no source", "no instruction", "no edit"],
)
def test_an_incomplete_group_is_unscored(name, group):
    assert isinstance(load_scorer(name)([group])[0], Unscored)


def test_a_prompt_set_lies_beside_the_file_that_names_it(tmp_path, monkeypatch):
    own = (FOLDER / "editreward.yaml").read_text(encoding="utf-8").replace("name: editreward", "name: own", 1)
    (tmp_path / "own.yaml").write_text(own, encoding="utf-8")
    (tmp_path / "editreward").mkdir()  # no prompt set
    file = tmp_path / "judge.yaml"
    file.write_text("scorer: judge:m@http://h/v1\nprompts: own.yaml\n")
    assert load_scorer(file).prompts.name == "own"
    file.write_text("scorer: judge:m@http://h/v1\nprompts: editreward\n")
    assert load_scorer(file).prompts.name == "editreward"


def test_an_entry_without_a_value_names_no_file(tmp_path):
    (tmp_path / "judge.yaml").write_text("judge: m@http://h/v1\nprompts:\nlog:\n")
    assert load_scorer(tmp_path / "judge.yaml").options.log is None
    (tmp_path / "one.yaml").write_text("scorer: random\nseed:\n")
    assert load_scorer(tmp_path / "one.yaml").seed == 0
