"""Best of N: candidates are made once, the best are chosen, and the report says what N is worth and where it fails."""

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image

from editreward.cli import command as cli
from editreward.data.edit_sources import SourceOptions, StreamedGroups, open_source
from editreward.data.storage import write_groups
from editreward.editors.best_of import best_of_n, choose_in
from editreward.editors.best_of_report import reach
from editreward.editors.candidates import CandidateGroups
from editreward.editors.editors import SimulatedEditor, editor_of
from editreward.editors.instructions import open_instructions
from editreward.editors.store import CandidateStore
from editreward.groups import GroupScores
from editreward.statistics.best_of import expected_best
from tests.helpers.pictures import file_of, noise
from tests.helpers.scorers import GREEN, RED, ColourScorer, Share, painted

ROWS, N = 12, 16
HACKED = 200


@pytest.fixture
def quick(monkeypatch):
    """Reports without figures, which take a second each."""
    monkeypatch.setattr("editreward.reports.page._figure", lambda plots, palette: b"")


class Paints:
    """Paints red, as much as the row and the seed say; its truth falls where red is above `HACKED`."""

    name = "paints"

    def __init__(self, seeds=range(N), fails=""):
        self.seeds, self.fails, self.made = tuple(seeds), fails, 0

    def settings(self):
        return {"paints": True}

    def check(self):
        pass

    def red(self, group_id, seed):
        return random.Random(f"{group_id} {seed}").randrange(250)

    def scores(self, group_id, seed):
        red = self.red(group_id, seed)
        return {"quality": 1 + 3 * min(red, HACKED) / HACKED - (1.5 if red > HACKED else 0)}

    def load(self, device):
        def edit(row, seed):
            if (row.group_id, seed) == self.fails:
                raise RuntimeError("out of memory")
            self.made += 1
            return painted(self.red(row.group_id, seed), 0, seed)

        return edit


class ByGreen(ColourScorer):
    """Another scorer: it prefers low seeds."""

    def _candidate(self, extra, image):
        return replace(super()._candidate(extra, image), reward=-Image.open(image_file(image)).getpixel((0, 0))[2])


class Sure(ColourScorer):
    """Says how sure it is: the best candidate is it with 90 %."""

    def _group(self, group):
        found = super()._group(group)
        chances = [0.9 if i == found.index else 0.1 / (len(group.edited) - 1) for i in range(len(group.edited))]
        return GroupScores(found.candidates, found.preferences, chances)


