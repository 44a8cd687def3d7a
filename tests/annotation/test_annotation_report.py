"""The quality report: planted faults of annotators are found and others are not; page, JSON and command."""

import itertools
import json
import re
from dataclasses import asdict, replace
from html import unescape
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from editreward.annotation import people
from editreward.annotation.assignment import Policy, next_assignment
from editreward.annotation.database import Database
from editreward.annotation.quality import (
    Limits,
    assess,
    compare_with_answers,
    differences_by_annotator,
    trends,
)
from editreward.annotation.report import as_json, write_report
from editreward.annotation.report_plots import _draw_times
from editreward.cli import command as cli
from editreward.data.storage import write_groups
from editreward.groups.protocol import CalibrationTerms
from editreward.groups.ratings import Rating
from editreward.reports.page import Table
from editreward.reports.style import LIGHT

DIMENSIONS = ["instruction_following", "visual_quality"]


def annotation(names, groups=40, candidates=4, gold_every=0, seed=0, change=None, seconds=None):
    """Ratings by all of `names` and the known answers of gold groups.

    `change(name, place, scores, rng)` may alter what an annotator says of the group at a place, 0 to 1, in time.
    """
    rng = np.random.default_rng(seed)
    ratings, references = [], {}
    for number in range(groups):
        group_id, gold = f"group-{number}", bool(gold_every) and number % gold_every == 0
        truth = rng.integers(1, 5, (candidates, 2))
        if gold:
            references[group_id] = [dict(zip(DIMENSIONS, map(float, scores), strict=True)) for scores in truth]
        for place, name in enumerate(names):
            said = truth + rng.choice([-1, 0, 0, 0, 0, 1], truth.shape)
            if change:
                said = change(name, number / (groups - 1), said, rng)
            said = np.clip(np.round(said), 1, 4)
            time = seconds(name, rng) if seconds else 60.0
            ratings += [
                Rating(
                    name,
                    group_id,
                    index,
                    dict(zip(DIMENSIONS, map(float, said[index]), strict=True)),
                    "gold" if gold else "work",
                    time,
                    1e9 + 1000 * number + place,
                )
                for index in range(candidates)
            ]
    return ratings, references


def flags_of(quality):
    return {person.annotator: person.flags for person in quality.annotators}


def test_who_drifts_is_flagged_and_nobody_else():
    def later_generous(name, place, scores, rng):
        return scores + (1.6 * place if name == "drifter" else 0)

    ratings, _ = annotation(["ann", "bob", "cat", "dan", "drifter"], change=later_generous)
    quality = assess(ratings, resamples=2)
    flags = flags_of(quality)
    assert len(flags.pop("drifter")) == 2 and not any(flags.values())
    drifter = quality.annotators[-1]
    for drift in drifter.drift:
        assert drift.flagged and 0.3 < drift.change < 1.6
    assert quality.set_aside == ["drifter"]

    # The same ratings in another order in time show no trend.
    times = {rating.submitted_at for rating in ratings}
    shuffled = dict(zip(sorted(times), np.random.default_rng(1).permutation(sorted(times)), strict=True))
    still = [replace(rating, submitted_at=float(shuffled[rating.submitted_at])) for rating in ratings]
    assert not any(flags_of(assess(still, resamples=2)).values())


def test_who_becomes_careless_drifts_away_and_who_learns_is_not_flagged():
    def careless(name, place, scores, rng):
        wild = {"careless": place > 0.5, "learner": place < 0.5}.get(name, False)
        return rng.integers(1, 5, scores.shape) if wild else scores

    ratings, _ = annotation(["ann", "bob", "cat", "dan", "careless"], change=careless, seed=2)
    flags = flags_of(assess(ratings, resamples=2))
    assert any("away from the others" in flag for flag in flags.pop("careless")) and not any(flags.values())
    ratings, _ = annotation(["ann", "bob", "cat", "dan", "learner"], change=careless, seed=2)
    quality = assess(ratings, resamples=2)
    assert not any("away" in flag for flags in flags_of(quality).values() for flag in flags)
    assert any(d.kind == "distance" and d.change < -0.3 and d.p < 0.05 for d in quality.annotators[-1].drift)


