"""Benchmarks of pairs in the shape of GenAI-Bench: which of two edits is better, or a tie.

A row has `prompt`, `path_src`, `path1`, `path2`, and the label in `model1_dim1_score` and `model2_dim1_score`: 4 and
2, equal for a tie. `model1_overall_score` is an unrelated number that contradicts the label in half of the rows: it is
not read.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from editreward.data.benchmark_items import BenchmarkItem, Comparison, Verdict
from editreward.data.importers.faults import RowFault
from editreward.data.importers.formats import (
    UNKNOWN,
    Assembly,
    Built,
    Row,
    preferences_of,
    short_hash,
)

OPPOSITE: dict[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie"}

FIELDS = ("prompt", "path_src", "path1", "path2", "model1", "model2", "model1_dim1_score", "model2_dim1_score")
IMAGE_FIELDS = ("path_src", "path1", "path2")


@dataclass(frozen=True)
class JudgedPair:
    """A row as data: references of two images, their editors and scores by dimension, and the verdict."""

    images: tuple[str, str]
    verdict: Verdict
    editors: tuple[str, str] = (UNKNOWN, UNKNOWN)
    item_id: str = ""
    task: str | None = None
    scores: tuple[dict[str, float], dict[str, float]] = field(default_factory=lambda: ({}, {}))

    def turned(self) -> tuple[tuple[str, str], Verdict]:
        """Images in alphabetical order and the verdict on them in that order: equal for the same statement."""
        if self.images[0] <= self.images[1]:
            return self.images, self.verdict
        return (self.images[1], self.images[0]), OPPOSITE[self.verdict]


def key(row: Row) -> list[str]:
    """Source and instruction."""
    return [row.image("path_src"), row.text("prompt")]


def parse(row: Row) -> JudgedPair:
    """Read a row. Raises `RowFault`."""
    images = row.image("path1"), row.image("path2")
    first, second = row.number_of("model1_dim1_score"), row.number_of("model2_dim1_score")
    verdict: Verdict = "tie" if first == second else "first" if first > second else "second"
    editors = row.optional_text("model1", UNKNOWN), row.optional_text("model2", UNKNOWN)
    return JudgedPair(different(images), verdict, editors)


def different(images: tuple[str, str]) -> tuple[str, str]:
    """The images, if they are two. Raises `RowFault`."""
    if images[0] == images[1]:
        raise RowFault("same-image", f"both images are {images[0]!r}")
    return images


def assemble_pairs(rows: list[Row], assembly: Assembly, subset: str = "pairwise") -> list[Built]:
    """The group of all pairs of one source and instruction."""
    pairs = assembly.parsed(rows, parse)
    source, instruction = key(rows[0])
    return build_pairs(pairs, assembly, [source], instruction, subset=subset)


def build_pairs(
    pairs: Iterable[tuple[Row, JudgedPair]],
    assembly: Assembly,
    sources: list[str],
    instruction: str,
    dimension: str = "overall",
    category: str = UNKNOWN,
    subset: str = "pairwise",
) -> list[Built]:
    """A group with an item per pair, strict verdicts as `preferences`.

    A pair that occurs again with the same verdict is taken once; one with several verdicts is left out, since nobody
    knows which is right.
    """
    kept = _consistent(pairs, assembly)
    if not kept:
        return []
    candidates: dict[str, dict[str, Any]] = {}
    rows_of: dict[str, Row] = {}
    for row, pair in kept:
        for image, editor, scores in zip(pair.images, pair.editors, pair.scores, strict=True):
            known = candidates.setdefault(image, {"editor": editor, "scores": dict(scores)})
            rows_of.setdefault(image, row)
            _same_scores(row, known["scores"], scores, assembly)
    first_row = kept[0][0]
    group_id = f"{assembly.name}-{short_hash(sources, instruction, dimension, category)}"
    built = assembly.build(first_row, group_id, instruction, sources, candidates, category, rows_of)
    if built is None:
        return []
    group, index = built
    items = []
    for row, pair in kept:
        first, second = (index.get(image) for image in pair.images)
        if first is None or second is None:
            assembly.faults.error(row, "incomplete-pair", "an image of the pair is missing", "the pair is left out")
            continue
        items.append(
            BenchmarkItem(
                benchmark=assembly.name,
                subset=subset,
                item_id=pair.item_id or f"{row.file}:{row.number}",
                candidates=[first, second],
                comparisons=[Comparison(first, second, pair.verdict)],
                dimension=dimension,
                task=pair.task,
                file=row.file,
                rows=[row.number],
            )
        )
    group["preferences"] = preferences_of(comparison for item in items for comparison in item.comparisons)
    return [Built(group, items)]


def _same_scores(row: Row, known: dict[str, float | None], scores: dict[str, float], assembly: Assembly) -> None:
    """Take away, after a report, the scores of an image in which its rows differ."""
    for name, score in scores.items():
        if known.setdefault(name, score) not in (None, score):
            message = f"an image has {name} {score:g}, in another row of the group {known[name]:g}"
            assembly.faults.error(row, "contradictory-score", message, "the candidate gets no score of it")
            known[name] = None


def _consistent(pairs: Iterable[tuple[Row, JudgedPair]], assembly: Assembly) -> list[tuple[Row, JudgedPair]]:
    """Pairs that occur with one verdict, each once."""
    by_images: dict[tuple[str, str], dict[Verdict, list[tuple[Row, JudgedPair]]]] = {}
    for row, pair in pairs:
        images, verdict = pair.turned()
        by_images.setdefault(images, {}).setdefault(verdict, []).append((row, pair))
    kept = []
    for verdicts in by_images.values():
        for said in verdicts.values():
            for row, _ in said[1:]:
                assembly.faults.note(row, "duplicate-pair", f"the pair is that of row {said[0][0].number}; taken once")
        firsts = [said[0] for said in verdicts.values()]
        if len(firsts) == 1:
            kept.append(firsts[0])
        else:
            where = " and ".join(str(row.number) for row, _ in firsts)
            message = f"rows {where} have different verdicts on the same pair"
            assembly.faults.error(firsts[-1][0], "contradictory-pair", message, "the pair is left out")
    return sorted(kept, key=lambda entry: (entry[0].file, entry[0].number))
