"""ImagenHub, image editing: `instruction`, `input_path`, `output_path`, `score`, `model` (see `pointwise`)."""

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.protocols import ratings
from editreward.benchmarks.published import PAPER, Published
from editreward.data.importers.formats import Assembly, Built, Format, Row
from editreward.data.importers.pointwise import PointFields, assemble_points

ABOUT = "ratings of single edits (ImagenHub)"

POINT = PointFields(instruction="instruction", source="input_path", edited="output_path")


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all edits of one source and instruction."""
    return assemble_points(rows, assembly, POINT)


FORMAT = Format("imagenhub", POINT.all, (POINT.source, POINT.edited), POINT.key, assemble)

PUBLISHED = Published(
    PAPER,
    ("ratings",),
    {
        "human to human": (41.84,),
        "GPT-4o": (38.21,),
        "GPT-5": (40.85,),
        "Gemini-2.0-Flash": (23.69,),
        "Gemini-2.5-Flash": (41.62,),
        "Qwen2.5-VL-3B (as judge)": (-2.54,),
        "Qwen2.5-VL-7B (as judge)": (18.59,),
        "Qwen2.5-VL-32B (as judge)": (26.87,),
        "MiMo-VL-7B-SFT-2508 (as judge)": (22.14,),
        "ADIEE": (34.50,),
        "EditReward, Qwen2.5-VL-7B": (36.18,),
        "EditReward, MiMo-VL-7B": (35.20,),
    },
    note="The published script takes the tanh of the mean correlation, which is no Fisher average.",
)

BENCHMARK = Benchmark("imagenhub", "ImagenHub, image editing", ratings, FORMAT, PUBLISHED)
