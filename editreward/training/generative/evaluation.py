"""How well a model that is being trained scores: it is asked as a generative scorer is, and its scores order pairs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from editreward.data.rows import edit_group
from editreward.groups import GroupScores
from editreward.groups.rows import GroupRow
from editreward.groups.scores import Unscored
from editreward.scorers.generative.loading import Writer
from editreward.scorers.generative.scorer import GenerativeScorer, Mode
from editreward.scorers.prompts import PromptSet


@dataclass(frozen=True)
class Scored:
    """Scores of a group's candidates, and what people gave them; NaN where there is none.

    Attributes:
        scores: overall and by dimension, each of shape (candidates,).
        truths: the same of the annotations.
    """

    scores: Mapping[str, list[float]]
    truths: Mapping[str, list[float]]


@contextmanager
def scoring(writer: Writer) -> Iterator[None]:
    """Within the block the model may be asked; behind it, it is as before."""
    config = writer.model.config
    parts = config.get_text_config(), config.vision_config
    attention = [part._attn_implementation_internal for part in parts]
    is_training = writer.model.training
    try:
        yield
    finally:
        for part, name in zip(parts, attention, strict=True):
            part._attn_implementation_internal = name
        writer.model.train(is_training)


def score_rows(writer: Writer, prompts: PromptSet, rows: Sequence[GroupRow], max_pixels: int | None) -> list[Scored]:
    """Score groups: without sampling where the answers are scores alone, else by the likeliest answers.

    Args:
        writer: the model as it is now; an adapter is in its layers.
        prompts: what it is asked.
        rows: annotated groups.
        max_pixels: of an image.
    """
    mode: Mode = "greedy" if any(prompt.has_reasoning for prompt in prompts.prompts) else "expected"
    with scoring(writer):
        scorer = GenerativeScorer(writer, prompts, mode=mode, max_pixels=max_pixels)
        answers = scorer([edit_group(row) for row in rows])
    return [_scored(scorer.dimensions, row, answer) for row, answer in zip(rows, answers, strict=True)]


def _scored(dimensions: Sequence[str], row: GroupRow, answer: GroupScores | Unscored) -> Scored:
    given = [dict(candidate["scores"] or {}) for candidate in row["candidates"]]
    truths = {name: [_number(scores.get(name)) for scores in given] for name in dimensions}
    truths["overall"] = [_mean([_number(value) for value in scores.values()]) for scores in given]
    nothing = [float("nan")] * len(given)
    if isinstance(answer, GroupScores):
        scores = {"overall": answer.overall, **{name: answer.dimensions.get(name, nothing) for name in dimensions}}
    else:
        scores = dict.fromkeys(truths, nothing)
    return Scored(scores, truths)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def scoring_metrics(groups: Sequence[Scored]) -> dict[str, float]:
    """Share of pairs in the true order, overall (`accuracy`) and by dimension, and share of edits without a score.

    A pair with an edit without a score is wrong; one whose annotations are equal or missing is left out.
    """
    metrics = {}
    for name in dict.fromkeys(name for group in groups for name in group.truths):
        scores, truths = [], []
        for group in groups:
            truth = np.array(group.truths[name])
            known = np.isfinite(truth)
            score = np.array(group.scores[name])[known]
            scores.append(score)
            truths.append(truth[known])
        metrics["accuracy" if name == "overall" else f"{name}_accuracy"] = _accuracy(scores, truths)
    scored = [value for group in groups for value in group.scores["overall"]]
    metrics["unscored"] = float(np.mean(~np.isfinite(scored))) if scored else 0.0
    return metrics


def _accuracy(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Share of pairs whose truth differs that the scores order alike; a score that is NaN orders nothing."""
    right, total = 0, 0
    for score, truth in zip(scores, truths, strict=True):
        first, second = np.triu_indices(len(truth), k=1)
        differs = truth[first] != truth[second]
        alike = np.sign(score[first] - score[second]) == np.sign(truth[first] - truth[second])
        right += int((differs & alike).sum())
        total += int(differs.sum())
    return right / total if total else float("nan")
