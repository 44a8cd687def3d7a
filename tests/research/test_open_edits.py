"""What the groups of `editreward bench open-edits` are made of, that their grades are true, and grading by eye."""

import ast
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytest.importorskip("cv2")

from editreward.data.images import perceptual_hash
from editreward.data.storage import write_groups
from editreward.resources import resource
from editreward.simulation.collage.assets import names
from editreward.simulation.collage.assets import photograph as picture_of_world_2
from editreward.simulation.collage.assets import photographs as photographs_of_world_2
from research.open_edits import by_eye, following
from research.open_edits.assets import Assets, Photograph, Thing, photographs, things
from research.open_edits.effects import DAMAGES, STYLES
from research.open_edits.following import CATEGORIES, categories
from research.open_edits.groups import make_group, make_groups, make_task, png
from research.open_edits.quality import OF_THE_EDIT, OF_THE_IMAGE, Edit, distance, inpainted
from research.open_edits.scenes import Painter, Placed, Scene, recoloured, to_lab

ROOT = Path(__file__).parents[2]
COMMITTED = json.loads(resource("configs/open_edits.json").read_text())
FOLLOWING, QUALITY = "instruction_following", "visual_quality"
SAME = 8
"""Bits in which perceptual hashes of one photograph may differ."""


def cutout(index: int) -> Image.Image:
    """A shape of its own colour on nothing."""
    image = Image.new("RGBA", (90, 70))
    colour = tuple(int(value) for value in np.random.default_rng(index).integers(30, 220, 3))
    draw = ImageDraw.Draw(image)
    draw.ellipse((2, 2, 87, 67), fill=(*colour, 255))
    draw.rectangle((20 + index, 20, 60, 40), fill=(*colour[::-1], 255))
    return image


@pytest.fixture(scope="module")
def painter() -> Painter:
    """Drawn objects before smooth pictures: nothing is downloaded."""
    rows, columns = np.mgrid[0:240, 0:320]
    found = {}
    for index in range(4):
        waves = np.stack(
            [128 + 90 * np.sin(rows / (19 + 5 * index + k) + columns / (31 + 7 * k)) for k in range(3)], -1
        )
        found[Photograph(f"{index}", f"scene {index}", f"景{index}")] = Image.fromarray(np.uint8(waves))
    drawn = {Thing(f"{i}", f"thing{i}", f"物{i}", i % 2 == 0, f"kind{i}"): cutout(i) for i in range(8)}
    return Painter(Assets(drawn, found))


@pytest.fixture(autouse=True)
def _without_networks(monkeypatch):
    monkeypatch.setattr(following, "STYLES", tuple(one for one in STYLES if one.name != "painting"))
    monkeypatch.setattr(following, "DAMAGES", DAMAGES[:2])


def pixels(record) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(record["bytes"])))


# What they are made of


