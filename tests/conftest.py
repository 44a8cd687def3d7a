"""Environment and fixtures shared by all tests."""

import gc
import os
from pathlib import Path
from typing import Any

# Tests never reach the network, nor do the processes that they start. Set before anything imports these libraries.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Several workers share the machine, and threads that wait for each other's cores are far slower than one.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

from editreward.statistics import resampling
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Inputs and outputs of the published implementation on tiny random weights."""
    return Path(__file__).parent / "golden"


def pytest_collection_finish() -> None:
    """What is imported now stays: the collections of garbage that trainers ask for need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics that are computed anew for each resample get 50 of them, for tests of all but intervals."""
    resampled = resampling._resampled

    def of_few(statistic: Any, index: Any, groups: int, samples: int, seed: int) -> Any:
        return resampled(statistic, index, groups, min(samples, 50), seed)

    monkeypatch.setattr(resampling, "_resampled", of_few)


@pytest.fixture(scope="session")
def random_model_dir(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of random weights, saved with its processor. Tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("model") / "random"
    torch.manual_seed(0)
    model = EditRewardModel.from_backbone(golden_dir / "base_model")
    with torch.no_grad():
        for mlp in model.heads.mlps:
            mlp[-1].weight.mul_(10)  # untrained heads hardly tell one input from another
    model.save_pretrained(folder)
    EditRewardProcessor.from_backbone(golden_dir / "base_model", pixels=112 * 112).save_pretrained(folder)
    return folder
