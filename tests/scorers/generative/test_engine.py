"""The engine: what is shared changes nothing, and is computed once."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from editreward.scorers.generative import attention
from editreward.scorers.generative.engine import Continuation, Engine, Request, random_numbers
from editreward.scorers.generative.sampling import Sampling
from editreward.scorers.generative.tokens import PromptTokens, TreeBuilder
from tests.helpers.editscore import GOLDEN
from tests.helpers.generative import MODELS, patches, prompt_tokens, writer

CASES = (1, 2, 3, 5)  # without the largest images


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return request.param


@pytest.fixture
def engine(model):
    return Engine(writer(model).model, writer(model).end_ids)


@pytest.fixture(scope="module")
def reference(model):
    return AutoModelForImageTextToText.from_pretrained(GOLDEN / model / "base", dtype=torch.float32).eval()


def reference_logits(reference, tokens, answer):
    """Logits at a prompt's last token and behind each token of an answer, by transformers' own forward pass."""
    ids = torch.tensor([tokens.ids(reference.config.image_token_id) + answer])
    with torch.no_grad():
        output = reference(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == reference.config.image_token_id).int(),
            pixel_values=torch.cat([image.patches for image in tokens.images]),
            image_grid_thw=torch.tensor([image.grid for image in tokens.images]),
        )
    return output.logits[0, len(tokens) - 1 :]


def prompts(model):
    return [prompt_tokens(model, case, name) for case in CASES for name in ("SC", "PQ")]


def test_prompts_read_together_have_the_logits_of_each_alone(model, engine, reference):
    tokens = prompts(model)
    found = engine.logits(torch.stack([one.hidden for one in engine.read(tokens)]))
    expected = torch.stack([reference_logits(reference, one, [])[-1] for one in tokens])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_written_answers_are_the_likeliest_by_a_plain_forward_pass(model, engine, reference):
    tokens = prompts(model)
    requests = [Request(number) for number in range(len(tokens))]
    answers = engine.write(engine.read(tokens), requests, Sampling(0.0), 30)
    for one, answer in zip(tokens, answers, strict=True):
        likeliest = reference_logits(reference, one, answer.ids).argmax(-1).tolist()
        assert answer.ids == likeliest[: len(answer.ids)]
        if answer.is_whole:
            assert likeliest[-1] in engine.end_ids


def test_answers_do_not_depend_on_what_is_written_with_them(model, engine):
    tokens = prompts(model)
    requests = [Request(number, f"{number} {index}") for number in range(len(tokens)) for index in range(3)]
    together = engine.write(engine.read(tokens), requests, Sampling(1.0), 40)
    assert len({tuple(answer.ids) for answer in together}) > len(tokens)  # they vary
    for request, answer in list(zip(requests, together, strict=True))[::5]:
        computed = engine.read([tokens[request.prompt]])
        (alone,) = engine.write(computed, [Request(0, request.seed)], Sampling(1.0), 40)
        assert alone == answer


def test_images_are_encoded_once_and_shared_beginnings_read_once(model, engine):
    source, edits = patches(model, "0_source.png"), [patches(model, f"{i}_edited.png") for i in (1, 2, 3)]
    begin, end = tuple(range(30, 90)), tuple(range(90, 100))
    tokens = [PromptTokens((*begin, source, *end, edit, 7)) for edit in edits] + [PromptTokens((edits[0], 8))]
    engine.read(tokens)
    assert engine.counts.images == 4
    shared = len(begin) + source.tokens + len(end)
    edited = [image.tokens for image in edits]
    assert engine.counts.prefill_tokens == shared + sum(edited) + 3 + edited[0] + 1


def test_answers_leave_when_they_are_over(model, engine):
    computed = engine.read(prompts(model)[:2])
    lengths = [3, 9, 6]
    requests = [Request(0, "a"), Request(1, "b"), Request(0, "c")]
    answers = engine.write(
        computed, requests, Sampling(1.0, top_k=1), 20, lambda number, ids: len(ids) == lengths[number]
    )
    ended = [answer for answer, length in zip(answers, lengths, strict=True) if len(answer.ids) == length]
    assert all(answer.is_whole for answer in answers)
    assert ended
    written = [len(answer.ids) for answer in answers]
    assert engine.counts.steps <= max(written)
    assert engine.counts.answer_tokens <= sum(written) + len(answers)


def test_an_answer_that_the_limit_cuts_is_not_whole(model, engine):
    (answer,) = engine.write(engine.read(prompts(model)[:1]), [Request(0)], Sampling(0.0), 4)
    assert not answer.is_whole
    assert len(answer.ids) == 4


def test_a_tree_holds_each_prompt_on_its_path(model):
    tokens = [*prompts(model), PromptTokens(tuple(range(70))), PromptTokens((*range(70), 3)), PromptTokens((5,))]
    tree = TreeBuilder(tokens, image_token_id=906, merge=2).build()
    for one, path in zip(tokens, tree.paths, strict=True):
        assert [i for start, end in path for i in tree.ids[start:end]] == one.ids(906)
    assert len(tree.ids) < sum(map(len, tokens))


def test_positions_are_those_of_transformers(model, reference):
    (tokens,) = [prompt_tokens(model, 5, "SC")]
    tree = TreeBuilder([tokens], reference.config.image_token_id, 2).build()
    ids = torch.tensor([tree.ids])
    expected, _ = reference.model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == reference.config.image_token_id).int(),
        image_grid_thw=torch.tensor([image.grid for image in tokens.images]),
    )
    assert torch.equal(tree.position_ids, expected[:, 0])
    assert tree.next_positions == [int(expected.max()) + 1]


def test_continuations_are_read_as_if_each_stood_alone(model, engine, reference):
    tokens = prompt_tokens(model, 3, "PQ")
    # Two texts that begin alike: 20 21 and 20 22 23.
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]], dtype=torch.bool)
    (hidden,) = engine.follow([tokens], [Continuation([20, 21, 22, 23], [0, 1, 1, 2], mask)])
    found = engine.logits(hidden)
    first, second = reference_logits(reference, tokens, [20, 21]), reference_logits(reference, tokens, [20, 22, 23])
    torch.testing.assert_close(found[[0, 1, 2]], first, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[[0, 1, 3, 4]], second, rtol=0, atol=1e-4)


def test_random_numbers_depend_on_the_seed_alone():
    first, again, other = (random_numbers(seed).random(4).tolist() for seed in ("42 a", "42 a", "42 b"))
    assert first == again
    assert first != other


def test_reading_in_parts_changes_nothing(model, engine):
    tokens = prompts(model)
    whole = engine.logits(torch.stack([one.hidden for one in engine.read(tokens)]))
    engine.pass_tokens, engine.pass_patches = 50, 200  # cuts segments, and images
    parts = engine.logits(torch.stack([one.hidden for one in engine.read(tokens)]))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("is_masked", [False, True])
def test_the_kernel_for_cpus_gives_what_plain_products_give(is_masked, monkeypatch):
    query, key, value = (torch.randn(2, 3, count, 8) for count in (5, 70, 70))
    mask = None
    if is_masked:
        mask = torch.zeros(2, 1, 1, 70).masked_fill(
            torch.arange(70) >= torch.tensor([[40], [70]])[:, None, None], -torch.inf
        )
    found = attention.weighted(query, key, value, mask, 0.3)
    monkeypatch.setattr(attention, "has_fused", lambda _: False)
    for one, wanted in zip(found, attention.weighted(query, key, value, mask, 0.3), strict=True):
        torch.testing.assert_close(one, wanted)


def test_a_segment_sees_its_path_and_itself_causally_by_either_kernel(monkeypatch):
    segments = [
        attention.Segment(0, 6),
        attention.Segment(6, 9, ((0, 6),)),
        attention.Segment(9, 14, ((0, 6), (6, 9))),
    ]
    query, key, value = torch.randn(1, 4, 14, 8), torch.randn(1, 2, 14, 8), torch.randn(1, 2, 14, 8)
    outputs = []
    for is_there in (True, False):
        monkeypatch.setattr(attention, "has_fused", lambda _, is_there=is_there: is_there)
        share = attention.TreeShare(14)
        share.part = segments
        outputs.append(share.attend(0, query, key, value, 0.3))
    torch.testing.assert_close(*outputs)
