"""What a generative scorer learns to answer, and how it becomes a batch."""

import json

import pytest
import torch

from editreward.groups import EditGroup
from editreward.scorers.generative.scorer import GenerativeScorer
from editreward.scorers.prompts import ParsedAnswer, load_prompt_set
from editreward.simulation import simulate_group
from editreward.training.generative.answers import numbers_of, reasons_for, targets_of
from editreward.training.generative.collator import IGNORED, AnswerCollator
from editreward.training.generative.trainer import answer_weights
from tests.helpers.generative import published_prompts, writer

COMPACT, SCORES, LONG = (load_prompt_set(f"editreward{name}") for name in ("-compact", "-scores", ""))


def row_of(number: int = 0) -> dict:
    group = simulate_group(number, candidates=3, size=84)
    return {**group.to_row(), "simulation": group}


@pytest.mark.parametrize("prompts", [COMPACT, SCORES, LONG, published_prompts()], ids=lambda one: one.name)
def test_an_answer_to_learn_is_read_as_the_numbers_that_it_was_made_of(prompts):
    for prompt in prompts.prompts:
        numbers = [score.low + place for place, score in enumerate(prompt.sub_scores)]
        text = prompt.answer_of(numbers, 'a "word", {braces}\nand a line')
        parsed = prompts.parse(prompt, text)
        assert isinstance(parsed, ParsedAnswer) and list(parsed.numbers) == numbers
        if prompt.has_reasoning:
            assert json.dumps(json.loads(text), ensure_ascii=False) == text
        found = [piece for piece, is_number in prompt.answer_pieces(numbers, "7 of 9") if is_number]
        assert list(map(float, found)) == numbers


@pytest.mark.parametrize(
    ("scores", "numbers"),
    [
        ({"instruction_following": 2.8, "visual_quality": 4.0}, [3, 3]),
        ({"success": 1.0, "preservation": 3.0, "instruction_following": 4.0}, [1, 3]),
        ({"IF.success": 2.0, "instruction_following": 4.0}, [2, 4]),
        ({"instruction_following": None}, None),
        ({"visual_quality": 2.0}, None),
    ],
)
def test_numbers_are_those_of_the_sub_score_or_of_the_dimension(scores, numbers):
    assert numbers_of(SCORES, SCORES["IF"], scores) == numbers


def test_numbers_take_the_range_of_the_prompt_and_halves_where_there_are_reasons():
    assert numbers_of(LONG, LONG["IF"], {"instruction_following": 2.6}) == [2.5, 2.5]
    published = published_prompts()
    name = next(name for name, place in published.dimensions.items() if place.startswith("PQ"))
    assert numbers_of(published, published["PQ"], {name: 1 + 3 * 17 / 25})[0] == 17


def test_reasons_are_the_parts_of_a_prompt_or_all():
    text = "instruction_following: the hat is blue\nvisual_quality: clean"
    assert reasons_for(COMPACT, COMPACT["IF"], text) == "the hat is blue"
    assert reasons_for(COMPACT, COMPACT["VQ"], text) == "clean"
    assert reasons_for(COMPACT, COMPACT["VQ"], "IF: no hat") == ""
    assert reasons_for(COMPACT, COMPACT["VQ"], "Note: blurred") == "Note: blurred"
    assert reasons_for(COMPACT, COMPACT["IF"], None) == ""


def test_simulated_groups_tell_both_aspects_of_a_score():
    for number in range(8):
        row = row_of(number)
        for target in targets_of(row, [COMPACT]):
            candidate = row["simulation"].candidates[target.candidate]
            numbers = json.loads(target.text)["scores"]
            dimension = "instruction_following" if target.prompt.name == "IF" else "visual_quality"
            assert min(numbers) == candidate.scores[dimension]


def test_without_a_rationale_only_answers_of_scores_alone_are_learnt():
    row = {name: value for name, value in row_of().items() if name != "simulation"}
    assert {target.prompts.name for target in targets_of(row, [COMPACT, SCORES])} == {"editreward-scores"}


