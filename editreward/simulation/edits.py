"""Edit tasks and how well they are carried out: for every category and score, the scenes that deserve that score.

The scale is the annotation rubric's. 4: the edit, the whole edit and nothing but the edit. 3: the edit with one minor,
visible omission or side effect. 2: an attempt of the right kind that does not fulfil the instruction, or fulfils it
and ruins the rest. 1: nothing changed, or an edit of another kind on another object. See docs/simulation.md.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from random import Random

from editreward.simulation.instructions import RESIZE_WORDS
from editreward.simulation.world import (
    COLOURS,
    EFFECTS,
    OFF_PLACE,
    OWN,
    PLACE_NAMES,
    PLACES,
    SIZE_NAMES_ZH,
    Background,
    Scene,
    SceneObject,
    background_name,
    effect_name,
    named,
    neighbours,
    place_distance,
    with_article,
)
from editreward.simulation.worlds import BACKGROUNDS, SHAPES_WORLD, WORLDS, Palette, World

Combination = tuple[str, str]
"""A colour and a shape."""

JITTER = 0.065
"""Largest offset of an object from its place's middle, in cells, in each direction."""

SOURCE_SIZES: tuple[str, ...] = ("small", "medium", "large")


@dataclass(frozen=True)
class EditTask:
    """What an instruction asks for, as data.

    Args:
        category: one of its world's categories.
        source: the scene to edit.
        target: the object to edit, as in the source; the object to add, for "add"; None for edits of no single object.
        result: the object as it should become; None for "remove" and edits of no single object.
        background: the requested background, for "background".
        combinations: the (colour, shape) pairs that may appear in this group.
        backgrounds: those that may appear in it.
        effect: the requested effect, for the categories of `EFFECTS`.
        parts: the edits that "several" asks for, of different objects of the source.
    """

    category: str
    source: Scene
    target: SceneObject | None
    result: SceneObject | None
    background: Background | None
    combinations: frozenset[Combination]
    backgrounds: tuple[Background, ...] = BACKGROUNDS
    effect: str = ""
    parts: tuple["EditTask", ...] = ()

    @property
    def others(self) -> list[SceneObject]:
        """The source's objects that the instruction does not speak of."""
        keys = {task.target.key for task in (self, *self.parts) if task.target}
        return [thing for thing in self.source.objects if thing.key not in keys]

    @property
    def results(self) -> list[SceneObject]:
        """The objects as they should become."""
        return [task.result for task in (self, *self.parts) if task.result]

    @property
    def other_backgrounds(self) -> list[Background]:
        """Those that are called neither as the source's nor as the requested one."""
        known = {b.look for b in (self.source.background, self.background) if b}
        return [background for background in self.backgrounds if background.look not in known]


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
    used |= {result.combination for result in task.results}
    return sorted(task.combinations - used)


def _target(task: EditTask) -> SceneObject:
    assert task.target is not None
    return task.target


def _result(task: EditTask) -> SceneObject:
    assert task.result is not None
    return task.result


def _same_colour(first: Combination, second: Combination) -> bool:
    """Whether two objects share a colour that has a name."""
    return first[0] == second[0] != OWN


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
    if task.effect:
        return replace(task.source, effect=task.effect)
    if task.parts:
        scene = task.source
        for part in task.parts:
            scene = perfect(replace(part, source=scene), rng)
        return scene
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
    for part in task.parts or (task,):
        if part.category in ("add", "replace"):  # never half of what was asked for
            asked = _result(part).combination
            choices = [c for c in choices if not _same_colour(c, asked) and c[1] != asked[1]]
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
    if not colours or result.colour == OWN:  # then no colour was asked for
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
    choices = [c for c in _unused(task, task.source) if c[1] != target.shape]
    combination = _pick(rng, [c for c in choices if not _same_colour(c, target.combination)])
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
    return replace(task.source, background=rng.choice(task.other_backgrounds))


def _wrong_tone(task: EditTask, rng: Random) -> Scene | None:
    assert task.background is not None
    wrong = [b for b in task.other_backgrounds if b.pattern == task.background.pattern]
    return replace(task.source, background=rng.choice(wrong)) if wrong else None


