"""The training script, for `accelerate launch -m editreward.training.script`; `train_trl.py` starts the same.

It starts from a vision-language model, or from an EditReward model to go on with, and a dataset of edit groups.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from transformers import set_seed

from configuration_editreward import EditRewardConfig
from editreward.dense_heads import DenseHeads
from editreward.files import alone_at
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor

try:
    from trl import TrlParser

    from editreward.training.adapters import adapter_config, quantization_config
    from editreward.training.arguments import EditRewardModelConfig, EditRewardTrainingArguments
    from editreward.training.datasets import GroupDataArguments, load_eval_dataset, load_train_dataset
    from editreward.training.dense import DenseLoss
    from editreward.training.parameters import upcast_trained
    from editreward.training.script_help import check_config, run_script, sort_into_sections
    from editreward.training.sharding import whole_model
    from editreward.training.trainer import EditRewardTrainer
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f'editreward.training.script: error: {error}: pip install "editreward[train]"')


@dataclass
class EditRewardScriptArguments(GroupDataArguments):
    """TRL's `ScriptArguments`, what groups to train on, and what a new reward model is made like."""

    dimensions: list[str] | None = field(
        default=None, metadata={"help": "New model: the dimensions that it judges, named as in the data."}
    )
    head_type: str | None = field(
        default=None, metadata={"help": "New model: 'multi' (an MLP per dimension), 'shared' or 'single'."}
    )
    head_hidden_sizes: list[int] | None = field(
        default=None, metadata={"help": "New model: widths of the two hidden layers of a head."}
    )
    head_dropout: float | None = field(default=None, metadata={"help": "New model: dropout in the heads."})
    aggregation: str | None = field(
        default=None,
        metadata={"help": "New model: reward from the dimensions' means by 'mean', 'min', 'sum' or 'smooth_min'."},
    )
    aggregation_temperature: float | None = field(
        default=None,
        metadata={"help": "New model: temperature of 'smooth_min', 1 by default; lower is nearer to 'min'."},
    )
    uncertainty_aggregation: str | None = field(
        default=None,
        metadata={"help": "New model: 'propagate', or 'reference' to do with uncertainties as the published code."},
    )
    layout: str | None = field(
        default=None, metadata={"help": "New model: 'compact' (one short prompt, fast) or 'paper' (a long one each)."}
    )
    position_scheme: str | None = field(
        default=None, metadata={"help": "New model: 'mrope' (the backbone's own) or 'sequential'."}
    )
    pixels: int | None = field(
        default=None, metadata={"help": "New model: pixels that each image is resized to, 448 x 448 by default."}
    )


PROCESSOR_FIELDS = ("dimensions", "layout", "position_scheme", "pixels")
MODEL_FIELDS = (
    "dimensions",
    "head_type",
    "head_hidden_sizes",
    "head_dropout",
    "aggregation",
    "aggregation_temperature",
    "uncertainty_aggregation",
    "layout",
    "position_scheme",
)


def load_model(
    script_args: EditRewardScriptArguments, model_args: EditRewardModelConfig
) -> tuple[EditRewardModel, EditRewardProcessor]:
    """The EditReward model to go on with, or a new one on a vision-language model, with its processor."""
    path, hub_kwargs = model_args.model_name_or_path, {"revision": model_args.model_revision}
    if path is None:
        raise ValueError("`--model_name_or_path` is missing: give a vision-language model or an EditReward model.")
    loading = {
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
        "quantization_config": quantization_config(model_args),
    }
    names = dict.fromkeys([*MODEL_FIELDS, *PROCESSOR_FIELDS])
    given = {name: getattr(script_args, name) for name in names if getattr(script_args, name) is not None}
    try:
        saved_config, _ = EditRewardConfig.get_config_dict(path, **hub_kwargs)
    except OSError as error:
        raise ValueError(
            f"`--model_name_or_path {path}` is neither a model folder nor a Hub repository that can be reached from "
            "here. Check the spelling; a repository needs a network connection or an earlier download."
        ) from error
    if saved_config.get("model_type") == EditRewardConfig.model_type:
        if given:
            raise ValueError(f"{path} is an EditReward model, which keeps its own {', '.join(given)}. Unset them.")
        return (
            EditRewardModel.from_pretrained(path, **hub_kwargs, **loading),
            EditRewardProcessor.from_pretrained(path, **hub_kwargs),
        )
    if script_args.head_type == "single":
        given.setdefault("dimensions", ["overall"])
    model_fields = {name: value for name, value in given.items() if name in MODEL_FIELDS}
    processor_fields = {name: value for name, value in given.items() if name in PROCESSOR_FIELDS}
    return (
        EditRewardModel.from_backbone(path, hub_kwargs=hub_kwargs, **loading, **model_fields),
        EditRewardProcessor.from_backbone(path, hub_kwargs=hub_kwargs, **processor_fields),
    )


