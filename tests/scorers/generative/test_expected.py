"""Expectations over an answer's numbers equal brute force: every answer by itself through a plain forward pass."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from editreward.groups import CandidateScore, EditGroup, Unscored
from editreward.scorers.generative.engine import Engine
from editreward.scorers.generative.expected import NumberTree, joint_score
from editreward.scorers.generative.scorer import GenerativeScorer
from editreward.scorers.generative.tokens import PromptTokenizer
from editreward.scorers.prompts import load_prompt_set
from editreward.scorers.prompts.prompt_set import SubScore
from tests.helpers.editscore import GOLDEN, golden
from tests.helpers.generative import MODELS, patches, writer

PROMPTS = load_prompt_set("editreward-scores")


def with_range(low, high):
    """The prompt set with other ranges."""
    prompts = [
        dataclasses.replace(prompt, sub_scores=tuple(SubScore(one.name, low, high) for one in prompt.sub_scores))
        for prompt in PROMPTS.prompts
    ]
    return dataclasses.replace(PROMPTS, prompts=tuple(prompts), scale=(low, high))


def tokenizer(model):
    made = writer(model)
    return PromptTokenizer(made.tokenizer, made.model.config.model_type, "<|image_pad|>", made.chat_template)


def plain_log_probability(reference, tokens, answer, opening):
    """Of an answer's tokens behind its opening, each given all before."""
    ids = torch.tensor([tokens.ids(reference.config.image_token_id) + answer])
    with torch.no_grad():
        logits = reference(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == reference.config.image_token_id).int(),
            pixel_values=torch.cat([image.patches for image in tokens.images]),
            image_grid_thw=torch.tensor([image.grid for image in tokens.images]),
        ).logits[0, len(tokens) - 1 : -1]
    log_p = logits.double().log_softmax(-1).gather(-1, torch.tensor(answer).unsqueeze(-1))[:, 0]
    return float(log_p[opening:].sum())


@pytest.mark.parametrize("model", MODELS)
def test_scores_equal_the_enumeration_of_all_answers(model):
    prompts = with_range(9, 12)  # of one digit and of two
    reference = AutoModelForImageTextToText.from_pretrained(GOLDEN / model / "base", dtype=torch.float32).eval()
    images = {"source": [patches(model, "3_source.png")], "edited": [patches(model, "3_edited.png")]}
    made = tokenizer(model)
    engine = Engine(writer(model).model, writer(model).end_ids)
    trees = {prompt.name: NumberTree(prompt, made) for prompt in prompts.prompts}
    edit = {one.name: made(prompts, one, "Make it brighter", images) for one in prompts.prompts}
    hidden = engine.follow(list(edit.values()), [trees[name].continuation for name in edit])
    found = {name: trees[name].log_probabilities(engine, one) for name, one in zip(edit, hidden, strict=True)}
    for prompt in prompts.prompts:
        opening = len(made.plain("["))
        expected = [
            plain_log_probability(reference, edit[prompt.name], made.plain(f"[{a}, {b}]"), opening)
            for a, b in trees[prompt.name].numbers
        ]
        np.testing.assert_allclose(found[prompt.name], expected, rtol=0, atol=1e-4)

    joint = joint_score(prompts, {name: tree.numbers for name, tree in trees.items()}, found)
    moments = enumerate_moments({name: (trees[name].numbers, found[name]) for name in trees})
    assert (joint.overall, joint.overall_std) == pytest.approx(moments["overall"], abs=1e-9)
    for name in trees:
        assert joint.prompts[name] == pytest.approx(moments[name], abs=1e-9)


def enumerate_moments(prompts):
    """Mean and standard deviation of each prompt's minimum, and of the mean of the two, over all pairs of answers."""
    (first, second) = prompts.values()
    weights = [np.exp(log_p) / np.exp(log_p).sum() for _, log_p in (first, second)]
    rows = [
        (min(a), min(b), (min(a) + min(b)) / 2, p * q)
        for (a, p), (b, q) in itertools.product(
            zip(first[0], weights[0], strict=True), zip(second[0], weights[1], strict=True)
        )
    ]
    found = {}
    for column, name in enumerate([*prompts, "overall"]):
        mean = sum(row[column] * row[3] for row in rows)
        found[name] = mean, math.sqrt(sum((row[column] - mean) ** 2 * row[3] for row in rows))
    return found


