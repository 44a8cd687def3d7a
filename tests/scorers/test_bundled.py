"""The bundled tiny models: what is recorded beside them is true of them."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModel

from editreward import EditRewardScorer
from editreward.benchmarks.near_misses import NearMissSet
from editreward.benchmarks.simulated_test_set import TestSet, evaluate, judge
from editreward.dense_heads import DenseHeads
from editreward.hub_ids import PIPELINE_TAG
from editreward.simulation import simulate_groups
from modeling_editreward import EditRewardModel
from tests.helpers.backbones import build

ROOT = Path(__file__).parents[2]
REWARD_MODEL = ROOT / "checkpoints" / "editreward-tiny"
VLM = ROOT / "checkpoints" / "tiny-vlm"


@pytest.fixture(scope="module")
def scorer():
    return EditRewardScorer.from_pretrained()


@pytest.fixture(scope="module")
def recorded():
    return json.loads((REWARD_MODEL / "results.json").read_text())


def test_all_models_together_fit_into_forty_five_megabytes():
    files = [file for file in (ROOT / "checkpoints").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 45e6


@pytest.mark.parametrize("folder", [REWARD_MODEL, VLM])
def test_nothing_but_the_model_is_among_the_weights_that_loaders_read(folder):
    assert [file.name for file in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert DenseHeads.find(folder) is not None


def test_weights_are_in_bfloat16_and_the_heads_in_float32():
    weights = load_file(REWARD_MODEL / "model.safetensors")
    assert {name.split(".")[0]: weight.dtype for name, weight in weights.items()} == {
        "backbone": torch.bfloat16,
        "heads": torch.float32,
    }
    assert AutoModel.from_pretrained(VLM).dtype == torch.bfloat16


def test_the_default_scorer_is_calibrated_and_says_what_it_knows(scorer):
    assert scorer.model.config.calibration is not None
    assert any("simulated scenes" in note for note in scorer.notes)


@pytest.mark.parametrize(
    ("results", "test_set"),
    [("results.json", "simulated_test_set.json"), ("results_collage.json", "collage_test_set.json")],
)
def test_recorded_results_are_of_the_committed_test_sets(results, test_set):
    found = json.loads((REWARD_MODEL / results).read_text(encoding="utf-8"))
    assert found["test_set"] == vars(TestSet.from_json(ROOT / "configs" / test_set))


def test_the_card_tells_the_hub_what_was_recorded(recorded):
    data = ModelCard.load(REWARD_MODEL / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", PIPELINE_TAG, "apache-2.0")
    told = {each.metric_name.removeprefix("pairs ranked right, "): each.metric_value for each in data.eval_results}
    recorded = {name: recorded[name]["accuracy"]["value"] for name in recorded["shuffled_instructions"]}
    assert told == {name.replace("_", " "): round(value, 4) for name, value in recorded.items()}, (
        "research/evaluate_simulated.py writes them into the card"
    )


@pytest.mark.parametrize(("world", "file"), [("shapes", "results.json"), ("collage", "results_collage.json")])
def test_the_model_is_as_accurate_as_recorded(scorer, world, file):
    # On part of the test set, so within the sampling error of that part: three standard errors of a share of groups.
    recorded = json.loads((REWARD_MODEL / file).read_text(encoding="utf-8"))
    groups = list(simulate_groups(40, "test", world=world))
    result = evaluate(judge(scorer, groups), groups)
    for name in ("overall", *scorer.model.config.dimensions):
        full, part = recorded[name]["accuracy"], result[name]["accuracy"]
        standard_error = (full["high"] - full["low"]) / 3.92 * (recorded["groups"] / len(groups)) ** 0.5
        assert abs(part["value"] - full["value"]) < 3 * standard_error, name


@pytest.mark.parametrize("name", ["near_misses.json", "collage_near_misses.json"])
def test_near_misses_of_both_worlds_are_recorded(name):
    stem = "near_misses" if name == "near_misses.json" else "near_misses_collage"
    found = json.loads((REWARD_MODEL / f"{stem}.json").read_text(encoding="utf-8"))
    pairs = NearMissSet.from_json(ROOT / "configs" / name).pairs
    assert {found[score]["all"]["all"]["total"] for score in found} == {pairs}


def test_the_bundled_code_files_are_those_of_the_repository():
    for name in (f"{part}_editreward.py" for part in ("configuration", "modeling", "pipeline", "processing")):
        assert (REWARD_MODEL / name).read_bytes() == (ROOT / name).read_bytes(), f"copy {name} to {REWARD_MODEL}"


def test_averaging_weights_is_what_numpy_makes_of_them(tmp_path: Path) -> None:
    models = []
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        model, processor = build()
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        models.append({key: value.numpy() for key, value in model.state_dict().items()})
    (tmp_path / "b" / "trainer_state.json").write_text('{"global_step": 3, "log_history": []}')
    spec = importlib.util.spec_from_file_location("average_models", ROOT / "research" / "average_models.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.average([tmp_path / "a", tmp_path / "b"], [1.0, 3.0], tmp_path / "mean")
    found = EditRewardModel.from_pretrained(tmp_path / "mean").state_dict()
    for name, value in found.items():
        np.testing.assert_allclose(value, 0.25 * models[0][name] + 0.75 * models[1][name], atol=1e-6)
    assert (tmp_path / "mean" / "trainer_state.json").exists()
    with pytest.raises(ValueError, match="needs a positive weight"):
        script.average([tmp_path / "a"], [0.0], tmp_path / "no")