def test_the_script_imports_nothing_of_the_simulated_worlds():
    files = sorted((ROOT / "research" / "open_edits").glob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any("simulation" in name for name in found), f"{file.name} imports {found}"


def test_photographs_of_a_package_that_world_2_uses_are_of_its_held_out_third():
    listed, folder = [], ""
    for line in (ROOT / "research" / "collage" / "photographs.txt").read_text().splitlines():
        if line and line[0] not in "#[":
            folder, files = line.split(": ")
            listed += [f"gcompris/{folder}/{name}.webp" for name in files.split()]
    held_out = {file for file, one in zip(listed, photographs_of_world_2(), strict=True) if one.held_out}
    used = {one.file for one in photographs() if one.file.startswith("gcompris/")}
    assert len(used) > 20 and used <= held_out


def test_no_photograph_is_one_that_world_2_trains_on_by_perceptual_hashes():
    hashes = {file: int(text, 16) for file, text in COMMITTED["photographs"].items()}
    assert set(hashes) == {one.file for one in photographs()}
    of_world_2 = [(one, perceptual_hash(picture_of_world_2(one.index))) for one in photographs_of_world_2()]
    nearest = {
        held_out: {
            file: min((own ^ other).bit_count() for one, other in of_world_2 if one.held_out == held_out)
            for file, own in hashes.items()
        }
        for held_out in (True, False)
    }
    assert min(nearest[False].values()) > SAME
    # The hashes tell: those of the held-out third are found among the held-out ones.
    assert max(bits for file, bits in nearest[True].items() if file.startswith("gcompris/")) <= SAME


def test_known_names_are_those_that_world_2_trains_on():
    trained = {name for name, one in names().items() if not one.held_out}
    objects = things()
    assert [one.name for one in objects if one.known != (one.name in trained)] == []
    assert len({one.name for one in objects}) == len({one.chinese for one in objects}) == len(objects) > 100


# That their grades are true


def test_the_same_seed_gives_the_same_groups_and_another_one_others(painter):
    first, again, other = (list(make_groups(painter.assets, 1, seed)) for seed in (0, 0, 1))
    assert [group.pixels for group in first] == [group.pixels for group in again]
    assert [group.about for group in first] == [group.about for group in again]
    assert not {pixel for group in first for pixel in group.pixels} & {p for group in other for p in group.pixels}


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_group_has_four_to_seven_different_edits_with_their_grades(painter, category):
    group = make_group(painter, 3, category, seed=5)
    candidates, edits = group.row["candidates"], group.about["edits"]
    assert 4 <= len(candidates) <= 7 and len({one["image"]["bytes"] for one in candidates}) == len(candidates)
    assert len({pixels(one["image"]).shape for one in candidates} | {pixels(group.row["source_images"][0]).shape}) == 1
    for candidate, edit in zip(candidates, edits, strict=True):
        assert candidate["scores"] == {FOLLOWING: edit[FOLLOWING], QUALITY: edit[QUALITY]}
        assert (edit["done"] == "as asked") == (edit[FOLLOWING] == 4)
        assert edit["flaw"] != "clean" or edit[QUALITY] == 4 or edit["done"] not in ("as asked", "nothing was changed")


@pytest.mark.parametrize("category", [name for name in CATEGORIES if name != "restore"])
def test_the_lowest_score_leaves_what_was_asked_undone_and_the_others_do_something(painter, category):
    for number in range(2):
        task, rng = make_task(painter, number, category, seed=9)
        ignored = task.make(1, rng)
        if ignored.done == "nothing was changed":
            np.testing.assert_array_equal(ignored.image, task.source_image)
        asked = task.make(4, rng)
        whole = np.ones(asked.image.shape[:2], dtype=bool)
        for score in (2, 3, 4):
            assert distance(task.make(score, rng).image, task.source_image, whole) > 0.05


def test_what_was_asked_changes_nothing_elsewhere(painter):
    for category in ("remove", "colour", "replace", "add", "move", "resize"):
        task, rng = make_task(painter, 2, category, seed=4)
        changed = (task.make(4, rng).image != task.source_image).any(-1)
        other = task.source.things[0]
        layer = painter.layer(other, task.source.size)
        assert 0 < changed.mean() < 0.35
        assert not changed[layer[..., 3] > 0.9].any(), f"{category} changes the other thing"


def test_a_colour_is_the_one_that_was_asked_for(painter):
    thing = next(iter(painter.assets.cutouts))
    image = np.float32(np.asarray(painter.assets.cutouts[thing]))
    weight = image[..., 3] / 255
    for colour, expected in following.COLOURS.items():
        made = to_lab(recoloured(image[..., :3], weight, colour))[weight > 0.5].mean(0)
        wanted = to_lab(np.float32([[expected]]))[0, 0]
        assert np.hypot(*(made - wanted)[1:]) < 25 and np.hypot(*wanted[1:]) > 25


@pytest.mark.parametrize("name", [*OF_THE_EDIT, *OF_THE_IMAGE])
def test_a_flaw_shows_the_more_the_lower_the_grade(painter, name):
    thing, other = list(painter.assets.cutouts)[:2]
    photograph = next(iter(painter.assets.photographs))
    source = Scene(photograph, 0.5, 4 / 3, (Placed(other, 0.2, 0.3),))
    new = Placed(thing, 0.6, 0.6)
    under, image = painter.render(source), painter.render(source.with_(new))
    layer = painter.layer(new, source.size)
    edit = Edit(4, "as asked", "alpha matte", image, under, under, layer)
    whole = np.ones(image.shape[:2], dtype=bool)
    flaw = {**OF_THE_EDIT, **OF_THE_IMAGE}[name]
    made = [flaw(edit, grade, np.random.default_rng(1)) for grade in (3, 2, 1)]
    shown = [distance(one, image, whole) for one in made if one is not None]
    if name in ("inpainting", "cut out by GrabCut"):
        assert not shown, "nothing was taken away here"
    else:
        assert shown and shown == sorted(shown) and shown[0] > 0.05


def test_inpainting_is_graded_by_what_is_behind_the_hole(painter):
    thing = next(iter(painter.assets.cutouts))
    plain = Photograph("plain", None, None)
    sky = np.repeat(np.linspace(90, 200, 240, dtype=np.uint8)[:, None, None], 320, axis=1).repeat(3, axis=2)
    painter = Painter(Assets(painter.assets.cutouts, {plain: Image.fromarray(sky)}))
    bare = Scene(plain, 0.5, 4 / 3)
    behind, source = painter.render(bare), painter.render(bare.with_(Placed(thing, 0.5, 0.5)))
    hole = (np.abs(np.int16(behind) - source) > 6).any(-1)
    edit = Edit(4, "as asked", "layers", behind, source, hole=hole)
    noisy = np.random.default_rng(0).integers(0, 255, behind.shape, dtype=np.uint8)
    rough = Edit(4, "as asked", "layers", noisy, np.where(hole[..., None], source, noisy), hole=hole)
    worth = [
        [grade for grade in (4, 3, 2, 1) if inpainted(one, grade, np.random.default_rng(1)) is not None]
        for one in (edit, rough)
    ]
    assert len(worth[0]) == 1 and worth[0][0] >= 3 and worth[1] == [1]


def test_the_first_groups_have_all_categories_in_their_shares():
    turns = categories()
    first = [next(turns) for _ in range(300)]
    assert {name: first.count(name) for name in CATEGORIES} == {name: count for name, (_, count) in CATEGORIES.items()}
    assert all(abs(first[:100].count(name) - count / 3) <= 1 for name, (_, count) in CATEGORIES.items())


# Grading by eye


def test_grades_by_eye_return_to_the_edits_that_were_shown(tmp_path, painter):
    rows = [make_group(painter, number, "remove", seed=2).row for number in range(2)]
    for row in rows:
        for candidate in row["candidates"]:
            candidate["annotations"] = []
    for again in (False, True):
        lines = []
        for number, row in enumerate(rows):
            shown = [row["candidates"][at]["scores"] for at in by_eye.order(number, len(row["candidates"]), again)]
            lines.append(f"{number} " + " ".join(f"{one[FOLLOWING]}{one[QUALITY]}" for one in shown))
        (tmp_path / "grades.txt").write_text("\n".join(lines) + "\n")
        found = by_eye.read_grades(tmp_path / "grades.txt", rows, again)
        assert found == {
            row["group_id"]: [[one["scores"][FOLLOWING], one["scores"][QUALITY]] for one in row["candidates"]]
            for row in rows
        }
    (tmp_path / "grades.txt").write_text("0 44 51\n")
    with pytest.raises(ValueError, match="group 0 has"):
        by_eye.read_grades(tmp_path / "grades.txt", rows, False)


def test_rounds_by_eye_grow_and_keep_the_hash_of_what_was_seen(tmp_path, painter):
    rows = [make_group(painter, number, "remove", seed=2).row for number in range(2)]
    file, grades = tmp_path / "by_eye.json", tmp_path / "grades.txt"
    empty = {"labels_sha256": "l", "pixels_sha256": {"grades": {}, "again": {}}, "grades": {}, "again": {}}
    file.write_text(json.dumps(empty))
    for number, pixels in ((0, "p"), (1, "q")):
        grades.write_text(f"{number} " + " ".join(["43"] * len(rows[number]["candidates"])))
        by_eye.record(rows, grades, {"labels_sha256": "l", "pixels_sha256": pixels}, file, False)
    saved = json.loads(file.read_text())
    first, second = (row["group_id"] for row in rows)
    assert saved["pixels_sha256"]["grades"] == {first: "p", second: "q"} and saved["again"] == {}
    assert saved["grades"][first] == [[4, 3]] * len(rows[0]["candidates"])
    with pytest.raises(ValueError, match="has grades of other edits"):
        by_eye.record(rows, grades, {"labels_sha256": "m", "pixels_sha256": "p"}, file, False)


def test_agreement_counts_ties_by_eye_as_half():
    made = {"a": [[4, 4], [1, 4], [1, 1]], "b": [[2, 2], [2, 2]]}
    seen = {"a": [[4, 3], [1, 3], [2, 1]]}
    # In following the pairs (0, 1) and (0, 2) differ; in quality (0, 2) and (1, 2); in the sum all three.
    assert by_eye.agreement(seen, made) == [
        "| sum | 3 | 100.0 % | 0.0 % | 100.0 % |",
        "| instruction following | 2 | 100.0 % | 66.7 % | 100.0 % |",
        "| visual quality | 2 | 100.0 % | 33.3 % | 100.0 % |",
    ]
    tied = {"a": [[4, 3], [4, 3], [2, 1]]}
    assert by_eye.agreement(tied, made)[1].startswith("| instruction following | 2 | 75.0 %")


def test_sheets_show_every_edit_and_no_grade(tmp_path, painter):
    row = make_group(painter, 1, "add", seed=3).row
    write_groups([row], tmp_path / "groups")
    by_eye.sheets([row], tmp_path / "sheets", again=False)
    (sheet,) = (tmp_path / "sheets").glob("*.png")
    lines = -(-(1 + len(row["candidates"])) // by_eye.COLUMNS)
    assert Image.open(sheet).size == (by_eye.COLUMNS * by_eye.CELL[0], lines * by_eye.CELL[1] + 14)
    assert (tmp_path / "sheets" / "tasks.txt").read_text() == f"0 ({len(row['candidates'])}): {row['instruction']}\n"
    assert png(np.zeros((2, 2, 3), np.uint8)).startswith(b"\x89PNG")
