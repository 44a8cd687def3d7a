"""ImagenHub, image editing: `instruction`, `input_path`, `output_path`, `score`, `model` (see `pointwise`)."""

from editreward.data.importers.formats import Assembly, Built, Format, Row
from editreward.data.importers.pointwise import PointFields, assemble_points

POINT = PointFields(instruction="instruction", source="input_path", edited="output_path")


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all edits of one source and instruction."""
    return assemble_points(rows, assembly, POINT)


FORMAT = Format("imagenhub", POINT.all, (POINT.source, POINT.edited), POINT.key, assemble)