def test_false_alarms_of_drift_are_rare():
    names = [f"ann{number:02}" for number in range(12)]
    alarms = 0
    for seed in range(5):
        ratings, _ = annotation(names, groups=30, candidates=2, seed=seed)
        found = trends(differences_by_annotator(ratings, {}, DIMENSIONS), Limits(drift_points=0))
        assert sum(map(len, found.values())) == len(names) * 4
        alarms += any(drift.flagged for drifts in found.values() for drift in drifts)
    assert alarms <= 1


def test_changes_are_the_slope_over_all_groups():
    differences = differences_by_annotator(
        [
            Rating(name, f"g{number:02}", 0, {"a": score}, submitted_at=float(1000 - number))
            for number in range(12)
            for name, score in (("ann", 2.0), ("bob", 4.0 if number < 6 else 1.0))
        ],
        {},
        ["a"],
    )
    # In the order of time bob gives six 1s, then six 4s.
    assert [entry.level for entry in differences["bob"]["a"]] == [-1.0] * 6 + [2.0] * 6
    [level, distance] = trends(differences, Limits())["bob"]
    x, y = np.arange(12) - 5.5, np.repeat([-1.0, 2.0], 6)
    assert level.change == pytest.approx(11 * (x @ y) / (x @ x)) and level.flagged
    assert distance.change > 0 and (level.kind, distance.kind) == ("level", "distance")


small_ratings = st.dictionaries(
    st.tuples(st.sampled_from(["ann", "bob", "cat"]), st.sampled_from(["g", "h"]), st.integers(0, 2)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    min_size=1,
)


@given(small_ratings, st.booleans(), st.sets(st.sampled_from(["ann", "bob"])))
@settings(max_examples=60, deadline=None)
def test_differences_equal_a_loop(given_scores, with_answers, set_aside):
    ratings = [
        Rating(name, group_id, index, dict(zip(DIMENSIONS, map(float, scores), strict=True)))
        for (name, group_id, index), scores in given_scores.items()
    ]
    references = {"h": [{"visual_quality": 2.5}, {}, {"visual_quality": 1.0}]} if with_answers else {}
    found = differences_by_annotator(ratings, references, DIMENSIONS, set_aside)
    for name, (place, dimension) in itertools.product({r.annotator for r in ratings}, enumerate(DIMENSIONS)):
        expected = {}
        for group_id in ("g", "h"):
            values = []
            for index in range(3):
                own = given_scores.get((name, group_id, index))
                others = [
                    given_scores[other, group_id, index][place]
                    for other in {"ann", "bob", "cat"} - set_aside
                    if other != name and (other, group_id, index) in given_scores
                ]
                known = references.get(group_id, [{}] * 3)[index].get(dimension)
                if own and known is not None:
                    values.append(own[place] - known)
                elif own and others:
                    values.append(own[place] - fmean(others))
            if values:
                expected[group_id] = (fmean(values), fmean(map(abs, values)))
        assert {e.group_id: pytest.approx((e.level, e.distance)) for e in found[name][dimension]} == expected


def test_haste_is_found_against_the_limit_and_against_the_others():
    def seconds(name, rng):
        return {"hasty": 5.0, "quick": 20.0}.get(name, 80.0)  # for 4 candidates

    ratings, _ = annotation(["ann", "bob", "hasty", "quick"], groups=12, seconds=seconds)
    quality = assess(ratings, resamples=2)
    flags = flags_of(quality)
    assert flags["hasty"] == [
        "rated 12 of 12 groups in less than 3 s per candidate",
        "takes 1.2 s per candidate, the others 20.0 s",
    ]
    assert flags["quick"] == ["takes 5.0 s per candidate, the others 20.0 s"]
    assert not flags["ann"] and not flags["bob"]
    assert len(quality.annotators[2].fast) == 12
    assert all("rated too fast by hasty" in group.reasons for group in quality.to_check)
    assert len(quality.to_check) == 12


ANSWERS = {"g1": [{"a": 3.0, "b": 2.0}, {"a": 1.5}], "g2": [{"a": 4.0, "b": 4.0}, {"a": 4.0, "b": 1.0}]}


def gold(group_id, *scores, annotator="ann"):
    return [
        Rating(annotator, group_id, index, {"a": float(a), "b": float(b)}, "gold")
        for index, (a, b) in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("ratings", "passed", "exact", "within_one"),
    [
        (gold("g1", (3, 2), (1, 4)), 1, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}),  # 1.5: half a point off is a hit
        (gold("g1", (3, 2), (2, 4)), 1, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}),
        (gold("g1", (2, 2), (3, 4)), 0, {"a": 0.0, "b": 1.0}, {"a": 0.5, "b": 1.0}),
        (gold("g2", (4, 4), (3, 1)), 1, {"a": 0.5, "b": 1.0}, {"a": 1.0, "b": 1.0}),
        (gold("g2", (4, 4), (1, 1)), 0, {"a": 0.5, "b": 1.0}, {"a": 0.5, "b": 1.0}),
    ],
)
def test_a_gold_group_is_passed_by_the_rule_of_the_calibration_round(ratings, passed, exact, within_one):
    found = compare_with_answers(ratings, "gold", ANSWERS, CalibrationTerms(), ["a", "b"])
    assert (found.groups, found.passed, found.exact, found.within_one) == (1, passed, exact, within_one)
    assert found.reached == bool(passed)
    many = gold("g1", (3, 2), (1, 4)) + ratings if ratings[0].group_id == "g2" else ratings
    assert compare_with_answers(many, "gold", ANSWERS, CalibrationTerms(), ["a", "b"]).groups == len(many) // 2
    assert compare_with_answers(ratings, "calibration", ANSWERS, CalibrationTerms(), ["a", "b"]) is None


