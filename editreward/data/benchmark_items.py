"""`benchmark.jsonl`: what a benchmark asks about the groups of a dataset, beside what the groups themselves hold.

One JSON object a line, the fields of `BenchmarkItem`. An item is what the benchmark's protocol counts as one: a pair,
a tuple, or one image with a score.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

BENCHMARK_FILE = "benchmark.jsonl"

Verdict = Literal["first", "second", "tie"]


@dataclass(frozen=True)
class Comparison:
    """People's verdict on two candidates, given by their indices in the group's row."""

    first: int
    second: int
    verdict: Verdict


@dataclass(frozen=True)
class BenchmarkItem:
    """One item of a benchmark.

    Args:
        benchmark: name of the format, such as "editreward-bench".
        subset: part of the benchmark that is reported apart, such as "2pair", "pairwise", "pointwise".
        item_id: the item's own id, or one made from its content.
        candidates: indices of the judged candidates in the group's row; 1 for an item with a `score`.
        comparisons: the verdicts, for items that compare: 1 for a pair, all K (K - 1) / 2 for a tuple of K. A tuple
            counts as right only if all are.
        score: the human score, for items that rate one candidate; on the benchmark's own scale.
        dimension: what was judged: "overall", or the benchmark's own name such as "prompt_following" or "IA".
        task: the benchmark's type of edit, None where it has none.
        group_id: the group that holds source, instruction and candidates.
        file, rows: the published file that the item is from, and its rows there, counted from 0.
        details: further published fields, as they were.
    """

    benchmark: str
    subset: str
    item_id: str
    candidates: list[int]
    comparisons: list[Comparison] = field(default_factory=list)
    score: float | None = None
    dimension: str = "overall"
    task: str | None = None
    group_id: str = ""
    file: str = ""
    rows: list[int] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The item's line."""
        return json.dumps(asdict(self), ensure_ascii=False)


def comparisons_of(candidates: Sequence[int], ranks: Sequence[float]) -> list[Comparison]:
    """All comparisons of a ranking.

    Args:
        candidates: indices of the candidates.
        ranks: rank of each, 1 is best; equal ranks are ties.
    """
    found = []
    for (first, rank), (second, other) in combinations(zip(candidates, ranks, strict=True), 2):
        found.append(Comparison(first, second, "tie" if rank == other else "first" if rank < other else "second"))
    return found


def read_benchmark(folder: str | os.PathLike[str]) -> Iterator[BenchmarkItem]:
    """The items of a benchmark that was imported into `folder`, or built there by `editreward data build-bench`.

    Raises:
        FileNotFoundError: the folder has no `benchmark.jsonl`.
        ValueError: a line is no item; it is named.
    """
    file = Path(folder) / BENCHMARK_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no {BENCHMARK_FILE}: import or build a benchmark into it first.")
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield _item(json.loads(line))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"Line {number} of {file} is no benchmark item: {error}") from error


def _item(values: dict[str, Any]) -> BenchmarkItem:
    comparisons = [Comparison(**comparison) for comparison in values.pop("comparisons")]
    for comparison in comparisons:
        if comparison.verdict not in get_args(Verdict):
            raise ValueError(f"{comparison.verdict!r} is no verdict")
    return BenchmarkItem(comparisons=comparisons, **values)
