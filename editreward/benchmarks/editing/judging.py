"""Judges an editor's results on GEdit-Bench with any scorer, and goes on where an earlier run stopped.

A scorer that writes answers to prompts named SC and PQ (VIEScore, EditScore) gives the published table, one for each
of its passes. Any other scorer, such as a reward model, is on a scale of its own: its scores are written and reported
apart.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from editreward.benchmarks.editing.gedit_bench import (
    HIGH,
    LANGUAGES,
    LOW,
    TASKS,
    Judgement,
    read_judgements,
    table_file,
    write_judgements,
)
from editreward.benchmarks.editscore_bench import resize_edited
from editreward.files import Journal
from editreward.groups import CandidateScore, EditGroup, Scorer, Unscored
from editreward.scorers.baselines import decode
from editreward.scorers.fingerprints import content_hash
from editreward.scorers.registry import check_answers

SEMANTICS, QUALITY = "SC", "PQ"
ANSWERS = "answers.jsonl"
TEXTS, INTERSECTION = ("task_type", "key", "instruction_language", "instruction"), "Intersection_exist"
"""Columns of the published dataset that are read."""

BATCH = 32
"""Edits that a scorer is called with, and that a killed run loses at most."""


@dataclass(frozen=True)
class Edit:
    """An instruction of GEdit-Bench.

    Attributes:
        task, key, language, instruction: as published.
        intersection: `Intersection_exist`.
    """

    task: str
    key: str
    language: str
    instruction: str
    intersection: bool

    @property
    def id(self) -> str:
        """What no other edit is called; its place in the result layout."""
        return f"{self.task}/{self.language}/{self.key}"

    def files(self, results: Path) -> tuple[Path, Path]:
        """Source and edited image in a folder of results."""
        stem = results / "fullset" / self.task / self.language / self.key
        return stem.with_name(f"{self.key}_SRCIMG.png"), stem.with_name(f"{self.key}.png")


@dataclass(frozen=True)
class Judged:
    """What a judge said of an editor's results.

    Attributes:
        repeats: the published judgements, a list for each pass; empty for a scorer without SC and PQ.
        rewards: by id, the score of a scorer without SC and PQ, "reward" and its dimensions.
        failed: by id, why there is no score: a missing or broken image, or no readable answer. Another run asks again.
    """

    repeats: list[list[Judgement]] = field(default_factory=list)
    rewards: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def edits_of(rows: Iterable[Mapping[str, Any]]) -> list[Edit]:
    """The instructions in rows of the published dataset.

    Raises:
        ValueError: a row has no such column or nothing in it, an unknown task, or the place of another.
    """
    found: dict[str, Edit] = {}
    for number, row in enumerate(rows):
        for name in (*TEXTS, INTERSECTION):
            if name not in row:
                raise ValueError(f"Row {number} has no column {name!r}: this is not GEdit-Bench's dataset.")
            if row[name] is None:
                raise ValueError(f"Row {number} has no {name}.")
        if not isinstance(row[INTERSECTION], bool):
            raise ValueError(f"Row {number} has the {INTERSECTION} {row[INTERSECTION]!r}, neither true nor false.")
        task, key, language, instruction = (str(row[name]) for name in TEXTS)
        edit = Edit(task, key, language, instruction, row[INTERSECTION])
        if edit.task not in TASKS:
            raise ValueError(f"Row {number} has the task_type {edit.task!r}, none of GEdit-Bench.")
        if edit.key in ("", ".", "..") or "/" in edit.key or "\\" in edit.key:
            raise ValueError(f"Row {number} has the key {edit.key!r}, which makes no file name.")
        if edit.id in found:
            raise ValueError(f"Row {number} is another one of {edit.id}.")
        found[edit.id] = edit
    return list(found.values())


def judge(edits: Sequence[Edit], results: Path, scorer: Scorer, folder: Path, progress: bool | None = None) -> Judged:
    """Rate every edit that has no rating yet, or other images or another instruction than when it was rated.

    Args:
        edits: the instructions.
        results: the editor's images, in the published layout.
        scorer: who rates.
        folder: where the answers are kept, as they come; half a line that a kill left is cut off.
        progress: show a bar; None: in a terminal.

    Raises:
        ValueError: the folder holds answers of another scorer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Answers stay those of one judge: another one, or other settings of it, has another fingerprint.
    journal = Journal(folder / ANSWERS, {"scorer": scorer.name, "fingerprint": scorer.fingerprint})
    failed: dict[str, str] = {}
    with journal:
        answered = {record["id"]: record for record in journal.records()}
        with tqdm(total=len(edits), desc="Judging", unit=" edits", disable=_hidden(progress)) as bar:
            for batch in _batches(edits):
                shown = _shown(batch, results, failed)
                asked = [one for one in shown if answered.get(one.edit.id, {}).get("sha256") != one.digest]
                scores = first_candidates(scorer, [resize_edited(one.group) for one in asked])
                for one, score in zip(asked, scores, strict=True):
                    record = _record(score)
                    if isinstance(record, str):
                        failed[one.edit.id] = record
                    else:
                        answered[one.edit.id] = {"id": one.edit.id, "sha256": one.digest, **record}
                        journal.add(answered[one.edit.id])
                bar.update(len(batch))
    chosen = {edit.id: answered[edit.id] for edit in edits if edit.id in answered and edit.id not in failed}
    rewards = {name: record["scores"] for name, record in chosen.items() if "scores" in record}
    judged = {name: record for name, record in chosen.items() if name not in rewards}
    return Judged(_repeats(edits, results, judged), rewards, failed)


