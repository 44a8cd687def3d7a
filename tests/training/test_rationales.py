"""Joint language modelling of rationales, against the vision-language model itself on ordinary sequences."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForImageTextToText, AutoTokenizer

from editreward.training import EditGroupCollator, EditRewardTrainer
from editreward.training.rationales import REQUESTS, RationaleLoss, language_model_head
from editreward.training.row_sizes import TokenCounter, scan_dataset
from modeling_editreward import EditRewardModel
from tests.helpers.backbones import backbone_folder, build, build_backbone, build_processor, make_image
from tests.helpers.trainers import SCORES, as_dataset, make_arguments, make_row, make_trainer, step_of

RATIONALES = ["The hat is blue, not red.", None, "好 ☕ <|im_end|> and <|image_pad|> are plain <|Reward|> text", "  "]


def rows_with_rationales(count=2):
    rows = [make_row(index, scores) for index, scores in enumerate(SCORES[:count])]
    for row in rows:
        for candidate, rationale in zip(row["candidates"], RATIONALES, strict=False):
            candidate["rationale"] = rationale
    return rows


def model_inputs(batch):
    return {name: batch[name] for name in (*build_processor().model_input_names, "hidden_positions") if name in batch}


def ordinary_conversation(processor, row, index):
    """Inputs of the vision-language model for one candidate's rationale as the assistant's reply, and the labels."""
    request = REQUESTS[processor.layout].replace("{text_prompt}", row["instruction"])
    source, image = [{"type": "image"}] * len(row["source_images"]), {"type": "image"}
    content = [*source, image, {"type": "text", "text": request}]
    if processor.layout == "compact":
        before, after = processor.templates["compact"].replace("{text_prompt}", row["instruction"]).split("{source}")
        content = [{"type": "text", "text": before}, *source, {"type": "text", "text": after}, *content[len(source) :]]
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    images = [*row["source_images"], row["candidates"][index]["image"]]
    patches = processor.image_processor(images=images, return_tensors="pt")
    pieces = text.split("<|image_pad|>")
    counts = (patches["image_grid_thw"].prod(-1) // 4).tolist()
    text = "".join(piece + "<|image_pad|>" * n for piece, n in zip(pieces, [*counts, 0], strict=True))
    prompt = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    rationale = row["candidates"][index]["rationale"]
    reply = processor.tokenizer(rationale, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    reply.append(processor.tokenizer.convert_tokens_to_ids("<|im_end|>"))
    input_ids = torch.tensor([prompt + reply])
    types = (input_ids == processor.image_token_id).int()
    types[0, len(prompt) :] = 0
    return {
        "input_ids": input_ids,
        "mm_token_type_ids": types,
        "labels": torch.tensor([[-100] * len(prompt) + reply]),
        **patches,
    }, len(reply)


@pytest.mark.parametrize("layout", ["compact", "paper"])
@pytest.mark.parametrize(
    ("kind", "packing"), [("qwen2_5_vl", "tree"), ("mimo", "tree"), ("qwen3_vl", "tree"), ("qwen3_vl", "unpacked")]
)
def test_loss_is_the_vision_language_models_own_cross_entropy_of_the_reply(kind, layout, packing):
    model, processor = build(kind, layout=layout)
    vlm = AutoModelForImageTextToText.from_pretrained(backbone_folder(kind)).eval()
    rows = rows_with_rationales()
    batch = EditGroupCollator(processor, rationales=True)(rows)
    with torch.no_grad():
        output = model(**model_inputs(batch), packing=packing)
        losses = RationaleLoss(language_model_head(model))(output.hidden_states, batch["rationale_ids"])
    assert losses.dtype == torch.float32
    places = [(row, i) for row in rows for i, text in enumerate(RATIONALES[: len(row["candidates"])]) if i in (0, 2)]
    start = 0
    for row, index in places:
        inputs, length = ordinary_conversation(processor, row, index)
        with torch.no_grad():
            expected = vlm(**inputs).loss
        assert losses[start : start + length].mean().item() == pytest.approx(expected.item(), abs=1e-5)
        start += length
    assert start == len(losses)


@pytest.mark.parametrize("packing", ["tree", "unpacked"])
@pytest.mark.parametrize("layout", ["compact", "paper"])
@pytest.mark.parametrize("position_scheme", ["mrope", "sequential"])
def test_scores_are_the_same_with_and_without_rationales(layout, position_scheme, packing):
    model, processor = build(layout=layout, position_scheme=position_scheme)
    model.double()
    rows = rows_with_rationales()
    plain = EditGroupCollator(processor)(rows)
    with_rationales = EditGroupCollator(processor, rationales=True)(rows)
    assert with_rationales["input_ids"].shape[1] > plain["input_ids"].shape[1]
    with torch.no_grad():
        first, second = (model(**model_inputs(batch), packing=packing) for batch in (plain, with_rationales))
    for name in ("mean", "log_std", "reward", "reward_std"):
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=1e-13)
    assert second.hidden_states.shape == (len(with_rationales["rationale_ids"]), 64) and first.hidden_states is None


@pytest.mark.parametrize("layout", ["compact", "paper"])
def test_tokens_of_rationales_are_counted_as_they_are_packed(layout):
    processor = build_processor(layout=layout)
    row = rows_with_rationales(1)[0]
    [scanned] = scan_dataset(as_dataset([row]))
    for rationales in (False, True):
        tokens = EditGroupCollator(processor, rationales=rationales)([row])["segment_ids"].shape[1]
        assert TokenCounter(processor, rationales).of_row(row) == tokens
        assert TokenCounter(processor, rationales)(scanned).most() == tokens


@pytest.mark.parametrize("layout", ["compact", "paper"])
def test_a_rationale_depends_on_its_source_and_its_candidate_only(layout):
    model, processor = build(layout=layout)
    rows = rows_with_rationales(1)
    batch = EditGroupCollator(processor, rationales=True)(rows)
    inputs = model_inputs(batch)
    pixels = inputs["pixel_values"].requires_grad_()
    hidden_states = model(**inputs).hidden_states
    of_first = len(processor.tokenizer(RATIONALES[0])["input_ids"]) + 1
    patches = batch["image_grid_thw"].prod(-1).tolist()
    for tokens, candidate in ((slice(of_first), 0), (slice(of_first, None), 2)):
        (gradient,) = torch.autograd.grad(hidden_states[tokens].square().sum(), pixels, retain_graph=True)
        reached = {i for i, part in enumerate(gradient.split(patches)) if part.abs().max() > 0}
        assert reached == {0, 1 + candidate}
    # Nor on the reward tokens' embeddings.
    embeddings = model.get_input_embeddings().weight
    (gradient,) = torch.autograd.grad(hidden_states.square().sum(), embeddings)
    assert gradient[processor.reward_token_ids].eq(0).all() and gradient.abs().max() > 0


@pytest.mark.parametrize("layout", ["compact", "paper"])
def test_special_tokens_in_a_rationale_stay_text(layout):
    processor = build_processor(layout=layout)
    rows = rows_with_rationales(1)
    plain, batch = (EditGroupCollator(processor, rationales=on)(rows) for on in (False, True))
    ids = batch["rationale_ids"].tolist()
    text = processor.tokenizer.decode(ids)
    assert RATIONALES[0] in text and "<|image_pad|> are plain <|Reward|> text" in text
    special = set(processor.tokenizer.all_special_ids) | set(processor.reward_token_ids)
    assert [i for i in ids if i in special] == [processor.eos_token_id] * 2
    assert batch["reward_positions"].shape == plain["reward_positions"].shape
    rows_and_columns = batch["reward_positions"].flatten(0, 1).unbind(-1)
    assert set(batch["input_ids"][rows_and_columns].tolist()) == set(processor.reward_token_ids)
    # Each token is predicted at the place before it.
    row, column = batch["hidden_positions"].unbind(-1)
    assert batch["input_ids"][row, column + 1].tolist() == ids


def test_rows_without_rationales_are_packed_as_ever_cost_nothing_and_are_told_of(tmp_path, caplog):
    rows = [make_row(index, scores) for index, scores in enumerate(SCORES[:2])]
    processor = build_processor()
    plain, batch = (EditGroupCollator(processor, rationales=on)(rows) for on in (False, True))
    for name in set(processor.model_input_names) - {"plan"}:
        assert torch.equal(plain[name], batch[name]), name
    assert batch["hidden_positions"].shape == (0, 2) and batch["rationale_ids"].shape == (0,)
    losses = []
    for weight in (0.0, 0.5):
        trainer = make_trainer(tmp_path, rows, rationale_weight=weight)
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(rows)))
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1]
    make_trainer(tmp_path, rows, rationale_weight=0.5, max_steps=1, logging_steps=1).train()
    assert "`rationale_weight` trained nothing" in caplog.text


def test_the_loss_adds_the_mean_over_tokens_and_reaches_the_backbone_and_no_head(tmp_path):
    rows = rows_with_rationales()
    gradients, losses = {}, {}
    for weight in (0.0, 0.3):
        built = build(head_dropout=0.0)
        built[0].double()
        trainer = make_trainer(tmp_path, rows, built, rationale_weight=weight, dimension_weight=1.0)
        batch = trainer._prepare_inputs(trainer.data_collator(rows))
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        losses[weight] = loss.item()
        gradients[weight] = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    head = language_model_head(trainer.model).double()
    with torch.no_grad():
        hidden_states = trainer.model(**model_inputs(batch)).hidden_states
    logits = hidden_states.double() @ head.float().double().T
    expected = F.cross_entropy(logits, batch["rationale_ids"])
    assert losses[0.3] - losses[0.0] == pytest.approx(0.3 * expected.item(), rel=1e-5)
    for name, gradient in gradients[0.3].items():
        same = torch.allclose(gradient, gradients[0.0][name], rtol=0, atol=1e-10)
        assert same == name.startswith("heads."), name


def test_gradient_accumulation_averages_over_the_tokens_of_the_step(tmp_path, monkeypatch):
    rows = [make_row(index, scores) for index, scores in enumerate(SCORES)]
    rows[1]["candidates"][0]["rationale"] = "Short."
    rows[2]["candidates"][1]["rationale"] = "A longer one, with reasons " * 4
    whole = step_of(tmp_path, rows, batch_size=4, accumulation=1, rationale_weight=0.5)
    monkeypatch.setattr("editreward.training.rationales.CHUNK", 5)
    parts = step_of(tmp_path, rows, batch_size=1, accumulation=4, rationale_weight=0.5)
    assert sum(step.norm() for step in whole.values()) > 0
    for name, step in whole.items():
        # The head's products are in its own float32.
        assert (parts[name] - step).norm() <= 1e-5 * step.norm() + 1e-9, name


def test_rationales_are_learned_logged_and_evaluated_and_the_head_is_saved_nowhere(tmp_path):
    rows = rows_with_rationales()
    model, processor = build(head_dropout=0.0)
    trainer = EditRewardTrainer(
        model=model,
        args=make_arguments(
            tmp_path,
            rationale_weight=1.0,
            max_steps=15,
            learning_rate=3e-3,
            logging_steps=5,
            per_device_train_batch_size=2,
            save_strategy="steps",
            save_steps=15,
            metric_for_best_model="rationale_loss",
        ),
        train_dataset=as_dataset(rows),
        eval_dataset=as_dataset(rows),
        processing_class=processor,
    )
    head = trainer.rationale_loss.weight.clone()
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_rationale_loss"] < 0.8 * before["eval_rationale_loss"]
    assert before["eval_loss"] == pytest.approx(before["eval_pair_loss"] + before["eval_rationale_loss"], rel=1e-5)
    assert sum("rationale_loss" in entry for entry in trainer.state.log_history) == 3
    assert torch.equal(trainer.rationale_loss.weight, head)
    saved = tmp_path / "checkpoint-15"
    with safe_open(saved / "model.safetensors", framework="pt") as weights:
        assert set(weights.keys()) == set(build()[0].state_dict())
    assert "lm_head" not in " ".join(path.read_text() for path in saved.glob("*.json"))
    loaded = AutoModel.from_pretrained(saved, trust_remote_code=True)
    torch.testing.assert_close(
        loaded.get_input_embeddings().weight, trainer.model.get_input_embeddings().weight, rtol=0, atol=0
    )


# Where the head comes from


def tied_backbone(folder):
    """A vision-language model whose head is its embeddings, in a sharded checkpoint."""
    vlm = build_backbone("qwen2_5_vl", 908)
    vlm.config.tie_word_embeddings = vlm.config.text_config.tie_word_embeddings = True
    vlm.tie_weights()
    vlm.save_pretrained(folder, max_shard_size="300KB")
    AutoTokenizer.from_pretrained(backbone_folder("qwen2_5_vl")).save_pretrained(folder)
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert "lm_head.weight" not in names and len(set(names.values())) > 1
    return vlm


def test_the_head_is_that_of_the_checkpoint_that_the_run_starts_from():
    vlm = AutoModelForImageTextToText.from_pretrained(backbone_folder("qwen3_vl"))
    model, _ = build("qwen3_vl")
    assert torch.equal(language_model_head(model), vlm.lm_head.weight)


def test_an_editreward_model_has_a_head_where_its_backbone_ties_it(tmp_path):
    vlm = tied_backbone(tmp_path / "vlm")
    model = EditRewardModel.from_backbone(tmp_path / "vlm")
    assert torch.equal(language_model_head(model), vlm.get_input_embeddings().weight)
    model.save_pretrained(tmp_path / "reward")
    again = EditRewardModel.from_pretrained(tmp_path / "reward")
    # With the reward tokens, which no rationale holds.
    assert torch.equal(language_model_head(again)[:908], vlm.get_input_embeddings().weight)
    assert torch.equal(language_model_head(again, str(tmp_path / "vlm")), vlm.get_input_embeddings().weight)


def test_an_editreward_model_without_a_head_says_which_option_gives_one(tmp_path):
    model, processor = build()
    model.save_pretrained(tmp_path / "reward")
    model = EditRewardModel.from_pretrained(tmp_path / "reward")
    rows = rows_with_rationales()
    with pytest.raises(ValueError, match="no language-model head.*`rationale_head`"):
        make_trainer(tmp_path, rows, (model, processor), rationale_weight=1.0)
    given = str(backbone_folder("qwen2_5_vl"))
    trainer = make_trainer(tmp_path, rows, (model, processor), rationale_weight=1.0, rationale_head=given)
    assert trainer.rationale_loss.weight.shape == (908, 64)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no safetensors weights"):
        language_model_head(model, str(tmp_path / "empty"))
    narrow, _ = build()
    narrow.config.get_text_config().hidden_size = 32
    with pytest.raises(ValueError, match="reads 64 features, the model has 32"):
        language_model_head(narrow)


@pytest.mark.parametrize(
    ("rationale", "message"),
    [(3.5, "must be a string or null, got float"), ("half \ud83d", "not valid text"), ("word " * 5000, "too long")],
)
def test_a_rationale_that_cannot_be_used_is_named_by_its_candidate(rationale, message):
    rows = rows_with_rationales(1)
    rows[0]["candidates"][2]["rationale"] = rationale
    with pytest.raises(ValueError, match=f"group 'group-0', candidate 2: its rationale.*{message}"):
        EditGroupCollator(build_processor(), rationales=True)(rows)
    EditGroupCollator(build_processor())(rows)


def test_several_sources_and_dimensions_are_packed_alike():
    model, processor = build(dimensions=["visual_quality"])
    row = make_row(0, [(1.0, 2.0), (3.0, math.nan)])
    row["source_images"].append(make_image(50, (120, 40)))
    for index, candidate in enumerate(row["candidates"]):
        candidate.update(rationale=f"reason {index}", scores={"visual_quality": 2.0})
    batch = EditGroupCollator(processor, rationales=True)([row])
    vlm = AutoModelForImageTextToText.from_pretrained(backbone_folder("qwen2_5_vl")).eval()
    with torch.no_grad():
        states = model(**model_inputs(batch)).hidden_states
        losses = RationaleLoss(language_model_head(model))(states, batch["rationale_ids"])
        expected = [vlm(**ordinary_conversation(processor, row, index)[0]).loss.item() for index in range(2)]
    assert [part.mean().item() for part in losses.chunk(2)] == pytest.approx(expected, abs=1e-5)
