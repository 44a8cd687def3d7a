"""Adapters: LoRA, DoRA and QLoRA through PEFT and the options of TRL's `ModelConfig`."""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftConfig
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from trl import ModelConfig, get_peft_config, get_quantization_config

from editreward.compatibility import check_versions
from editreward.dense_heads import DenseHeads
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor

UNQUANTIZED = ("visual", "backbone.visual", "heads")
"""Modules that QLoRA leaves as they are: heads are trained, and of the weights the vision tower's are few."""


def language_model_linears(model: nn.Module) -> str:
    """A regular expression of the language model's linear layers, as PEFT's `target_modules` takes it."""
    # Their names alone would match layers of the vision tower, too.
    linears = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".language_model." in f".{name}"
    }
    return rf"(.*\.)?language_model\..*\.({'|'.join(sorted(linears))})"


def adapter_config(
    model: EditRewardModel, reward_token_ids: Sequence[int], model_args: ModelConfig
) -> PeftConfig | None:
    """The adapter that `--use_peft` and the `--lora_*` options ask for, or `None`.

    What they leave open is filled in: the language model's linear layers are adapted, the heads and the reward tokens'
    rows of the embedding matrix are trained whole, all else is frozen.

    Raises:
        ImportError: If peft is known to fail with what else is installed.
    """
    if model_args.use_peft:
        check_versions("peft")
    heads = [*(model_args.lora_modules_to_save or ()), "heads"]
    config = get_peft_config(
        dataclasses.replace(
            model_args,
            lora_task_type="FEATURE_EXTRACTION",
            lora_target_modules=model_args.lora_target_modules or language_model_linears(model),
            lora_modules_to_save=list(dict.fromkeys(heads)),
        )
    )
    if config is not None:
        config.trainable_token_indices = list(dict.fromkeys(reward_token_ids))
        config.revision = model_args.model_revision
    return config


def quantization_config(model_args: ModelConfig) -> BitsAndBytesConfig | None:
    """The quantization of the base that `--load_in_4bit` or `--load_in_8bit` asks for, or `None`.

    4-bit weights are multiplied in the type that `--dtype` names, 'auto' being bfloat16.

    Raises:
        ValueError: If there is no adapter to train: quantized weights cannot be.
    """
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return None
    if not model_args.use_peft:
        raise ValueError(
            "Quantized weights cannot be trained: `--load_in_4bit` and `--load_in_8bit` need `--use_peft`."
        )
    compute_dtype = "bfloat16" if model_args.dtype == "auto" else model_args.dtype
    config = get_quantization_config(dataclasses.replace(model_args, dtype=compute_dtype))
    config.llm_int8_skip_modules = list(UNQUANTIZED)
    return config


def check_base(model: PreTrainedModel) -> None:
    """Make sure that an adapter can name the model that it is to sit on.

    Raises:
        ValueError: If the model came from nowhere or is an adapter itself.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            "The model is an adapter. Merge it into a model first (`editreward merge`), or go on with its run "
            "(`--resume_from_checkpoint`)."
        )
    if not model.name_or_path:
        raise ValueError(
            "An adapter names the model that it sits on, and this one was never loaded. Save it, and load it with "
            "`EditRewardModel.from_pretrained`."
        )
    if os.path.isdir(model.name_or_path):
        model.name_or_path = os.path.abspath(model.name_or_path)


def save_configuration(model: EditRewardModel, folder: str | Path) -> None:
    """Save the configuration and the Hub files beside an adapter, so that it loads by itself.

    The quantization of the base is left out: it is a matter of training, and of whoever loads the adapter.

    Raises:
        ImportError: If peft is known to fail with what else is installed.
    """
    check_versions("peft")
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    for each in (config, config.backbone_config):
        if hasattr(each, "quantization_config"):
            del each.quantization_config
    custom_object_save(model, folder, config=config)
    config.save_pretrained(folder)


def merge_adapter(
    adapter: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    **hub_kwargs: str | None,
) -> EditRewardModel:
    """Merge an adapter into the model that it sits on, and save model and processor.

    Args:
        adapter: Folder or Hub id of the adapter.
        output: Folder to write.
        base: Where the model is that it sits on, if not where the adapter says.
        dtype: Precision of the merged model, by default the base's in training. In bfloat16 the sums of old and new
            weights are rounded.
        hub_kwargs: `revision`, `token` ... of the adapter.

    Raises:
        ValueError: If `output` has files in it, or the adapter cannot be loaded.
        ImportError: If peft is known to fail with what else is installed.
    """
    check_versions("peft")
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not empty. Choose another output folder.")
    try:
        PeftConfig.from_pretrained(str(adapter), **hub_kwargs)
    except ValueError as error:
        raise ValueError(
            f"{adapter} is no adapter: there is no adapter_config.json in a folder or a reachable Hub repository of "
            "that name."
        ) from error
    processor = EditRewardProcessor.from_pretrained(adapter, **hub_kwargs)
    adapted = EditRewardModel.load_adapted(adapter, base_model_name_or_path=base, dtype=dtype, **hub_kwargs)
    model: EditRewardModel = adapted.merge_and_unload()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    if (heads := DenseHeads.find(adapter, **hub_kwargs)) is not None:
        heads.save(output)
    return model


def trained_weights(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """The data of every trained parameter, by name."""
    return {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
