"""Scores without sampling: the joint distribution of the numbers of an answer, from one pass through the model."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from editreward.scorers.generative.engine import Continuation, Engine
from editreward.scorers.generative.tokens import PromptTokenizer, PromptTokens
from editreward.scorers.prompts import Prompt, PromptSet, SubScore

MOST_ANSWERS = 4096
"""Answers to a prompt that are gone through: two numbers of 0..25 have 676."""
LEAST_MASS = 0.1
"""Of the probability that an answer has the form at all. With less the numbers say nothing of the model."""
ROWS_AT_ONCE = 256
"""Of logits, whose vocabulary is large."""


class NumberTree:
    """All answers to a prompt as one continuation, what they begin with in common once.

    Each answer is the prompt's form with whole numbers, closing text included: the probability of 2 is that of "2" and
    what closes it, of which "25" has no part.

    Args:
        prompt: whose answer is of scores alone.
        tokenizer: of the model.

    Raises:
        ValueError: the answer holds more than scores, or there are more than `MOST_ANSWERS`.
    """

    def __init__(self, prompt: Prompt, tokenizer: PromptTokenizer) -> None:
        try:
            pieces = prompt.answer.pieces(prompt.sub_scores)
        except ValueError as error:
            raise ValueError(
                f"`mode='expected'` with prompt {prompt.name}: {error} Use a set such as `editreward-scores`."
            ) from error
        ranges = [piece.whole_numbers for piece in pieces if isinstance(piece, SubScore)]
        if math.prod(map(len, ranges)) > MOST_ANSWERS:
            raise ValueError(
                f"`mode='expected'` with prompt {prompt.name}: there are {math.prod(map(len, ranges))} answers, more "
                f"than the {MOST_ANSWERS} that are gone through."
            )
        self.numbers = list(itertools.product(*ranges))
        opening = len(tokenizer.plain(str(pieces[0])))
        answers = [tokenizer.plain(prompt.answer_of(numbers)) for numbers in self.numbers]
        self.opening = min(opening, _common(answers))
        self._build(answers)

    def _build(self, answers: Sequence[Sequence[int]]) -> None:
        nodes: dict[tuple[int, ...], int] = {(): 0}  # row of the hidden states; the prompt's last token is row 0
        ids, depths, parents = [], [], [-1]
        longest = max(map(len, answers))
        self.rows = np.zeros((len(answers), longest), dtype=np.int64)
        self.tokens = np.full((len(answers), longest), -1, dtype=np.int64)
        for number, answer in enumerate(answers):
            for place, token in enumerate(answer):
                before, here = tuple(answer[:place]), tuple(answer[: place + 1])
                self.rows[number, place], self.tokens[number, place] = nodes[before], token
                if place < len(answer) - 1 and here not in nodes:
                    parents.append(nodes[before])
                    nodes[here] = len(nodes)
                    ids.append(token)
                    depths.append(place)
        mask = torch.eye(len(ids), dtype=torch.bool)
        for row, parent in enumerate(parents[1:]):
            if parent > 0:
                mask[row] |= mask[parent - 1]
        self.continuation = Continuation(ids, depths, mask)

    def log_probabilities(self, engine: Engine, hidden: Tensor) -> np.ndarray:
        """Log-probability of each answer, given its opening text; float64, in the order of `numbers`.

        Args:
            engine: whose model gave the hidden states.
            hidden: of the prompt's last token and of the continuation.
        """
        rows, tokens = torch.from_numpy(self.rows), torch.from_numpy(self.tokens)
        used = (tokens >= 0) & (torch.arange(tokens.shape[1]) >= self.opening)
        found = torch.zeros(tokens.shape, dtype=torch.float64)
        for start in range(0, len(hidden), ROWS_AT_ONCE):
            log_p = engine.logits(hidden[start : start + ROWS_AT_ONCE]).log_softmax(-1)
            here = used & (rows >= start) & (rows < start + ROWS_AT_ONCE)
            index = (rows[here] - start).to(log_p.device), tokens[here].to(log_p.device)
            found[here] = log_p[index].double().cpu()
        return found.sum(-1).numpy()


def _common(answers: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all begin with."""
    first, last = min(map(list, answers)), max(map(list, answers))
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(map(len, answers)))


