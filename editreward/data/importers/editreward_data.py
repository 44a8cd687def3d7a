"""EditReward-Data: scored pairs, the preferred image first, which are put together into groups again.

A row has `prompt`, `path_src`, `path1` (preferred), `path2`, `model1`, `model2`, `tie_case`, and for each of the two
`model1_dim1_score`, `model1_dim2_score` ... 1..4 with `model1_overall_score`, their sum. A row without scores is a
preference. `editreward data export` writes this format, with what it has no place for in `groups.jsonl` beside it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from editreward.data.benchmark_items import Comparison
from editreward.data.importers.faults import RowFault
from editreward.data.importers.formats import (
    UNKNOWN,
    Assembly,
    Built,
    Format,
    Row,
    folder_of,
    preferences_of,
    short_hash,
    split_seed,
)
from editreward.data.schema import SCORE_RANGE

COMPANION_FILE = "groups.jsonl"
MAX_DIMENSIONS = 8
"""How many `model1_dimN_score` are read; the published files have two."""

SUM_TOLERANCE = 1e-4
"""Overall scores of averaged annotations are rounded."""

SIDES = ("1", "2")


@dataclass
class Pair:
    """A row as data; images are references, scores None for a preference without scores."""

    images: tuple[str, str]
    models: tuple[str, str]
    scores: tuple[dict[str, float], dict[str, float]] | None


@dataclass
class Candidate:
    """What the rows say about one image."""

    model: str
    row: Row
    scores: dict[str, dict[float, Row]] = field(default_factory=dict)


def key(row: Row) -> tuple[str, str]:
    """Source and instruction."""
    if "candidates" in row.values:  # a line of groups.jsonl
        return row.images("source_images")[0], row.text("instruction")
    return row.image("path_src"), row.text("prompt")


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group that the rows are pairs of."""
    known_rows = [row for row in rows if "candidates" in row.values]
    pairs = assembly.parsed((row for row in rows if "candidates" not in row.values), _parse(assembly.dimensions))
    known = assembly.parsed(known_rows[:1], _known(assembly.dimensions))
    for row in known_rows[1:]:
        assembly.faults.error(row, "duplicate-group", f"{COMPANION_FILE} has this group twice", "the row is left out")
    candidates: dict[str, Candidate] = {}
    for row, group in known:
        for stored in group["candidates"]:
            candidate = Candidate(stored["model"], row)
            candidate.scores = {name: {value: row} for name, value in stored["scores"].items() if value is not None}
            candidates[stored["image"]] = candidate
    preferences = _take_pairs(pairs, candidates, assembly)
    if not candidates:
        return []
    return _build(rows[0], known[0][1] if known else None, candidates, preferences, assembly)


def _parse(dimensions: tuple[str, ...]) -> Callable[[Row], Pair]:
    def parse(row: Row) -> Pair:
        images = row.image("path1"), row.image("path2")
        if images[0] == images[1]:
            raise RowFault("same-image", f"path1 and path2 are both {images[0]!r}")
        models = row.optional_text("model1", UNKNOWN), row.optional_text("model2", UNKNOWN)
        names = [f"model{side}_{what}_score" for side in SIDES for what in (*_columns(dimensions), "overall")]
        if all(row.values.get(name) is None for name in names):
            return Pair(images, models, None)
        extra = f"model1_dim{len(dimensions) + 1}_score"
        if row.values.get(extra) is not None:
            raise RowFault("dimensions", f"there is a {extra}, but --dimensions names {len(dimensions)}")
        first, second = (_scores(row, side, dimensions) for side in SIDES)
        if sum(first.values()) < sum(second.values()) - SUM_TOLERANCE:
            raise RowFault("wrong-order", "path1 must be the preferred image, but its scores are lower")
        return Pair(images, models, (first, second))

    return parse


def _columns(dimensions: tuple[str, ...]) -> list[str]:
    return [f"dim{number}" for number in range(1, len(dimensions) + 1)]


def _scores(row: Row, side: str, dimensions: tuple[str, ...]) -> dict[str, float]:
    scores = {}
    for name, column in zip(dimensions, _columns(dimensions), strict=True):
        scores[name] = row.number_of(f"model{side}_{column}_score")
        _check_range(scores[name], f"model{side}_{column}_score")
    overall = row.number_of(f"model{side}_overall_score")
    if not math.isclose(overall, sum(scores.values()), abs_tol=SUM_TOLERANCE):
        raise RowFault(
            "wrong-sum", f"model{side}_overall_score is {overall:g}, not the sum of {list(scores.values())}"
        )
    return scores


def _check_range(score: float, name: str) -> None:
    low, high = SCORE_RANGE
    if not low <= score <= high:
        raise RowFault("score-range", f"{name} is {score:g}, must be {low:g} to {high:g}")


def _known(dimensions: tuple[str, ...]) -> Callable[[Row], dict[str, Any]]:
    def parse(row: Row) -> dict[str, Any]:
        group = dict(row.values)
        try:
            for candidate in group["candidates"]:
                for name, score in candidate["scores"].items():
                    if name not in dimensions:
                        raise RowFault("dimensions", f"{name!r} is none of --dimensions {' '.join(dimensions)}")
                    if score is not None:
                        _check_range(score, name)
                candidate.setdefault("model", candidate.get("editor") or UNKNOWN)
                candidate["image"], candidate["editor"], candidate["seed"]
            group["group_id"], group["preferences"]
        except (AttributeError, KeyError, TypeError) as error:
            raise RowFault("wrong-type", f"a line of {COMPANION_FILE} is no group: {error!r}") from error
        return group

    return parse


