"""Instructions in English and Chinese."""

import numpy as np

PLACES = {
    (0, 0): ("in the top left corner", "左上角"),
    (1, 0): ("at the top in the middle", "上方中间"),
    (2, 0): ("in the top right corner", "右上角"),
    (0, 1): ("on the left", "左侧"),
    (1, 1): ("in the centre", "正中间"),
    (2, 1): ("on the right", "右侧"),
    (0, 2): ("in the bottom left corner", "左下角"),
    (1, 2): ("at the bottom in the middle", "下方中间"),
    (2, 2): ("in the bottom right corner", "右下角"),
}
"""What columns and rows are called."""

COLOURS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
}

ENGLISH = {
    "add": ("Put {a_new} {place}.", "There should be {a_new} {place}.", "Insert {a_new} into the picture, {place}."),
    "remove": ("Take the {old} out of the picture.", "Erase the {old}.", "I don't want the {old} in this photo."),
    "replace": (
        "Swap the {old} for {a_new}.",
        "Put {a_new} where the {old} is.",
        "Exchange the {old} for {a_new}.",
    ),
    "colour": ("Paint the {old} {colour}.", "Make the {old} {colour}.", "The {old} should be {colour}."),
    "move": (
        "Shift the {old}, so that it is {place}.",
        "Move the {old} to be {place}.",
        "I want the {old} {place}.",
    ),
    "larger": ("Make the {old} a lot bigger.", "Enlarge the {old}.", "Scale the {old} up."),
    "smaller": ("Make the {old} a lot smaller.", "Shrink the {old}.", "Scale the {old} down."),
    "background": (
        "Use {scene} as the new background.",
        "Put {scene} behind it.",
        "Change the backdrop to {scene}.",
    ),
    "style": ("Turn the photo into {effect}.", "Make this look like {effect}.", "Redo the picture as {effect}."),
    "tone": ("Turn the photo into {effect}.", "Make it {effect}.", "I want this to be {effect}."),
    "restore": ("{damage}",),
}
CHINESE = {
    "add": ("在{place}加上{new}。", "请在画面{place}放{new}。"),
    "remove": ("把{old}去掉。", "请抹除照片里的{old}。"),
    "replace": ("用{new}代替{old}。", "把{old}换成{new}。"),
    "colour": ("把{old}变成{colour}。", "将{old}涂成{colour}。"),
    "move": ("把{old}移到{place}。", "让{old}出现在{place}。"),
    "larger": ("把{old}放大很多。", "让{old}变大。"),
    "smaller": ("把{old}缩小很多。", "让{old}变小。"),
    "background": ("把背景换成{scene}。", "用{scene}作为新的背景。"),
    "style": ("把照片变成{effect}。", "让画面看起来像{effect}。"),
    "tone": ("把照片变成{effect}。", "将画面改为{effect}。"),
    "restore": ("{damage}",),
}
WORDINGS = {"en": ENGLISH, "zh": CHINESE}


def with_article(noun: str) -> str:
    """A noun with "a" or "an"."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def instruct(kind: str, language: str, rng: np.random.Generator, **words: tuple[str, str]) -> str:
    """An instruction.

    Args:
        kind: key of the wordings.
        language: "en" or "zh".
        rng: chooses the wording.
        words: English and Chinese of what it is about.
    """
    wordings = WORDINGS[language][kind]
    values = {name: both[language == "zh"] for name, both in words.items()}
    if "new" in values and language == "en":
        values["a_new"] = with_article(values["new"])
    return wordings[int(rng.integers(len(wordings)))].format(**values)
