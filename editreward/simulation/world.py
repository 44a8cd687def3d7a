"""The simulated world: objects on a 3 x 3 grid of named places in front of a named background, and its words."""

from dataclasses import dataclass

SHAPES: dict[str, str] = {
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "star": "五角星",
    "heart": "爱心",
    "diamond": "菱形",
    "cross": "十字",
    "ring": "圆环",
    "crescent": "月牙",
    "arrow": "箭头",
}
"""Shape names: English to Chinese."""

COLOURS: dict[str, str] = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "cyan": "青色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "black": "黑色",
}
"""Colour names: English to Chinese."""

SIZES: dict[str, float] = {
    name: px / 112 for name, px in zip(("tiny", "small", "medium", "large", "huge"), (9, 16, 23, 31, 41), strict=True)
}
"""Object diameters as fractions of the image side. Sources use small, medium and large; the others are faults."""

SIZE_NAMES_ZH: dict[str, str] = {"tiny": "极小", "small": "小", "medium": "中等大小", "large": "大", "huge": "巨大"}

PLACES: dict[str, str] = {
    "top left": "左上角",
    "top centre": "上方中间",
    "top right": "右上角",
    "middle left": "左侧中间",
    "centre": "正中央",
    "middle right": "右侧中间",
    "bottom left": "左下角",
    "bottom centre": "下方中间",
    "bottom right": "右下角",
}
"""Place names, row by row: English to Chinese. A place is an index 0..8 into these."""

PLACE_NAMES: tuple[str, ...] = tuple(PLACES)

PATTERNS: dict[str, tuple[str, str]] = {
    "plain": ("plain {tone}", "纯{tone}"),
    "gradient": ("a {tone} gradient", "{tone}渐变"),
    "stripes": ("{tone} stripes", "{tone}条纹"),
    "checkerboard": ("a {tone} checkerboard", "{tone}棋盘格"),
    "dots": ("{tone} dots", "{tone}圆点"),
    "horizon": ("a {tone} horizon", "{tone}地平线"),
    "speckles": ("{tone} speckles", "{tone}麻点"),
}
"""Background patterns: the English and the Chinese phrase."""

TONES: dict[str, str] = {
    "grey": "灰色",
    "beige": "米色",
    "pale green": "浅绿色",
    "pale blue": "浅蓝色",
    "lilac": "淡紫色",
    "pale pink": "浅粉色",
}
"""Background tones, all muted: English to Chinese."""

OWN = "own"
"""The colour of a drawing that keeps its own colours. No word of an instruction."""

SUBJECTS: dict[str, tuple[str, str]] = {
    "underwater": ("an underwater scene", "水下景色"),
    "windmill": ("a windmill", "风车"),
    "solar panels": ("solar panels", "太阳能板"),
    "dam": ("a dam", "水坝"),
    "pyramid": ("a pyramid", "金字塔"),
    "castle": ("a castle", "城堡"),
    "church": ("a church", "教堂"),
    "tower": ("a tower", "高塔"),
    "gate": ("a monumental gate", "纪念性大门"),
    "ruins": ("ancient ruins", "古代遗迹"),
    "statue": ("a statue", "雕像"),
    "mountains": ("a mountain landscape", "山景"),
    "animal": ("an animal", "动物"),
}
"""What photographs show: the English and the Chinese phrase. Such a background has no tone."""

EFFECTS: dict[str, dict[str, tuple[str, str]]] = {
    "style": {
        "pencil sketch": ("a pencil sketch", "铅笔素描"),
        "comic": ("a comic drawing", "漫画"),
        "blueprint": ("a blueprint", "蓝图"),
        "pop art": ("a pop-art print", "波普艺术画"),
    },
    "tone": {
        "black and white": ("a black-and-white photo", "黑白照片"),
        "sepia": ("a sepia photo", "棕褐色老照片"),
        "night": ("a night scene", "夜景"),
        "negative": ("a photo negative", "底片"),
    },
    "weather": {
        "snow": ("snow", "雪"),
        "rain": ("rain", "雨"),
        "fog": ("fog", "雾"),
        "sunbeams": ("sunbeams", "阳光"),
    },
}
"""Edits of a whole picture, by category: names, with the English and the Chinese phrase."""

EFFECT_CATEGORY: dict[str, str] = {effect: category for category, effects in EFFECTS.items() for effect in effects}

