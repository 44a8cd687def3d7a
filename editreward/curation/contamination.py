"""What two datasets share: source images and instructions that a benchmark should not have in common with training."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from editreward.data.images import NEAR_BITS, perceptual_hash, pixel_digest, read_image
from editreward.groups.rows import GroupRow

MAX_BITS = 16
"""Hashes that differ in more bits than this say nothing about likeness."""

COMPARED_AT_ONCE = 4_000_000


def normalise_text(text: str) -> str:
    """A text without what does not change its meaning: Unicode form (NFKC), case, punctuation, runs of white space."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # Letters, marks, numbers and symbols such as "+" stay; punctuation and controls part words like spaces do.
    kept = "".join(" " if unicodedata.category(char)[0] in "PZC" else char for char in folded)
    return " ".join(re.sub(r"\s+", " ", kept).split())


@dataclass(frozen=True)
class SourceOf:
    """A source image of a group."""

    group_id: str
    image: int
    digest: bytes
    hash: int


@dataclass
class Prints:
    """What is kept of a dataset to compare it: about 100 bytes a group.

    Args:
        groups: number of groups.
        sources: the source images.
        instructions: ids of the groups by normalised instruction; empty instructions are left out.
        unreadable: source images that could not be read, with the reason; they are compared with nothing.
    """

    groups: int = 0
    sources: list[SourceOf] = field(default_factory=list)
    instructions: dict[str, list[str]] = field(default_factory=dict)
    unreadable: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True)
class SharedSource:
    """Source images of two groups that show the same.

    Args:
        a, b: group ids in the two datasets.
        image_a, image_b: which of the groups' source images.
        bits: how many of the 64 bits of their perceptual hashes differ.
        identical: size and pixels are equal.
        same_instruction: so are the groups' normalised instructions.
    """

    a: str
    b: str
    image_a: int
    image_b: int
    bits: int
    identical: bool
    same_instruction: bool


@dataclass(frozen=True)
class SharedInstruction:
    """A normalised instruction that both datasets have, with the ids of the groups."""

    instruction: str
    a: list[str]
    b: list[str]


def take_prints(groups: Iterable[GroupRow]) -> Prints:
    """Read the groups of a dataset, as `raw_groups` yields them, for `shared_sources` and `shared_instructions`."""
    prints = Prints()
    for group in groups:
        prints.groups += 1
        text = normalise_text(group["instruction"] or "")
        if text:
            prints.instructions.setdefault(text, []).append(group["group_id"])
        for number, record in enumerate(group["source_images"]):
            try:
                image = read_image(record)
            except (FileNotFoundError, ValueError) as error:
                prints.unreadable.append({"group_id": group["group_id"], "image": number, "reason": str(error)})
                continue
            source = SourceOf(group["group_id"], number, pixel_digest(image), perceptual_hash(image))
            prints.sources.append(source)
    return prints


def shared_sources(a: Prints, b: Prints, near_bits: int = NEAR_BITS) -> list[SharedSource]:
    """Every pair of source images, one of each dataset, that are equal or nearly so.

    Args:
        a, b: the datasets.
        near_bits: how many bits of the perceptual hashes may differ, 0 to `MAX_BITS`. Hashes find images that were
            scaled, compressed again or slightly recoloured, not mirrored, turned or cropped ones.

    Raises:
        ValueError: `near_bits` is out of its range.
    """
    if not 0 <= near_bits <= MAX_BITS:
        raise ValueError(f"near_bits must be from 0 to {MAX_BITS}, not {near_bits}")
    if not a.sources or not b.sources:
        return []
    text_of_a, text_of_b = _text_of(a), _text_of(b)
    hashes_a = np.array([source.hash for source in a.sources], dtype=np.uint64)
    hashes_b = np.array([source.hash for source in b.sources], dtype=np.uint64)
    step = max(1, COMPARED_AT_ONCE // len(hashes_b))
    shared = []
    for start in range(0, len(hashes_a), step):
        bits = np.bitwise_count(hashes_a[start : start + step, None] ^ hashes_b[None, :])
        for i, j in np.argwhere(bits <= near_bits):
            first, second = a.sources[start + i], b.sources[j]
            shared.append(
                SharedSource(
                    a=first.group_id,
                    b=second.group_id,
                    image_a=first.image,
                    image_b=second.image,
                    bits=int(bits[i, j]),
                    identical=first.digest == second.digest,
                    same_instruction=text_of_a.get(first.group_id) == text_of_b.get(second.group_id) is not None,
                )
            )
    return shared


def _text_of(prints: Prints) -> dict[str, str]:
    return {group_id: text for text, ids in prints.instructions.items() for group_id in ids}


def shared_instructions(a: Prints, b: Prints) -> list[SharedInstruction]:
    """The instructions that both datasets have, once normalised; those with the most groups first."""
    shared = [
        SharedInstruction(text, ids, b.instructions[text])
        for text, ids in a.instructions.items()
        if text in b.instructions
    ]
    return sorted(shared, key=lambda one: (-len(one.a) * len(one.b), one.instruction))
