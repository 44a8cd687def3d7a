"""Judges an editor's images on ImgEdit-Bench with any scorer, and goes on where an earlier run stopped.

A scorer that writes its answers and was given the prompt set `imgedit` is asked as the published script asks: by the
question of the edit's type. Its answers are kept as `result.json` has them, so that the published scripts read them,
too. Any other scorer is shown the edit's own prompt; its scores are on a scale of their own and reported apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from editreward.benchmarks.editing.imgedit_bench import PLACE_OF_PROMPT, PROMPT, PROMPTS
from editreward.benchmarks.editing.judging import BATCH, first_candidates
from editreward.files import Journal, write_json
from editreward.groups import CandidateScore, EditGroup, Scorer, Unscored
from editreward.scorers.baselines import decode
from editreward.scorers.fingerprints import content_hash


@dataclass(frozen=True)
class ImgEdit:
    """An edit of ImgEdit-Bench.

    Attributes:
        key, prompt, type: as published.
        source: path of its source image in the folder of these.
    """

    key: str
    prompt: str
    type: str
    source: str


@dataclass(frozen=True)
class ImgEditJudged:
    """What a judge said.

    Attributes:
        repeats: what `result.json` has, once for each pass; empty for a scorer that was not asked the questions.
        rewards: by key, the score of such a scorer, "reward" and its dimensions.
        failed: by key, why there is no score. Another run asks again.
    """

    repeats: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    rewards: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def edits_of(content: Mapping[str, Any]) -> list[ImgEdit]:
    """The edits of `basic_edit.json`.

    Raises:
        ValueError: one lacks a field, or its key makes no file name.
    """
    edits = []
    for key, edit in content.items():
        missing = [name for name in ("id", "prompt", "edit_type") if not isinstance(edit, Mapping) or name not in edit]
        if missing:
            raise ValueError(f"Edit {key} has no {missing[0]}: this is no basic_edit.json of ImgEdit-Bench.")
        if key in ("", ".", "..") or "/" in key or "\\" in key:
            raise ValueError(f"The key {key!r} makes no file name.")
        edits.append(ImgEdit(key, str(edit["prompt"]), str(edit["edit_type"]), str(edit["id"])))
    return edits


def questions_of(content: Mapping[str, Any], edits: Sequence[ImgEdit]) -> dict[str, str]:
    """What the judge is asked of each edit, by key.

    Args:
        content: `prompts.json`, a text for each type.
        edits: whose.

    Raises:
        ValueError: a type has no text, or one without the place of the prompt.
    """
    for name in dict.fromkeys(edit.type for edit in edits):
        if PLACE_OF_PROMPT not in str(content.get(name, "")):
            raise ValueError(f"The questions have no text for {name!r} with {PLACE_OF_PROMPT} in it.")
    return {edit.key: str(content[edit.type]).replace(PLACE_OF_PROMPT, edit.prompt) for edit in edits}


def judge(
    edits: Sequence[ImgEdit],
    images: Path,
    sources: Path,
    scorer: Scorer,
    folder: Path,
    questions: Mapping[str, str] | None = None,
    progress: bool | None = None,
) -> ImgEditJudged:
    """Rate every edit that has no rating yet, or other images or another text than when it was rated.

    Args:
        edits: of the benchmark.
        images: folder of the edited images, `KEY.png`.
        sources: folder of the source images.
        scorer: who rates.
        folder: where the answers are kept as they come, and `result.json`; of several passes `result-2.json` ..., too.
        questions: as `questions_of` makes them; None: the scorer is shown the edits' prompts.
        progress: show a bar; None: in a terminal.

    Raises:
        ValueError: the folder holds answers of another scorer, or questions are put to a scorer that writes no
            answers to them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = {"scorer": scorer.name, "fingerprint": scorer.fingerprint, "questions": questions is not None}
    failed: dict[str, str] = {}
    with Journal(folder / "answers.jsonl", header) as journal:
        answered = {record["key"]: record for record in journal.records()}
        with tqdm(
            total=len(edits), desc="Judging", unit=" edits", disable=None if progress is None else not progress
        ) as bar:
            left = iter(edits)
            while batch := list(islice(left, BATCH)):
                shown = _shown(batch, images, sources, questions, failed)
                asked = [one for one in shown if answered.get(one[1].group_id, {}).get("sha256") != one[0]]
                scores = first_candidates(scorer, [group for _, group in asked])
                for (digest, group), score in zip(asked, scores, strict=True):
                    record = _record(score, questions is not None, scorer.name)
                    if isinstance(record, str):
                        failed[group.group_id] = record
                    else:
                        answered[group.group_id] = {"key": group.group_id, "sha256": digest, **record}
                        journal.add(answered[group.group_id])
                bar.update(len(batch))
    chosen = {one.key: answered[one.key] for one in edits if one.key in answered and one.key not in failed}
    if questions is None:
        return ImgEditJudged(rewards={key: record["scores"] for key, record in chosen.items()}, failed=failed)
    passes = len(next(iter(chosen.values()))["answers"]) if chosen else 1
    repeats = [
        {
            one.key: chosen[one.key]["answers"][number] if one.key in chosen else {"error": failed[one.key]}
            for one in edits
        }
        for number in range(passes)
    ]
    for number, results in enumerate(repeats):
        write_json(folder / (f"result-{number + 1}.json" if number else "result.json"), results)
    return ImgEditJudged(repeats, failed=failed)


