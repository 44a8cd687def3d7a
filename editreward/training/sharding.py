"""What a reward model needs of sharded training (FSDP2, DeepSpeed ZeRO) beyond accelerate's defaults."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from editreward.training.arguments import EditRewardTrainingArguments
from modeling_editreward import RewardHeads


def configure_fsdp(plugin: FullyShardedDataParallelPlugin, mixed_precision: str) -> None:
    """Check accelerate's FSDP plugin, and have it reduce gradients and return scores in float32.

    Under its own policy for bfloat16 the scores would come back with 8 bits, too few to tell similar edits apart.

    Raises:
        ValueError: For settings that do not work with this model, with what to write instead.
    """
    if plugin.fsdp_version != 2:
        raise ValueError("FSDP 1 cannot train float32 heads on another backbone; set `fsdp_version: 2`.")
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "`fsdp_cpu_ram_efficient_loading` gives all ranks but the first a model without weights, on which a "
            "reward model cannot be built; set it to false."
        )
    if mixed_precision == "bf16":
        # Inputs are cast by the layers themselves, which keep the vision tower's rotary angles in float32.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )


@contextmanager
def whole_model(plugin: DeepSpeedPlugin | None) -> Iterator[None]:
    """Load a model whole, although DeepSpeed will share it.

    Under ZeRO-3 transformers makes every part in shards, on which a reward model cannot be built; accelerate 1.15 has
    it do so whatever `zero3_init_flag` says.
    """
    if plugin is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(plugin.hf_ds_config)


def configure_deepspeed(plugin: DeepSpeedPlugin, args: EditRewardTrainingArguments) -> None:
    """Have DeepSpeed train float32 weights under autocast where it would turn all of them, heads too, into bfloat16.

    With its own `bf16` it keeps float32 copies in the optimizer only: scores would have 8 bits, and checkpoints lose
    updates that are smaller than that.
    """
    config = plugin.deepspeed_config
    if args.bf16 and "torch_autocast" not in config:
        del config["bf16"]
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        plugin.hf_ds_config.trainer_config_process(args)  # which then leaves inputs in float32


def finish_fsdp(model: nn.Module) -> None:
    """Keep the heads of a sharded model in float32, and give it back the name that it is saved under."""
    for module in model.modules():
        if isinstance(module, RewardHeads) and isinstance(module, FSDPModule):
            # accelerate gives all units one policy, and torch has no setter; it is read in the first forward pass.
            state = module._get_fsdp_state()
            state._mp_policy = MixedPrecisionPolicy()
            if state._fsdp_param_group is not None:
                state._fsdp_param_group.mp_policy = state._mp_policy
    # Saving a model copies the file of its class and notes the class's name; here that would be those of FSDP's own.
    sharded = type(model)
    original = sharded.__mro__[2]
    sharded.__name__, sharded.__module__ = original.__name__, original.__module__