@dataclass(frozen=True)
class JointScore:
    """What the joint distributions of the prompts' numbers say of an edit.

    Attributes:
        overall, overall_std: expectation and standard deviation of the overall score.
        dimensions: the same of each dimension, by name.
        prompts: the same of each prompt's score, by name.
        mass: for each prompt the probability that the answer has its form, the opening text given.
    """

    overall: float
    overall_std: float
    dimensions: Mapping[str, tuple[float, float]]
    prompts: Mapping[str, tuple[float, float]]
    mass: Mapping[str, float]


def joint_score(
    prompts: PromptSet,
    numbers: Mapping[str, Sequence[Sequence[int]]],
    log_probabilities: Mapping[str, np.ndarray],
) -> JointScore:
    """Expectations over the joint distribution of each prompt's numbers; prompts are independent.

    Args:
        prompts: the set.
        numbers: of each answer, by prompt.
        log_probabilities: of each answer, by prompt.
    """
    mass, dimensions, scores, moments = {}, {}, {}, {}
    for prompt in prompts.prompts:
        log_p, answers = log_probabilities[prompt.name], numbers[prompt.name]
        mass[prompt.name] = float(np.exp(log_p).sum())
        p = np.exp(log_p - log_p.max())
        p /= p.sum()
        reduced = np.array([prompts.reduced(prompt, one) for one in answers])
        moments[prompt.name] = _moments(reduced, p)
        values, place = np.unique(reduced, return_inverse=True)
        scores[prompt.name] = values, np.bincount(place, weights=p)
        for dimension, where in prompts.dimensions.items():
            name, _, score = where.partition(".")
            if name != prompt.name:
                continue
            index = [one.name for one in prompt.sub_scores].index(score) if score else 0
            on_scale = np.array([prompts.on_scale(prompt.sub_scores[index], one[index]) for one in answers])
            dimensions[dimension] = _moments(on_scale if score else reduced, p)
    names = [prompt.name for prompt in prompts.prompts]
    overall, weights = [], []
    for combination in itertools.product(*(zip(*scores[name], strict=True) for name in names)):
        overall.append(prompts.combined({name: float(one[0]) for name, one in zip(names, combination, strict=True)}))
        weights.append(math.prod(one[1] for one in combination))
    mean, std = _moments(np.array(overall), np.array(weights))
    return JointScore(mean, std, {name: dimensions[name] for name in prompts.dimensions}, moments, mass)


def _moments(values: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    mean = float(p @ values)
    return mean, math.sqrt(max(0.0, float(p @ (values - mean) ** 2)))


def expected_scores(
    engine: Engine,
    trees: Mapping[str, NumberTree],
    prompts: PromptSet,
    edits: Sequence[Mapping[str, PromptTokens]],
    features: dict[str, Tensor],
) -> list[JointScore]:
    """Scores of edits, all prompts and continuations in one pass.

    Args:
        engine: of the model.
        trees: by prompt.
        prompts: the set.
        edits: for each the tokens of its prompts, by name.
        features: of their images.
    """
    asked = {(name, tokens.keys): (trees[name], tokens) for edit in edits for name, tokens in edit.items()}
    hidden = engine.follow(
        [tokens for _, tokens in asked.values()], [tree.continuation for tree, _ in asked.values()], features
    )
    found = {
        key: tree.log_probabilities(engine, states)
        for (key, (tree, _)), states in zip(asked.items(), hidden, strict=True)
    }
    numbers = {name: tree.numbers for name, tree in trees.items()}
    return [
        joint_score(prompts, numbers, {name: found[name, tokens.keys] for name, tokens in edit.items()})
        for edit in edits
    ]