def _wrong_pattern(task: EditTask, rng: Random) -> Scene | None:
    assert task.background is not None
    wrong = [b for b in task.other_backgrounds if b.tone == task.background.tone]
    return replace(task.source, background=rng.choice(wrong))


def _objects_lost(task: EditTask, rng: Random) -> Scene | None:
    objects = task.source.objects
    if len(objects) < 3:
        return None
    return _without(perfect(task, rng), *rng.sample(objects, rng.randint(2, len(objects) - 1)))


def _wrong_effect(task: EditTask, rng: Random) -> Scene | None:
    """Another one of the same category."""
    visible = WORLDS[task.source.world].effects(task.category, task.source.background)
    wrong = [effect for effect in visible if effect != task.effect]
    return replace(task.source, effect=rng.choice(wrong))


# Several edits in one instruction


def _effect_incomplete(task: EditTask, rng: Random) -> Scene | None:
    return replace(perfect(task, rng), effect_stops=True)


def _one_part(task: EditTask, faults: Sequence[Sequence[tuple[str, Realisation]]], rng: Random) -> Scene | None:
    """All parts done perfectly but one, which has one of its faults (a list for each part)."""
    for index in rng.sample(range(len(task.parts)), len(task.parts)):
        rest = replace(task, parts=tuple(part for number, part in enumerate(task.parts) if number != index))
        part = replace(task.parts[index], source=perfect(rest, rng))
        for _, realisation in rng.sample(faults[index], len(faults[index])):
            if scene := realisation(part, rng):
                return scene
    return None


def _part_flawed(task: EditTask, rng: Random) -> Scene | None:
    return _one_part(task, [OWN_FLAWS[part.category] for part in task.parts], rng)


def _part_failed(task: EditTask, rng: Random) -> Scene | None:
    """One part went wrong, in a way that touches no other object."""
    faults = [[fault for fault in FAILURES[part.category] if fault[0] in FAULTS_OF_THE_TARGET] for part in task.parts]
    return _one_part(task, faults, rng)


def _part_ignored(task: EditTask, rng: Random) -> Scene | None:
    return _one_part(task, [[("ignored", _ignored)]] * len(task.parts), rng)


FAULTS_OF_THE_TARGET: tuple[str, ...] = (
    "wrong colour",
    "wrong attribute",
    "wrong shape",
    "wrong place",
    "replaced instead",
    "opposite direction",
    "moved instead",
)
"""Faults of score 2 in which only the object meant goes wrong."""


# Score 1


def _ignored(task: EditTask, rng: Random) -> Scene | None:
    return task.source


def unrelated(task: EditTask, rng: Random) -> Scene | None:
    """An edit of another kind, on an object that the instruction does not speak of."""
    asked = {part.category for part in task.parts or (task,)}
    kinds = [kind for kind in ("recolour", "add", "remove", "move", "resize", "background") if kind not in asked]
    # A lone replacement of colour reads as half a replacement, and the other way round.
    if "replace" in asked and "recolour" in kinds:
        kinds.remove("recolour")
    if "several" in WORLDS[task.source.world].categories and not asked & {"background", *EFFECTS}:
        kinds += EFFECTS
    others = task.others
    kind = rng.choice(kinds)
    if kind == "background":
        return replace(task.source, background=rng.choice(task.other_backgrounds))
    if kind in EFFECTS:
        visible = WORLDS[task.source.world].effects(kind, task.source.background)
        return replace(task.source, effect=rng.choice(visible))
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
    wanted = {result.colour for result in task.results}
    colours = [c for c, s in _unused(task, task.source) if s == other.shape and c not in wanted]
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
    **dict.fromkeys(EFFECTS, (("partial", _effect_incomplete), ("object lost", _object_lost))),
    "several": (("one part flawed", _part_flawed),),
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
    **dict.fromkeys(EFFECTS, (("wrong effect", _wrong_effect), ("over-edit", _objects_lost))),
    "several": (("one part failed", _part_failed), ("one part ignored", _part_ignored)),
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
        kinds = [("unrelated", unrelated)] * 4 if rng.random() < 0.5 else []
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
        scene = replace(scene, background=rng.choice(task.other_backgrounds))
        scenes.append(scene)
    while len(scenes) <= count:
        crowded = _with_stray(task, scene, "medium", rng)
        if crowded is None:
            raise ValueError(f"{count} further changes do not fit {task.source}")
        scene = crowded
        scenes.append(scene)
    return scenes[: count + 1]


