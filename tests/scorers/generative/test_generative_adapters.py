"""Adapters: all their weights are used, or they are refused; merged once."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from editreward.scorers.generative.adapters import MANIFEST, WEIGHTS, merged_folder
from editreward.scorers.loading import ModelError
from tests.helpers.editscore import GOLDEN

BASE = GOLDEN / "qwen25" / "base"


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(GOLDEN / "qwen25" / "adapter", folder)
    return folder


def change(adapter, edit):
    weights = load_file(adapter / WEIGHTS)
    save_file(edit(weights), adapter / WEIGHTS)


def test_merged_weights_are_base_plus_scaled_product(tmp_path, adapter):
    merged = AutoModelForImageTextToText.from_pretrained(
        merged_folder(BASE, adapter, tmp_path / "cache", torch.float32), dtype=torch.float32
    ).state_dict()
    base = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32).state_dict()
    weights, config = load_file(adapter / WEIGHTS), json.loads((adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    changed = set()
    for key in weights:
        if ".lora_A." not in key:
            continue
        name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        product = weights[key.replace("lora_A", "lora_B")].float() @ weights[key].float()
        torch.testing.assert_close(merged[name], base[name] + scale * product)
        changed.add(name)
    assert changed
    for name in set(base) - changed:
        assert torch.equal(base[name], merged[name]), name


def test_a_merged_model_is_made_once_and_says_of_what(tmp_path, adapter):
    cache = tmp_path / "cache"
    folder = merged_folder(BASE, adapter, cache)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert merged_folder(BASE, adapter, cache) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["base"] == str(BASE)
    assert manifest["adapter"] == str(adapter)
    change(adapter, lambda weights: {key: 2 * weight for key, weight in weights.items()})
    assert merged_folder(BASE, adapter, cache) != folder  # another adapter under the same name


def test_a_merge_that_was_killed_is_made_again(tmp_path, adapter, monkeypatch):
    cache = tmp_path / "cache"
    with monkeypatch.context() as patched:
        patched.setattr("editreward.scorers.generative.adapters.write_json", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merged_folder(BASE, adapter, cache)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    assert (merged_folder(BASE, adapter, cache) / MANIFEST).is_file()


def test_an_adapter_whose_weights_are_missing_is_refused(tmp_path, adapter):
    change(adapter, lambda weights: {key: weight for key, weight in weights.items() if ".layers.1." not in key})
    with pytest.raises(ModelError, match=r"lacks weights of model.language_model.layers.1"):
        merged_folder(BASE, adapter, tmp_path / "cache")


def test_an_adapter_with_half_of_a_pair_is_refused(tmp_path, adapter):
    change(adapter, lambda weights: dict(list(weights.items())[1:]))
    with pytest.raises(ModelError, match="has only lora_"):
        merged_folder(BASE, adapter, tmp_path / "cache")


def test_an_adapter_with_weights_of_no_use_is_refused(tmp_path, adapter):
    extra = "base_model.model.model.language_model.layers.9.self_attn.q_proj.lora_A.weight"
    change(adapter, lambda weights: {**weights, extra: torch.zeros(4, 64)})
    with pytest.raises(ModelError, match="no place for.*layers.9"):
        merged_folder(BASE, adapter, tmp_path / "cache")


def test_an_adapter_of_another_base_is_refused(tmp_path, adapter):
    change(
        adapter,
        lambda weights: {
            key: torch.cat([w, w], dim=1).contiguous() if "lora_A" in key else w for key, w in weights.items()
        },
    )
    with pytest.raises(ModelError, match="belongs to another base"):
        merged_folder(BASE, adapter, tmp_path / "cache")


def test_an_adapter_that_was_never_trained_is_refused(tmp_path, adapter):
    change(
        adapter,
        lambda weights: {key: torch.zeros_like(w) if "lora_B" in key else w for key, w in weights.items()},
    )
    with pytest.raises(ModelError, match="all its lora_B are zero"):
        merged_folder(BASE, adapter, tmp_path / "cache")


def test_an_adapter_of_another_rank_than_it_says_is_refused(tmp_path, adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(ModelError, match="rank 4 .* says 8"):
        merged_folder(BASE, adapter, tmp_path / "cache")


@pytest.mark.slow  # peft takes long to import
def test_merged_weights_are_those_of_peft(tmp_path, adapter):
    from peft import PeftModel

    config = json.loads((adapter / "adapter_config.json").read_text())
    patterns = {"rank_pattern": {"layers.0.self_attn.q_proj": 4}, "alpha_pattern": {"layers.1.self_attn.v_proj": 3}}
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True, **patterns}))
    base = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict()
    folder = merged_folder(BASE, adapter, tmp_path / "cache", torch.float32)
    merged = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()
    for name, weight in merged.items():
        torch.testing.assert_close(weight, expected[name], msg=name)


def test_what_is_no_plain_lora_is_refused(tmp_path, adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(ModelError, match="no plain LoRA"):
        merged_folder(BASE, adapter, tmp_path / "cache")


def test_damaged_weights_and_no_adapter_at_all_are_named(tmp_path, adapter):
    with pytest.raises(ModelError, match="it has no adapter_config.json"):
        merged_folder(BASE, BASE, tmp_path / "cache")
    (adapter / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ModelError, match="has no readable"):
        merged_folder(BASE, adapter, tmp_path / "cache")
