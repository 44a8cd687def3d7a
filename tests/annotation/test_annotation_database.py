"""The annotation app without its user interface: protocol, database, assignment, workflow, adjudication and export."""

import io
import json
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from itertools import permutations
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
from datasets import Dataset
from PIL import Image, ImageFile

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.annotation import assignment as assigning
from editreward.annotation import pages, people
from editreward.annotation.adjudication import Adjudication, DisputedTuple, check_ranks, read_tuples
from editreward.annotation.adjudication_blocks import AdjudicationScreen
from editreward.annotation.assignment import Policy, is_gold_turn, shuffled_order
from editreward.annotation.database import IDLE_SECONDS, BusyError, Database, UnsavedError, connection
from editreward.annotation.export import export_ratings
from editreward.annotation.rating_blocks import RatingScreen
from editreward.annotation.store import GroupStore
from editreward.annotation.workflow import Page, Workflow, letter
from editreward.cli import command as cli
from editreward.data.schema import group_features
from editreward.data.sources import load_groups
from editreward.data.storage import write_groups
from editreward.groups.protocol import DEFAULT_PROTOCOL, LEVELS, CalibrationTerms, read_protocol
from editreward.groups.ratings import Rating, TupleRanking

PROTOCOL = read_protocol()
NAMES = PROTOCOL.names


def png(colour: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(content, "PNG")
    return content.getvalue()


COLOURS = [png(colour) for colour in ("red", "green", "blue", "white", "black", "yellow")]


def group(group_id: str, candidates: int = 3, scores: list[dict] | None = None, **columns) -> dict:
    """A row whose source is red and whose candidates are other colours."""
    return {
        "group_id": group_id,
        "origin": "test",
        "category": "colour",
        "instruction": f"change {group_id}",
        "language": "en",
        "source_images": [{"bytes": COLOURS[0], "path": None}],
        "candidates": [
            {
                "image": {"bytes": COLOURS[1 + index], "path": None},
                "editor": f"secret-editor-{index}",
                "seed": index,
                "scores": scores[index] if scores else None,
                "annotations": [],
                "rationale": None,
            }
            for index in range(candidates)
        ],
        "preferences": [],
        **columns,
    }


def dataset(*rows: dict) -> Dataset:
    return Dataset.from_list(list(rows), features=group_features(NAMES))


def known(group_id: str, value: int = 3) -> dict:
    """A group with known answers."""
    return group(group_id, scores=[dict.fromkeys(NAMES, float(value))] * 3)


def store_of(work: int, calibration: int = 0, gold: int = 0) -> GroupStore:
    store = GroupStore()
    store.add(dataset(*(group(f"work-{number}") for number in range(work))), "work", "work")
    if calibration:
        store.add(dataset(*(known(f"calibration-{n}") for n in range(calibration))), "calibration", "calibration")
    if gold:
        store.add(dataset(*(known(f"gold-{number}") for number in range(gold))), "gold", "gold")
    return store


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "annotations.sqlite", create=True) as opened:
        people.add_annotators(opened, ["ada", "grace", "alan", "edsger"])
        yield opened


def workflow(database: Database, store: GroupStore | None = None, each: int = 1, **policy) -> Workflow:
    terms = policy.pop("terms", CalibrationTerms(groups=2))
    return Workflow(database, store or store_of(4), PROTOCOL, Policy(terms, **policy), ratings_per_group=each)


def marks(page: Page, value: int = 3) -> dict:
    """The same score for every candidate and dimension."""
    return {(place, name): value for place in range(len(page.assignment.order)) for name in NAMES}


def rate(flow: Workflow, annotator: str, page: Page, value: int = 3, **scores) -> Page:
    return flow.submit(annotator, page.assignment.id, page.assignment.version, page.form, marks(page, value))


def rate_all(flow: Workflow, annotator: str, value: int = 3, most: int = 1000) -> list[Page]:
    """Rate until nothing is left; the pages that were rated."""
    pages = []
    page = flow.current(annotator)
    while page.kind == "rate" and len(pages) < most:
        pages.append(page)
        page = rate(flow, annotator, page, value)
    return pages


# Protocol


def test_the_default_protocol_asks_for_the_default_dimensions():
    assert NAMES == list(DEFAULT_DIMENSIONS)
    assert all(set(dimension.levels) == set(LEVELS) for dimension in PROTOCOL.dimensions)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("name: visual_quality", "name: instruction_following", "same name"),
        (
            "name: visual_quality",
            "name: visual quality",
            "dimensions, entry 2, name: 'visual quality' will be",
        ),
        (
            "      2: Flaws are obvious",
            "      5: Flaws are obvious",
            "levels: must say what 1, 2, 3 and 4 mean",
        ),
        ("title: Rating edited images", "titel: Rating edited images", "title is missing; titel is unknown"),
        ("exact: 0.5", "exact: 50", "calibration, exact must be at most 1, not 50"),
        ("groups: 5", "groups: 0", "calibration, groups must be at least 1, not 0"),
        ("dimensions:", "dimensions: [}", "is not YAML"),
    ],
)
def test_a_fault_in_a_protocol_is_named(tmp_path, before, after, message):
    path = tmp_path / "protocol.yaml"
    text = DEFAULT_PROTOCOL.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_protocol(path)
    assert str(path) in str(error.value)


def test_dimensions_follow_the_protocol(tmp_path, database):
    text = DEFAULT_PROTOCOL.read_text(encoding="utf-8").replace("name: visual_quality", "name: consistency", 1)
    (tmp_path / "protocol.yaml").write_text(text, encoding="utf-8")
    protocol = read_protocol(tmp_path / "protocol.yaml")
    flow = Workflow(database, store_of(1), protocol, Policy(), 1)
    page = flow.current("ada")
    scores = {(place, name): 2 for place in range(3) for name in ("instruction_following", "consistency")}
    flow.submit("ada", page.assignment.id, 0, page.form, scores)
    assert all(rating.scores == {"instruction_following": 2, "consistency": 2} for rating in database.ratings())
    rows = export_rows(database, dataset(group("work-0")), tmp_path / "out")
    assert rows[0]["candidates"][0]["scores"] == {
        "instruction_following": 2.0,
        "visual_quality": None,
        "consistency": 2.0,
    }
    with pytest.raises(ValueError, match="Use another database for another protocol"):
        workflow(database)


# Sign-in


def test_only_the_right_token_signs_in(database):
    tokens = people.add_annotators(database, ["barbara", "donald"])
    key = people.sign_in(database, "barbara", tokens["barbara"])
    assert key is not None and people.signed_in(database, key) == "barbara"
    for name, token in (
        ("barbara", tokens["donald"]),
        ("barbara", ""),
        ("barbara", tokens["barbara"][:-1]),
        ("nobody", tokens["barbara"]),
        ("", ""),
        ("barbara\ud800", "\ud800"),
    ):
        assert people.sign_in(database, name.encode("utf-8", "replace").decode(), token) is None
    assert people.signed_in(database, key + "x") is None and people.signed_in(database, "") is None


def test_the_file_holds_no_token_and_no_session_key(database):
    token = people.add_annotators(database, ["barbara"])["barbara"]
    key = people.sign_in(database, "barbara", token)
    database.close()
    files = [path.read_bytes() for path in database.path.parent.iterdir()]
    assert any(b"barbara" in content for content in files)
    assert not any(secret.encode() in content for content in files for secret in (token, key))


