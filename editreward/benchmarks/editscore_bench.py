"""EditReward-Bench of EditScore, another benchmark of that name.

A row has `key` (ids of the two edits), `instruction`, `input_image`, `output_images` (the preferred one first),
`task_type` and the judged `dimension`. A group holds the pairs of one dimension: its `preferences` are that
dimension's.
"""

import io
from dataclasses import replace

import numpy as np

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.measures import MacroShare, Measure
from editreward.benchmarks.protocols import Answers
from editreward.benchmarks.runner import Preparation
from editreward.data.importers.faults import RowFault
from editreward.data.importers.formats import Assembly, Built, Format, Row
from editreward.data.importers.pairwise import JudgedPair, build_pairs, different
from editreward.groups import EditGroup
from editreward.groups.group import ImageInput
from editreward.scorers.baselines import decode, resized_to

ABOUT = "pairs by dimension and task (EditScore)"

DIMENSIONS = ("prompt_following", "consistency", "overall")
TASK_GROUPS = {
    "object": ("subject-add", "subject-remove", "subject-replace"),
    "appearance": ("color_alter", "material_alter", "style_change", "tone_transfer"),
    "scene": ("background_change", "extract"),
    "advanced": ("ps_human", "text_change", "motion_change", "compose"),
}
TASKS = tuple(task for tasks in TASK_GROUPS.values() for task in tasks)


def key(row: Row) -> list[str]:
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


def protocol(answers: Answers) -> list[Measure]:
    """Accuracy by dimension and task; groups of tasks and all tasks averaged."""
    measures = []
    name = "accuracy, average over tasks"
    for dimension in dict.fromkeys(item.dimension for item in answers.items):
        pairs = answers.pairs([item for item in answers.items if item.dimension == dimension])
        right = np.sign(pairs.differences) == pairs.truths
        of_task = np.array([item.task or "" for item in pairs.items])
        scored_by = {"score": answers.answering(dimension) if answers.scores else "verdict"}
        average = MacroShare(of_task)
        whole = pairs.cases(right, statistic=average)
        measures.append(Measure(name, dimension, whole, 0.5, 0.5, details=scored_by))
        for kind, members in TASK_GROUPS.items():
            chosen = np.isin(of_task, members)
            if chosen.any():
                of_kind = pairs.cases(right, chosen, average)
                measures.append(Measure(name, f"{dimension}: {kind}", of_kind, 0.5, 0.5))
        for task in sorted(set(of_task.tolist())):
            measures.append(Measure("accuracy", f"{dimension}: {task}", pairs.cases(right, of_task == task), 0.5, 0.5))
    return measures


def resize_edited(group: EditGroup) -> EditGroup:
    """The group with every edited image at the size of the first source image."""
    size = decode(group.sources[0]).size
    return replace(group, edited=[_at_size(image, size) for image in group.edited])


def _at_size(edited: ImageInput, size: tuple[int, int]) -> ImageInput:
    image = decode(edited)
    if image.size == size:
        return edited
    out = io.BytesIO()
    resized_to(image, size).save(out, "PNG", compress_level=1)
    return out.getvalue()


BENCHMARK = Benchmark(
    "editscore-bench",
    "EditReward-Bench (EditScore)",
    protocol,
    FORMAT,
    hub="EditScore/EditReward-Bench",
    preparation=Preparation("edited images at the size of the source", resize_edited),
    names={
        "prompt_following": ("prompt_following", "instruction_following"),
        "consistency": ("consistency",),
    },
)
