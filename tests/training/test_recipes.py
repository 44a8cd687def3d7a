"""Every recipe of configs/ is parsed and run for two steps, on a tiny backbone of each family."""

import json
from pathlib import Path

import pytest
import yaml

from editreward.data.storage import write_groups
from editreward.simulation import simulate_groups
from editreward.training import script
from modeling_editreward import EditRewardModel
from tests.helpers.backbones import KINDS, backbone_folder

ROOT = Path(__file__).parents[2]
RECIPES = ("paper", "published", "groups", "lora_80gb", "lora_24gb", "tiny")


@pytest.fixture(scope="module")
def groups(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    write_groups((group.to_row() for group in simulate_groups(4, "train", candidates=3, size=84)), folder)
    return folder


@pytest.mark.parametrize(
    "kind", [kind if kind == "qwen2_5_vl" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
@pytest.mark.parametrize(
    "name",
    [name if name in ("published", "lora_24gb") else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES],
)
def test_a_recipe_trains_a_backbone_of_each_family(name, kind, groups, tmp_path):
    recipe = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    for option in ("dataset_format", "dataset_train_split", "dataset_test_split"):
        recipe.pop(option, None)
    recipe |= {
        "model_name_or_path": str(backbone_folder(kind)),
        "dataset_name": str(groups),
        "dataset_test_split": "train",
        "dense_weight": 0.0,  # the backbone has no dense heads, the groups no truth: tests/training/test_dense.py
        "pixels": 3136,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 2,
        "output_dir": str(tmp_path / "run"),
        # What the machine of the tests lacks.
        "use_cpu": True,
        "dataloader_num_workers": 0,
        "dataloader_persistent_workers": False,
        "report_to": "none",
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    script.main(["--config", str(file)])

    log = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "pair_loss" in entry] == [1, 2]
    model = EditRewardModel.from_pretrained(tmp_path / "run")
    for option in ("layout", "position_scheme", "uncertainty_aggregation"):
        assert getattr(model.config, option) == recipe.get(option, getattr(model.config, option))
    assert (tmp_path / "run" / "adapter_config.json").exists() == recipe.get("use_peft", False)
