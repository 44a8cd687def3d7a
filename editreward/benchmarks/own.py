"""Your own annotated groups as a benchmark: how often a scorer agrees with whoever annotated them, one person or many.

Each pair of edits of a group is a comparison: by the sum of their scores, or by a preference where a score is missing.
A pair of which neither is known is left out, and so is a group without any.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from editreward.benchmarks.benchmark import Benchmark, BenchmarkData, DataRequest
from editreward.benchmarks.measures import Measure
from editreward.benchmarks.protocols import Answers, by_dimension, coverage, pairs_with_ties, people
from editreward.data.benchmark_items import BenchmarkItem, Comparison, Verdict
from editreward.data.sources import StoredRows
from editreward.groups.pairs import TIE_TOLERANCE
from editreward.groups.rows import GroupRow

ABOUT = "your own annotated groups, by one annotator or more: --data GROUPS"

FEW_PAIRS = 100
"""Below so many comparisons, a result says so."""


def agreement(answers: Answers) -> list[Measure]:
    """Accuracies on all pairs, overall and by dimension; coverage of intervals; people among themselves."""
    pairs = answers.pairs()
    return [
        *pairs_with_ties(answers),
        *by_dimension(answers, pairs),
        *coverage(answers),
        *people(answers, pairs),
    ]


def make(request: DataRequest) -> BenchmarkData:
    """The comparisons of a dataset of edit groups.

    Raises:
        ValueError: no dataset is named, or none of its groups has two edits that people tell apart.
    """
    if request.data is None:
        raise ValueError("`bench own` needs your annotated groups: --data GROUPS (a folder or a Hub dataset).")
    rows = StoredRows(request.data)
    items: list[BenchmarkItem] = []
    groups = 0
    for row in rows:
        groups += 1
        items += items_of(row)
    if not items:
        raise ValueError(
            f"{request.data} has no group with two edits whose scores or preferences are known. `editreward data "
            "import table` and `editreward annotate` bring scores in."
        )
    judged = len({item.group_id for item in items})
    notes = [f"{groups - judged} of {groups} groups have no two edits with annotations and are left out."]
    if len(items) < FEW_PAIRS:
        notes.append(f"{len(items)} comparisons are few: look at the intervals.")
    return BenchmarkData(request.data, rows, items, notes=notes if groups > judged else notes[1:])


def items_of(row: GroupRow) -> Iterator[BenchmarkItem]:
    """An item for each pair of a group's edits that people compare, directly or by their scores."""
    for first, second, verdict in verdicts(row["candidates"] or (), row["preferences"] or ()):
        yield BenchmarkItem(
            benchmark="own",
            subset="pairs",
            item_id=f"{first}-{second}",
            candidates=[first, second],
            comparisons=[Comparison(first, second, verdict)],
            task=row["category"],
            group_id=row["group_id"],
        )


def verdicts(candidates: Sequence[GroupRow], preferences: Sequence[GroupRow]) -> Iterator[tuple[int, int, Verdict]]:
    """The first and second of each pair of which something is known, and which one is better.

    Args:
        candidates: of a row; a missing score makes their sum unknown.
        preferences: of the row; what contradicts itself says nothing.
    """
    totals = [_total(candidate) for candidate in candidates]
    size = len(candidates)
    votes = np.zeros((size, size))
    for preference in preferences:
        pair = preference["chosen"], preference["rejected"]
        if all(isinstance(index, int) and 0 <= index < size for index in pair):  # else listed as a fault
            votes[pair] += preference["weight"] or 0.0
    for first in range(size):
        for second in range(first + 1, size):
            difference = totals[first] - totals[second]
            if np.isnan(difference):
                difference = votes[first, second] - votes[second, first]
                if difference == 0:
                    continue
            is_tie = abs(difference) <= TIE_TOLERANCE
            yield first, second, "tie" if is_tie else "first" if difference > 0 else "second"


def _total(candidate: GroupRow) -> float:
    scores = list((candidate["scores"] or {}).values())
    return float("nan") if not scores or None in scores else float(sum(scores))


BENCHMARK = Benchmark("own", "Your own annotations", agreement, make=make, ties=lambda item: True)