def test_who_guesses_fails_the_gold_groups():
    def guess(name, place, scores, rng):
        return rng.integers(1, 5, scores.shape) if name == "guesser" else scores

    ratings, references = annotation(["ann", "bob", "guesser"], 30, 7, gold_every=3, change=guess)
    quality = assess(ratings, references, resamples=2)
    gold_of = {person.annotator: person.gold for person in quality.annotators}
    assert gold_of["guesser"].groups == gold_of["ann"].groups == 10
    assert gold_of["guesser"].passed <= 2 and not gold_of["guesser"].reached
    assert gold_of["ann"].passed > 5 and gold_of["ann"].reached
    assert any("gold groups" in flag for flag in flags_of(quality)["guesser"]) and not flags_of(quality)["ann"]
    # Gold groups are no part of the agreement, nor groups to cross-check.
    assert quality.agreement[0].groups == 20 == quality.groups["work"]
    assert not {group.group_id for group in quality.to_check} & set(references)
    missing = assess(ratings, {}, resamples=2)
    assert any("known answers of 10 gold" in note for note in missing.notes)
    assert all(person.gold is None for person in missing.annotators)


def test_groups_far_apart_are_to_be_checked_the_worst_first():
    rng = np.random.default_rng(5)
    table = rng.integers(1, 5, (30, 3, 2, 2))  # groups, annotators, candidates, dimensions
    ratings = [
        Rating(f"ann{a}", f"g{g:02}", c, dict(zip(DIMENSIONS, map(float, table[g, a, c]), strict=True)))
        for g, a, c in itertools.product(range(30), range(3), range(2))
    ]
    quality = assess(ratings, resamples=2)
    spread = np.ptp(table, axis=1).reshape(30, 4)
    expected = {f"g{g:02}": float(spread[g].max()) for g in range(30) if spread[g].max() >= 2}
    assert {group.group_id: group.apart for group in quality.to_check} == expected
    severity = [spread[int(group.group_id[1:])] for group in quality.to_check]
    totals = [row[row >= 2].sum() for row in severity]
    assert totals == sorted(totals, reverse=True)
    for group, row in zip(quality.to_check, severity, strict=True):
        assert len(group.reasons) == (row >= 2).sum() and all("ann0 " in reason for reason in group.reasons)