def test_new_tokens_revocation_and_signing_out_end_sessions(database):
    tokens = people.add_annotators(database, ["barbara", "donald"])
    keys = {name: people.sign_in(database, name, token) for name, token in tokens.items()}
    replaced = people.new_tokens(database, ["barbara"])
    assert people.signed_in(database, keys["barbara"]) is None
    assert people.sign_in(database, "barbara", tokens["barbara"]) is None
    new_key = people.sign_in(database, "barbara", replaced["barbara"])
    people.sign_out(database, new_key)
    assert people.signed_in(database, new_key) is None
    assert people.signed_in(database, keys["donald"]) == "donald"
    people.revoke(database, ["donald"])
    assert people.signed_in(database, keys["donald"]) is None
    assert people.sign_in(database, "donald", tokens["donald"]) is None
    assert "donald" not in people.annotators(database)


def test_a_lock_of_another_program_is_told_and_keeps_nobody_from_reading(tmp_path, monkeypatch):
    path = tmp_path / "annotations.sqlite"
    with Database(path, create=True) as database:
        people.add_annotators(database, ["ada"])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(connection, "BUSY_SECONDS", 0.1)
        with pytest.raises(BusyError, match="Another program has locked annotations.sqlite .* nothing was saved"):
            people.add_annotators(database, ["grace"])
        assert people.annotators(database) == ["ada"]
        assert cli.main(["annotate", "people", "--database", str(path), "--add", "grace"]) == 2
        monkeypatch.setattr(connection, "BUSY_SECONDS", 600)
        waits = threading.Thread(target=people.add_annotators, args=(database, ["grace"]))
        waits.start()
        for _ in range(20):
            assert people.annotators(database) == ["ada"]
        other.execute("ROLLBACK")
        other.close()
        waits.join()
        assert people.annotators(database) == ["ada", "grace"]


def test_a_full_disk_is_told_and_what_was_not_saved_is_not_there(tmp_path):
    with Database(tmp_path / "annotations.sqlite", create=True) as database:
        people.add_annotators(database, ["ada"])
        flow = workflow(database, store_of(1))
        page = flow.current("ada")
        screen = RatingScreen(flow)
        screen.blocks()
        database.row(f"PRAGMA max_page_count = {database.row('PRAGMA page_count')[0]}")
        with pytest.raises(UnsavedError, match="annotations.sqlite cannot be used: database or disk is full. Nothing"):
            for number in range(1000):
                database.set_meta(f"filler {number}", "x" * 1000)
        told = screen.answer("ada", lambda: database.set_meta("more", "x" * 10**5))
        assert list(told) == [screen.notice] and "disk is full" in told[screen.notice]
        database.row("PRAGMA max_page_count = 100000")
        assert rate(flow, "ada", page).notice == "Saved."
        assert database.meta("more") is None and len(database.ratings()) == 3


@pytest.mark.parametrize("number", [2**63, -1, 10**40])
def test_a_number_that_the_database_cannot_hold_is_nobodys_assignment(database, number):
    with pytest.raises(LookupError, match="no assignment"):
        database.assignment(number, "ada")


def test_an_old_session_has_ended(database, monkeypatch):
    key = people.sign_in(database, "barbara", people.add_annotators(database, ["barbara"])["barbara"])
    later = time.time() + people.SESSION_DAYS * 86400 + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert people.signed_in(database, key) is None


@pytest.mark.parametrize("names", [["ada"], ["x", "x"], [""], [" x"], ["a\nb"], ["x" * 65]])
def test_a_bad_name_adds_nobody(database, names):
    before = people.annotators(database)
    with pytest.raises(ValueError, match="annotator"):
        people.add_annotators(database, ["fine", *names])
    assert people.annotators(database) == before


# Orders and purposes


def test_every_annotator_has_an_order_of_their_own_which_stays():
    orders = {name: tuple(shuffled_order(7, name, "g", 0)) for name in map(str, range(50))}
    assert all(sorted(order) == list(range(7)) for order in orders.values())
    assert len(set(orders.values())) > 40
    assert orders["1"] == tuple(shuffled_order(7, "1", "g", 0))
    firsts = Counter(shuffled_order(3, "ada", str(number), 0)[0] for number in range(600))
    assert all(150 < firsts[candidate] < 250 for candidate in range(3))


def test_scores_by_place_reach_the_candidate_that_stood_there(database):
    flow = workflow(database, each=2)
    for annotator in ("ada", "grace"):
        for _ in range(4):
            page = flow.current(annotator)
            scores = {}
            for place, candidate in enumerate(page.assignment.order):
                content, _ = flow.image(annotator, page.assignment.id, "candidate", place)
                shown = COLOURS.index(content) - 1  # what the annotator sees decides the score
                assert shown == candidate
                scores |= {(place, NAMES[0]): shown + 1, (place, NAMES[1]): 4 - shown}
            flow.submit(annotator, page.assignment.id, page.assignment.version, page.form, scores)
    assert len(database.ratings()) == 2 * 4 * 3
    for rating in database.ratings():
        assert rating.scores == {NAMES[0]: rating.candidate + 1, NAMES[1]: 4 - rating.candidate}
    orders = {a.order for name in ("ada", "grace") for a in database.assignments(name)}
    assert len(orders) > 1


@pytest.mark.parametrize("each", [1, 3])
def test_each_group_goes_to_as_many_different_annotators_as_asked(database, each):
    flow = workflow(database, store_of(7), each=each)
    names = ["ada", "grace", "alan", "edsger"]
    pages = {name: flow.current(name) for name in names}
    rng = random.Random(0)
    while any(page.kind == "rate" for page in pages.values()):
        name = rng.choice([name for name in names if pages[name].kind == "rate"])
        pages[name] = rate(flow, name, pages[name])
        for other in names:  # who found nothing may find something when another one goes on
            if pages[other].kind == "finished":
                pages[other] = flow.current(other)
    raters = defaultdict(list)
    for rating in database.ratings():
        if rating.candidate == 0:
            raters[rating.group_id].append(rating.annotator)
    assert set(raters) == {f"work-{number}" for number in range(7)}
    assert all(len(found) == each == len(set(found)) for found in raters.values())
    assert flow.current("ada").left == 0


def test_groups_that_others_have_begun_come_first(database):
    flow = workflow(database, store_of(5), each=3)
    first = [page.assignment.group_id for page in rate_all(flow, "ada", most=2)]
    second = [page.assignment.group_id for page in rate_all(flow, "grace", most=2)]
    assert first == second == ["work-0", "work-1"]


def test_gold_groups_stand_once_in_every_block_at_places_of_their_own(database):
    policy = Policy(gold_every=4)
    places = []
    for block in range(100):
        turns = [number for number in range(4 * block, 4 * block + 4) if is_gold_turn(number, "ada", policy)]
        assert len(turns) == 1
        places.append(turns[0] % 4)
    assert set(places) == {0, 1, 2, 3}
    assert not any(is_gold_turn(number, "ada", Policy(gold_every=0)) for number in range(20))
    flow = workflow(database, store_of(9, gold=5), gold_every=4)
    purposes = [page.assignment.purpose for page in rate_all(flow, "ada")]
    assert purposes.count("work") == 9 and 2 <= purposes.count("gold") <= 3
    golds = [rating.group_id for rating in database.ratings() if rating.purpose == "gold" and rating.candidate == 0]
    assert len(golds) == len(set(golds))


