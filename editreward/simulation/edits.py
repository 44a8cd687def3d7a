"""Edit tasks and how well they are carried out: for every category and score, the scenes that deserve that score.

The scale is the annotation rubric's. 4: the edit, the whole edit and nothing but the edit. 3: the edit with one minor,
visible omission or side effect. 2: an attempt of the right kind that does not fulfil the instruction, or fulfils it
and ruins the rest. 1: nothing changed, or an edit of another kind on another object. See docs/simulation.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from editreward.simulation.instructions import RESIZE_WORDS
from editreward.simulation.world import (
    ALL_COMBINATIONS,
    COLOURS,
    HELD_OUT_COMBINATIONS,
    OFF_PLACE,
    PATTERNS,
    PLACE_NAMES,
    PLACES,
    SHAPES,
    SIZE_NAMES_ZH,
    TONES,
    TRAIN_COMBINATIONS,
    Background,
    Scene,
    SceneObject,
    background_name,
    neighbours,
    place_distance,
    with_article,
)

Combination = tuple[str, str]
"""A colour and a shape."""

JITTER = 0.065
"""Largest offset of an object from its place's middle, in cells, in each direction."""

BACKGROUNDS: tuple[Background, ...] = tuple(Background(pattern, tone) for pattern in PATTERNS for tone in TONES)
SOURCE_SIZES: tuple[str, ...] = ("small", "medium", "large")


@dataclass(frozen=True)
class EditTask:
    """What an instruction asks for, as data.

    Args:
        category: one of `CATEGORIES`.
        source: the scene to edit.
        target: the object to edit, as in the source; the object to add, for "add"; None for "background".
        result: the object as it should become; None for "remove" and "background".
        background: the requested background, for "background".
        combinations: the (colour, shape) pairs that may appear in this group.
    """

    category: str
    source: Scene
    target: SceneObject | None
    result: SceneObject | None
    background: Background | None
    combinations: frozenset[Combination]

    @property
    def others(self) -> list[SceneObject]:
        """The source's objects that the instruction does not speak of."""
        key = self.target.key if self.target else None
        return [thing for thing in self.source.objects if thing.key != key]


@dataclass(frozen=True)
class Outcome:
    """An edited scene and what is wrong with it, in a few words ("none" for a perfect edit)."""

    fault: str
    scene: Scene


Realisation = Callable[[EditTask, Random], Scene | None]
"""Makes an edited scene for a task, or None where this scene does not allow it."""


# Small steps on scenes