# Tasks


def sample_task(
    category: str, unseen_combination: bool, rng: Random, world: World = SHAPES_WORLD, unseen: Collection[str] = ()
) -> EditTask:
    """Draw a source scene and an edit of it.

    Args:
        category: one of the world's categories.
        unseen_combination: a held-out (colour, thing) pair is the target or the result (for edits of no single object:
            in the scene), and others may occur; else none occurs anywhere. In the world of shapes these are pairs that
            are held out, in the collage world all of held-out things.
        rng: decides everything else.
        world: where.
        unseen: which other of the world's novelties the group has.

    Returns:
        The task.
    """
    # Seeds are published (configs/simulated_test_set.json): the order of draws, here and below, is part of the data.
    palette = world.palette({*unseen, *world.novelties[: int(unseen_combination)]}, rng)
    if category == "several":
        return _sample_several(unseen_combination, palette, world, rng)
    target_pair, result_pair = _pairs_of_edit(category, unseen_combination, palette, rng)
    target, *rest = _draw_objects(category, target_pair, result_pair, palette.combinations, rng)
    background = rng.choice(palette.backgrounds)
    present = rest if category == "add" else [target, *rest[:-1]]
    rng.shuffle(present)
    source = Scene(tuple(present), background, world=world.name, style=palette.style)
    of_an_object = category != "background" and category not in EFFECTS
    return EditTask(
        category=category,
        source=source,
        target=target if of_an_object else None,
        result=_draw_result(category, source, target, result_pair, rng) if of_an_object else None,
        background=(
            rng.choice([b for b in palette.backgrounds if b.look != background.look])
            if category == "background"
            else None
        ),
        combinations=frozenset(palette.combinations),
        backgrounds=tuple(palette.backgrounds),
        effect=rng.choice(world.effects(category, background)) if category in EFFECTS else "",
    )


PARTS: tuple[str, ...] = ("recolour", "add", "remove", "replace", "move", "resize")
"""Categories of the edits that "several" asks for."""


def _sample_several(unseen_combination: bool, palette: Palette, world: World, rng: Random) -> EditTask:
    """Two edits of different kinds, of different objects."""
    second = None
    while second is None:
        category = rng.choice(PARTS)
        fixed = _from_one_palette(world, palette)
        first = sample_task(category, unseen_combination, rng, fixed)
        second = _further_task(first, rng)
    parts = (first, second)
    return replace(first, category="several", target=None, result=None, parts=parts)


def _from_one_palette(world: World, palette: Palette) -> World:
    """The world with everything drawn from one palette."""
    return replace(world, palette=lambda unseen, rng: palette)


def _further_task(task: EditTask, rng: Random) -> EditTask | None:
    """An edit of another kind, of another object of the same source; None if the scene allows none."""
    kinds = [kind for kind in PARTS if kind not in ("add", task.category)]
    rng.shuffle(kinds)
    named_already = {result.shape for result in task.results}
    for other in rng.sample(task.others, len(task.others)):
        for kind in kinds if other.shape not in named_already else ():
            made = _further_result(kind, other, task, rng)
            if made is not None:
                return replace(task, category=kind, target=other, result=made[0])
    return None


def _further_result(kind: str, target: SceneObject, task: EditTask, rng: Random) -> tuple[SceneObject | None] | None:
    """What the object should become, in a tuple, as it may be nothing; None where such an edit does not fit."""
    if kind == "remove":
        return (None,)
    if kind == "resize":
        size = {"small": "large", "large": "small"}.get(target.size)
        return (replace(target, size=size),) if size else None
    if kind == "move":
        taken = {place for result in task.results for place in result.position}
        far = [p for p in _empty_places(task.source) if place_distance(p, target.place) >= 2 and p not in taken]
        return (_at(target, rng.choice(far), rng),) if far else None
    choices = [c for c in _unused(task, task.source) if not _same_colour(c, target.combination)]
    if kind == "recolour":
        choices = [c for c in choices if c[1] == target.shape and c[0] != OWN]
    else:
        choices = [c for c in choices if c[1] != target.shape and all(c[1] != r.shape for r in task.results)]
    pair = _pick(rng, choices)
    return (replace(target, colour=pair[0], shape=pair[1]),) if pair else None