def test_what_a_scorer_says_is_shown_to_who_has_rated_and_closes_the_rating(database):
    rows = [group("work-0"), group("work-1")]
    for number, candidate in enumerate(rows[0]["candidates"]):
        candidate |= {"rationale": f"said of {number}", "rationale_by": "judge"}
    for candidate in rows[1]["candidates"]:  # a person's
        candidate |= {"rationale": "said by a person", "rationale_by": None}
    store = GroupStore()
    store.add(Dataset.from_list(rows, features=group_features(NAMES, rationale_by=True)), "work", "work")
    flow = Workflow(database, store, PROTOCOL, Policy(CalibrationTerms(groups=2)), show_reasons=True)
    for _ in rows:
        page = flow.current("ada")
        assert not page.reasons and not page.read_only
        rate(flow, "ada", page)
        seen = flow.show("ada", page.assignment.id)
        if page.assignment.group_id == "work-1":
            assert not seen.reasons and not seen.read_only
            continue
        assert seen.reasons == [f"said of {candidate}" for candidate in page.assignment.order] and seen.read_only
        again = flow.submit("ada", page.assignment.id, seen.assignment.version, seen.form, marks(seen, 1))
        assert "stays as it was saved" in again.notice and set(again.scores.values()) == {3}
        assert not flow.save_draft("ada", page.assignment.id, seen.assignment.version, 0, NAMES[0], 1)
    plain = Workflow(database, store, PROTOCOL, Policy(CalibrationTerms(groups=2)))
    assert not any(plain.show("ada", one.id).reasons for one in database.assignments("ada"))


def test_what_a_scorer_says_is_text_on_the_page():
    assert pages.reasons_note("<b>no</b> hat\nSC: x") == (
        '<p class="reasons">A scorer says: &lt;b&gt;no&lt;/b&gt; hat<br>SC: x</p>'
    )
    assert pages.reasons_note("") == ""


def test_gold_groups_look_like_work(database):
    flow = workflow(database, store_of(4, gold=4), gold_every=1)
    page = flow.current("ada")
    assert page.assignment.purpose == "gold"
    assert page.reference is None and not page.read_only
    rate(flow, "ada", page)
    assert flow.back("ada", flow.current("ada").assignment.id).reference is None
    assert flow.database.progress("ada")[0].rated == 1


# Calibration


def test_work_starts_when_the_calibration_round_is_passed(database):
    flow = workflow(database, store_of(2, calibration=3))
    assert flow.current("ada").kind == "calibration"
    assert not database.assignments("ada")
    page = flow.start_round("ada")
    assert page.assignment.purpose == "calibration" and page.reference is None
    page = rate(flow, "ada", page, value=3)
    first = flow.back("ada", page.assignment.id)
    assert first.reference is None and not first.read_only  # the round goes on: answers may be corrected, unseen
    page = rate(flow, "ada", page, value=3)
    assert page.kind == "calibration" and page.result.passed
    assert page.result.exact == dict.fromkeys(NAMES, 1.0)
    assert flow.current("ada").assignment.purpose == "work"
    assert flow.start_round("ada").assignment.purpose == "work"  # no second round
    assert {rating.purpose for rating in database.ratings()} == {"calibration"}


def test_a_failed_round_is_shown_closed_and_tried_again_with_groups_not_seen(database):
    flow = workflow(database, store_of(2, calibration=5), terms=CalibrationTerms(groups=2, rounds=2))
    flow.start_round("ada")
    pages = rate_all(flow, "ada", value=1)  # two points off
    result = flow.current("ada").result
    assert (result.passed, result.rounds_left) == (False, 1)
    assert result.within_one == dict.fromkeys(NAMES, 0.0)
    seen = flow.show("ada", pages[0].assignment.id)
    assert seen.read_only and seen.reference == [dict.fromkeys(NAMES, 3.0)] * 3
    late = rate(flow, "ada", seen, value=3)
    assert late.notice.startswith("Not saved") and set(late.scores.values()) == {1}
    flow.start_round("ada")
    again = rate_all(flow, "ada", value=1)
    assert not {page.assignment.group_id for page in pages} & {page.assignment.group_id for page in again}
    locked = flow.start_round("ada")
    assert locked.kind == "calibration" and locked.result.rounds_left == 0
    people.allow_another_round(database, ["ada"])
    flow.start_round("ada")
    assert [page.assignment.round for page in rate_all(flow, "ada", value=3, most=2)] == [3, 3]
    assert flow.current("ada").assignment.purpose == "work"
    keys = Counter((rating.group_id, rating.candidate) for rating in database.ratings())
    assert max(keys.values()) == 1  # of a group that came twice the last round counts


@pytest.mark.parametrize(("value", "goes_on"), [(3, "work"), (1, "calibration")])
def test_a_round_that_was_rated_before_a_kill_is_judged_after_it(database, value, goes_on):
    flow = workflow(database, store_of(2, calibration=5))
    last = rate(flow, "ada", flow.start_round("ada"), value)
    scores = {(candidate, name): value for candidate in range(3) for name in NAMES}
    assert database.submit(last.assignment.id, "ada", 0, last.form, scores) == "saved"  # and here the kill
    page = workflow(database, store_of(2, calibration=5)).current("ada")
    assert (page.assignment.purpose if page.assignment else page.kind) == goes_on
    assert [row["passed"] for row in database.rows("SELECT passed FROM calibrations")] == [value == 3]
    if goes_on == "calibration":
        assert page.result.rounds_left == 2


def test_calibration_shares_by_hand():
    references = {"g": [{"x": 3.0}, {"x": 2.5}, {"x": 1.0}, {}]}
    scores = {("g", 0, "x"): 3.0, ("g", 1, "x"): 3.0, ("g", 2, "x"): 2.0, ("g", 3, "x"): 1.0}
    exact, within_one = assigning.compare_with_reference(scores, references, ["x", "y"])
    assert exact == {"x": 2 / 3} and within_one == {"x": 1.0}


def test_known_answers_must_be_there_and_on_the_scale(database):
    for rows, message in (
        ([group("calibration-0")], "'calibration-0' has no known answers"),
        ([known("calibration-0", 5)], "'calibration-0', candidate 0: instruction_following is 5"),
    ):
        store = store_of(1)
        store.add(dataset(*rows), "calibration", "calibration")
        with pytest.raises(ValueError, match=message):
            workflow(database, store)


def test_calibration_groups_cannot_be_skipped(database):
    flow = workflow(database, store_of(1, calibration=2))
    page = flow.start_round("ada")
    with pytest.raises(ValueError, match="calibration"):
        flow.skip("ada", page.assignment.id, 0, page.form, PROTOCOL.skip_reasons[0])


# Submitting, correcting, skipping, leaving


def test_marks_stay_when_the_page_is_left(database):
    flow = workflow(database)
    page = flow.current("ada")
    assert flow.save_draft("ada", page.assignment.id, 0, 1, NAMES[0], 4)
    assert flow.save_draft("ada", page.assignment.id, 0, 1, NAMES[0], 2)
    again = flow.current("ada")
    assert again.assignment == page.assignment and again.scores == {(1, NAMES[0]): 2}
    assert database.ratings() == []
    rate(flow, "ada", again, 4)
    assert {tuple(rating.scores.values()) for rating in database.ratings()} == {(4, 4)}
    assert database.rows("SELECT * FROM drafts") == []


def test_a_form_that_lacks_a_score_is_refused_with_what_is_missing(database):
    flow = workflow(database)
    page = flow.current("ada")
    scores = marks(page) | {(1, NAMES[1]): None}
    with pytest.raises(ValueError, match=r"please score B \(Visual quality\)\.$"):
        flow.submit("ada", page.assignment.id, 0, page.form, scores)
    assert database.ratings() == [] and flow.current("ada").assignment == page.assignment