def image_file(content):
    import io

    return io.BytesIO(content)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV of sources and instructions."""
    folder = tmp_path_factory.mktemp("rows")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "source", "instruction", "category"])
        for number in range(ROWS):
            (folder / f"{number}.png").write_bytes(file_of(noise(number)))
            writer.writerow([f"row {number}", f"{number}.png", "x", f"c{number % 2}"])
    return folder / "rows.csv"


@pytest.fixture(scope="module")
def made(table, tmp_path_factory):
    """A run with two scorers."""
    output = tmp_path_factory.mktemp("best") / "out"
    editor = Paints()
    found = best_of_n(editor, str(table), output, N, Sure(), second=ByGreen(fingerprint="green"))
    return output, found, editor


def test_winners_are_the_reddest_and_load_as_table_and_image_folder(made, table):
    output, found, editor = made
    lines = [json.loads(line) for line in (output / "winners" / "metadata.jsonl").read_text().splitlines()]
    assert len(lines) == ROWS == len(found.choices)
    for number, line in enumerate(lines):
        group_id = f"row {number}"
        reds = [editor.red(group_id, seed) for seed in editor.seeds]
        assert (line["group_id"], line["seed"]) == (group_id, reds.index(max(reds)))
        image = Image.open(output / "winners" / line["edited_file_name"])
        assert image.getpixel((0, 0)) == (max(reds), 0, line["seed"]) and line["candidates"] == N
        source = (output / "winners" / line["source_file_name"]).read_bytes()
        assert source == (table.parent / f"{number}.png").read_bytes()
        assert line["truth"] == pytest.approx(editor.scores(group_id, line["seed"])["quality"])
        assert (line["probability_best"], line["second"]) == (0.9, -line["seed"])
    rows = load_dataset("imagefolder", data_dir=str(output / "winners"), split="train")
    assert rows.num_rows == ROWS and {"edited", "source", "instruction", "seed"} <= set(rows.features)
    groups = [row for _, row in StreamedGroups(str(output / "winners"), SourceOptions()).group_rows()]
    assert [row["group_id"] for row in groups] == [f"row {number}" for number in range(ROWS)]


def test_curves_are_exact_means_and_a_fall_of_the_truth_is_told(made):
    output, found, editor = made
    report = found.report
    ids = [f"row {number}" for number in range(ROWS)]
    reds = {one: [float(editor.red(one, seed)) for seed in editor.seeds] for one in ids}
    truths = {one: [editor.scores(one, seed)["quality"] for seed in editor.seeds] for one in ids}
    for n in (1, 4, N):
        expected = sum(expected_best(reds[one], truths[one])[n - 1] for one in ids) / ROWS
        assert report.curves["truth"]["by the score"][n - 1].value == pytest.approx(expected)
        best = sum(expected_best(truths[one], truths[one])[n - 1] for one in ids) / ROWS
        assert report.curves["truth"]["by the truth itself"][n - 1].value == pytest.approx(best)
    score = [one.value for one in report.curves["score"]["by the score"]]
    assert score == sorted(score) and (report.groups, report.numbers) == (dict.fromkeys(report.curves, ROWS), N)
    fall = report.falls["truth"]
    assert fall.number in (2, 4, 8) and fall.difference.high < 0 and report.falls["second scorer"] is None
    assert [one.share.value for one in report.sure] == [1.0, 1.0, 1.0, 0.0]
    html, text = (output / "report.html").read_text(), (output / "report.md").read_text()
    for part in ("Over-optimised: the truth of the best of 16", "No fall of the second scorer", "colours"):
        assert part in html and part in text
    assert html.count("data:image/jpeg") > 20
    numbers = json.loads((output / "report.json").read_text())
    assert numbers["falls"]["truth"]["number"] == fall.number and numbers["winners"] == ROWS


def test_a_second_run_makes_and_scores_nothing_and_more_candidates_only_the_new_ones(made, table, tmp_path, quick):
    output, _, _ = made
    editor, scorer = Paints(), Sure()
    best_of_n(editor, str(table), output, N, scorer)
    assert editor.made == 0 and scorer.calls == []
    editor = Paints(range(2))
    best_of_n(editor, str(table), tmp_path / "out", 2, ColourScorer(), limit=3)
    more = Paints(range(4))
    found = best_of_n(more, str(table), tmp_path / "out", 4, ColourScorer(), limit=3)
    assert (editor.made, more.made) == (6, 6) and found.report.numbers == 4


def test_candidates_that_are_the_same_are_counted(table, tmp_path, quick):
    class Same(Paints):
        def red(self, group_id, seed):
            return 7

        def load(self, device):
            return lambda row, seed: painted(7)

    found = best_of_n(Same(range(3)), str(table), tmp_path / "out", 3, ColourScorer(), limit=2)
    assert found.report.repeated == 4
    assert "4 candidates equal another of their group" in (tmp_path / "out" / "report.md").read_text()


def test_a_lower_bound_prefers_what_is_surely_good(table, tmp_path, quick):
    """The standard deviation of a candidate is its seed / sqrt(2) here."""
    editor = Paints(range(4))
    found = best_of_n(editor, str(table), tmp_path / "out", 4, ColourScorer(), lower_bound=100, limit=5)
    assert [choice.seeds[choice.best] for choice in found.choices] == [0] * 5
    assert set(found.report.curves["truth"]) == {"by the lower bound", "by the score", "by the truth itself"}
    with pytest.raises(ValueError, match="gives no standard deviations"):
        best_of_n(editor, str(table), tmp_path / "out", 4, "pixels", lower_bound=1, limit=5)


def test_what_fails_is_listed_and_the_rest_goes_on(table, tmp_path, quick):
    editor = Paints(range(1), fails=("row 1", 0))
    found = best_of_n(editor, str(table), tmp_path / "out", 1, ColourScorer(), limit=3)
    assert [choice.group_id for choice in found.choices] == ["row 0", "row 2"]
    assert found.failed[0][0] == "row 1" and "out of memory" in found.generation[0][1]
    again = best_of_n(Paints(range(1)), str(table), tmp_path / "out", 1, ColourScorer(), limit=3, retry_failed=True)
    assert len(again.choices) == 3 and not again.failed and not again.generation


def test_candidates_that_exist_are_chosen_from_by_the_command(tmp_path, capsys, quick):
    rows = [
        {
            "instruction": "x",
            "source_images": [noise(number)],
            "candidates": [
                {"image": painted(10 * place + number), "editor": "e", "scores": {RED: 1.0 + place, GREEN: 2.0}}
                for place in range(3)
            ],
        }
        for number in range(4)
    ]
    write_groups(rows, tmp_path / "groups")
    words = ["best-of", "--results", str(tmp_path / "groups"), "--scorer", "pixels", "--output", str(tmp_path / "out")]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "4 winners, chosen by the score" in out and "truth" in out
    assert len(list((tmp_path / "out" / "winners").glob("*.png"))) == 4
    assert (tmp_path / "out" / "faults.jsonl").read_text() == ""
    assert cli.main([*words, "--editor", "x"]) == 2
    assert "goes without --editor" in capsys.readouterr().err
    assert cli.main(words[:1] + words[3:]) == 2
    assert "Name an --editor and its --instructions" in capsys.readouterr().err


def test_two_processes_choose_what_one_chooses(made, table, tmp_path, quick):
    output, found, _ = made
    source = CandidateGroups(open_instructions(str(table)), [Paints()], CandidateStore(output))
    scorers = [Sure(), Sure()]
    for index, scorer in enumerate(scorers):
        second = ByGreen(fingerprint="green")
        shared = choose_in(tmp_path / "two", source, scorer, second, processes=Share(index))
        assert (shared is None) == (index == 0)
    assert [sum(scorer.calls) for scorer in scorers] == [ROWS // 2, ROWS // 2]
    assert shared.choices == found.choices and shared.report.curves == found.report.curves
    choose_in(tmp_path / "one", source, Sure(), ByGreen(fingerprint="green"))
    manifests = [(tmp_path / name / "winners" / "metadata.jsonl").read_text() for name in ("one", "two")]
    assert manifests[0] == manifests[1]


def test_groups_that_were_added_or_labelled_anew_are_scored_and_chosen_from(tmp_path, quick):
    def chosen(count, label):
        scorer = ColourScorer()
        rows = [
            {
                "instruction": "x",
                "source_images": [noise(number)],
                "candidates": [
                    {"image": painted(10 * place + number), "scores": {RED: label + place, GREEN: 1.0}}
                    for place in range(2)
                ],
            }
            for number in range(count)
        ]
        write_groups(rows, tmp_path / "groups")
        with open_source(str(tmp_path / "groups"), SourceOptions()) as source:
            found = choose_in(tmp_path / "out", source, scorer)
        return len(found.choices), found.choices[0].truth[0], sum(scorer.calls)

    assert chosen(2, 1.0) == (2, 1.0, 2) and chosen(2, 1.0) == (2, 1.0, 0)
    assert chosen(3, 1.0) == (3, 1.0, 3)
    assert chosen(3, 3.0) == (3, 2.0, 3)


def test_groups_without_any_score_are_an_error_and_foreign_folders_stay(tmp_path):
    (tmp_path / "out" / "winners").mkdir(parents=True)
    (tmp_path / "out" / "winners" / "mine.txt").write_text("x")
    row = {"instruction": "fail", "source_images": [noise(1)], "candidates": [{"image": painted(1)}]}
    write_groups([row], tmp_path / "bad")
    write_groups([{**row, "instruction": "x"}], tmp_path / "good")
    for name, message in (("bad", "has a score: it was told to fail"), ("good", "is no folder of winners")):
        with open_source(str(tmp_path / name), SourceOptions()) as source:
            with pytest.raises(ValueError, match=message):
                choose_in(tmp_path / "out", source, ColourScorer())
    assert (tmp_path / "out" / "winners" / "mine.txt").exists()


def test_an_editor_by_its_short_name(tmp_path):
    file = Path(__file__).parents[2] / "configs" / "simulated_editors.yaml"
    editor = editor_of(f"{file}:sim-expert", range(3))
    assert isinstance(editor, SimulatedEditor) and (editor.name, editor.seeds) == ("sim-expert", (0, 1, 2))
    with pytest.raises(ValueError, match="name one editor"):
        editor_of(str(file), range(3))
    assert editor_of("org/My-Editor", range(2)).name == "My-Editor"
    (tmp_path / "e.yaml").write_text("editors: [{name: a, images: x, files: '{group_id}.png', seeds: [0]}]")
    with pytest.raises(ValueError, match="'files' must have {seed}"):
        editor_of(str(tmp_path / "e.yaml"), range(2))


def test_rows_of_a_table_that_cannot_be_edited_are_named(table, tmp_path):
    rows = open_instructions(str(table), limit=2)
    assert rows.ids == ["row 0", "row 1"] and rows.read(1).category == "c1"
    (tmp_path / "rows.csv").write_text("source,instruction\n0.png,\n../1.png,x\n")
    with pytest.raises(ValueError, match="rows.csv has faulty rows: line 2: instruction is empty"):
        open_instructions(str(tmp_path / "rows.csv"))
    with pytest.raises(ValueError, match="outside of the image folder"):
        open_instructions(str(tmp_path / "rows.csv"), offset=1).read(0)


def test_curves_reach_what_half_of_the_groups_have():
    assert [reach(counts) for counts in ([4], [1, 4], [4, 4, 2], [4, 2, 2, 4], [8, 4, 4, 1])] == [4, 4, 4, 4, 4]