def _pairs_of_edit(
    category: str, unseen_combination: bool, palette: Palette, rng: Random
) -> tuple[Combination, Combination | None]:
    """The (colour, shape) of the object to edit, and what "recolour" and "replace" turn it into."""
    allowed, held_out = palette.combinations, palette.held_out
    target = rng.choice(allowed)
    if category == "replace":
        result = rng.choice(held_out if unseen_combination else allowed)
        return rng.choice([c for c in allowed if not _same_colour(c, result) and c[1] != result[1]]), result
    if unseen_combination:
        target = rng.choice(held_out)
    if category != "recolour":
        return target, None
    result = rng.choice([c for c in allowed if c[1] == target[1] and c[0] not in (target[0], OWN)])
    if unseen_combination and target[0] != OWN and rng.random() < 0.5:
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
        # "The apple" would be any of two apples if one of them had its own colours.
        choices = [c for c in allowed if c not in taken and not _ambiguous(c, pairs)]
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


def _ambiguous(new: Combination, pairs: Sequence[Combination]) -> bool:
    return any(new[1] == thing and OWN in (new[0], colour) for colour, thing in pairs)


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
    colours = [c for c, s in _unused(task, task.source) if s == result.shape and c not in (target.colour, OWN)]
    if result.colour == OWN:
        return None
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
            fits = not _same_colour(other.combination, result.combination) and other.shape != result.shape
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
    choices = [b for b in task.backgrounds if (b.pattern == asked.pattern) != (b.tone == asked.tone)]
    choices = [b for b in choices if b.look != task.source.background.look]
    return replace(task, background=rng.choice(choices))


def _other_effect(task: EditTask, rng: Random) -> EditTask | None:
    visible = WORLDS[task.source.world].effects(task.category, task.source.background)
    return replace(task, effect=rng.choice([effect for effect in visible if effect != task.effect]))


CONTRASTS: dict[str, tuple[Callable[[EditTask, Random], EditTask | None], ...]] = {
    "recolour": (_other_colour, _other_target),
    "add": (_other_colour, _other_shape, _other_place),
    "remove": (_other_target,),
    "replace": (_other_colour, _other_shape, _other_target),
    "move": (_other_place, _other_target),
    "resize": (_other_target,),
    "background": (_other_background,),
    **dict.fromkeys(EFFECTS, (_other_effect,)),
    "several": (),
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
    world = WORLDS[task.source.world]
    words: dict[str, str] = {}
    if task.background:
        words["background"] = background_name(task.background, language)
    if task.effect:
        words[task.category] = effect_name(task.effect, language)
    if task.target:
        words["target"] = (
            f"the {named(*task.target.combination)}" if language == "en" else _chinese(task.target, world, "的")
        )
    if task.result:
        result, place = task.result, PLACE_NAMES[task.result.place]
        if language == "en":
            words["object"] = with_article(f"{result.size} {named(*result.combination)}")
            words["new"] = with_article(named(*result.combination))
            words["colour"], words["place"] = result.colour, place
        else:
            words["new"] = f"一个{_chinese(result, world, '的')}"
            words["object"] = f"一个{SIZE_NAMES_ZH[result.size]}的{_chinese(result, world, '')}"
            words["colour"], words["place"] = COLOURS.get(result.colour, ""), PLACES[place]
        if task.category == "resize":
            words |= RESIZE_WORDS[result.size, language]
    return words


def _chinese(thing: SceneObject, world: World, joined: str) -> str:
    """An object's colour and name in Chinese, without the colour where it is its own."""
    colour = "" if thing.colour == OWN else COLOURS[thing.colour] + joined
    return colour + world.chinese(thing.shape)
