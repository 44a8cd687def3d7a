"""Building a benchmark from datasets, and its files: our schema, the published row format, tuples to adjudicate."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, IterableDataset, Value
from datasets.table import embed_table_storage
from tqdm import tqdm

from editreward.curation.tuples import (
    ADJUDICATED_SHARE,
    ANNOTATORS,
    GROUPS,
    SIZES,
    TIE_SHARE,
    AnnotatedGroup,
    BenchmarkTuple,
    annotated_group,
    candidate_tuples,
    check_ranking,
    select_tuples,
    shared_sources,
    source_hashes,
)
from editreward.data.benchmark_items import BENCHMARK_FILE, BenchmarkItem, comparisons_of
from editreward.data.images import NEAR_BITS
from editreward.data.schema import dimensions_of
from editreward.data.sources import features_of, raw_groups, stream_splits
from editreward.data.storage import GroupWriter
from editreward.files import atomic_file, write_lines, write_text
from editreward.groups.ratings import TupleRanking
from editreward.groups.rows import GroupRow

PENDING = "tuples.jsonl"
SUMMARY = "build.json"
GROUPS_FOLDER = "groups"
"""The benchmark in our schema, with `benchmark.jsonl`."""
PUBLISHED_FOLDER = "published"
"""The same in the published row format: a dataset of its own."""
PUBLISHED_SPLIT = "train"
"""The published evaluation scripts read this split."""

LETTERS = "ABCD"

SHARED = "source image shared with an excluded dataset"
NOT_ONE_SOURCE = "no or several source images, and the published format holds one"


@dataclass
class BuildOptions:
    """What `editreward data build-bench` can be told; see `select_tuples` and `shared_sources`."""

    groups: int = GROUPS
    seed: int = 0
    annotators: int = ANNOTATORS
    tie_share: float = TIE_SHARE
    adjudicated_share: float = ADJUDICATED_SHARE
    near_bits: int = NEAR_BITS
    split: str = "test"

    def __post_init__(self) -> None:
        if self.groups < 1 or self.annotators < 3:
            raise ValueError(f"groups must be at least 1 and annotators at least 3: {self.groups}, {self.annotators}.")
        for name in ("tie_share", "adjudicated_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}.")


@dataclass
class BuildSummary:
    """What became of every group and ranking; `build.json`.

    Args:
        options: what was asked for.
        groups: number of groups that were read.
        left_out: why groups gave no tuple to choose from: their ids by reason.
        wanted, written, pending: number of tuples by size.
        ties: written tuples of two with a tie.
        adjudicated: written tuples with a joint ranking.
        categories: number of tuples, written and pending, by category.
        rankings_not_used: tuple ids of rankings by the reason why they were of no use.
    """

    options: BuildOptions
    groups: int
    left_out: dict[str, list[str]]
    wanted: dict[int, int]
    written: dict[int, int]
    pending: dict[int, int]
    ties: int
    adjudicated: int
    categories: dict[str, int]
    rankings_not_used: dict[str, list[str]] = field(default_factory=dict)


def build_benchmark(
    datasets: Sequence[Dataset | IterableDataset],
    output: str | os.PathLike[str],
    options: BuildOptions,
    exclude: Sequence[str | os.PathLike[str]] = (),
    rankings: Sequence[TupleRanking] = (),
    name: object = "the dataset",
    progress: bool | None = False,
) -> BuildSummary:
    """Choose tuples and write the benchmark's folder.

    Args:
        datasets: groups with annotations in the same dimensions, such as the splits of a dataset; they are read twice.
        output: the folder. Files that an earlier call wrote there are replaced.
        options: how many and which.
        exclude: datasets of edit groups, all their splits, whose source images must not occur.
        rankings: of an earlier call's `tuples.jsonl`.
        name: what to call the datasets in errors.
        progress: show progress bars; None: on a terminal.

    Raises:
        ValueError: a row is faulty, a ranking is of no tuple of the datasets, or there is nothing to choose from.
    """
    bar = partial(tqdm, disable=None if progress is None else not progress)
    dimensions = dimensions_of(features_of(datasets[0]))
    rows = bar(_rows(datasets), desc="reading", unit=" groups")
    groups = _annotated_groups(rows, dimensions, name)
    _check_rankings(rankings, groups, name)
    known = bar(known_sources(exclude), desc="excluding", unit=" images")
    pool = _pool(groups, known, rankings, options)
    selection = select_tuples(
        [item for items in pool.tuples.values() for item in items],
        groups=options.groups,
        seed=options.seed,
        tie_share=options.tie_share,
        adjudicated_share=options.adjudicated_share,
    )
    left_out = pool.left_out(options)
    if not selection.tuples and not selection.pending:
        reasons = "; ".join(f"{len(ids)} groups: {reason}" for reason, ids in left_out.items())
        raise ValueError(f"{name} has nothing to make a benchmark of ({reasons or 'no groups'}).")
    chosen = {item.group_id: item for item in selection.tuples}
    written = (row for row in _rows(datasets) if row["group_id"] in chosen) if chosen else iter(())
    written = bar(written, desc="writing", unit=" tuples", total=len(chosen))
    _write(written, chosen, groups, dimensions, Path(output), options)
    _write_pending(Path(output) / PENDING, selection.pending)
    summary = BuildSummary(
        options=options,
        groups=len(groups),
        left_out=left_out,
        wanted=selection.wanted,
        written=_sizes(selection.tuples),
        pending=_sizes(selection.pending),
        ties=sum(item.tied for item in selection.tuples),
        adjudicated=sum(item.state == "adjudicated" for item in selection.tuples),
        categories=dict(sorted(Counter(i.category for i in selection.tuples + selection.pending).items())),
        rankings_not_used=_not_used(rankings, selection.tuples, pool.tuples, pool.shared),
    )
    write_text(Path(output) / SUMMARY, json.dumps(asdict(summary), ensure_ascii=False, indent=2) + "\n")
    return summary


@dataclass(frozen=True)
class _Pool:
    """What tuples are chosen from.

    Attributes:
        shared: ids of groups whose source occurs in an excluded dataset.
        other: ids of groups with no or several sources.
        tuples: of every other group, those that it offers.
    """

    shared: set[str]
    other: set[str]
    tuples: dict[str, list[BenchmarkTuple]]

    def left_out(self, options: BuildOptions) -> dict[str, list[str]]:
        """Ids of the groups that offer no tuple, by the reason."""
        no_tuple = f"no tuple that {options.annotators} annotators rated completely, or only ones with ties"
        found = {
            SHARED: sorted(self.shared),
            NOT_ONE_SOURCE: sorted(self.other),
            no_tuple: sorted(group_id for group_id, items in self.tuples.items() if not items),
        }
        return {reason: ids for reason, ids in found.items() if ids}


def _pool(
    groups: Mapping[str, AnnotatedGroup],
    known: Iterable[int],
    rankings: Sequence[TupleRanking],
    options: BuildOptions,
) -> _Pool:
    shared = shared_sources(list(groups.values()), known, options.near_bits)
    other = {group.group_id for group in groups.values() if len(group.source_hashes) != 1} - shared
    by_id = {ranking.tuple_id: ranking for ranking in rankings}
    tuples = {
        group_id: candidate_tuples(group, by_id, options.annotators, options.seed)
        for group_id, group in groups.items()
        if group_id not in shared | other
    }
    return _Pool(shared, other, tuples)


def _annotated_groups(rows: Iterable[GroupRow], dimensions: Sequence[str], name: object) -> dict[str, AnnotatedGroup]:
    groups: dict[str, AnnotatedGroup] = {}
    for row in rows:
        if row["group_id"] in groups:
            raise ValueError(f"{name}: two groups are called {row['group_id']!r}. See editreward data check.")
        groups[row["group_id"]] = annotated_group(row, dimensions, name)
    return groups


def _check_rankings(rankings: Sequence[TupleRanking], groups: Mapping[str, AnnotatedGroup], name: object) -> None:
    """Raise a `ValueError` unless every ranking is the only one of a tuple of the groups."""
    for tuple_id, times in Counter(ranking.tuple_id for ranking in rankings).items():
        if times > 1:
            raise ValueError(f"There are {times} rankings of tuple {tuple_id}. Keep the valid one.")
    for ranking in rankings:
        if ranking.group_id not in groups:
            raise ValueError(f"The ranking of tuple {ranking.tuple_id} is of group {ranking.group_id}, not in {name}.")
        check_ranking(ranking, groups[ranking.group_id])


def _rows(datasets: Sequence[Dataset | IterableDataset]) -> Iterator[GroupRow]:
    for dataset in datasets:
        yield from raw_groups(dataset)


def known_sources(names: Sequence[str | os.PathLike[str]]) -> Iterator[int]:
    """Perceptual hashes of the source images of datasets of edit groups, all splits.

    Raises:
        ValueError: a source image cannot be read; dataset and group are named.
    """
    for name in names:
        for row in _rows(list(stream_splits(name).values())):
            try:
                yield from source_hashes(row)
            except (ValueError, OSError) as error:
                raise ValueError(f"{name}: group {row['group_id']!r}, source image: {error}") from error


def _sizes(tuples: Sequence[BenchmarkTuple]) -> dict[int, int]:
    return {size: sum(item.size == size for item in tuples) for size in SIZES}


def _not_used(
    rankings: Sequence[TupleRanking],
    written: Sequence[BenchmarkTuple],
    options_of: Mapping[str, Sequence[BenchmarkTuple]],
    shared: set[str],
) -> dict[str, list[str]]:
    used = {item.tuple_id for item in written}
    reasons: dict[str, list[str]] = {}
    for ranking in rankings:
        if ranking.tuple_id in used:
            continue
        if ranking.group_id not in options_of:
            reason = SHARED if ranking.group_id in shared else NOT_ONE_SOURCE
        elif not ranking.ranks:
            reason = "left out by the annotators"
        elif ranking.tuple_id in {item.tuple_id for item in options_of[ranking.group_id]}:
            reason = "not needed: enough tuples of its size, or another tuple of its group"
        elif len(set(ranking.ranks)) < len(ranking.ranks) and len(ranking.ranks) > SIZES[0]:
            reason = "ranked with a tie, which only tuples of two may have"
        else:
            reason = "too few annotators rated all of its candidates"
        reasons.setdefault(reason, []).append(ranking.tuple_id)
    return reasons


def _write_pending(path: Path, pending: Iterable[BenchmarkTuple]) -> None:
    ordered = sorted(pending, key=lambda item: (item.size, item.tuple_id))
    _write_lines(path, [_pending_line(item) for item in ordered])


def _pending_line(item: BenchmarkTuple) -> str:
    line = {
        "tuple_id": item.tuple_id,
        "group_id": item.group_id,
        "candidates": item.candidates,
        "reason": item.reason,
    }
    return json.dumps(line, ensure_ascii=False)


def _write(
    rows: Iterable[GroupRow],
    chosen: Mapping[str, BenchmarkTuple],
    groups: Mapping[str, AnnotatedGroup],
    dimensions: Sequence[str],
    output: Path,
    options: BuildOptions,
) -> None:
    """Write the chosen tuples, one at a time, in both formats, and the sidecar."""
    groups_folder, published = output / GROUPS_FOLDER, output / PUBLISHED_FOLDER / "data"
    published_file = published / f"{PUBLISHED_SPLIT}-00000-of-00001.parquet"
    if not chosen:  # an empty split is no dataset
        for file in [published_file, *(groups_folder / "data").glob(f"{options.split}-?????-of-?????.parquet")]:
            file.unlink(missing_ok=True)
        _write_lines(groups_folder / BENCHMARK_FILE, [])
        return
    published.mkdir(parents=True, exist_ok=True)
    schema = published_features(dimensions).arrow_schema
    lines = []
    with (
        atomic_file(published_file) as part,
        GroupWriter(groups_folder, options.split, dimensions) as writer,
        pq.ParquetWriter(part, schema) as published_writer,
    ):
        for row in rows:
            item = chosen[row["group_id"]]
            order = list(item.candidates)
            Random(f"{options.seed} {item.tuple_id}").shuffle(order)  # the place in the row must not tell the rank
            tuple_row, entry = tuple_group(row, item, groups[item.group_id], order), benchmark_item(item, order)
            writer.write(tuple_row)
            lines.append(entry.to_json())
            table = pa.Table.from_pylist(published_rows(tuple_row, entry.details["ranks"], dimensions), schema=schema)
            published_writer.write_table(embed_table_storage(table))
    _write_lines(groups_folder / BENCHMARK_FILE, lines)


def tuple_group(row: GroupRow, item: BenchmarkTuple, group: AnnotatedGroup, order: Sequence[int]) -> GroupRow:
    """The row of our schema for a tuple: a group of its own, named after the tuple.

    Scores are the means over all annotations. `preferences` holds the label, which may differ from the order of the
    scores; it is empty for a tie.

    Args:
        row: the group's row.
        item: the tuple, with ranks.
        group: the annotations of the group.
        order: its candidates in the order in which to write them.
    """
    preferences = []
    for comparison in comparisons_of(range(item.size), _ranks(item, order)):
        pair = (comparison.first, comparison.second)
        if comparison.verdict != "tie":
            chosen, rejected = pair if comparison.verdict == "first" else pair[::-1]
            preferences.append({"chosen": chosen, "rejected": rejected, "weight": 1.0})
    return {
        **row,
        "group_id": item.tuple_id,
        "candidates": [{**row["candidates"][index], "scores": group.means[index]} for index in order],
        "preferences": preferences,
    }


def _ranks(item: BenchmarkTuple, order: Sequence[int]) -> list[int]:
    rank = dict(zip(item.candidates, item.ranks or (), strict=True))
    return [rank[index] for index in order]


def benchmark_item(item: BenchmarkTuple, order: Sequence[int]) -> BenchmarkItem:
    """The line of `benchmark.jsonl` for a tuple; `details` says where tuple and label are from.

    Args:
        item: the tuple, with ranks.
        order: its candidates in the order in which they are written.
    """
    ranks = _ranks(item, order)
    return BenchmarkItem(
        benchmark="editreward-bench",
        subset=f"{item.size}pair",
        item_id=item.tuple_id,
        candidates=list(range(item.size)),
        comparisons=comparisons_of(range(item.size), ranks),
        group_id=item.tuple_id,
        details={
            "ranks": ranks,
            "label": item.state,
            "annotators": list(item.annotators),
            "source_group_id": item.group_id,
            "source_candidates": list(order),
            "spread": item.spread,
        },
    )


def published_features(dimensions: Sequence[str]) -> Features:
    """Columns of the published benchmark's rows: one row per comparison of two candidates of a tuple."""
    numbers = ("score", "overall_score", *dimensions)
    return Features(
        {
            "id": Value("string"),
            "dataset": Value("string"),
            "instruction": Value("string"),
            "source_image": Image(),
            "candidate_1": Image(),
            "candidate_2": Image(),
            "comparison_type": Value("string"),
            "ranking": Value("string"),
            "model_1": Value("string"),
            "model_2": Value("string"),
            **{f"{name}_{place}": Value("float64") for name in numbers for place in (1, 2)},
        }
    )