@pytest.mark.parametrize("score", [0, 5, 2.5, True, "3"])
def test_a_score_off_the_scale_is_refused(database, score):
    flow = workflow(database)
    page = flow.current("ada")
    with pytest.raises(ValueError, match="1, 2, 3 or 4"):
        flow.submit("ada", page.assignment.id, 0, page.form, marks(page) | {(0, NAMES[0]): score})
    with pytest.raises(ValueError, match="1, 2, 3 or 4"):
        flow.save_draft("ada", page.assignment.id, 0, 0, NAMES[0], score)
    assert database.ratings() == []


def test_nobody_reaches_the_assignments_of_others(database):
    flow = workflow(database)
    page = flow.current("ada")
    actions = (
        lambda: flow.show("grace", page.assignment.id),
        lambda: flow.image("grace", page.assignment.id, "candidate", 0),
        lambda: flow.image("grace", page.assignment.id, "source", 0),
        lambda: flow.save_draft("grace", page.assignment.id, 0, 0, NAMES[0], 1),
        lambda: flow.submit("grace", page.assignment.id, 0, page.form, marks(page)),
        lambda: flow.skip("grace", page.assignment.id, 0, page.form, PROTOCOL.skip_reasons[0]),
    )
    for action in actions:
        with pytest.raises(LookupError):
            action()
    for kind, number in (("candidate", 3), ("candidate", -1), ("source", 1), ("source", -1), ("editor", 0)):
        with pytest.raises(LookupError):
            flow.image("ada", page.assignment.id, kind, number)
    assert database.ratings() == []


def test_a_form_sent_twice_is_one_rating(database):
    flow = workflow(database)
    page = flow.current("ada")
    after = [rate(flow, "ada", page), rate(flow, "ada", page)]
    assert after[0].assignment == after[1].assignment and {p.notice for p in after} == {"Saved."}
    assert len(database.ratings()) == 3
    assert database.row("SELECT COUNT(*) AS n FROM submissions")["n"] == 1


