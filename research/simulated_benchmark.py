"""Run a model, and all scorers that need no weights, on the simulated benchmark; tables of accuracies and gaps.

    python research/simulated_benchmark.py                                     # the bundled model; a few minutes
    python research/simulated_benchmark.py --model runs/editreward-tiny --output out/simulated
    python research/simulated_benchmark.py --docs                              # also into docs/benchmarks.md

The gap of a category is the model's accuracy minus that of the best scorer that does not read the instruction: the
likeness baselines, for the source and against it, and the model itself with the instructions shuffled. Each scorer's
result is written where `editreward bench compare` can go on from.
"""

import editreward.scripts

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from editreward import EditRewardScorer
from editreward.benchmarks import BENCHMARKS, BenchmarkResult, load_benchmark, run_benchmark
from editreward.benchmarks.benchmark import Benchmark, BenchmarkData
from editreward.benchmarks.measures import Cases, Measure
from editreward.benchmarks.protocols import HUMAN, OVERALL
from editreward.benchmarks.reports.saved import RESULT, write_answers
from editreward.benchmarks.runner import Runner
from editreward.benchmarks.simulated import AGREEMENT, CEILING, EXACT
from editreward.groups import EditGroup, PairwiseJudge, Scorer
from editreward.scorers.baselines import LIKENESSES, CoinPerPair, RandomScores, Rate, SourceLikeness
from editreward.scorers.folders import cache_folder

DOCS = Path("docs/benchmarks.md")
NUMBERS = Path("docs/benchmarks/simulated.json")
BEGIN, END = "<!-- begin: research/simulated_benchmark.py -->", "<!-- end: research/simulated_benchmark.py -->"

MODEL, SHUFFLED = "model", "shuffled"
BLIND = (*LIKENESSES, *(f"-{name}" for name in LIKENESSES), SHUFFLED)
"""What does not read the instruction. With a minus: the less like the source, the better."""

IN_DOCS = ("random", "coin", "pixels", SHUFFLED, MODEL)
"""Rows of the page's table, which has no columns by K; `tables.md` has all."""

FOLLOWING, QUALITY = "instruction_following", "visual_quality"

COLUMNS = [
    *(("strict accuracy", f"K = {k}", f"K = {k}") for k in (2, 3, 4)),
    ("strict accuracy", OVERALL, "all tuples"),
    ("pair-wise accuracy", OVERALL, "pairs"),
    (EXACT, OVERALL, "exact: sum"),
    (EXACT, FOLLOWING, "exact: instruction"),
    (EXACT, QUALITY, "exact: quality"),
]


