"""From candidates to a dataset of edit groups: which of them are drawn for annotation, and the rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from editreward.data.images import pixel_digest, read_image
from editreward.data.storage import GroupWriter
from editreward.editors.instructions import Instructions, SourceRow
from editreward.editors.store import CandidateStore, Key, Record, planned


@dataclass
class DatasetReport:
    """What was written.

    Args:
        groups: number of rows.
        candidates: number of candidates by editor.
        short: groups with fewer candidates than were to be drawn.
        repeated: candidates with the same pixels as their source or an earlier candidate of their group. With a draw
            they are not in the dataset, without one they are.
        left_out: rows that are not in the dataset, and why.
    """

    groups: int = 0
    candidates: Counter[str] = field(default_factory=Counter)
    short: list[str] = field(default_factory=list)
    repeated: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


class BalancedDraw:
    """Draws candidates of one group after another such that no editor dominates.

    Every candidate drawn is of an editor with the fewest drawn from the group so far; among these of one with the
    fewest drawn from all groups; among its seeds of one drawn least often. The rest is chance. So where every editor
    has enough candidates in every group, the numbers of two editors differ by at most one, in each group and over all.

    Args:
        keep: number of candidates of a group to draw.
        seed: decides the chance. The same groups in the same order give the same draw.
    """

    def __init__(self, keep: int, seed: int = 0) -> None:
        self.keep, self.seed = keep, seed
        self.by_editor: Counter[str] = Counter()
        self.by_seed: Counter[tuple[str, int]] = Counter()

    def draw(self, group_id: str, candidates: Sequence[tuple[str, int]]) -> list[int]:
        """Indices, in ascending order, of the drawn ones among a group's (editor, seed)."""
        rng = Random(f"{self.seed} {group_id}")
        left = list(range(len(candidates)))
        rng.shuffle(left)
        drawn: list[int] = []
        here: Counter[str] = Counter()
        while left and len(drawn) < self.keep:
            # min takes the first of equals, which the shuffle has put there.
            index = min(left, key=lambda index: self._rank(candidates[index], here))
            left.remove(index)
            drawn.append(index)
            editor = candidates[index][0]
            here[editor] += 1
            self.by_editor[editor] += 1
            self.by_seed[candidates[index]] += 1
        return sorted(drawn)

    def _rank(self, candidate: tuple[str, int], here: Counter[str]) -> tuple[int, int, int]:
        return here[candidate[0]], self.by_editor[candidate[0]], self.by_seed[candidate]


def write_dataset(
    instructions: Instructions,
    made: Mapping[Key, Record],
    editors: Mapping[str, Sequence[int]],
    store: CandidateStore,
    folder: Path,
    split: str,
    balanced: BalancedDraw | None,
    dimensions: Sequence[str],
) -> DatasetReport:
    """Write the groups of the candidates that were made, in the order of the rows.

    Args:
        instructions: the rows.
        made: the candidates that are there.
        editors: seeds by name of the editor.
        store: where the candidates are.
        folder, split: where to write.
        balanced: draws the candidates of each group that are written; None: all of them are.
        dimensions: what candidates are to be scored on; their scores are null.

    Raises:
        ValueError: a row or an image has changed since its candidates were made, or no group has two candidates.
    """
    report = DatasetReport()
    with GroupWriter(folder, split, dimensions) as writer:
        for index, group_id in enumerate(instructions.ids):
            records = [made[key] for key in planned([group_id], editors) if key in made]
            try:
                row = instructions.read(index)
                pixels = {
                    pixel_digest(read_image({"bytes": image, "path": None})).hex() for image in row.source_images
                }
            except (OSError, ValueError) as error:
                report.left_out[group_id] = f"source image: {error}"
                continue
            _check_source(row, records, store)
            chosen = _chosen(group_id, records, pixels, balanced, report)
            if chosen:
                writer.write(_group(row, chosen, store))
                report.groups += 1
                report.candidates.update(record.editor for record in chosen)
        if not report.groups:
            first, why = next(iter(report.left_out.items()))
            raise ValueError(
                f"There is no group to write to {folder}: none of the {len(report.left_out)} rows can be used. "
                f"{first}: {why}. Reasons of failed candidates are in {store.folder}/manifest-*.jsonl."
            )
    return report


def _chosen(
    group_id: str, records: Sequence[Record], pixels: set[str], balanced: BalancedDraw | None, report: DatasetReport
) -> Sequence[Record]:
    """The candidates of a group that enter the dataset; none where fewer than two can. The report notes what does not.

    `pixels` are the digests of the sources.
    """
    distinct = _distinct(records, pixels)
    report.repeated += len(records) - len(distinct)
    usable = distinct if balanced else records
    if len(usable) < 2:
        report.left_out[group_id] = f"{len(usable)} of its candidates can be used, and a group needs two"
        return []
    if balanced is None:
        return usable
    drawn = balanced.draw(group_id, [(record.editor, record.seed) for record in usable])
    if len(drawn) < balanced.keep:
        report.short.append(group_id)
    return [usable[place] for place in drawn]


def check_sources(instructions: Instructions, made: Mapping[Key, Record], store: CandidateStore) -> None:
    """Be sure, before a run goes on, that the rows are those that the candidates were made for.

    Raises:
        ValueError: a row has changed since.
    """
    by_row: dict[str, list[Record]] = {}
    for record in made.values():
        by_row.setdefault(record.group_id, []).append(record)
    for index, group_id in enumerate(instructions.ids):
        if group_id in by_row:
            try:
                row = instructions.read(index)
            except (OSError, ValueError):  # the run says so of that row
                continue
            _check_source(row, by_row[group_id], store)


def _check_source(row: SourceRow, records: Sequence[Record], store: CandidateStore) -> None:
    source = row.digest()
    if any(record.source != source for record in records):
        raise ValueError(
            f"Row {row.group_id}: its instruction or source image is another one than its candidates in "
            f"{store.folder} were made for. Choose another output folder, or give the row another id."
        )


def _distinct(records: Sequence[Record], pixels: set[str]) -> list[Record]:
    """The candidates that have other pixels than the sources and the candidates before them."""
    first: dict[str | None, Record] = {}
    for record in records:
        first.setdefault(record.pixels, record)
    return [record for digest, record in first.items() if digest not in pixels]


def _group(row: SourceRow, candidates: Sequence[Record], store: CandidateStore) -> dict[str, object]:
    return {
        "group_id": row.group_id,
        "origin": row.origin,
        "category": row.category,
        "instruction": row.instruction,
        "language": row.language,
        "source_images": [{"bytes": image, "path": None} for image in row.source_images],
        "candidates": [
            {
                "image": {"bytes": store.read_image(record), "path": None},
                "editor": record.editor,
                "seed": record.seed,
            }
            for record in candidates
        ],
        "preferences": [],
    }
