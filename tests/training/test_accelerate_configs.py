"""The configurations for `accelerate launch`: read by accelerate's own code, as far as a machine without GPUs goes."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin, is_deepspeed_available
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers.integrations import deepspeed as transformers_deepspeed

from editreward.training.sharding import configure_deepspeed, configure_fsdp
from tests.helpers.backbones import backbone_folder, build
from tests.helpers.trainers import make_arguments

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "accelerate"
KINDS = {
    "one_gpu": DistributedType.NO,
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "multi_node": DistributedType.FSDP,
    "deepspeed_zero2": DistributedType.DEEPSPEED,
    "deepspeed_zero3": DistributedType.DEEPSPEED,
}


def command_of(path: Path) -> list[str]:
    """The command in the comment that a configuration opens with."""
    comment = [line.lstrip("# ").rstrip("\\\n ") for line in path.open() if line.startswith("#")]
    start = next(i for i, line in enumerate(comment) if line.startswith("accelerate launch"))
    end = next(i for i, line in enumerate(comment) if line.endswith("--config ..."))
    return shlex.split(" ".join(comment[start : end + 1]))


def launched(name: str, monkeypatch):
    """Arguments of `accelerate launch` under a configuration; the environment is set as it sets its processes'."""
    monkeypatch.chdir(ROOT)
    command = command_of(FOLDER / f"{name}.yaml")
    arguments, defaults, has_precision = _validate_launch_command(launch_command_parser().parse_args(command[2:]))
    # As `launch_command` goes on.
    fields = [*defaults.deepspeed_config, *(["mixed_precision"] if has_precision else [])]
    arguments.deepspeed_fields_from_accelerate_config = ",".join(fields)
    if arguments.use_deepspeed:
        _, environment = prepare_deepspeed_cmd_env(arguments)
    else:
        environment = prepare_multi_gpu_env(arguments)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return arguments


def test_every_configuration_is_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_every_key(name):
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig) and config.distributed_type == KINDS[name]
    keys = yaml.safe_load(path.read_text())
    known = {action.dest for action in launch_command_parser()._actions}
    for part in ("fsdp_config", "deepspeed_config"):
        assert set(keys.get(part, {})) <= known
    # `--bf16` decides; here it would contradict it, and accelerate refuses it beside a DeepSpeed file.
    assert "mixed_precision" not in keys


@pytest.mark.parametrize("name", KINDS)
def test_the_command_in_the_comment_launches_with_this_configuration(name, monkeypatch):
    command = command_of(FOLDER / f"{name}.yaml")
    assert command[:4] == ["accelerate", "launch", "--config_file", f"configs/accelerate/{name}.yaml"]
    arguments = launched(name, monkeypatch)
    assert arguments.training_script == "train_trl.py" and arguments.training_script_args == ["--config", "..."]
    assert arguments.num_processes == {"one_gpu": 1, "multi_node": 16}.get(name, 8)
    assert (arguments.use_fsdp, arguments.use_deepspeed) == (name in ("fsdp2", "multi_node"), "deepspeed" in name)
    assert arguments.multi_gpu == (name == "ddp")
    if name == "multi_node":
        assert (arguments.num_machines, arguments.machine_rank, arguments.main_process_ip) == (2, 0, "10.0.0.1")


# FSDP2


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("name", ["fsdp2", "multi_node"])
def test_fsdp_units_are_the_layers_of_both_towers_and_the_heads(name, kind, monkeypatch):
    launched(name, monkeypatch)
    plugin = FullyShardedDataParallelPlugin()
    configure_fsdp(plugin, "no")
    assert plugin.mixed_precision_policy is None and plugin.reshard_after_forward is True
    model, _ = build(kind)
    plugin.set_auto_wrap_policy(model)
    is_unit = fsdp2_prepare_auto_wrap_policy(plugin, model)
    units = [module for module in model.modules() if is_unit(module)]
    assert set(map(id, units)) == {
        id(module) for module in (*model.backbone.language_model.layers, *model.backbone.visual.blocks, model.heads)
    }