def test_the_minimum_is_that_of_the_joint_distribution_not_of_expectations():
    prompts = with_range(0, 10)
    numbers = {prompt.name: [(0, 10), (10, 0)] for prompt in prompts.prompts}
    log_p = {prompt.name: np.log([0.5, 0.5]) for prompt in prompts.prompts}
    joint = joint_score(prompts, numbers, log_p)
    assert joint.overall == 0  # the parts' expectations are 5 and 5
    assert joint.overall_std == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_number_is_closed_by_what_follows_it(model):
    # 2 is a prefix of 25: without the closing text all of 20..25 would count as 2, too.
    prompts = with_range(0, 25)
    made = tokenizer(model)
    tree = NumberTree(prompts.prompts[0], made)
    assert len(tree.numbers) == 26**2
    answers = [[t for t in row if t >= 0] for row in tree.tokens.tolist()]
    assert answers == [made.plain(f"[{a}, {b}]") for a, b in tree.numbers]
    strings = [tuple(answer) for answer in answers]
    assert not any(longer[: len(short)] == short for short in strings for longer in strings[::25] if longer != short)


def test_expected_scores_are_deterministic_and_the_same_in_any_batch(monkeypatch):
    monkeypatch.setattr("editreward.scorers.generative.scorer.LEAST_MASS", 0.0)
    prompts = with_range(0, 25)
    groups = [
        EditGroup(
            [GOLDEN / "images" / f"{case}_source.png"],
            golden()["cases"][case]["instruction"],
            [GOLDEN / "images" / f"{other}_edited.png" for other in (case, 3)],
        )
        for case in (1, 2)
    ]
    scorer = GenerativeScorer(writer("qwen25"), prompts, mode="expected")
    together, again = scorer(groups), scorer(groups)
    assert together == again
    alone = [score for group in groups for score in scorer([group])[0].scores]
    for one, other in zip([score for group in together for score in group.scores], alone, strict=True):
        assert one.reward == pytest.approx(other.reward, abs=1e-4)
        assert one.reward_std == pytest.approx(other.reward_std, abs=1e-4)
        assert 0 <= one.reward <= 25
    small = GenerativeScorer(writer("qwen25"), prompts, mode="expected", max_batch_tokens=1)(groups)
    assert [g.overall for g in small] == [pytest.approx(g.overall, abs=1e-4) for g in together]
    assert isinstance(together[0].candidates[0], CandidateScore)


def test_a_model_that_does_not_write_the_form_is_not_believed():
    group = EditGroup([GOLDEN / "images/3_source.png"], "Make it brighter", [GOLDEN / "images/3_edited.png"])
    (scores,) = GenerativeScorer(writer("qwen3"), with_range(30, 33), mode="expected")([group])
    (candidate,) = scores.candidates
    assert isinstance(candidate, Unscored)
    assert "probability" in candidate.reason


def test_probabilities_that_are_no_numbers_are_told_as_such(monkeypatch):
    group = EditGroup([GOLDEN / "images/3_source.png"], "Make it brighter", [GOLDEN / "images/3_edited.png"])
    logits = Engine.logits
    monkeypatch.setattr(Engine, "logits", lambda self, hidden: logits(self, hidden) * math.nan)
    (scores,) = GenerativeScorer(writer("qwen3"), with_range(30, 33), mode="expected")([group])
    assert "NaN or infinite probabilities; try `dtype='float32'`" in scores.candidates[0].reason


def test_answers_with_reasoning_are_refused():
    with pytest.raises(ValueError, match="editreward-scores"):
        GenerativeScorer(writer("qwen25"), load_prompt_set("editreward"), mode="expected")
