"""A simulated group as a tree of segments in one sequence, as the reward model's processor packs its groups."""

from dataclasses import dataclass

import numpy as np
import torch

NO_KIND = -1
"""Of a token that is given, not predicted."""


@dataclass
class Segment:
    """A run of tokens of the tree: it sees its own past, its parent, and what the parent sees.

    `kinds` has one number a token: the index in `KINDS` of a token to be predicted from the one before it in the same
    segment, `NO_KIND` for a token that is given. `candidate` is the edited image the segment belongs to, None for the
    part that all share. `score` is the true score that the first predicted token spells.
    """

    parent: int | None
    input_ids: list[int]
    kinds: list[int]
    candidate: int | None = None
    score: float | None = None


@dataclass
class Packed:
    """One tree of segments as a sequence of `length` tokens, as the reward model's processor packs its groups.

    `position_ids` is (3, length), `segment_ids` (length,), `segment_parents` (segments,) with -1 for the root.
    `targets` is (targets, 3): the position that predicts, the token to predict, its kind. `scores` has (index in
    `targets`, candidate, true score) for every score token.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    segment_ids: np.ndarray
    segment_parents: np.ndarray
    targets: np.ndarray
    scores: list[tuple[int, int, float]]


def pack(segments: list[Segment], image_token_id: int, side: int) -> Packed:
    """Lay out a tree of segments in one sequence with M-RoPE positions that continue from each segment's parent.

    `side` is the number of image tokens along one side of an image. The root comes first, and all segments of a
    candidate stand together.
    """
    position_ids: list[np.ndarray] = []
    targets: list[tuple[int, int, int]] = []
    scores: list[tuple[int, int, float]] = []
    next_position: list[int] = []
    grid = np.indices((1, side, side)).reshape(3, -1)
    start = 0
    for segment in segments:
        ids = segment.input_ids
        position = 0 if segment.parent is None else next_position[segment.parent]
        cursor = 0
        while cursor < len(ids):
            is_image = ids[cursor] == image_token_id
            run = grid if is_image else np.zeros((3, 1), dtype=np.int64)
            position_ids.append(position + run)
            position += side if is_image else 1
            cursor += run.shape[1]
        next_position.append(position)
        if segment.score is not None and segment.candidate is not None:
            scores.append((len(targets), segment.candidate, segment.score))
        targets.extend((start + i - 1, ids[i], kind) for i, kind in enumerate(segment.kinds) if kind != NO_KIND)
        start += len(ids)
    lengths = [len(segment.input_ids) for segment in segments]
    return Packed(
        input_ids=np.concatenate([np.asarray(segment.input_ids, dtype=np.int64) for segment in segments]),
        position_ids=np.concatenate(position_ids, axis=1),
        segment_ids=np.repeat(np.arange(len(segments)), lengths),
        segment_parents=np.array([-1 if segment.parent is None else segment.parent for segment in segments]),
        targets=np.asarray(targets, dtype=np.int64).reshape(-1, 3),
        scores=scores,
    )


def collate(packs: list[Packed], patches: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """Pad packed groups on the right to one batch.

    Returns `input_ids` and `segment_ids` (groups, length), `segment_parents` (groups, segments), `position_ids` (3,
    groups, length), `targets` (targets, 3) with positions in the flattened batch, `scores` (scores, 4: index in
    `targets`, group, candidate, true score) and `patches` (uint8).
    """
    length = max(len(packed.input_ids) for packed in packs)
    segments = max(len(packed.segment_parents) for packed in packs)

    def padded(rows: list[np.ndarray], size: int, value: int) -> torch.Tensor:
        widths = [[(0, 0)] * (row.ndim - 1) + [(0, size - row.shape[-1])] for row in rows]
        stacked = [np.pad(row, width, constant_values=value) for row, width in zip(rows, widths, strict=True)]
        return torch.from_numpy(np.stack(stacked, axis=rows[0].ndim - 1))

    targets, scores, count = [], [], 0
    for row, packed in enumerate(packs):
        targets.append(packed.targets + np.array([row * length, 0, 0]))
        scores += [(count + at, row, candidate, score) for at, candidate, score in packed.scores]
        count += len(packed.targets)
    return {
        "input_ids": padded([packed.input_ids for packed in packs], length, 0),
        "segment_ids": padded([packed.segment_ids for packed in packs], length, -1),
        "segment_parents": padded([packed.segment_parents for packed in packs], segments, -1),
        "position_ids": padded([packed.position_ids for packed in packs], length, 0),
        "targets": torch.from_numpy(np.concatenate(targets)),
        "scores": torch.tensor(scores, dtype=torch.float64).reshape(-1, 4),
        "patches": torch.from_numpy(np.concatenate(patches)),
    }
