"""The collage world: what it holds out, whether its labels are right, and what its groups promise."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from editreward import simulation
from editreward.data.sources import SimulatedGroups, load_groups, simulated_world
from editreward.simulation import (
    WORLDS,
    SimulatedCandidate,
    SimulatedGroup,
    describe_scene,
    render_scene,
    simulate_contrast,
    simulate_group,
    simulate_groups,
    simulate_near_miss,
)
from editreward.simulation.collage import assets
from editreward.simulation.collage.assets import HELD_OUT_STYLE, STYLES, labels, names, photographs
from editreward.simulation.collage.drawing import near_colours
from editreward.simulation.collage.effects import apply_effect, weak_effects
from editreward.simulation.collage.rendering import VARIANTS
from editreward.simulation.edits import realise, sample_task
from editreward.simulation.grounding import (
    group_asked,
    group_attributes,
    group_mismatches,
    request_values,
    vocabulary_of,
)
from editreward.simulation.groups import ENLARGED
from editreward.simulation.instructions import (
    COLLAGE_CATEGORIES,
    EFFECT_WORDINGS,
    JOINERS,
    LANGUAGES,
    MORE_EFFECT_WORDINGS,
    joined,
)
from editreward.simulation.near_misses import MISSED_IN
from editreward.simulation.rubric import exact_following
from editreward.simulation.world import COLOURS, EFFECT_CATEGORY, EFFECTS, OWN, SUBJECTS, Background, Scene

SMALL = 84
BY_PROCESSOR = set("sin cos tan sinh cosh tanh arcsin arccos arctan arctan2 hypot cbrt power float_power".split())
BY_PROCESSOR |= set("exp exp2 expm1 log log2 log10 log1p dot vdot inner matmul tensordot einsum linalg".split())


@pytest.fixture(scope="module")
def train() -> list[SimulatedGroup]:
    return list(simulate_groups(40, "train", candidates=4, size=SMALL, world="collage"))


@pytest.fixture(scope="module")
def testing() -> list[SimulatedGroup]:
    return list(simulate_groups(40, "test", candidates=4, size=SMALL, world="collage"))


def scenes(group: SimulatedGroup) -> list[Scene]:
    return [group.scene, group.requested, *(candidate.scene for candidate in group.candidates)]


def pairs(groups: list[SimulatedGroup]) -> list[tuple[SimulatedGroup, SimulatedCandidate]]:
    return [(group, candidate) for group in groups for candidate in group.candidates]


# The bundled file


def test_bundled_file_is_small_and_names_who_made_what() -> None:
    assert assets.ASSETS.stat().st_size <= 6_000_000
    with zipfile.ZipFile(assets.ASSETS) as archive:
        licences = archive.read("LICENCES.md").decode()
        files = archive.namelist()
    rows = [line.split(" | ") for line in licences.splitlines() if line.startswith("| `photographs/")]
    assert {row[0].strip("| `") for row in rows} == {file for file in files if file.startswith("photographs/")}
    assert all(row[3].lower().startswith(("public domain", "cc0")) and row[1] for row in rows)
    assert all(f"drawings/{style}.webp" in licences for style in STYLES)


def test_names_are_many_different_and_known_in_other_languages() -> None:
    known = names()
    assert len(known) >= 250
    assert len({name.chinese for name in known.values()}) == len(known)
    assert not {word for name in known for word in name.split()} & {*COLOURS, OWN}
    assert all("\u4e00" <= character <= "\u9fff" for name in known.values() for character in name.chinese[-1])
    languages = Counter(language for labelled in labels().values() for language in labelled)
    assert len(languages) >= 28 and min(languages.values()) > 0.95 * len(known)


def test_a_tenth_of_names_one_style_and_a_third_of_photographs_are_held_out() -> None:
    assert abs(sum(name.held_out for name in names().values()) / len(names()) - 0.1) < 0.01
    assert len(STYLES) >= 3 and HELD_OUT_STYLE in STYLES
    assert {photograph.subject for photograph in photographs()} == set(SUBJECTS)
    assert 0.28 < sum(photograph.held_out for photograph in photographs()) / len(photographs()) < 0.4
    for subject in SUBJECTS:
        assert {p.held_out for p in photographs() if p.subject == subject} == {True, False}


def test_colours_to_avoid_are_those_that_change_a_drawing_little() -> None:
    square = Image.new("RGBA", (96, 96), (216, 32, 38, 255))
    assert "red" in near_colours([square]) and "cyan" not in near_colours([square])
    assert set(names()["tomato"].avoid) >= {"red"} and "blue" not in names()["tomato"].avoid


def test_without_the_file_the_collage_world_says_so_and_the_other_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for cached in (names, photographs):
        cached.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(assets, "ASSETS", assets.ASSETS.with_name("gone.zip"))
        with pytest.raises(FileNotFoundError, match=r"gone\.zip.*research\.collage\.assets"):
            simulate_group(0, world="collage")
        assert simulate_group(0, candidates=1, size=SMALL).world == "shapes"


# Groups


def test_same_arguments_give_the_same_group_and_size_changes_pixels_only() -> None:
    first, second = (simulate_group(7, "test", 3, SMALL, world="collage") for _ in range(2))
    larger = simulate_group(7, "test", 3, 120, world="collage")
    for a, b, c in zip(first.candidates, second.candidates, larger.candidates, strict=True):
        assert a.image.tobytes() == b.image.tobytes() and replace(a, image=b.image) == b
        assert c.image.size == (120, 120) and replace(c, image=a.image) == a
    assert first.group_id == "simulated-collage-test-000007"
    assert first.to_row()["origin"] == "simulated:collage"


def test_unknown_world_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes, collage"):
        simulate_group(0, world="sounds")


def photographs_of(group: SimulatedGroup) -> set[bool]:
    backgrounds = {b for scene in scenes(group) for b in (scene.background, scene.remainder) if b}
    return {photographs()[background.variant // VARIANTS].held_out for background in backgrounds}


def test_what_is_held_out_occurs_only_where_flagged(
    train: list[SimulatedGroup], testing: list[SimulatedGroup]
) -> None:
    for group in train:
        assert not (group.unseen_wording or group.unseen_name or group.unseen_style or group.unseen_photograph)
    for group in [*train, *testing]:
        shown = {thing.shape for scene in scenes(group) for thing in scene.objects}
        assert any(names()[name].held_out for name in shown) == group.unseen_name
        assert {scene.style == HELD_OUT_STYLE for scene in scenes(group)} == {group.unseen_style}
        assert photographs_of(group) == {group.unseen_photograph}
    for flag in ("unseen_wording", "unseen_name", "unseen_style", "unseen_photograph"):
        assert 0.1 < np.mean([getattr(group, flag) for group in testing]) < 0.8


def test_no_name_in_a_source_could_mean_two_objects(train: list[SimulatedGroup]) -> None:
    for group in train:
        seen = [thing.combination for thing in group.scene.objects]
        assert len(set(seen)) == len(seen)
        for colour, name in seen:
            others = [other for other in seen if other[1] == name and other != (colour, name)]
            assert not others or (colour != OWN and all(other[0] != OWN for other in others))
        clusters = Counter(names()[name].cluster for name in {name for _, name in seen})
        assert max(clusters.values()) == 1


def test_english_and_chinese_instructions_name_what_is_asked(train: list[SimulatedGroup]) -> None:
    for group in train:
        tasks = group.task.parts or (group.task,)
        for task in tasks:
            if task.target:
                name = task.target.shape if group.language == "en" else names()[task.target.shape].chinese
                assert name.lower() in group.instruction.lower()
            if task.effect:
                index = LANGUAGES.index(group.language)
                assert EFFECTS[task.category][task.effect][index].lower() in group.instruction.lower()
        assert "own" not in group.instruction.split() and "{" not in group.instruction


def test_scenes_that_look_alike_get_the_same_score(train: list[SimulatedGroup], testing: list[SimulatedGroup]) -> None:
    for group in [*train, *testing]:
        by_look: dict[object, set[int]] = {group.scene.signature(): {1}, group.requested.signature(): {4}}
        for candidate in group.candidates:
            by_look.setdefault(candidate.scene.signature(), set()).add(candidate.scores["instruction_following"])
        assert all(len(scores) == 1 for scores in by_look.values()), group.group_id


@pytest.mark.parametrize("category", COLLAGE_CATEGORIES)
def test_scores_are_what_the_rule_counts_on_the_scenes(category: str) -> None:
    for seed in range(8):
        rng = Random(seed)
        task = sample_task(category, seed % 2 == 1, rng, WORLDS["collage"])
        for score in (1, 2, 3, 4):
            outcome = realise(task, score, rng)
            counted = exact_following(task, task.source, outcome.scene)
            assert abs(counted - score) < 0.5, (outcome.fault, counted)


def test_every_category_occurs_and_clean_perfect_edits_are_what_was_requested(train: list[SimulatedGroup]) -> None:
    assert {group.category for group in train} == set(COLLAGE_CATEGORIES)
    compared = 0
    for group, candidate in pairs(train):
        if candidate.scores == {"instruction_following": 4, "visual_quality": 4} and candidate.fault == "none":
            assert candidate.scene.signature() == group.requested.signature()
            if group.category not in ("add", "move", "several"):  # where exactly is the editor's choice
                assert candidate.image.tobytes() == group.requested_image.tobytes()
                compared += 1
    assert compared


def test_several_edits_score_by_how_many_were_done() -> None:
    for seed in range(40):
        group = simulate_group(seed, candidates=6, size=SMALL, world="collage")
        if group.category != "several":
            continue
        first, second = group.task.parts
        assert first.target and second.target and first.target.key != second.target.key
        assert first.category != second.category
        for candidate in group.candidates:
            if candidate.fault == "one part ignored":
                assert candidate.scores["instruction_following"] == 2
                left = {thing.key: thing for thing in candidate.scene.objects}
                source = {thing.key: thing for thing in group.scene.objects}
                keys = (first.target.key, second.target.key)
                assert sum(left.get(key) == source.get(key) for key in keys) == 1


def test_two_instructions_are_joined_as_one_sentence_or_two() -> None:
    joiner = JOINERS["en"].train[0]
    assert (
        joined("Remove the dog.", "Paint the T-shirt blue.", joiner) == "Remove the dog, and paint the T-shirt blue."
    )
    assert joined("Can you lose the dog?", "I want the cat red.", JOINERS["en"].train[3]) == (
        "Two changes: can you lose the dog, and I want the cat red."
    )
    assert joined("删除狗。", "把猫变成红色。", JOINERS["zh"].train[0]) == "删除狗,然后把猫变成红色。"


def test_effect_wordings_of_training_and_test_differ() -> None:
    for key, wordings in EFFECT_WORDINGS.items():
        assert len({*wordings.train, *wordings.held_out, *MORE_EFFECT_WORDINGS[key]}) == 5 + 2 + 6 + (key[1] == "en")
        assert all(f"{{{key[0]}}}" in wording for wording in (*wordings.train, *wordings.held_out))


@pytest.mark.parametrize("effect", EFFECT_CATEGORY)
def test_effects_change_the_picture_up_to_where_they_stop(effect: str) -> None:
    scene = Scene((), Background("dam", "", _first_photograph("dam") * VARIANTS), world="collage", style="noto")
    picture = np.asarray(render_scene(scene, 84), dtype=int)
    whole = np.asarray(apply_effect(Image.fromarray(picture.astype(np.uint8)), effect), dtype=int)
    part = np.asarray(render_scene(replace(scene, effect=effect, effect_stops=True), 84), dtype=int)
    assert (part[:, 56:] == picture[:, 56:]).all() and (part[:, :56] == whole[:, :56]).all()
    visible = effect not in photographs()[_first_photograph("dam")].weak
    assert (np.abs(whole - picture).mean() > 9) >= visible
    described = describe_scene(replace(scene, effect=effect, effect_stops=True))
    assert described.endswith(f"{EFFECTS[EFFECT_CATEGORY[effect]][effect][0]} in the left part")


def test_effects_that_would_not_be_seen_are_known() -> None:
    grey = Image.linear_gradient("L").convert("RGB").rotate(90)
    assert "black and white" in weak_effects(grey) and "fog" not in weak_effects(grey)
    assert all(len(EFFECTS["tone"]) - len({*EFFECTS["tone"]} & {*p.weak}) >= 2 for p in photographs())


def _first_photograph(subject: str) -> int:
    return next(photograph.index for photograph in photographs() if photograph.subject == subject)


# Near misses, contrast, enlarged candidates


@pytest.mark.parametrize("number", range(len(MISSED_IN["collage"])))
def test_near_misses_miss_their_attribute_alone(number: int) -> None:
    group = simulate_near_miss(number, "test", SMALL, "collage")
    missed = MISSED_IN["collage"][number]
    near = next(candidate for candidate in group.candidates if candidate.missed)
    perfect = next(candidate for candidate in group.candidates if not candidate.missed)
    assert (
        near.missed == missed and perfect.scores["instruction_following"] == 4 > near.scores["instruction_following"]
    )
    if missed in ("colour", "shape"):
        asked = {thing.key: thing for thing in group.requested.objects}
        wrong = [thing for thing in near.scene.objects if thing.combination != asked[thing.key].combination]
        (thing,) = wrong
        assert getattr(thing, missed) != getattr(asked[thing.key], missed)
        assert (
            replace(thing, **{missed: getattr(asked[thing.key], missed)}).combination == asked[thing.key].combination
        )
    if missed == "effect":
        assert near.scene.effect != group.task.effect and EFFECT_CATEGORY[near.scene.effect] == group.category
    if missed == "pattern":
        assert near.scene.background.look not in (group.scene.background.look, group.requested.background.look)


def test_contrasting_groups_share_their_images() -> None:
    for seed in (0, 2):
        first, second = (simulate_contrast(seed + i, "train", 4, SMALL, world="collage") for i in (0, 1))
        assert [c.image.tobytes() for c in first.candidates] == [c.image.tobytes() for c in second.candidates]
        assert first.instruction != second.instruction
        assert all(
            {a.scores["instruction_following"], b.scores["instruction_following"]} == {2, 4}
            for a, b in zip(first.candidates, second.candidates, strict=True)
        )


@pytest.mark.parametrize("world", WORLDS)
def test_artefacts_are_drawn_from_what_is_named(world: str) -> None:
    usual = simulate_group(5, candidates=6, size=SMALL, world=world)
    seams = simulate_group(5, candidates=6, size=SMALL, world=world, artefacts=["seams", "seams", "seams"])
    assert {one.artefact for one in seams.candidates} == {None, "seams"}
    assert [one.scores for one in seams.candidates] == [one.scores for one in usual.candidates]
    for wrong in ((), ["seams", "rust"]):
        with pytest.raises(ValueError, match="need artefacts of blur, noise"):
            simulate_group(5, world=world, artefacts=wrong)


@pytest.mark.parametrize("world", ["shapes", "collage"])
def test_enlarged_candidates_differ_in_pixels_and_quality_only(world: str) -> None:
    usual = simulate_group(5, candidates=6, size=SMALL, world=world)
    enlarged = simulate_group(5, candidates=6, size=SMALL, world=world, enlarged=1.0)
    assert enlarged.source.tobytes() == usual.source.tobytes()
    for before, after in zip(usual.candidates, enlarged.candidates, strict=True):
        assert after.scene == before.scene and after.image.size == before.image.size
        assert after.scores["instruction_following"] == before.scores["instruction_following"]
        assert after.scores["visual_quality"] == min(3, before.scores["visual_quality"])
        assert (after.artefact == ENLARGED) == (before.scores["visual_quality"] >= 3)
        if after.artefact == ENLARGED:
            choices = [
                render_scene(before.scene, side).resize((SMALL, SMALL), Image.Resampling.BICUBIC).tobytes()
                for side in (56, 64)
            ]
            assert after.image.tobytes() in choices


# As data


def test_the_dataset_of_a_name_is_that_of_its_world() -> None:
    assert [simulated_world(name) for name in ("simulated", "simulated:collage", "org/data")] == [
        "shapes",
        "collage",
        None,
    ]
    with pytest.raises(ValueError, match="shapes, collage"):
        simulated_world("simulated:sounds")
    dataset = load_groups("simulated:collage", simulated=SimulatedGroups(3, size=SMALL, truth=True))
    row = dataset[2]
    assert row["group_id"] == "simulated-collage-train-000002" and row["simulation"].world == "collage"


def test_one_vocabulary_serves_both_worlds() -> None:
    vocabulary = vocabulary_of(("shapes", "collage"))
    assert len(set(vocabulary.attributes)) == len(vocabulary.attributes)
    assert vocabulary.attributes[: len(vocabulary.asked)] == vocabulary.asked
    for world in ("shapes", "collage"):
        for seed in range(6):
            group = simulate_group(seed, candidates=3, size=SMALL, world=world, enlarged=0.5)
            shown = group_attributes(group, 4, vocabulary)
            told = [vocabulary.attributes[index] for index in np.flatnonzero(shown[0].any(0))]
            assert {f"shape {thing.shape}" for thing in group.scene.objects} <= set(told)
            values = request_values(group.task, vocabulary)
            (category, *_), parts = values, list(vocabulary.request)
            assert vocabulary.request["category"][category] == group.category
            if group.task.effect:
                effect = vocabulary.request["effect"][values[parts.index("effect")]]
                assert effect == group.task.effect
            asked, amiss = group_asked(group, 4, vocabulary), group_mismatches(group, 4, vocabulary)
            for index, candidate in enumerate(group.candidates, start=1):
                if candidate.fault == "none":
                    assert (asked[index] == shown[index, :, : len(vocabulary.asked)]).all()
                    assert not np.nan_to_num(amiss[index]).any()


PIXELS = """
import hashlib
from editreward.simulation import groups_hash, simulate_groups
from editreward.simulation.collage.effects import apply_effect
from editreward.simulation.world import EFFECT_CATEGORY
groups = [*simulate_groups(12, "test", candidates=4, size=84, world="collage"), *simulate_groups(4, "test", size=84)]
effects = [apply_effect(groups[0].source, effect).tobytes() for effect in EFFECT_CATEGORY]
print(groups_hash(groups), hashlib.sha256(b"".join(effects)).hexdigest())
"""


def test_pixels_do_not_depend_on_the_instructions_that_a_processor_has():
    wider = "X86_V3 X86_V4 AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_ICL AVX512_SPR"
    fewer = {"NPY_DISABLE_CPU_FEATURES": wider, "OPENBLAS_CORETYPE": "Nehalem"}
    command = [sys.executable, "-W", "ignore", "-c", PIXELS]
    found = {
        subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=True).stdout
        for more in ({}, fewer)
    }
    assert len(found) == 1


def test_no_pixel_comes_of_functions_that_numpy_rounds_by_processor():
    """Their last bit differs between AVX2 and AVX-512, and so did pixels of the collage; that of `math` does not."""
    for path in sorted(Path(simulation.__file__).parent.rglob("*.py")):
        if path.parent.name == "inspectors":  # they draw nothing
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not any(isinstance(node, ast.MatMult) for node in ast.walk(tree)), path
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert "dot" not in names, path
        in_numpy = {name for name in names if re.search(rf"\bnp\.{name}\b", ast.unparse(tree))}
        assert not in_numpy & BY_PROCESSOR, path
