"""Rows of a dataset as the training stages take them."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from PIL import Image

from editreward.data.sources import SIMULATED, SimulatedGroups, load_groups
from editreward.editors.arguments import EditorScriptArguments
from editreward.editors.instructions import Instructions, SourceRow, open_instructions
from editreward.editors.reward_source import RewardSource
from editreward.editors.stages import Edit
from editreward.groups.rows import GroupRow
from images_editreward import load_image


def instructions_of(script: EditorScriptArguments) -> Instructions:
    """Sources and instructions for grpo and sample grids.

    Raises:
        ValueError: simulated rows without `dataset_limit`, or the dataset has no such rows.
    """
    if script.dataset_name == SIMULATED and script.dataset_limit is None:
        raise ValueError("Simulated rows have no end: say how many with `--dataset_limit`.")
    return open_instructions(script.dataset_name, script.dataset_split, script.dataset_offset, script.dataset_limit)


def first_rows(instructions: Instructions, count: int) -> list[SourceRow]:
    """Rows that sample grids show."""
    return [instructions.read(index) for index in range(min(count, len(instructions.ids)))]


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
            image_of(group["source_images"][0], f"{name}, source"),
            group["instruction"],
            image_of(group["candidates"][place]["image"], f"{name}, candidate {place}"),
        )

    return read, len(places)


def pairs(groups: Dataset, reward: RewardSource | None) -> tuple[Callable[[int], Edit], int]:
    """Pairs of a better and a worse edit: the group's own preferences, else its best edit and its worst.

    Args:
        groups: edit groups.
        reward: ranks the edits; without it their scores do, by the mean of the dimensions.

    Raises:
        ValueError: no group has two edits of which one is better.
    """
    chosen: list[tuple[int, int, int]] = []
    for row in range(len(groups)):
        group = groups[row]
        if reward is None and group.get("preferences"):
            chosen += [(row, one["chosen"], one["rejected"]) for one in group["preferences"]]
            continue
        values = _own_scores(group) if reward is None else _rewards(group, reward)
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
        source, first, second = (
            image_of(cell, f"group {group['group_id']}")
            for cell in (
                group["source_images"][0],
                *(group["candidates"][place]["image"] for place in (better, worse)),
            )
        )
        return Edit(source, group["instruction"], first, second)

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


def _rewards(group: GroupRow, reward: RewardSource) -> Sequence[float]:
    source = image_of(group["source_images"][0], f"group {group['group_id']}, source")
    edits = [image_of(candidate["image"], "an edit") for candidate in group["candidates"]]
    row = SourceRow(group["group_id"], None, None, group["instruction"], None, ())
    values: Sequence[float] = reward([row] * len(edits), [source] * len(edits), edits).values.tolist()
    return values
