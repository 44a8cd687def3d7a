"""`editreward data check`: every kind of fault is found, at its place, and nothing else."""

import io
import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from editreward.cli import command as cli
from editreward.curation.check import FAULTS, CheckReport, check_group, find_faults
from editreward.data.sources import load_groups
from editreward.data.storage import write_groups


def png(seed: int, form: str = "PNG") -> dict:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, form)
    return {"bytes": file.getvalue(), "path": None}


def good_group(number: int = 0) -> dict:
    """A group without a fault, as it is stored."""
    return {
        "group_id": f"g{number}",
        "origin": "made",
        "category": "recolour",
        "instruction": "make it blue",
        "language": "en",
        "source_images": [png(0)],
        "candidates": [
            {
                "image": png(1 + index),
                "editor": "e",
                "seed": 0,
                "scores": {"instruction_following": 1.0 + index, "visual_quality": 10 / 3},
                "annotations": [
                    {"annotator": name, "instruction_following": 1.0, "visual_quality": None} for name in ("ann", "bo")
                ],
                "rationale": None,
            }
            for index in range(4)
        ],
        "preferences": [{"chosen": 0, "rejected": 1, "weight": 1.0}, {"chosen": 1, "rejected": 2, "weight": 0.5}],
    }


def preference(chosen, rejected, weight=1.0) -> dict:
    return {"chosen": chosen, "rejected": rejected, "weight": weight}


def set_candidate(index: int, name: str, value):
    return lambda group: group["candidates"][index].__setitem__(name, value)


def set_score(value):
    return lambda group: group["candidates"][2]["scores"].__setitem__("visual_quality", value)


def set_annotation(name: str, value):
    return lambda group: group["candidates"][3]["annotations"][1].__setitem__(name, value)


# What is done to a good group, and the (kind, place) of the faults that it makes.
BROKEN = {
    "blank instruction": (lambda g: g.update(instruction=" \n"), {("empty_instruction", "instruction")}),
    "no instruction": (lambda g: g.update(instruction=None), {("empty_instruction", "instruction")}),
    "one candidate": (
        lambda g: g.update(candidates=g["candidates"][:1], preferences=[]),
        {("too_few_candidates", "candidates")},
    ),
    "no candidates": (
        lambda g: g.update(candidates=None, preferences=None),
        {("too_few_candidates", "candidates")},
    ),
    "no source": (lambda g: g.update(source_images=[]), {("missing_image", "source_images")}),
    "null source": (lambda g: g.update(source_images=[None, png(0)]), {("missing_image", "source_images[0]")}),
    "null candidate image": (set_candidate(1, "image", None), {("missing_image", "candidates[1].image")}),
    "null candidate": (
        lambda g: g["candidates"].__setitem__(3, None),
        {("missing_image", "candidates[3].image")},
    ),
    "file that is gone": (
        set_candidate(1, "image", {"bytes": None, "path": "gone.png"}),
        {("missing_image", "candidates[1].image")},
    ),
    "no image": (set_candidate(0, "image", {"bytes": b"x", "path": None}), {("broken_image", "candidates[0].image")}),
    "candidate as the source, in another format": (
        set_candidate(2, "image", png(0, "BMP")),
        {("candidate_equals_source", "candidates[2].image")},
    ),
    "candidate as the second source": (
        lambda g: g.update(source_images=[png(0), png(2)]),
        {("candidate_equals_source", "candidates[1].image")},
    ),
    "two candidates alike": (
        set_candidate(3, "image", png(2, "BMP")),
        {("identical_candidates", "candidates[3].image")},
    ),
    "score too high": (set_score(4.001), {("score_out_of_range", "candidates[2].scores.visual_quality")}),
    "score too low": (set_score(0.0), {("score_out_of_range", "candidates[2].scores.visual_quality")}),
    "score not a number": (set_score(float("nan")), {("score_out_of_range", "candidates[2].scores.visual_quality")}),
    "annotation too high": (
        set_annotation("visual_quality", 5.0),
        {("score_out_of_range", "candidates[3].annotations[1].visual_quality")},
    ),
    "annotator twice": (
        set_annotation("annotator", "ann "),
        {("repeated_annotator", "candidates[3].annotations[1].annotator")},
    ),
    "annotator unnamed": (
        set_annotation("annotator", None),
        {("repeated_annotator", "candidates[3].annotations[1].annotator")},
    ),
    "preference outside": (
        lambda g: g.update(preferences=[preference(0, 4), preference(-1, 2), preference(2, None)]),
        {("bad_preference", f"preferences[{index}]") for index in range(3)},
    ),
    "preference over itself": (
        lambda g: g.update(preferences=[preference(2, 2)]),
        {("bad_preference", "preferences[0]")},
    ),
    "preference without weight": (
        lambda g: g.update(preferences=[preference(0, i + 1, w) for i, w in enumerate((0.0, None, float("inf")))]),
        {("bad_preference", f"preferences[{index}].weight") for index in range(3)},
    ),
    "preference and its opposite": (
        lambda g: g["preferences"].append(preference(1, 0)),
        {("contradictory_preferences", "preferences[2]")},
    ),
    "preference twice": (
        lambda g: g["preferences"].append(preference(1, 2)),
        {("contradictory_preferences", "preferences[2]")},
    ),
    "preferences in a circle": (
        lambda g: g["preferences"].append(preference(2, 0)),
        {("contradictory_preferences", "preferences")},
    ),
}


