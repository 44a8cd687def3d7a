"""Properties of the simulated edit groups, checked against the scenes as data and against plain statistics."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from editreward.simulation import (
    ARTEFACTS,
    CATEGORIES,
    EDITORS,
    HELD_OUT_COMBINATIONS,
    LANGUAGES,
    WORDINGS,
    Scene,
    SceneObject,
    SimulatedCandidate,
    SimulatedGroup,
    apply_artefact,
    describe_change,
    describe_scene,
    groups_hash,
    render_scene,
    simulate_contrast,
    simulate_group,
    simulate_groups,
)
from editreward.simulation.edits import ANY_FLAW, FAILURES, OWN_FLAWS
from editreward.simulation.instructions import FILLERS, MORE_WORDINGS, SYLLABLES, varied_wording
from editreward.simulation.rubric import asked_of, exact_following, shortfalls, side_effects
from editreward.simulation.world import PLACE_NAMES, SHAPES

ROOT = Path(__file__).parents[2]
SMALL = 84  # scenes and scores do not depend on the side


@pytest.fixture(scope="module")
def train() -> list[SimulatedGroup]:
    return list(simulate_groups(600, "train", size=SMALL))


@pytest.fixture(scope="module")
def validation() -> list[SimulatedGroup]:
    return list(simulate_groups(400, "validation", size=SMALL))


@pytest.fixture(scope="module")
def testing() -> list[SimulatedGroup]:
    return list(simulate_groups(500, "test", size=SMALL))


def all_candidates(groups: list[SimulatedGroup]) -> list[tuple[SimulatedGroup, SimulatedCandidate]]:
    return [(group, candidate) for group in groups for candidate in group.candidates]


def following(candidate: SimulatedCandidate) -> int:
    return candidate.scores["instruction_following"]


# Determinism and splits


def test_same_arguments_give_same_pixels_and_data() -> None:
    first, second = simulate_group(5, "test"), simulate_group(5, "test")
    assert first.source.tobytes() == second.source.tobytes()
    for a, b in zip(first.candidates, second.candidates, strict=True):
        assert a.image.tobytes() == b.image.tobytes()
        assert replace(a, image=b.image) == b


def test_fresh_process_with_other_string_hashing_gives_same_hash() -> None:
    code = "from editreward.simulation import *; print(hash('a'), groups_hash(simulate_groups(10, 'test')))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    hash_of_a, hash_of_groups = run.stdout.split()
    assert hash_of_a != str(hash("a"))
    assert hash_of_groups == groups_hash(simulate_groups(10, "test"))


def test_groups_hash_depends_on_every_argument() -> None:
    hashes = {
        groups_hash(simulate_groups(3, "test")),
        groups_hash(simulate_groups(3, "train")),
        groups_hash(simulate_groups(4, "test")),
        groups_hash(simulate_groups(3, "test", seed=1)),
        groups_hash(simulate_groups(3, "test", candidates=2)),
        groups_hash(simulate_groups(3, "test", size=SMALL)),
    }
    assert len(hashes) == 6


def test_splits_share_no_group(
    train: list[SimulatedGroup], validation: list[SimulatedGroup], testing: list[SimulatedGroup]
) -> None:
    groups = [*train, *validation, *testing]
    assert len({(group.scene, group.instruction) for group in groups}) == len(groups)
    assert len({group.group_id for group in groups}) == len(groups)


def test_more_candidates_keep_the_first_ones() -> None:
    few, many = simulate_group(3, candidates=2), simulate_group(3, candidates=9)
    assert [c.image.tobytes() for c in few.candidates] == [c.image.tobytes() for c in many.candidates[:2]]
    assert len(many.candidates) == 9


def test_iterator_gives_consecutive_seeds() -> None:
    ids = [group.group_id for group in simulate_groups(3, "validation", seed=7, size=SMALL)]
    assert ids == ["simulated-validation-000007", "simulated-validation-000008", "simulated-validation-000009"]


@pytest.mark.parametrize("wrong", [{"split": "dev"}, {"candidates": 0}, {"size": 20}, {"seed": -1}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        simulate_group(**({"seed": 0} | wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [84, 100, 224])
def test_size_changes_pixels_only(size: int) -> None:
    reference = simulate_group(11, "test", size=112)
    group = simulate_group(11, "test", size=size)
    assert group.source.size == (size, size) and group.source.mode == "RGB"
    assert (group.instruction, group.scene) == (reference.instruction, reference.scene)
    for ours, theirs in zip(group.candidates, reference.candidates, strict=True):
        assert ours.image.size == (size, size) and ours.image.mode == "RGB"
        assert replace(ours, image=theirs.image) == theirs


@pytest.mark.parametrize("kind", ARTEFACTS)
@pytest.mark.parametrize("visual_quality", [1, 2, 3])
def test_damage_is_about_as_strong_at_twice_the_size(kind: str, visual_quality: int) -> None:
    damage = []
    for size in (112, 224):
        total = 0.0
        for seed in range(12):
            clean = simulate_group(seed, candidates=1, size=size).source
            total += mean_difference(clean, apply_artefact(clean, kind, visual_quality, Random(seed)))
        damage.append(total / 12)
    assert 0.6 < damage[1] / damage[0] < 1.67


# Distributions


def test_scores_are_uniform_and_independent(train: list[SimulatedGroup]) -> None:
    candidates = [c for _, c in all_candidates(train)]
    table = np.zeros((4, 4))
    for candidate in candidates:
        table[following(candidate) - 1, candidate.scores["visual_quality"] - 1] += 1
    total = len(candidates)
    assert total >= 3000
    # Chi-square quantiles at 0.999 for 15, 3 and 9 degrees of freedom.
    assert ((table - total / 16) ** 2 / (total / 16)).sum() < 37.7
    for axis in (0, 1):
        assert ((table.sum(axis) - total / 4) ** 2 / (total / 4)).sum() < 16.27
    expected = np.outer(table.sum(1), table.sum(0)) / total
    assert ((table - expected) ** 2 / expected).sum() < 27.88


def test_artefact_kind_is_independent_of_instruction_following(train: list[SimulatedGroup]) -> None:
    kinds = list(ARTEFACTS)
    table = np.zeros((4, len(kinds)))
    for _, candidate in all_candidates(train):
        if candidate.artefact:
            table[following(candidate) - 1, kinds.index(candidate.artefact)] += 1
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 42.3  # 18 degrees of freedom, 0.999


def test_a_third_of_differing_pairs_is_one_point_apart(train: list[SimulatedGroup]) -> None:
    gaps: Counter[int] = Counter()
    for group in train:
        totals = [sum(candidate.scores.values()) for candidate in group.candidates]
        gaps.update(abs(a - b) for i, a in enumerate(totals) for b in totals[:i] if a != b)
    assert gaps[1] >= gaps.total() / 3


def test_categories_languages_and_editors_occur_as_stated(train: list[SimulatedGroup]) -> None:
    categories = Counter(group.category for group in train)
    assert set(categories) == set(CATEGORIES)
    assert min(categories.values()) > len(train) / 7 * 0.6
    english = sum(group.language == "en" for group in train) / len(train)
    assert 0.63 < english < 0.77
    for group in train:
        assert any("\u4e00" <= character <= "\u9fff" for character in group.instruction) == (group.language == "zh")
        assert "{" not in group.instruction
    assert {candidate.editor for _, candidate in all_candidates(train)} == set(EDITORS)


def test_better_editors_score_higher(train: list[SimulatedGroup]) -> None:
    totals: dict[str, list[int]] = {name: [] for name in EDITORS}
    for _, candidate in all_candidates(train):
        totals[candidate.editor].append(sum(candidate.scores.values()))
    means = {name: np.mean(values) for name, values in totals.items()}
    assert means["sim-expert"] > means["sim-average"] > means["sim-novice"]


# What only the test split shows


def test_enough_wordings_and_no_wording_in_both_sets() -> None:
    assert set(WORDINGS) == {(category, language) for category in CATEGORIES for language in LANGUAGES}
    for wordings in WORDINGS.values():
        assert len(set(wordings.train)) >= 5 and len(set(wordings.held_out)) >= 2
        assert not set(wordings.train) & set(wordings.held_out)


@pytest.mark.parametrize(("category", "language"), sorted(WORDINGS))
def test_training_wordings_are_many_and_none_is_held_out(category: str, language: str) -> None:
    own, more = WORDINGS[category, language], MORE_WORDINGS[category, language]
    assert len(set(more)) == len(more) >= 6
    assert not set(more) & {*own.train, *own.held_out}
    # Each says all that its category needs: for "resize" how large in one of several ways.
    for wording in more:
        named = re.findall(r"{(\w+)}", wording)
        if category == "resize":
            assert "target" in named and set(named) & {"size", "comparative", "verb", "factor"}
        else:
            assert sorted(named) == sorted(re.findall(r"{(\w+)}", own.train[0]))


@pytest.mark.parametrize(("category", "language"), sorted(WORDINGS))
def test_varied_wordings_keep_what_is_asked(category: str, language: str) -> None:
    known = {*WORDINGS[category, language].train, *MORE_WORDINGS[category, language]}
    drawn = [varied_wording(category, language, Random(seed)) for seed in range(300)]
    placeholders = {tuple(sorted(re.findall(r"{\w+}", wording))) for wording in known}
    assert {tuple(sorted(re.findall(r"{\w+}", wording))) for wording in drawn} <= placeholders
    plain = [wording for wording in drawn if wording in known]
    assert 0.2 < len(plain) / len(drawn) < 0.5  # the others have a phrase, made-up words, or no sentence
    assert len(set(plain)) > len(known) * 0.9


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_named_tells_categories_apart_where_wordings_do_not(language: str) -> None:
    # Otherwise a training wording with made-up words could ask for two things.
    named: dict[tuple[str, ...], str] = {}
    for category in CATEGORIES:
        for seed in range(300):
            names = tuple(sorted(re.findall(r"{(\w+)}", varied_wording(category, language, Random(seed)))))
            assert named.setdefault(names, category) == category


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_that_say_nothing_teach_no_word_of_a_held_out_wording(language: str) -> None:
    def words(texts: Iterable[str]) -> set[str]:
        return set(re.findall(r"[a-z']+|[\u4e00-\u9fff]", re.sub(r"{\w+}", " ", " ".join(texts)).lower()))

    train, held_out = set(), set()
    for key in product(CATEGORIES, [language]):
        train |= words((*WORDINGS[key].train, *MORE_WORDINGS[key]))
        held_out |= words(WORDINGS[key].held_out)
    assert not (held_out - train) & {*FILLERS[language], *SYLLABLES[language]}


def fits_wording(instruction: str, wording: str) -> bool:
    """Whether the fixed parts of a wording occur in the instruction one after another, from its start to its end."""
    parts = "".join("\0" if part.startswith("{") else part for part in split_wording(wording)).lower().split("\0")
    text = instruction.lower()
    if not text.startswith(parts[0]) or not text.endswith(parts[-1]):
        return False
    position = 0
    for part in parts:
        position = text.find(part, position)
        if position < 0:
            return False
        position += len(part)
    return True


def split_wording(wording: str) -> list[str]:
    return wording.replace("{", "\1{").replace("}", "}\1").split("\1")


def test_held_out_wordings_occur_only_where_flagged(
    train: list[SimulatedGroup], validation: list[SimulatedGroup], testing: list[SimulatedGroup]
) -> None:
    assert not any(group.unseen_wording for group in [*train, *validation])
    for group in [*train, *validation, *testing]:
        held_out = WORDINGS[group.category, group.language].held_out
        assert any(fits_wording(group.instruction, wording) for wording in held_out) == group.unseen_wording
    assert 0.4 < np.mean([group.unseen_wording for group in testing]) < 0.6


def shown_combinations(group: SimulatedGroup) -> set[tuple[str, str]]:
    scenes = [group.scene, *(candidate.scene for candidate in group.candidates)]
    shown = {thing.combination for scene in scenes for thing in scene.objects}
    shown |= {(o.second_colour, o.shape) for scene in scenes for o in scene.objects if o.second_colour}
    return shown | {thing.combination for thing in (group.task.target, group.task.result) if thing}


def test_held_out_combinations_occur_only_where_flagged(
    train: list[SimulatedGroup], validation: list[SimulatedGroup], testing: list[SimulatedGroup]
) -> None:
    assert len(HELD_OUT_COMBINATIONS) == 12
    for group in [*train, *validation]:
        assert not group.unseen_combination
        assert not shown_combinations(group) & HELD_OUT_COMBINATIONS
    for group in testing:
        if not group.unseen_combination:
            assert not shown_combinations(group) & HELD_OUT_COMBINATIONS
        elif group.category == "background":
            assert {thing.combination for thing in group.scene.objects} & HELD_OUT_COMBINATIONS
        else:
            concerned = {thing.combination for thing in (group.task.target, group.task.result) if thing}
            assert concerned & HELD_OUT_COMBINATIONS
    assert 0.4 < np.mean([group.unseen_combination for group in testing]) < 0.6


def test_held_out_combinations_never_in_train_over_many_seeds() -> None:
    for split in ("train", "validation"):
        for seed in range(10_000, 10_400):
            group = simulate_group(seed, split, size=SMALL)
            assert not shown_combinations(group) & HELD_OUT_COMBINATIONS
            if group.language == "en":
                words = group.instruction.lower().strip(".").split()
                named = {pair for pair in zip(words, words[1:], strict=False) if pair[1] in SHAPES}
                assert not named & HELD_OUT_COMBINATIONS


# Scenes and sentences


def test_source_scenes_are_unambiguous(train: list[SimulatedGroup], testing: list[SimulatedGroup]) -> None:
    shared = 0
    for group in [*train, *testing]:
        objects = group.scene.objects
        assert 2 <= len(objects) <= 5
        assert len({thing.combination for thing in objects}) == len(objects)
        assert len({thing.place for thing in objects}) == len(objects)
        target = group.task.target
        others = [thing for thing in objects if target and thing.key != target.key]
        shared += any(o.shape == target.shape or o.colour == target.colour for o in others if target)
    assert shared > 0.5 * (len(train) + len(testing))


def test_every_scene_shows_an_object_on_which_artefacts_can_be_seen(train: list[SimulatedGroup]) -> None:
    for _, candidate in all_candidates(train):
        assert any(not thing.remnant for thing in candidate.scene.objects)


def test_english_instructions_name_what_the_task_says(train: list[SimulatedGroup]) -> None:
    for group in train:
        if group.language != "en":
            continue
        text, task = group.instruction.lower(), group.task
        if task.target and group.category != "add":
            assert f"the {task.target.colour} {task.target.shape}" in text
        if task.result and group.category in ("add", "replace"):
            assert f"{task.result.colour} {task.result.shape}" in text
        if task.result and group.category in ("add", "move"):
            assert PLACE_NAMES[task.result.place] in text
        if task.result and group.category == "recolour":
            assert task.result.colour in text
        if task.background:
            assert task.background.tone in text


def test_change_says_nothing_exactly_where_scene_is_the_source(train: list[SimulatedGroup]) -> None:
    for group, candidate in all_candidates(train):
        assert (candidate.change == "nothing changed") == (candidate.scene == group.scene)
        assert (candidate.change == "nothing changed") == (candidate.fault == "ignored")


def test_scenes_that_look_alike_have_the_same_score(
    train: list[SimulatedGroup], testing: list[SimulatedGroup]
) -> None:
    for group in [*train, *testing]:
        scores: dict[tuple[object, ...], int] = {}
        sentences: dict[str, int] = {}
        for candidate in group.candidates:
            assert scores.setdefault(candidate.scene.signature(), following(candidate)) == following(candidate)
            assert sentences.setdefault(candidate.change, following(candidate)) == following(candidate)


def test_pixels_equal_the_source_exactly_where_the_scene_does(train: list[SimulatedGroup]) -> None:
    for group in train[:80]:
        for candidate in group.candidates:
            same = render_scene(candidate.scene, 112).tobytes() == render_scene(group.scene, 112).tobytes()
            assert same == (candidate.scene == group.scene)


def test_clean_candidates_are_the_rendered_scene(train: list[SimulatedGroup]) -> None:
    for _, candidate in all_candidates(train[:100]):
        clean = candidate.image.tobytes() == render_scene(candidate.scene, SMALL).tobytes()
        assert clean == (candidate.scores["visual_quality"] == 4) == (candidate.artefact is None)


def test_descriptions_of_a_known_scene() -> None:
    group = simulate_group(0)
    background = group.scene.background
    circle = SceneObject(0, "red", "circle", "large", 1 / 6, 1 / 6)
    star = SceneObject(1, "blue", "star", "small", 1 / 2, 1 / 2)
    scene = Scene((circle, star), background)
    assert describe_scene(scene).startswith(
        "a large red circle at the top left, a small blue star at the centre; back"
    )
    edited = Scene((replace(circle, colour="orange"), replace(star, x=0.5 + 0.15)), background)
    assert describe_change(scene, edited) == (
        "the red circle became orange; the blue star moved to between the centre and the middle right"
    )
    assert describe_change(scene, Scene((star,), background)) == "the red circle disappeared"
    assert describe_change(Scene((star,), background), scene) == "a large red circle appeared at the top left"


# Instruction following: the scenes must deserve their scores


def test_scores_follow_from_the_scenes(train: list[SimulatedGroup], testing: list[SimulatedGroup]) -> None:
    for group, candidate in all_candidates([*train, *testing]):
        side, short = side_effects(group.task, candidate.scene), shortfalls(group.task, candidate.scene)
        where = f"{group.group_id} {group.instruction!r}: {candidate.fault}, {candidate.change}"
        if following(candidate) == 4:
            assert (side, short) == (0, 0), where
        elif following(candidate) == 3:
            assert short is not None and side + short == 1, where
        elif following(candidate) == 2:
            assert candidate.scene != group.scene, where
            assert short is None or side >= 2, where
        else:
            assert candidate.scene == group.scene or (short is None and side == 1), where


def test_the_rule_gives_every_edit_its_score_up_to_side_effects(train: list[SimulatedGroup]) -> None:
    for group, candidate in all_candidates(train):
        exact = exact_following(group.task, group.scene, candidate.scene)
        assert 0 <= following(candidate) - exact < 0.5, f"{group.group_id}: {candidate.fault}, {candidate.change}"


def test_an_instruction_about_the_same_scene_asks_the_same_of_it(train: list[SimulatedGroup]) -> None:
    for group in train:
        assert asked_of(group.task, group.scene) == group.task


def test_an_instruction_that_does_not_fit_a_scene_is_followed_by_nothing(train: list[SimulatedGroup]) -> None:
    found = 0
    for group, other in zip(train, train[1:], strict=False):
        if asked_of(other.task, group.scene) is None:
            found += 1
            scores = [exact_following(None, group.scene, edit.scene) for edit in group.candidates]
            assert max(scores) <= 2
            assert all(s == 1 for s, e in zip(scores, group.candidates, strict=True) if e.scene == group.scene)
    assert found


def test_perfect_recolour_changes_the_targets_colour_only(train: list[SimulatedGroup]) -> None:
    seen = 0
    for group, candidate in all_candidates(train):
        if group.category == "recolour" and following(candidate) == 4:
            assert candidate.scene.background == group.scene.background
            pairs = list(zip(group.scene.objects, candidate.scene.objects, strict=True))
            changed = [(before, after) for before, after in pairs if before != after]
            assert len(changed) == 1
            before, after = changed[0]
            assert before == group.task.target and replace(after, colour=before.colour) == before
            seen += 1
    assert seen > 50


def test_perfect_move_reaches_the_place(train: list[SimulatedGroup]) -> None:
    for group, candidate in all_candidates(train):
        if group.category == "move" and following(candidate) == 4:
            assert group.task.target and group.task.result
            after = next(o for o in candidate.scene.objects if o.key == group.task.target.key)
            assert after.place == group.task.result.place != group.task.target.place
            assert replace(after, x=group.task.target.x, y=group.task.target.y) == group.task.target


def test_unrelated_edits_are_single_edits_of_another_kind(train: list[SimulatedGroup]) -> None:
    signs = {
        "recolour": ("object", " became "),
        "add": ("any", " appeared "),
        "remove": ("any", " disappeared"),
        "replace": ("object", " became "),
        "move": ("any", " moved "),
        "resize": ("any", " from "),
        "background": ("any", "the background"),
    }
    for group, candidate in all_candidates(train):
        if candidate.fault == "unrelated":
            assert ";" not in candidate.change
            subject, sign = signs[group.category]
            if subject == "any" or not candidate.change.startswith("the background"):
                assert sign not in candidate.change


def test_every_fault_occurs(
    train: list[SimulatedGroup], validation: list[SimulatedGroup], testing: list[SimulatedGroup]
) -> None:
    groups = [*train, *validation, *testing]
    seen = {(group.category, following(c), c.fault) for group, c in all_candidates(groups)}
    for category in CATEGORIES:
        flaws = {name for name, _ in (*OWN_FLAWS[category], *ANY_FLAW)}
        failures = {name for name, _ in FAILURES[category]}
        assert {fault for c, score, fault in seen if (c, score) == (category, 4)} == {"none"}
        assert {fault for c, score, fault in seen if (c, score) == (category, 3)} == flaws
        assert {fault for c, score, fault in seen if (c, score) == (category, 2)} == failures
        assert {fault for c, score, fault in seen if (c, score) == (category, 1)} == {"ignored", "unrelated"}
        assert len(flaws) >= 3 and len(failures) >= 3


def test_faults_are_visible(train: list[SimulatedGroup]) -> None:
    """Scenes of different scores differ clearly in at least about 20 pixels at 112."""
    for group in train[:150]:
        pictures = [(following(c), np.asarray(render_scene(c.scene, 112), dtype=int)) for c in group.candidates]
        for i, (score, picture) in enumerate(pictures):
            for other_score, other in pictures[:i]:
                if score != other_score:
                    assert (np.abs(picture - other).max(axis=-1) > 18).sum() >= 20


# Visual quality


def mean_difference(first: Image.Image, second: Image.Image) -> float:
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).mean())


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_damage_rises_with_severity(kind: str) -> None:
    damage = np.zeros((30, 3))
    for seed in range(30):
        clean = simulate_group(seed, candidates=1).source
        for column, visual_quality in enumerate((3, 2, 1)):
            damage[seed, column] = mean_difference(clean, apply_artefact(clean, kind, visual_quality, Random(seed)))
    assert (damage > 0).all()
    # Pixelation that happens to fit a background's period can do less harm than a finer one: rare, and no other kind.
    assert (np.diff(damage, axis=1) > 0).mean() >= (0.95 if kind == "blocks" else 1.0)
    slight, visible, severe = damage.mean(0)
    assert visible > 1.35 * slight and severe > 1.35 * visible


# Rows


def test_rows_follow_the_schema() -> None:
    group = simulate_group(4, "validation", candidates=3)
    row = group.to_row()
    assert set(row) == {
        "group_id", "origin", "category", "instruction", "language", "source_images", "candidates", "preferences",
    }  # fmt: skip
    assert row["group_id"] == "simulated-validation-000004" and row["origin"] == "simulated"
    assert row["source_images"] == [group.source] and row["preferences"] == []
    for cell, candidate in zip(row["candidates"], group.candidates, strict=True):
        assert set(cell) == {"image", "editor", "seed", "scores", "annotations", "rationale"}
        assert cell["image"] is candidate.image and cell["scores"] == candidate.scores
        assert all(isinstance(score, float) for score in cell["scores"].values())
        assert isinstance(cell["seed"], int) and cell["annotations"] == [] and cell["rationale"] is None


@pytest.fixture(scope="module")
def contrasts() -> list[tuple[SimulatedGroup, SimulatedGroup]]:
    return [tuple(simulate_contrast(2 * k + i, candidates=4, size=84) for i in range(2)) for k in range(150)]


def test_contrasting_groups_show_the_same_images_under_two_instructions(contrasts) -> None:
    assert {one.category for one, _ in contrasts} == set(CATEGORIES)
    assert {one.language for one, _ in contrasts} == {"en", "zh"}
    first = Counter()
    for one, two in contrasts:
        assert one.instruction != two.instruction and one.category == two.category and one.language == two.language
        assert one.source.tobytes() == two.source.tobytes() and one.group_id != two.group_id
        for a, b in zip(one.candidates, two.candidates, strict=True):
            assert a.image.tobytes() == b.image.tobytes() and a.scores["visual_quality"] == b.scores["visual_quality"]
            assert {following(a), following(b)} == {2, 4}
        assert sum(following(candidate) == 4 for candidate in one.candidates) == 2
        first[following(one.candidates[0])] += 1
    assert min(first.values()) > 50  # neither instruction is the first candidate's more often


def test_scores_of_contrasting_groups_follow_from_the_scenes(contrasts) -> None:
    for group in chain.from_iterable(contrasts):
        for candidate in group.candidates:
            side, short = side_effects(group.task, candidate.scene), shortfalls(group.task, candidate.scene)
            if following(candidate) == 4:
                assert (side, short) == (0, 0), group.instruction
            else:
                assert candidate.scene != group.scene and short is None, group.instruction
        keys = [thing.combination for thing in group.scene.objects]
        assert len(keys) == len(set(keys))
        assert not {c for c in keys if c in HELD_OUT_COMBINATIONS}
        result = group.task.result
        assert result is None or result.combination not in HELD_OUT_COMBINATIONS


def test_contrasting_groups_differ_in_every_way_that_an_instruction_can(contrasts) -> None:
    ways = set()
    for one, two in contrasts:
        a, b = one.task, two.task
        if a.background:
            ways.add((one.category, "pattern" if a.background.pattern != b.background.pattern else "tone"))
        elif a.category != "add" and a.target.key != b.target.key:
            ways.add((one.category, "object"))
        else:
            names = ("colour", "shape", "place")
            (way,) = [name for name in names if getattr(a.result, name) != getattr(b.result, name)]
            ways.add((one.category, way))
    expected = {("recolour", "colour"), ("move", "place"), ("background", "pattern"), ("background", "tone")}
    expected |= {("add", way) for way in ("colour", "shape", "place")} | {("replace", "colour"), ("replace", "shape")}
    expected |= {(category, "object") for category in ("recolour", "remove", "replace", "move", "resize")}
    assert ways == expected
