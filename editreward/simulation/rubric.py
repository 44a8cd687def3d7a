"""The rule of instruction following, counted on scenes: what an edit deserves, under other instructions, too."""

from dataclasses import replace
from typing import Any

from editreward.simulation.edits import EditTask
from editreward.simulation.world import EFFECT_CATEGORY, Scene

SIDE_EFFECT = 0.05
"""What one more thing that changed costs among edits of one score."""


def side_effects(task: EditTask, scene: Scene) -> int:
    """How many things changed that the instruction does not speak of."""
    targets = {part.target.key for part in task.parts or (task,) if part.target}
    before = {o.key: o for o in task.source.objects if o.key not in targets}
    after = {o.key: o for o in scene.objects if o.key not in targets}
    count = sum(before.get(key) != after.get(key) for key in before.keys() | after.keys())
    if task.category != "background":
        count += (scene.background, scene.remainder) != (task.source.background, task.source.remainder)
    if not task.effect:
        count += scene.effect != task.source.effect
    return count


def shortfalls(task: EditTask, scene: Scene) -> int | None:
    """How many attributes of the target miss what was asked for; None where the edit itself was not done."""
    if task.background:
        return int(scene.remainder is not None) if scene.background.look == task.background.look else None
    if task.effect:
        return int(scene.effect_stops) if scene.effect == task.effect else None
    if task.parts:
        missed = [shortfalls(part, scene) for part in task.parts]
        return None if None in missed else sum(count or 0 for count in missed)
    assert task.target
    after = next((o for o in scene.objects if o.key == task.target.key), None)
    if task.category == "remove":
        if after is None:
            return 0
        return 1 if after == replace(task.target, remnant=True) else None
    wanted = task.result
    assert wanted
    if after is None or after.shape != wanted.shape or after.remnant:
        return None
    if after.colour != wanted.colour:
        half = after.second_colour == wanted.colour
        return 1 if half and replace(after, colour=wanted.colour, second_colour=None) == wanted else None
    cells = 3 * max(abs(after.x - wanted.x), abs(after.y - wanted.y))
    if cells > 0.7:
        return None
    if task.category == "resize" and after.size in (task.target.size, "tiny", "huge"):
        return None
    return int(after.second_colour is not None) + int(after.size != wanted.size) + int(cells > 0.25)


def asked_of(task: EditTask, source: Scene) -> EditTask | None:
    """The same instruction about another scene: about the object of the target's colour and shape.

    Returns:
        The task; None where the scene has no such object, or where one is to be put is none of its free places.
    """
    if task.background or task.effect:
        return replace(task, source=source)
    if task.parts:
        parts = [asked_of(part, source) for part in task.parts]
        known = tuple(part for part in parts if part)
        return replace(task, source=source, parts=known) if len(known) == len(parts) else None
    assert task.target
    if task.category == "add":
        if any(thing.place == task.target.place for thing in source.objects):
            return None
        keys = [thing.key for thing in source.objects]
        added = replace(task.target, key=1 + max(keys)) if task.target.key in keys else task.target
        return replace(task, source=source, target=added, result=added)
    named = (task.target.colour, task.target.shape)
    found = next((thing for thing in source.objects if (thing.colour, thing.shape) == named), None)
    if found is None:
        return None
    if task.result is None:
        return replace(task, source=source, target=found)
    result = task.result
    changes: dict[str, dict[str, Any]] = {
        "recolour": {"colour": result.colour},
        "replace": {"colour": result.colour, "shape": result.shape},
        "move": {"x": result.x, "y": result.y},
        "resize": {"size": result.size},
    }
    wanted = replace(found, **changes[task.category])
    return replace(task, source=source, target=found, result=wanted)


def kinds_of_change(source: Scene, scene: Scene) -> list[str]:
    """Of each thing that changed, the category of edits that changes such."""
    before, after = ({thing.key: thing for thing in one.objects} for one in (source, scene))
    kinds = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            kinds.append("add" if old is None else "remove")
        elif old.shape != new.shape:
            kinds.append("replace")
        elif old.colour != new.colour or new.second_colour:
            kinds.append("recolour")
        elif old.size != new.size:
            kinds.append("resize")
        elif old != new:
            kinds.append("remove" if new.remnant else "move")
    if (scene.background, scene.remainder) != (source.background, source.remainder):
        kinds.append("background")
    if scene.effect != source.effect:
        kinds.append(EFFECT_CATEGORY[scene.effect or source.effect])
    return kinds


def exact_following(task: EditTask | None, source: Scene, scene: Scene) -> float:
    """The score of an edited scene by the rule, 1 to 4, a little less for more side effects.

    Args:
        task: what is asked of the source; None for an instruction that does not fit it.
        source, scene: before and after the edit.
    """
    kinds = kinds_of_change(source, scene)
    if not kinds:
        return 1.0
    if task is None:
        return (1.0 if len(kinds) == 1 else 2.0) - SIDE_EFFECT * len(kinds)
    side, short = side_effects(task, scene), shortfalls(task, scene)
    if short is not None and side + short <= 1:
        return 4.0 - side - short
    asked = {part.category for part in task.parts or (task,)}
    unrelated = short is None and side == 1 and len(kinds) == 1 and not (asked & {*kinds} or _appears(task, scene))
    return (1.0 if unrelated else 2.0) - SIDE_EFFECT * side


def _appears(task: EditTask, scene: Scene) -> bool:
    """Whether a new or changed object looks as the instruction has one come in, wherever it is."""
    if task.category not in ("add", "replace") or task.result is None:
        return False
    pairs = [thing.combination for thing in scene.objects if thing not in task.source.objects]
    return task.result.combination in pairs
