"""Small benchmarks, and scorers whose answers are known."""

import json
from dataclasses import asdict
from pathlib import Path

from editreward.benchmarks import BENCHMARKS, load_benchmark, run_benchmark
from editreward.benchmarks.published import POSITION_BIAS
from editreward.benchmarks.runner import Runner
from editreward.benchmarks.simulated import SimulatedBenchmark, found_in
from editreward.cli import command as cli
from editreward.groups import GroupScores
from tests.helpers.pictures import picture
from tests.helpers.published_rows import bench_rows, import_bench

NO_SCORES = {"instruction_following": None, "visual_quality": None}
SMALL = SimulatedBenchmark("test", 10_000, 60, 7, 84, 3, 0.1, 20, "", "", {})
RANKINGS = ["A>B", "B>A", "A=B=Good", "A=B=Bad", "B>A", "A>B", "C>A>B", "A>B>C", "B>C>A", "D>B>A>C", "A>B>C>D"]


def described(folder: Path, benchmark: SimulatedBenchmark = SMALL) -> Path:
    """A file that describes a small benchmark, with its hashes."""
    benchmark.build(folder / "bench", progress=False)
    file = folder / "description.json"
    file.write_text(json.dumps(asdict(benchmark) | found_in(folder / "bench")))
    return file


def row_of(number: int, candidates: int = 3, **columns) -> dict:
    """A group of images of noise, another one for every number."""
    made = [
        {"image": {"bytes": picture(100 * number + index + 1), "path": None}, "editor": f"editor{index}", "seed": None}
        | {"scores": NO_SCORES, "annotations": [], "rationale": None}
        for index in range(candidates)
    ]
    texts = {"group_id": f"g{number}", "origin": "test", "category": "add", "instruction": f"edit {number}"}
    source = [{"bytes": picture(100 * number), "path": None}]
    row = {**texts, "language": "en", "source_images": source, "candidates": made, "preferences": []}
    return row | columns


def imported(name: str, folder: Path):
    """A benchmark whose import is in the folder."""
    return load_benchmark(BENCHMARKS[name], str(folder), cache=folder / "cache", progress=False)


def result_of(name: str, folder: Path, scorer, **options):
    """The result of a benchmark that `imported` finds in the folder; its columns are those of published tables."""
    result = run_benchmark(BENCHMARKS[name], imported(name, folder), scorer, Runner(progress=False), **options)
    columns = {measure.column for measure in result.measures} - {None, *POSITION_BIAS.columns}
    published = BENCHMARKS[name].published
    assert columns <= set(published.columns if published else ()), "columns of no published table"
    return result


def values(result) -> dict[tuple[str, str], float]:
    """The values of a result's measures, by name and subset."""
    return {(measure.name, measure.subset): measure.estimate.value for measure in result.measures}


class Table:
    """Scores from a table by image; dimensions where the table holds several numbers."""

    def __init__(self, table: dict[bytes, float], dimensions: dict[str, dict[bytes, float]] | None = None) -> None:
        self.name = self.fingerprint = "table"
        self.table, self.dimensions = table, dimensions or {}

    def __call__(self, groups):
        return [
            GroupScores.from_columns(
                [self.table[image] for image in group.edited],
                {name: [table[image] for image in group.edited] for name, table in self.dimensions.items()},
            )
            for group in groups
        ]


def tuple_bench(folder: Path) -> list[tuple[str, int]]:
    """Import a tuple for each of `RANKINGS`; returns the ranking and the seed of the source of each."""
    rows, made = [], []
    for number, ranking in enumerate(RANKINGS):
        size = len(set(ranking) & set("ABCD"))
        rows += bench_rows(f"t{number}", size, ranking, 100 * (number + 1))
        made.append((ranking, 100 * (number + 1)))
    import_bench(rows, folder)
    return made


def command(*arguments) -> int:
    """`editreward bench` with these arguments."""
    return cli.main(["bench", *map(str, arguments)])
