"""Groups as EditReward-Data's pair JSON, so that trainers which read that format can use them.

`pairs.json` is a list with an object per pair, the preferred image first, in the published fields. `images/GROUP/`
holds the images as they are. `groups.jsonl` holds what pairs have no place for: annotations, rationales, categories,
the order of candidates, groups without any pair. With it an import gives back the same groups.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

from configuration_editreward import DEFAULT_DIMENSIONS, check_choice
from editreward.data.images import extension_of
from editreward.data.importers.editreward_data import COMPANION_FILE
from editreward.data.importers.formats import UNKNOWN, join_seed
from editreward.files import atomic_file
from editreward.groups.pairs import TIE_TOLERANCE
from editreward.groups.rows import GroupRow
from images_editreward import image_header

PAIRS_FILE = "pairs.json"
IMAGES_FOLDER = "images"
TIES = ("once", "both", "drop")
"""What becomes of a pair with equal sums: written once in the candidates' order, in both orders, or not at all."""


def export_pairs(
    groups: Iterable[GroupRow],
    folder: str | os.PathLike[str],
    dimensions: Sequence[str] = DEFAULT_DIMENSIONS,
    ties: str = "once",
    overwrite: bool = False,
) -> dict[str, int]:
    """Write groups as pair JSON, in bounded memory.

    Args:
        groups: rows as `raw_groups` yields them, images as `{"bytes", "path"}`.
        folder: the folder to write.
        dimensions: the groups' dimensions; they become `dim1`, `dim2` and so on, in this order.
        ties: one of `TIES`.
        overwrite: write although the folder has a `pairs.json`.

    Returns:
        Counts: groups, candidates, pairs, ties among them, groups without a pair.

    Raises:
        ValueError: an image is missing or broken, or a preference names no candidate (the group is named), two groups
            have one id, or the folder has a `pairs.json`.
    """
    check_choice("ties", ties, TIES)
    folder = Path(folder)
    if (folder / PAIRS_FILE).exists() and not overwrite:
        raise ValueError(f"{folder} has a {PAIRS_FILE} already. Choose another folder, or use --overwrite.")
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter(groups=0, candidates=0, pairs=0, ties=0, groups_without_pairs=0)
    ids: set[str] = set()
    with (
        atomic_file(folder / PAIRS_FILE) as pairs_part,  # in place last: it tells that the export is complete
        atomic_file(folder / COMPANION_FILE) as rest_part,
        pairs_part.open("w", encoding="utf-8") as pairs,
        rest_part.open("w", encoding="utf-8") as rest,
    ):
        pairs.write("[")
        for group in groups:
            if group["group_id"] in ids:
                raise ValueError(f"Two groups have the id {group['group_id']!r}. See `editreward data check`.")
            ids.add(group["group_id"])
            stored = _write_images(group, folder)
            rest.write(json.dumps(stored, ensure_ascii=False) + "\n")
            before = counts["pairs"]
            for row in _pairs_of(stored, dimensions, ties):
                pairs.write("\n" if counts["pairs"] == 0 else ",\n")
                pairs.write(json.dumps(row, ensure_ascii=False))
                counts.update(pairs=1, ties=int(row["tie_case"]))
            counts.update(
                groups=1, candidates=len(stored["candidates"]), groups_without_pairs=counts["pairs"] == before
            )
        pairs.write("\n]\n")
    return dict(counts)


def _write_images(group: GroupRow, folder: Path) -> GroupRow:
    """Write the images of a group; returns it with paths relative to `folder` in their place, and model names."""
    place = Path(IMAGES_FOLDER) / _file_name(group["group_id"])
    (folder / place).mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()

    def write(image: GroupRow | None, name: str, what: str) -> str:
        data = (image or {}).get("bytes")
        try:
            if not data:
                raise ValueError("there is none")
            extension = extension_of(image_header(data))
        except ValueError as error:
            raise ValueError(f"{what} of group {group['group_id']!r} cannot be written: {error}") from error
        stem, number = name, 1
        while f"{stem}.{extension}".casefold() in taken:  # some file systems know no case
            number += 1
            stem = f"{name}-{number}"
        taken.add(f"{stem}.{extension}".casefold())
        (folder / place / f"{stem}.{extension}").write_bytes(data)
        return f"{place.as_posix()}/{stem}.{extension}"

    if not group["source_images"]:
        raise ValueError(f"Group {group['group_id']!r}: there is no source image. See `editreward data check`.")
    sources = [write(image, "source", f"source image {n}") for n, image in enumerate(group["source_images"])]
    candidates = []
    for number, candidate in enumerate(group["candidates"]):
        model = join_seed(candidate["editor"] or UNKNOWN, candidate["seed"])
        path = write(candidate["image"], f"{_file_name(model)}_data_gen", f"candidate {number}")
        candidates.append({**candidate, "image": path, "model": model})
    return {**group, "source_images": sources, "candidates": candidates}


def _file_name(text: str) -> str:
    """A text as the name of one file, in a way that `urllib.parse.unquote` undoes."""
    quoted = quote(text, safe=" ()+,=@")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E") or "%"


def _pairs_of(group: GroupRow, dimensions: Sequence[str], ties: str) -> Iterator[dict[str, Any]]:
    """The rows of a group: its preferences if it has some, as in training, else the pairs of its scores."""
    candidates = group["candidates"]
    if group["preferences"]:
        for preference in group["preferences"]:
            if not {preference["chosen"], preference["rejected"]} <= set(range(len(candidates))):
                raise ValueError(
                    f"Group {group['group_id']!r}: a preference names a candidate that is not there. See "
                    "`editreward data check`."
                )
            yield _row(group, candidates[preference["chosen"]], candidates[preference["rejected"]], dimensions, None)
        return
    sums = [_sum(candidate, dimensions) for candidate in candidates]
    for first, second in combinations(range(len(candidates)), 2):
        a, b = sums[first], sums[second]
        if a is None or b is None:
            continue
        tie = abs(a - b) <= TIE_TOLERANCE
        orders = [(first, second)] if a >= b or tie else [(second, first)]
        if tie:
            orders = {"once": orders, "both": [(first, second), (second, first)], "drop": []}[ties]
        for winner, loser in orders:
            yield _row(group, candidates[winner], candidates[loser], dimensions, tie)


def _sum(candidate: GroupRow, dimensions: Sequence[str]) -> float | None:
    scores = [candidate["scores"][name] for name in dimensions]
    return None if any(score is None for score in scores) else sum(scores)


def _row(
    group: GroupRow,
    winner: GroupRow,
    loser: GroupRow,
    dimensions: Sequence[str],
    tie: bool | None,
) -> dict[str, Any]:
    """A published row. Without `tie` it is a preference, which has no scores: they need not agree with it."""
    row = {
        "prompt": group["instruction"],
        "choice_dist": None,
        "confidence": None,
        "path_src": group["source_images"][0],
        "path1": winner["image"],
        "path2": loser["image"],
        "model1": winner["model"],
        "model2": loser["model"],
    }
    for side, candidate in (("1", winner), ("2", loser)):
        for number, name in enumerate(dimensions, start=1):
            row[f"model{side}_dim{number}_score"] = None if tie is None else _plain(candidate["scores"][name])
        total = _sum(candidate, dimensions)
        row[f"model{side}_overall_score"] = None if tie is None or total is None else _plain(total)
    row["tie_case"] = bool(tie)
    return row


def _plain(score: float) -> float | int:
    """4 rather than 4.0, as in the published files."""
    return int(score) if score == int(score) else score
