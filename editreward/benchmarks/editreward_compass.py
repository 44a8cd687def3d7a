"""EditReward-Compass: `source_image`, `prompt`, `winner`, `loser`, the judged `dimension`, and `label`.

Each dimension is judged on pairs of its own, so a group holds the pairs of one dimension: its `preferences` are that
dimension's, not those of the edit as a whole.
"""

import numpy as np

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.measures import Measure
from editreward.benchmarks.protocols import EVERYTHING, Answers
from editreward.data.importers.formats import Assembly, Built, Format, Row
from editreward.data.importers.pairwise import JudgedPair, build_pairs, different
from editreward.statistics.accuracy import NEAR_TIE

ABOUT = "preferences and near-ties by dimension"

DIMENSIONS = ("IA", "VC", "VQ")
LABELS = ("preference", "tie")


def key(row: Row) -> tuple[list[str], str, str]:
    """Sources (several for multi-image edits), instruction, dimension."""
    return row.images("source_image"), row.text("prompt"), row.choice("dimension", DIMENSIONS)


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all pairs of one source, instruction and dimension."""
    sources, instruction, dimension = key(rows[0])
    pairs = assembly.parsed(rows, _parse)
    return build_pairs(pairs, assembly, sources, instruction, dimension, subset=dimension)


def _parse(row: Row) -> JudgedPair:
    images = different((row.image("winner"), row.image("loser")))
    return JudgedPair(images, "tie" if row.choice("label", LABELS) == "tie" else "first")


FORMAT = Format(
    "editreward-compass",
    ("source_image", "prompt", "winner", "loser", "dimension", "label"),
    ("source_image", "winner", "loser"),
    key,
    assemble,
)


def protocol(answers: Answers) -> list[Measure]:
    """A preference is right if the winner scores higher, a tie if the scores hardly differ."""
    measures = []
    dimensions = dict.fromkeys(item.dimension for item in answers.items)
    for dimension in [*dimensions, EVERYTHING]:
        pairs = answers.pairs([item for item in answers.items if dimension in (item.dimension, EVERYTHING)])
        tied = pairs.truths == 0
        right = np.where(tied, np.abs(pairs.differences) < NEAR_TIE, np.sign(pairs.differences) == pairs.truths)
        details = {"score": answers.answering(dimension) if answers.scores else "verdict"}
        details = details if dimension != EVERYTHING else {}
        for name, chance, chosen in (
            ("accuracy", None, None),
            ("accuracy on preferences", 0.5, ~tied),
            ("accuracy on ties", 0.0, tied),
        ):
            measures.append(Measure(name, dimension, pairs.cases(right, chosen), chance, details=details))
    return measures


BENCHMARK = Benchmark(
    "editreward-compass",
    "EditReward-Compass",
    protocol,
    FORMAT,
    ties=lambda item: True,
    names={
        "IA": ("IA", "instruction_following"),
        "VC": ("VC", "consistency"),
        "VQ": ("VQ", "visual_quality"),
    },
)
