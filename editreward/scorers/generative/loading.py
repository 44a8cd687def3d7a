"""Loading a vision-language model that writes: model, tokenizer and image processor, or what is wrong with them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from editreward.scorers.generative.tokens import PromptTokenizer
from editreward.scorers.loading import ModelError
from editreward.scorers.prompts import PromptSet

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerFast
    from transformers.utils.quantization_config import QuantizationConfigMixin

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")


@dataclass(frozen=True)
class Writer:
    """A vision-language model that writes.

    Attributes:
        model: of transformers, with its language-model head.
        tokenizer: its own.
        image_processor: its own.
        chat_template: its own; None where it has none.
        end_ids: tokens that end an answer.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    image_processor: "BaseImageProcessor"
    chat_template: str | None
    end_ids: tuple[int, ...]

    def prompt_tokenizer(self) -> PromptTokenizer:
        """What makes tokens of prompts for this model, for scoring and for training alike."""
        config = self.model.config
        image_token = self.tokenizer.convert_ids_to_tokens(config.image_token_id)
        return PromptTokenizer(self.tokenizer, config.model_type, image_token, self.chat_template)


def load_writer(
    name: str,
    dtype: torch.dtype | str | None,
    quantization_config: "QuantizationConfigMixin | None" = None,
    **hub_options: Any,
) -> Writer:
    """Load a model, on the CPU unless it is quantized.

    Args:
        name: folder or Hub id.
        dtype: of its weights; "auto" for the checkpoint's own, None for transformers' default.
        quantization_config: of transformers, to train an adapter on a quantized base.
        hub_options: `revision`, `token` and the like.

    Raises:
        ModelError: it is none, of another type, lacks weights, or has no tokenizer or image processor.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoTokenizer, PreTrainedConfig, Qwen2VLImageProcessorPil

    try:
        config, _ = PreTrainedConfig.get_config_dict(name, **hub_options)
    except OSError as error:
        raise ModelError(
            f"{name} is neither a model folder nor a Hub repository that can be reached from here. Check the spelling."
        ) from error
    _check_type(name, config)
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype, output_loading_info=True, quantization_config=quantization_config, **hub_options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{name} cannot be loaded: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{name} lacks weights of the model: {', '.join(missing[:3])}. Copy it again, whole.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **hub_options)
        images = Qwen2VLImageProcessorPil.from_pretrained(name, **hub_options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{name} has no usable tokenizer or image processor ({error}). Copy tokenizer_config.json, tokenizer.json "
            "and preprocessor_config.json of its base beside the weights."
        ) from error
    # Of what the model says about generation only how an answer ends: nobody asked for its penalties.
    ends = model.generation_config.eos_token_id
    found = [tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]
    return Writer(
        model,
        tokenizer,
        images,
        _chat_template(tokenizer, name, hub_options),
        tuple(sorted({end for end in found if end is not None})),
    )


def _check_type(name: str, config: dict[str, object]) -> None:
    kind = config.get("model_type")
    if kind == "editreward":
        raise ModelError(f"{name} is a reward model, which does not write: `--scorer {name}` takes it as it is.")
    if kind not in MODEL_TYPES:
        raise ModelError(
            f"{name} is no model that can be a generative scorer: its type is {kind!r}, and there are "
            f"{', '.join(MODEL_TYPES)}."
        )


def _chat_template(tokenizer: "PreTrainedTokenizerFast", name: str, hub_options: dict[str, Any]) -> str | None:
    from transformers import ProcessorMixin

    if tokenizer.chat_template is not None:
        return str(tokenizer.chat_template)
    try:  # older repositories keep it in a file of the processor's own
        found = ProcessorMixin.get_processor_dict(name, **hub_options)[0].get("chat_template")
    except OSError:
        return None
    return None if found is None else str(found)


def check_chat_template(writer: Writer, name: str, prompts: PromptSet) -> None:
    """Raise a `ModelError` where a prompt set needs a chat template, and the model has none."""
    kind = writer.model.config.model_type
    if prompts.markup_for(kind) is None and writer.chat_template is None:
        raise ModelError(
            f"The base {name} has no chat template, and the prompt set {prompts.name!r} no `markup` for {kind}: name "
            "an instruction-tuned base, or copy its chat_template.jinja beside the weights."
        )
