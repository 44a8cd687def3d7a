"""`editreward compare-editors`: win rates, differences and tests over sources, of editors whose skill is known."""

import json
import random
from contextlib import ExitStack

import numpy as np
import pytest

from editreward.cli import command as cli
from editreward.curation.editor_comparison import Case, cases_of, compare_editors, decisive, disagreements_of
from editreward.curation.editor_report import compare_in
from editreward.curation.editor_sources import SideBySide
from editreward.data.edit_sources import SourceOptions, StreamedGroups, open_source
from tests.data.test_edit_sources import shard
from tests.helpers.pictures import file_of
from tests.helpers.scorers import RED, ColourScorer, painted

SOURCES = 30


def case(row, differences, source=None, category="c", instruction="x"):
    means = {name: {"overall": value, "other": 2 * value} for name, value in differences.items()}
    source = source or f"s{row}"
    return Case(
        (source, f"{instruction} {row}"), dict.fromkeys(differences, (row, 0)), source, instruction, category, means
    )


def test_numbers_are_those_of_a_plain_computation():
    rng = random.Random(3)
    cases = [
        case(i, {"a": rng.gauss(0.5, 1), "b": 0.0}, f"s{i // 2}", "ab"[i % 2], "红" if i % 3 else "red")
        for i in range(60)
    ]
    cases += [case(60, {"a": 1.0, "b": 1.0}), case(61, {"a": 1.0, "c": 5.0})]
    (found,) = compare_editors(cases, ["a", "b"])
    differences = np.array([one.means["a"]["overall"] - one.means["b"]["overall"] for one in cases[:61]])
    assert (found.cases, found.sources, found.ties) == (61, 31, 1)
    assert found.win_rate.value == pytest.approx(((differences > 0).sum() + 0.5) / 61)
    assert found.differences["overall"].value == pytest.approx(differences.mean())
    assert found.differences["other"].value == pytest.approx(2 * differences.mean())
    assert found.differences["overall"].low < differences.mean() < found.differences["overall"].high
    for name in "ab":
        of_category = differences[[i for i, one in enumerate(cases[:61]) if one.category == name]]
        assert found.by["category"][name].value == pytest.approx((of_category > 0).mean())
    assert set(found.by["language"]) == {"zh", "en"}


def test_equal_editors_are_undecided_and_a_better_one_is_found():
    rng = random.Random(1)
    noise = [rng.gauss(0, 1) for _ in range(40)]
    equal = [case(i, {"a": value, "b": 0.0}) for i, value in enumerate(noise + [-value for value in noise[:39]])]
    (found,) = compare_editors(equal)
    assert found.p_value > 0.5 and found.verdict.startswith("undecided") and found.more > 100
    (better,) = compare_editors([case(i, {"a": value, "b": -1.0}) for i, value in enumerate(noise)])
    assert better.p_value < 0.001 and better.verdict == "a is better" and better.more is None


def test_copies_of_one_source_add_no_certainty():
    """Ten instructions of each source with the same outcome are as sure as one."""
    rng = random.Random(2)
    values = [rng.gauss(0.4, 1) for _ in range(10)]
    (once,) = compare_editors([case(i, {"a": v, "b": 0.0}) for i, v in enumerate(values)])
    copies = [case(10 * i + j, {"a": v, "b": 0.0}, f"s{i}") for i, v in enumerate(values) for j in range(10)]
    (often,) = compare_editors(copies)
    assert often.p_value == pytest.approx(once.p_value) and often.sources == 10
    assert often.differences["overall"].low == pytest.approx(once.differences["overall"].low)


def test_a_second_scorer_that_sees_it_otherwise_is_counted():
    first = [case(i, {"a": 1.0, "b": 0.0}) for i in range(10)]
    second = [case(i, {"a": 1.0 if i < 7 else -1.0, "b": 0.0}) for i in range(9)]
    (found,) = disagreements_of(first, second, [("a", "b")])
    assert (found.share.value, found.share.total) == (pytest.approx(2 / 9), 9)
    assert [one.source for one, _ in found.cases] == ["s7", "s8"] and found.by["category"]["c"].total == 9
    (found,) = disagreements_of(first, [], [("a", "b")])
    assert (found.share.total, found.verdict) == (0, "undecided")


def test_the_verdict_of_a_second_scorer_is_adjusted_for_the_number_of_pairs_too():
    """Six sources of one sign have p = 2 / 64, which is enough for one pair of editors and not for three."""
    cases = [case(i, {"a": 3.0, "b": 2.0, "c": 1.0}) for i in range(6)]
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    assert [one.verdict for one in disagreements_of(cases, cases, pairs[:1])] == ["a is better"]
    assert all(one.verdict.startswith("undecided") for one in disagreements_of(cases, cases, pairs))


def test_the_most_decisive_cases_are_those_with_the_largest_differences():
    cases = [case(i, {"a": float(i - 2), "b": 0.0}) for i in range(9)]
    assert [one.source for one in decisive(cases, "a", "b", 3)] == ["s8", "s7", "s6"]


def test_editors_that_are_not_there_are_told():
    with pytest.raises(
        ValueError, match="No instruction has scored edits of 'c' and of another editor; there are: a, b"
    ):
        compare_editors([case(0, {"a": 1.0, "b": 0.0})], ["a", "c"])
    assert cases_of([], []) == []


