"""`editreward convert`: published weights into a model folder."""

import argparse

from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.cli.scorer_options import DTYPES


def add_convert(commands: Commands) -> None:
    """Declare `editreward convert`."""
    parser = commands.add_parser(
        "convert",
        help="turn a published EditReward checkpoint into a model folder",
        description="Turn a published EditReward checkpoint into a folder that AutoModel and AutoProcessor load.",
        epilog="Example: editreward convert --checkpoint EditReward/ --backbone Qwen/Qwen2.5-VL-7B-Instruct "
        "--prompts-py dataset/prompts.py dataset/data_collator_qwen_edit.py --output editreward-7b",
    )
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="weights: a file or a folder of shards")
    parser.add_argument(
        "--backbone",
        required=True,
        metavar="FOLDER_OR_ID",
        help="the vision-language model that it was trained from (its weights are not read)",
    )
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument(
        "--templates",
        metavar="FILE.json",
        help="the prompts: templates, reward_suffix and, where it had one, system_prompt",
    )
    prompts.add_argument(
        "--prompts-py",
        nargs="+",
        metavar="FILE",
        help="the prompts in the published repository's Python files, which are read and not run",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the model folder to write")
    parser.add_argument("--head-type", choices=("multi", "shared", "single"), help="default: read off the checkpoint")
    parser.add_argument(
        "--overall-prompt",
        choices=("overall", "overall_detail"),
        default="overall_detail",
        help="reward_dim of a single-head model, with --prompts-py (default: %(default)s)",
    )
    parser.add_argument(
        "--aggregation",
        choices=("mean", "min", "sum"),
        default="mean",
        help="how its configuration combines the dimensions (default: %(default)s)",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the backbone (default: the checkpoint's)")
    reads(parser, checkpoint="path", backbone="model", templates="file", prompts_py="file")
    parser.set_defaults(run=run_convert)


def run_convert(args: argparse.Namespace) -> None:
    """Convert a published checkpoint."""
    import torch
    import transformers

    from editreward.conversion import convert_checkpoint, read_prompts_json, read_prompts_py

    transformers.logging.disable_progress_bar()
    if args.templates:
        prompts = read_prompts_json(args.templates)
    else:
        prompts = read_prompts_py(args.prompts_py, overall=args.overall_prompt)
    config = convert_checkpoint(
        args.checkpoint,
        args.backbone,
        prompts,
        args.output,
        head_type=args.head_type,
        aggregation=args.aggregation,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
    )
    heads = f"{config.head_type} head, {', '.join(config.dimensions)}"
    print(f"Wrote {args.output}: {heads}, aggregation {config.aggregation}.")
