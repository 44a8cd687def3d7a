"""Scoring a batch: progress, cancelling, and the results as a table and as files."""

import threading
import time
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from editreward.data.tables import unformula
from editreward.groups import CandidateScore, DimensionScore, GroupScores, Unscored
from editreward_space.images import NamedImage, data_uri
from editreward_space.service import Service
from editreward_space.settings import MEGABYTE, InputError
from editreward_space.tables import BatchItem
from images_editreward import load_image

CHUNK_GROUPS = 8
"""Groups that are scored at a time: others wait no longer than this takes."""

CHUNK_MB = 128
CHUNK_MEGAPIXELS = 160

MOST_SHOWN = 24
"""Edits that the page can show as pictures, and as many that are the best of their groups."""

THUMBNAIL_SIDE = 200
"""Longest side of these pictures, in pixels."""


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is.

    Attributes:
        done: groups that were tried.
        total: groups of the batch.
        rows: results, one per edited image, or per group that could not be scored.
        errors: groups of which something could not be scored.
        finished: nothing is to come.
        note: why it ended early, or what else to say at the end.
    """

    done: int
    total: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    errors: int = 0
    finished: bool = False
    note: str = ""


@dataclass(frozen=True)
class BestEdit:
    """One of the best edits of a batch.

    Attributes:
        reward: raw reward, by which edits are ordered.
        name: of its file.
        group: name of its group.
        instruction: of its group.
        score: its score in figures: overall where there is a scale, or else the reward.
        leads: whether it is the best of its group.
        picture: a `data:` address.
    """

    reward: float
    name: str
    group: str
    instruction: str
    score: str
    leads: bool
    picture: str


class BestEdits:
    """The best edits of a batch so far, and the best that lead their groups, with small pictures of them."""

    def __init__(self) -> None:
        self._all: list[BestEdit] = []
        self._leading: list[BestEdit] = []

    def add(self, item: BatchItem, result: GroupScores) -> None:
        """Look at the edits of a group."""
        assert item.group is not None
        for index, score in enumerate(result.candidates):
            if not isinstance(score, CandidateScore):
                continue
            leads = result.ranks[index] == 1
            places = [self._all, *([self._leading] if leads else [])]
            open_places = [best for best in places if len(best) < MOST_SHOWN or score.reward > best[-1].reward]
            if not open_places:
                continue
            image = item.group.edited[index]
            shown_score = str(score.overall or DimensionScore(score.reward))
            edit = BestEdit(
                score.reward, image.name, item.name, item.instruction, shown_score, leads, thumbnail(image)
            )
            for best in open_places:
                insort(best, edit, key=lambda other: -other.reward)
                del best[MOST_SHOWN:]

    def edits(self) -> list[BestEdit]:
        """Those of both kinds, best first."""
        beyond = [edit for edit in self._leading if edit not in self._all]
        return sorted([*self._all, *beyond], key=lambda edit: -edit.reward)


def thumbnail(image: NamedImage) -> str:
    """A small picture of an image that could be scored, as a `data:` address."""
    small = load_image(image.content, image.name, draft_pixels=THUMBNAIL_SIDE**2)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return data_uri(small)


def run_batch(
    service: Service,
    items: Iterable[BatchItem],
    total: int,
    cancelled: threading.Event,
    note: str = "",
    best: BestEdits | None = None,
) -> Iterator[BatchProgress]:
    """Score groups and tell after each chunk how far it is.

    A group that cannot be scored is a row with its error. Cancelling and the limits keep what was scored.

    Args:
        service: the model.
        items: the groups.
        total: how many they are.
        cancelled: set it to stop.
        note: what to say at the end, unless it ends early.
        best: collects the best edits.
    """
    settings = service.settings
    deadline = time.monotonic() + settings.batch_seconds
    progress, pixels = BatchProgress(0, total), 0
    yield progress
    try:
        for chunk in chunks(items):
            pixels += sum(map(pixels_of, chunk))
            after = f"after {progress.done} of {total} groups"
            if cancelled.is_set():
                note = f"Cancelled {after}."
                break
            if progress.done and time.monotonic() > deadline:
                note = f"Stopped at the limit of {settings.batch_seconds} seconds, {after}."
                break
            if pixels > settings.max_batch_megapixels * 1_000_000:
                note = (
                    f"Stopped at the limit of {settings.max_batch_megapixels} megapixels, {after}. Make the images "
                    "smaller, or split the batch."
                )
                break
            found = score_chunk(service, chunk, best)
            errors = progress.errors + sum(any(row["error"] for row in rows) for rows in found)
            rows = progress.rows + [row for rows in found for row in rows]
            progress = BatchProgress(progress.done + len(chunk), total, rows, errors)
            yield progress
    except InputError as error:  # of what the items are read from; what was scored stays
        note = f"Stopped after {progress.done} of {total} groups: {error}"
    yield replace(progress, finished=True, note=note)


def pixels_of(item: BatchItem) -> int:
    """The pixels of a group's images, each of which is decoded."""
    return sum(image.pixels for image in (*item.group.sources, *item.group.edited)) if item.group else 0


