"""Benchmarks that rate single edits, on a scale of their own: AURORA-Bench's point-wise part and ImagenHub."""

from dataclasses import dataclass

from editreward.data.benchmark_items import BenchmarkItem
from editreward.data.importers.formats import UNKNOWN, Assembly, Built, Row, short_hash


@dataclass(frozen=True)
class PointFields:
    """Names of the fields: the instruction, the source image and the edited one."""

    instruction: str
    source: str
    edited: str

    @property
    def all(self) -> tuple[str, ...]:
        """Every field that is read."""
        return (self.instruction, self.source, self.edited, "score", "model")

    def key(self, row: Row) -> list[str]:
        """Source and instruction."""
        return [row.image(self.source), row.text(self.instruction)]


def assemble_points(rows: list[Row], assembly: Assembly, fields: PointFields) -> list[Built]:
    """A group of all edits of one source and instruction, with an item per edit.

    Scores stay on the benchmark's scale and hence out of the candidates' `scores`. An edit that occurs again with the
    same score is taken once; one with several scores is left out.
    """
    by_image: dict[str, dict[float, tuple[Row, str]]] = {}
    for row, (image, score, model) in assembly.parsed(rows, lambda row: _parse(row, fields)):
        same = by_image.setdefault(image, {}).setdefault(score, (row, model))
        if same[0] is not row:
            assembly.faults.note(row, "duplicate-edit", f"the edit is that of row {same[0].number}; taken once")
    kept: dict[str, tuple[Row, str, float]] = {}
    for image, scores in by_image.items():
        if len(scores) == 1:
            [(score, (row, model))] = scores.items()
            kept[image] = row, model, score
        else:
            said = ", ".join(f"{score:g} in row {row.number}" for score, (row, _) in scores.items())
            message = f"{image!r} has several scores: {said}"
            assembly.faults.error(list(scores.values())[-1][0], "contradictory-score", message, "the edit is left out")
    if not kept:
        return []
    source, instruction = fields.key(rows[0])
    candidates = {image: {"editor": model} for image, (_, model, _) in kept.items()}
    group_id = f"{assembly.name}-{short_hash(source, instruction)}"
    rows_of = {image: row for image, (row, _, _) in kept.items()}
    built = assembly.build(rows[0], group_id, instruction, [source], candidates, rows_of=rows_of, minimum=1)
    if built is None:
        return []
    group, index = built
    items = [
        BenchmarkItem(
            benchmark=assembly.name,
            subset="pointwise",
            item_id=f"{row.file}:{row.number}",
            candidates=[index[image]],
            score=score,
            file=row.file,
            rows=[row.number],
        )
        for image, (row, _, score) in kept.items()
        if image in index
    ]
    return [Built(group, items)]


def _parse(row: Row, fields: PointFields) -> tuple[str, float, str]:
    return row.image(fields.edited), row.number_of("score"), row.optional_text("model", UNKNOWN)
