"""GenAI-Bench, image editing: pairs of edits with a verdict or a tie (format: see `data.importers.pairwise`)."""

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.protocols import pairs_with_ties
from editreward.benchmarks.published import PAPER, Published
from editreward.data.importers.formats import Format
from editreward.data.importers.pairwise import FIELDS, IMAGE_FIELDS, assemble_pairs, key

ABOUT = "pairs with ties (GenAI-Bench, image editing)"

FORMAT = Format("genai-bench", FIELDS, IMAGE_FIELDS, key, assemble_pairs)

PUBLISHED = Published(
    PAPER,
    ("pairs",),
    {
        "random": (25.90,),
        "GPT-4o": (53.54,),
        "GPT-5": (59.61,),
        "Gemini-2.0-Flash": (53.32,),
        "Gemini-2.5-Flash": (57.01,),
        "Qwen2.5-VL-3B (as judge)": (42.76,),
        "Qwen2.5-VL-7B (as judge)": (40.48,),
        "Qwen2.5-VL-32B (as judge)": (39.28,),
        "MiMo-VL-7B-SFT-2508 (as judge)": (57.89,),
        "ADIEE": (59.96,),
        "EditReward, Qwen2.5-VL-7B": (63.97,),
        "EditReward, MiMo-VL-7B": (65.72,),
    },
)

BENCHMARK = Benchmark(
    "genai-bench", "GenAI-Bench, image editing", pairs_with_ties, FORMAT, PUBLISHED, ties=lambda item: True
)