def dense_loss(
    script_args: EditRewardScriptArguments, model_args: EditRewardModelConfig, processor: EditRewardProcessor
) -> DenseLoss | None:
    """The dense losses, if they are asked for, with the heads that the model's folder brings."""
    folder = script_args.dense_heads or model_args.model_name_or_path
    if script_args.dense_weight == 0 or folder is None:
        return None
    image_processor = processor.image_processor
    pixels_of_token = image_processor.patch_size * image_processor.merge_size
    side = round(image_processor.size["longest_edge"] ** 0.5) // pixels_of_token
    revision = None if script_args.dense_heads else model_args.model_revision
    return DenseLoss(DenseHeads.load(folder, revision=revision), script_args.dense_weight, side)


def run(argv: Sequence[str] | None = None) -> int:
    """`main`, for a terminal: what a user can mend is one line, and libraries' advice to developers is not shown.

    `EDITREWARD_DEBUG=1` shows the traceback.

    Returns:
        2 after an error, else 0.
    """
    return run_script("train_trl.py", main, argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says.

    Args:
        argv: Its words, without the name of the program. Default: those of this process.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    check_config(words)

    # 1. Parse
    parser = TrlParser(
        (EditRewardScriptArguments, EditRewardTrainingArguments, EditRewardModelConfig),
        usage="%(prog)s [--config FILE.yaml] [--OPTION VALUE ...]",  # of hundreds, which would hide an error
    )
    sort_into_sections(parser, EditRewardScriptArguments, EditRewardTrainingArguments)
    script_args, training_args, model_args = parser.parse_args_and_config(words)
    evaluates = training_args.eval_strategy != "no"

    # 2. Load data
    # Bad rows of published pairs are found by the importer.
    on_fault = "stop" if training_args.on_bad_row == "stop" else "list"
    train_dataset = load_train_dataset(script_args, training_args.seed, on_fault)
    eval_dataset = load_eval_dataset(script_args, on_fault) if evaluates else None

    # 3. Build the trainer
    set_seed(training_args.seed)  # the heads of a new model are random
    with whole_model(training_args.deepspeed_plugin):
        model, processor = load_model(script_args, model_args)
    peft_config = adapter_config(model, processor.reward_token_ids, model_args)
    if peft_config is None and model_args.dtype == "auto":
        upcast_trained(model, processor.reward_token_ids, training_args)
    trainer = EditRewardTrainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        peft_config=peft_config,
        auxiliary_loss=dense_loss(script_args, model_args, processor),
    )
    trainer.dataset_names = [part.path for part in script_args.datasets or ()] or [script_args.dataset_name]

    output = Path(training_args.output_dir)
    place = output if os.access(output.absolute().parent, os.W_OK) else output / "run"  # a mounted folder
    with alone_at(place) if trainer.is_world_process_zero() else nullcontext():
        # 4. Train
        resume = training_args.resume_from_checkpoint
        trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)

        # 5. Save and push
        if training_args.push_to_hub:
            trainer.push_to_hub()  # saves, too
        else:
            trainer.save_model(training_args.output_dir)
            trainer.create_model_card()
    trainer.end()


if __name__ == "__main__":
    sys.exit(run())
