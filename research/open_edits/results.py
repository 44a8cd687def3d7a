"""Run a model, and all scorers that cannot read, on `editreward bench open-edits`; tables of accuracies and gaps.

    python -m research.open_edits.results --data runs/open-edits                      # the bundled model
    python -m research.open_edits.results --model runs/both --output out/open-edits
    python -m research.open_edits.results --docs                                      # also into docs/open_edits.md

The best scorer that cannot read is chosen in each row among nine: the likenesses to the source, for it and against it,
and the model with the instructions of other groups.
"""

import editreward.scripts

import argparse
from pathlib import Path

import transformers

from editreward import EditRewardScorer
from editreward.benchmarks import BENCHMARKS, BenchmarkResult, load_benchmark
from editreward.benchmarks.open_edits import ACCURACY, EYE, FOLDER
from editreward.benchmarks.protocols import OVERALL
from editreward.groups import Scorer
from editreward.scorers.baselines import LIKENESSES, RandomScores, SourceLikeness
from research.simulated_benchmark import MODEL, SHUFFLED, Unlikeness, by_name, cases_of, gap, row, run_all

DOCS = Path("docs/open_edits.md")
BEGIN, END = "<!-- begin: research/open_edits/results.py -->", "<!-- end: research/open_edits/results.py -->"
FOLLOWING, QUALITY = "instruction_following", "visual_quality"
DIMENSIONS = (OVERALL, FOLLOWING, QUALITY)


def table_of_scorers(results: dict[str, BenchmarkResult]) -> str:
    """A row for each scorer, then the grades by eye."""
    lines = ["| % of pairs (95 % interval) | sum | instruction following | visual quality |", "|---" * 4 + "|"]
    for result in results.values():
        found = by_name(result)
        lines.append(row(result.model["name"], [found[ACCURACY, name] for name in DIMENSIONS]))
    found = by_name(results[MODEL])
    lines.append(row(f"*{EYE}*", [found.get((f"{EYE}, {ACCURACY}", name)) for name in DIMENSIONS]))
    return "\n".join(lines)


def table_of_subsets(results: dict[str, BenchmarkResult]) -> str:
    """The model, the best scorer that cannot read, and the gap, by subset."""
    found = {name: by_name(result) for name, result in results.items()}
    subsets = [subset for name, subset in found[MODEL] if name == ACCURACY and ": " in subset and ", " not in subset]
    lines = [
        "| % of pairs | n | sum: model | best blind | gap | instruction: model | best blind | gap |",
        "|---" * 8 + "|",
    ]
    for subset in ("all", *subsets):
        cells = []
        for dimension in (OVERALL, FOLLOWING):
            parts = [part for part in (dimension.replace(OVERALL, ""), subset.replace("all", "")) if part]
            measure = ", ".join(parts) or OVERALL
            cases = {name: cases_of(measures[ACCURACY, measure]) for name, measures in found.items()}
            cells += [str(len(cases[MODEL].values))] if dimension == OVERALL else []
            cells += gap(cases)
        lines.append(f"| {subset} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run all scorers and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model folder or Hub id (default: the bundled model)")
    parser.add_argument("--data", default=FOLDER, help="the groups (%(default)s)")
    parser.add_argument("--output", default="out/open-edits", type=Path, help="folder of the results (%(default)s)")
    parser.add_argument("--limit", type=int, help="only the first groups, for a quick look")
    parser.add_argument("--docs", action="store_true", help=f"put the tables into {DOCS}")
    args = parser.parse_args()
    transformers.logging.disable_progress_bar()

    model = EditRewardScorer.from_pretrained(args.model)
    scorers: dict[str, Scorer] = {"random": RandomScores(), MODEL: model, SHUFFLED: model}
    for name in LIKENESSES:
        scorers |= {name: SourceLikeness(name), f"-{name}": Unlikeness(name)}
    benchmark = BENCHMARKS["open-edits"]
    data = load_benchmark(benchmark, args.data)
    results = run_all(benchmark, data, scorers, args.output, args.limit)
    tables = f"{table_of_scorers(results)}\n\n{table_of_subsets(results)}"
    (args.output / "tables.md").write_text(f"{tables}\n", encoding="utf-8")
    print(tables)
    for note in data.notes:
        print(f"\n{note}")
    if args.docs:
        before, rest = DOCS.read_text(encoding="utf-8").split(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
