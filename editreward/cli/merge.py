"""`editreward merge`: an adapter and the model that it sits on become one model."""

import argparse

from editreward.cli.commands import Commands
from editreward.cli.paths import reads


def add_merge(commands: Commands) -> None:
    """Declare `editreward merge`."""
    parser = commands.add_parser(
        "merge",
        help="merge a trained adapter (LoRA) into its model",
        description="Merge a trained adapter (LoRA, DoRA, QLoRA) into the model that it sits on, and write a model "
        "folder that loads without peft and scores faster.",
        epilog="Example: editreward merge --adapter runs/editreward-7b-lora --output editreward-7b",
    )
    parser.add_argument("--adapter", required=True, metavar="FOLDER_OR_ID", help="the adapter")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the model folder to write")
    parser.add_argument(
        "--base", metavar="FOLDER_OR_ID", help="the model that it sits on, if it is not where the adapter says"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="precision of the merged model (default: that of its base in training)",
    )
    reads(parser, adapter="model", base="model")
    parser.set_defaults(run=run_merge)


def run_merge(args: argparse.Namespace) -> None:
    """Merge an adapter."""
    import transformers

    from editreward.training.adapters import merge_adapter

    transformers.logging.disable_progress_bar()
    model = merge_adapter(args.adapter, args.output, base=args.base, dtype=args.dtype)
    print(f"Wrote {args.output}: {model.num_parameters():,} parameters in {str(model.dtype).removeprefix('torch.')}.")