def published_rows(row: GroupRow, ranks: Sequence[int], dimensions: Sequence[str]) -> list[dict[str, Any]]:
    """A tuple as rows of the published format: 1, 3 or 6 comparisons whose ids share what is before the first "_".

    `score` and `overall_score` are both the sum of the dimensions' means; `ranking` is in the letters of the
    comparison ("A>C", "C>A", "A=B").

    Args:
        row: as `tuple_group` returns, with one source image.
        ranks: rank of each of its candidates.
        dimensions: what they are scored on.
    """
    rows = []
    for first, second in combinations(range(len(ranks)), 2):
        a, b = LETTERS[first], LETTERS[second]
        if ranks[first] == ranks[second]:
            ranking = f"{a}={b}"
        else:
            ranking = f"{a}>{b}" if ranks[first] < ranks[second] else f"{b}>{a}"
        comparison: dict[str, Any] = {
            "id": f"{row['group_id']}_{a}vs{b}",
            "dataset": f"{len(ranks)}pair",
            "instruction": row["instruction"],
            "source_image": row["source_images"][0],
            "comparison_type": f"{a}vs{b}",
            "ranking": ranking,
        }
        for place, index in ((1, first), (2, second)):
            candidate = row["candidates"][index]
            overall = sum(candidate["scores"][dimension] for dimension in dimensions)
            comparison |= {
                f"candidate_{place}": candidate["image"],
                f"model_{place}": candidate["editor"],
                f"score_{place}": overall,
                f"overall_score_{place}": overall,
                **{f"{dimension}_{place}": candidate["scores"][dimension] for dimension in dimensions},
            }
        rows.append(comparison)
    return rows


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, lines)