def _take_pairs(
    pairs: list[tuple[Row, Pair]], candidates: dict[str, Candidate], assembly: Assembly
) -> list[tuple[str, str]]:
    """Collect what the pairs say about each image; returns the preferences, (chosen, rejected)."""
    seen: dict[str, Row] = {}
    preferences: dict[tuple[str, str], Row] = {}
    for row, pair in pairs:
        same = seen.setdefault(repr(pair), row)
        if same is not row:
            assembly.faults.note(row, "duplicate-pair", f"the pair is that of row {same.number} of {same.file}")
        for side, image in enumerate(pair.images):
            candidate = candidates.setdefault(image, Candidate(pair.models[side], row))
            if candidate.model != pair.models[side]:
                message = (
                    f"{image!r} is by {pair.models[side]!r}, in row {candidate.row.number} by {candidate.model!r}"
                )
                assembly.faults.error(row, "contradictory-model", message, f"{candidate.model!r} is kept")
            if pair.scores is not None:
                for name, value in pair.scores[side].items():
                    candidate.scores.setdefault(name, {}).setdefault(value, row)
        if pair.scores is None:
            preferences.setdefault(pair.images, row)
        else:
            _check_tie(row, pair, assembly)
    earlier: dict[tuple[str, str], Row] = {}
    for (chosen, rejected), row in preferences.items():
        other = earlier.get((rejected, chosen))
        earlier[chosen, rejected] = row
        if other is not None:
            message = f"the preference is the opposite of that in row {other.number} of {other.file}"
            assembly.faults.error(row, "contradictory-preference", message, "both are left out")
    return [(chosen, rejected) for chosen, rejected in preferences if (rejected, chosen) not in preferences]


def _check_tie(row: Row, pair: Pair, assembly: Assembly) -> None:
    assert pair.scores is not None
    first, second = (sum(scores.values()) for scores in pair.scores)
    tied = math.isclose(first, second, abs_tol=SUM_TOLERANCE)
    if row.values.get("tie_case") not in (None, tied):
        said = row.values["tie_case"]
        assembly.faults.note(row, "tie-case", f"tie_case is {said!r}, but the scores are {first:g} and {second:g}")


def _agreed_scores(image: str, candidate: Candidate, assembly: Assembly) -> dict[str, float | None]:
    """The scores that all rows agree on; None, after a report, for a dimension with several."""
    scores: dict[str, float | None] = {}
    for name in assembly.dimensions:
        values = candidate.scores.get(name, {})
        if len(values) > 1:
            said = ", ".join(f"{value:g} in row {row.number} of {row.file}" for value, row in values.items())
            message = f"{image!r} has several scores of {name}: {said}"
            last = list(values.values())[-1]
            assembly.faults.error(last, "contradictory-score", message, "the candidate gets no score of it")
        scores[name] = next(iter(values)) if len(values) == 1 else None
    return scores


def _build(
    row: Row,
    known: dict[str, Any] | None,
    candidates: dict[str, Candidate],
    preferences: list[tuple[str, str]],
    assembly: Assembly,
) -> list[Built]:
    stored = {candidate["image"]: candidate for candidate in known["candidates"]} if known else {}
    fields: dict[str, dict[str, Any]] = {}
    for image, candidate in candidates.items():
        editor, seed = split_seed(candidate.model)
        fields[image] = {"editor": editor, "seed": seed, **stored.get(image, {})}
        fields[image]["scores"] = _agreed_scores(image, candidate, assembly)
    source, instruction = key(row)
    sources = known["source_images"] if known else [source]
    folder = folder_of(source)
    group_id = (
        known["group_id"] if known else unquote(folder) if folder else f"{assembly.name}-{short_hash(*key(row))}"
    )
    rows_of = {image: candidate.row for image, candidate in candidates.items()}
    category = UNKNOWN if known else row.optional_text("category", UNKNOWN)
    built = assembly.build(row, group_id, instruction, sources, fields, category, rows_of)
    if built is None:
        return []
    group, index = built
    group["preferences"] = preferences_of(
        Comparison(index[chosen], index[rejected], "first")
        for chosen, rejected in preferences
        if chosen in index and rejected in index
    )
    if known:
        _restore(group, known, index, assembly)
    return [Built(group)]


def _restore(group: dict[str, Any], known: dict[str, Any], index: dict[str, int], assembly: Assembly) -> None:
    """Put back the columns that pairs have no place for."""
    for name in ("category", "language"):
        group[name] = known.get(name)
    group["origin"] = assembly.origin or known.get("origin")
    group["language"] = assembly.language or known.get("language")
    at = {number: index.get(candidate["image"]) for number, candidate in enumerate(known["candidates"])}
    stored = [
        {**preference, "chosen": at[preference["chosen"]], "rejected": at[preference["rejected"]]}
        for preference in known["preferences"]
        if at.get(preference["chosen"]) is not None and at.get(preference["rejected"]) is not None
    ]
    there = {(preference["chosen"], preference["rejected"]) for preference in stored}
    of_pairs = [pair for pair in group["preferences"] if (pair["chosen"], pair["rejected"]) not in there]
    group["preferences"] = stored + of_pairs


FORMAT = Format(
    name="editreward-data",
    fields=(
        *("prompt", "path_src", "path1", "path2", "model1", "model2", "tie_case"),
        *(f"model{side}_dim{number}_score" for side in SIDES for number in range(1, MAX_DIMENSIONS + 1)),
        *(f"model{side}_overall_score" for side in SIDES),
        *("group_id", "origin", "category", "instruction", "language", "source_images", "candidates", "preferences"),
    ),
    image_fields=("path_src", "path1", "path2", "source_images"),
    key=key,
    assemble=assemble,
    split="train",
    companion=COMPANION_FILE,
)