HELD_OUT_COMBINATIONS: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "star"),
        ("red", "crescent"),
        ("orange", "square"),
        ("yellow", "ring"),
        ("green", "circle"),
        ("green", "arrow"),
        ("cyan", "heart"),
        ("blue", "triangle"),
        ("blue", "cross"),
        ("purple", "diamond"),
        ("pink", "square"),
        ("black", "circle"),
    }
)
"""(colour, shape) pairs that no train or validation scene, edit or instruction ever shows."""

ALL_COMBINATIONS: tuple[tuple[str, str], ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
TRAIN_COMBINATIONS: tuple[tuple[str, str], ...] = tuple(c for c in ALL_COMBINATIONS if c not in HELD_OUT_COMBINATIONS)

LANGUAGE_ORDER = ("en", "zh")
"""Of the phrases of backgrounds and effects."""

OFF_PLACE = 0.45
"""How far a half-cell shift goes, in cells."""


@dataclass(frozen=True)
class Background:
    """A named background: a pattern of `PATTERNS` in a tone of `TONES`, or a photograph of one of `SUBJECTS`.

    Args:
        pattern, tone: what it is called. A photograph has an empty tone.
        variant: which of those of that name: photograph, crop and light.
    """

    pattern: str
    tone: str
    variant: int = 0

    @property
    def look(self) -> tuple[str, str]:
        """What it is called."""
        return self.pattern, self.tone


@dataclass(frozen=True)
class SceneObject:
    """One object.

    Args:
        key: identity within a group: an object keeps it through every edit of the source.
        colour, shape, size: names of `COLOURS` (or `OWN`), of `SHAPES` or of what the collage world draws, of `SIZES`.
        x, y: centre as a fraction of the image side.
        second_colour: colour of the lower half, where only half of the area was recoloured.
        remnant: only the bottom of the object is left, where a removal was incomplete.
    """

    key: int
    colour: str
    shape: str
    size: str
    x: float
    y: float
    second_colour: str | None = None
    remnant: bool = False

    @property
    def combination(self) -> tuple[str, str]:
        """The (colour, shape) pair."""
        return self.colour, self.shape

    @property
    def place(self) -> int:
        """Index of the nearest place, 0..8."""
        return 3 * min(int(self.y * 3), 2) + min(int(self.x * 3), 2)

    @property
    def position(self) -> tuple[int, int]:
        """The place and the neighbouring place that the object leans to by about half a cell (else the same twice)."""
        place = self.place
        right = self.x * 3 - (place % 3 + 0.5)
        down = self.y * 3 - (place // 3 + 0.5)
        if max(abs(right), abs(down)) < OFF_PLACE / 2:
            return place, place
        if abs(right) >= abs(down):
            return place, place + (1 if right > 0 else -1)
        return place, place + (3 if down > 0 else -3)


@dataclass(frozen=True)
class Scene:
    """Objects in front of a background.

    Args:
        objects, background: what is shown.
        remainder: fills the right third where a background change stopped short.
        world: name of the world that draws it.
        style: how the world draws objects, where it has several ways.
        effect: of `EFFECTS`, over the whole picture; empty for none.
        effect_stops: the effect leaves out the right third.
    """

    objects: tuple[SceneObject, ...]
    background: Background
    remainder: Background | None = None
    world: str = "shapes"
    style: str = ""
    effect: str = ""
    effect_stops: bool = False

    def signature(self) -> tuple[object, ...]:
        """What the scene shows, free of identities, drawing order and jitter: equal for scenes that look the same."""
        looks = [(o.shape, o.colour, o.size, o.position, o.second_colour or "", o.remnant) for o in self.objects]
        remainder = self.remainder.look if self.remainder else None
        return tuple(sorted(looks)), self.background.look, remainder, self.effect, self.effect_stops


def neighbours(place: int) -> list[int]:
    """Places that share a side with `place`."""
    return [other for other in range(9) if place_distance(place, other) == 1]


def place_distance(first: int, second: int) -> int:
    """Steps between two places of the grid, horizontally plus vertically."""
    return abs(first % 3 - second % 3) + abs(first // 3 - second // 3)


def with_article(phrase: str) -> str:
    """`phrase` with the English indefinite article."""
    if phrase.startswith("hour") or (phrase[0] in "aeiou" and not phrase.startswith("unicorn")):
        return f"an {phrase}"
    return f"a {phrase}"


def named(colour: str, thing: str) -> str:
    """An object's colour and name in English, without the colour where it is its own."""
    return thing if colour == OWN else f"{colour} {thing}"


def background_name(background: Background, language: str = "en") -> str:
    """The background's phrase in `language` ("en" or "zh")."""
    if background.pattern in SUBJECTS:
        return SUBJECTS[background.pattern][LANGUAGE_ORDER.index(language)]
    if language == "zh":
        return PATTERNS[background.pattern][1].format(tone=TONES[background.tone])
    return PATTERNS[background.pattern][0].format(tone=background.tone)


def effect_name(effect: str, language: str = "en") -> str:
    """The phrase of an effect in `language` ("en" or "zh")."""
    return EFFECTS[EFFECT_CATEGORY[effect]][effect][LANGUAGE_ORDER.index(language)]


def _position_phrase(thing: SceneObject) -> str:
    place, other = thing.position
    if place == other:
        return f"at the {PLACE_NAMES[place]}"
    return f"between the {PLACE_NAMES[place]} and the {PLACE_NAMES[other]}"


def _object_phrase(thing: SceneObject) -> str:
    if thing.second_colour:
        if OWN in (thing.colour, thing.second_colour):
            halves = f"half {_colour_words(thing.colour)} and half {_colour_words(thing.second_colour)}"
            phrase = with_article(f"{thing.size} {thing.shape} ({halves})")
        else:
            phrase = with_article(f"{thing.size} half {thing.colour} and half {thing.second_colour} {thing.shape}")
    else:
        phrase = with_article(f"{thing.size} {named(thing.colour, thing.shape)}")
    return f"the remains of {phrase}" if thing.remnant else phrase


def _background_phrase(scene: Scene) -> str:
    phrase = background_name(scene.background)
    return f"{phrase}, its right third {background_name(scene.remainder)}" if scene.remainder else phrase


def describe_scene(scene: Scene) -> str:
    """An English caption: every object with its size, colour, shape and place, the background, then any effect."""
    objects = ", ".join(f"{_object_phrase(thing)} {_position_phrase(thing)}" for thing in scene.objects)
    caption = f"{objects or 'no objects'}; background: {_background_phrase(scene)}"
    if not scene.effect:
        return caption
    return f"{caption}; {EFFECT_CATEGORY[scene.effect]}: {effect_name(scene.effect)}{_extent(scene)}"


def _extent(scene: Scene) -> str:
    return " in the left part" if scene.effect_stops else ""


def _colour_words(colour: str) -> str:
    return "its own colours" if colour == OWN else colour


def _object_changes(before: SceneObject, after: SceneObject) -> list[str]:
    if after.remnant:
        return ["mostly disappeared"]
    changes = []
    if after.shape != before.shape:
        changes.append(f"became {with_article(named(after.colour, after.shape))}")
    elif after.colour != before.colour:
        changes.append(f"became {_colour_words(after.colour)}")
    if after.second_colour:
        changes.append(f"became {_colour_words(after.second_colour)} in its lower half")
    if after.size != before.size:
        grew = SIZES[after.size] > SIZES[before.size]
        changes.append(f"{'grew' if grew else 'shrank'} from {before.size} to {after.size}")
    if after.position != before.position:
        where = _position_phrase(after).removeprefix("at ")
        changes.append(f"moved to {where}")
    return changes


def describe_change(source: Scene, edited: Scene) -> str:
    """An English sentence telling how two scenes of a group differ ("nothing changed" where they do not)."""
    after = {thing.key: thing for thing in edited.objects}
    known = {thing.key for thing in source.objects}
    clauses = []
    for thing in source.objects:
        name = f"the {named(thing.colour, thing.shape)}"
        if thing.key not in after:
            clauses.append(f"{name} disappeared")
        elif changes := _object_changes(thing, after[thing.key]):
            clauses.append(f"{name} {' and '.join(changes)}")
    clauses += [f"{_object_phrase(o)} appeared {_position_phrase(o)}" for o in edited.objects if o.key not in known]
    if (edited.background, edited.remainder) != (source.background, source.remainder):
        extent = "the left part of the background" if edited.remainder else "the background"
        clauses.append(f"{extent} became {background_name(edited.background)}")
    if edited.effect:
        name = effect_name(edited.effect)
        appeared = EFFECT_CATEGORY[edited.effect] == "weather"
        clauses.append(f"{f'{name} appeared' if appeared else f'the picture became {name}'}{_extent(edited)}")
    return "; ".join(clauses) or "nothing changed"
