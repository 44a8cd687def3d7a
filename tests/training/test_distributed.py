"""Two processes against one: DDP, FSDP2 and DeepSpeed over gloo; `distributed_run.py` is what the processes do."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.utils import is_deepspeed_available
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from editreward.training.checkpoints import INCOMPLETE
from tests.helpers import distributed_run
from tests.helpers.distributed_run import MEAN_BIAS, ROWS, report, trainer_of_run
from tests.helpers.processes import errors_of, run_ranks

pytestmark = pytest.mark.slow


def run_two(folder: Path, run: Callable[..., None], *arguments: object) -> tuple[Path, list[dict], list[int | None]]:
    """Call a function of `distributed_run.py` in two processes: the folder, what each found, and their exit codes."""
    codes = run_ranks(run, folder, *arguments, folder=folder, timeout=1200)
    found = [folder / f"rank{rank}.json" for rank in range(2)]
    assert all(path.exists() for path in found), errors_of(folder)
    return folder, [json.loads(path.read_text()) for path in found], codes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return run_two(tmp_path_factory.mktemp("runs"), distributed_run.main)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The same run in this process: a micro-batch holds the groups of both ranks."""
    trainer = trainer_of_run(tmp_path_factory.mktemp("one"), per_device_train_batch_size=2)
    trainer.train()
    trainer.save_model()
    return Path(trainer.args.output_dir), report(trainer)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_data_order_is_that_of_one_process_and_groups_stay_whole(runs, one_process, kind):
    _, ranks, _ = runs
    _, expected = one_process
    together = [first + second for first, second in zip(*(rank[kind]["order"] for rank in ranks), strict=True)]
    assert together == expected["order"] and len(together) == 7  # 5 micro-batches make an epoch
    sizes = {row["group_id"]: len(row["candidates"]) for row in ROWS}
    for rank in ranks:
        for groups, candidates in zip(rank[kind]["order"], rank[kind]["candidates"], strict=True):
            assert candidates == sum(sizes[group] for group in groups)
    assert sorted(sum(together[:5], [])) == sorted(sizes)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "resumed"])
def test_loss_and_gradient_norm_are_those_of_one_process_at_every_step(runs, one_process, kind):
    _, ranks, _ = runs
    _, expected = one_process
    for rank in ranks:
        assert rank[kind]["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        assert rank[kind]["norms"] == pytest.approx(expected["norms"], rel=1e-4)


def assert_same_model(alone: Path, other: Path, start: dict[str, torch.Tensor]) -> None:
    """Equal weights and scores, up to rounding that is small beside what training changed."""
    expected, weights = (load_file(of / "model.safetensors") for of in (alone, other))
    assert set(weights) == set(expected) == set(start)
    for name, value in expected.items():
        part = slice(1, None) if name.endswith(MEAN_BIAS) else slice(None)
        difference, step = (weights[name] - value)[part].norm(), (value - start[name])[part].norm()
        assert difference <= 1e-4 * value[part].norm() and difference <= 1e-3 * step, name

    processor = AutoProcessor.from_pretrained(alone, trust_remote_code=True)
    edited = [[candidate["image"] for candidate in row["candidates"]] for row in ROWS]
    inputs = processor([row["source_images"][0] for row in ROWS], edited, [row["instruction"] for row in ROWS])
    outputs = []
    for of in (alone, other):
        model = AutoModel.from_pretrained(of, trust_remote_code=True)
        with torch.no_grad():
            outputs.append(model(**inputs))
    one, two = outputs
    assert torch.allclose(one.mean - one.mean.mean(0), two.mean - two.mean.mean(0), atol=1e-4)
    assert torch.allclose(one.log_std, two.log_std, atol=1e-4) and one.mean.std() > 1e-2


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "resumed"])
def test_final_weights_and_scores_are_those_of_one_process(runs, one_process, kind):
    folder, _, _ = runs
    alone, _ = one_process
    assert_same_model(alone, folder / kind, trainer_of_run(folder / "start").model.state_dict())


@pytest.mark.skipif(not is_deepspeed_available(), reason="needs DeepSpeed: pip install deepspeed")
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gives_the_losses_weights_and_scores_of_one_process_and_resumes(tmp_path, one_process, stage):
    alone, expected = one_process
    _, ranks, _ = run_two(tmp_path, distributed_run.run_deepspeed, stage)
    start = trainer_of_run(tmp_path / "start").model.state_dict()
    for kind in (f"zero{stage}", f"zero{stage} resumed"):
        for rank in ranks:
            assert rank[kind]["losses"] == pytest.approx(expected["losses"], rel=1e-5)
            assert rank[kind]["norms"] == pytest.approx(expected["norms"], rel=1e-4)
        assert_same_model(alone, tmp_path / kind, start)


def test_every_parameter_is_sharded_and_the_heads_are_a_unit_of_their_own(runs):
    for rank in runs[1]:
        assert rank["ddp"]["wrapper"] == "DistributedDataParallel"
        assert rank["fsdp2"]["sharded"]
        units = {"FSDPEmbedding", "FSDPQwen2_5_VLDecoderLayer", "FSDPQwen2_5_VLVisionBlock", "FSDPRewardHeads"}
        assert units < set(rank["fsdp2"]["units"])


def test_every_checkpoint_of_a_sharded_run_loads_as_one_model(runs):
    folder, _, _ = runs
    final = load_file(folder / "fsdp2" / "model.safetensors")
    for step in (2, 4):
        checkpoint = folder / "fsdp2" / f"checkpoint-{step}"
        model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True)
        assert model.config.architectures == ["EditRewardModel"]
        assert {path.name for path in checkpoint.glob("rng_state_*")} == {"rng_state_0.pth", "rng_state_1.pth"}
        same = [torch.equal(value, final[name]) for name, value in model.state_dict().items()]
        assert all(same) == (step == 4)


@pytest.mark.parametrize("backbone", ["qwen2_5_vl", "qwen3_vl"])
def test_sharded_training_in_bfloat16_keeps_heads_scores_and_master_weights_in_float32(runs, backbone):
    for rank in runs[1]:
        assert rank[f"bf16 {backbone}"] == {
            "layer": "torch.bfloat16",
            "weight": "torch.float32",
            "output": "torch.float32",
            "mean": "torch.float32",
            "reward": "torch.float32",
            "master": ["torch.float32"],
        }


def test_a_loss_that_is_not_finite_on_one_rank_stops_both_with_its_groups(runs):
    _, ranks, _ = runs
    (culprit,) = ranks[1]["nan"]["order"][2]
    for rank in ranks:
        assert rank["nan"]["step"] == 1 and len(rank["nan"]["order"]) == 4
        assert (
            f"loss of step 2 is not finite: nan on rank 1, micro-batch 1, of the groups {culprit}."
            in (rank["nan"]["message"])
        )


def test_a_save_in_which_a_rank_is_killed_leaves_no_checkpoint(runs):
    folder, _, codes = runs
    assert codes[0] > 0 and codes[1] == -signal.SIGKILL
    assert (folder / "killed" / INCOMPLETE / "checkpoint-4" / "model.safetensors").exists()
    assert [path.name for path in (folder / "killed").glob("checkpoint-*")] == ["checkpoint-2"]