def _coordinates(place: int, rng: Random, towards: int | None = None) -> tuple[float, float]:
    """Jittered middle of a place, or the point `OFF_PLACE` cells from it towards a neighbour."""
    x, y = place % 3 + 0.5 + rng.uniform(-JITTER, JITTER), place // 3 + 0.5 + rng.uniform(-JITTER, JITTER)
    if towards is not None:
        x += OFF_PLACE * (towards % 3 - place % 3)
        y += OFF_PLACE * (towards // 3 - place // 3)
    return x / 3, y / 3


def _at(thing: SceneObject, place: int, rng: Random, towards: int | None = None) -> SceneObject:
    x, y = _coordinates(place, rng, towards)
    return replace(thing, x=x, y=y)


def _without(scene: Scene, *things: SceneObject) -> Scene:
    keys = {thing.key for thing in things}
    return replace(scene, objects=tuple(thing for thing in scene.objects if thing.key not in keys))


def _with(scene: Scene, *things: SceneObject) -> Scene:
    """Put objects into the scene: in the place of those with the same key, or on top."""
    new = {thing.key: thing for thing in things}
    kept = tuple(new.pop(thing.key, thing) for thing in scene.objects)
    return replace(scene, objects=kept + tuple(new.values()))


def _empty_places(scene: Scene) -> list[int]:
    taken = {place for thing in scene.objects for place in thing.position}
    return [place for place in range(9) if place not in taken]


def _free_key(scene: Scene) -> int:
    # 100 and above: never the key of a source object or of the object that a task adds.
    return max([99, *(thing.key for thing in scene.objects)]) + 1


def _step(thing: SceneObject, rng: Random) -> SceneObject:
    """One size larger or smaller, within the sizes of sources."""
    index = SOURCE_SIZES.index(thing.size)
    return replace(thing, size=SOURCE_SIZES[1 if index != 1 else rng.choice((0, 2))])


def _shift(scene: Scene, thing: SceneObject, rng: Random) -> Scene | None:
    """`thing` shifted by about half a cell towards an empty place."""
    empty = set(_empty_places(scene))
    ways = [place for place in neighbours(thing.place) if place in empty]
    return _with(scene, _at(thing, thing.place, rng, rng.choice(ways))) if ways else None


def _find(scene: Scene, key: int) -> SceneObject:
    return next(thing for thing in scene.objects if thing.key == key)


def _pick(rng: Random, combinations: Sequence[Combination]) -> Combination | None:
    return rng.choice(combinations) if combinations else None


def _unused(task: EditTask, scene: Scene) -> list[Combination]:
    """Allowed combinations that neither the scene, nor the source, nor the instruction shows."""
    used = {thing.combination for thing in (*scene.objects, *task.source.objects)}
    if task.result:
        used.add(task.result.combination)
    return sorted(task.combinations - used)


def _target(task: EditTask) -> SceneObject:
    assert task.target is not None
    return task.target


def _result(task: EditTask) -> SceneObject:
    assert task.result is not None
    return task.result


def _similar_others(task: EditTask, rng: Random) -> list[SceneObject]:
    """The other objects, those that share the target's shape or colour first: an editor confuses these most easily."""
    target = _target(task)
    others = task.others
    rng.shuffle(others)
    return sorted(others, key=lambda o: o.shape != target.shape and o.colour != target.colour)


# Score 4


def perfect(task: EditTask, rng: Random) -> Scene:
    """The scene that the instruction asks for. Added and moved objects get a jitter of their own."""
    if task.background:
        return replace(task.source, background=task.background)
    target = _target(task)
    if task.result is None:
        return _without(task.source, target)
    result = task.result
    if task.category in ("add", "move"):
        result = _at(result, result.place, rng)
    return _with(task.source, result)


# Score 3: flaws that any perfect edit can have


def _other_resized(task: EditTask, rng: Random) -> Scene | None:
    return _with(perfect(task, rng), _step(rng.choice(task.others), rng)) if task.others else None


def _other_shifted(task: EditTask, rng: Random) -> Scene | None:
    scene = perfect(task, rng)
    for other in rng.sample(task.others, len(task.others)):
        if shifted := _shift(scene, other, rng):
            return shifted
    return None


def _extra_object(task: EditTask, rng: Random) -> Scene | None:
    scene = perfect(task, rng)
    return _with_stray(task, scene, "small", rng)


def _with_stray(task: EditTask, scene: Scene, size: str, rng: Random) -> Scene | None:
    """An object that nobody asked for, at a place that is empty here and in the source."""
    places = sorted(set(_empty_places(scene)) & set(_empty_places(task.source)))
    choices = _unused(task, scene)
    if task.category in ("add", "replace"):  # never half of what was asked for
        result = _result(task)
        choices = [c for c in choices if c[0] != result.colour and c[1] != result.shape]
    combination = _pick(rng, choices)
    if not places or combination is None:
        return None
    x, y = _coordinates(rng.choice(places), rng)
    return _with(scene, SceneObject(_free_key(scene), *combination, size, x, y))


# Score 3: flaws of the edit itself


def _half_coloured(task: EditTask, rng: Random) -> Scene | None:
    target, result = _target(task), _result(task)
    if task.category == "recolour":
        return _with(task.source, replace(target, second_colour=result.colour))
    scene = perfect(task, rng)
    # The wrong half keeps the replaced object's colour, or gets a random one.
    colours = [c for c, s in task.combinations if s == result.shape and c != result.colour]
    if task.category == "replace":
        colours = [c for c in colours if c == target.colour]
    if not colours:
        return None
    return _with(scene, replace(_find(scene, result.key), second_colour=rng.choice(sorted(colours))))


def _result_wrong_size(task: EditTask, rng: Random) -> Scene | None:
    scene = perfect(task, rng)
    return _with(scene, _step(_find(scene, _result(task).key), rng))


def _result_off_place(task: EditTask, rng: Random) -> Scene | None:
    scene = perfect(task, rng)
    return _shift(scene, _find(scene, _result(task).key), rng)


def _remains(task: EditTask, rng: Random) -> Scene | None:
    return _with(task.source, replace(_target(task), remnant=True))


def _copy_left(task: EditTask, rng: Random) -> Scene | None:
    scene = perfect(task, rng)
    return _with(scene, replace(_target(task), key=_free_key(scene)))


def _half_resized(task: EditTask, rng: Random) -> Scene | None:
    return _with(task.source, replace(_target(task), size="medium"))


def _background_incomplete(task: EditTask, rng: Random) -> Scene | None:
    return replace(perfect(task, rng), remainder=task.source.background)


def _object_lost(task: EditTask, rng: Random) -> Scene | None:
    return _without(perfect(task, rng), rng.choice(task.source.objects))


# Score 2


def _wrong_colour(task: EditTask, rng: Random) -> Scene | None:
    target, result = _target(task), _result(task)
    colours = [c for c, s in task.combinations if s == result.shape and c not in (target.colour, result.colour)]
    if not colours:
        return None
    scene = perfect(task, rng)
    return _with(scene, replace(_find(scene, result.key), colour=rng.choice(sorted(colours))))


def _wrong_shape(task: EditTask, rng: Random) -> Scene | None:
    target, result = _target(task), _result(task)
    shapes = [s for c, s in task.combinations if c == result.colour and s not in (target.shape, result.shape)]
    if not shapes:
        return None
    scene = perfect(task, rng)
    return _with(scene, replace(_find(scene, result.key), shape=rng.choice(sorted(shapes))))


def _wrong_place(task: EditTask, rng: Random) -> Scene | None:
    target, result = _target(task), _result(task)
    far = [place for place in _empty_places(task.source) if place_distance(place, result.place) >= 2]
    return _with(task.source, _at(replace(target, colour=result.colour), rng.choice(far), rng)) if far else None


def _recolour_other(task: EditTask, rng: Random) -> Scene | None:
    colour = _result(task).colour
    for other in _similar_others(task, rng):
        if other.colour != colour and (colour, other.shape) in task.combinations:
            return _with(task.source, replace(other, colour=colour))
    return None


def _recolour_all(task: EditTask, rng: Random) -> Scene | None:
    colour = _result(task).colour
    changed = [replace(o, colour=colour) for o in task.others if (colour, o.shape) in task.combinations]
    changed = [thing for thing in changed if thing.colour != _find(task.source, thing.key).colour]
    return _with(perfect(task, rng), *changed) if len(changed) >= 2 else None


def _reshaped_instead(task: EditTask, rng: Random) -> Scene | None:
    """The target got another shape, not the requested colour."""
    target = _target(task)
    shapes = [s for c, s in task.combinations if c == target.colour and s != target.shape]
    return _with(task.source, replace(target, shape=rng.choice(sorted(shapes)))) if shapes else None


def _remove_other(task: EditTask, rng: Random) -> Scene | None:
    others = _similar_others(task, rng)
    return _without(task.source, others[0]) if others else None


def _remove_too_many(task: EditTask, rng: Random) -> Scene | None:
    # One object stays: on an empty plain background most artefacts could not be seen.
    if len(task.others) < 3:
        return None
    return _without(perfect(task, rng), *rng.sample(task.others, rng.randint(2, len(task.others) - 1)))


def _replaced_instead(task: EditTask, rng: Random) -> Scene | None:
    """The target became another object where it should have gone."""
    target = _target(task)
    choices = [c for c in _unused(task, task.source) if c[0] != target.colour and c[1] != target.shape]
    combination = _pick(rng, choices)
    if combination is None:
        return None
    return _with(task.source, replace(target, colour=combination[0], shape=combination[1]))


def _replace_other(task: EditTask, rng: Random) -> Scene | None:
    result = _result(task)
    for other in _similar_others(task, rng):
        return _with(task.source, replace(other, colour=result.colour, shape=result.shape))
    return None


def _replace_all(task: EditTask, rng: Random) -> Scene | None:
    if len(task.others) < 2:
        return None
    result = _result(task)
    return _with(perfect(task, rng), *(replace(o, colour=result.colour, shape=result.shape) for o in task.others))


def _added_instead(task: EditTask, rng: Random) -> Scene | None:
    """The new object appeared elsewhere, and the one to be replaced stayed."""
    places = _empty_places(task.source)
    if not places:
        return None
    new = replace(_result(task), key=_free_key(task.source))
    return _with(task.source, _at(new, rng.choice(places), rng))


def _replaced_existing(task: EditTask, rng: Random) -> Scene | None:
    """The object to add took the place of another one, and its own place stayed empty."""
    result = _result(task)
    far = [other for other in task.others if place_distance(other.place, result.place) >= 2]
    if not far:
        return None
    other = rng.choice(far)
    return _with(task.source, replace(other, colour=result.colour, shape=result.shape, size=result.size))


def _move_other(task: EditTask, rng: Random) -> Scene | None:
    result = _result(task)
    for other in _similar_others(task, rng):
        return _with(task.source, _at(other, result.place, rng))
    return None


def _move_all(task: EditTask, rng: Random) -> Scene | None:
    """The target arrived, and at least two other objects went to other places as well."""
    scene = perfect(task, rng)
    places = sorted(set(_empty_places(scene)) - {_target(task).place})
    others = task.others
    if len(others) < 2 or len(places) < 2:
        return None
    count = min(len(others), len(places))
    moved = [
        _at(other, place, rng)
        for other, place in zip(rng.sample(others, count), rng.sample(places, count), strict=True)
    ]
    return _with(scene, *moved)


def _resize_opposite(task: EditTask, rng: Random) -> Scene | None:
    return _with(task.source, replace(_target(task), size="tiny" if _result(task).size == "large" else "huge"))


def _resize_other(task: EditTask, rng: Random) -> Scene | None:
    size = _result(task).size
    for other in _similar_others(task, rng):
        if other.size != size:
            return _with(task.source, replace(other, size=size))
    return None


def _resize_all(task: EditTask, rng: Random) -> Scene | None:
    size = _result(task).size
    changed = [replace(other, size=size) for other in task.others if other.size != size]
    return _with(perfect(task, rng), *changed) if len(changed) >= 2 else None


def _moved_instead(task: EditTask, rng: Random) -> Scene | None:
    """The target was moved where it should have been resized."""
    target = _target(task)
    places = [place for place in _empty_places(task.source) if place_distance(place, target.place) >= 2]
    return _with(task.source, _at(target, rng.choice(places), rng)) if places else None


def _wrong_background(task: EditTask, rng: Random) -> Scene | None:
    wrong = [b for b in BACKGROUNDS if b not in (task.background, task.source.background)]
    return replace(task.source, background=rng.choice(wrong))


def _wrong_tone(task: EditTask, rng: Random) -> Scene | None:
    assert task.background is not None
    wrong = [Background(task.background.pattern, tone) for tone in TONES]
    wrong = [b for b in wrong if b not in (task.background, task.source.background)]
    return replace(task.source, background=rng.choice(wrong))


def _wrong_pattern(task: EditTask, rng: Random) -> Scene | None:
    assert task.background is not None
    wrong = [Background(pattern, task.background.tone) for pattern in PATTERNS]
    wrong = [b for b in wrong if b not in (task.background, task.source.background)]
    return replace(task.source, background=rng.choice(wrong))


def _objects_lost(task: EditTask, rng: Random) -> Scene | None:
    objects = task.source.objects
    if len(objects) < 3:
        return None
    return _without(perfect(task, rng), *rng.sample(objects, rng.randint(2, len(objects) - 1)))


# Score 1


def _ignored(task: EditTask, rng: Random) -> Scene | None:
    return task.source


def _unrelated(task: EditTask, rng: Random) -> Scene | None:
    """An edit of another kind, on an object that the instruction does not speak of."""
    kinds = [kind for kind in ("recolour", "add", "remove", "move", "resize", "background") if kind != task.category]
    # A lone replacement of colour reads as half a replacement, and the other way round.
    if task.category == "replace":
        kinds.remove("recolour")
    others = task.others
    kind = rng.choice(kinds)
    if kind == "background":
        return replace(task.source, background=rng.choice([b for b in BACKGROUNDS if b != task.source.background]))
    if kind == "add":
        return _with_stray(task, task.source, rng.choice(("medium", "large")), rng)
    if not others:
        return None
    other = rng.choice(others)
    if kind == "remove":
        return _without(task.source, other)
    if kind == "resize":
        return _with(task.source, replace(other, size="small" if other.size == "large" else "large"))
    if kind == "move":
        reserved = task.result.place if task.result else -1
        far = [p for p in _empty_places(task.source) if place_distance(p, other.place) >= 2 and p != reserved]
        return _with(task.source, _at(other, rng.choice(far), rng)) if far else None
    wanted = task.result.colour if task.result else None
    colours = [c for c, s in _unused(task, task.source) if s == other.shape and c != wanted]
    return _with(task.source, replace(other, colour=rng.choice(colours))) if colours else None


ANY_FLAW: tuple[tuple[str, Realisation], ...] = (
    ("other object resized", _other_resized),
    ("other object shifted", _other_shifted),
    ("extra object", _extra_object),
)
"""Score 3, every category: fault name and realisation."""

OWN_FLAWS: dict[str, tuple[tuple[str, Realisation], ...]] = {
    "recolour": (
        ("half recoloured", _half_coloured),
        ("target also resized", _result_wrong_size),
        ("target also shifted", _result_off_place),
    ),
    "add": (
        ("wrong size", _result_wrong_size),
        ("slightly off place", _result_off_place),
        ("half coloured", _half_coloured),
    ),
    "remove": (("remains left", _remains),),
    "replace": (
        ("wrong size", _result_wrong_size),
        ("slightly off place", _result_off_place),
        ("half coloured", _half_coloured),
    ),
    "move": (
        ("slightly off place", _result_off_place),
        ("copy left behind", _copy_left),
        ("target also resized", _result_wrong_size),
    ),
    "resize": (("partial", _half_resized), ("target also shifted", _result_off_place)),
    "background": (("partial", _background_incomplete), ("object lost", _object_lost)),
}
"""Score 3, by category."""

FAILURES: dict[str, tuple[tuple[str, Realisation], ...]] = {
    "recolour": (
        ("wrong colour", _wrong_colour),
        ("wrong object", _recolour_other),
        ("over-edit", _recolour_all),
        ("wrong attribute", _reshaped_instead),
    ),
    "add": (
        ("wrong colour", _wrong_colour),
        ("wrong shape", _wrong_shape),
        ("wrong place", _wrong_place),
        ("replaced another object", _replaced_existing),
    ),
    "remove": (
        ("wrong object", _remove_other),
        ("over-edit", _remove_too_many),
        ("replaced instead", _replaced_instead),
    ),
    "replace": (
        ("wrong colour", _wrong_colour),
        ("wrong shape", _wrong_shape),
        ("wrong object", _replace_other),
        ("added instead", _added_instead),
        ("over-edit", _replace_all),
    ),
    "move": (("wrong place", _wrong_place), ("wrong object", _move_other), ("over-edit", _move_all)),
    "resize": (
        ("opposite direction", _resize_opposite),
        ("wrong object", _resize_other),
        ("over-edit", _resize_all),
        ("moved instead", _moved_instead),
    ),
    "background": (
        ("wrong background", _wrong_background),
        ("wrong tone", _wrong_tone),
        ("wrong pattern", _wrong_pattern),
        ("over-edit", _objects_lost),
    ),
}
"""Score 2, by category."""


def realise(task: EditTask, score: int, rng: Random) -> Outcome:
    """Carry out a task so that it deserves an instruction-following score.

    Args:
        task: the task.
        score: 1, 2, 3 or 4.
        rng: decides which fault, and its details.

    Returns:
        The outcome.

    Raises:
        RuntimeError: no fault of that score fits the scene (`sample_task` makes none of these).
    """
    if score == 4:
        return Outcome("none", perfect(task, rng))
    if score == 3:
        own, generic = list(OWN_FLAWS[task.category]), list(ANY_FLAW)
        rng.shuffle(own)
        rng.shuffle(generic)
        kinds = own + generic if rng.random() < 0.55 else generic + own
    elif score == 2:
        kinds = list(FAILURES[task.category])
        rng.shuffle(kinds)
    else:
        kinds = [("unrelated", _unrelated)] * 4 if rng.random() < 0.5 else []
        kinds.append(("ignored", _ignored))
    for fault, realisation in kinds:
        scene = realisation(task, rng)
        if scene is not None:
            return Outcome(fault, scene)
    raise RuntimeError(f"no {task.category} fault of score {score} fits {task.source}")


# Strength


def over_edits(task: EditTask, count: int, rng: Random) -> list[Scene]:
    """The perfect edit, then scenes in which one, two ... further things have changed that nobody asked for.

    Other objects get another colour, one after the other, then the background changes, then objects appear.

    Args:
        task: the task.
        count: the largest number of further changes.
        rng: decides which, and their details.

    Returns:
        1 + `count` scenes, each with the changes of the one before it and one more.

    Raises:
        ValueError: the scene has no room for so many changes; 3 always fit.
    """
    scene = perfect(task, rng)
    scenes = [scene]
    others = task.others
    for other in rng.sample(others, len(others)):
        colours = [combination for combination in _unused(task, scene) if combination[1] == other.shape]
        if colours:
            scene = _with(scene, replace(other, colour=rng.choice(colours)[0]))
            scenes.append(scene)
    if task.background is None:
        scene = replace(scene, background=rng.choice([b for b in BACKGROUNDS if b != scene.background]))
        scenes.append(scene)
    while len(scenes) <= count:
        crowded = _with_stray(task, scene, "medium", rng)
        if crowded is None:
            raise ValueError(f"{count} further changes do not fit {task.source}")
        scene = crowded
        scenes.append(scene)
    return scenes[: count + 1]


# Tasks


def sample_task(category: str, unseen_combination: bool, rng: Random) -> EditTask:
    """Draw a source scene and an edit of it.

    Args:
        category: one of `CATEGORIES`.
        unseen_combination: a held-out (colour, shape) pair is the target or the result (for "background": in the
            scene), and others may occur; else none occurs anywhere.
        rng: decides everything else.

    Returns:
        The task.
    """
    # Seeds are published (configs/simulated_test_set.json): the order of draws, here and below, is part of the data.
    allowed = ALL_COMBINATIONS if unseen_combination else TRAIN_COMBINATIONS
    target_pair, result_pair = _pairs_of_edit(category, unseen_combination, rng)
    target, *rest = _draw_objects(category, target_pair, result_pair, allowed, rng)
    background = rng.choice(BACKGROUNDS)
    present = rest if category == "add" else [target, *rest[:-1]]
    rng.shuffle(present)
    source = Scene(tuple(present), background)
    return EditTask(
        category=category,
        source=source,
        target=None if category == "background" else target,
        result=_draw_result(category, source, target, result_pair, rng),
        background=rng.choice([b for b in BACKGROUNDS if b != background]) if category == "background" else None,
        combinations=frozenset(allowed),
    )


def _pairs_of_edit(category: str, unseen_combination: bool, rng: Random) -> tuple[Combination, Combination | None]:
    """The (colour, shape) of the object to edit, and what "recolour" and "replace" turn it into."""
    allowed = ALL_COMBINATIONS if unseen_combination else TRAIN_COMBINATIONS
    held_out = sorted(HELD_OUT_COMBINATIONS)
    target = rng.choice(allowed)
    if category == "replace":
        result = rng.choice(held_out if unseen_combination else allowed)
        return rng.choice([c for c in allowed if c[0] != result[0] and c[1] != result[1]]), result
    if unseen_combination:
        target = rng.choice(held_out)
    if category != "recolour":
        return target, None
    result = rng.choice([c for c in allowed if c[1] == target[1] and c != target])
    if unseen_combination and rng.random() < 0.5:
        return result, target
    return target, result


def _draw_objects(
    category: str, target: Combination, result: Combination | None, allowed: Sequence[Combination], rng: Random
) -> list[SceneObject]:
    """The object to edit, then two to five others, in places of their own."""
    count = rng.randint(2, 5) + 1
    places = rng.sample(range(9), count)
    sizes = [rng.choice(SOURCE_SIZES) for _ in range(count)]
    if category == "resize":
        sizes[0] = rng.choice(("small", "large"))
    pairs = _draw_pairs(count, target, result, allowed, rng)
    things = []
    for key, (pair, size, place) in enumerate(zip(pairs, sizes, places, strict=True)):
        x, y = _coordinates(place, rng)
        things.append(SceneObject(key, *pair, size, x, y))
    return things


def _draw_pairs(
    count: int, target: Combination, result: Combination | None, allowed: Sequence[Combination], rng: Random
) -> list[Combination]:
    """The target's pair and `count - 1` others, no two the same and none the result's."""
    pairs = [target]
    taken = {target, result}
    # Likely to be confused with the target: objects of its shape, of its colour, or of the requested colour.
    wanted_colour = result[0] if result else target[0]
    while len(pairs) < count:
        choices = [c for c in allowed if c not in taken]
        chance = rng.random()
        if chance < 0.3:
            choices = [c for c in choices if c[1] == target[1]] or choices
        elif chance < 0.55:
            choices = [c for c in choices if c[0] == target[0]] or choices
        elif chance < 0.7:
            choices = [c for c in choices if c[0] == wanted_colour] or choices
        pairs.append(rng.choice(choices))
        taken.add(pairs[-1])
    return pairs


def _draw_result(
    category: str, source: Scene, target: SceneObject, pair: Combination | None, rng: Random
) -> SceneObject | None:
    """The object to edit as it should become; None where it goes, or where the background is edited."""
    if category == "add":
        return target
    if pair:
        return replace(target, colour=pair[0], shape=pair[1])
    if category == "move":
        free = _empty_places(source)
        far = [place for place in free if place_distance(place, target.place) >= 2]
        return _at(target, rng.choice(far or free), rng)
    if category == "resize":
        return replace(target, size="large" if target.size == "small" else "small")
    return None


# Another task of the same kind on the same source, which asks for one thing else. Each gives its parts, or None where
# this scene does not allow it.


def _asking(task: EditTask, result: SceneObject) -> EditTask:
    """The task with another result, which is its target where it adds one."""
    return replace(task, result=result, target=result if task.category == "add" else task.target)


def _other_colour(task: EditTask, rng: Random) -> EditTask | None:
    target, result = _target(task), _result(task)
    colours = [c for c, s in _unused(task, task.source) if s == result.shape and c != target.colour]
    return _asking(task, replace(result, colour=rng.choice(colours))) if colours else None


def _other_shape(task: EditTask, rng: Random) -> EditTask | None:
    target, result = _target(task), _result(task)
    shapes = [s for c, s in _unused(task, task.source) if c == result.colour and s != target.shape]
    return _asking(task, replace(result, shape=rng.choice(shapes))) if shapes else None


def _other_place(task: EditTask, rng: Random) -> EditTask | None:
    target, result = _target(task), _result(task)
    far = [place for place in _empty_places(task.source) if place_distance(place, result.place) >= 2]
    if task.category == "move":
        far = [place for place in far if place_distance(place, target.place) >= 2]
    return _asking(task, _at(result, rng.choice(far), rng)) if far else None


def _other_target(task: EditTask, rng: Random) -> EditTask | None:
    shown = {thing.combination for thing in task.source.objects}
    for other in _similar_others(task, rng):
        if task.result is None:
            return replace(task, target=other)
        result = replace(other, colour=task.result.colour)
        if task.category == "replace":
            result = replace(result, shape=task.result.shape)
            fits = other.colour != result.colour and other.shape != result.shape
        elif task.category == "move":
            result = _at(other, task.result.place, rng)
            fits = place_distance(other.place, result.place) >= 2
        elif task.category == "resize":
            result = replace(other, size="large" if other.size == "small" else "small")
            fits = other.size != "medium"
        else:
            fits = result.combination in task.combinations - shown
        if fits:
            return replace(task, target=other, result=result)
    return None


def _other_background(task: EditTask, rng: Random) -> EditTask | None:
    """One that shares pattern or tone with the requested one."""
    asked = task.background
    assert asked is not None
    choices = [b for b in BACKGROUNDS if (b.pattern == asked.pattern) != (b.tone == asked.tone)]
    choices = [b for b in choices if b != task.source.background]
    return replace(task, background=rng.choice(choices))


CONTRASTS: dict[str, tuple[Callable[[EditTask, Random], EditTask | None], ...]] = {
    "recolour": (_other_colour, _other_target),
    "add": (_other_colour, _other_shape, _other_place),
    "remove": (_other_target,),
    "replace": (_other_colour, _other_shape, _other_target),
    "move": (_other_place, _other_target),
    "resize": (_other_target,),
    "background": (_other_background,),
}
"""What a contrasting task can ask for otherwise, by category."""


def contrasting_task(task: EditTask, rng: Random) -> EditTask | None:
    """A task of the same category on the same source that asks for one thing else, or None if the scene has none.

    The perfect edit of each is of score 2 under the other: an edit of the right kind, not the one asked for.
    """
    for make in rng.sample(CONTRASTS[task.category], len(CONTRASTS[task.category])):
        if other := make(task, rng):
            return other
    return None


def task_words(task: EditTask, language: str) -> dict[str, str]:
    """The words that fill the task's wordings (see `instructions`)."""
    words: dict[str, str] = {}
    if task.background:
        words["background"] = background_name(task.background, language)
    if task.target:
        colour, shape = task.target.combination
        words["target"] = f"the {colour} {shape}" if language == "en" else f"{COLOURS[colour]}的{SHAPES[shape]}"
    if task.result:
        result, place = task.result, PLACE_NAMES[task.result.place]
        if language == "en":
            words["object"] = with_article(f"{result.size} {result.colour} {result.shape}")
            words["new"] = with_article(f"{result.colour} {result.shape}")
            words["colour"], words["place"] = result.colour, place
        else:
            words["new"] = f"一个{COLOURS[result.colour]}的{SHAPES[result.shape]}"
            words["object"] = f"一个{SIZE_NAMES_ZH[result.size]}的{COLOURS[result.colour]}{SHAPES[result.shape]}"
            words["colour"], words["place"] = COLOURS[result.colour], PLACES[place]
        if task.category == "resize":
            words |= RESIZE_WORDS[result.size, language]
    return words