def mean_rewards(judged: ImgEditJudged, edits: Sequence[ImgEdit]) -> dict[str, dict[str, float]]:
    """Mean scores of a scorer that was not asked the questions: by type, and over the types as "mean".

    Raises:
        ValueError: a type has no score.
    """
    of_type: dict[str, list[dict[str, float]]] = {edit.type: [] for edit in edits}
    for edit in edits:
        if edit.key in judged.rewards:
            of_type[edit.type].append(judged.rewards[edit.key])
    if empty := [name for name, rows in of_type.items() if not rows]:
        raise ValueError(f"No edit of {', '.join(empty)} has a score: ImgEdit-Bench is a table of all its types.")
    means = {
        name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for name, rows in of_type.items()
    }
    names = next(iter(means.values()))
    return means | {"mean": {key: float(np.mean([one[key] for one in means.values()])) for key in names}}


def _shown(
    batch: Sequence[ImgEdit],
    images: Path,
    sources: Path,
    questions: Mapping[str, str] | None,
    failed: dict[str, str],
) -> list[tuple[str, EditGroup]]:
    """What can be shown, each with a hash of all that decides its score; the rest goes into `failed`."""
    shown = []
    for edit in batch:
        text = edit.prompt if questions is None else questions[edit.key]
        edited, source = images / f"{edit.key}.png", sources / edit.source
        try:
            if not source.resolve().is_relative_to(sources.resolve()):
                raise ValueError(f"its source leads out of {sources}")
            content = source.read_bytes(), edited.read_bytes()
            for image in content:
                decode(image)
        except FileNotFoundError as error:
            failed[edit.key] = f"there is no image {error.filename}"
        except (OSError, ValueError) as error:
            failed[edit.key] = f"{edited.name} or its source cannot be read: {error}"
        else:
            shown.append((content_hash(*content, text), EditGroup(content[:1], text, content[1:], edit.key)))
    return shown


def _record(score: CandidateScore | Unscored, is_answer: bool, scorer: str) -> dict[str, object] | str:
    """What to keep of an answer, or why there is none."""
    if isinstance(score, Unscored):
        return score.reason
    if is_answer:
        answers = [one.answers.get(PROMPT) for one in score.passes]
        if not answers or None in answers:
            raise ValueError(f"{scorer} writes no answers to ImgEdit-Bench's questions: give it --prompts {PROMPTS}.")
        return {"answers": answers}
    values = {"reward": score.reward, **{name: one.mean for name, one in score.dimensions.items()}}
    return {"scores": {name: float(value) for name, value in values.items()}}
