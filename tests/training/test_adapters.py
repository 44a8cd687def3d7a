"""LoRA, DoRA and QLoRA: what is trained, saved, loaded again and merged, on tiny backbones with random weights."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoProcessor

from editreward import EditRewardScorer
from editreward.cli.command import main
from editreward.training import EditRewardModelConfig, EditRewardTrainer
from editreward.training.adapters import adapter_config, merge_adapter, quantization_config
from editreward.training.parameters import part_of
from modeling_editreward import EditRewardModel
from tests.helpers.backbones import backbone_folder, build, build_processor, make_image
from tests.helpers.trainers import as_dataset, make_arguments, make_rows, run_script

HUB_FILES = {f"{part}_editreward.py" for part in ("configuration", "modeling", "pipeline", "processing")}


def make_trainer(folder, model, processor, options=None, **arguments):
    peft_config = adapter_config(
        model, processor.reward_token_ids, EditRewardModelConfig(use_peft=True, lora_dropout=0.0, **(options or {}))
    )
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0}
    return EditRewardTrainer(
        model=model,
        args=make_arguments(folder, **settings | arguments),
        train_dataset=as_dataset(make_rows()),
        processing_class=processor,
        peft_config=peft_config,
    )


def scores(model, processor):
    with torch.no_grad():
        output = model.eval()(**processor(make_image(0), [make_image(1), make_image(2)], "make it blue"))
    return torch.cat([output.mean, output.log_std], dim=-1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a LoRA on a plain vision-language model, its processor and the scores at the end of training."""
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    model, processor = build(head_dropout=0.0, aggregation="min")
    trainer = make_trainer(folder, model, processor, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    return folder, processor, scores(trainer.model, processor)


# Training


@pytest.mark.parametrize(
    ("kind", "options"), [("qwen2_5_vl", {"use_dora": True}), ("qwen3_vl", {"use_rslora": True, "lora_r": 4})]
)
def test_adapters_heads_and_reward_tokens_are_trained_and_nothing_else(tmp_path, kind, options):
    model, processor = build(kind, head_dropout=0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(tmp_path / "run", model, processor, options, weight_decay=0.1)
    names = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    layers = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in names if ".lora_" in name}
    assert layers == {
        name.removesuffix(".weight")
        for name in before
        if name.startswith("backbone.language_model.layers.") and name.endswith("proj.weight")
    }
    heads = [name for name in names if part_of(name) == "heads"]
    assert len(heads) == len(list(build(kind)[0].heads.parameters()))
    assert [name for name in names if ".lora_" not in name and name not in heads] == [
        "base_model.model.backbone.language_model.embed_tokens.token_adapter.trainable_tokens_delta.default"
    ]
    trainer.train()
    trainer.save_model()

    after = {
        name.replace(".base_layer", "").replace(".token_adapter", "").replace(".original_module", ""): value
        for name, value in trainer.model.get_base_model().state_dict().items()
    }
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    expected = scores(trainer.model, processor)
    assert (expected - scores(build(kind)[0], processor)).abs().max() > 1e-3
    loaded = EditRewardModel.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(scores(loaded, processor), expected, rtol=0, atol=1e-6)
    merged = merge_adapter(tmp_path / "run", tmp_path / "merged")
    torch.testing.assert_close(scores(merged, processor), expected, rtol=0, atol=1e-5)


def test_own_learning_rates_reach_adapters(tmp_path):
    model, processor = build(head_dropout=0.0)
    rates = {"heads_learning_rate": 3e-3, "reward_tokens_learning_rate": 4e-3}
    trainer = make_trainer(tmp_path, model, processor, **rates)
    rate_of = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    of_part = {part_of(name): rate_of[id(p)] for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert of_part == {"language_model": 1e-2, "heads": 3e-3, "reward_tokens": 4e-3}
    with pytest.raises(ValueError, match="nothing of the merger is trained"):
        make_trainer(tmp_path, *build(), merger_learning_rate=1e-3).create_optimizer()


def test_options_for_lora_are_handed_on():
    model, processor = build()
    options = EditRewardModelConfig(
        use_peft=True, lora_target_modules=["q_proj", "v_proj"], lora_modules_to_save=["merger"], lora_alpha=5
    )
    config = adapter_config(model, processor.reward_token_ids, options)
    assert config.target_modules == {"q_proj", "v_proj"} and config.lora_alpha == 5
    assert config.modules_to_save == ["merger", "heads"] and config.task_type == "FEATURE_EXTRACTION"
    assert config.trainable_token_indices == processor.reward_token_ids
    assert adapter_config(model, processor.reward_token_ids, EditRewardModelConfig()) is None


def test_resuming_an_adapters_run_gives_what_the_whole_run_gives(tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "activation_checkpointing": True}
    whole = make_trainer(tmp_path / "whole", *build(head_dropout=0.0), **settings)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", *build(head_dropout=0.0, seed=9), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    expected = load_file(tmp_path / "whole" / "checkpoint-4" / "adapter_model.safetensors")
    for name, value in load_file(tmp_path / "resumed" / "checkpoint-4" / "adapter_model.safetensors").items():
        assert torch.equal(value, expected[name]), name


def test_the_frozen_base_may_be_in_bfloat16_and_what_is_trained_is_not(tmp_path):
    model, processor = build("qwen3_vl", head_dropout=0.0)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    model = EditRewardModel.from_pretrained(tmp_path / "base")
    trainer = make_trainer(tmp_path / "run", model, processor)
    dtypes = {p.requires_grad: set() for p in trainer.model.parameters()}
    for name, parameter in trainer.model.named_parameters():
        if "original_module" not in name:
            dtypes[parameter.requires_grad].add(parameter.dtype)
    assert dtypes == {True: {torch.float32}, False: {torch.bfloat16}}
    trainer.train()
    trainer.save_model()
    loaded = EditRewardModel.from_pretrained(tmp_path / "run")
    assert loaded.backbone.visual.dtype == torch.bfloat16
    torch.testing.assert_close(
        scores(loaded, processor), scores(trainer.model, processor), rtol=0, atol=1e-6, check_dtype=False
    )
    assert merge_adapter(tmp_path / "run", tmp_path / "merged", dtype="float32").dtype == torch.float32
    with pytest.raises(ValueError, match=r"missing is no adapter: there is no adapter_config\.json"):
        merge_adapter(tmp_path / "missing", tmp_path / "other")


def test_models_that_no_adapter_can_name_are_refused(tmp_path, trained):
    folder, processor, _ = trained
    with pytest.raises(ValueError, match="The model is an adapter. Merge it"):
        make_trainer(tmp_path, EditRewardModel.from_pretrained(folder), processor)
    model, _ = build()
    with pytest.raises(ValueError, match="was never loaded. Save it"):
        make_trainer(tmp_path, EditRewardModel(model.config), processor)
    with pytest.raises(ValueError, match="goes without an adapter"):
        make_trainer(tmp_path, model, processor, freeze=["vision_tower"])


# Saving and loading


@pytest.mark.parametrize("subfolder", ["", "checkpoint-1"])
def test_an_adapters_folder_is_complete_and_small(trained, subfolder):
    folder, *_ = trained
    names = {path.name for path in (folder / subfolder).iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json", *HUB_FILES} <= names
    assert "model.safetensors" not in names
    config = json.loads((folder / subfolder / "config.json").read_text())
    assert config["model_type"] == "editreward" and "AutoModel" in config["auto_map"]
    adapter = json.loads((folder / subfolder / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(backbone_folder("qwen2_5_vl"))
    assert not [name for name in load_file(folder / "adapter_model.safetensors") if ".visual." in name]


def test_a_loaded_adapter_scores_as_it_did_at_the_end_of_training(trained, tmp_path):
    folder, processor, expected = trained
    loaded, info = EditRewardModel.from_pretrained(folder, output_loading_info=True)
    assert type(loaded) is EditRewardModel and not info["missing_keys"] and loaded.config.aggregation == "min"
    assert not loaded.training and not any(p.requires_grad for name, p in loaded.named_parameters() if "lora" in name)
    by_auto_class = AutoModel.from_pretrained(folder, trust_remote_code=True)
    loaded.save_pretrained(tmp_path / "again")
    again = EditRewardModel.from_pretrained(tmp_path / "again")
    for model in (loaded, by_auto_class, again):
        torch.testing.assert_close(scores(model, processor), expected, rtol=0, atol=1e-6)
    group = {"source": make_image(0), "edited": [make_image(1), make_image(2)], "instruction": "make it blue"}
    scored = EditRewardScorer.from_pretrained(folder, device="cpu").score(**group)
    means = torch.tensor([[dimension.mean for dimension in score.dimensions.values()] for score in scored])
    torch.testing.assert_close(means, expected[:, :2], rtol=0, atol=1e-6)


def test_merging_gives_a_plain_model_of_the_same_scores(trained, tmp_path, capsys):
    folder, _, expected = trained
    assert main(["merge", "--adapter", str(folder), "--output", str(tmp_path / "merged")]) == 0
    assert "in float32" in capsys.readouterr().out
    plain, _ = build(aggregation="min")
    merged = EditRewardModel.from_pretrained(tmp_path / "merged")
    assert merged.state_dict().keys() == plain.state_dict().keys()
    processor = AutoProcessor.from_pretrained(tmp_path / "merged", trust_remote_code=True)
    torch.testing.assert_close(scores(merged, processor), expected, rtol=0, atol=1e-5)
    assert main(["merge", "--adapter", str(folder), "--output", str(tmp_path / "merged")]) == 2
    assert "is not empty. Choose another output folder" in capsys.readouterr().err


def test_a_base_that_has_moved_is_named_and_can_be_given(trained, tmp_path):
    folder, processor, expected = trained
    moved = shutil.copytree(folder, tmp_path / "adapter")
    shutil.copytree(backbone_folder("qwen2_5_vl"), tmp_path / "elsewhere")
    config = json.loads((moved / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (moved / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="sits on .*gone, which is neither .* `base_model_name_or_path`"):
        EditRewardModel.from_pretrained(moved)
    loaded = EditRewardModel.from_pretrained(moved, base_model_name_or_path=tmp_path / "elsewhere")
    torch.testing.assert_close(scores(loaded, processor), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="needs a qwen2_5_vl model .* is of type 'qwen3_vl'"):
        EditRewardModel.from_pretrained(moved, base_model_name_or_path=backbone_folder("qwen3_vl"))


def test_an_adapter_without_all_its_weights_is_refused(trained, tmp_path):
    folder, *_ = trained
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(broken / "adapter_model.safetensors")
    (name,) = [name for name in weights if name.endswith("heads.mlps.1.0.weight")]
    save_file({key: value for key, value in weights.items() if key != name}, broken / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="lacks weights: .*heads.mlps.1.0.weight"):
        EditRewardModel.from_pretrained(broken)


def test_without_peft_the_error_says_what_to_install(trained, monkeypatch):
    folder, *_ = trained
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="pip install peft"):
        EditRewardModel.from_pretrained(folder)


def test_script_trains_adapters_on_a_backbone_and_on_a_model(tmp_path):
    options = ["--use_peft=true", "--lora_r=4", "--max_steps=1", "--eval_strategy=no", "--simulated_train_groups=2"]
    base = backbone_folder("qwen3_vl")
    run_script(f"--model_name_or_path={base}", "--pixels=4096", f"--output_dir={tmp_path / 'a'}", *options)
    merge_adapter(tmp_path / "a", tmp_path / "merged")
    again = [f"--model_name_or_path={tmp_path / 'merged'}", f"--output_dir={tmp_path / 'b'}", "--use_dora=true"]
    run_script(*again, *options)
    adapter = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(tmp_path / "merged") and adapter["use_dora"]
    processor = AutoProcessor.from_pretrained(tmp_path / "b", trust_remote_code=True)
    assert scores(EditRewardModel.from_pretrained(tmp_path / "b"), processor).isfinite().all()


# QLoRA


def test_quantization_leaves_vision_tower_and_heads_and_needs_an_adapter():
    config = quantization_config(EditRewardModelConfig(use_peft=True, load_in_4bit=True, use_bnb_nested_quant=True))
    assert config.load_in_4bit and config.bnb_4bit_quant_type == "nf4" and config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert config.llm_int8_skip_modules == ["visual", "backbone.visual", "heads"]
    config = quantization_config(EditRewardModelConfig(use_peft=True, load_in_4bit=True, dtype="float32"))
    assert config.bnb_4bit_compute_dtype == torch.float32
    assert quantization_config(EditRewardModelConfig(use_peft=True)) is None
    with pytest.raises(ValueError, match="need `--use_peft`"):
        quantization_config(EditRewardModelConfig(load_in_4bit=True))


@pytest.mark.parametrize("start", ["backbone", "model"])
def test_qlora_trains_float32_adapters_on_4_bit_linears(tmp_path, start):
    bnb = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    options = {"load_in_4bit": True, "dtype": "float32"}
    quantization = quantization_config(EditRewardModelConfig(use_peft=True, **options))
    processor = build_processor()
    if start == "backbone":
        base = backbone_folder("qwen2_5_vl")
        model = EditRewardModel.from_backbone(base, quantization_config=quantization, dtype="float32")
    else:
        base = tmp_path / "base"
        build()[0].save_pretrained(base)
        model = EditRewardModel.from_pretrained(base, quantization_config=quantization, dtype="float32")
    heads = {name: value.clone() for name, value in model.heads.state_dict().items()}
    trainer = make_trainer(tmp_path / "run", model, processor, options)
    base_model = trainer.model.get_base_model()
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    for name, value in base_model.heads.modules_to_save["default"].state_dict().items():
        assert torch.equal(value, heads[name]), name
    quantized = {name for name, module in base_model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
    assert len(quantized) == 3 * 7 and all(".language_model.layers." in name for name in quantized)
    assert all(type(m) is nn.Linear for m in base_model.backbone.visual.modules() if isinstance(m, nn.Linear))
    trainer.train()
    trainer.save_model()
    assert "quantization_config" not in (tmp_path / "run" / "config.json").read_text()
    again = EditRewardModel.from_pretrained(tmp_path / "run", quantization_config=quantization, dtype="float32")
    torch.testing.assert_close(scores(again, processor), scores(trainer.model, processor), rtol=0, atol=1e-6)
    assert scores(EditRewardModel.from_pretrained(tmp_path / "run"), processor).isfinite().all()
