"""Judging an editor on GEdit-Bench with scorers whose answers are known, and the command."""

import io
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from editreward.benchmarks.editing import gedit_bench, imgedit_bench, imgedit_judging, judging
from editreward.benchmarks.editing.gedit_bench import TASKS
from editreward.cli import command as cli
from editreward.groups import GroupScores
from editreward.scorers.calibrated import CalibratedScorer
from editreward.scorers.passes import AnswerCounts, Reply, score_by_passes
from editreward.scorers.prompts import load_prompt_set
from tests.helpers.generative import published_prompts
from tests.helpers.pictures import file_of, noise, picture

LANGUAGES = ("en", "cn")


def made(root: Path) -> list[judging.Edit]:
    """An edit of each task and language, with images; edited images are larger than their sources."""
    rows = []
    for number, (task, language) in enumerate((task, language) for task in TASKS for language in LANGUAGES):
        rows.append({"task_type": task, "key": f"k{number}", "instruction_language": language})
        rows[-1] |= {"instruction": f"edit {number}", "Intersection_exist": True}
        folder = root / "fullset" / task / language
        folder.mkdir(parents=True)
        (folder / f"k{number}_SRCIMG.png").write_bytes(picture(number))
        (folder / f"k{number}.png").write_bytes(file_of(noise(number)))
    pq.write_table(pa.Table.from_pylist(rows), root / "gedit.parquet")
    return judging.edits_of(rows)


class Writes:
    """A judge by EditScore's prompts: SC [20, 10 + pass], PQ [15, n], n by instruction; out of range is no answer."""

    name, fingerprint, dimensions, scale, calibrated, notes = "writes", "writes 1", (), (0.0, 10.0), False, ()

    def __init__(self, passes: int = 1, broken: frozenset[str] = frozenset()) -> None:
        self.prompts, self.passes, self.broken = published_prompts(), passes, broken
        self.asked: list[str] = []

    def __call__(self, groups):
        return [GroupScores([self._score(group)]) for group in groups]

    def _score(self, group):
        sizes = {Image.open(io.BytesIO(image)).size for image in (*group.sources, *group.edited)}
        assert len(sizes) == 1  # the edited image has the source's size
        self.asked.append(group.instruction)

        def ask(questions):
            return [Reply(self._text(question, group.instruction)) for question in questions]

        counts = AnswerCounts()
        return score_by_passes(self.prompts, 1, ask, passes=self.passes, seed=0, counts=counts)[0]

    def _text(self, question, instruction):
        if instruction in self.broken:
            return "I would rather not."
        numbers = (
            [20, 10 + question.number] if question.prompt.name == "SC" else [15, int(instruction.split()[1]) % 15]
        )
        return json.dumps({"reasoning": "", "score": numbers})


class Rewards:
    """A scorer without passes: its score is the number of the instruction."""

    name, fingerprint, dimensions, scale, calibrated, notes = "rewards", "rewards 1", ("q",), None, False, ()

    def __call__(self, groups):
        values = [[float(group.instruction.split()[-1])] for group in groups]
        return [GroupScores.from_columns(value, {"q": [2 * value[0]]}) for value in values]


def test_minima_of_the_sub_scores_become_the_published_table(tmp_path):
    edits = made(tmp_path)
    judged = judging.judge(edits, tmp_path, Writes(), tmp_path / "answers", progress=False)
    assert not judged.failed and not judged.rewards and len(judged.repeats) == 1
    for number, judgement in enumerate(judged.repeats[0]):
        assert judgement.semantics == pytest.approx(10 / 2.5) and judgement.quality == pytest.approx(number % 15 / 2.5)
    (folder,) = judging.write_tables(judged, tmp_path, "writes", "mine")
    found, faults = gedit_bench.read_judgements(folder, "mine")
    by_order = sorted(judged.repeats[0], key=lambda one: TASKS.index(one.task))
    assert found == by_order and not faults
    overall = [math.sqrt(4 * (number % 15) / 2.5) for number in range(0, 22, 2)]  # one edit a task
    assert gedit_bench.aggregate(found, "en").means.overall == pytest.approx(sum(overall) / 11)


