"""What each of two processes does for `test_distributed.py`: DDP, FSDP2 and DeepSpeed ZeRO over gloo, on a CPU."""

import json
import os
import signal
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from editreward.training.safety import NonFiniteError
from editreward.training.sharding import whole_model
from modeling_editreward import RewardHeads
from tests.helpers.backbones import backbone_folder, build
from tests.helpers.trainers import make_row, make_trainer

# Groups of 2 to 4 candidates: the ranks' micro-batches hold different numbers of pairs.
ROWS = [make_row(index, [(4.0, 3.0), (2.0, 2.5), (1.0, 4.0), (3.0, 2.0)][: 2 + index % 3]) for index in range(10)]
for row in ROWS[::3]:
    row["candidates"][1]["rationale"] = "Because of the hat. " * len(row["candidates"])
RUN = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "max_steps": 4,
    "learning_rate": 5e-3,
    "adam_epsilon": 1e-5,  # with 1e-8, Adam goes a full step where rounding alone makes a gradient differ from 0
    "max_grad_norm": 0.5,
    "dimension_weight": 1.0,
    "rationale_weight": 0.3,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 2,
}
BF16_KINDS = ("qwen2_5_vl", "qwen3_vl")
# Only differences of rewards are trained, so that rounding alone moves the bias of the mean.
MEAN_BIAS = "5.bias"
FSDP = {"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}


def trainer_of_run(folder, kind="qwen2_5_vl", head_seed=0, **arguments):
    """A trainer that notes the groups of each micro-batch in `trainer.order`, and how many candidates it holds."""
    trainer = make_trainer(folder, ROWS, build(kind, head_dropout=0.0, seed=head_seed), **(RUN | arguments))
    trainer.order, trainer.candidates = [], []
    training_step = trainer.training_step

    def noting(model, inputs, *args):
        trainer.order.append(inputs["group_ids"])
        trainer.candidates.append(len(inputs["labels"]))
        return training_step(model, inputs, *args)

    trainer.training_step = noting
    return trainer


def report(trainer):
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    return {"order": trainer.order, "candidates": trainer.candidates, "losses": losses, "norms": norms}


def start_anew() -> None:
    """Let the next trainer make an accelerator of its own, on the processes that there are."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_CPU
    os.environ.pop("ACCELERATE_USE_FSDP", None)


def allow_fsdp_on_cpu() -> None:
    """accelerate ignores FSDP on a CPU, without a word, and runs DDP."""
    init = AcceleratorState.__init__

    def init_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)

    AcceleratorState.__init__ = init_with_fsdp


def allow_deepspeed_on_cpu() -> None:
    """accelerate takes processes under DeepSpeed without a GPU for single ones; DeepSpeed compiles what it can."""
    import deepspeed.comm.torch

    deepspeed.comm.torch.build_shm_op = lambda: None
    init = PartialState.__init__

    def init_with_deepspeed(self, *args, **kwargs):
        init(self, *args, **kwargs)
        rank = torch.distributed.get_rank()
        PartialState._shared_state.update(num_processes=2, process_index=rank, local_process_index=rank)
        PartialState._shared_state.update(backend="gloo", distributed_type=DistributedType.DEEPSPEED)
        self.__dict__.update(PartialState._shared_state)

    PartialState.__init__ = init_with_deepspeed


def units(model) -> list[str]:
    return sorted({type(module).__name__ for module in model.modules() if isinstance(module, FSDPModule)})


def fsdp_in_bfloat16(folder, kind) -> dict:
    """Types of what the heads see and give in a step."""
    trainer = trainer_of_run(folder, kind, max_steps=1, bf16=True, save_strategy="no", **FSDP)
    seen = {}
    heads = next(module for module in trainer.model.modules() if isinstance(module, RewardHeads))
    heads.mlps[0][0].register_forward_hook(
        lambda layer, inputs, output: seen.update(weight=str(layer.weight.dtype), output=str(output.dtype))
    )
    trainer.model.backbone.language_model.layers[0].mlp.register_forward_hook(
        lambda layer, inputs, output: seen.update(layer=str(output.dtype))
    )
    forward = trainer._forward

    def noting(*args):
        outputs, *rest = forward(*args)
        seen.update(reward=str(outputs.reward.dtype), mean=str(outputs.mean.dtype))
        return outputs, *rest

    trainer._forward = noting
    trainer.train()
    seen["master"] = sorted({str(parameter.dtype) for parameter in trainer.model.parameters()})
    return seen


def run_deepspeed(folder: Path, stage: int) -> None:
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    allow_deepspeed_on_cpu()
    backbone_folder("qwen2_5_vl")
    config = Path(__file__).parents[2] / "configs" / "accelerate" / f"deepspeed_zero{stage}.json"
    settings = {"use_cpu": False, "deepspeed": str(config)}
    trainer = trainer_of_run(folder / f"zero{stage}", **settings)
    trainer.train()
    found = {f"zero{stage}": report(trainer)}
    trainer.save_model()
    AcceleratorState._reset_state()
    with whole_model(trainer.args.deepspeed_plugin):
        trainer = trainer_of_run(folder / f"zero{stage}", head_seed=5, **settings)
    trainer.train(resume_from_checkpoint=str(folder / f"zero{stage}" / "checkpoint-2"))
    found[f"zero{stage} resumed"] = report(trainer)
    trainer.save_model(str(folder / f"zero{stage} resumed"))
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))


def main(folder: Path) -> None:
    rank, found = int(os.environ["RANK"]), {}
    for kind in BF16_KINDS:
        backbone_folder(kind)  # with a process group, only the first rank writes

    trainer = trainer_of_run(folder / "ddp")
    trainer.train()
    trainer.save_model()
    found["ddp"] = report(trainer) | {"wrapper": type(trainer.model_wrapped).__name__}

    # A rank that gets a loss that is not a number stops both.
    start_anew()
    trainer = trainer_of_run(folder / "nan", save_strategy="no")
    if rank == 1:
        trainer.model.heads.register_forward_hook(
            lambda heads, inputs, output: output * (float("nan") if len(trainer.order) == 3 else 1.0)
        )
    try:
        trainer.train()
    except NonFiniteError as error:
        found["nan"] = {"message": str(error), "order": trainer.order, "step": trainer.state.global_step}

    allow_fsdp_on_cpu()
    start_anew()
    trainer = trainer_of_run(folder / "fsdp2", **FSDP)
    trainer.train()
    found["fsdp2"] = report(trainer) | {
        "sharded": all(isinstance(parameter, DTensor) for parameter in trainer.model.parameters()),
        "units": units(trainer.model),
    }
    trainer.save_model()

    start_anew()
    trainer = trainer_of_run(folder / "fsdp2", head_seed=5, **FSDP)
    trainer.train(resume_from_checkpoint=str(folder / "fsdp2" / "checkpoint-2"))
    found["resumed"] = report(trainer)
    trainer.save_model(str(folder / "resumed"))

    for kind in BF16_KINDS:
        start_anew()
        found[f"bf16 {kind}"] = fsdp_in_bfloat16(folder / "bf16", kind)

    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()

    # Last, since it ends this process: a rank dies before it has saved its random state.
    start_anew()
    trainer = trainer_of_run(folder / "killed")
    if rank == 1:
        save = trainer._save_rng_state
        trainer._save_rng_state = lambda path: (
            os.kill(os.getpid(), signal.SIGKILL) if path.endswith("checkpoint-4") else save(path)
        )
    trainer.train()