class Unlikeness(SourceLikeness):
    """Prefers the edits that are least like the source: who follows an instruction changes something."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name, self.fingerprint = f"{self.name}, negative", f"negative {self.fingerprint}"

    def prepare(self, group: EditGroup) -> Rate:
        rate = super().prepare(group)
        return lambda edited: -rate(edited)


def run_all(
    benchmark: Benchmark,
    data: BenchmarkData,
    scorers: Mapping[str, Scorer | PairwiseJudge],
    output: Path,
    limit: int | None = None,
) -> dict[str, BenchmarkResult]:
    """Run scorers by name, each into a folder of its name; `SHUFFLED` gets the instructions of other groups."""
    runner = Runner(cache=cache_folder())
    results: dict[str, BenchmarkResult] = {}
    for name, scorer in scorers.items():
        shuffle = name == SHUFFLED
        results[name] = run_benchmark(benchmark, data, scorer, runner, limit=limit, shuffle_instructions=shuffle)
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).write_text(json.dumps(results[name].to_dict(), indent=1) + "\n", encoding="utf-8")
        write_answers(results[name].answers, folder)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder or Hub id (default: the bundled model)")
    parser.add_argument("--output", default="out/simulated", type=Path, help="folder of the results (%(default)s)")
    parser.add_argument("--data", help="description of another simulated benchmark")
    parser.add_argument("--limit", type=int, help="only the first groups, for a quick look")
    parser.add_argument("--docs", action="store_true", help=f"put the tables into {DOCS}, the numbers into {NUMBERS}")
    args = parser.parse_args()
    transformers.logging.disable_progress_bar()

    model = EditRewardScorer.from_pretrained(args.model)
    scorers: dict[str, Scorer | PairwiseJudge] = {
        "random": RandomScores(),
        "coin": CoinPerPair(),
        **{name: SourceLikeness(name) for name in LIKENESSES},
        **{f"-{name}": Unlikeness(name) for name in LIKENESSES},
        SHUFFLED: model,
        MODEL: model,
    }
    benchmark = BENCHMARKS["simulated"]
    results = run_all(benchmark, load_benchmark(benchmark, args.data), scorers, args.output, args.limit)
    gaps, where = gap_table(results), where_table(results)
    tables = f"{accuracy_table(results)}\n\n{gaps}\n\n{where}\n"
    (args.output / "tables.md").write_text(tables, encoding="utf-8")
    print(tables)
    if args.docs:
        before, rest = DOCS.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        few = accuracy_table({name: results[name] for name in IN_DOCS}, COLUMNS[3:])
        of_all = ("\n".join(table.splitlines()[:3]) for table in (gaps, where))  # without the rows of categories
        DOCS.write_text("\n\n".join([f"{before}{BEGIN}\n{few}", *of_all]) + f"\n{END}{after}", encoding="utf-8")
        NUMBERS.parent.mkdir(exist_ok=True)
        NUMBERS.write_text(numbers(results), encoding="utf-8")


def accuracy_table(results: dict[str, BenchmarkResult], columns: list[tuple[str, str, str]] = COLUMNS) -> str:
    """A row per scorer, then people and the exact scores themselves."""
    lines = [
        f"| % (95 % interval) | {' | '.join(title for *_, title in columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for result in results.values():
        found = by_name(result)
        lines.append(row(result.model["name"], [found.get((name, subset)) for name, subset, _ in columns]))
    found = by_name(results[MODEL])
    for name in (HUMAN, CEILING):
        lines.append(row(f"*{name}*", [found.get((f"{name}, {kind}", subset)) for kind, subset, _ in columns]))
    return "\n".join(lines)


def gap_table(results: dict[str, BenchmarkResult]) -> str:
    """Model, best blind scorer and their difference, by category, in pairs that differ in their exact scores."""
    found = {name: by_name(results[name]) for name in (MODEL, *BLIND)}
    titles = ("model", "best blind", "gap")
    header = [f"{kind}: {title}" for kind in ("instruction", "sum") for title in titles]
    lines = [f"| % of pairs | {' | '.join(header)} |", "|---" * (1 + len(header)) + "|"]
    for category in (None, *categories(results)):
        cells = []
        for dimension in (FOLLOWING, OVERALL):
            parts = [None if dimension == OVERALL else dimension, category and f"category: {category}"]
            subset = ", ".join(part for part in parts if part) or OVERALL
            cells += gap({name: cases_of(measures[EXACT, subset]) for name, measures in found.items()})
        lines.append(f"| {category or 'all'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def where_table(results: dict[str, BenchmarkResult]) -> str:
    """The gap in instruction following apart for pairs of which one edit ignores the instruction (a score of 1), for
    those of which both try, and for those of equal visual quality."""
    exact = {item.group_id: item.details["exact_scores"] for item in results[MODEL].answers.items}
    found = {name: by_name(results[name]) for name in (MODEL, *BLIND)}
    lines = [
        "| instruction, % of pairs | one edit ignores it | both try | both look equally good |",
        "|---|---|---|---|",
    ]
    for category in (None, *categories(results)):
        subset = f"{FOLLOWING}, category: {category}" if category else FOLLOWING
        cases = {name: cases_of(measures[EXACT, subset]) for name, measures in found.items()}
        ignored, alike = [], []
        for key in cases[MODEL].keys:
            assert isinstance(key, tuple)
            group, _, _, first, second = key
            following, quality = (exact[group][name] for name in (FOLLOWING, QUALITY))
            ignored.append(min(following[first], following[second]) == 1)
            alike.append(quality[first] == quality[second])
        cells = []
        for chosen in (np.array(ignored), ~np.array(ignored), np.array(alike)):
            model, blind, difference = gap({name: one.only(chosen) for name, one in cases.items()})
            cells.append(f"{difference}: {model}, best blind {blind}, n = {chosen.sum()}")
        lines.append(f"| {category or 'all'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gap(cases: dict[str, Cases]) -> list[str]:
    """Accuracy of the model, of the best blind scorer, and the difference on the same pairs with its interval."""
    model = cases[MODEL]
    if not len(model.values):
        return ["-"] * 3
    best = max(BLIND, key=lambda name: cases[name].values.mean())
    found, shared = model.difference(cases[best])
    assert shared == len(model.keys)
    difference = f"{100 * found.difference:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return [f"{100 * model.values.mean():.1f}", f"{100 * cases[best].values.mean():.1f} ({best})", difference]


def categories(results: dict[str, BenchmarkResult]) -> list[str]:
    return sorted({record.category for record in results[MODEL].answers.groups.values()})


def cases_of(measure: Measure) -> Cases:
    assert measure.cases is not None, measure
    return measure.cases


def row(name: str, measures: list[Measure | None]) -> str:
    """A line of the table: accuracies in percent with their intervals."""
    cells = []
    for measure in measures:
        if measure is None:
            cells.append("-")
        else:
            value, low, high = (100 * getattr(measure.estimate, field) for field in ("value", "low", "high"))
            cells.append(f"{value:.1f} ({low:.1f} to {high:.1f})")
    return f"| {name} | {' | '.join(cells)} |"


def by_name(result: BenchmarkResult) -> dict[tuple[str, str], Measure]:
    return {(measure.name, measure.subset): measure for measure in result.measures}


def numbers(results: dict[str, BenchmarkResult]) -> str:
    """All measures as JSON, a line each; those that are the same for all scorers stand with the model."""
    parts = []
    for name, result in results.items():
        own = [m for m in result.measures if name == MODEL or not m.name.startswith((HUMAN, CEILING, AGREEMENT))]
        lines = ",\n".join(json.dumps(rounded(measure.to_dict()), ensure_ascii=False) for measure in own)
        about = {"model": result.model, "data": result.data["name"], "sha256": result.data["sha256"]}
        about |= {"environment": result.environment}
        parts.append(f'"{name}": {{"about": {json.dumps(about)},\n"measures": [\n{lines}\n]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def rounded(value: Any) -> Any:
    """Floats with six digits after the point."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return round(value, 6) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
