"""EditReward-Compass: `source_image`, `prompt`, `winner`, `loser`, the judged `dimension`, and `label`.

Each dimension is judged on pairs of its own, so a group holds the pairs of one dimension: its `preferences` are that
dimension's, not those of the edit as a whole.
"""

from typing import Any

from editreward.data.importers.formats import Assembly, Built, Format, Row
from editreward.data.importers.pairwise import JudgedPair, build_pairs, different

DIMENSIONS = ("IA", "VC", "VQ")
LABELS = ("preference", "tie")


def key(row: Row) -> list[Any]:
    """Sources (several for multi-image edits), instruction, dimension."""
    return [row.images("source_image"), row.text("prompt"), row.choice("dimension", DIMENSIONS)]


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all pairs of one source, instruction and dimension."""
    sources, instruction, dimension = key(rows[0])
    pairs = assembly.parsed(rows, _parse)
    return build_pairs(pairs, assembly, sources, instruction, dimension, subset=dimension)


def _parse(row: Row) -> JudgedPair:
    images = different((row.image("winner"), row.image("loser")))
    return JudgedPair(images, "tie" if row.choice("label", LABELS) == "tie" else "first")


FORMAT = Format(
    "editreward-compass",
    ("source_image", "prompt", "winner", "loser", "dimension", "label"),
    ("source_image", "winner", "loser"),
    key,
    assemble,
)
