"""`editreward env`: what a bug report needs to know of this machine."""

import argparse
import json
import os
import platform
import sys
from importlib.util import find_spec

from editreward import __version__
from editreward.cli.commands import Commands

PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "numpy", "pillow"),
    *("accelerate", "datasets", "peft", "trl", "bitsandbytes", "torchao", "deepspeed", "flash-attn", "gradio"),
)
VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables that change what happens and tell nothing private. Others are not shown."""


def add_env(commands: Commands) -> None:
    """Declare `editreward env`."""
    parser = commands.add_parser(
        "env",
        help="versions, devices and attention backends, for bug reports",
        description="Print versions, devices and attention backends, to paste into a bug report. It shows no paths, "
        "names or tokens.",
        epilog="Example: editreward env --json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_env)


def run_env(args: argparse.Namespace) -> None:
    """Print what `environment` finds."""
    found = environment()
    if args.json:
        print(json.dumps(found, indent=2))
        return
    width = max(len(name) for section in found.values() for name in section)
    for title, section in found.items():
        print(title)
        for name, value in section.items():
            print(f"  {name.ljust(width)}  {value}")


def environment() -> dict[str, dict[str, str]]:
    """Sections of names and values: what is installed, the devices, the attention backends, the settings, problems."""
    from editreward.compatibility import installed_version, known_faults

    problems = known_faults()
    return {
        "versions": {
            "editreward": __version__,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
            **{package: installed_version(package) or "not installed" for package in PACKAGES},
        },
        "devices": _devices(),
        "attention": _attention(),
        "settings": {name: os.environ.get(name, "not set") for name in VARIABLES},
        **({"problems": problems} if problems else {}),
    }


def _devices() -> dict[str, str]:
    import torch

    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    devices = {"cpu": f"{cores} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            of_device = torch.cuda.get_device_properties(index)
            bfloat16 = "" if torch.cuda.is_bf16_supported() else "out"
            devices[f"cuda:{index}"] = (
                f"{of_device.name}, {of_device.total_memory / 2**30:.1f} GiB, compute capability "
                f"{of_device.major}.{of_device.minor}, with{bfloat16} bfloat16"
            )
        devices["cuda"] = f"runtime {torch.version.cuda or torch.version.hip}"
    else:
        devices["cuda"] = "not available" + ("" if torch.version.cuda else " (PyTorch was built without it)")
    devices["mps"] = "available" if torch.backends.mps.is_available() else "not available"
    return devices


def _attention() -> dict[str, str]:
    import torch

    on_gpu = torch.cuda.is_available()
    flash = find_spec("flash_attn") is not None
    return {
        "sdpa": "available",
        "eager": "available",
        "flex_attention": "available" if on_gpu else "forward only: on a CPU it has no backward pass",
        "flash_attention_2": "available" if flash and on_gpu else f"needs {'a GPU' if flash else 'flash-attn'}",
        "triton": "installed" if find_spec("triton") else f"not installed ({sys.platform})",
    }
