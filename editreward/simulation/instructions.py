"""Instruction wordings for every category, in English and Chinese.

Placeholders: {target} the object meant ("the red circle"), {colour} a colour, {object} an object to add with size and
article, {new} a replacement with article, {place} a place, {size} a size, {comparative}, {verb} and {factor} words for
growing or shrinking, {background} a background, {style}, {tone}, {weather} what the whole picture should look like.
"""

import re
from dataclasses import dataclass
from random import Random

CATEGORIES: tuple[str, ...] = ("recolour", "add", "remove", "replace", "move", "resize", "background")
"""Of the world of shapes."""
COLLAGE_CATEGORIES: tuple[str, ...] = (*CATEGORIES, "style", "tone", "weather", "several")
"""Of the collage world. "several" asks for two edits of single objects."""
LANGUAGES: tuple[str, ...] = ("en", "zh")


@dataclass(frozen=True)
class Wordings:
    """Wordings of one category in one language.

    The training split says things in more ways than `train`, see `varied_wording`; the validation split and half of
    the test split use `train` as it stands; `held_out` ones occur only in the test split.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]


WORDINGS: dict[tuple[str, str], Wordings] = {
    ("recolour", "en"): Wordings(
        train=(
            "Make {target} {colour}.",
            "Change the colour of {target} to {colour}.",
            "Turn {target} {colour}.",
            "Paint {target} {colour}.",
            "Recolour {target} in {colour}.",
            "{target} should be {colour}.",
        ),
        held_out=(
            "I would like to see {target} in {colour} instead.",
            "Give {target} a {colour} finish and leave the rest alone.",
        ),
    ),
    ("add", "en"): Wordings(
        train=(
            "Add {object} at the {place}.",
            "Put {object} at the {place}.",
            "Draw {object} at the {place} of the picture.",
            "Insert {object} at the {place}.",
            "There should be {object} at the {place}.",
            "At the {place}, add {object}.",
        ),
        held_out=(
            "The {place} looks empty: let {object} appear there.",
            "Could you place {object} over at the {place}?",
        ),
    ),
    ("remove", "en"): Wordings(
        train=(
            "Remove {target}.",
            "Delete {target} from the picture.",
            "Take {target} away.",
            "Erase {target}.",
            "Get rid of {target}.",
            "The picture should not show {target}.",
        ),
        held_out=(
            "I don't want {target} in here any more.",
            "Please make {target} vanish.",
        ),
    ),
    ("replace", "en"): Wordings(
        train=(
            "Replace {target} with {new}.",
            "Swap {target} for {new}.",
            "Turn {target} into {new}.",
            "Put {new} in place of {target}.",
            "Change {target} into {new}.",
            "Instead of {target}, show {new}.",
        ),
        held_out=(
            "Where {target} is now, I want {new}.",
            "Exchange {target}: {new} belongs there.",
        ),
    ),
    ("move", "en"): Wordings(
        train=(
            "Move {target} to the {place}.",
            "Shift {target} to the {place}.",
            "Put {target} at the {place}.",
            "Place {target} at the {place} instead.",
            "Drag {target} over to the {place}.",
            "{target} should be at the {place}.",
        ),
        held_out=(
            "Relocate {target}; it belongs at the {place}.",
            "Let {target} take the spot at the {place}.",
        ),
    ),
    ("resize", "en"): Wordings(
        train=(
            "Make {target} much {comparative}.",
            "Make {target} {size}.",
            "{verb} {target} to {factor} its size.",
            "Change the size of {target} to {size}.",
            "Turn {target} into a {size} one.",
            "Resize {target} so that it is {size}.",
        ),
        held_out=(
            "{target} ought to have {factor} its present size.",
            "Scale {target} until it counts as {size}.",
        ),
    ),
    ("background", "en"): Wordings(
        train=(
            "Change the background to {background}.",
            "Replace the background with {background}.",
            "Make the background {background}.",
            "Use {background} as the background.",
            "Set the background to {background}.",
            "The background should be {background}.",
        ),
        held_out=(
            "Keep all objects, but put {background} behind them.",
            "I'd prefer {background} for a backdrop.",
        ),
    ),
    ("recolour", "zh"): Wordings(
        train=(
            "把{target}变成{colour}。",
            "将{target}的颜色改为{colour}。",
            "把{target}涂成{colour}。",
            "让{target}变为{colour}。",
            "请把{target}改成{colour}。",
        ),
        held_out=(
            "我希望{target}看起来是{colour}的。",
            "给{target}换上{colour},其他不变。",
        ),
    ),
    ("add", "zh"): Wordings(
        train=(
            "在{place}添加{object}。",
            "在{place}画{object}。",
            "在图片的{place}加上{object}。",
            "请在{place}放{object}。",
            "{place}应该有{object}。",
        ),
        held_out=(
            "{place}太空了,让那里出现{object}。",
            "能不能在{place}摆上{object}?",
        ),
    ),
    ("remove", "zh"): Wordings(
        train=(
            "删除{target}。",
            "把{target}去掉。",
            "移除图中的{target}。",
            "擦掉{target}。",
            "请把{target}删掉。",
        ),
        held_out=(
            "我不想再看到{target}了。",
            "让{target}从画面里消失。",
        ),
    ),
    ("replace", "zh"): Wordings(
        train=(
            "把{target}换成{new}。",
            "用{new}替换{target}。",
            "将{target}替换为{new}。",
            "把{target}变成{new}。",
            "请将{target}改为{new}。",
        ),
        held_out=(
            "{target}所在的地方,我想要{new}。",
            "不要{target},那里放{new}。",
        ),
    ),
    ("move", "zh"): Wordings(
        train=(
            "把{target}移到{place}。",
            "将{target}移动到{place}。",
            "把{target}放到{place}。",
            "请把{target}挪到{place}。",
            "{target}应该在{place}。",
        ),
        held_out=(
            "给{target}换个位置,放在{place}。",
            "让{target}待在{place}。",
        ),
    ),
    ("resize", "zh"): Wordings(
        train=(
            "让{target}变{comparative}很多。",
            "把{target}{verb}到原来的{factor}。",
            "将{target}的尺寸改为{size}。",
            "把{target}改成{size}的。",
            "请{verb}{target},使其尺寸为{size}。",
        ),
        held_out=(
            "{target}应当是现在大小的{factor}。",
            "调整{target},直到它算得上{size}。",
        ),
    ),
    ("background", "zh"): Wordings(
        train=(
            "把背景换成{background}。",
            "将背景改为{background}。",
            "背景使用{background}。",
            "请把背景设为{background}。",
            "用{background}替换背景。",
        ),
        held_out=(
            "保留所有物体,在它们后面铺上{background}。",
            "我更喜欢以{background}作衬底。",
        ),
    ),
}
"""(category, language) to its wordings."""

MORE_WORDINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("recolour", "en"): (
        "{target} needs to be {colour}.",
        "Dye {target} {colour}.",
        "The colour of {target} should become {colour}.",
        "Can {target} be {colour}?",
        "I want {target} {colour}.",
        "Use {colour} for {target}.",
        "Let {target} be {colour}.",
        "{colour}, that is what {target} should be.",
        "Edit {target} so that it is {colour}.",
    ),
    ("add", "en"): (
        "I need {object} at the {place}.",
        "Show {object} at the {place}.",
        "Let there be {object} at the {place}.",
        "Include {object} at the {place}.",
        "{object} is missing at the {place}.",
        "Paint {object} at the {place}.",
        "Create {object} and set it at the {place}.",
        "The {place} should have {object}.",
        "How about {object} at the {place}?",
    ),
    ("remove", "en"): (
        "{target} should go.",
        "Cut {target} out.",
        "Hide {target}.",
        "Clear {target} from the image.",
        "Wipe {target} out.",
        "Show the scene without {target}.",
        "There should be no {target}: take it out.",
        "Leave out {target}.",
        "{target} is not needed.",
        "Can you lose {target}?",
        "Drop {target}.",
        "I can do without {target}.",
    ),
    ("replace", "en"): (
        "{target} should become {new}.",
        "Make {target} into {new}.",
        "Substitute {new} for {target}.",
        "Show {new}, not {target}.",
        "Take {target} out and put {new} there.",
        "Trade {target} for {new}.",
        "{new} should stand where {target} stands.",
        "Let {new} take over from {target}.",
        "Convert {target} to {new}.",
    ),
    ("move", "en"): (
        "Bring {target} to the {place}.",
        "{target} goes to the {place}.",
        "Transfer {target} to the {place}.",
        "Set {target} at the {place}.",
        "I want {target} at the {place}.",
        "Take {target} over to the {place}.",
        "Push {target} to the {place}.",
        "The {place} is where {target} should be.",
        "Carry {target} to the {place}.",
    ),
    ("resize", "en"): (
        "{target} should be {size}.",
        "{target} should be much {comparative}.",
        "I want {target} to be {comparative}.",
        "Give {target} a {size} size.",
        "{target} needs {factor} the size.",
        "Let {target} be {size}.",
        "{verb} {target} a lot.",
        "Adjust {target} to be {size}.",
        "Show {target} at {factor} the size.",
    ),
    ("background", "en"): (
        "Let the background be {background}.",
        "I want {background} as background.",
        "Give the picture {background} as its background.",
        "Swap the background for {background}.",
        "The scene needs {background} in the background.",
        "Behind everything there should be {background}.",
        "Paint the background: {background}.",
        "Show everything in front of {background}.",
        "{background} should fill the background.",
    ),
    ("recolour", "zh"): (
        "{target}应该是{colour}。",
        "想要{target}是{colour}。",
        "{target}改用{colour}。",
        "把{target}的颜色调成{colour}。",
        "用{colour}给{target}上色。",
        "{target}染成{colour}。",
    ),
    ("add", "zh"): (
        "{place}加{object}。",
        "我要在{place}有{object}。",
        "{place}缺{object}。",
        "在{place}插入{object}。",
        "给{place}添上{object}。",
        "{place}再来{object}。",
    ),
    ("remove", "zh"): (
        "不要{target}。",
        "{target}不需要了。",
        "去除{target}。",
        "把{target}拿走。",
        "清除{target}。",
        "图里别有{target}。",
        "{target}应该去掉。",
        "抹去{target}。",
    ),
    ("replace", "zh"): (
        "{target}应该是{new}。",
        "{target}改成{new}。",
        "拿{new}代替{target}。",
        "去掉{target},换成{new}。",
        "我要{new},而不是{target}。",
        "{new}取代{target}。",
    ),
    ("move", "zh"): (
        "{target}移到{place}去。",
        "我要{target}在{place}。",
        "将{target}拖到{place}。",
        "{target}搬到{place}。",
        "把{target}的位置改到{place}。",
        "{place}才是{target}的位置。",
    ),
    ("resize", "zh"): (
        "{target}应该是{size}。",
        "{target}要{comparative}一些。",
        "{verb}{target}。",
        "我要{target}变成{size}。",
        "{target}改为原来的{factor}。",
        "使{target}更{comparative}。",
    ),
    ("background", "zh"): (
        "背景应该是{background}。",
        "背景改用{background}。",
        "我要{background}做背景。",
        "背景变成{background}。",
        "让背景是{background}。",
        "后面的背景要{background}。",
    ),
}
"""Wordings of the training split beside `WORDINGS`."""

EFFECT_WORDINGS: dict[tuple[str, str], Wordings] = {
    ("style", "en"): Wordings(
        train=(
            "Turn the picture into {style}.",
            "Make the whole image look like {style}.",
            "Redraw this as {style}.",
            "Change the style to {style}.",
            "The picture should look like {style}.",
            "Convert the image to {style}.",
        ),
        held_out=("Imagine an artist made {style} of this scene.", "I'd love to have {style} of it."),
    ),
    ("style", "zh"): Wordings(
        train=(
            "把图片变成{style}。",
            "将整张图改为{style}风格。",
            "把画面画成{style}。",
            "图片应该像{style}。",
            "请把它转换成{style}。",
        ),
        held_out=("我想要这个场景的{style}效果。", "假如由画家来画,请画成{style}。"),
    ),
    ("tone", "en"): Wordings(
        train=(
            "Make it {tone}.",
            "Change the photo into {tone}.",
            "Turn this into {tone}.",
            "Give the picture the colours of {tone}.",
            "The image should be {tone}.",
            "Let it look like {tone}.",
        ),
        held_out=("Grade the whole shot so that it passes for {tone}.", "What would this be like as {tone}? Show me."),
    ),
    ("tone", "zh"): Wordings(
        train=(
            "把它变成{tone}。",
            "将照片改为{tone}。",
            "让图片看起来像{tone}。",
            "整张图应该是{tone}。",
            "请调成{tone}的色调。",
        ),
        held_out=("把整个镜头调得像{tone}一样。", "如果这是{tone}会怎样?给我看看。"),
    ),
    ("weather", "en"): Wordings(
        train=(
            "Add {weather} to the scene.",
            "Change the weather: there should be {weather}.",
            "Let there be {weather}.",
            "Show {weather} over the whole picture.",
            "Put {weather} into the picture.",
            "The scene should have {weather}.",
        ),
        held_out=("The sky has other plans: {weather} everywhere.", "Make the forecast come true: {weather}."),
    ),
    ("weather", "zh"): Wordings(
        train=(
            "给场景加上{weather}。",
            "改变天气:应该有{weather}。",
            "让画面里有{weather}。",
            "整张图都要有{weather}。",
            "在图中添加{weather}。",
        ),
        held_out=("天气变了,到处都是{weather}。", "让天气预报成真:{weather}。"),
    ),
}
"""Wordings of the edits of a whole picture, which only the collage world has."""

MORE_EFFECT_WORDINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("style", "en"): (
        "Render this as {style}.",
        "I want {style} instead of a photo.",
        "Transform everything into {style}.",
        "Restyle the image: {style}.",
        "Show the scene as {style}.",
        "Can this be {style}?",
    ),
    ("style", "zh"): (
        "图片改成{style}。",
        "我要{style}的效果。",
        "把整个画面转为{style}。",
        "用{style}的风格重画。",
        "图像风格:{style}。",
        "让它成为{style}。",
    ),
    ("tone", "en"): (
        "I want {tone}.",
        "Change the tone: {tone}.",
        "Show the scene as {tone}.",
        "Adjust the colours to get {tone}.",
        "Can this become {tone}?",
        "Edit the light and colours: {tone}.",
    ),
    ("tone", "zh"): (
        "我要{tone}。",
        "色调改为{tone}。",
        "把颜色调成{tone}。",
        "画面改用{tone}的颜色。",
        "让它变为{tone}。",
        "图片应该像{tone}。",
    ),
    ("weather", "en"): (
        "I want {weather} in this picture.",
        "Make it a day with {weather}.",
        "There should be {weather} all over.",
        "Cover the scene with {weather}.",
        "The weather should bring {weather}.",
        "Can you add {weather}?",
    ),
    ("weather", "zh"): (
        "我要画面里有{weather}。",
        "天气改为{weather}。",
        "图里应该有{weather}。",
        "加上{weather}。",
        "让场景有{weather}。",
        "整个画面加{weather}的效果。",
    ),
}
"""Wordings of the training split beside `EFFECT_WORDINGS`."""

JOINERS: dict[str, Wordings] = {
    "en": Wordings(
        train=(
            "{first}, and {second}.",
            "{first}. Then {second}.",
            "{first}; also, {second}.",
            "Two changes: {first}, and {second}.",
            "First: {first}. Second: {second}.",
        ),
        held_out=("{first}. While you are at it, {second}.", "Both of these, please: {first}; {second}."),
    ),
    "zh": Wordings(
        train=(
            "{first},然后{second}。",
            "{first},并且{second}。",
            "{first};另外,{second}。",
            "两处修改:{first},{second}。",
            "第一,{first};第二,{second}。",
        ),
        held_out=("{first},顺便{second}。", "下面两件事都要做:{first};{second}。"),
    ),
}
"""How two instructions become one, by language."""

OPENINGS: dict[str, tuple[str, ...]] = {
    "en": ("Please: ", "Could you do this? ", "In this picture: ", "Just this: ", "Now, ", "One change: ", "Hi! "),
    "zh": ("麻烦你,", "帮我改一下:", "你好,", "在这张图里,", "现在,", "只改一处:"),
}
CLOSINGS: dict[str, tuple[str, ...]] = {
    "en": (" Thanks!", " Everything else stays.", " That is all.", " Nothing else.", " Be precise."),
    "zh": ("谢谢!", "别的都保持原样。", "就这些。", "请精确一点。"),
}
FILLERS: dict[str, tuple[str, ...]] = {
    "en": tuple(
        "so then and with for that this my we you it is are can will must do try go find fix set really maybe only "
        "again some other next first picture image scene view edit version result task idea plan work feels wanted "
        "done made got".split()
    ),
    "zh": tuple("我你这就要想会该也还都很更先后来去做改用成为有到处图像画景请试样点快好新对着过吗吧呢了的"),
}
"""Words (Chinese: characters) that say nothing of what to do."""
SYLLABLES: dict[str, tuple[str, ...]] = {
    "en": ("ba", "ko", "ri", "mu", "ste", "lan", "vor", "ti", "qua", "zen", "ple", "dro"),
    "zh": tuple("甲乙丙丁山水火土木石云雨雪风江河湖海鸟鱼虫草花树瓜米豆茶"),
}
"""What made-up words are made of."""


def wordings_of(category: str, language: str) -> Wordings:
    """The wordings of a category of any world, in a language."""
    return (EFFECT_WORDINGS if (category, language) in EFFECT_WORDINGS else WORDINGS)[category, language]


def more_wordings_of(category: str, language: str) -> tuple[str, ...]:
    """Those that only the training split has."""
    more = MORE_EFFECT_WORDINGS if (category, language) in MORE_EFFECT_WORDINGS else MORE_WORDINGS
    return more[category, language]


def joined(first: str, second: str, joiner: str) -> str:
    """Two filled wordings as one instruction."""
    parts = [re.sub(r"[.?。]+$", "", part) for part in (first, second)]
    if not joiner.startswith("{first}") and not parts[0].startswith(("I ", "I'")):
        parts[0] = parts[0][0].lower() + parts[0][1:]
    if not parts[1].startswith(("I ", "I'")):
        parts[1] = parts[1][0].lower() + parts[1][1:]
    return fill_wording(joiner, {"first": parts[0], "second": parts[1]})


def varied_wording(category: str, language: str, rng: Random) -> str:
    """A wording of the training split: one of many, at times with a phrase before or after it or made-up words in it,
    at times no sentence at all, only what it is about in any order among words that say nothing.

    Whoever has read only a few verbs learns them by heart. Many, and words that nobody knows, teach to see from the
    rest of the sentence what is asked: the things named tell all categories apart.
    """
    wording = rng.choice((*wordings_of(category, language).train, *more_wordings_of(category, language)))
    draw = rng.random()
    if draw < 0.2:
        wording = _scattered(wording, language, rng)
    elif draw < 0.45:
        wording = _with_made_up_words(wording, language, rng)
    if rng.random() < 0.3:
        wording = rng.choice(OPENINGS[language]) + wording
    if rng.random() < 0.2:
        wording += rng.choice(CLOSINGS[language])
    return wording


def _made_up_word(language: str, rng: Random) -> str:
    return "".join(rng.choices(SYLLABLES[language], k=rng.randint(1, 3)))


def _scattered(wording: str, language: str, rng: Random) -> str:
    """The placeholders of a wording in any order, with up to three words that say nothing before and after each."""
    placeholders = re.findall(r"{\w+}", wording)
    rng.shuffle(placeholders)
    parts: list[str] = []
    for placeholder in (*placeholders, ""):
        for _ in range(rng.randint(0, 3)):
            parts.append(rng.choice(FILLERS[language]) if rng.random() < 0.7 else _made_up_word(language, rng))
        parts.append(placeholder)
    return f"{' '.join(filter(None, parts))}." if language == "en" else f"{''.join(parts)}。"


def _with_made_up_words(wording: str, language: str, rng: Random) -> str:
    """The wording with one to three of its words made up. Placeholders and what belongs to them stay."""
    plain = r"(?<![^ ])[A-Za-z']+(?![^ .?])" if language == "en" else r"[\u4e00-\u9fff]{1,2}(?![^{]*})"
    words = list(re.finditer(plain, wording))
    for word in sorted(rng.sample(words, min(len(words), rng.randint(1, 3))), key=lambda word: -word.start()):
        wording = wording[: word.start()] + _made_up_word(language, rng) + wording[word.end() :]
    return wording


RESIZE_WORDS: dict[tuple[str, str], dict[str, str]] = {
    ("large", "en"): {"size": "large", "comparative": "larger", "verb": "Enlarge", "factor": "twice"},
    ("small", "en"): {"size": "small", "comparative": "smaller", "verb": "Shrink", "factor": "half"},
    ("large", "zh"): {"size": "大号", "comparative": "大", "verb": "放大", "factor": "两倍"},
    ("small", "zh"): {"size": "小号", "comparative": "小", "verb": "缩小", "factor": "一半"},
}
"""(requested size, language) to the words of the resize wordings."""


def fill_wording(wording: str, words: dict[str, str]) -> str:
    """Fill a wording's placeholders and start it with a capital."""
    text = wording.format(**words)
    return text[0].upper() + text[1:]
