"""Data of the experiments without online sampling: curated triples, and pairs of an editor's own edits."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from editreward.data.storage import write_groups
from editreward.editors.adapters import EditAdapter, repeat
from editreward.editors.instructions import SourceRow, simulated_instructions
from editreward.editors.reward_source import RewardSource
from editreward.editors.rollouts import sample
from editreward.groups.rows import GroupRow
from research.tiny_editor.data import triple

FIRST_TRIPLE = 1_000_000
"""Seed of the first; those before trained the editor."""
AT_ONCE = 96


def triple_rows(count: int) -> list[GroupRow]:
    """Triples as imperfect as collected ones: groups of one edit, with its true scores."""
    rows: list[GroupRow] = []
    for seed in range(FIRST_TRIPLE, FIRST_TRIPLE + count):
        (source, _, edit), (text, *_), (following, quality) = triple(seed)
        scores = {"instruction_following": float(following), "visual_quality": float(quality)}
        rows.append(
            {
                "group_id": f"triple-{seed}",
                "instruction": text,
                "source_images": [Image.fromarray(source)],
                "candidates": [{"image": Image.fromarray(edit), "scores": scores}],
            }
        )
    return rows


def triple_scores(rows: Sequence[GroupRow], reward: RewardSource | None) -> np.ndarray:
    """What each triple's edit is worth, (rows,): its true scores' sum, or what a reward says; -inf where it fails."""
    if reward is None:
        return np.array([sum(row["candidates"][0]["scores"].values()) for row in rows])
    values = []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        asked = [SourceRow(row["group_id"], None, None, row["instruction"], None, ()) for row in part]
        sources, edits = [row["source_images"][0] for row in part], [row["candidates"][0]["image"] for row in part]
        values.append(reward(asked, sources, edits).values)
    return np.nan_to_num(np.concatenate(values), nan=-np.inf)


def best_share(scores: np.ndarray, share: float, seed: int) -> list[int]:
    """Positions of the best share, in their order; ties are drawn."""
    ties = np.random.default_rng(seed).random(len(scores))
    return sorted(np.lexsort((ties, -scores))[: round(share * len(scores))].tolist())


def sampled_pairs(
    adapter: EditAdapter, reward: RewardSource, count: int, samples: int, steps: int, seed: int
) -> Iterator[GroupRow]:
    """Of `samples` edits of each of `count` instructions the best and the worst, by a reward, as a preference."""
    rows = simulated_instructions("train", 0, count)
    at_once = max(1, AT_ONCE // samples)
    for start in range(0, count, at_once):
        part = [rows.read(index) for index in range(start, min(start + at_once, count))]
        sources = adapter.square([row.images()[0] for row in part])
        with torch.no_grad():
            conditions = repeat(adapter.encode(sources, [row.instruction for row in part]), samples)
            seeds = [(seed * count + start) * samples + place for place in range(len(part) * samples)]
            edits = sample(adapter, adapter.transformer, conditions, seeds, steps)
        repeated = [row for row in part for _ in range(samples)], [one for one in sources for _ in range(samples)]
        values = reward(*repeated, edits).values.reshape(len(part), samples)
        for place, (row, source, of_row) in enumerate(zip(part, sources, values, strict=True)):
            if np.isnan(of_row).all() or np.nanmin(of_row) == np.nanmax(of_row):
                continue
            chosen = [edits[place * samples + int(one)] for one in (np.nanargmax(of_row), np.nanargmin(of_row))]
            yield {
                "group_id": row.group_id,
                "instruction": row.instruction,
                "source_images": [source],
                "candidates": [{"image": image} for image in chosen],
                "preferences": [{"chosen": 0, "rejected": 1, "weight": 1.0}],
            }


def write_once(rows: Iterator[GroupRow] | Sequence[GroupRow], folder: Path) -> Path:
    """Write a dataset if its folder is not there yet."""
    if not (folder / "data").is_dir():
        write_groups(rows, folder)
    return folder
