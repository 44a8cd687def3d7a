"""Rows of a dataset as the training stages take them."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image

from editreward.data.sources import SIMULATED, SimulatedGroups, load_groups
from editreward.editors.arguments import EditorScriptArguments
from editreward.editors.instructions import Instructions, SourceRow, only, open_instructions
from editreward.editors.reward_source import RewardSource
from editreward.editors.stages import Edit, read_rows
from editreward.groups.pairs import majority_preferences
from editreward.groups.rows import GroupRow
from editreward.resuming import row_digest
from images_editreward import load_image

logger = logging.getLogger(__name__)


def instructions_of(script: EditorScriptArguments) -> Instructions:
    """Sources and instructions for grpo and sample grids.

    Raises:
        ValueError: simulated rows without `dataset_limit`, or the dataset has no such rows.
    """
    if script.dataset_name == SIMULATED and script.dataset_limit is None:
        raise ValueError("Simulated rows have no end: say how many with `--dataset_limit`.")
    return open_instructions(script.dataset_name, script.dataset_split, script.dataset_offset, script.dataset_limit)


def first_rows(instructions: Instructions, count: int, on_bad_row: str = "stop") -> list[SourceRow]:
    """Rows that sample grids show."""

    def read(index: int) -> SourceRow:
        row = instructions.read(index)
        row.only_image()
        return row

    rows = len(instructions.ids)
    return read_rows(read, range(min(count, rows)), rows, on_bad_row)[0]


def groups_of(script: EditorScriptArguments) -> Dataset:
    """Edit groups with candidates, for sft and dpo."""
    limit = script.dataset_limit
    if script.dataset_name == SIMULATED:
        if limit is None:
            raise ValueError("Simulated groups have no end: say how many with `--dataset_limit`.")
        simulated = SimulatedGroups(groups=limit, start=script.dataset_offset)
        return load_groups(SIMULATED, script.dataset_split, simulated=simulated)
    groups = load_groups(script.dataset_name, script.dataset_split, strict=False)
    stop = len(groups) if limit is None else min(len(groups), script.dataset_offset + limit)
    if stop <= script.dataset_offset:
        raise ValueError(f"{script.dataset_name} has {len(groups)} groups, none from {script.dataset_offset} on.")
    return groups.select(range(script.dataset_offset, stop))


def image_of(cell: object, name: str) -> Image.Image:
    """An image of a row, RGB."""
    return load_image(cell["bytes"] if isinstance(cell, dict) and cell.get("bytes") else cell, name)


def triples(groups: Dataset) -> tuple[Callable[[int], Edit], int]:
    """Every edit of every group, to be imitated: how to read one, and how many there are."""
    places = [(row, place) for row, count in enumerate(_candidate_counts(groups)) for place in range(count)]
    if not places:
        raise ValueError("The dataset has no edits to imitate: its groups have no candidates.")

    def read(index: int) -> Edit:
        row, place = places[index]
        group = groups[row]
        name = f"group {group['group_id']}"
        return Edit(
            _source(group),
            group["instruction"],
            image_of(group["candidates"][place]["image"], f"{name}, candidate {place}"),
        )

    return read, len(places)


def ranked(groups: Dataset, reward: RewardSource, folder: Path, accelerator: Accelerator) -> list[list[float]]:
    """Rewards of each group's edits, NaN for what failed. Each process asks for its share of the groups.

    Args:
        groups: edit groups.
        reward: who rewards.
        folder: where answers are kept: none is asked for twice, in this run or one that goes on with it.
        accelerator: the processes.
    """

    def kept() -> dict[str, list[float | None]]:
        found = {}
        for line in (line for path in folder.glob("*.jsonl") for line in path.read_text("utf-8").splitlines()):
            with suppress(ValueError):  # a kill may have cut it off
                digest, values = json.loads(line)
                found[digest] = values
        return found

    folder.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    known, digests = kept(), [row_digest(groups[row]) for row in range(len(groups))]
    own = folder / f"{accelerator.process_index}.jsonl"
    with own.open("a", encoding="utf-8") as file:
        file.write("\n")  # behind a line that was cut off
        for row in range(accelerator.process_index, len(groups), accelerator.num_processes):
            if digests[row] not in known:
                values = [None if math.isnan(one) else one for one in _rewards(groups[row], reward)]
                file.write(json.dumps([digests[row], values]) + "\n")
                file.flush()
    accelerator.wait_for_everyone()
    known = kept()
    return [[math.nan if one is None else one for one in known[digest]] for digest in digests]


def pairs(groups: Dataset, rewards: Sequence[Sequence[float]] | None = None) -> tuple[Callable[[int], Edit], int]:
    """Pairs of a better and a worse edit: the group's own preferences, else its best edit and its worst.

    Args:
        groups: edit groups.
        rewards: of each group's edits, see `ranked`, which rank them; without it their scores do, by the mean of the
            dimensions.

    Raises:
        ValueError: no group has two edits of which one is better.
    """
    chosen: list[tuple[int, int, int]] = []
    for row in range(len(groups)):
        group = groups[row]
        if rewards is None and group.get("preferences"):
            chosen += [(row, better, worse) for better, worse in _own_preferences(group)]
            continue
        values = _own_scores(group) if rewards is None else rewards[row]
        known = [place for place, value in enumerate(values) if not np.isnan(value)]
        if len(known) > 1:
            best, worst = max(known, key=values.__getitem__), min(known, key=values.__getitem__)
            if values[best] > values[worst]:
                chosen.append((row, best, worst))
    if not chosen:
        raise ValueError(
            "No group has two edits of which one is better: give groups with preferences or scores, or a `--reward`."
        )

    def read(index: int) -> Edit:
        row, better, worse = chosen[index]
        group = groups[row]
        first, second = (
            image_of(group["candidates"][place]["image"], f"group {group['group_id']}, candidate {place}")
            for place in (better, worse)
        )
        return Edit(_source(group), group["instruction"], first, second)

    return read, len(chosen)


def _candidate_counts(groups: Dataset) -> list[int]:
    """Candidates of each group; of stored ones without reading images."""
    if "candidates" not in getattr(groups, "column_names", ()):
        return [len(groups[row]["candidates"]) for row in range(len(groups))]
    column = groups.select_columns("candidates").with_format("arrow")
    return [n for batch in column.iter(1000) for n in pc.list_value_length(batch["candidates"]).to_pylist()]


def _own_scores(group: GroupRow) -> list[float]:
    made = []
    for candidate in group["candidates"]:
        scores = [one for one in (candidate.get("scores") or {}).values() if one is not None]
        made.append(float(np.mean(scores)) if scores else float("nan"))
    return made


def _source(group: GroupRow) -> Image.Image:
    name = f"group {group['group_id']}"
    return image_of(only(group["source_images"], name), f"{name}, source")


def _own_preferences(group: GroupRow) -> list[tuple[int, int]]:
    """What most annotators prefer of each pair, better edit first. A ValueError if a preference has no weight."""
    given = []
    for one in group["preferences"]:
        weight = one.get("weight", 1.0)
        if weight is None:
            raise ValueError(f"group {group['group_id']}: a preference has no weight; write a number, such as 1.")
        if weight > 0:
            given.append((one["chosen"], one["rejected"], weight))
    orders = np.array([one[:2] for one in given], dtype=np.int64).reshape(-1, 2)
    weights = np.array([one[2] for one in given], dtype=np.float64)
    return [(int(better), int(worse)) for better, worse in majority_preferences(orders, weights)[0]]


def _rewards(group: GroupRow, reward: RewardSource) -> Sequence[float]:
    """Of each edit; NaN for all where an image cannot be read, or there are too few to compare."""
    name = f"group {group['group_id']}"
    try:
        source = _source(group)
        edits = [image_of(one["image"], f"{name}, candidate {place}") for place, one in enumerate(group["candidates"])]
    except (OSError, ValueError) as error:
        logger.warning("%s is left out: %s", name, error)
        return [math.nan] * len(group["candidates"])
    row = SourceRow(group["group_id"], None, None, group["instruction"], None, ())
    values: Sequence[float] = reward([row] * len(edits), [source] * len(edits), edits).values.tolist()
    return values