@pytest.fixture(scope="module", params=["qwen25", "qwen3"])
def collated(request):
    made = writer(request.param)
    return made, AnswerCollator(made, [COMPACT, SCORES], max_pixels=4096)


def test_prompts_are_those_of_scoring_and_answers_behind_them_alone_are_learnt(collated):
    made, collator = collated
    row = row_of()
    batch = collator([row])
    scorer = GenerativeScorer(made, COMPACT, mode="greedy", max_pixels=4096)
    group = EditGroup(row["source_images"], row["instruction"], [one["image"] for one in row["candidates"]])
    targets = list(targets_of(row, [COMPACT, SCORES]))
    assert len(targets) == len(batch["input_ids"]) == 12
    images = [scorer.images(image) for image in group.edited]
    source = [scorer.images(group.sources[0])]
    for place, target in enumerate(targets):
        shown = {"source": source, "edited": [images[target.candidate]]}
        prompt = scorer.tokenizer(target.prompts, target.prompt, group.instruction, shown)
        ids = batch["input_ids"][place][batch["attention_mask"][place].bool()].tolist()
        learnt = batch["labels"][place] != IGNORED
        start = len(prompt)
        assert ids[:start] == prompt.ids(made.model.config.image_token_id)
        assert batch["input_ids"][place][learnt].tolist() == ids[start:] and ids[-1] == made.tokenizer.eos_token_id
        assert made.tokenizer.decode(ids[start:-1]) == target.text
        numbers = made.tokenizer.decode(batch["input_ids"][place][batch["is_number"][place]])
        assert [one for one in numbers if one.isdigit()] == [
            one for text, is_number in target.pieces if is_number for one in text if one.isdigit()
        ]


def test_the_model_sees_in_training_what_it_sees_in_scoring(collated):
    made, collator = collated
    row = row_of(3)
    batch = collator([row])
    inputs = {name: value for name, value in batch.items() if name not in ("skipped", "used", "is_number", "labels")}
    for part in (made.model.config.get_text_config(), made.model.config.vision_config):
        part._attn_implementation_internal = "sdpa"  # of a cached model, which an engine may have used
    with torch.no_grad():
        logits = made.model(**inputs, use_cache=False).logits
    scorer = GenerativeScorer(made, COMPACT, mode="greedy", max_pixels=4096)
    engine = scorer.engine
    targets = list(targets_of(row, [COMPACT, SCORES]))
    group = EditGroup(row["source_images"], row["instruction"], [one["image"] for one in row["candidates"]])
    source = [scorer.images(group.sources[0])]
    for place in (0, 5):
        target = targets[place]
        shown = {"source": source, "edited": [scorer.images(group.edited[target.candidate])]}
        prompt = scorer.tokenizer(target.prompts, target.prompt, group.instruction, shown)
        (computed,) = engine.read([prompt])
        found = engine.logits(computed.hidden[None])[0]
        torch.testing.assert_close(logits[place, len(prompt) - 1].float(), found, atol=2e-4, rtol=2e-4)


def test_fewer_answers_of_a_group_and_groups_that_cannot_be_used(collated):
    made, _ = collated
    few = AnswerCollator(made, [SCORES], answers_per_group=2, max_pixels=4096, on_bad_row="skip")
    bad = {**row_of(), "group_id": "bad", "instruction": " "}
    empty = {**row_of(), "group_id": "empty", "candidates": []}
    batch = few([row_of(), bad, empty])
    assert len(batch["input_ids"]) == 2 and batch["used"] == 1
    assert [name for name, _ in batch["skipped"]] == ["bad", "empty"]
    nothing = few([bad])
    assert (nothing["labels"] == IGNORED).all() and nothing["used"] == 0
    with pytest.raises(ValueError, match="group 'empty': no candidate has what an answer to editreward-scores needs"):
        AnswerCollator(made, [SCORES])([empty])


def test_weights_of_an_answer_add_up_to_its_tokens():
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    number = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    weights = answer_weights(mask, number, 4.0)
    torch.testing.assert_close(weights[0], torch.tensor([0, 0.5, 2.0, 0.5]))
    torch.testing.assert_close(weights[1:], mask[1:].float())
