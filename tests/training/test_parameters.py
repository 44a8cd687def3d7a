"""Which weights are trained, at which rate and in which precision, on tiny backbones with random weights."""

import json

import pytest
import torch
from safetensors.torch import load_file

from editreward.training.parameters import PARTS, RewardTokenEmbedding, check_precision, part_of, upcast_trained
from modeling_editreward import EditRewardModel
from tests.helpers.backbones import KINDS, build, make_image
from tests.helpers.trainers import make_arguments, make_rows, make_trainer

EMBEDDINGS = "backbone.language_model.embed_tokens.weight"
ROWS = "backbone.language_model.embed_tokens.reward_tokens"
RUN = {"max_steps": 2, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant", "warmup_steps": 0}


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def scores(model, processor):
    with torch.no_grad():
        return model.eval()(**processor(make_image(0), [make_image(1), make_image(2)], "make it blue"))


# Parts


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_belongs_to_the_part_that_holds_it(kind):
    model, _ = build(kind)
    visual, language_model = model.backbone.visual, model.backbone.language_model
    merger = [visual.merger, *getattr(visual, "deepstack_merger_list", [])]
    modules = {
        "merger": merger,
        "vision_tower": [visual],
        "token_embeddings": [language_model.embed_tokens],
        "language_model": [language_model],
        "heads": [model.heads],
    }
    expected = {}
    for part, of_part in modules.items():
        for parameter in (p for module in of_part for p in module.parameters()):
            expected.setdefault(id(parameter), part)
    assert len(merger) == (3 if kind == "qwen3_vl" else 1)
    assert {name: part_of(name) for name, _ in model.named_parameters()} == {
        name: expected[id(p)] for name, p in model.named_parameters()
    }
    assert set(expected.values()) | {"reward_tokens"} == set(PARTS)


@pytest.mark.parametrize(
    ("kind", "freeze"),
    [
        ("qwen2_5_vl", ["vision_tower", "heads"]),
        ("mimo", ["language_model", "token_embeddings", "reward_tokens"]),
        ("qwen3_vl", ["vision_tower", "merger", "token_embeddings"]),
    ],
)
def test_frozen_parts_stay_bit_for_bit_and_all_others_move(tmp_path, kind, freeze):
    model, processor = build(kind, head_dropout=0.0)
    before = weights(model)
    # Weight decay moves what is in the optimizer, with or without a gradient.
    settings = {**RUN, "learning_rate": 1e-3, "weight_decay": 0.1, "freeze": freeze}
    trainer = make_trainer(tmp_path, make_rows(), (model, processor), **settings)
    trainer.train()
    after = {name: value for name, value in model.state_dict().items() if name in before}
    assert after.keys() == before.keys()
    reward_rows = torch.zeros(len(before[EMBEDDINGS]), dtype=torch.bool)
    reward_rows[processor.reward_token_ids] = True
    for name, value in before.items():
        if name == EMBEDDINGS:
            moved = (after[name] != value).any(-1)
            expected = torch.zeros_like(moved)
            if "token_embeddings" not in freeze:
                expected[:] = True
            expected[reward_rows] = "reward_tokens" not in freeze
            assert torch.equal(moved, expected)
        else:
            assert torch.equal(after[name], value) == (part_of(name) in freeze), name


def test_reward_tokens_trained_alone_take_the_step_that_they_take_in_the_whole_matrix(tmp_path):
    steps = {}
    for run, freeze in (("whole", None), ("alone", ["token_embeddings"])):
        model, processor = build(head_dropout=0.0)
        settings = {**RUN, "max_steps": 1, "learning_rate": 1e-3, "weight_decay": 0.1, "freeze": freeze}
        make_trainer(tmp_path / run, make_rows(), (model.double(), processor), max_grad_norm=0.0, **settings).train()
        steps[run] = model.state_dict()[EMBEDDINGS][processor.reward_token_ids]
    torch.testing.assert_close(steps["alone"], steps["whole"], rtol=0, atol=1e-9)


def test_checkpoints_with_trained_reward_tokens_are_plain_and_resume_exactly(tmp_path):
    settings = {**RUN, "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    settings["freeze"] = ["vision_tower", "token_embeddings"]
    model, processor = build(head_dropout=0.0)
    start = weights(model)[EMBEDDINGS]
    whole = make_trainer(tmp_path / "whole", make_rows(), (model, processor), **settings)
    whole.train()
    saved = load_file(tmp_path / "whole" / "checkpoint-4" / "model.safetensors")
    assert ROWS not in saved and saved.keys() == build()[0].state_dict().keys()
    moved = (saved[EMBEDDINGS] != start).any(-1).nonzero().flatten().tolist()
    assert moved == sorted(set(processor.reward_token_ids))
    loaded = EditRewardModel.from_pretrained(tmp_path / "whole" / "checkpoint-4")
    expected = scores(model, processor)
    torch.testing.assert_close(scores(loaded, processor).mean, expected.mean, rtol=0, atol=0)

    other = make_trainer(tmp_path / "resumed", make_rows(), build(head_dropout=0.0, seed=5), **settings)
    other.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in other.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_state_dicts_of_reward_token_embeddings_load_into_plain_ones_and_back():
    plain = torch.nn.Embedding(10, 4)
    ids = torch.tensor([[1, 7, 3], [8, 7, 0]])
    split = RewardTokenEmbedding(plain, [7, 8, 7])
    assert torch.equal(split(ids), plain(ids))
    with torch.no_grad():
        split.reward_tokens.add_(1)
    other = torch.nn.Embedding(10, 4)
    other.load_state_dict(split.state_dict(), strict=False)
    assert torch.equal(other(ids), split(ids))
    again = RewardTokenEmbedding(torch.nn.Embedding(10, 4), [7, 8])
    again.load_state_dict({"weight": other.weight.detach()})
    assert torch.equal(again(ids), other(ids))


# Learning rates


@pytest.mark.parametrize("kind", [pytest.param("qwen2_5_vl", marks=pytest.mark.slow), "qwen3_vl"])
def test_each_part_steps_at_its_own_rate(tmp_path, kind):
    rates = {"vision_tower": 0.5, "merger": 3.0, "heads": 7.0, "reward_tokens": 11.0}
    steps = {}
    for run, own in (("one", {}), ("own", {f"{part}_learning_rate": rate for part, rate in rates.items()})):
        model, processor = build(kind, head_dropout=0.0)
        before = weights(model.double())
        settings = {**RUN, "max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1.0}
        trainer = make_trainer(tmp_path, make_rows(), (model, processor), logging_steps=1, **settings, **own)
        trainer.train()
        after = model.state_dict()
        steps[run] = {name: after[name] - value for name, value in before.items()}
    reward_rows = torch.tensor(sorted(set(processor.reward_token_ids)))
    for name, step in steps["one"].items():
        expected = step * rates.get(part_of(name), 1.0)
        if name == EMBEDDINGS:
            expected[reward_rows] = step[reward_rows] * rates["reward_tokens"]
        torch.testing.assert_close(steps["own"][name], expected, rtol=1e-9, atol=1e-12)
    logged = next(entry for entry in trainer.state.log_history if "learning_rate" in entry)
    assert {name: logged[name] for name in logged if name.endswith("learning_rate")} == {
        "learning_rate": 1.0,
        **{f"{part}_learning_rate": rate for part, rate in rates.items()},
    }


def test_own_rates_leave_weight_decay_as_it_was(tmp_path):
    decays = []
    for own in ({}, {"merger_learning_rate": 1.0, "heads_learning_rate": 2.0}):
        trainer = make_trainer(tmp_path, make_rows(), weight_decay=0.1, **own)
        groups = trainer.create_optimizer().param_groups
        of_parameter = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        decays.append({name: of_parameter[id(p)] for name, p in trainer.model.named_parameters()})
    assert decays[0] == decays[1] and set(decays[0].values()) == {0.0, 0.1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"freeze": ["visoin_tower"]}, "`freeze` is 'visoin_tower'; choose one of: vision_tower"),
        ({"freeze": ["heads"], "heads_learning_rate": 1e-3}, "Drop one of them"),
        ({"merger_learning_rate": 0.0}, "`--freeze merger` freezes"),
        ({"freeze": list(PARTS)}, "Nothing is trained"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, make_rows(), **arguments)


# Precision


def test_a_step_of_2e_6_moves_float32_weights_under_autocast_and_hardly_any_bfloat16_ones(tmp_path):
    model, processor = build(head_dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(0.02 / parameter.std())  # as large as those of the published 7B models
    before = weights(model)
    settings = {**RUN, "max_steps": 1, "learning_rate": 2e-6, "bf16": True}
    trainer = make_trainer(tmp_path, make_rows(), (model, processor), **settings)
    gradients = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: gradients.update({name: p.grad.clone()}))
    trainer.train()
    total = moved = moved_in_bfloat16 = 0
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        has_gradient = gradients[name] != 0
        total += has_gradient.sum().item()
        moved += (parameter != before[name])[has_gradient].sum().item()
        rounded = torch.nn.Parameter(before[name].bfloat16())
        rounded.grad = gradients[name].bfloat16()
        torch.optim.AdamW([rounded], lr=2e-6, weight_decay=0.0).step()
        moved_in_bfloat16 += (rounded != before[name].bfloat16())[has_gradient].sum().item()
    assert moved > 0.99 * total
    assert moved_in_bfloat16 < 0.06 * total


def test_training_weights_in_half_precision_is_refused_unless_someone_keeps_float32_copies(tmp_path):
    model, processor = build(head_dropout=0.0)
    model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="would be trained in bfloat16, in which a step of 2e-6 .*--dtype float32"):
        make_trainer(tmp_path, make_rows(), (model, processor), bf16=True)


def test_frozen_weights_may_be_in_half_precision_under_autocast(tmp_path):
    model, processor = build("qwen3_vl", head_dropout=0.0)
    model.to(torch.bfloat16)
    settings = {**RUN, "learning_rate": 1e-3, "freeze": ["vision_tower", "token_embeddings"]}
    trainer = make_trainer(tmp_path, make_rows(), build(head_dropout=0.0), **settings)
    upcast_trained(model, processor.reward_token_ids, trainer.args)
    with pytest.raises(ValueError, match="without autocast no layer takes both"):
        make_trainer(tmp_path, make_rows(), (model, processor), **settings)

    start = weights(model)
    trainer = make_trainer(tmp_path, make_rows(), (model, processor), bf16=True, **settings)
    trainer.train()
    for name, parameter in model.named_parameters():
        trained = part_of(name) not in settings["freeze"]
        # The embedding matrix is frozen, and holds the trained rows when it is saved.
        assert parameter.dtype == (torch.float32 if trained or name == EMBEDDINGS else torch.bfloat16), name
        assert name == EMBEDDINGS or torch.equal(parameter, start[name]) != trained, name
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["dtype"] == "float32", "Loaded in bfloat16, the trained weights would be rounded."
    loaded = EditRewardModel.from_pretrained(tmp_path / "saved")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].float()), name


