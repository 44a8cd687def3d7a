r"""
Train an image editor: imitate edits (sft), prefer better ones (dpo), or reinforce what a reward likes (grpo, nft).

The tiny editor on simulated instructions, on a laptop, with the bundled reward model:

    accelerate launch -m editreward.editors.train --stage grpo --dataset_limit 2000 --output_dir runs/editor

FLUX.1 Kontext with LoRA on a GPU of 80 GB, with the reward on a server:

    accelerate launch -m editreward.editors.train --config configs/editors/flux_kontext_grpo.yaml \
        --dataset_name path/to/instructions --reward http://127.0.0.1:8000
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers import DiffusionPipeline
from transformers import set_seed
from trl import TrlParser

from editreward.editors.adapters import adapter_for
from editreward.editors.arguments import ONLINE_STAGES, EditorScriptArguments, EditorTrainingArguments
from editreward.editors.editors import pipeline_class
from editreward.editors.instructions import SourceRow
from editreward.editors.online import Grpo, Nft
from editreward.editors.reward_source import RewardSource, TrueReward, reward_source
from editreward.editors.stages import Dpo, Sft
from editreward.editors.trainer import EditorTrainer, Stage
from editreward.editors.training_data import first_rows, groups_of, instructions_of, pairs, triples
from editreward.files import alone_at
from editreward.resources import resource
from editreward.training.script_help import check_config, run_script

BUNDLED = "checkpoints/tiny-editor"


def load_pipeline(script: EditorScriptArguments, device: torch.device) -> DiffusionPipeline:
    """The pipeline to train.

    Raises:
        ValueError: there is none of that name, or the checkpoint cannot be loaded.
    """
    checkpoint = script.model_name_or_path or _bundled()
    dtype = script.dtype or ("float32" if device.type == "cpu" else "bfloat16")
    kind = pipeline_class(script.pipeline)
    try:
        pipeline = kind.from_pretrained(checkpoint, torch_dtype=getattr(torch, dtype), revision=script.model_revision)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"`--model_name_or_path {checkpoint}` is no {script.pipeline} that loads: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _bundled() -> str:
    try:
        return str(resource(BUNDLED))
    except FileNotFoundError as error:
        raise ValueError(
            f"There is no {BUNDLED} here: train a tiny editor (docs/editors.md) and give its folder as "
            "`--model_name_or_path`."
        ) from error


def stage_of(script: EditorScriptArguments, args: EditorTrainingArguments) -> tuple[Stage, Sequence[SourceRow]]:
    """The stage with its data, and the rows for sample grids."""

    def reward() -> RewardSource:
        return reward_source(
            script.reward, script.reward_shaping, script.reward_token_file, script.guard, script.reward_check
        )

    online: dict[str, type[Grpo | Nft]] = {"grpo": Grpo, "nft": Nft}
    if script.stage in ONLINE_STAGES:
        if script.stage == "grpo":
            args.check_sampler()
        instructions = instructions_of(script)
        truth = TrueReward() if args.watch_truth else None
        rows = first_rows(instructions, args.sample_rows)
        return online[script.stage](instructions.read, len(instructions.ids), reward(), truth), rows
    groups = groups_of(script)
    rows = first_rows(instructions_of(script), args.sample_rows) if args.sample_steps else []
    if script.stage == "sft":
        return Sft(*triples(groups)), rows
    return Dpo(*pairs(groups, reward() if script.reward else None)), rows


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says.

    Args:
        argv: its words, without the name of the program. Default: those of this process.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    check_config(words)

    # 1. Parse
    parser = TrlParser(
        (EditorScriptArguments, EditorTrainingArguments), usage="%(prog)s [--config FILE.yaml] [--OPTION VALUE ...]"
    )
    script, args = parser.parse_args_and_config(words)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # LoRA on what a last layer throws away
    accelerator = Accelerator(mixed_precision=args.mixed_precision, kwargs_handlers=[unused])

    # 2. Load data and reward
    set_seed(args.seed)  # LoRA begins at random
    stage, rows = stage_of(script, args)

    # 3. Build the trainer
    adapter = adapter_for(load_pipeline(script, accelerator.device), args.resolution, args.guidance)
    needs_reference = script.stage == "dpo" or (script.stage in ONLINE_STAGES and args.kl_weight > 0)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    trainer = EditorTrainer(adapter, args, accelerator, needs_reference, rows, needs_follower=script.stage == "nft")

    # 4. Train and save
    with alone_at(output / "run") if accelerator.is_main_process else nullcontext():
        trainer.train(stage)
    accelerator.end_training()


def run(argv: Sequence[str] | None = None) -> int:
    """`main`, for a terminal: what a user can mend is one line. `EDITREWARD_DEBUG=1` shows the traceback.

    Returns:
        2 after an error, else 0.
    """
    return run_script("editreward.editors.train", main, argv)
