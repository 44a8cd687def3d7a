"""Estimate the memory that recipes take on each GPU, as Markdown; `editreward.training.memory` has the formula.

    python research/recipe_memory.py configs/paper.yaml configs/groups.yaml configs/lora_24gb.yaml

Sequences are those of groups of 7 edits (2 with `split_into_pairs`) at 448 x 448 pixels, with the numbers of tokens
that Qwen's tokenizer gives the default prompts and an instruction of 18 tokens.
"""

import editreward.scripts

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig

from configuration_editreward import EditRewardConfig
from editreward.training.memory import GIB, training_memory

BACKBONES = Path(__file__).parent.parent / "configs" / "backbones"
PIXELS = 448 * 448
GROUP_SIZE = 7
TURN_TOKENS = 16  # system turn and what opens the user's
INSTRUCTION_TOKENS = 18
COMPACT_TOKENS = 77  # rubric
PAPER_TOKENS = 372 + 349  # both rubrics
END_TOKENS = 9  # a reward token, and what closes the user's turn and opens the assistant's


def load_config(file: Path) -> EditRewardConfig:
    """Configuration of an EditReward model on one of the published backbones."""
    shape = json.loads(file.read_text(encoding="utf-8"))
    return EditRewardConfig(backbone_config=AutoConfig.for_model(shape.pop("model_type"), **shape))


def batch_size(recipe: dict[str, Any], config: EditRewardConfig) -> tuple[int, int]:
    """Tokens and image patches of a micro-batch."""
    vision = config.backbone_config.vision_config
    patches = PIXELS // vision.patch_size**2
    image_tokens = patches // vision.spatial_merge_size**2 + 2
    candidates = 2 if recipe.get("split_into_pairs") else GROUP_SIZE
    dimensions = len(config.dimensions)
    if recipe.get("layout") == "paper":
        prompts = PAPER_TOKENS + dimensions * (INSTRUCTION_TOKENS + END_TOKENS)
        tokens = TURN_TOKENS + image_tokens + candidates * (image_tokens + prompts)
    else:
        root = TURN_TOKENS + COMPACT_TOKENS + INSTRUCTION_TOKENS + image_tokens
        tokens = root + candidates * (image_tokens + dimensions + END_TOKENS)
    groups = recipe["per_device_train_batch_size"]
    return groups * tokens, groups * (candidates + 1) * patches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE", help="YAML file of options of train_trl.py")
    parser.add_argument("--devices", type=int, default=8, help="GPUs that share a full fine-tuning (%(default)s)")
    args = parser.parse_args()
    print(
        "| recipe | backbone | tokens | sharding | weights, gradients, optimizer | activations | total, GiB per GPU |"
    )
    print("|---|---|---|---|---|---|---|")
    for file in args.recipes:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
        adapters = bool(recipe.get("use_peft"))
        for shape in sorted(BACKBONES.glob("*.json")):
            config = load_config(shape)
            tokens, patches = batch_size(recipe, config)
            for sharding in ["none"] if adapters else ["full", "zero2"]:
                memory = training_memory(
                    config,
                    tokens=tokens,
                    patches=patches,
                    adapter_rank=recipe["lora_r"] if adapters else None,
                    quantised=bool(recipe.get("load_in_4bit")),
                    gradient_checkpointing=recipe.get("activation_checkpointing", True),
                    sharding=sharding,
                    devices=args.devices,
                )
                states = memory.weights + memory.gradients + memory.optimizer + memory.copies
                name = {
                    "none": "one GPU",
                    "full": f"FSDP, {args.devices} GPUs",
                    "zero2": f"ZeRO-2, {args.devices} GPUs",
                }
                print(
                    f"| {file.stem} | {shape.stem} | {tokens:,} | {name[sharding]} | {states / GIB:.1f} "
                    f"| {memory.activations / GIB:.1f} | {memory.total / GIB:.0f} |"
                )


if __name__ == "__main__":
    main()