def is_published(score: CandidateScore) -> bool:
    """Whether an answer is one to the two prompts of the published protocol, whoever hands it on."""
    return bool(score.passes) and set(score.passes[0].prompt_scores) == {SEMANTICS, QUALITY}


def write_tables(judged: Judged, results: Path, judge_name: str, editor: str) -> list[Path]:
    """Write the published tables, a folder for each repeated judgement. Returns the folders.

    What the same scorer judged before in the other language stays in them.
    """
    folders = []
    for number, judgements in enumerate(judged.repeats):
        name = judge_name if number == 0 else f"{judge_name}-{number + 1}"
        folders.append(results / name / "eval_results_new")
        others = _in_other_languages(results / judge_name, folders[-1], editor, judgements)
        write_judgements(folders[-1], editor, [*judgements, *others])
    return folders


def answers_file(folder: Path, language: str) -> Path:
    """Where the answers in a language are kept in a judge's folder."""
    return folder / f"editreward-{language}" / ANSWERS


def _in_other_languages(
    judge_folder: Path, tables: Path, editor: str, judgements: Sequence[Judgement]
) -> list[Judgement]:
    """Rows of an editor's tables in languages that are judged no more, where the same scorer judged them."""
    if not all(table_file(tables, editor, task).is_file() for task in TASKS):
        return []
    now = {one.language for one in judgements}
    judges = {language: _first_line(answers_file(judge_folder, language)) for language in LANGUAGES}
    same = {name for name, judge in judges.items() if judge and all(judge == judges[one] for one in now)}
    return [one for one in read_judgements(tables, editor)[0] if one.language in same - now]


def _first_line(file: Path) -> bytes:
    """The first line of a file, which in a journal names the scorer; empty where there is no file."""
    if not file.is_file():
        return b""
    with file.open("rb") as opened:
        return opened.readline()


def mean_rewards(judged: Judged, edits: Sequence[Edit], language: str) -> dict[str, dict[str, float]]:
    """Mean scores of a scorer without SC and PQ: by task, and over the tasks as "mean".

    Raises:
        ValueError: a task has no score.
    """
    by_task: dict[str, dict[str, float]] = {}
    for task in TASKS:
        rows = [
            judged.rewards[edit.id]
            for edit in edits
            if (edit.task, edit.language) == (task, language) and edit.id in judged.rewards
        ]
        if not rows:
            raise ValueError(f"No edit of {task} ({language}) has a score: GEdit-Bench is a mean over all 11 tasks.")
        by_task[task] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    names = by_task[TASKS[0]]
    return by_task | {"mean": {name: float(np.mean([by_task[task][name] for task in TASKS])) for name in names}}


def _batches(edits: Sequence[Edit]) -> Iterator[list[Edit]]:
    left = iter(edits)
    while batch := list(islice(left, BATCH)):
        yield batch


def _hidden(progress: bool | None) -> bool | None:
    """The `disable` of tqdm, which hides bars outside of terminals by itself if it is None."""
    return None if progress is None else not progress


@dataclass(frozen=True)
class _Shown:
    """An edit with its images, and a hash of all that decides its score."""

    edit: Edit
    group: EditGroup
    digest: str


def _shown(batch: Sequence[Edit], results: Path, failed: dict[str, str]) -> list[_Shown]:
    """What can be shown; the rest goes into `failed`."""
    shown = []
    for edit in batch:
        source, edited = edit.files(results)
        try:
            images = source.read_bytes(), edited.read_bytes()
            for image in images:
                decode(image)
        except FileNotFoundError as error:
            failed[edit.id] = f"there is no image {error.filename}"
        except (OSError, ValueError) as error:
            failed[edit.id] = f"{edited.name} or its source cannot be read: {error}"
        else:
            digest = content_hash(*images, edit.instruction)
            shown.append(_Shown(edit, EditGroup(images[:1], edit.instruction, images[1:], edit.id), digest))
    return shown


def first_candidates(scorer: Scorer, groups: Sequence[EditGroup]) -> list[CandidateScore | Unscored]:
    """The scores of groups of one candidate each.

    Raises:
        ValueError: the scorer did not keep to the interface: NaN, or another number of answers.
    """
    answers = scorer(groups) if groups else []
    check_answers(scorer, groups, answers)
    return [answer if isinstance(answer, Unscored) else answer.candidates[0] for answer in answers]


def _record(score: CandidateScore | Unscored) -> dict[str, object] | str:
    """What to keep of an answer, or why there is none."""
    if isinstance(score, Unscored):
        return score.reason
    if not is_published(score):
        values = {"reward": score.reward, **{name: one.mean for name, one in score.dimensions.items()}}
        return {"scores": {name: float(value) for name, value in values.items()}}
    return {
        "passes": [
            [LOW + said.prompt_scores[name] * (HIGH - LOW) for name in (SEMANTICS, QUALITY)] for said in score.passes
        ],
        "said": [asdict(said) for said in score.passes],
    }


def _repeats(edits: Sequence[Edit], results: Path, answered: Mapping[str, Mapping[str, Any]]) -> list[list[Judgement]]:
    passes = len(next(iter(answered.values()))["passes"]) if answered else 0
    repeats: list[list[Judgement]] = [[] for _ in range(passes)]
    for edit in edits:
        if edit.id in answered:
            source, edited = edit.files(results)
            for judgements, (semantics, quality) in zip(repeats, answered[edit.id]["passes"], strict=True):
                judgements.append(
                    Judgement(
                        edit.task,
                        str(source),
                        str(edited),
                        edit.instruction,
                        semantics,
                        quality,
                        edit.intersection,
                        edit.language,
                    )
                )
    return repeats
