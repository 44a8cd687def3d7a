"""Rationales by a scorer: which answers are kept, what is counted, and how they are marked."""

import json
from dataclasses import replace

import pytest

from editreward.cli.command import main
from editreward.curation.rationales import Rule, _annotated, write_rationales
from editreward.data.schema import dimensions_of
from editreward.data.sources import load_groups, raw_groups
from editreward.data.storage import write_groups
from editreward.groups import CandidateScore, DimensionScore, GroupScores, Pass, Unscored
from editreward.scorers.prompts import load_prompt_set
from editreward.simulation import simulate_group
from editreward.training.generative.answers import targets_of

COMPACT = load_prompt_set("editreward-compact")
DIMENSIONS = ["instruction_following", "visual_quality"]


class Judge:
    """Answers what it is told to: for each candidate of each group the numbers of the passes, or None."""

    name, fingerprint, dimensions, notes = "a judge", "0", tuple(DIMENSIONS), ()
    scale, calibrated = (1.0, 4.0), False
    prompts = COMPACT

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), 0

    def __call__(self, groups):
        self.asked += len(groups)
        return [GroupScores(tuple(self._candidate(self.answers.pop(0)) for _ in group.edited)) for group in groups]

    def _candidate(self, answer):
        if answer is None:
            return Unscored("no answer")
        passes = tuple(
            Pass(
                overall=2.0,
                sub_scores={"IF.success": follows, "IF.preservation": 4, "VQ.plausibility": 4, "VQ.cleanness": looks},
                reasons={"IF": f"reason {i}", "VQ": f"look {i}"} if i < 3 else {},
                answers={},
            )
            for i, (follows, looks) in enumerate(answer)
        )
        return CandidateScore({name: DimensionScore(2.0) for name in DIMENSIONS}, 2.0, passes=passes)


def rows_of(*scores, **columns):
    row = simulate_group(0, candidates=len(scores), size=84).to_row() | columns
    for candidate, given in zip(row["candidates"], scores, strict=True):
        candidate["scores"] = dict(zip(DIMENSIONS, given, strict=True))
    return [row]


def written(tmp_path, judge, rows, **options):
    counts = write_rationales(judge, rows, tmp_path / "out", DIMENSIONS, **options)
    (row,) = raw_groups(load_groups(tmp_path / "out", "train"))
    return counts, row["candidates"]


def test_the_answer_nearest_to_people_is_kept_of_those_that_agree(tmp_path):
    # Instruction following: 3, 3, 4, 1 have the median 3; the second is no nearer to 3.4 than the first.
    judge = Judge([(3, 2), (3, 2), (4, 2), (1, 2)])
    counts, (candidate,) = written(tmp_path, judge, rows_of((3.4, 2.0)))
    assert candidate["rationale"] == "instruction_following: reason 0\nvisual_quality: look 0"
    assert candidate["rationale_by"] == "a judge"
    assert (counts.written, counts.answers, counts.answers_apart, counts.answers_off) == (2, 8, 2, 0)
    report = json.loads((tmp_path / "out" / "rationales.json").read_text())
    assert report["counts"]["written"] == 2 and report["scorer"] == "a judge"


def test_what_is_dropped_is_counted(tmp_path):
    answers = [
        [(1, 1), (4, 4), (1, 4), (4, 1)],  # they do not agree
        [(3, 3), (3, 3), (3, 3), (3, 3)],  # they do, and people do not
        None,
        [(2, 2)] * 4,  # no annotation in one dimension
    ]
    counts, candidates = written(tmp_path, Judge(*answers), rows_of((1.0, 1.0), (1.0, 1.0), (2.0, 2.0), (2.0, None)))
    assert [one["rationale"] for one in candidates] == [None, None, None, "instruction_following: reason 0"]
    assert [one["rationale_by"] for one in candidates] == [None, None, None, "a judge"]
    assert (counts.undecided, counts.off_the_annotators, counts.unreadable, counts.not_annotated) == (2, 2, 1, 1)
    assert counts.answers_off == 8 and counts.answers_apart == 8 and counts.written == 1
    assert "2 where the answers do not agree, 2 where they agree and people do not" in counts.lines()[1]


def test_what_a_person_wrote_stays_unless_it_is_to_be_replaced(tmp_path):
    rows = rows_of((2.0, 2.0))
    rows[0]["candidates"][0]["rationale"] = "a person's"
    judge = Judge([(2, 2)] * 2)
    counts, (candidate,) = written(tmp_path, judge, rows)
    assert (candidate["rationale"], candidate["rationale_by"], judge.asked) == ("a person's", None, 0)
    assert counts.had_one == 1
    _, (candidate,) = written(tmp_path, judge, rows, replace=True)
    assert candidate["rationale_by"] == "a judge"


def test_a_rationale_stays_where_no_new_answer_is_kept(tmp_path):
    rows = rows_of((1.0, 1.0))
    rows[0]["candidates"][0]["rationale"] = "a person's"
    counts, (candidate,) = written(tmp_path, Judge([(4, 4)] * 2), rows, replace=True)
    assert (candidate["rationale"], candidate["rationale_by"]) == ("a person's", None)
    assert (counts.had_one, counts.written) == (1, 0)


def test_of_two_dimensions_of_one_prompt_the_first_by_name_is_the_truth():
    names = [f"dimension_{letter}" for letter in "fedcba"]
    prompts = replace(COMPACT, dimensions=dict.fromkeys(names, "IF"))
    annotated = {name: float(place) for place, name in enumerate(names)}
    assert _annotated(prompts, prompts.prompts[0], annotated) == 5.0


def test_an_answer_without_words_is_no_rationale(tmp_path):
    wordless = [(2, 2), (2, 2), (2, 2), (3, 3)]  # only the last pass, which has no words, agrees with people
    counts, (candidate,) = written(tmp_path, Judge(wordless), rows_of((3.0, 3.0)), rule=Rule(spread=2))
    assert candidate["rationale"] is None and counts.without_reason == 2


def test_the_dataset_is_learnt_from_and_written_again_with_its_marks(tmp_path):
    _, candidates = written(tmp_path, Judge([(3, 2)] * 2), rows_of((3.0, 2.0)))
    dataset = load_groups(tmp_path / "out", "train")
    assert dimensions_of(dataset.features) == DIMENSIONS
    (row,) = raw_groups(dataset)
    texts = [target.text for target in targets_of(row, [COMPACT])]
    assert [json.loads(text)["reasoning"] for text in texts] == ["reason 0", "look 0"]
    write_groups([row], tmp_path / "again")
    (again,) = raw_groups(load_groups(tmp_path / "again", "train"))
    assert again == row


def test_a_scorer_without_reasons_or_of_other_dimensions_is_refused(tmp_path, capsys):
    groups = tmp_path / "groups"
    write_groups(rows_of((2.0, 2.0), (1.0, 1.0)), groups)
    assert main(["rationales", "--data", str(groups), "--output", str(tmp_path / "x"), "--scorer", "ssim"]) == 2
    assert "writes no reasons" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there is nothing to compare"):
        write_rationales(Judge(), [], tmp_path / "y", ["consistency"])
    with pytest.raises(ValueError, match="above 0"):
        Rule(share=0)
