r"""
Train an image editor: imitate edits (sft), prefer better ones (dpo), or reinforce what a reward likes (grpo, nft).

The tiny editor on simulated instructions, on a laptop, with the bundled reward model:

    accelerate launch -m editreward.editors.train --stage grpo --dataset_limit 2000 --output_dir runs/editor

FLUX.1 Kontext with LoRA on a GPU of 80 GB, with the reward on a server:

    accelerate launch -m editreward.editors.train --config configs/editors/flux_kontext_grpo.yaml \
        --dataset_name path/to/instructions --reward http://127.0.0.1:8000
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, PartialState
from diffusers import DiffusionPipeline
from transformers import set_seed
from trl import TrlParser

from editreward.editors.adapters import adapter_for
from editreward.editors.arguments import ONLINE_STAGES, TRUTH, EditorScriptArguments, EditorTrainingArguments
from editreward.editors.editors import pipeline_class, simulated_task
from editreward.editors.instructions import Instructions, SourceRow
from editreward.editors.online import Grpo, Nft
from editreward.editors.reward_source import RewardSource, TrueReward, is_truth, reward_source
from editreward.editors.stages import Dpo, Sft
from editreward.editors.trainer import EditorTrainer
from editreward.editors.training_data import first_rows, groups_of, instructions_of, pairs, ranked, triples
from editreward.files import alone_at
from editreward.resources import resource
from editreward.resuming import file_fingerprint, folder_fingerprint
from editreward.training.script_help import check_config, run_script

BUNDLED = "checkpoints/tiny-editor"


SETTINGS = (
    "stage",
    "pipeline",
    "model_name_or_path",
    "model_revision",
    "dataset_name",
    "dataset_split",
    "dataset_offset",
    "dataset_limit",
    "reward",
    "reward_shaping",
    "seed",
    "resolution",
    "lora_rank",
    "lora_alpha",
    "loss_weighting",
)
"""Those that make another run of it. Steps, rates, weights, batches and what is logged may change."""

SAMPLED_ROWS = 8


def run_identity(
    script: EditorScriptArguments, args: EditorTrainingArguments, stage: Sft | Dpo | Grpo | Nft
) -> dict[str, object]:
    """What a run goes on with: settings, the files that they name, and some rows of the data."""
    identity: dict[str, object] = {name: getattr(script, name, getattr(args, name, None)) for name in SETTINGS}
    for name in ("model_name_or_path", "reward", "reward_shaping"):
        identity[name] = _named(identity[name])
    count = stage.count
    places = sorted({place * (count - 1) // (SAMPLED_ROWS - 1) for place in range(SAMPLED_ROWS)})
    return identity | {"rows": count} | {f"row {place}": _digest(stage, place) for place in places}


def _named(name: object) -> list[object]:
    """What the files that it names hold; of what names none the name."""
    path = Path(str(name))
    if path.is_dir():
        return [*folder_fingerprint(path, "*.safetensors")] or [name]
    return [*file_fingerprint(path)] if path.is_file() else [name]


def _digest(stage: Sft | Dpo | Grpo | Nft, place: int) -> str:
    try:
        return stage.read(place).digest()
    except (OSError, ValueError):
        return "cannot be read"


def load_pipeline(script: EditorScriptArguments, dtype: str) -> DiffusionPipeline:
    """The pipeline to train.

    Raises:
        ValueError: there is none of that name, or the checkpoint cannot be loaded.
    """
    checkpoint, kind = script.model_name_or_path, pipeline_class(script.pipeline)
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


def stage_of(
    script: EditorScriptArguments, args: EditorTrainingArguments, accelerator: Accelerator
) -> tuple[Sft | Dpo | Grpo | Nft, Sequence[SourceRow]]:
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
        if args.watch_truth or is_truth(script.reward):
            _check_truth(script, instructions)
        truth = TrueReward() if args.watch_truth else None
        rows = first_rows(instructions, args.sample_rows, args.on_bad_row)
        return online[script.stage](instructions.read, len(instructions.ids), reward(), truth), rows
    if args.watch_truth:
        raise ValueError(f"`watch_truth` is for {' and '.join(ONLINE_STAGES)}; {script.stage} makes no edits.")
    groups = groups_of(script)
    rows = first_rows(instructions_of(script), args.sample_rows, args.on_bad_row) if args.sample_steps else []
    if script.stage == "sft":
        return Sft(*triples(groups)), rows
    if not script.reward:
        return Dpo(*pairs(groups)), rows
    named = json.dumps([_named(script.reward), _named(script.reward_shaping)]).encode()
    folder = Path(args.output_dir) / "rewards" / hashlib.sha256(named).hexdigest()[:12]
    return Dpo(*pairs(groups, ranked(groups, reward(), folder, accelerator))), rows


def _check_truth(script: EditorScriptArguments, instructions: Instructions) -> None:
    """Be sure that somebody knows what the first row's edits deserve."""
    try:
        simulated_task(instructions.read(0))
    except ValueError as error:
        raise ValueError(
            f"`--reward {TRUTH}` and `--watch_truth true` are for simulated rows alone, not for "
            f"{script.dataset_name}: {error}."
        ) from error


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says.

    Args:
        argv: its words, without the name of the program. Default: those of this process.

    Raises:
        ValueError: options do not go together, or with this machine.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    check_config(words)

    # 1. Parse
    parser = TrlParser(
        (EditorScriptArguments, EditorTrainingArguments), usage="%(prog)s [--config FILE.yaml] [--OPTION VALUE ...]"
    )
    script, args = parser.parse_args_and_config(words)
    on_gpu = PartialState().device.type != "cpu"
    script.model_name_or_path = script.model_name_or_path or _bundled()
    dtype = script.dtype or ("bfloat16" if on_gpu else "float32")
    precision = args.mixed_precision or ("bf16" if on_gpu else "no")
    if not args.lora_rank and precision == "no" and dtype != "float32":
        raise ValueError(
            f"All of the transformer is trained in float32, its inputs are {dtype}: add `--mixed_precision bf16`, "
            "`--dtype float32`, or LoRA by `--lora_rank 32`."
        )
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # LoRA on what a last layer throws away
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[unused])
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise ValueError(
            f"Editors are trained with DDP or in one process, not with {accelerator.distributed_type.value}: choose "
            "another `accelerate config`, or another framework (docs/editors.md)."
        )
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)

    with alone_at(output / "run") if accelerator.is_main_process else nullcontext():
        # 2. Load data and reward
        set_seed(args.seed)  # LoRA begins at random
        stage, rows = stage_of(script, args, accelerator)

        # 3. Build the trainer
        adapter = adapter_for(load_pipeline(script, dtype), args.resolution, args.guidance)
        trainer = EditorTrainer(
            adapter,
            args,
            accelerator,
            needs_reference=script.stage == "dpo" or (script.stage in ONLINE_STAGES and args.kl_weight > 0),
            grid_rows=rows,
            needs_follower=script.stage == "nft",
            identity=run_identity(script, args, stage),
        )

        # 4. Train and save
        trainer.train(stage)
    accelerator.end_training()


def run(argv: Sequence[str] | None = None) -> int:
    """`main`, for a terminal: what a user can mend is one line. `EDITREWARD_DEBUG=1` shows the traceback.

    Returns:
        2 after an error, else 0.
    """
    return run_script("editreward.editors.train", main, argv)