# Memory and speed


@pytest.mark.parametrize("kind", [pytest.param("qwen2_5_vl", marks=pytest.mark.slow), "qwen3_vl"])
def test_gradients_with_gradient_checkpointing_equal_those_without(tmp_path, kind):
    gradients = []
    for checkpointing in (False, True):
        model, processor = build(kind, head_dropout=0.0)
        calls: list[int] = []
        for attention in (model.backbone.visual.blocks[0].attn, model.backbone.language_model.layers[0].self_attn):
            attention.register_forward_hook(lambda *call, calls=calls: calls.append(1))
        settings = {**RUN, "max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1.0}
        before = weights(model.double())
        trainer = make_trainer(
            tmp_path, make_rows(), (model, processor), activation_checkpointing=checkpointing, **settings
        )
        trainer.train()
        gradients.append({name: before[name] - value for name, value in weights(model).items()})
        assert len(calls) == (4 if checkpointing else 2)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_a_frozen_vision_tower_takes_no_part_in_the_backward_pass(tmp_path):
    model, processor = build(head_dropout=0.0)
    outputs = []
    model.backbone.visual.blocks[0].register_forward_hook(lambda module, args, output: outputs.append(output))
    settings = {**RUN, "max_steps": 1, "activation_checkpointing": True, "freeze": ["vision_tower", "merger"]}
    make_trainer(tmp_path, make_rows(), (model, processor), **settings).train()
    assert outputs and not any(output.requires_grad for output in outputs)


@pytest.mark.slow
def test_compiled_training_gives_the_same_losses_and_plain_checkpoints(tmp_path):
    rows, losses, saved = make_rows(), [], []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        settings = {
            "max_steps": 2,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 2,
            "learning_rate": 1e-3,
        }
        if compiled:
            settings |= {"torch_compile": True, "torch_compile_backend": "aot_eager"}
        trainer = make_trainer(folder, rows, build(head_dropout=0.0), **settings)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        saved.append(load_file(folder / "checkpoint-2" / "model.safetensors"))
        layers = trainer.model.backbone.language_model.layers
        assert all((layer._compiled_call_impl is not None) == compiled for layer in layers)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert saved[1].keys() == saved[0].keys()
    for name, value in saved[0].items():
        torch.testing.assert_close(saved[1][name], value, rtol=1e-4, atol=1e-5)


def test_only_fsdp_makes_bfloat16_weights_float32_by_itself(tmp_path, monkeypatch):
    arguments = make_arguments(tmp_path, bf16=True)
    model = build()[0].to(torch.bfloat16)
    with pytest.raises(ValueError, match="would be trained in bfloat16"):
        check_precision(model, arguments)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` does
    check_precision(model, arguments)