def test_each_pass_is_a_judgement_of_its_own(tmp_path):
    judged = judging.judge(made(tmp_path), tmp_path, Writes(passes=3), tmp_path / "answers", progress=False)
    scores = [gedit_bench.aggregate(judgements, "cn") for judgements in judged.repeats]
    assert [one.means.semantics for one in scores] == pytest.approx([4.0, 4.4, 4.8])
    found = gedit_bench.repeated(scores)["G_SC"]
    assert found.mean == pytest.approx(4.4) and found.std == pytest.approx(0.4)
    folders = judging.write_tables(judged, tmp_path, "writes", "mine")
    assert [folder.parent.name for folder in folders] == ["writes", "writes-2", "writes-3"]


def test_a_calibrated_judge_gives_the_same_published_table(tmp_path):
    """What stands around a judge hands its answers on: they tell what was asked."""
    edits, line = made(tmp_path), {"overall": {"intercept": 1.0, "slope": 0.2}}
    plain = judging.judge(edits, tmp_path, Writes(), tmp_path / "plain", progress=False)
    calibrated = judging.judge(edits, tmp_path, CalibratedScorer(Writes(), line), tmp_path / "other", progress=False)
    assert calibrated.repeats == plain.repeats and not calibrated.rewards


def test_tables_keep_what_the_same_judge_said_in_the_other_language(tmp_path):
    edits = made(tmp_path)

    def judged(scorer, language):
        chosen = [edit for edit in edits if edit.language == language]
        folder = judging.answers_file(tmp_path / "vlm", language).parent
        (tables,) = judging.write_tables(
            judging.judge(chosen, tmp_path, scorer, folder, progress=False), tmp_path, "vlm", "mine"
        )
        return {one.language: one.semantics for one in gedit_bench.read_judgements(tables, "mine")[0]}

    assert judged(Writes(), "en") == {"en": 4.0}
    assert judged(Writes(), "cn") == {"en": 4.0, "cn": 4.0} == judged(Writes(), "en")
    other = Writes()
    other.fingerprint = "writes 2"
    judging.answers_file(tmp_path / "vlm", "cn").unlink()
    assert judged(other, "cn") == {"cn": 4.0}  # never two judges in one table


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (lambda groups: [GroupScores([math.nan])] * len(groups), "not finite|nan"),
        (lambda groups: [GroupScores([1.0])] * (len(groups) - 1), "answers to"),
        (lambda groups: [GroupScores([1.0, 2.0])] * len(groups), "2 scores for 1"),
    ],
)
def test_a_scorer_that_does_not_keep_to_the_interface_is_named(tmp_path, answers, told):
    class Wrong(Rewards):
        name = "wrong"

        def __call__(self, groups):
            return answers(groups)

    with pytest.raises(ValueError, match=f"wrong .*({told})"):
        judging.judge(made(tmp_path), tmp_path, Wrong(), tmp_path / "answers", progress=False)
    edits = imgedit_judging.edits_of(imgedit(tmp_path / "imgedit"))
    images = tmp_path / "imgedit"
    with pytest.raises(ValueError, match=f"wrong .*({told})"):
        imgedit_judging.judge(edits, images, images / "sources", Wrong(), tmp_path / "other", progress=False)


def test_failed_answers_are_counted_and_asked_again_and_others_are_not(tmp_path):
    edits = made(tmp_path)
    first = Writes(broken=frozenset({"edit 3"}))
    judged = judging.judge(edits, tmp_path, first, tmp_path / "answers", progress=False)
    assert list(judged.failed) == [edits[3].id] and "asked 3 times" in judged.failed[edits[3].id]
    assert len(judged.repeats[0]) == 21
    source, edited = edits[5].files(tmp_path)
    edited.write_bytes(file_of(noise(999)))  # what was rated is no longer there
    edits[6].files(tmp_path)[1].unlink()
    edits[7].files(tmp_path)[0].write_bytes(b"no image")
    again = Writes()
    judged = judging.judge(edits, tmp_path, again, tmp_path / "answers", progress=False)
    assert again.asked == ["edit 3", "edit 5"]
    assert list(judged.failed) == [edits[6].id, edits[7].id] and len(judged.repeats[0]) == 20
    other = Rewards()
    with pytest.raises(ValueError, match="unfinished run"):
        judging.judge(edits, tmp_path, other, tmp_path / "answers", progress=False)


