"""Instruction wordings for every category, in English and Chinese.

Placeholders: {target} the object meant ("the red circle"), {colour} a colour, {object} an object to add with size and
article, {new} a replacement with article, {place} a place, {size} a size, {comparative}, {verb} and {factor} words for
growing or shrinking, {background} a background.
"""

from dataclasses import dataclass

CATEGORIES: tuple[str, ...] = ("recolour", "add", "remove", "replace", "move", "resize", "background")
LANGUAGES: tuple[str, ...] = ("en", "zh")


@dataclass(frozen=True)
class Wordings:
    """Wordings of one category in one language; `held_out` ones occur only in the test split."""

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
