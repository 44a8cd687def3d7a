"""EditReward-Bench (TIGER-Lab) as pairs, each by itself: the form of the evaluation data of RationalRewards.

A row has `instruction`, `source_image`, `candidate_1`, `candidate_2`, `ranking` ("A>B", "B>A", "A=B"), `model_1`,
`model_2`, and `instruction_following_1`, `visual_quality_1` and so on: people's scores, which become the candidates'.
Where there is no ranking, the sums of the scores are compared. Nothing tells which rows belong to one tuple.
"""

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.editreward_bench import SIDES, parse_ranking, scores_of, verdict_of
from editreward.benchmarks.measures import Measure
from editreward.benchmarks.protocols import Answers, by_dimension, pairs_with_ties
from editreward.data.benchmark_items import Verdict
from editreward.data.importers.faults import RowFault
from editreward.data.importers.formats import UNKNOWN, Assembly, Built, Format, Row
from editreward.data.importers.pairwise import JudgedPair, build_pairs, different

ABOUT = "pairs with ties, by themselves (EditReward-Bench of TIGER-Lab)"


def key(row: Row) -> list[str]:
    """Source and instruction."""
    return [row.image("source_image"), row.text("instruction")]


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all pairs of one source and instruction."""
    source, instruction = key(rows[0])
    pairs = assembly.parsed(rows, lambda row: _parse(row, assembly.dimensions))
    return build_pairs(pairs, assembly, [source], instruction)


def _parse(row: Row, dimensions: tuple[str, ...]) -> JudgedPair:
    first, second = scores_of(row, 1, dimensions), scores_of(row, 2, dimensions)
    editors = row.optional_text("model_1", UNKNOWN), row.optional_text("model_2", UNKNOWN)
    images = different((row.image("candidate_1"), row.image("candidate_2")))
    return JudgedPair(images, _verdict(row, first, second), editors, scores=(first, second))


def _verdict(row: Row, first: dict[str, float], second: dict[str, float]) -> Verdict:
    if "ranking" in row.values:
        ranking = parse_ranking(row.text("ranking"))
        letters = sorted(letter for tier in ranking for letter in tier)
        if len(letters) != 2:
            raise RowFault("ranking", f"ranking {row.values['ranking']!r} does not rank two images")
        return verdict_of(ranking, *letters)
    if not first or first.keys() != second.keys():
        raise RowFault("missing-field", "there is neither a ranking nor a score of both candidates")
    totals = sum(first.values()), sum(second.values())
    return "tie" if totals[0] == totals[1] else "first" if totals[0] > totals[1] else "second"


FORMAT = Format(
    "editreward-bench-pairs",
    (
        *("instruction", "source_image", "ranking"),
        *(f"{name}_{side}" for name in ("candidate", "model", "{dimension}") for side in SIDES),
    ),
    ("source_image", "candidate_1", "candidate_2"),
    key,
    assemble,
)


def protocol(answers: Answers) -> list[Measure]:
    """Accuracy with ties at the best threshold and without, also in each dimension that has people's scores."""
    return [*pairs_with_ties(answers, column=None), *by_dimension(answers, answers.pairs())]


BENCHMARK = Benchmark(
    "editreward-bench-pairs", "EditReward-Bench (TIGER-Lab), pairs", protocol, FORMAT, ties=lambda item: True
)
