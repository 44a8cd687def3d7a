"""How well an edit follows the instruction: what is done for each score, by category.

4: what was asked for, nothing else. 3: that, with one small thing missing, inexact or changed besides. 2: something
essential is wrong or missing, or something large was changed besides. 1: nothing was changed, or something else was.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from research.open_edits.assets import Photograph, Thing
from research.open_edits.effects import DAMAGES, STYLES, TONES, Damage, Effect
from research.open_edits.quality import Edit
from research.open_edits.scenes import COLOURS, COLUMNS, ROWS, Painter, Pixels, Placed, Scene, around, differs
from research.open_edits.wordings import COLOURS as COLOUR_WORDS
from research.open_edits.wordings import PLACES, instruct

Cell: TypeAlias = tuple[int, int]
Options: TypeAlias = list[tuple[str, Scene]]
"""What may be done for a score: in words, and the scene that comes out."""

CAPS = {"the lowest fifth is left": 3, "the upper half is left": 2, "the lowest quarter keeps its colour": 3}
"""The best visual quality of edits that leave something in pieces."""
SMALL_EXTRA = 0.5
"""Size of a thing that nobody asked for, where that is the small fault."""


@dataclass(frozen=True)
class Task:
    """A source and what is asked for.

    Attributes:
        category: of the edit.
        instruction, language: the text.
        source: the scene to be edited.
        source_image: how it looks.
        make: from a score and a generator to an edit.
        names: the things that the instruction names.
    """

    category: str
    instruction: str
    language: str
    source: Scene
    source_image: Pixels
    make: Callable[[int, np.random.Generator], Edit]
    names: tuple[Thing, ...]


class Draft:
    """What a task is made of: a source with two things in two columns, and things that occur nowhere else.

    Args:
        painter: renders.
        language: of the instruction.
        rng: decides.
        photograph: the background.
        things: of different kinds: the one that is edited, the one that stays, and four others.
    """

    def __init__(
        self,
        painter: Painter,
        language: str,
        rng: np.random.Generator,
        photograph: Photograph,
        things: list[Thing],
    ) -> None:
        self.painter, self.language, self.rng = painter, language, rng
        columns = [int(column) for column in rng.permutation(3)]
        self.cell, self.other_cell, self.free_cell = ((column, int(rng.integers(3))) for column in columns)
        self.target = self.placed(things[0], self.cell)
        self.other = self.placed(things[1], self.other_cell)
        self.new, self.wrong, self.extra, self.spare = things[2:6]
        self.shift = float(rng.random())
        image = painter.assets.photographs[photograph]
        self.source = Scene(
            photograph, self.shift, float(np.clip(image.width / image.height, 0.75, 1.45)), (self.other, self.target)
        )

    def placed(self, thing: Thing, cell: Cell, size: float | None = None) -> Placed:
        """A thing in a cell."""
        chosen = float(self.rng.uniform(0.85, 1.0)) if size is None else size
        return Placed(thing, COLUMNS[cell[0]], ROWS[cell[1]], chosen, flipped=bool(self.rng.random() < 0.5))

    def small_extra(self, scene: Scene) -> Scene:
        """A scene with a small thing more, where there is room."""
        taken = {(round(one.x, 2), round(one.y, 2)) for one in scene.things}
        cells = [(c, r) for c in range(3) for r in range(3)]
        far = max(cells, key=lambda cell: min((abs(COLUMNS[cell[0]] - x) + abs(ROWS[cell[1]] - y) for x, y in taken)))
        return scene.with_(self.placed(self.extra, far, SMALL_EXTRA))

    def nudged(self, scene: Scene, thing: Placed) -> Scene:
        """A scene in which a thing was moved a little."""
        return scene.changed(thing, x=thing.x + (0.1 if thing.x < 0.5 else -0.1))

    def other_colour(self, thing: Placed, but: str | None = None) -> str:
        """A colour that a thing clearly gets."""
        opacity = np.asarray(self.painter.assets.cutouts[thing.thing].convert("RGBa").convert("RGBA"))[..., 3] > 128
        own = np.asarray(self.painter.assets.cutouts[thing.thing])[opacity][:, :3].mean(0)
        names = [name for name in COLOURS if name != but]
        far = sorted(names, key=lambda name: -float(np.abs(own - COLOURS[name]).sum()))[:4]
        if but is not None:
            far = sorted(
                far, key=lambda name: -sum(abs(a - b) for a, b in zip(COLOURS[name], COLOURS[but], strict=True))
            )[:2]
        return far[int(self.rng.integers(len(far)))]

    def background(self, but: Scene) -> Scene:
        """The scene before another photograph."""
        others = [one for one in self.painter.assets.photographs if one != but.photograph]
        return replace(but, photograph=others[int(self.rng.integers(len(others)))])

    def side_effects(self, wanted: Scene, score: int) -> Options:
        """What may be changed besides, for a score of 3 or 2."""
        other, name = self.other, self.other.thing.name
        if score == 3:
            return [
                (f"a small {self.extra.name} besides", self.small_extra(wanted)),
                (f"the {name} moved a little, too", self.nudged(wanted, other)),
            ]
        colour = self.other_colour(other)
        return [
            (f"the {name} is gone, too", wanted.without(other)),
            (f"the {name} is {colour}, too", wanted.changed(other, colour=colour)),
            ("another background, too", self.background(wanted)),
        ]

    def nothing(self) -> Options:
        """What is done where the instruction is ignored, the first one oftener."""
        colour = self.other_colour(self.other)
        name = self.other.thing.name
        unchanged = ("nothing was changed", self.source)
        return [
            unchanged,
            unchanged,
            (f"only the {name} is gone", self.source.without(self.other)),
            (f"only the {name} is {colour}", self.source.changed(self.other, colour=colour)),
            (f"only a {self.spare.name} more", self.small_extra(self.source)),
        ]

    def edit(self, score: int, done: str, scene: Scene, tool: str) -> Edit:
        """A scene as an edit of the source, with what flaws need to know."""
        size = self.source.size
        added = [one for one in scene.things if one not in self.source.things]
        lost = [one for one in self.source.things if one not in scene.things]
        under = layer = hole = None
        image = self.painter.render(scene)
        if added:
            under = self.painter.render(scene.without(added[-1]))
            layer = self.painter.layer(added[-1], size)
            if layer[..., 3].any():
                near = around(layer)
                layer[near][..., :3] = self.painter.matched(under[near], layer[near])
        if lost:
            before = self.painter.render(self.source)
            after = self.painter.render(self.source.without(*lost))
            hole = differs(before, after, 6) & ~differs(image, after, 6)
        same_place = bool(added) and any(one.thing == added[-1].thing and one.x == added[-1].x for one in lost)
        if same_place:
            under = layer = None  # it was never cut out
        cap = CAPS.get(done, 4)
        return Edit(score, done, tool, image, self.painter.render(self.source), under, layer, hole, cap=cap)

    def task(
        self, category: str, options: Callable[[int], Options], tool: str, names: tuple[Thing, ...], text: str
    ) -> Task:
        """A task whose edits are scenes."""

        def make(score: int, rng: np.random.Generator) -> Edit:
            self.rng = rng
            found = options(score)
            done, scene = found[int(rng.integers(len(found)))]
            return self.edit(score, done, scene, tool)

        image = self.painter.render(self.source)
        return Task(category, text, self.language, self.source, image, make, names)

    def say(self, kind: str, **words: tuple[str, str]) -> str:
        """The instruction."""
        return instruct(kind, self.language, self.rng, **words)

    @property
    def old_words(self) -> tuple[str, str]:
        return self.target.thing.name, self.target.thing.chinese

    @property
    def new_words(self) -> tuple[str, str]:
        return self.new.name, self.new.chinese


def add(draft: Draft) -> Task:
    """Something new at a place."""
    draft.source = draft.source.without(draft.target)
    new = draft.placed(draft.new, draft.cell)
    far = (draft.free_cell[0], 2 - draft.cell[1] if draft.cell[1] != 1 else draft.free_cell[1])
    wanted = draft.source.with_(new)
    aside = 0.15 if new.x < 0.5 or (new.x == 0.5 and draft.other.x < 0.5) else -0.15

    def options(score: int) -> Options:
        if score == 4:
            return [("as asked", wanted)]
        if score == 3:
            return [("a little off the place", wanted.changed(new, x=new.x + aside)), *draft.side_effects(wanted, 3)]
        if score == 2:
            return [
                (f"a {draft.wrong.name} in its place", wanted.changed(new, thing=draft.wrong)),
                ("at another place", wanted.changed(new, x=COLUMNS[far[0]], y=ROWS[far[1]])),
                *draft.side_effects(wanted, 2),
            ]
        return draft.nothing()

    text = draft.say("add", new=draft.new_words, place=PLACES[draft.cell])
    return draft.task("add", options, "alpha matte", (draft.new,), text)


def remove(draft: Draft) -> Task:
    """One of two things goes."""
    target = draft.target
    wanted = draft.source.without(target)

    def options(score: int) -> Options:
        if score == 4:
            return [("as asked", wanted)]
        if score == 3:
            left = draft.source.changed(target, part=(0.8, 1.0))
            return [("the lowest fifth is left", left), *draft.side_effects(wanted, 3)]
        if score == 2:
            half = draft.source.changed(target, part=(0.0, 0.55))
            return [("the upper half is left", half), *draft.side_effects(wanted, 2)]
        return draft.nothing()

    text = draft.say("remove", old=draft.old_words)
    return draft.task("remove", options, "layers", (target.thing,), text)


def exchange(draft: Draft) -> Task:
    """Another thing in the place of one."""
    target = draft.target
    new = draft.placed(draft.new, draft.cell)
    wanted = draft.source.without(target).with_(new)
    aside = 0.13 if new.x < 0.5 or (new.x == 0.5 and draft.other.x < 0.5) else -0.13

    def options(score: int) -> Options:
        if score == 4:
            return [("as asked", wanted)]
        if score == 3:
            return [("a little off the place", wanted.changed(new, x=new.x + aside)), *draft.side_effects(wanted, 3)]
        if score == 2:
            beside = draft.source.with_(replace(new, x=COLUMNS[draft.free_cell[0]], y=ROWS[draft.free_cell[1]]))
            return [
                (f"a {draft.wrong.name} in its place", wanted.changed(new, thing=draft.wrong)),
                ("put in, but the old one stays", beside),
                *draft.side_effects(wanted, 2),
            ]
        return draft.nothing()

    text = draft.say("replace", old=draft.old_words, new=draft.new_words)
    return draft.task("replace", options, "alpha matte", (target.thing, draft.new), text)


def colour(draft: Draft) -> Task:
    """A thing gets a colour."""
    target = draft.target
    asked = draft.other_colour(target)
    wanted = draft.source.changed(target, colour=asked)

    def options(score: int) -> Options:
        if score == 4:
            return [("as asked", wanted)]
        if score == 3:
            most = draft.source.without(target).with_(
                replace(target, colour=asked, part=(0.0, 0.72)), replace(target, part=(0.72, 1.0))
            )
            return [("the lowest quarter keeps its colour", most), *draft.side_effects(wanted, 3)]
        if score == 2:
            other = draft.other_colour(target, but=asked)
            return [
                (f"{other} in the place of {asked}", draft.source.changed(target, colour=other)),
                *draft.side_effects(wanted, 2),
            ]
        return draft.nothing()

    text = draft.say("colour", old=draft.old_words, colour=(asked, COLOUR_WORDS[asked]))
    return draft.task("colour", options, "Lab colour transfer", (target.thing,), text)


def move(draft: Draft) -> Task:
    """A thing goes to another place."""
    target, cell = draft.target, (draft.free_cell[0], draft.free_cell[1])
    x, y = COLUMNS[cell[0]], ROWS[cell[1]]
    wanted = draft.source.changed(target, x=x, y=y)

    def options(score: int) -> Options:
        if score == 4:
            return [("as asked", wanted)]
        if score == 3:
            share = 0.72
            near = draft.source.changed(
                target, x=target.x + share * (x - target.x), y=target.y + share * (y - target.y)
            )
            return [("not quite there", near), *draft.side_effects(wanted, 3)]
        if score == 2:
            row = 0 if target.y > 0.5 else 2
            return [
                ("moved elsewhere", draft.source.changed(target, y=ROWS[row])),
                *draft.side_effects(wanted, 2),
            ]
        return draft.nothing()

    text = draft.say("move", old=draft.old_words, place=PLACES[cell])
    return draft.task("move", options, "alpha matte", (target.thing,), text)


def resize(draft: Draft) -> Task:
    """A thing becomes larger or smaller."""
    larger = bool(draft.rng.random() < 0.5)
    target = replace(draft.target, size=0.6 if larger else 1.0)
    draft.source = draft.source.changed(draft.target, size=target.size)
    factor = 1.75 if larger else 0.48
    wanted = draft.source.changed(target, size=target.size * factor)

    def options(score: int) -> Options:
        if score == 4:
            return [("as asked", wanted)]
        if score == 3:
            little = draft.source.changed(target, size=target.size * (1.3 if larger else 0.76))
            return [("by less than asked", little), *draft.side_effects(wanted, 3)]
        if score == 2:
            wrong = draft.source.changed(target, size=target.size * (0.5 if larger else 1.5))
            return [("the other way", wrong), *draft.side_effects(wanted, 2)]
        return draft.nothing()

    text = draft.say("larger" if larger else "smaller", old=draft.old_words)
    return draft.task("resize", options, "alpha matte", (target.thing,), text)


def background(draft: Draft) -> Task:
    """Another photograph behind the things."""
    named = [
        one for one in draft.painter.assets.photographs if one.name and one.chinese and one != draft.source.photograph
    ]
    first, second = draft.rng.permutation(len(named))[:2]
    wanted, wrong = (replace(draft.source, photograph=named[number]) for number in (first, second))
    things = np.maximum.reduce(
        [draft.painter.layer(one, draft.source.size)[..., 3] > 0.5 for one in draft.source.things]
    )

    def make(score: int, rng: np.random.Generator) -> Edit:
        draft.rng = rng
        target, other = draft.target, draft.other
        colour = draft.other_colour(target)
        options: Options = {
            4: [("as asked", wanted)],
            3: [
                (f"the {target.thing.name} moved a little, too", draft.nudged(wanted, target)),
                (f"a small {draft.extra.name} besides", draft.small_extra(wanted)),
            ],
            2: [
                ("another photograph", wrong),
                (f"the {other.thing.name} is gone, too", wanted.without(other)),
                (f"the {target.thing.name} is {colour}, too", wanted.changed(target, colour=colour)),
            ],
            1: draft.nothing(),
        }[score]
        if score == 3 and rng.random() < 0.4:
            edit = draft.edit(3, "a strip of the old background is left", wanted, "layers")
            image, strip = edit.image.copy(), edit.image.shape[1] // 6
            image[:, -strip:] = edit.source[:, -strip:]
            return replace(edit, image=image, hole=None, layer=None, cap=3)
        done, scene = options[int(rng.integers(len(options)))]
        edit = replace(draft.edit(score, done, scene, "layers"), hole=None, layer=None)
        whole = scene.things == draft.source.things and scene.photograph != draft.source.photograph
        return replace(edit, things=things) if whole else edit

    photograph = named[first]
    text = draft.say("background", scene=(str(photograph.name), str(photograph.chinese)))
    image = draft.painter.render(draft.source)
    return Task("background", text, draft.language, draft.source, image, make, ())


def _effect_task(draft: Draft, category: str, effects: tuple[Effect, ...], others: tuple[Effect, ...]) -> Task:
    """The whole photograph is changed."""
    number = int(draft.rng.integers(len(effects)))
    asked, seed = effects[number], int(draft.rng.integers(1 << 16))
    source_image = draft.painter.render(draft.source)
    wrong = [one for one in effects if one.name not in (asked.name, *ALIKE.get(asked.name, ()))]
    elsewhere = [one for one in others if one.name not in ALIKE.get(asked.name, ())]

    def make(score: int, rng: np.random.Generator) -> Edit:
        draft.rng = rng
        if score == 4:
            return Edit(4, "as asked", asked.tool, asked.apply(source_image, seed), source_image)
        if score == 3:
            if rng.random() < 0.5:
                image = asked.apply(source_image, seed).copy()
                strip = image.shape[1] // 5
                image[:, -strip:] = source_image[:, -strip:]
                return Edit(3, "a strip at the right keeps its looks", asked.tool, image, source_image, cap=3)
            scene = draft.small_extra(draft.source)
            image = asked.apply(draft.painter.render(scene), seed)
            return Edit(3, f"a small {draft.extra.name} besides", asked.tool, image, source_image)
        if score == 2:
            if rng.random() < 0.5:
                one = wrong[int(rng.integers(len(wrong)))]
                return Edit(2, f"{one.name} in its place", one.tool, one.apply(source_image, seed), source_image)
            done, scene = draft.side_effects(draft.source, 2)[int(rng.integers(3))]
            return Edit(2, done, asked.tool, asked.apply(draft.painter.render(scene), seed), source_image)
        if rng.random() < 0.25:
            one = elsewhere[int(rng.integers(len(elsewhere)))]
            return Edit(1, f"only {one.name}", one.tool, one.apply(source_image, seed), source_image)
        found = draft.nothing()
        done, scene = found[int(rng.integers(len(found)))]
        return draft.edit(1, done, scene, "alpha matte")

    text = draft.say(category, effect=(asked.english, asked.chinese))
    return Task(category, text, draft.language, draft.source, source_image, make, ())


ALIKE = {
    "painting": ("watercolour",),
    "watercolour": ("painting", "comic"),
    "comic": ("watercolour",),
    "pencil": ("black and white",),
    "black and white": ("old photo", "pencil"),
    "old photo": ("black and white", "evening"),
    "evening": ("old photo",),
    "fog": ("snow",),
    "snow": ("fog", "rain"),
    "rain": ("snow",),
}
"""Effects that might be taken for each other."""


def style(draft: Draft) -> Task:
    """The photograph becomes a picture of another kind."""
    return _effect_task(draft, "style", STYLES, TONES)


def tone(draft: Draft) -> Task:
    """Other light, colours or weather."""
    return _effect_task(draft, "tone", TONES, STYLES)


def restore(draft: Draft) -> Task:
    """A bad photograph becomes a good one."""
    damage: Damage = DAMAGES[int(draft.rng.integers(len(DAMAGES)))]
    seed = int(draft.rng.integers(1 << 16))
    clean = draft.painter.render(draft.source)
    bad = damage.apply(clean, seed, 1.0)

    def damaged(scene: Scene, strength: float) -> Pixels:
        return damage.apply(draft.painter.render(scene), seed, strength)

    def make(score: int, rng: np.random.Generator) -> Edit:
        draft.rng = rng
        if score == 4:
            return Edit(4, "as asked", "original", clean, bad)
        if score == 3:
            if damage.name != "blur" and rng.random() < 0.5:
                return Edit(3, "mended for the most part", damage.tool, damage.mend(bad), bad, cap=3)
            return Edit(3, f"a little {damage.name} is left", "original", damaged(draft.source, 0.3), bad, cap=3)
        if score == 2:
            if rng.random() < 0.4:
                return Edit(
                    2, f"most of the {damage.name} is left", "original", damaged(draft.source, 0.75), bad, cap=2
                )
            done, scene = draft.side_effects(draft.source, 2)[int(rng.integers(3))]
            return Edit(2, done, "original", draft.painter.render(scene), bad)
        found = draft.nothing()
        done, scene = found[int(rng.integers(len(found)))]
        return Edit(1, done, "alpha matte", damaged(scene, 1.0), bad, cap=2)

    text = draft.say("restore", damage=(damage.english, damage.chinese))
    return Task("restore", text, draft.language, draft.source, bad, make, ())


CATEGORIES: dict[str, tuple[Callable[[Draft], Task], int]] = {
    "add": (add, 50),
    "remove": (remove, 40),
    "replace": (exchange, 45),
    "colour": (colour, 40),
    "move": (move, 25),
    "resize": (resize, 15),
    "background": (background, 25),
    "style": (style, 20),
    "tone": (tone, 25),
    "restore": (restore, 15),
}
"""What makes a task of each category, and how many groups of 300 are of it."""


def categories() -> Iterator[str]:
    """The categories of the groups, in turn, evenly mixed."""
    slots = [((index + 0.5) / count, name) for name, (_, count) in CATEGORIES.items() for index in range(count)]
    while True:
        yield from (name for _, name in sorted(slots))
