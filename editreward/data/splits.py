"""Splits in which no source image, nor a near copy of one, occurs twice."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from editreward.data.images import NEAR_BITS, near_groups


@dataclass(frozen=True)
class Sources:
    """The source images of one group, as far as splitting has to know them.

    Attributes:
        group_id: the group.
        split: the split that it is in now.
        hashes: perceptual hashes of its source images.
    """

    group_id: str
    split: str
    hashes: tuple[int, ...]


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ValueError unless every fraction is positive and they sum to 1."""
    total = math.fsum(fractions.values())
    if not fractions or not all(fraction > 0 for fraction in fractions.values()) or not math.isclose(total, 1):
        told = ", ".join(f"{split}={fraction:g}" for split, fraction in fractions.items())
        raise ValueError(f"The fractions of the splits must be positive and sum to 1, unlike {told or 'none'}.")


def assign_splits(
    sources: Sequence[Sources], fractions: Mapping[str, float], seed: int = 0, near_bits: int = NEAR_BITS
) -> list[str]:
    """Draw the split of each group; groups that share a source image or a near copy of one stay together.

    What is drawn depends on the image's hash and the seed alone: when the dataset grows, groups keep their splits,
    unless a new source image is a near copy that joins them with others. Hence the fractions are met on average only.

    Args:
        sources: the groups.
        fractions: share of the source images that each split gets; they sum to 1.
        seed: another seed gives other splits.
        near_bits: as for `near_groups`.

    Returns:
        The split of each group.

    Raises:
        ValueError: a fraction is out of range, or a split would be empty.
    """
    check_fractions(fractions)
    names, bounds = list(fractions), np.cumsum(list(fractions.values()))
    splits, families = [], _families(sources, near_bits)
    for key in families:
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        splits.append(names[min(int(np.searchsorted(bounds, place, side="right")), len(names) - 1)])
    for name in names:
        if name not in splits:
            raise ValueError(
                f"The split {name!r} would be empty: {len(sources)} groups have {len(set(families))} different source "
                f"images, and its fraction is {fractions[name]:g}. Choose larger fractions, fewer splits or another "
                "seed."
            )
    return splits


def find_leak(sources: Sequence[Sources], near_bits: int = NEAR_BITS) -> tuple[Sources, Sources] | None:
    """Two groups of different splits that share a source image or near copies of one, if there are such.

    Args:
        sources: the groups with the splits that they are in.
        near_bits: as for `near_groups`.
    """
    first: dict[str, Sources] = {}
    for key, source in zip(_families(sources, near_bits), sources, strict=True):
        other = first.setdefault(key, source)
        if other.split != source.split:
            return other, source
    return None


def _families(sources: Sequence[Sources], near_bits: int) -> list[str]:
    """A name for each group that it shares with all groups that it must stay together with."""
    hashes = [value for source in sources for value in source.hashes]
    owners = [number for number, source in enumerate(sources) for _ in source.hashes]
    roots, members = np.unique(np.array(near_groups(hashes, near_bits), dtype=np.uint64), return_inverse=True)
    size = len(sources) + len(roots)
    edges = (np.ones(len(owners)), (owners, len(sources) + members))
    _, labels = connected_components(coo_array(edges, shape=(size, size)), directed=False)
    names: dict[int, str] = {}
    for root, label in zip(roots, labels[len(sources) :], strict=True):  # in ascending order: the smallest hash names
        names.setdefault(int(label), f"{int(root):016x}")
    return [
        names.get(int(label), f"group {source.group_id}")
        for label, source in zip(labels[: len(sources)], sources, strict=True)
    ]