def chunks(items: Iterable[BatchItem]) -> Iterator[list[BatchItem]]:
    """Items in lists that are short and small enough to be held in memory."""
    chunk: list[BatchItem] = []
    size = pixels = 0
    for item in items:
        chunk.append(item)
        pixels += pixels_of(item)
        if item.group:
            size += sum(len(image.content) for image in (*item.group.sources, *item.group.edited))
        if len(chunk) == CHUNK_GROUPS or size > CHUNK_MB * MEGABYTE or pixels > CHUNK_MEGAPIXELS * 1_000_000:
            yield chunk
            chunk, size, pixels = [], 0, 0
    if chunk:
        yield chunk


def score_chunk(
    service: Service, chunk: Sequence[BatchItem], best: BestEdits | None = None
) -> list[list[dict[str, Any]]]:
    """Table rows of each item; `best` collects the best edits."""
    errors = [item.error for item in chunk]
    for place, item in enumerate(chunk):
        if item.group:
            try:
                service.check(item.group)
            except InputError as error:
                errors[place] = str(error)
    good = [place for place, error in enumerate(errors) if not error]
    results: dict[int, GroupScores | Unscored] = {}
    if good:
        groups = [group for place in good if (group := chunk[place].group)]
        try:
            results = dict(zip(good, service.rank_all(groups), strict=True))
        except InputError as error:  # the model is busy
            errors = [reason or str(error) for reason in errors]
    for place, result in results.items():
        if best and isinstance(result, GroupScores):
            best.add(chunk[place], result)
    return [_rows(service, item, results.get(place), errors[place]) for place, item in enumerate(chunk)]


def _rows(
    service: Service, item: BatchItem, result: GroupScores | Unscored | None, error: str
) -> list[dict[str, Any]]:
    dimensions = service.scorer.dimensions
    empty: dict[str, Any] = {"group": item.name, "instruction": item.instruction, "edited": "", "rank": None}
    empty |= {f"{name}{part}": None for name in ("overall", *dimensions) for part in ("", "_std")}
    empty |= {"reward": None, "reward_std": None, "probability_best": None, "error": ""}
    if isinstance(result, Unscored):
        error = result.reason
    if item.group is None or not isinstance(result, GroupScores):
        return [{**empty, "error": error}]
    rows = []
    for index, (image, score) in enumerate(zip(item.group.edited, result.candidates, strict=True)):
        row = {**empty, "edited": image.name, "rank": result.ranks[index]}
        if not isinstance(score, CandidateScore):
            rows.append({**row, "error": score.reason})
            continue
        on_scale = {"overall": score.overall} if score.overall else {}
        for name, value in {**on_scale, **score.dimensions}.items():
            row |= {name: value.mean, f"{name}_std": value.shown_std}
        row |= {
            "reward": score.reward,
            "reward_std": score.reward_std,
            "probability_best": result.probabilities[index] if result.probabilities else None,
        }
        rows.append(row)
    return rows


def write_files(rows: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """Write the results as `scores.csv` and `scores.parquet`. In the CSV, texts cannot act as formulas."""
    import pandas as pd

    table = pd.DataFrame(list(rows))
    table["rank"] = table["rank"].astype("Int64")
    table.to_parquet(folder / "scores.parquet", index=False)
    safe = table.assign(**{name: [unformula(value) for value in table[name]] for name in texts(rows)})
    safe.to_csv(folder / "scores.csv", index=False, lineterminator="\r\n")
    return [str(folder / "scores.csv"), str(folder / "scores.parquet")]


def texts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Columns that hold what users wrote."""
    return [name for name in ("group", "instruction", "edited", "error") if rows and name in rows[0]]
