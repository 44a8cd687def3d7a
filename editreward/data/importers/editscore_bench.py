"""EditReward-Bench of EditScore, another benchmark of that name.

A row has `key` (ids of the two edits), `instruction`, `input_image`, `output_images` (the preferred one first),
`task_type` and the judged `dimension`. A group holds the pairs of one dimension: its `preferences` are that
dimension's.
"""

from typing import Any

from editreward.data.importers.faults import RowFault
from editreward.data.importers.formats import Assembly, Built, Format, Row
from editreward.data.importers.pairwise import JudgedPair, build_pairs, different

DIMENSIONS = ("prompt_following", "consistency", "overall")
TASKS = (
    *("background_change", "color_alter", "style_change", "subject-add", "subject-remove", "subject-replace"),
    *("material_alter", "motion_change", "ps_human", "text_change", "tone_transfer", "extract", "compose"),
)


def key(row: Row) -> list[Any]:
    """Source, instruction, task, dimension."""
    task, dimension = row.choice("task_type", TASKS), row.choice("dimension", DIMENSIONS)
    return [row.image("input_image"), row.text("instruction"), task, dimension]


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of all pairs of one source, instruction, task and dimension."""
    source, instruction, task, dimension = key(rows[0])
    pairs = assembly.parsed(rows, _parse)
    return build_pairs(pairs, assembly, [source], instruction, dimension, task, subset=dimension)


def _parse(row: Row) -> JudgedPair:
    ids, images = row.values.get("key"), row.images("output_images")
    if not isinstance(ids, list) or len(ids) != 2 or not all(isinstance(name, str) for name in ids):
        raise RowFault("wrong-type", f"key must be the ids of two edits, not {ids!r}")
    if len(images) != 2:
        raise RowFault("wrong-type", f"output_images must be two images, not {len(images)}")
    item_id = f"{ids[0]}|{ids[1]}|{row.text('dimension')}"
    return JudgedPair(different((images[0], images[1])), "first", item_id=item_id, task=row.text("task_type"))


FORMAT = Format(
    "editscore-bench",
    ("key", "instruction", "input_image", "output_images", "task_type", "dimension"),
    ("input_image", "output_images"),
    key,
    assemble,
)
