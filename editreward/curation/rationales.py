"""Rationales by a scorer that writes: asked several times, kept where it agrees with itself and with people.

What is kept is what a generative scorer may learn from (`editreward.training.generative`): reasons whose scores are
those of the annotators. EditScore (arXiv 2509.23909) curates its training data in this way.
"""

import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from editreward.data.rows import edit_group
from editreward.data.schema import RATIONALE_BY
from editreward.data.storage import GroupWriter
from editreward.files import alone_at, write_json
from editreward.groups import CandidateScore, GroupScores, Pass, Scorer
from editreward.groups.ratings import SCORE_RANGE
from editreward.groups.rows import GroupRow
from editreward.groups.scores import Unscored
from editreward.scorers.prompts import Prompt, PromptSet

GROUPS_PER_CALL = 8
REPORT_FILE = "rationales.json"


@dataclass(frozen=True)
class Rule:
    """When an answer is kept. Differences are in points of the annotators' scale, 1 to 4.

    Attributes:
        spread: an answer agrees with the others if its score is this near to the median of all.
        share: so large a share of the answers has to agree, or all are dropped.
        distance: an answer agrees with people if its score is this near to the annotated one.

    Raises:
        ValueError: a number is out of range.
    """

    spread: float = 0.5
    share: float = 0.5
    distance: float = 0.5

    def __post_init__(self) -> None:
        if self.spread < 0 or self.distance < 0 or not 0 < self.share <= 1:
            raise ValueError("`spread` and `distance` must be 0 or more, and `share` above 0 and at most 1.")


@dataclass
class Counts:
    """What became of the answers; a place is a candidate in one prompt.

    Attributes:
        written: places that have a reason now.
        had_one: candidates that had a rationale, which stays.
        not_annotated: places without an annotated score.
        unreadable: candidates of which the scorer gave no readable answer.
        undecided: places whose answers do not agree with each other.
        off_the_annotators: places whose answers agree with each other and not with the annotators.
        without_reason: places whose answer has no words.
        answers: all that were read; of these
        answers_apart: do not agree with the others,
        answers_off: agree with them, and not with the annotators.
    """

    written: int = 0
    had_one: int = 0
    not_annotated: int = 0
    unreadable: int = 0
    undecided: int = 0
    off_the_annotators: int = 0
    without_reason: int = 0
    answers: int = 0
    answers_apart: int = 0
    answers_off: int = 0

    def lines(self) -> list[str]:
        """The counts in words."""
        return [
            f"{self.written} reasons written; {self.had_one} candidates had a rationale, which stays.",
            f"Dropped: {self.undecided} where the answers do not agree, {self.off_the_annotators} where they agree "
            f"and people do not, {self.without_reason} without words; {self.unreadable} candidates without a readable "
            "answer.",
            f"Of {self.answers} answers {self.answers_apart} are apart from the others and {self.answers_off} from "
            "people.",
            *([f"{self.not_annotated} have no annotated score."] if self.not_annotated else []),
        ]


@dataclass
class _Writing:
    scorer: Scorer
    prompts: PromptSet
    rule: Rule
    replace: bool
    counts: Counts = field(default_factory=Counts)

    def rows(self, rows: Iterable[GroupRow]) -> Iterator[GroupRow]:
        batch: list[GroupRow] = []
        for row in rows:
            batch.append(row)
            if len(batch) == GROUPS_PER_CALL:
                yield from self._batch(batch)
                batch = []
        yield from self._batch(batch)

    def _batch(self, rows: Sequence[GroupRow]) -> Iterator[GroupRow]:
        asked = [row for row in rows if any(self._is_wanted(candidate) for candidate in row["candidates"])]
        answers = iter(self.scorer([edit_group(row) for row in asked]) if asked else ())
        for row in rows:
            scores = next(answers) if row in asked else None
            candidates = []
            for index, candidate in enumerate(row["candidates"]):
                known = {**candidate, RATIONALE_BY: candidate.get(RATIONALE_BY)}
                if not self._is_wanted(candidate):
                    self.counts.had_one += 1
                else:
                    found = scores.candidates[index] if isinstance(scores, GroupScores) else None
                    text = self._rationale(found, candidate["scores"] or {})
                    if text:
                        known |= {"rationale": text, RATIONALE_BY: self.scorer.name}
                    elif candidate.get("rationale"):
                        self.counts.had_one += 1
                candidates.append(known)
            yield {**row, "candidates": candidates}

    def _is_wanted(self, candidate: GroupRow) -> bool:
        return self.replace or not (candidate.get("rationale") or "").strip()

    def _rationale(self, score: CandidateScore | Unscored | None, annotated: Mapping[str, float | None]) -> str:
        """A part for each prompt of which an answer is kept, headed by its dimension."""
        if not isinstance(score, CandidateScore) or not score.passes:
            self.counts.unreadable += 1
            return ""
        parts = []
        for prompt in self.prompts.prompts:
            reason = self._kept(prompt, score.passes, annotated)
            if reason:
                parts.append(f"{_heading(self.prompts, prompt)}: {' '.join(reason.split())}")
                self.counts.written += 1
        return "\n".join(parts)

    def _kept(self, prompt: Prompt, passes: Sequence[Pass], annotated: Mapping[str, float | None]) -> str:
        """The reason of the answer that is nearest to people, of those that agree with each other and with them."""
        truth = _annotated(self.prompts, prompt, annotated)
        if truth is None:
            self.counts.not_annotated += 1
            return ""
        scores = [_score(self.prompts, prompt, one) for one in passes]
        middle = statistics.median(scores)
        near = [i for i, score in enumerate(scores) if abs(score - middle) <= self.rule.spread + 1e-9]
        self.counts.answers += len(scores)
        self.counts.answers_apart += len(scores) - len(near)
        if len(near) < self.rule.share * len(scores):
            self.counts.undecided += 1
            return ""
        right = [i for i in near if abs(scores[i] - truth) <= self.rule.distance + 1e-9]
        self.counts.answers_off += len(near) - len(right)
        if not right:
            self.counts.off_the_annotators += 1
            return ""
        with_words = [i for i in right if passes[i].reasons.get(prompt.name, "").strip()]
        if not with_words:
            self.counts.without_reason += 1
            return ""
        return passes[min(with_words, key=lambda i: abs(scores[i] - truth))].reasons[prompt.name]