def test_fsdp_reduces_gradients_and_returns_scores_in_float32(monkeypatch):
    launched("fsdp2", monkeypatch)
    plugin = FullyShardedDataParallelPlugin()
    configure_fsdp(plugin, "bf16")
    policy = plugin.mixed_precision_policy
    assert isinstance(policy, MixedPrecisionPolicy)
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)


@pytest.mark.parametrize(
    "setting, value, message",
    [("fsdp_version", 1, "fsdp_version: 2"), ("cpu_ram_efficient_loading", True, "set it to false")],
)
def test_fsdp_settings_that_do_not_work_here_are_refused(setting, value, message, monkeypatch):
    launched("fsdp2", monkeypatch)
    plugin = FullyShardedDataParallelPlugin()
    setattr(plugin, setting, value)
    with pytest.raises(ValueError, match=message):
        configure_fsdp(plugin, "bf16")


# DeepSpeed


class TrainerConfig(transformers_deepspeed.HfTrainerDeepSpeedConfig, HfDeepSpeedConfig):
    """transformers' own, with the base class that it has where DeepSpeed is installed."""


def values(config):
    for value in config.values():
        yield from values(value) if isinstance(value, dict) else [value]


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_values_are_filled_in_from_the_arguments_and_the_model(tmp_path, stage, bf16, monkeypatch):
    launched(f"deepspeed_zero{stage}", monkeypatch)
    plugin = DeepSpeedPlugin()
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setattr(transformers_deepspeed, "dep_version_check", lambda name: None)
    arguments = make_arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=4, bf16=bf16)
    model, _ = build()
    try:
        # As transformers' Trainer does it.
        plugin.set_mixed_precision("bf16" if bf16 else "no")
        plugin.hf_ds_config = TrainerConfig(plugin.hf_ds_config.config)
        plugin.deepspeed_config = plugin.hf_ds_config.config
        plugin.hf_ds_config.trainer_config_process(arguments)
        configure_deepspeed(plugin, arguments)
        plugin.hf_ds_config.trainer_config_finalize(arguments, model, num_training_steps=100)
    finally:
        transformers_deepspeed.unset_hf_deepspeed_config()

    config = plugin.deepspeed_config
    assert "auto" not in values(config)
    assert config["train_micro_batch_size_per_gpu"] == 3 and config["gradient_accumulation_steps"] == 4
    assert config["gradient_clipping"] == arguments.max_grad_norm
    zero, width = config["zero_optimization"], model.config.get_text_config().hidden_size
    assert zero["stage"] == stage and zero["reduce_bucket_size"] == width**2 == 64**2
    if stage == 3:
        assert zero["stage3_prefetch_bucket_size"] == int(0.9 * width**2)
        assert zero["stage3_param_persistence_threshold"] == 10 * width
        assert zero["stage3_gather_16bit_weights_on_model_save"] is True
    # The weights stay in float32, under autocast.
    assert config.get("torch_autocast") == ({"enabled": True, "dtype": "bfloat16"} if bf16 else None)
    assert not config.get("bf16", {}).get("enabled") and plugin.hf_ds_config.dtype() == torch.float32


# On GPUs


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name != "multi_node"])
def test_two_steps_on_gpus(tmp_path, name):
    needed = 1 if name == "one_gpu" else 2
    if torch.cuda.device_count() < needed:
        pytest.skip(f"needs {needed} GPU(s)")
    if "deepspeed" in name and not is_deepspeed_available():
        pytest.skip("needs DeepSpeed")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / f"{name}.yaml")]
    command += ["--num_processes", str(needed), str(ROOT / "train_trl.py"), "--dataset_name=simulated"]
    command += [f"--model_name_or_path={backbone_folder('qwen2_5_vl')}", "--simulated_train_groups=8", "--max_steps=2"]
    command += ["--pixels=3136", "--simulated_image_size=84", "--report_to=none", f"--output_dir={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (tmp_path / "model.safetensors").exists()