@pytest.fixture
def edits(tmp_path):
    """Editor "red" is better by 20 on every source, its edits of source 3 cannot be read."""
    members = []
    for number in range(SOURCES):
        for editor, extra in (("red", 20), ("plain", 0)):
            key = f"{number:03d}-{editor}"
            image = b"none" if (number, editor) == (3, "red") else file_of(painted(50 + number + extra, 10, 1))
            told = {"instruction": "x", "editor": editor, "category": f"c{number % 2}"}
            members += [
                (f"{key}.source.png", file_of(painted(number, 200, 0))),
                (f"{key}.edited.png", image),
                (f"{key}.json", json.dumps(told).encode()),
            ]
    return shard(tmp_path / "edits.tar", members)


def test_a_comparison_from_shards_to_a_report_is_scored_once(edits, tmp_path):
    source, scorer = StreamedGroups(str(edits), SourceOptions()), ColourScorer()
    found = compare_in(tmp_path / "out", source, scorer, ColourScorer(fingerprint="second"), ["plain", "red"])
    (one,) = found.comparisons
    assert (one.cases, one.win_rate.value, one.differences[RED].value) == (SOURCES - 1, 0.0, -20.0)
    assert one.verdict == "red is better" and found.disagreements[0].share.value == 0.0
    html = (tmp_path / "out" / "report.html").read_text()
    assert "red is better" in html and html.count("data:image/jpeg") == 15
    again = ColourScorer()
    compare_in(tmp_path / "out", source, again, None, ["plain", "red"])
    assert again.calls == []


def test_edits_that_changed_in_their_place_and_other_limits_are_scored_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("editreward.reports.page._figure", lambda plots, palette: b"")  # a second each
    sources = {name: one_editor(tmp_path / name, extra) for name, extra in (("better", 20), ("worse", 0))}

    def compared(**options):
        scorer = ColourScorer()
        with ExitStack() as stack:
            opened = {
                name: stack.enter_context(open_source(str(table), SourceOptions(**options)))
                for name, table in sources.items()
            }
            (found,) = compare_in(tmp_path / "out", SideBySide(opened), scorer).comparisons
        return found.win_rate.value, found.cases, sum(scorer.calls)

    groups = 2 * SOURCES + 2
    assert compared() == (1.0, SOURCES, groups) and compared() == (1.0, SOURCES, 0)
    assert compared(limit=10) == (1.0, 10, 20)
    for number in range(SOURCES):
        (tmp_path / "better" / f"e{number}.png").write_bytes(file_of(painted(number, 0, 0)))
    assert compared() == (0.0, SOURCES, groups)
    with sources["worse"].open("a") as table:
        table.write("\ns1.png,e1.png,one more")
    assert compared() == (0.0, SOURCES, groups + 1) and compared() == (0.0, SOURCES, 0)


def test_the_command_says_who_is_better(edits, tmp_path, capsys):
    words = ["compare-editors", str(edits), "red", "plain", "--scorer", "psnr", "--output", str(tmp_path / "out")]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "red against plain: " in out and f"of {SOURCES - 1} instructions of {SOURCES - 1} sources" in out
    assert cli.main([*words[:3], "--output", str(tmp_path / "b")]) == 2
    assert "at least two different editors" in capsys.readouterr().err
    assert cli.main([*words[:2], "--editors", "e.yaml", "--output", str(tmp_path / "b")]) == 2
    assert "Name a SOURCE of edits, or --results" in capsys.readouterr().err


def one_editor(folder, extra):
    """A table of one editor's edits: of every source an edit, and an instruction that the other one has not."""
    folder.mkdir()
    lines = ["source,edited,instruction"]
    for number in range(SOURCES):
        (folder / f"s{number}.png").write_bytes(file_of(painted(number, 200, 0)))
        (folder / f"e{number}.png").write_bytes(file_of(painted(50 + number + extra, 10, 1)))
        lines.append(f"s{number}.png,e{number}.png,{'Do it.' if extra else 'do it'}")
    lines.append(f"s0.png,e0.png,only {extra}")
    (folder / "rows.csv").write_text("\n".join(lines))
    return folder / "rows.csv"


def test_results_in_places_of_their_own_are_compared_where_source_and_instruction_are_the_same(tmp_path):
    sources = {}
    with ExitStack() as stack:
        for name, extra in (("better", 20), ("worse", 0)):
            table = one_editor(tmp_path / name, extra)
            sources[name] = stack.enter_context(open_source(str(table), SourceOptions()))
        found = compare_in(tmp_path / "out", SideBySide(sources), ColourScorer(), seconds={"better": [1.0, 3.0]})
    (one,) = found.comparisons
    assert (one.first, one.second, one.cases, one.win_rate.value) == ("better", "worse", SOURCES, 1.0)
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("data:image/jpeg") == 15 and "What edits cost" in html and "2.00" in html


def test_editors_are_run_then_compared(tmp_path, capsys):
    (tmp_path / "editors.yaml").write_text(
        "seeds: [0]\neditors:\n  - {name: sim-expert, simulated: true}\n  - {name: sim-novice, simulated: true}\n"
    )
    words = [
        "compare-editors",
        "--editors",
        str(tmp_path / "editors.yaml"),
        "--instructions",
        "simulated",
        "--limit",
        "3",
    ]
    words += ["--scorer", "pixels", "--second", "psnr", "--output", str(tmp_path / "out")]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "sim-expert against sim-novice" in out and "by the second scorer alone" in out
    assert "s an image (3 images)" in out
    assert cli.main([*words[:3]] + ["--output", str(tmp_path / "out")]) == 2
    assert "--editors and --instructions go together" in capsys.readouterr().err
