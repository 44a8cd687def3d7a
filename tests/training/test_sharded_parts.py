"""Reward tokens that are trained apart from the embedding matrix, sharded over two processes (FSDP2 over gloo)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from editreward.training.parameters import RewardTokenEmbedding
from tests.helpers.distributed_run import FSDP, MEAN_BIAS, allow_fsdp_on_cpu, trainer_of_run
from tests.helpers.processes import errors_of, run_ranks

pytestmark = pytest.mark.slow

PARTS = {"freeze": ["token_embeddings"], "reward_tokens_learning_rate": 2e-2}


def main(folder: Path) -> None:
    """What each of the two processes does."""
    allow_fsdp_on_cpu()
    trainer = trainer_of_run(folder, **PARTS, **FSDP)
    trainer.train()
    assert isinstance(trainer.model.get_input_embeddings().reward_tokens, DTensor)
    trainer.save_model()


def test_trained_reward_tokens_of_a_sharded_model_are_saved_within_the_matrix(tmp_path):
    assert run_ranks(main, tmp_path / "two", folder=tmp_path) == [0, 0], errors_of(tmp_path)
    trainer = trainer_of_run(tmp_path / "one", per_device_train_batch_size=2, **PARTS)
    embedding = trainer.model.get_input_embeddings()
    assert isinstance(embedding, RewardTokenEmbedding)
    start = embedding.weight.detach().clone()
    trainer.train()
    trainer.save_model()
    expected = load_file(tmp_path / "one" / "model.safetensors")
    name = next(name for name in expected if name.endswith("embed_tokens.weight"))
    for saved in ("model.safetensors", "checkpoint-4/model.safetensors"):
        found = load_file(tmp_path / "two" / saved)
        assert set(found) == set(expected)
        for key, value in expected.items():
            part = slice(1, None) if key.endswith(MEAN_BIAS) else slice(None)
            assert (found[key] - value)[part].norm() <= 1e-4 * value[part].norm(), key
        moved = (found[name] - start).norm(dim=-1).nonzero().flatten().tolist()
        assert moved == sorted(embedding.token_ids.tolist())
        step = expected[name] - start
        assert (found[name] - expected[name]).norm() <= 1e-3 * step.norm() and torch.isfinite(step).all()
