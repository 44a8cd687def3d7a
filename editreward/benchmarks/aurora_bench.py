"""AURORA-Bench: a pair-wise part in the shape of GenAI-Bench, and a point-wise part.

Rows of the point-wise part have `prompt`, `input`, `gen`, `score`, `model`. Two versions of the pair-wise part exist,
with different results for one and the same model: import each into a folder of its own.
"""

from dataclasses import replace

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.measures import Measure
from editreward.benchmarks.protocols import EVERYTHING, Answers, pairs_with_ties, ratings
from editreward.benchmarks.published import PAPER, Published
from editreward.data.importers import pairwise
from editreward.data.importers.formats import Assembly, Built, Format, Row
from editreward.data.importers.pointwise import PointFields, assemble_points

ABOUT = "pairs with ties, and ratings (AURORA-Bench)"

POINT = PointFields(instruction="prompt", source="input", edited="gen")


def key(row: Row) -> list[str]:
    """The part of the benchmark, source and instruction."""
    return ["pointwise", *POINT.key(row)] if "gen" in row.values else ["pairwise", *pairwise.key(row)]


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all pairs, or all edits, of one source and instruction."""
    if "gen" in rows[0].values:
        return assemble_points(rows, assembly, POINT)
    return pairwise.assemble_pairs(rows, assembly)


FORMAT = Format(
    "aurora-bench",
    tuple(dict.fromkeys([*pairwise.FIELDS, *POINT.all])),
    (*pairwise.IMAGE_FIELDS, POINT.source, POINT.edited),
    key,
    assemble,
)


PUBLISHED = Published(
    PAPER,
    ("pairs",),
    {
        "random": (33.43,),
        "GPT-4o": (50.81,),
        "GPT-5": (47.27,),
        "Gemini-2.0-Flash": (44.31,),
        "Gemini-2.5-Flash": (47.63,),
        "Qwen2.5-VL-3B (as judge)": (30.69,),
        "Qwen2.5-VL-7B (as judge)": (38.62,),
        "Qwen2.5-VL-32B (as judge)": (37.06,),
        "MiMo-VL-7B-SFT-2508 (as judge)": (30.43,),
        "ADIEE": (55.56,),
        "EditReward, Qwen2.5-VL-7B": (59.50,),
        "EditReward, MiMo-VL-7B": (63.62,),
    },
    note="Two versions of the pair-wise part exist: the same model is at 59.50 and 53.33 in the paper.",
)


def protocol(answers: Answers) -> list[Measure]:
    """Both parts, each where the data has it."""
    measures = []
    for subset, of_part in (("pairwise", pairs_with_ties), ("pointwise", ratings)):
        items = [item for item in answers.items if item.subset == subset]
        if items and (subset == "pairwise" or answers.scores is not None):
            measures += [_of_part(measure, subset) for measure in of_part(replace(answers, items=items))]
    return measures


def _of_part(measure: Measure, subset: str) -> Measure:
    """The measure as one of a part, of which the published table has the pair-wise one."""
    name = subset if measure.subset == EVERYTHING else f"{subset}: {measure.subset}"
    return replace(measure, subset=name, column=measure.column if subset == "pairwise" else None)


BENCHMARK = Benchmark("aurora-bench", "AURORA-Bench", protocol, FORMAT, PUBLISHED, ties=lambda item: True)