def test_forms_sent_at_once_from_many_threads_are_one_rating(database):
    flow = workflow(database)
    page = flow.current("ada")
    threads = [threading.Thread(target=rate, args=(flow, "ada", page, 1 + number % 4)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(database.ratings()) == 3
    assert database.row("SELECT COUNT(*) AS n FROM submissions")["n"] == 1
    assert len(database.assignments("ada")) == 2  # the rated one and the next


def test_of_two_tabs_the_second_is_told_what_the_first_saved(database):
    flow = workflow(database)
    one, two = flow.current("ada"), flow.current("ada")
    assert one.assignment == two.assignment and one.form != two.form
    rate(flow, "ada", one, 4)
    assert not flow.save_draft("ada", two.assignment.id, two.assignment.version, 0, NAMES[0], 1)
    page = rate(flow, "ada", two, 1)
    assert page.notice.startswith("Not saved") and page.assignment.id == one.assignment.id
    assert set(page.scores.values()) == {4}
    rate(flow, "ada", page, 2)  # now it knows
    assert {tuple(rating.scores.values()) for rating in database.ratings()} == {(2, 2)}


def test_going_back_and_correcting_replaces_the_rating(database):
    flow = workflow(database)
    first = flow.current("ada")
    second = rate(flow, "ada", first, 1)
    back = flow.back("ada", second.assignment.id)
    assert back.assignment.id == first.assignment.id and set(back.scores.values()) == {1}
    flow.save_draft("ada", back.assignment.id, back.assignment.version, 0, NAMES[0], 4)
    assert {tuple(rating.scores.values()) for rating in database.ratings()} == {(1, 1)}  # not submitted yet
    assert flow.current("ada").assignment.id == first.assignment.id  # a correction is where they left off
    on = rate(flow, "ada", back, 3)
    assert on.assignment.id == second.assignment.id
    assert {tuple(rating.scores.values()) for rating in database.ratings()} == {(3, 3)}
    assert flow.forward("ada", first.assignment.id).assignment.id == second.assignment.id
    assert flow.back("ada", first.assignment.id).assignment.id == second.assignment.id  # before the first: go on
    assert database.row("SELECT COUNT(*) AS n FROM submissions")["n"] == 2  # the old one is kept


def test_a_skipped_group_goes_to_another_and_after_two_to_nobody(database):
    flow = workflow(database, store_of(1))
    for annotator in ("ada", "grace"):
        page = flow.current(annotator)
        assert page.assignment.group_id == "work-0"
        with pytest.raises(ValueError, match="reason"):
            flow.skip(annotator, page.assignment.id, 0, page.form, "because")
        flow.skip(annotator, page.assignment.id, 0, page.form, PROTOCOL.skip_reasons[1], "hm")
    assert flow.current("alan").kind == "finished"
    assert database.skips() == [("work-0", name, PROTOCOL.skip_reasons[1], "hm") for name in ("ada", "grace")]
    back = flow.back("ada", None)
    rate(flow, "ada", back)  # on second thoughts
    assert [rating.annotator for rating in database.ratings()] == ["ada"] * 3
    assert [skip[1] for skip in database.skips()] == ["grace"]
    assert rate(flow, "grace", flow.back("grace", None)).notice.startswith("Not saved: this group has gone to another")


def test_a_group_left_open_goes_to_others_and_late_ratings_do_not_double(database):
    flow = workflow(database, store_of(1), release_after=3600.0)
    late = flow.current("ada")
    flow.save_draft("ada", late.assignment.id, 0, 0, NAMES[0], 4)
    assert flow.current("grace").kind == "finished"
    with database.transaction() as connection:
        connection.execute("UPDATE assignments SET touched_at = touched_at - 3601")
    page = flow.current("grace")
    assert page.assignment.group_id == "work-0"
    assert rate(flow, "ada", late).notice.startswith("Not saved: this group has gone to another")
    rate(flow, "grace", page)
    assert {rating.annotator for rating in database.ratings()} == {"grace"}


def test_a_group_that_nobody_else_can_take_comes_back_to_who_left_it_open(database):
    flow = workflow(database, store_of(2), each=2, release_after=3600.0)
    left = flow.current("ada").assignment
    with database.transaction() as connection:
        connection.execute("UPDATE assignments SET touched_at = touched_at - 3601")
    rate_all(flow, "grace")  # both groups: the one that ada left, too
    back = rate_all(flow, "ada")
    assert [page.assignment.group_id for page in back] == ["work-1", "work-0"]
    assert back[-1].assignment.id == left.id
    assert flow.current("ada").left == 0
    assert Counter(rating.group_id for rating in database.ratings()) == {"work-0": 6, "work-1": 6}


def test_what_a_revoked_annotator_left_open_goes_to_others(database):
    flow = workflow(database, store_of(2))
    rate(flow, "ada", flow.current("ada"))
    people.revoke(database, ["ada"])
    assert [page.assignment.group_id for page in rate_all(flow, "grace")] == ["work-1"]
    assert {rating.annotator for rating in database.ratings()} == {"ada", "grace"}


def test_time_counts_while_somebody_is_at_work(database):
    flow = workflow(database)
    page = flow.current("ada")
    start = database.row("SELECT touched_at FROM assignments")["touched_at"]
    database.touch(page.assignment.id, now=start + 10)
    database.touch(page.assignment.id, now=start + 10_010)  # was away
    database.touch(page.assignment.id, counts=False, now=start + 10_050)  # came back
    database.submit(
        page.assignment.id,
        "ada",
        0,
        "form",
        {(candidate, name): 2 for candidate in range(3) for name in NAMES},
        now=start + 10_055,
    )
    rating = database.ratings()[0]
    assert rating.seconds == pytest.approx(10 + IDLE_SECONDS + 5)
    assert rating.submitted_at == start + 10_055


def test_progress_by_annotator(database):
    flow = workflow(database, store_of(4, gold=1), gold_every=2)
    rate(flow, "ada", flow.current("ada"))
    page = flow.current("ada")
    flow.skip("ada", page.assignment.id, 0, page.form, PROTOCOL.skip_reasons[0])
    flow.current("ada")
    found = {progress.annotator: progress for progress in database.progress()}
    assert list(found) == ["ada", "grace", "alan", "edsger"]
    assert (found["ada"].rated, found["ada"].skipped, found["ada"].open) == (1, 1, 1)
    assert (found["grace"].rated, found["grace"].open, found["grace"].last_active) == (0, 0, None)


# What is served


def test_groups_must_be_complete(tmp_path):
    for rows, message in (
        ([group("a"), group("b"), group("a")], "occurs twice: a"),
        ([group("a"), group("b", candidates=1)], "fewer than two candidates: b"),
        ([group("a"), group("b", instruction=" ")], "no instruction: b"),
        ([group("a"), group("")], "no id: row 1"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            GroupStore().add(dataset(*rows), "work", "groups")
        assert str(error.value).startswith("groups: ")
    store = store_of(1)
    with pytest.raises(ValueError, match="occurs twice: work-0"):
        store.add(dataset(group("work-0")), "gold", "gold")


def test_only_images_inside_of_the_rows_are_served(tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    rows = [group("a"), group("b"), group("c")]
    rows[1]["source_images"] = [{"bytes": None, "path": str(secret)}]
    rows[2]["candidates"][0]["image"] = {"bytes": b"root:x:0:0", "path": None}
    store = GroupStore()
    store.add(dataset(*rows), "work", "groups")
    assert store.image("a", "source", 0) == (COLOURS[0], "image/png")
    with pytest.raises(ValueError, match="'b', source 0: no image is embedded"):
        store.image("b", "source", 0)
    with pytest.raises(ValueError, match="'c', candidate 0: the image cannot be read"):
        store.image("c", "candidate", 0)


def test_what_browsers_cannot_show_is_sent_as_png():
    content = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(content, "TIFF")
    row = group("a", source_images=[{"bytes": content.getvalue(), "path": None}])
    store = GroupStore()
    store.add(dataset(row), "work", "groups")
    shown, media_type = store.image("a", "source", 0)
    assert media_type == "image/png"
    with Image.open(io.BytesIO(shown)) as image:
        assert image.convert("RGB").getpixel((0, 0))[0] > 200


def broken_avif() -> bytes:
    """An image on which Pillow raises a RuntimeError, unlike on any other broken one."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "AVIF")
    return content.getvalue().replace(b"iloc", b"free")


@pytest.mark.parametrize("content", [COLOURS[0][:40], broken_avif()], ids=["png", "avif"])
def test_a_group_with_a_broken_image_is_given_to_nobody_and_listed(database, tmp_path, capsys, content):
    broken = group("work-1")
    broken["candidates"][2]["image"] = {"bytes": content, "path": None}
    store = GroupStore()
    store.add(dataset(group("work-0"), broken, group("work-2")), "work", "groups")
    flow = workflow(database, store)
    assert [page.assignment.group_id for page in rate_all(flow, "ada")] == ["work-0", "work-2"]
    assert list(database.faults()) == ["work-1"]
    assert cli.main(["annotate", "people", "--database", str(database.path)]) == 0
    assert "Group 'work-1', candidate 2" in capsys.readouterr().out


@pytest.mark.parametrize("fails_at", ["_open", "load"])
@pytest.mark.parametrize("error", [AssertionError, RecursionError, ZeroDivisionError, SystemError, MemoryError])
def test_whatever_a_plugin_of_pillow_raises_concerns_that_group_only(database, monkeypatch, capsys, error, fails_at):
    def fail(self):
        raise error("odd")

    class Odd(ImageFile.ImageFile):
        format = "JXL"

        def _open(self):
            self._size, self._mode = (8, 8), "RGB"

    Image.init()
    monkeypatch.setattr(Odd, fails_at, fail)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    Image.register_open("JXL", Odd, lambda start: start.startswith(b"odd"))
    broken = group("work-1")
    broken["candidates"][2]["image"] = {"bytes": b"odd image", "path": None}
    store = GroupStore()
    store.add(dataset(group("work-0"), broken, group("work-2")), "work", "groups")
    flow = workflow(database, store, each=2)
    for annotator in ("ada", "grace"):
        assert {page.assignment.group_id for page in rate_all(flow, annotator)} == {"work-0", "work-2"}
    assert list(database.faults()) == ["work-1"]
    assert cli.main(["annotate", "people", "--database", str(database.path)]) == 0
    assert "Group 'work-1', candidate 2: the image cannot be read" in (told := capsys.readouterr().out)
    assert error.__name__ in told
    with pytest.raises(ValueError, match="'work-1', candidate 2: the image cannot be read"):
        store.image("work-1", "candidate", 2)
    assert store.image("work-1", "candidate", 1)[1] == "image/png"


def test_another_dataset_under_the_same_ids_is_refused(database, tmp_path):
    flow = workflow(database, store_of(2))
    page = flow.current("ada")
    rate(flow, "ada", page)
    changed = GroupStore()
    changed.add(dataset(group("work-0", instruction="something else"), group("work-1")), "work", "groups")
    with pytest.raises(ValueError, match="'work-0' has another instruction or other images"):
        workflow(database, changed).show("ada", page.assignment.id)
    with pytest.raises(ValueError, match="'work-0' has another instruction or other images"):
        export_ratings(database, dataset(group("work-0", instruction="something else")), tmp_path / "out")
    assert not list((tmp_path / "out").glob("data/*.parquet"))
    fewer = GroupStore()
    fewer.add(dataset(group("work-0", candidates=2)), "work", "groups")
    with pytest.raises(ValueError, match="'work-0' was given to annotators with the number of candidates 3 and has 2"):
        workflow(database, fewer)


def test_groups_that_are_served_no_longer_keep_their_ratings(database):
    flow = workflow(database, store_of(2))
    rate(flow, "ada", flow.current("ada"))
    other = GroupStore()
    other.add(dataset(group("new-0")), "work", "groups")
    flow = workflow(database, other)
    assert flow.current("ada").assignment.group_id == "new-0"
    assert {rating.group_id for rating in database.ratings()} == {"work-0"}


def test_places_have_letters():
    assert [letter(place) for place in (0, 25, 26, 27, 51, 52, 701, 702)] == "A Z AA AB AZ BA ZZ AAA".split()


# The file


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no annotation database .*missing\.sqlite"):
        Database(tmp_path / "missing.sqlite")
    (tmp_path / "text").write_text("no database, but long enough to be taken for one" * 100)
    with pytest.raises(ValueError, match="text cannot be used as an annotation database"):
        Database(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE meta (x)")
    with pytest.raises(ValueError, match=r"other\.sqlite .*annotation database"):
        Database(tmp_path / "other.sqlite")


def test_the_file_is_in_wal_mode_and_synchronised(database):
    assert database.row("PRAGMA journal_mode")[0] == "wal"
    assert database.row("PRAGMA synchronous")[0] == 2


def test_a_failed_action_leaves_nothing(database):
    with pytest.raises(RuntimeError), database.transaction():
        database.set_meta("half", "done")
        raise RuntimeError
    assert database.meta("half") is None


RATER = """
import random, sys
from editreward.annotation import assignment
from editreward.annotation.database import Database

path, seed = sys.argv[1:]
rng = random.Random(seed)
policy = assignment.Policy(gold_every=0)
with Database(path) as database:
    while True:
        given = assignment.next_assignment(database, "ada", policy)
        if given is None:
            break
        scores = {(candidate, name): rng.randint(1, 4) for candidate in given.order for name in database.dimensions()}
        for (candidate, name), score in scores.items():
            database.save_draft(given.id, "ada", given.version, candidate, name, score)
        print("sent", given.group_id, flush=True)
        database.submit(given.id, "ada", given.version, f"{seed} {given.id}", scores)
        print("done", given.group_id, flush=True)
"""


@pytest.mark.slow
def test_no_rating_is_lost_or_doubled_when_the_process_is_killed(tmp_path):
    path = tmp_path / "annotations.sqlite"
    groups = 400
    with Database(path, create=True) as database:
        people.add_annotators(database, ["ada"])
        database.set_terms(NAMES, 1)
        database.set_groups([(f"work-{number}", "work", 3, None) for number in range(groups)])
    done: list[str] = []
    rng = random.Random(0)
    kills = 0
    while kills < 12:
        process = subprocess.Popen([sys.executable, "-c", RATER, path, str(kills)], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline().startswith("sent")  # kill it at work, not while Python starts
            first = [process.stdout.readline()]
            time.sleep(rng.uniform(0, 0.05))
        finally:
            process.kill()
        lines = first + process.communicate()[0].splitlines()
        assert process.returncode == -9, "the process ended by itself: more groups are needed"
        kills += 1
        with Database(path) as database:
            assert database.row("PRAGMA integrity_check")[0] == "ok"
            assert database.rows("PRAGMA foreign_key_check") == []
            found: dict[str, list[Rating]] = defaultdict(list)
            for rating in database.ratings():
                found[rating.group_id].append(rating)
            done += [line.split()[1] for line in lines if line.startswith("done ") and len(line.split()) == 2]
            # Whatever was acknowledged is there; whatever is there is whole; nothing is there twice.
            assert set(done) <= set(found) and len(done) == len(set(done))
            assert all([rating.candidate for rating in ratings] == [0, 1, 2] for ratings in found.values())
            assert all(set(rating.scores) == set(NAMES) for ratings in found.values() for rating in ratings)
            states = Counter(assignment.state for assignment in database.assignments("ada"))
            assert states["submitted"] == len(found) and states["open"] <= 1
            assert database.row("SELECT COUNT(*) AS n FROM submissions")["n"] == len(found)
    assert len(done) >= kills


def test_several_processes_share_the_work_without_doubling_it(tmp_path):
    path = tmp_path / "annotations.sqlite"
    with Database(path, create=True) as database:
        people.add_annotators(database, ["ada"])
        database.set_terms(NAMES, 1)
        database.set_groups([(f"work-{number}", "work", 3, None) for number in range(30)])
    # The same person in two processes: forms of both are stale when the other was faster.
    processes = [subprocess.Popen([sys.executable, "-c", RATER, path, str(seed)], stdout=-3) for seed in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    with Database(path) as database:
        assert len(database.ratings()) == 90
        assert {
            len(ratings) for ratings in Counter((r.group_id, r.candidate) for r in database.ratings()).items()
        } == {2}
        assert database.row("SELECT COUNT(*) AS n FROM submissions")["n"] == 30


# Adjudication


def tuples_file(path: Path, *tuples: dict) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in tuples), encoding="utf-8")
    return path


def disputed(tuple_id: str = "t", candidates=(2, 0), group_id: str = "work-0") -> DisputedTuple:
    return DisputedTuple(tuple_id, group_id, tuple(candidates), "no majority")


def test_a_tuple_is_settled_when_all_who_rated_it_propose_the_same(database):
    flow = workflow(database, store_of(2), each=3)
    for value, name in enumerate(("ada", "grace", "alan"), start=1):
        rate_all(flow, name, value=value)
    round_ = Adjudication(database, flow.store, [disputed(), disputed("u", (0, 1, 2), "work-1")], NAMES)
    page = round_.current("ada")
    assert page.disputed.tuple_id == "t" and (page.quorum, page.open, page.waiting) == (3, 2, 2)
    assert page.scores == tuple(
        {name: dict.fromkeys(NAMES, float(value)) for value, name in enumerate(("ada", "grace", "alan"), start=1)}
        for _ in range(2)
    )
    assert round_.propose("ada", 0, [1, 2], "B has seams").disputed.tuple_id == "u"
    assert round_.current("grace").proposals[0].comment == "B has seams"
    round_.propose("grace", 0, [1, 2])
    assert database.rankings() == []  # two of three
    round_.propose("alan", 0, [2, 1])
    assert database.rankings() == []  # not the same
    round_.propose("alan", 0, [1, 2])
    round_.propose("alan", 0, [1, 2])  # sent twice
    expected = TupleRanking("t", "work-0", [2, 0], [1, 2], ["ada", "alan", "grace"])
    assert database.rankings() == [expected]
    other = round_.show("edsger", 0)
    assert other.settled and other.read_only
    assert round_.propose("edsger", 0, [2, 1]).notice.startswith("Not saved")
    assert database.rankings() == [expected]
    round_.propose("ada", 0, [1, 1])  # who took part may change their mind
    assert database.rankings() == []


def test_tuples_can_be_left_out_with_a_reason(database):
    round_ = Adjudication(database, store_of(1), [disputed()], NAMES, quorum=2)
    with pytest.raises(ValueError, match="comment"):
        round_.propose("ada", 0, None)
    with pytest.raises(ValueError, match="1,001 characters; 1,000 fit"):  # which a browser would not send
        round_.propose("ada", 0, None, "x" * 1001)
    round_.propose("ada", 0, None, "the source is broken")
    assert database.rankings() == []
    round_.propose("grace", 0, None, "yes")
    [left_out] = database.rankings()
    assert left_out.tuple_id == "t" and left_out.ranks == []


def test_a_page_from_before_a_restart_ranks_no_other_tuple(database):
    """The server was started again with another file of tuples while the page was open."""
    store, request = store_of(1), SimpleNamespace(username="ada")
    before = AdjudicationScreen(Adjudication(database, store, [disputed("t", (2, 0))], NAMES), PROTOCOL)
    now = [disputed("other", (1, 0)), disputed("t", (2, 0))]
    after = AdjudicationScreen(Adjudication(database, store, now, NAMES), PROTOCOL)
    for screen in (before, after):
        screen.blocks()
    form = before.on_load(request)[before.form]
    after.on_save(form, "", request, 2, 1)
    assert [(p.annotator, p.ranks) for p in after.adjudication.show("ada", 1).proposals] == [("ada", (2, 1))]
    assert not after.adjudication.show("ada", 0).proposals
    changed = AdjudicationScreen(Adjudication(database, store, [disputed("u", (2, 1))], NAMES), PROTOCOL)
    changed.blocks()
    told = changed.on_save(form, "", request, 2, 1)
    assert "tuples are others" in told[changed.notice] and not changed.adjudication.show("ada", 0).proposals


def test_a_browser_takes_no_kept_image_for_that_of_another_group_or_order(tmp_path):
    """Another database has the same numbers in its images' addresses, and browsers keep images for an hour."""
    addresses = []
    for number, (row, seed) in enumerate((("work-0", 0), ("work-0", 0), ("work-0", 1), ("work-1", 0))):
        with Database(tmp_path / f"{number}.sqlite", create=True) as database:
            people.add_annotators(database, ["ada"])
            store = GroupStore()
            store.add(dataset(group(row, candidates=4)), "work", "work")
            screen = RatingScreen(workflow(database, store, seed=seed))
            screen.blocks()
            shown = screen.on_load(SimpleNamespace(username="ada"))
            addresses.append((shown[screen.task], shown[screen.images[0]]))
            round_ = AdjudicationScreen(
                Adjudication(database, store, [disputed("t", (2, 0) if seed else (0, 2), row)], NAMES), PROTOCOL
            )
            round_.blocks()
            ranked = round_.on_load(SimpleNamespace(username="ada"))
            addresses[-1] += (re.findall('src="([^"]*)', ranked[round_.images[0]])[0],)
    first, again, *others = addresses
    assert first == again
    for other in others:
        assert other[1] != first[1] and other[2] != first[2]


def test_a_page_of_another_database_saves_nothing_in_this_one(tmp_path):
    """The server was started again with another database, whose assignments have the same numbers."""
    request, forms, count = SimpleNamespace(username="ada"), [], len(NAMES) * 4
    for number, name in enumerate(("work-0", "work-1")):
        with Database(tmp_path / f"{number}.sqlite", create=True) as database:
            people.add_annotators(database, ["ada"])
            store = GroupStore()
            store.add(dataset(group(name, candidates=4)), "work", "work")
            screen = RatingScreen(workflow(database, store))
            screen.blocks()
            forms.append(screen.on_load(request)[screen.form])
            if number:
                told = screen.on_save(forms[0], request, *[3] * count)[screen.notice]
                told += screen.on_skip(forms[0], "unclear", "", request)[screen.notice]
                told += screen.on_mark(0, NAMES[0])(forms[0], 3, request)
                assert told.count("the groups are others") == 3
                assert not database.ratings() and not screen.workflow.current("ada").scores
            screen.on_save(forms[number], request, *[3] * count)
            assert len(database.ratings()) == 4


def test_what_a_revoked_annotator_disputes_is_left_to_the_others(database):
    round_ = Adjudication(database, store_of(1), [disputed(), disputed("u", (0, 1))], NAMES, quorum=2)
    for place in (0, 1):
        round_.propose("ada", place, [1, 2])
        round_.propose("grace", place, [1, 2])
    round_.propose("grace", 1, [2, 1])
    round_.propose("alan", 1, [1, 2])
    assert [ranking.tuple_id for ranking in database.rankings()] == ["t"]
    people.revoke(database, ["grace"])
    assert [(ranking.tuple_id, ranking.annotators) for ranking in database.rankings()] == [
        ("t", ["ada", "grace"]),  # settled: stays as it is
        ("u", ["ada", "alan"]),
    ]


def test_rankings_have_no_gaps_and_ties_only_between_two():
    for count in (2, 3, 4):
        allowed = {tuple(order) for order in permutations(range(1, count + 1))} | ({(1, 1)} if count == 2 else set())
        for number in range((count + 1) ** count):
            ranks = tuple(number // (count + 1) ** place % (count + 1) for place in range(count))
            if ranks in allowed:
                check_ranks(ranks)
            else:
                with pytest.raises(ValueError, match="ranks must be"):
                    check_ranks(ranks)
    with pytest.raises(ValueError, match="every candidate a rank"):
        check_ranks([1, None])


def test_the_scores_of_a_tuple_come_from_the_dataset_too(database):
    row = group("work-0")
    row["candidates"][2]["annotations"] = [{"annotator": "elsewhere", NAMES[0]: 4.0, NAMES[1]: None}]
    store = GroupStore()
    store.add(dataset(row), "work", "groups")
    page = Adjudication(database, store, [disputed()], NAMES).current("ada")
    assert page.scores == ({"elsewhere": {NAMES[0]: 4.0}}, {})
    assert page.quorum == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"group_id": "nowhere"}, "no group 'nowhere'"),
        ({"candidates": [0]}, "two or more different indices from 0 to 2"),
        ({"candidates": [0, 0]}, "two or more different indices"),
        ({"candidates": [0, 3]}, "two or more different indices"),
        ({"candidates": [0, True]}, "candidates, entry 2 must be a whole number"),
        ({"tuple_id": ""}, "tuple_id must be a text"),
        ({"tuple_id": "first"}, "'first' is there twice"),
    ],
)
def test_a_bad_tuple_is_named_by_file_and_line(tmp_path, entry, message):
    good = {"tuple_id": "first", "group_id": "work-0", "candidates": [0, 1], "reason": "no majority"}
    path = tuples_file(tmp_path / "tuples.jsonl", good, {**good, "tuple_id": "second", **entry})
    with pytest.raises(ValueError, match=message) as error:
        read_tuples(path, store_of(1))
    assert str(error.value).startswith(f"{path}, line 2")


def test_tuples_are_read_as_the_benchmark_builder_writes_them(tmp_path):
    entry = {"tuple_id": "t", "group_id": "work-0", "candidates": [2, 0], "reason": "no majority"}
    assert read_tuples(tuples_file(tmp_path / "tuples.jsonl", entry), store_of(1)) == [disputed()]
    separator = json.dumps(entry | {"reason": "no\u2028majority"}, ensure_ascii=False)  # ends a line of text, not here
    (tmp_path / "tuples.jsonl").write_text(separator + "\n", encoding="utf-8")
    assert read_tuples(tmp_path / "tuples.jsonl", store_of(1))[0].reason == "no\u2028majority"
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no tuples"):
        read_tuples(tmp_path / "empty.jsonl", store_of(1))
    (tmp_path / "utf16.jsonl").write_text(separator, encoding="utf-16")
    with pytest.raises(ValueError, match="utf16.jsonl, line 1: not JSON"):
        read_tuples(tmp_path / "utf16.jsonl", store_of(1))


def test_a_tuple_that_was_ranked_keeps_its_candidates(database):
    Adjudication(database, store_of(1), [disputed()], NAMES).propose("ada", 0, [1, 2])
    Adjudication(database, store_of(1), [disputed()], NAMES)
    with pytest.raises(ValueError, match="'t' was ranked with other candidates"):
        Adjudication(database, store_of(1), [disputed(candidates=(0, 1))], NAMES)


# Export


def export_rows(database: Database, original: Dataset, folder: Path, **options) -> list[dict]:
    export_ratings(database, original, folder, **options)
    return load_groups(folder).with_format("arrow")[:].to_pylist()


def test_exported_scores_are_the_means_of_the_annotations(database, tmp_path):
    rows = [group(f"work-{number}") for number in range(3)]
    rows[0]["candidates"][1]["annotations"] = [
        {"annotator": "earlier", NAMES[0]: 4.0, NAMES[1]: None},
        {"annotator": "ada", NAMES[0]: 4.0, NAMES[1]: 4.0},
    ]
    store = GroupStore()
    store.add(dataset(*rows), "work", "groups")
    flow = workflow(database, store, each=2)
    rate_all(flow, "ada", value=1, most=2)
    rate_all(flow, "grace", value=2, most=1)
    counts = export_ratings(database, dataset(*rows), tmp_path / "out")
    assert (counts.written, counts.complete, counts.incomplete, counts.unrated, counts.ratings) == (3, 1, 1, 1, 3)
    exported = load_groups(tmp_path / "out").with_format("arrow")[:].to_pylist()
    for before, after in zip(rows, exported, strict=True):
        assert [c["image"] for c in after["candidates"]] == [c["image"] for c in before["candidates"]]
        for candidate in after["candidates"]:
            annotations = candidate["annotations"]
            for name in NAMES:
                values = [entry[name] for entry in annotations if entry[name] is not None]
                assert candidate["scores"][name] == (fmean(values) if values else None)
    assert [entry["annotator"] for entry in exported[0]["candidates"][1]["annotations"]] == ["earlier", "ada", "grace"]
    assert exported[0]["candidates"][1]["scores"] == {NAMES[0]: pytest.approx(7 / 3), NAMES[1]: 1.5}
    assert exported[2]["candidates"][0]["annotations"] == []


def test_exports_can_leave_out_incomplete_groups_and_names(database, tmp_path):
    original = dataset(*(group(f"work-{number}") for number in range(3)))
    flow = workflow(database, each=2)
    rate_all(flow, "ada", most=2)
    rate_all(flow, "grace", most=1)
    counts = export_ratings(database, original, tmp_path / "out", minimum=2, pseudonyms=True)
    assert counts.left_out == ["work-1", "work-2"] and counts.written == 1
    row = load_groups(tmp_path / "out").with_format("arrow")[:].to_pylist()[0]
    assert [entry["annotator"] for entry in row["candidates"][0]["annotations"]] == ["annotator-1", "annotator-2"]
    with pytest.raises(ValueError, match="No group has 3 annotators"):
        export_ratings(database, original, tmp_path / "none", minimum=3)


def test_pseudonyms_stand_for_the_names_in_the_dataset_too(database, tmp_path):
    rows = [group(f"work-{number}") for number in range(2)]
    for row, name in zip(rows, ("grace", "annotator-9"), strict=True):  # rated before, in this database and another
        row["candidates"][0]["annotations"] = [{"annotator": name, NAMES[0]: 4.0, NAMES[1]: 4.0}]
    rate_all(workflow(database, store_of(2)), "ada")
    exported = export_rows(database, dataset(*rows), tmp_path / "out", pseudonyms=True)
    names = [{a["annotator"] for c in row["candidates"] for a in c["annotations"]} for row in exported]
    assert names == [{"annotator-1", "annotator-2"}, {"annotator-1", "annotator-9"}]
    # "annotator-1" of another database is not ada, whose rating would replace theirs
    for name, message in (("somebody", "by 'somebody'"), ("annotator-1", "by 'annotator-1' already")):
        rows[0]["candidates"][0]["annotations"][0]["annotator"] = name
        with pytest.raises(ValueError, match=f"'work-0' has annotations {message}.*editreward data publish"):
            export_ratings(database, dataset(*rows), tmp_path / "out", pseudonyms=True)
    export_ratings(database, dataset(*rows), tmp_path / "out")


def test_gold_and_calibration_ratings_are_no_annotations(database, tmp_path):
    flow = workflow(database, store_of(3, calibration=2, gold=2), gold_every=2)
    flow.start_round("ada")
    rate_all(flow, "ada")  # the round
    rate_all(flow, "ada")  # the work
    assert {rating.purpose for rating in database.ratings()} == {"work", "calibration", "gold"}
    with pytest.raises(ValueError, match="no ratings of the groups"):
        export_ratings(database, dataset(known("gold-0"), known("calibration-0")), tmp_path / "out")


def test_the_commands_from_adding_people_to_export(tmp_path, capsys):
    database_path, folder = str(tmp_path / "a.sqlite"), tmp_path / "groups"
    write_groups((group(f"work-{number}") for number in range(2)), folder, split="test")
    assert cli.main(["annotate", "people", "--database", database_path, "--add", "ada", "grace"]) == 0
    tokens = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert list(tokens) == ["ada", "grace"]
    with Database(database_path) as database:
        assert people.sign_in(database, "ada", tokens["ada"])
        store = GroupStore()
        store.add(load_groups(folder, "test"), "work", folder)
        rate_all(workflow(database, store), "ada", value=2)
        round_ = Adjudication(database, store, [disputed()], NAMES)
        round_.propose("ada", 0, [1, 2])
        round_.propose("grace", 0, [1, 2])
    export = ["annotate", "export", "--database", database_path]
    files = ["--ratings", str(tmp_path / "ratings.jsonl"), "--rankings", str(tmp_path / "rankings.jsonl")]
    assert cli.main([*export, "--dataset", str(folder), "--output", str(tmp_path / "out"), *files]) == 0
    out = capsys.readouterr().out
    assert "2 groups with 2 ratings of whole groups" in out and "1 rankings" in out
    rows = load_groups(tmp_path / "out", "test").with_format("arrow")[:].to_pylist()
    assert {score for row in rows for c in row["candidates"] for score in c["scores"].values()} == {2.0}
    ratings = [json.loads(line) for line in (tmp_path / "ratings.jsonl").read_text().splitlines()]
    assert len(ratings) == 6 and Rating(**ratings[0]).annotator == "ada"
    ranking = TupleRanking(**json.loads((tmp_path / "rankings.jsonl").read_text()))
    assert ranking == TupleRanking("t", "work-0", [2, 0], [1, 2], ["ada", "grace"])
    assert cli.main([*export, "--ratings", str(tmp_path / "new" / "ratings.jsonl")]) == 0
    assert cli.main([*export, *files, "--pseudonyms"]) == 0
    assert "ada" not in (tmp_path / "ratings.jsonl").read_text() + (tmp_path / "rankings.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["people"], "There is no annotation database"),
        (["export", "--output", "x"], "--dataset and --output go together"),
        (["export"], "nothing to write"),
        (["serve", "--dataset", "x", "--quorum", "2"], "--quorum goes with --adjudicate"),
        (["serve", "--dataset", "x", "--gold-every", "0"], "must be positive"),
        (["serve", "--dataset", "x", "--adjudicate", "nowhere.jsonl"], "There is no file nowhere.jsonl"),
        (["serve", "--dataset", "x", "--protocol", "nowhere.yaml"], "There is no file nowhere.yaml"),
        (["serve", "--dataset", "nowhere/groups/"], "There is no folder or file nowhere/groups/"),
        (["export", "--ratings", "x", "--minimum", "3"], "--minimum goes with --dataset and --output"),
        (["export", "--ratings", "x", "--split", "test"], "--split goes with --dataset and --output"),
        (["people", "--add", "ada", "--revoke", "ada"], "'ada' cannot get a token and be revoked at once"),
        (["people", "--add-file", __file__.replace(".py", ".nothing")], "There is no file"),
    ],
)
def test_bad_options_are_one_line_errors(tmp_path, capsys, arguments, message):
    assert cli.main(["annotate", *arguments, "--database", str(tmp_path / "missing.sqlite")]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_adjudication_shows_no_reasons(tmp_path, capsys):
    (tmp_path / "tuples.jsonl").touch()
    arguments = ["serve", "--dataset", "x", "--adjudicate", str(tmp_path / "tuples.jsonl"), "--show-reasons"]
    assert cli.main(["annotate", *arguments, "--database", str(tmp_path / "a.sqlite")]) == 2
    assert "--adjudicate goes without --show-reasons" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [(b"\x89PNG", "is no text in UTF-8"), (b"\n\n", "has no names")])
def test_a_file_without_names_is_named(tmp_path, capsys, content, message):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    command = ["annotate", "people", "--database", str(tmp_path / "a.sqlite"), "--add-file", str(path)]
    assert cli.main(command) == 2
    assert f"{path} {message}" in capsys.readouterr().err
    assert not (tmp_path / "a.sqlite").exists()
