"""A saved model folder works on its own, as a folder and as a Hub repository, where this package does not exist."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.backbones import build, make_image, randomize

ROOT = Path(__file__).parents[2]
HUB_FILES = [f"{part}_editreward.py" for part in ("configuration", "images", "modeling", "pipeline", "processing")]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Runs in a process of its own: loads a model by name, scores a group, saves the model again.
SCORE = """
import importlib.abc, json, sys

PARTS = ("configuration", "images", "modeling", "pipeline", "processing")
MISSING = {"editreward", "backbones", *(f"{part}_editreward" for part in PARTS)}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Blocker())
name, inputs, again = sys.argv[1:]

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

config = AutoConfig.from_pretrained(name, trust_remote_code=True)
model = AutoModel.from_pretrained(name, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
assert not MISSING & set(sys.modules)
assert type(model.config) is type(config), "One module for all that is loaded."
group = json.load(open(inputs))
with torch.no_grad():
    output = model(**processor(**group))
pipe = pipeline("edit-reward", model=name, trust_remote_code=True, device="cpu")
assert not MISSING & set(sys.modules)
model.save_pretrained(again)
processor.save_pretrained(again)
result = {
    "classes": [f"{type(each).__module__}.{type(each).__name__}" for each in (config, model, processor)],
    "image_processor": type(processor.image_processor).__name__,
    "training": model.training,
    "scores": {field: output[field].tolist() for field in ("mean", "log_std", "reward", "reward_std")},
    "pipeline": pipe(group),
}
print("RESULT" + json.dumps(result))
"""


def save(kind: str, folder: Path) -> dict[str, list]:
    """Save a model with its processor, and a group's images beside it; return the group's scores."""
    model, processor = build(kind, seed=3)
    randomize(model.heads, seed=4)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    paths = [str(folder / f"{index}.png") for index in range(3)]
    for index, path in enumerate(paths):
        make_image(index, (60 + 20 * index, 50)).save(path)
    group: dict[str, Any] = {"source": paths[0], "edited": paths[1:], "instruction": "把帽子变红 <|im_end|>"}
    (folder / "inputs.json").write_text(json.dumps(group))
    with torch.no_grad():
        output = model(**processor(**group))
    return {field: output[field].tolist() for field in ("mean", "log_std", "reward", "reward_std")}


def score_elsewhere(name: str, folder: Path) -> dict[str, Any]:
    """Score the group of `folder` in a process that knows neither this package nor its folder."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_MODULES_CACHE": str(folder / "modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    command = [sys.executable, "-I", "-c", SCORE, name, str(folder / "inputs.json"), str(folder / "again")]
    process = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT"))


def assert_same_files(folder: Path, other: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        # transformers notes whether a tokenizer came from a folder.
        saved, again = (
            (each / name).read_bytes().replace(b'"is_local": false', b'"is_local": true') for each in (folder, other)
        )
        assert saved == again, name


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save("qwen2_5_vl", folder)
    return folder / "model"


def test_a_saved_folder_is_complete(saved):
    names = {path.name for path in saved.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", *HUB_FILES} <= names
    assert not {name for name in names if name.endswith((".bin", ".pkl", ".pt", ".pth"))}
    for name in HUB_FILES:
        assert (saved / name).read_bytes() == (ROOT / name).read_bytes()
    config = json.loads((saved / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_editreward.EditRewardConfig",
        "AutoModel": "modeling_editreward.EditRewardModel",
    }
    assert (config["model_type"], config["architectures"]) == ("editreward", ["EditRewardModel"])
    processor = json.loads((saved / "processor_config.json").read_text())
    assert processor["auto_map"]["AutoProcessor"] == "processing_editreward.EditRewardProcessor"


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def test_no_saved_file_tells_where_it_was_made(saved):
    for path in saved.iterdir():
        if path.name in HUB_FILES:
            continue
        assert str(saved.parent).encode() not in path.read_bytes(), path.name
        assert b"editreward-tests-" not in path.read_bytes(), f"{path.name} names the backbone's folder."
        if path.suffix == ".json" and path.name != "tokenizer.json":
            held = strings(json.loads(path.read_text()))
            assert not [text for text in held if Path(text).is_absolute() or "\\" in text], path.name


def test_a_saved_folder_scores_the_same_where_the_package_is_missing(tmp_path):
    expected = save("qwen2_5_vl", tmp_path)
    result = score_elsewhere(str(tmp_path / "model"), tmp_path)
    assert all(name.startswith("transformers_modules.") for name in result["classes"])
    assert [name.split(".")[-1] for name in result["classes"]] == [
        "EditRewardConfig",
        "EditRewardModel",
        "EditRewardProcessor",
    ]
    assert result["image_processor"] == "Qwen2VLImageProcessorPil"
    assert not result["training"]
    assert result["scores"] == expected
    assert [candidate["reward"] for candidate in result["pipeline"]["candidates"]] == expected["reward"]
    assert_same_files(tmp_path / "model", tmp_path / "again")


@pytest.mark.slow
def test_a_repository_of_the_hub_scores_the_same_where_the_package_is_missing(tmp_path):
    expected = save("qwen3_vl", tmp_path)
    repository = tmp_path / "hub" / "models--org--EditReward"
    shutil.copytree(tmp_path / "model", repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    model = (tmp_path / "model").rename(tmp_path / "moved")
    result = score_elsewhere("org/EditReward", tmp_path)
    assert all(name.startswith("transformers_modules.org.EditReward.") for name in result["classes"])
    assert result["image_processor"] == "Qwen2VLImageProcessorPil"
    assert result["scores"] == expected
    assert [candidate["reward"] for candidate in result["pipeline"]["candidates"]] == expected["reward"]
    assert_same_files(model, tmp_path / "again")


@pytest.mark.parametrize("name", HUB_FILES)
def test_a_hub_file_imports_only_what_transformers_users_have(name):
    installed = {"jinja2", "numpy", "PIL", "torch", "transformers", "safetensors"}  # jinja2 comes with torch
    hub_modules = {Path(other).stem for other in HUB_FILES}
    tree = ast.parse((ROOT / name).read_text())
    # Adapters load with peft. What is imported in a `try`, transformers doesn't ask users to install.
    optional = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in block.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or node.module in hub_modules
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            package = module.split(".")[0]
            if package == "peft" and id(node) in optional:
                continue
            assert package in installed | hub_modules | sys.stdlib_module_names, f"{name} imports {module}."