def write_rationales(
    scorer: Scorer,
    rows: Iterable[GroupRow],
    output: str | os.PathLike[str],
    dimensions: Sequence[str],
    split: str = "train",
    rule: Rule = Rule(),  # noqa: B008
    replace: bool = False,
) -> Counts:
    """Write a dataset with rationales by a scorer. Each says in `rationale_by` which scorer wrote it.

    Args:
        scorer: one that writes reasons in several passes: a generative scorer, or a judge.
        rows: annotated groups, images as they are stored.
        output: folder of the dataset; it also gets the counts, `rationales.json`.
        dimensions: of the annotations.
        split: of the output.
        rule: which answers are kept.
        replace: also ask about candidates that have a rationale, which stays where no answer is kept.

    Raises:
        ValueError: the scorer writes no reasons, or judges other dimensions than the annotations have.
    """
    prompts = prompts_of(scorer)
    if not any(_places(prompts, prompt) & set(dimensions) for prompt in prompts.prompts):
        raise ValueError(
            f"{scorer.name} judges {', '.join(prompts.dimensions)}, and the annotations have {', '.join(dimensions)}: "
            "there is nothing to compare. Name a prompt set with these dimensions (`--prompts`)."
        )
    writing = _Writing(scorer, prompts, rule, replace)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_at(folder / REPORT_FILE):
        with GroupWriter(folder, split, dimensions) as writer:
            for row in writing.rows(rows):
                writer.write(row)
        report = {"scorer": scorer.name, "fingerprint": scorer.fingerprint, "rule": asdict(rule)}
        write_json(folder / REPORT_FILE, {**report, "counts": asdict(writing.counts)})
    return writing.counts


def prompts_of(scorer: Scorer) -> PromptSet:
    """What a scorer is asked.

    Raises:
        ValueError: it is not asked, or answers without reasons.
    """
    prompts = getattr(scorer, "prompts", None)
    if not isinstance(prompts, PromptSet) or not any(prompt.has_reasoning for prompt in prompts.prompts):
        raise ValueError(
            f"{scorer.name} writes no reasons: take a judge or a generative scorer, with a prompt set that asks for "
            "them (`editreward prompts list`)."
        )
    if getattr(scorer, "mode", "sample") == "expected":
        raise ValueError(f"{scorer.name} writes nothing with `mode: expected`; take `mode: sample`.")
    return prompts


def _places(prompts: PromptSet, prompt: Prompt) -> set[str]:
    return {name for name, place in prompts.dimensions.items() if place == prompt.name}


def _heading(prompts: PromptSet, prompt: Prompt) -> str:
    return next(iter(sorted(_places(prompts, prompt))), prompt.name)


def _annotated(prompts: PromptSet, prompt: Prompt, annotated: Mapping[str, float | None]) -> float | None:
    """People's score of what a prompt asks; None where there is none."""
    names = sorted(_places(prompts, prompt))
    return next((annotated[name] for name in names if annotated.get(name) is not None), None)


def _score(prompts: PromptSet, prompt: Prompt, one: Pass) -> float:
    """Score of a prompt in a pass, on the annotators' scale."""
    numbers = [one.sub_scores[f"{prompt.name}.{score.name}"] for score in prompt.sub_scores]
    low, high = prompts.scale
    share = (prompts.reduced(prompt, numbers) - low) / (high - low)
    return SCORE_RANGE[0] + share * (SCORE_RANGE[1] - SCORE_RANGE[0])