def test_rows_that_are_no_gedit_bench_are_named(tmp_path):
    row = {"task_type": "ps_human", "key": "a", "instruction_language": "en", "instruction": "x"}
    row["Intersection_exist"] = True
    for wrong, message in (
        ({"task_type": "ps"}, "task_type 'ps'"),
        ({"key": "../a"}, "no file name"),
        ({"Intersection_exist": "False"}, "Intersection_exist 'False', neither true nor false"),
        ({"instruction": None}, "Row 0 has no instruction"),
    ):
        with pytest.raises(ValueError, match=message):
            judging.edits_of([row | wrong])
    with pytest.raises(ValueError, match="another one of ps_human/en/a"):
        judging.edits_of([row, row])
    with pytest.raises(ValueError, match="no column 'key'"):
        judging.edits_of([{"task_type": "ps_human"}])


def test_the_command_judges_then_aggregates(tmp_path, capsys):
    results = tmp_path / "mine"
    made(results)
    code = (
        "from tests.benchmarks.editing.test_judging import Rewards, Writes\n\n\ndef writes():\n    return Writes(2)\n"
    )
    (tmp_path / "judges.py").write_text(code + "\n\ndef rewards():\n    return Rewards()\n")
    arguments = ["edit-bench", "gedit-bench", "--results", str(results)]
    scoring = [*arguments, "--data", str(results / "gedit.parquet"), "--scorer"]
    assert cli.main([*scoring, f"{tmp_path / 'judges.py'}:writes", "--judge", "vlm"]) == 0
    judged = capsys.readouterr().out
    assert "| background_change | 1 | 4.200 | 0.000 | 0.000 |" in judged and "7.086" in judged
    assert cli.main([*arguments, "--judge", "vlm", "vlm-2"]) == 0
    read = capsys.readouterr().out
    assert read == judged[judged.index("| en |") :] and "2 judgements" in read
    assert cli.main([*arguments, "--judge", "vlm", "--language", "cn"]) == 2
    assert "No judged edit of background_change" in capsys.readouterr().err
    assert cli.main(arguments) == 2
    assert "there are: vlm, vlm-2" in capsys.readouterr().err
    assert cli.main([*scoring, f"{tmp_path / 'judges.py'}:rewards"]) == 0
    rewards = capsys.readouterr().out
    assert "EditReward-Data holds GEdit-Bench's instructions" in rewards and "| mean | 10.000 | 20.000 |" in rewards


def test_the_command_aggregates_imgedit(tmp_path, capsys):
    edits = {str(n): {"id": f"{n}.jpg", "prompt": "x", "edit_type": "add"} for n in range(3)}
    results = {"0": "A: 5\nB: 4\nC: 4", "1": "A: 3\nB: 3\nC: 3"}
    (tmp_path / "basic_edit.json").write_text(json.dumps(edits))
    (tmp_path / "result.json").write_text(json.dumps(results))
    arguments = ["--results", str(tmp_path / "result.json"), "--edits", str(tmp_path / "basic_edit.json")]
    assert cli.main(["edit-bench", "imgedit-bench", *arguments]) == 1
    out = capsys.readouterr().out
    assert "| add | 2 | 3.67 | 3.67 |" in out or "| add | 2 | 3.66 | 3.66 |" in out
    assert "1 edits have no score" in out and "2: there is no answer" in out


TYPES = ("add", "style")
QUESTIONS = {name: f"Rate the {name}: <edit_prompt>" for name in TYPES}


