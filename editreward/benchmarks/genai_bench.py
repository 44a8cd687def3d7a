"""GenAI-Bench, image editing: pairs of edits with a verdict or a tie, in both published forms.

The form of the paper is that of `data.importers.pairwise`. The other, with the votes of GenAI-Arena, has
`instruct_prompt`, `source_image`, `left_output_image`, `right_output_image`, `left_model`, `right_model` and
`vote_type`: "leftvote", "rightvote", "tievote", or "bothbad_vote", which is a tie.
"""

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.protocols import pairs_with_ties
from editreward.benchmarks.published import PAPER, Published
from editreward.data.benchmark_items import Verdict
from editreward.data.importers import pairwise
from editreward.data.importers.formats import UNKNOWN, Assembly, Built, Format, Row

ABOUT = "pairs with ties (GenAI-Bench, image editing)"

VOTES: dict[str, Verdict] = {"leftvote": "first", "rightvote": "second", "tievote": "tie", "bothbad_vote": "tie"}
VOTE_IMAGES = ("source_image", "left_output_image", "right_output_image")


def key(row: Row) -> list[str]:
    """Source and instruction."""
    if "vote_type" in row.values:
        return [row.image("source_image"), row.text("instruct_prompt")]
    return pairwise.key(row)


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all pairs of one source and instruction."""
    if "vote_type" not in rows[0].values:
        return pairwise.assemble_pairs(rows, assembly)
    source, instruction = key(rows[0])
    return pairwise.build_pairs(assembly.parsed(rows, _parse_vote), assembly, [source], instruction)


def _parse_vote(row: Row) -> pairwise.JudgedPair:
    images = row.image("left_output_image"), row.image("right_output_image")
    editors = row.optional_text("left_model", UNKNOWN), row.optional_text("right_model", UNKNOWN)
    return pairwise.JudgedPair(pairwise.different(images), VOTES[row.choice("vote_type", list(VOTES))], editors)


FORMAT = Format(
    "genai-bench",
    (*pairwise.FIELDS, "instruct_prompt", *VOTE_IMAGES, "left_model", "right_model", "vote_type"),
    (*pairwise.IMAGE_FIELDS, *VOTE_IMAGES),
    key,
    assemble,
)

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
