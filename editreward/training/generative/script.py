"""The training script of generative scorers, for `accelerate launch -m editreward.training.generative`.

It starts from a vision-language model and a dataset of edit groups with scores and, for answers with reasons,
rationales.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from datasets import Dataset, IterableDataset
from peft import PeftConfig
from transformers import set_seed
from trl import ModelConfig, SFTConfig, TrlParser, get_peft_config

from editreward.compatibility import check_versions
from editreward.files import alone_at
from editreward.scorers.generative.adapters import base_of
from editreward.scorers.generative.loading import Writer, check_chat_template, load_writer
from editreward.scorers.prompts import PromptSet, load_prompt_set
from editreward.scorers.prompts.prompt_set import read_content
from editreward.training.adapters import language_model_linears, quantization_config
from editreward.training.arguments import EditRewardModelConfig
from editreward.training.batching import undecoded
from editreward.training.datasets import load_eval_dataset, load_train_dataset, mix
from editreward.training.generative.arguments import GenerativeScriptArguments, GenerativeTrainingArguments
from editreward.training.generative.trainer import GenerativeTrainer
from editreward.training.script_help import check_config, run_script, sort_into_sections


def load_sets(names: Sequence[str]) -> dict[str, PromptSet]:
    """Prompt sets by their files.

    Raises:
        ValueError: there is none of that name, it compares pairs, or two have one name.
    """
    sets = {str(read_content(name)[0]): load_prompt_set(name) for name in names}
    for prompts in sets.values():
        if prompts.is_of_pairs:
            raise ValueError(f"`prompts`: {prompts.name!r} compares two edits; a scorer is asked about one.")
    found = [prompts.name for prompts in sets.values()]
    if len(set(found)) < len(names):
        raise ValueError(f"`prompts` names a set twice: {', '.join(names)}.")
    return sets


def load_base(model_args: EditRewardModelConfig, sets: dict[str, PromptSet]) -> Writer:
    """The vision-language model to train.

    Raises:
        ValueError: there is none, it is an adapter, or it has no chat template.
    """
    name = model_args.model_name_or_path
    if name is None:
        raise ValueError("`--model_name_or_path` is missing: give a vision-language model.")
    if base_of(name):
        raise ValueError(
            f"{name} is an adapter. Train its base, {base_of(name)}, or go on with its run "
            "(`--resume_from_checkpoint`)."
        )
    dtype: str | None = model_args.dtype
    if dtype == "auto" and not model_args.use_peft:
        dtype = "float32"  # of weights that are trained
    writer = load_writer(name, dtype, quantization_config(model_args), revision=model_args.model_revision or "main")
    for prompts in sets.values():
        check_chat_template(writer, name, prompts)
    if os.path.isdir(name):
        writer.model.name_or_path = os.path.abspath(name)
    return writer


def adapter_config(writer: Writer, model_args: ModelConfig) -> PeftConfig | None:
    """The adapter that `--use_peft` and the `--lora_*` options ask for, by default on the language model's linears."""
    if not model_args.use_peft:
        return None
    check_versions("peft")
    if model_args.lora_modules_to_save or model_args.use_dora:
        raise ValueError("A scorer reads plain LoRA only: unset `lora_modules_to_save` and `use_dora`.")
    targets = model_args.lora_target_modules or language_model_linears(writer.model)
    return get_peft_config(replace(model_args, lora_target_modules=targets))


GroupData = TypeVar("GroupData", Dataset, IterableDataset, dict[str, Dataset | IterableDataset])


def readable(dataset: GroupData) -> GroupData:
    """A dataset whose rows come with images as they are stored, which the collator reads knowing whose they are."""
    if isinstance(dataset, dict):
        return {name: readable(one) for name, one in dataset.items()}
    if isinstance(dataset, IterableDataset):
        return undecoded(dataset)
    return dataset if dataset.format["type"] == "custom" else mix([dataset])


def run(argv: Sequence[str] | None = None) -> int:
    """`main`, for a terminal: what a user can mend is one line. `EDITREWARD_DEBUG=1` shows the traceback.

    Returns:
        2 after an error, else 0.
    """
    return run_script("editreward.training.generative", main, argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says.

    Args:
        argv: Its words, without the name of the program. Default: those of this process.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    check_config(words)

    # 1. Parse
    parser = TrlParser(
        (GenerativeScriptArguments, GenerativeTrainingArguments, EditRewardModelConfig),
        usage="%(prog)s [--config FILE.yaml] [--OPTION VALUE ...]",
    )
    sort_into_sections(parser, GenerativeScriptArguments, GenerativeTrainingArguments, SFTConfig)
    script_args, training_args, model_args = parser.parse_args_and_config(words)

    # 2. Load data
    on_fault = "stop" if training_args.on_bad_row == "stop" else "list"
    train_dataset = readable(load_train_dataset(script_args, training_args.seed, on_fault))
    eval_dataset = None
    if training_args.eval_strategy != "no":
        eval_dataset = readable(load_eval_dataset(script_args, on_fault))

    # 3. Build the trainer
    set_seed(training_args.seed)
    sets = load_sets(training_args.prompts)
    writer = load_base(model_args, sets)
    trainer = GenerativeTrainer(
        writer, training_args, sets, train_dataset, eval_dataset, adapter_config(writer, model_args)
    )
    trainer.dataset_names = [part.path for part in script_args.datasets or ()] or [script_args.dataset_name]

    output = Path(training_args.output_dir)
    place = output if os.access(output.absolute().parent, os.W_OK) else output / "run"  # a mounted folder
    with alone_at(place) if trainer.is_world_process_zero() else nullcontext():
        # 4. Train
        resume = training_args.resume_from_checkpoint
        trainer.bad_rows.start(resume is not None, trainer.is_world_process_zero())
        trainer.train(resume)

        # 5. Save and push
        if training_args.push_to_hub:
            trainer.push_to_hub()
        else:
            trainer.save_model(training_args.output_dir)
            trainer.create_model_card()
    trainer.end()
