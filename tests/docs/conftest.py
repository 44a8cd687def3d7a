"""The folder in which code of the docs is run: with the images, data and models that the pages name."""

import itertools
import json
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
from peft import get_peft_model
from transformers import dynamic_module_utils
from trl import ModelConfig

from editreward.cli.command import main
from editreward.data.sources import load_groups
from editreward.data.storage import write_groups
from editreward.scorers.loading import bundled_model
from editreward.simulation import simulate_group
from editreward.training.adapters import adapter_config, save_configuration
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "simulated-edits"
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """A cache of the Hub, offline, in which org/EditReward is the bundled model."""
    folder = tmp_path_factory.mktemp("hub")
    repository = folder / "models--org--EditReward"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in bundled_model().iterdir():
        (snapshot / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="session")
def lora(tmp_path_factory):
    """A fresh adapter on the bundled model."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    model = EditRewardModel.from_pretrained(bundled_model())
    processor = EditRewardProcessor.from_pretrained(bundled_model())
    adapted = get_peft_model(
        model, adapter_config(model, processor.reward_token_ids, ModelConfig(use_peft=True, lora_r=2))
    )
    adapted.save_pretrained(folder)
    save_configuration(model, folder)
    processor.save_pretrained(folder)
    return folder


def prompts_file(folder):
    """The published prompts' files, by what the golden outputs were made with."""
    cases = json.loads((GOLDEN / "cases.json").read_text())
    names = {"instruction_following": "INSTRUCTION_EDIT_FOLLOWING", "visual_quality": "INSTRUCTION_EDIT_QUALITY"}
    folder.mkdir(parents=True)
    lines = [f"{names[name]} = {text!r}\n" for name, text in cases["templates"].items() if name in names]
    (folder / "prompts.py").write_text("".join(lines))
    (folder / "data_collator_qwen_edit.py").write_text(f"prompt_with_special_token = {cases['reward_suffix']!r}\n")


@pytest.fixture
def workplace(tmp_path, hub, lora, monkeypatch):
    """A folder with the images, data and models that the pages name, as the working directory."""
    for number, name in enumerate(("cat", "a", "b", "c", "room", "chair", "source")):
        group = simulate_group(number, candidates=1)
        (group.source if name in ("cat", "room", "source") else group.candidates[0].image).save(
            tmp_path / f"{name}.png"
        )
    for name in ("configs", "checkpoints", "examples", "space"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "lora").symlink_to(lora)
    for name in ("bench", "annotated", "org/My-Edits"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(EXAMPLE)
    # The published model, as small as the golden one is.
    (tmp_path / "EditReward-Qwen2.5-VL-7B").symlink_to(GOLDEN / "checkpoint")
    (tmp_path / "Qwen").mkdir()
    (tmp_path / "Qwen" / "Qwen2.5-VL-7B-Instruct").symlink_to(GOLDEN / "base_model")
    for folder in ("dataset", "EditReward/EditReward/dataset"):
        prompts_file(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path


@pytest.fixture(scope="session")
def published_pairs(tmp_path_factory):
    """Four groups as published pairs, written by the export."""
    folder = tmp_path_factory.mktemp("published")
    write_groups(itertools.islice(load_groups(EXAMPLE, "train"), 4), folder / "groups")
    command = ["data", "export", str(folder / "groups"), "--format", "editreward-data", "--output"]
    assert main([*command, str(folder / "pairs")]) == 0
    return folder / "pairs"
