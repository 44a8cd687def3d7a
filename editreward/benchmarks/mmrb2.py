"""Multimodal RewardBench 2 (MMRB2), the editing task: pairs of edits with a verdict, some of several source images.

The JSON file is an object with a list `pairs`. A pair has `id` or `pair_id`, `prompt_content` (texts and source images
in their order), `response_a` and `response_b` with `response_content` and `model_name`, and `chosen` ("A" or "B"). The
Parquet form has `pair_id`, `prompt_text` with a "<image_1>" for each image, `prompt_images`, `response_a_images`,
`response_b_images`, `chosen`, and `response_a_model` and `response_b_model`.
"""

import re
from collections.abc import Sequence

import numpy as np

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.measures import Cases, Measure
from editreward.benchmarks.protocols import EVERYTHING, Answers, Pairs
from editreward.benchmarks.published import Published
from editreward.data.importers.faults import RowFault
from editreward.data.importers.formats import UNKNOWN, Assembly, Built, Format, Row
from editreward.data.importers.pairwise import JudgedPair, build_pairs, different

ABOUT = "pairs in both orders, some of several sources (MMRB2, image editing)"

ONE, SEVERAL = "one source image", "several source images"
PLACEHOLDER = re.compile(r"<image_(\d+)>")


def key(row: Row) -> list[object]:
    """Sources and instruction."""
    return list(_prompt(row))


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all pairs of one prompt."""
    sources, instruction = _prompt(rows[0])
    pairs = assembly.parsed(rows, _parse)
    category = rows[0].optional_text("prompt_source", UNKNOWN)
    subset = ONE if len(sources) == 1 else SEVERAL
    return build_pairs(pairs, assembly, sources, instruction, category=category, subset=subset)


def _prompt(row: Row) -> tuple[list[str], str]:
    """Source images and instruction."""
    if "prompt_content" in row.values:
        parts = _content(row, row.values["prompt_content"], "prompt_content")
        sources = [value for kind, value in parts if kind == "image"]
    else:
        sources = row.images("prompt_images")
        texts = PLACEHOLDER.split(row.text("prompt_text"))
        parts = [("image", part) if place % 2 else ("text", part) for place, part in enumerate(texts)]
        parts = [(kind, value) for kind, value in parts if value.strip()]
    if not sources:
        raise RowFault("missing-image", "the prompt has no image to edit")
    return sources, _instruction(parts)


def _instruction(parts: Sequence[tuple[str, str]]) -> str:
    """The texts; of several images among them each is named where it stands, since the texts speak of them."""
    kinds = [kind for kind, _ in parts]
    texts = [place for place, kind in enumerate(kinds) if kind == "text"]
    if not texts:
        raise RowFault("empty-text", "the prompt has no text")
    among = kinds.count("image") > 1 and "image" in kinds[texts[0] : texts[-1]]
    words, number = [], 0
    for kind, value in parts:
        number += kind == "image"
        if kind == "text":
            words.append(value.strip())
        elif among:
            words.append(f"(image {number})")
    return " ".join(words)


def _content(row: Row, content: object, name: str) -> list[tuple[str, str]]:
    """Texts and images of a list such as [["text", "..."], ["image", "images/1.jpg"]]. Raises `RowFault`."""
    given = content if isinstance(content, list) else []
    parts = [part for part in given if isinstance(part, list | tuple) and len(part) == 2]
    if not isinstance(content, list) or len(parts) != len(given) or any(p[0] not in ("text", "image") for p in parts):
        raise RowFault("wrong-type", f'{name} must be a list of ["text" or "image", value]')
    if not all(isinstance(value, str) and value.strip() for _, value in parts):
        raise RowFault("wrong-type", f"{name} has an empty part")
    return [(kind, value) for kind, value in parts]


def _parse(row: Row) -> JudgedPair:
    name = "id" if "id" in row.values else "pair_id"
    chosen = row.text("chosen" if "chosen" in row.values else "human_preference").strip().upper()
    if chosen not in ("A", "B"):
        raise RowFault("unknown-value", f"chosen is {chosen!r}, must be one of A, B")
    (first, one), (second, other) = _response(row, "response_a"), _response(row, "response_b")
    return JudgedPair(
        different((first, second)),
        "first" if chosen == "A" else "second",
        (one, other),
        row.text(name),
        row.optional_text("prompt_source", UNKNOWN),
    )


def _response(row: Row, name: str) -> tuple[str, str]:
    """Image and editor of a response."""
    if f"{name}_images" in row.values:
        return row.image(f"{name}_images"), row.optional_text(f"{name}_model", UNKNOWN)
    response = row.values.get(name)
    if not isinstance(response, dict):
        raise RowFault("missing-field", f"there is no {name}")
    images = [v for kind, v in _content(row, response.get("response_content"), name) if kind == "image"]
    if len(images) != 1:
        raise RowFault("wrong-type", f"{name} must have one image, not {len(images)}")
    return images[0], str(response.get("model_name") or response.get("model") or UNKNOWN)


FORMAT = Format(
    "mmrb2",
    (
        *(
            "id",
            "pair_id",
            "prompt_content",
            "response_a",
            "response_b",
            "chosen",
            "human_preference",
            "prompt_source",
        ),
        *("prompt_text", "prompt_images", "response_a_images", "response_b_images"),
        *("response_a_model", "response_b_model"),
    ),
    ("prompt_images", "response_a_images", "response_b_images"),
    key,
    assemble,
    under="pairs",
)


def protocol(answers: Answers) -> list[Measure]:
    """The share of answers that name the chosen edit, over both orders of every pair; by sources and origin.

    A scorer of single edits has one answer for both orders; equal scores name neither edit.
    """
    pairs = answers.pairs()
    subsets = {item.subset for item in pairs.items}
    tasks = sorted({item.task for item in pairs.items if item.task not in (None, UNKNOWN)})
    of_subset, of_task = ([getattr(item, name) for item in pairs.items] for name in ("subset", "task"))
    parts = [(EVERYTHING, np.ones(len(pairs.items), dtype=bool))]
    parts += [(name, np.array([one == name for one in of_subset])) for name in (ONE, SEVERAL) if name in subsets]
    parts += [(name, np.array([one == name for one in of_task])) for name in tasks]
    columns = {EVERYTHING: EVERYTHING, ONE: ONE}
    return [
        Measure("accuracy over both orders", name, _both_orders(answers, pairs, chosen), 0.5, 0.5, columns.get(name))
        for name, chosen in parts
    ]


def _both_orders(answers: Answers, pairs: Pairs, chosen: np.ndarray) -> Cases:
    """Whether each pair's answer is right; of a judge one case for each order in which it was shown the pair."""
    if not answers.shown_first:
        return pairs.cases(np.sign(pairs.differences) == pairs.truths, chosen)
    keys, groups, right = [], [], []
    for row in np.flatnonzero(chosen).tolist():
        item, comparison, truth = pairs.items[row], pairs.comparisons[row], pairs.truths[row]
        for first, second, sign in (
            (comparison.first, comparison.second, 1),
            (comparison.second, comparison.first, -1),
        ):
            said = answers.shown_first[item.group_id, item.dimension, first, second]
            keys.append((*pairs.tuples[row], first, second))
            groups.append(item.group_id)
            right.append(float(np.sign(said) * sign == truth))
    return Cases(keys, groups, np.array(right))


PUBLISHED = Published(
    "Multimodal RewardBench 2, arXiv 2512.16899",
    (EVERYTHING, ONE),
    {
        "GPT-4o": (65.0, None),
        "GPT-4.1": (68.2, None),
        "GPT-5": (73.8, None),
        "Gemini 2.5 Pro": (71.3, None),
        "Gemini 3 Pro": (74.9, None),
        "Qwen2.5-VL-7B (as judge)": (57.1, None),
        "Qwen2.5-VL-72B (as judge)": (64.6, None),
        "Qwen3-VL-8B (as judge)": (61.7, None),
        "Qwen3-VL-32B (as judge)": (67.3, None),
        "EditReward, Qwen2.5-VL-7B": (None, 67.2),
    },
    note="EditReward was run on the pairs of one source image only.",
)

BENCHMARK = Benchmark("mmrb2", "MMRB2, image editing", protocol, FORMAT, PUBLISHED, both_orders=True)
