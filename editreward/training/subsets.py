"""Parts of a group: which of its candidates a training row holds, so that over the epochs no pair is lost."""

import functools
import itertools
import random
from collections.abc import Sequence

from editreward.groups.rows import GroupRow

Pair = tuple[int, int]


@functools.lru_cache(maxsize=4096)
def covering_subsets(size: int, limit: int, pairs: frozenset[Pair] | None = None) -> tuple[tuple[int, ...], ...]:
    """Subsets of the candidates 0 .. size - 1 that hold every pair at least once: a covering design, found greedily.

    Args:
        size: Candidates of the group.
        limit: Candidates of a subset, at least 2.
        pairs: The pairs (i, j), i < j, that matter. Default: all.

    Returns:
        Subsets of `min(size, limit)` candidates each, in ascending order. The largest gain comes first.

    Raises:
        ValueError: If `limit` is below 2.
    """
    if limit < 2:
        raise ValueError(f"A pair needs two candidates, but the limit is {limit}.")
    if size <= limit:
        return (tuple(range(size)),)
    missing = set(itertools.combinations(range(size), 2) if pairs is None else pairs)
    subsets = []
    while missing:
        neighbours: dict[int, set[int]] = {candidate: set() for candidate in range(size)}
        for i, j in missing:
            neighbours[i].add(j)
            neighbours[j].add(i)
        subset: set[int] = set()
        while len(subset) < limit:
            chosen = max(
                (candidate for candidate in range(size) if candidate not in subset),
                # New pairs with the subset, then what is left to gain; ties go to the first, for determinism.
                key=lambda candidate: (len(neighbours[candidate] & subset), len(neighbours[candidate]), -candidate),
            )
            subset.add(chosen)
        missing -= set(itertools.combinations(sorted(subset), 2))
        subsets.append(tuple(sorted(subset)))
    return tuple(subsets)


def epochs_to_cover(size: int, limit: int) -> int:
    """Epochs within which a group of `size` candidates, of which an epoch shows `limit`, has shown all its pairs."""
    return len(covering_subsets(size, limit))


def candidates_of_epoch(
    size: int, limit: int | None, group_id: str, seed: int, epoch: int, pairs: Sequence[Pair] = ()
) -> tuple[int, ...]:
    """The candidates of a group that are trained on in an epoch.

    Epochs come in rounds of [`epochs_to_cover`], each of which shows every pair; the candidates change their roles
    from round to round and from group to group. It depends on the arguments alone: workers, ranks and resumed runs
    agree.

    Args:
        size: Candidates of the group.
        limit: Candidates of a training row; `None` for all.
        group_id, seed, epoch: What the choice depends on.
        pairs: The annotated pairs of a group with `preferences`. Then a round shows these, and each subset has one.
    """
    if limit is None or size <= limit:
        return tuple(range(size))
    if pairs:
        subsets = covering_subsets(size, limit, frozenset(pairs))
        return subsets[(random.Random(f"{seed}/{group_id}").randrange(len(subsets)) + epoch) % len(subsets)]
    subsets = covering_subsets(size, limit)
    cycle, place = divmod(epoch, len(subsets))
    role = list(range(size))
    random.Random(f"{seed}/{group_id}/{cycle}").shuffle(role)
    return tuple(sorted(role[candidate] for candidate in subsets[place]))


def annotated_pairs(preferences: Sequence[GroupRow] | None, size: int) -> list[Pair] | None:
    """The pairs (i, j), i < j, that have preferences, each once; `None` if one of them is not of two candidates."""
    pairs: dict[Pair, None] = {}
    for entry in preferences or ():
        chosen, rejected = ((entry or {}).get(name) for name in ("chosen", "rejected"))
        if chosen is None or rejected is None or chosen == rejected:
            return None
        i, j = sorted((chosen, rejected))
        if not 0 <= i < j < size:
            return None
        pairs[i, j] = None
    return list(pairs)


def pairs_of_group(preferences: Sequence[GroupRow] | None, size: int) -> list[Pair] | None:
    """The pairs that a group is split into: the annotated ones where it has `preferences`, otherwise all.

    `None` for a group that has no candidate or an impossible preference: it cannot be split, only reported.
    """
    pairs = annotated_pairs(preferences, size) if size else None
    return list(itertools.combinations(range(size), 2)) if pairs == [] else pairs


def take_candidates(row: GroupRow, chosen: Sequence[int]) -> GroupRow:
    """A row with some of its candidates, and of its `preferences` those between them."""
    place = {candidate: new for new, candidate in enumerate(chosen)}
    preferences = [
        {**entry, "chosen": place[entry["chosen"]], "rejected": place[entry["rejected"]]}
        for entry in row.get("preferences") or ()
        if entry["chosen"] in place and entry["rejected"] in place
    ]
    return {**row, "candidates": [row["candidates"][i] for i in chosen], "preferences": preferences}


def row_of_epoch(row: GroupRow, max_candidates: int | None, seed: int, epoch: int) -> GroupRow:
    """The part of a row that an epoch trains on; see [`candidates_of_epoch`]. A faulty row stays as it is."""
    size = len(row.get("candidates") or ())
    if max_candidates is None or size <= max_candidates:
        return row
    pairs = annotated_pairs(row.get("preferences"), size)
    if pairs is None:
        return row
    return take_candidates(
        row, candidates_of_epoch(size, max_candidates, str(row.get("group_id")), seed, epoch, pairs)
    )


def split_into_pairs(row: GroupRow) -> list[GroupRow]:
    """A group as rows of two candidates, one for each of its pairs; a faulty one as it is.

    The pair losses of all these rows add up to those of the group, whose source image is run once for each.
    """
    pairs = pairs_of_group(row.get("preferences"), len(row.get("candidates") or ()))
    return [row] if pairs is None else [take_candidates(row, pair) for pair in pairs]