def test_what_cannot_be_seen_is_said():
    ratings = [Rating("ann", f"g{number}", 0, {"a": 2.0}) for number in range(12)]
    quality = assess(ratings, resamples=2)
    notes = " ".join(quality.notes)
    assert "no agreement to measure" in notes and "drift cannot be seen" in notes and "haste cannot be seen" in notes
    assert quality.annotators[0].drift == [] and not quality.annotators[0].flags
    with pytest.raises(ValueError, match="no ratings"):
        assess([])
    with pytest.raises(ValueError, match="ann rates candidate 2 of group g.*has 1 candidates"):
        assess([Rating("ann", "g", 2, {"a": 1.0}, "gold")], {"g": [{"a": 1.0}]})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with every section, by annotators whose names need care."""

    def change(name, place, scores, rng):
        return scores + (1.6 * place if name == "drift $x" else 0)

    names = ["ann <b>&", "drift $x", "王", "bob"]
    ratings, references = annotation(names, 24, 3, gold_every=6, change=change)
    quality = assess(ratings, references, resamples=20)
    folder = tmp_path_factory.mktemp("report")
    write_report(quality, ratings, folder, references, title="Round <1>")
    return quality, folder


def test_the_page_needs_no_other_file_and_shows_names_as_they_are(report):
    quality, folder = report
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?://|<script|<link|@import|url\(", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 2 + 3 + 3 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<b>" not in page and "Round <1>" not in page and "ann &lt;b&gt;&amp;" in page
    text = unescape(page)
    for person in quality.annotators:
        assert person.annotator in text and all(flag in text for flag in person.flags)
    for entry in quality.agreement:
        assert f"{entry.alpha.value:.3f} ({entry.alpha.low:.3f} to {entry.alpha.high:.3f})" in text


def test_seconds_have_plain_figures_and_long_texts_wide_columns():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ratings, _ = annotation(["ann", "bob"], 3, seconds=lambda name, rng: 30.0 if name == "ann" else 300.0)
    figure = Figure()
    _draw_times(figure, LIGHT, ratings, ["ann", "bob"], 3.0)
    FigureCanvasAgg(figure).draw()
    labels = [one.get_text() for one in figure.axes[0].get_xticklabels(which="both") if one.get_text()]
    assert {"5", "10", "50"} <= set(labels) and all(float(label) > 0 for label in labels)
    table = Table(["name", "score", "flags"], [["ann", "1", "x" * 300], ["bob", "2", "short"]], remarks=1)
    assert table.least_width(0) < 4 and table.least_width(1) == 0 and table.least_width(2) == 16


def test_the_json_has_everything_and_no_nan(report):
    quality, folder = report
    text = (folder / "report.json").read_text(encoding="utf-8")

    def refuse(name):
        raise AssertionError(name)

    data = json.loads(text, parse_constant=refuse)
    assert data == json.loads(json.dumps(as_json(quality)), parse_constant=refuse)
    assert [entry["dimension"] for entry in data["agreement"]] == [*DIMENSIONS, "overall"]
    assert data["agreement"][0]["alpha"]["value"] == quality.agreement[0].alpha.value
    assert {person["annotator"] for person in data["annotators"]} == {p.annotator for p in quality.annotators}


def run(*arguments):
    return cli.main(["annotate", "report", "--resamples", "5", *map(str, arguments)])


def rows_of(ratings):
    rows = {}
    for rating in ratings:
        row = rows.setdefault(
            rating.group_id,
            {
                "group_id": rating.group_id,
                "origin": "test",
                "category": "add",
                "instruction": "do",
                "language": "en",
                "source_images": [Image.new("RGB", (8, 8), "red")],
                "candidates": [],
            },
        )
        if rating.candidate == len(row["candidates"]):
            image = Image.new("RGB", (8, 8), (0, 0, 40 * rating.candidate))
            row["candidates"].append({"image": image, "editor": "e", "annotations": []})
        row["candidates"][rating.candidate]["annotations"].append({"annotator": rating.annotator, **rating.scores})
    return list(rows.values())


def test_the_command_reads_ratings_and_datasets_alike(tmp_path, capsys):
    ratings, _ = annotation(["ann", "bob", "cat"], groups=8)
    lines = "".join(json.dumps(asdict(rating)) + "\n" for rating in ratings)
    (tmp_path / "ratings.jsonl").write_text(lines, encoding="utf-8")
    write_groups(rows_of(ratings), tmp_path / "groups")
    assert run("--ratings", tmp_path / "ratings.jsonl", "--output", tmp_path / "a") == 0
    assert "8 work groups, 3 annotators" in capsys.readouterr().out
    assert run("--dataset", tmp_path / "groups", "--output", tmp_path / "b") == 0
    first, second = (json.loads((tmp_path / name / "report.json").read_text(encoding="utf-8")) for name in "ab")
    assert first["agreement"] == second["agreement"] and first["groups"] == second["groups"]
    assert first["agreement"][0]["candidates"] == 32
    expected = assess(ratings, resamples=5)
    assert first["agreement"][2]["exact"]["value"] == expected.agreement[2].exact.value


def test_the_command_reads_the_apps_database_with_its_known_answers(tmp_path, capsys):
    path = tmp_path / "annotations.sqlite"
    answers = [dict.fromkeys(DIMENSIONS, 4.0)] * 2
    with Database(path, create=True) as database:
        people.add_annotators(database, ["ann", "bob"])
        database.set_terms(DIMENSIONS, 2)
        database.set_groups([*((f"w{n}", "work", 2, None) for n in range(4)), ("gold", "gold", 2, answers)])
        policy = Policy(gold_every=2)
        for name, score in (("ann", 4), ("bob", 1)):
            while given_group := next_assignment(database, name, policy):
                scores = {(candidate, d): score for candidate in range(2) for d in DIMENSIONS}
                form = f"{name} {given_group.id}"
                database.submit(given_group.id, name, given_group.version, form, scores)
    assert run("--database", path, "--output", tmp_path / "out") == 0
    assert "4 work groups, 1 gold groups, 2 annotators." in capsys.readouterr().out
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [person["gold"]["passed"] for person in data["annotators"]] == [1, 0]
    assert data["agreement"][0]["exact"]["value"] == 0 and len(data["to_check"]) == 4


@pytest.mark.slow
def test_references_may_come_from_a_dataset(tmp_path):
    ratings, references = annotation(["ann", "bob"], groups=4, gold_every=2)
    lines = "".join(json.dumps(asdict(rating)) + "\n" for rating in ratings)
    (tmp_path / "ratings.jsonl").write_text(lines, encoding="utf-8")
    rows = [row for row in rows_of(ratings) if row["group_id"] in references]
    for row in rows:
        for candidate, scores in zip(row["candidates"], references[row["group_id"]], strict=True):
            candidate |= {"annotations": [], "scores": scores}
    write_groups(rows, tmp_path / "gold")
    arguments = ("--ratings", tmp_path / "ratings.jsonl", "--references", tmp_path / "gold")
    assert run(*arguments, "--output", tmp_path / "out") == 0
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    expected = assess(ratings, references, resamples=5)
    assert [p["gold"] for p in data["annotators"]] == [asdict(p.gold) for p in expected.annotators]


def test_faulty_input_of_the_command_is_one_line(tmp_path, capsys):
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    for arguments, message in (
        (("--ratings", tmp_path / "empty.jsonl"), "empty.jsonl has no ratings"),
        (("--ratings", tmp_path / "none.jsonl"), "none.jsonl"),
        (("--database", tmp_path / "none.sqlite"), "none.sqlite"),
        (("--ratings", tmp_path / "empty.jsonl", "--split", "test"), "--split goes with --dataset"),
    ):
        assert run(*arguments, "--output", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