class Lines(Writes):
    """A judge of ImgEdit-Bench: it gives n of the prompt, 5 and the number of the pass + 1."""

    def __init__(self, passes: int = 1, broken: frozenset[str] = frozenset()) -> None:
        super().__init__(passes, broken)
        self.prompts, self.fingerprint = load_prompt_set("imgedit"), f"lines {passes}"

    def _text(self, question, instruction):
        (message,) = question.prompt.render(instruction)
        assert [type(part).__name__ for part in message.parts] == ["TextPart", "ImagePart", "ImagePart"]
        if any(instruction.endswith(prompt) for prompt in self.broken):
            return "Compliance: 3\nNaturalness: 9\nDetail: 3"
        return f"Brief reasoning: none.\nCompliance: {instruction[-1]}\nSeams: 5\nDetail: {question.number + 1}"


def imgedit(root: Path) -> dict:
    """Four edits of two types, with images."""
    (root / "sources").mkdir(parents=True)
    edits = {}
    for number in range(4):
        edits[f"k{number}"] = {"id": f"{number}.png", "prompt": f"edit {number + 1}", "edit_type": TYPES[number % 2]}
        (root / "sources" / f"{number}.png").write_bytes(picture(number))
        (root / f"k{number}.png").write_bytes(picture(90 + number))
    return edits


def test_imgedit_is_judged_by_the_question_of_the_type_and_written_as_published(tmp_path):
    content = imgedit(tmp_path)
    edits, folder = imgedit_judging.edits_of(content), tmp_path / "judge"
    questions = imgedit_judging.questions_of(QUESTIONS, edits)
    first = Lines(2, broken=frozenset({"edit 3"}))
    judged = imgedit_judging.judge(edits, tmp_path, tmp_path / "sources", first, folder, questions, progress=False)
    assert list(judged.failed) == ["k2"] and "second is 9, out of 1..5" in judged.failed["k2"]
    assert set(first.asked) == {f"Rate the {TYPES[n % 2]}: edit {n + 1}" for n in range(4)}
    again = Lines(2)
    judged = imgedit_judging.judge(edits, tmp_path, tmp_path / "sources", again, folder, questions, progress=False)
    assert again.asked == ["Rate the add: edit 3"] and not judged.failed
    results = json.loads((folder / "result.json").read_text())
    assert (
        results == judged.repeats[0] and results["k3"] == "Brief reasoning: none.\nCompliance: 4\nSeams: 5\nDetail: 1"
    )
    scores = [imgedit_bench.aggregate(content, one) for one in judged.repeats]
    assert scores[0].by_type == {"add": round((2.33 + 3.0) / 2, 2), "style": round((2.67 + 3.33) / 2, 2)}
    assert json.loads((folder / "result-2.json").read_text()) == judged.repeats[1]
    with pytest.raises(ValueError, match="no text for 'add'"):
        imgedit_judging.questions_of({"style": "<edit_prompt>", "add": "x"}, edits)
    with pytest.raises(ValueError, match="writes no answers to ImgEdit-Bench's questions"):
        imgedit_judging.judge(
            edits, tmp_path, tmp_path / "sources", Rewards(), tmp_path / "r", questions, progress=False
        )


def test_the_command_judges_imgedit_by_a_reward_apart(tmp_path, capsys):
    content = imgedit(tmp_path)
    (tmp_path / "basic_edit.json").write_text(json.dumps(content))
    (tmp_path / "judges.py").write_text(
        "from tests.benchmarks.editing.test_judging import Rewards\n\n\ndef rewards():\n    return Rewards()\n"
    )
    words = ["edit-bench", "imgedit-bench", "--edits", str(tmp_path / "basic_edit.json"), "--results", str(tmp_path)]
    words += ["--scorer", f"{tmp_path / 'judges.py'}:rewards"]
    assert cli.main(words) == 2 and "--sources that of sources" in capsys.readouterr().err
    (tmp_path / "k3.png").unlink()
    assert cli.main([*words, "--sources", str(tmp_path / "sources")]) == 1
    out = capsys.readouterr().out
    assert "| add | 2.000 | 4.000 |" in out and "| mean | 2.000 | 4.000 |" in out
    assert "k3: there is no image" in out and "compare with no published number" in out
