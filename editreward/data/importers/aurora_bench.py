"""AURORA-Bench: a pair-wise part in the shape of GenAI-Bench, and a point-wise part.

Rows of the point-wise part have `prompt`, `input`, `gen`, `score`, `model`. Two versions of the pair-wise part exist,
with different results for one and the same model: import each into a folder of its own.
"""

from typing import Any

from editreward.data.importers import pairwise
from editreward.data.importers.formats import Assembly, Built, Format, Row
from editreward.data.importers.pointwise import PointFields, assemble_points

POINT = PointFields(instruction="prompt", source="input", edited="gen")


def key(row: Row) -> list[Any]:
    """The part of the benchmark, source and instruction."""
    return ["pointwise", *POINT.key(row)] if "gen" in row.values else ["pairwise", *pairwise.key(row)]


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all pairs, or all edits, of one source and instruction."""
    if "gen" in rows[0].values:
        return assemble_points(rows, assembly, POINT)
    return pairwise.assemble_pairs(rows, assembly)


FORMAT = Format(
    "aurora-bench",
    tuple(dict.fromkeys([*pairwise.FIELDS, *POINT.all])),
    (*pairwise.IMAGE_FIELDS, POINT.source, POINT.edited),
    key,
    assemble,
)