def test_a_good_group_has_no_fault():
    assert check_group(good_group()) == []
    group = good_group()
    group["candidates"][0] |= {"scores": None, "annotations": None}
    group["candidates"][1]["scores"]["visual_quality"] = None
    assert check_group(group) == []


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_told_at_its_place_and_no_other(name):
    change, expected = BROKEN[name]
    group = good_group()
    change(group)
    faults = check_group(group, "test", 7)
    assert {(fault.kind, fault.place) for fault in faults} == expected and len(faults) == len(expected)
    for fault in faults:
        assert (fault.split, fault.row, fault.group_id) == ("test", 7, "g0")
        assert str(fault).startswith(f"g0 (test, row 7): {fault.place}: ")


def test_ids_are_compared_over_all_splits():
    groups = {"train": [good_group(0), good_group(1)], "test": [good_group(2), good_group(1), good_group(2)]}
    groups["test"].append(good_group() | {"group_id": " "})
    report = CheckReport()
    faults = list(find_faults(groups, report))
    found = [(fault.kind, fault.split, fault.row) for fault in faults]
    assert found == [("duplicate_id", "test", 1), ("duplicate_id", "test", 2), ("missing_id", "test", 3)]
    assert "train, row 1" in faults[0].message and "test, row 0" in faults[1].message
    assert report.groups == {"train": 2, "test": 4} and report.candidates == 24
    assert report.counts == Counter(duplicate_id=2, missing_id=1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(lambda pair: pair[0] != pair[1]), max_size=6))
def test_preferences_contradict_exactly_where_no_order_fits_each_once(pairs):
    group = good_group() | {"source_images": [], "preferences": [preference(*pair) for pair in pairs]}
    group["candidates"] = [{"image": None} for _ in range(4)]  # what matters here needs no images
    found = any(fault.kind == "contradictory_preferences" for fault in check_group(group))
    orders = itertools.permutations(range(4))
    consistent = any(all(order.index(a) < order.index(b) for a, b in pairs) for order in orders)
    assert found == (not consistent or len(set(pairs)) < len(pairs))


def test_rows_that_cannot_be_read_name_the_last_good_one():
    def cut_off():
        yield good_group(4)
        raise OSError("disk gone")

    with pytest.raises(ValueError, match="split 'train' cannot be read after group 'g4': disk gone"):
        list(find_faults({"train": cut_off()}, CheckReport()))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A dataset with one group for each way to break it, and good ones between."""
    folder = tmp_path_factory.mktemp("faulty")
    groups = []
    for number, (name, (change, _)) in enumerate(BROKEN.items()):
        group = good_group(number)
        change(group)
        if name not in ("null candidate", "file that is gone"):  # which the writer refuses
            groups += [group, good_group(1000 + number)]
    write_groups(groups, folder)
    write_groups([good_group(1), good_group(1)], folder, "test")
    return folder


def test_the_command_lists_every_fault_and_exits_1(faulty, capsys):
    assert cli.main(["data", "check", str(faulty), "--json"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    result = json.loads(out)
    expected = Counter()
    for number, (name, (_, faults)) in enumerate(BROKEN.items()):
        if name not in ("null candidate", "file that is gone"):
            expected.update((f"g{number}", kind, place) for kind, place in faults)
    expected.update([("g1", "duplicate_id", "group_id")] * 2)
    assert Counter((f["group_id"], f["kind"], f["place"]) for f in result["faults"]) == expected
    assert result["groups"] == {"train": len(load_groups(faulty)), "test": 2} and result["ok"] is False
    assert sum(result["counts"].values()) == expected.total()
    assert set(result["counts"]) == set(FAULTS) - {"missing_id"}

    assert cli.main(["data", "check", str(faulty)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("g1 (test, row 1): group_id: ")]
    assert lines[-1] == f"{expected.total()} faults."


def test_allowed_kinds_are_listed_and_do_not_fail(faulty, capsys):
    assert cli.main(["data", "check", str(faulty), "--split", "test"]) == 1
    assert cli.main(["data", "check", str(faulty), "--split", "test", "--allow", "duplicate_id"]) == 0
    out = capsys.readouterr().out
    assert "1 duplicate_id (allowed): another row has the same id" in out
    assert cli.main(["data", "check", str(faulty), "--allow", "duplicates"]) == 2
    assert "'duplicates' is no kind of fault; these are: missing_id" in capsys.readouterr().err


def test_a_good_dataset_passes(tmp_path, capsys):
    write_groups([good_group(number) for number in range(3)], tmp_path)
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "3 groups (train 3) with 12 candidates.\nNo faults.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.parquet"], "There is no folder or file nowhere.parquet"),
        (["FOLDER", "--split", "dev"], "no split 'dev'"),
    ],
)
def test_what_cannot_be_opened_is_a_one_line_error(faulty, arguments, message, capsys):
    assert cli.main(["data", "check", *[a.replace("FOLDER", str(faulty)) for a in arguments]]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and message in err
