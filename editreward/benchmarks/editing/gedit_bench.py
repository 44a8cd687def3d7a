"""GEdit-Bench: its result layout, read and written, and its aggregation.

    RESULTS/fullset/TASK/LANGUAGE/KEY.png, KEY_SRCIMG.png               edited and source images
    RESULTS/JUDGE/eval_results_new/EDITOR_TASK_gpt_score.csv            a row for each judged edit
    RESULTS/JUDGE/eval_results_new/EDITOR_combined_gpt_score.csv        all of them

The columns, misspelt as published: `source_image`, `edited_image`, `instruction`, `sementics_score`, `quality_score`,
`intersection_exist`, `instruction_language`.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from editreward.benchmarks.published import Published
from editreward.data.tables import read_table
from editreward.files import write_text

ABOUT = "GEdit-Bench: 606 edits in English and Chinese, 11 tasks"
HUB = "stepfun-ai/GEdit-Bench"
TASKS = (
    *("background_change", "color_alter", "material_alter", "motion_change", "ps_human", "style_change"),
    *("subject-add", "subject-remove", "subject-replace", "text_change", "tone_transfer"),
)
LANGUAGES = ("en", "cn")
LOW, HIGH = 0.0, 10.0
COLUMNS = (
    *("source_image", "edited_image", "instruction", "sementics_score", "quality_score"),
    *("intersection_exist", "instruction_language"),
)
MEASURES = ("G_SC", "G_PQ", "G_O")
CONTAMINATION = (
    "EditReward-Data holds GEdit-Bench's instructions: a reward model that was trained on them has seen what it judges"
)

PUBLISHED = Published(
    "EditReward, arXiv 2509.26346, table 3 (GEdit-Bench-EN, judged by a VLM)",
    MEASURES,
    {
        "Step1X-Edit": (None, 6.998, 6.444),
        "Step1X-Edit, all 46K of ShareGPT-4o-Image": (None, None, 6.780),
        "Step1X-Edit, best 20K by EditReward": (None, 6.931, 7.086),
    },
    note="Judges drift: the same judge gave other numbers months apart, and runs differ by 0.1.",
)


@dataclass(frozen=True)
class Judgement:
    """A row of the published table, and the task that its file is named after.

    Attributes:
        task: one of `TASKS`.
        source_image, edited_image, instruction: what was judged.
        semantics, quality: scores of 0..10.
        intersection: whether the instruction is in the part that all editors of the paper answered.
        language: "en" or "cn".
    """

    task: str
    source_image: str
    edited_image: str
    instruction: str
    semantics: float
    quality: float
    intersection: bool
    language: str

    @property
    def overall(self) -> float:
        """sqrt(SC x PQ) of this edit."""
        return math.sqrt(self.semantics * self.quality)


@dataclass(frozen=True)
class Means:
    """G_SC, G_PQ and G_O of some edits."""

    semantics: float
    quality: float
    overall: float


@dataclass(frozen=True)
class GEditScores:
    """An editor's result in one language, on all instructions or on the intersection.

    Attributes:
        by_task: the means of each task.
        counts: judged edits of each task.
        means: the unweighted means over the tasks. The overall one is no function of the other two.
    """

    by_task: dict[str, Means]
    counts: dict[str, int]
    means: Means


def aggregate(judgements: Sequence[Judgement], language: str, intersection: bool = False) -> GEditScores:
    """The published aggregation: means within each task, then their unweighted mean over the 11 tasks.

    Args:
        judgements: of one editor, by one judge, each edit once.
        language: "en" or "cn".
        intersection: only the edits of the intersection.

    Raises:
        ValueError: a task has no judged edit, so that there is no mean, or the language is another word.
    """
    if language not in LANGUAGES:
        raise ValueError(f"GEdit-Bench has no language {language!r}, only: {', '.join(LANGUAGES)} (Chinese is `cn`).")
    chosen = [one for one in judgements if one.language == language and (one.intersection or not intersection)]
    by_task, counts = {}, {}
    for task in TASKS:
        of_task = [one for one in chosen if one.task == task]
        counts[task] = len(of_task)
        if of_task:
            by_task[task] = _means([(one.semantics, one.quality, one.overall) for one in of_task])
    if missing := [task for task in TASKS if not counts[task]]:
        part = f"{language}, intersection" if intersection else language
        raise ValueError(f"No judged edit of {', '.join(missing)} ({part}): GEdit-Bench is a mean over all 11 tasks.")
    return GEditScores(by_task, counts, _means([astuple(by_task[task]) for task in TASKS]))


def _means(rows: Sequence[tuple[float, ...]]) -> Means:
    semantics, quality, overall = (float(np.mean(column)) for column in zip(*rows, strict=True))
    return Means(semantics, quality, overall)


@dataclass(frozen=True)
class Repeated:
    """A number over repeated judgements: their mean, and their standard deviation (n - 1), NaN of one judgement."""

    mean: float
    std: float
    repeats: int


def repeated(scores: Sequence[GEditScores]) -> dict[str, Repeated]:
    """G_SC, G_PQ and G_O over repeated judgements of the same edits."""
    columns = zip(*(astuple(one.means) for one in scores), strict=True)
    return {
        name: Repeated(
            float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan, len(values)
        )
        for name, values in zip(MEASURES, columns, strict=True)
    }


def repeated_task(scores: Sequence[GEditScores], task: str) -> tuple[float, ...]:
    """SC, PQ and overall score of a task, means over repeated judgements."""
    return astuple(_means([astuple(one.by_task[task]) for one in scores]))


def editor_of(folder: Path) -> str:
    """The editor that a folder of tables is about, by their names.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: there are tables of several editors.
    """
    ending = f"_{TASKS[0]}_gpt_score.csv"
    names = sorted(file.name.removesuffix(ending) for file in folder.glob(f"*{ending}"))
    if not names:
        raise FileNotFoundError(f"{folder} has no table EDITOR{ending} of GEdit-Bench.")
    if len(names) > 1:
        raise ValueError(f"{folder} has tables of {', '.join(names)}: say which editor.")
    return names[0]


def table_file(folder: Path, editor: str, task: str) -> Path:
    """The table of a task, or of all ("combined")."""
    return folder / f"{editor}_{task}_gpt_score.csv"


def read_judgements(folder: Path, editor: str) -> tuple[list[Judgement], list[str]]:
    """The rows of an editor's tables.

    Args:
        folder: an `eval_results_new`.
        editor: of that name.

    Returns:
        The judged edits, and for each row without two scores of 0..10, or that is there twice, its place and fault.

    Raises:
        FileNotFoundError: the table of a task is not there.
        ValueError: a table lacks a column.
    """
    found: list[Judgement] = []
    faults: list[str] = []
    seen: set[tuple[str, str]] = set()
    for task in TASKS:
        file = table_file(folder, editor, task)
        for row in read_table(file):
            place = f"{file.name}, {row.place}"
            if missing := [] if row.fault else [name for name in COLUMNS if name not in row.values]:
                raise ValueError(f"{file} has no column {', '.join(missing)}.")
            judged = row.fault or _judgement(task, {name: str(row.values[name]) for name in COLUMNS})
            if isinstance(judged, str):
                faults.append(f"{place}: {judged}")
            elif (key := (judged.language, judged.edited_image)) in seen:
                faults.append(f"{place}: {judged.edited_image} was judged before in this file")
            else:
                seen.add(key)
                found.append(judged)
    return found, faults


def _judgement(task: str, values: dict[str, str]) -> Judgement | str:
    """The row, or what is wrong with it."""
    scores = []
    for name in ("sementics_score", "quality_score"):
        try:
            score = float(values[name])
        except ValueError:
            return f"{name} is {values[name]!r}, no number"
        if not LOW <= score <= HIGH:
            return f"{name} is {score:g}, not of {LOW:g}..{HIGH:g}"
        scores.append(score)
    if values["instruction_language"] not in LANGUAGES:
        return f"instruction_language is {values['instruction_language']!r}, neither en nor cn"
    if values["intersection_exist"].lower() not in ("true", "false"):
        return f"intersection_exist is {values['intersection_exist']!r}, neither True nor False"
    return Judgement(
        task,
        values["source_image"],
        values["edited_image"],
        values["instruction"],
        scores[0],
        scores[1],
        values["intersection_exist"].lower() == "true",
        values["instruction_language"],
    )


def write_judgements(folder: Path, editor: str, judgements: Sequence[Judgement]) -> list[Path]:
    """Write the published tables, one for each task and one of all; each appears in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in (*TASKS, "combined"):
        chosen = [one for task in TASKS for one in judgements if one.task == task and name in (task, "combined")]
        file = table_file(folder, editor, name)
        write_text(file, _table(chosen))
        written.append(file)
    return written


def _table(judgements: Sequence[Judgement]) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for one in judgements:
        _, source, edited, instruction, semantics, quality, intersection, language = astuple(one)
        writer.writerow([source, edited, instruction, semantics, quality, intersection, language])
    return out.getvalue()
