"""Attention on a CPU: the library's fused kernel against plain products, whole and in pieces that stay in the cache.

    OMP_NUM_THREADS=1 python performance/attention.py

The shapes are those of groups of 7 in `cpu-small` and in the bundled model, and of their vision towers. `fused` is in
milliseconds of CPU time; the others are times as fast as it in the same turn (above 1: faster). All are medians over
the repetitions, of the forward pass alone and of one with its backward pass. Where all is one piece, `whole` and
`pieces` are the same. `modeling_editreward.masked_attention` chooses by what this shows.
"""

import editreward.scripts

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from unittest.mock import patch

import torch
from measuring import measure, ratio_of
from torch import Tensor
from torch.nn import functional as F

import modeling_editreward
from modeling_editreward import plain_attention

CPU = torch.device("cpu")
WAYS = ("fused", "whole", "pieces")


@dataclass(frozen=True)
class Shape:
    """Rows of tokens that attend at once; with more keys than queries, those at the end are the queries' own."""

    name: str
    rows: int
    heads: int
    queries: int
    keys: int
    head_dim: int

    def inputs(self, dtype: torch.dtype) -> tuple[list[Tensor], Tensor | None]:
        """Queries, keys and values laid out as projections give them, and the mask of a causal end."""
        lengths = (self.queries, self.keys, self.keys)
        tensors = [torch.randn(self.rows, n, self.heads, self.head_dim, dtype=dtype) for n in lengths]
        causal = torch.ones(self.queries, self.keys, dtype=torch.bool).tril(self.keys - self.queries)
        mask = causal.expand(self.rows, 1, -1, -1).contiguous() if self.keys > self.queries else None
        return [x.transpose(1, 2).requires_grad_() for x in tensors], mask


SHAPES = (
    Shape("cpu-small, rubrics, paper layout", 14, 8, 380, 920, 128),
    Shape("cpu-small, edits, compact layout", 7, 8, 270, 620, 128),
    Shape("cpu-small, images", 8, 12, 1024, 1024, 64),
    Shape("cpu-small, windows of images", 128, 12, 64, 64, 64),
    Shape("bundled, rubrics, paper layout", 14, 4, 380, 440, 64),
    Shape("bundled, edits, compact layout", 56, 4, 30, 160, 64),
    Shape("bundled, images", 64, 4, 64, 64, 40),
)


def attend(way: str, tensors: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """Attention by one of the ways; the plain ones scale the queries before."""
    query, key, value = tensors
    if way == "fused":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    at_once = sys.maxsize if way == "whole" else modeling_editreward.CACHED_LOGITS
    with patch.object(modeling_editreward, "CACHED_LOGITS", at_once):
        return plain_attention(query * query.shape[-1] ** -0.5, key, value, mask)


def seconds(way: str, tensors: Sequence[Tensor], mask: Tensor | None) -> tuple[float, float]:
    """CPU time of a forward pass alone, and of one with its backward pass."""
    with torch.no_grad():
        forward, _ = measure(lambda: attend(way, tensors, mask), CPU, "cpu")
    both, _ = measure(lambda: attend(way, tensors, mask).sum().backward(), CPU, "cpu")
    return forward, both


def main(words: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args(words)
    lines = [
        "| attention | precision | fused, ms: forward, both | whole: forward, both | pieces: forward, both |",
        "|---|---|--:|--:|--:|",
    ]
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            tensors, mask = shape.inputs(dtype)
            forward: dict[str, list[float]] = {way: [] for way in WAYS}
            both: dict[str, list[float]] = {way: [] for way in WAYS}
            for repetition in range(-1, args.repetitions):
                for way in WAYS:
                    result = seconds(way, tensors, mask)
                    if repetition >= 0:  # the first is to warm up
                        forward[way].append(result[0])
                        both[way].append(result[1])
            cells = [", ".join(f"{1000 * median(taken['fused']):.3g}" for taken in (forward, both))]
            for way in WAYS[1:]:
                ratios = (ratio_of(taken["fused"], taken[way])["ratio"] for taken in (forward, both))
                cells.append(", ".join(f"{ratio:.2f}" for ratio in ratios))
            lines.append(f"| {shape.name} | {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |")
    table = "\n".join(lines)
    print(table)
    return table


if __name__ == "__main__":
    main()
