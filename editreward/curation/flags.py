"""Flags rows for review: people in texts or images, unsafe texts, and whatever a filter function of one's own finds.

Nothing is removed. Words and a detector of frontal faces miss much and flag harmless rows: the report is where a
person begins to look, not a verdict.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from editreward.data.images import flatten, read_image
from editreward.functions import load_function
from editreward.groups.rows import GroupRow

Filter: TypeAlias = Callable[[GroupRow], "str | Iterable[str] | None"]
"""Takes a group, images as `{"bytes", "path"}`, and returns why it should be looked at: a text, several, or none."""

WORDS: dict[str, tuple[str, ...]] = {
    "people": (
        *("person", "people", "human", "man", "men", "woman", "women", "boy", "girl", "child", "children", "kid"),
        *("baby", "babies", "toddler", "teenager", "adult", "lady", "ladies", "gentleman", "gentlemen", "guy"),
        *("mother", "father", "mom", "dad", "son", "daughter", "bride", "groom", "face", "facial", "portrait"),
        *("selfie", "celebrity", "celebrities", "politician", "president", "actor", "actress", "he", "him", "his"),
        *("she", "her", "人", "男", "女", "孩", "婴", "肖像", "自拍", "面部", "脸", "他", "她", "明星"),
    ),
    "unsafe": (
        *("nude", "naked", "nudity", "nsfw", "porn", "pornographic", "sex", "sexual", "sexy", "erotic", "topless"),
        *("lingerie", "undress", "strip", "blood", "bloody", "gore", "gory", "corpse", "murder", "kill", "killing"),
        *("suicide", "self-harm", "torture", "rape", "behead", "weapon", "gun", "rifle", "bomb", "terrorist"),
        *("terrorism", "nazi", "swastika", "racist", "slur", "drug", "cocaine", "heroin", "deepfake"),
        *("裸", "色情", "性感", "脱衣", "血腥", "尸体", "谋杀", "自杀", "枪", "炸弹", "恐怖分子", "毒品", "纳粹"),
    ),
}
"""Words that flag a text, by the name of the flag. Latin words match whole words and their plurals, others anywhere.
"""

FACE_PIXELS = 800
"""Long side, in pixels, at which faces are looked for: the detector finds frontal faces of 80 pixels and more."""

FACE_SCORE = 0.25
"""Detector scores above this count: clear faces have 1 and more, textures that look like one mostly below 0.2."""


@dataclass(frozen=True)
class Flag:
    """A reason to look at a group.

    Args:
        kind: "people" or "unsafe" (or another list of words), "faces", "filter", or "unreadable" for an image.
        where: "instruction", "source 0", "candidate 3", "rationale 3", or "filter".
        detail: the words found, the number of faces, or the filter's reason.
    """

    kind: str
    where: str
    detail: str


@dataclass
class FlaggedGroup:
    """A group with its flags, a line of the report."""

    group_id: str
    instruction: str
    flags: list[Flag] = field(default_factory=list)

    def to_json(self) -> str:
        """The group's line."""
        flags = [{"kind": flag.kind, "where": flag.where, "detail": flag.detail} for flag in self.flags]
        return json.dumps(
            {"group_id": self.group_id, "instruction": self.instruction, "flags": flags}, ensure_ascii=False
        )


def word_matcher(words: Iterable[str]) -> Callable[[str], list[str]]:
    """A function that finds the words in a text, whatever their case and Unicode form."""
    plain = [unicodedata.normalize("NFKC", word).casefold().strip() for word in words]
    plain = [word for word in plain if word]
    latin = [re.escape(word) for word in plain if word.isascii()]
    other = [re.escape(word) for word in plain if not word.isascii()]
    parts = [rf"(?<![a-z0-9])(?:{'|'.join(latin)})(?:'?s|es)?(?![a-z0-9])"] if latin else []
    pattern = re.compile("|".join([*parts, *other])) if plain else None

    def match(text: str) -> list[str]:
        folded = unicodedata.normalize("NFKC", text).casefold()
        return list(dict.fromkeys(found[0] for found in pattern.finditer(folded))) if pattern else []

    return match


def read_words(file: str | Path) -> dict[str, tuple[str, ...]]:
    """Lists of words from a JSON object such as `{"people": ["person", ...], "brands": [...]}`.

    Raises:
        ValueError: the file is no such object.
    """
    try:
        lists = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(lists, dict) or not all(
        isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists.values()
    ):
        raise ValueError(f'{file} must be an object of lists of words, such as {{"people": ["person", "face"]}}.')
    return {name: tuple(words) for name, words in lists.items()}


def load_filter(name: str) -> Filter:
    """The function that `FILE.py:FUNCTION` or `MODULE:FUNCTION` names; its code is run.

    Raises:
        ValueError: there is no such file, module or function.
    """
    loaded: Filter = load_function(name, "--filter")
    return loaded


def face_counter() -> Callable[[Image.Image], int] | None:
    """A function that counts the frontal faces in an image, with dlib; None where dlib is not installed."""
    try:
        import dlib
    except ImportError:
        return None
    detector = dlib.get_frontal_face_detector()

    def count(image: Image.Image) -> int:
        flat = flatten(image)
        scale = FACE_PIXELS / max(flat.size)
        size = (max(1, round(flat.width * scale)), max(1, round(flat.height * scale)))
        faces, _, _ = detector.run(np.asarray(flat.resize(size)), 0, FACE_SCORE)
        return len(faces)

    return count


def flag_groups(
    groups: Iterable[GroupRow],
    words: Mapping[str, Sequence[str]] = WORDS,
    count_faces: Callable[[Image.Image], int] | None = None,
    filters: Sequence[Filter] = (),
    candidates: bool = True,
) -> Iterator[FlaggedGroup]:
    """Flag groups, one at a time; groups without a flag are yielded too, with none.

    Args:
        groups: rows as `raw_groups` yields them, images as `{"bytes", "path"}`.
        words: lists of words to look for in instructions and rationales, by the name of the flag.
        count_faces: counts the faces of an image; None: images are not looked at.
        filters: functions of one's own.
        candidates: look for faces in the candidates' images too, not only in the sources.
    """
    matchers = {name: word_matcher(listed) for name, listed in words.items()}
    for group in groups:
        flagged = FlaggedGroup(group["group_id"], group["instruction"] or "")
        for where, text in _texts(group):
            for name, match in matchers.items():
                found = match(text)
                if found:
                    flagged.flags.append(Flag(name, where, ", ".join(found)))
        if count_faces is not None:
            flagged.flags.extend(_face_flags(group, count_faces, candidates))
        for one in filters:
            reasons = one(group)
            for reason in [reasons] if isinstance(reasons, str) else reasons or []:
                flagged.flags.append(Flag("filter", "filter", str(reason)))
        yield flagged


def _texts(group: GroupRow) -> Iterator[tuple[str, str]]:
    yield "instruction", group["instruction"] or ""
    for number, candidate in enumerate(group["candidates"]):
        if candidate["rationale"]:
            yield f"rationale {number}", candidate["rationale"]


def _face_flags(group: GroupRow, count_faces: Callable[[Image.Image], int], candidates: bool) -> Iterator[Flag]:
    images = [(f"source {number}", image) for number, image in enumerate(group["source_images"])]
    if candidates:
        images += [(f"candidate {number}", one["image"]) for number, one in enumerate(group["candidates"])]
    for where, record in images:
        try:
            faces = count_faces(read_image(record))
        except (FileNotFoundError, ValueError) as error:
            yield Flag("unreadable", where, str(error))
            continue
        if faces:
            yield Flag("faces", where, str(faces))
