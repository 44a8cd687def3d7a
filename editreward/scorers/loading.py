"""Loading reward models: which device and precision, and errors that say what is wrong with a folder or repository."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from configuration_editreward import HUB_ARGUMENTS, EditRewardConfig
from editreward.hub_ids import is_hub_id
from editreward.resources import resource
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor

BUNDLED_MODEL = "editreward-tiny"
MOST_MISSING = 1.5
"""Times as many numbers as the weights hold may be asked for: what is missing is named only once all is allocated."""
PACKED = ("U8", "I8")
"""Types, in the header of a file, that may hold several numbers of four bits."""


class ModelError(ValueError):
    """A model folder or repository that cannot be used; the message says why and what to do."""


def bundled_model() -> Path:
    """Folder of the tiny model that comes with the package.

    Raises:
        ModelError: it is not there.
    """
    try:
        return resource(f"checkpoints/{BUNDLED_MODEL}")
    except FileNotFoundError as error:
        raise ModelError(f"The bundled model is not there: {error} Or name another model.") from error


def is_bundled(name: str) -> bool:
    """Whether a model is the tiny one that comes with the package."""
    return Path(name).resolve().name == BUNDLED_MODEL


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device that is asked for, by default the best one here.

    Raises:
        ValueError: it cannot be used on this machine.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has one for each kind of absence
        raise ValueError(f"The device {str(device)!r} cannot be used on this machine; 'cpu' always can.") from error
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The precision that is asked for, by default bfloat16 on GPUs that have it, else float32.

    Raises:
        ValueError: it is no floating-point type.
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(f"`dtype` is {dtype!r}; choose float32, bfloat16 or float16.")
    return chosen


def load_model_and_processor(name: str, **options: Any) -> tuple[EditRewardModel, EditRewardProcessor]:
    """Load a model, on the CPU, with its processor, and make sure that both can be used.

    Args:
        name: a folder or a Hub repository id.
        options: `dtype` and `attn_implementation` of the model, and `revision`, `token` and the like of a repository.

    Raises:
        ModelError: as `EditRewardScorer.from_pretrained`.
    """
    hub_options = {key: value for key, value in options.items() if key in HUB_ARGUMENTS}
    try:
        _check_model_type(name, **hub_options)
        processor = _load_processor(name, **hub_options)
        _check_sizes(name, processor, **hub_options)
        return _load_model(name, **options), processor
    except ModelError as error:
        missing = missing_from_cache(name, hub_options.get("revision"), hub_options.get("cache_dir"))
        if not missing:
            raise
        raise ModelError(
            f"The copy of {name} in the Hub's cache is not complete: it lacks {', '.join(missing)}, and the Hub was "
            f"not asked or cannot be reached. Fetch it where there is a network: `hf download {name}`."
        ) from error


def missing_from_cache(name: str, revision: str | None = None, cache_dir: str | None = None) -> list[str]:
    """Files of a model that its copy in the Hub's cache lacks; empty where it has all, or where there is no copy.

    Args:
        name: id of the repository; a folder, or the id of an adapter, lacks nothing.
        revision, cache_dir: as for `from_pretrained`.
    """

    def there(file: str) -> str | None:
        found = try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision)
        return found if isinstance(found, str) else None

    if not is_hub_id(name) or there("config.json") is None or there("adapter_config.json"):
        return []
    missing = [file for file in ("processor_config.json", "tokenizer.json") if there(file) is None]
    index = there(SAFE_WEIGHTS_INDEX_NAME)
    if index is not None:
        shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
        missing += [file for file in sorted(shards) if there(file) is None]
    elif not any(map(there, (SAFE_WEIGHTS_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME))):
        missing.append(SAFE_WEIGHTS_NAME)
    return missing


def _check_model_type(name: str, **hub_options: Any) -> None:
    try:
        config, _ = PreTrainedConfig.get_config_dict(name, **hub_options)
    except OSError as error:
        if Path(name).is_dir():
            raise _model_error(name, error) from error
        raise ModelError(
            f"{name} is neither a model folder nor a Hub repository that can be reached from here. Check the "
            "spelling; a repository needs a network connection or an earlier download, and a private or gated one "
            "`hf auth login` first."
        ) from error
    except Exception as error:  # no JSON object
        raise _model_error(name, error) from error
    if not config:
        raise ModelError(f"{name} is not a model folder: it has no config.json.")
    if config.get("model_type") != "editreward":
        raise ModelError(
            f"{name} holds a model of type {config.get('model_type')!r}, not an EditReward model. A vision-language "
            "model becomes one by training, published weights by `editreward convert`."
        )


def _load_processor(name: str, **hub_options: Any) -> EditRewardProcessor:
    try:
        # The folder's own copy of the code is never run. Left open, transformers asks on the terminal whether it may.
        processor = EditRewardProcessor.from_pretrained(name, trust_remote_code=False, **hub_options)
        processor.count_tokens([(28, 28)], [(28, 28)], "a")  # some settings are looked at only when they are used
        return processor
    except ImportError:  # which names what to install
        raise
    except Exception as error:  # whatever a file with other content than transformers expects raises in it
        raise ModelError(
            f"{name} has no usable processor: {_in_words(error)} Save it beside the model with "
            "`processor.save_pretrained(folder)`."
        ) from error


def _load_model(name: str, **options: Any) -> EditRewardModel:
    """Load a model and make sure that its weights fit and are finite."""
    try:
        # Mismatched weights are let through to be named below: transformers would only point to its log.
        model, info = EditRewardModel.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except ImportError:
        raise
    except SafetensorError as error:
        raise ModelError(f"{name} holds damaged weights ({error}). Copy it again.") from error
    except Exception as error:  # as for the processor
        raise _model_error(name, error) from error
    for key, found, expected in info["mismatched_keys"]:
        raise ModelError(
            f"{name} holds {key} with shape {list(found)}, its config.json asks for {list(expected)}. The two "
            "belong to different models."
        )
    for key, weight in model.named_parameters():
        # Unlike `isfinite`, this needs no memory of the weight's size.
        if not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            raise ModelError(f"{name} holds NaN or infinite numbers in {key}. Copy or train it again.")
    return model


def _check_sizes(name: str, processor: EditRewardProcessor, **hub_options: Any) -> None:
    """Be sure, before anything is allocated, that a configuration asks for no more than the weights hold.

    Raises:
        ModelError: it asks for more, or the processor cuts images into other patches than the model takes.
    """
    held = _held_elements(name, **hub_options)
    try:
        config = EditRewardConfig.from_pretrained(name, **hub_options)
        vision, images = config.backbone_config.vision_config, processor.image_processor
        same = (("patch_size",) * 2, ("temporal_patch_size",) * 2, ("merge_size", "spatial_merge_size"))
        for ours, theirs in same:
            if getattr(images, ours) != getattr(vision, theirs):
                raise ValueError(
                    f"the processor's `{ours}` is {getattr(images, ours)}, the model's {getattr(vision, theirs)}."
                )
        _check_positions(config)
        if held is None:  # an adapter: its base is checked where it is loaded
            return
        layers = config.get_text_config().num_hidden_layers + vision.depth
        if layers > held:
            raise ValueError(f"config.json asks for {layers} layers, the weights hold {held} numbers.")
        with torch.device("meta"):
            model = EditRewardModel(config)
        wanted = sum(weight.numel() for weight in model.state_dict().values())
    except Exception as error:
        raise _model_error(name, error) from error
    if wanted > MOST_MISSING * held:
        raise ModelError(
            f"{name}: config.json asks for {wanted:,} numbers, the weights hold {held:,}. The two belong to different "
            "models."
        )


def _check_positions(config: EditRewardConfig) -> None:
    """Be sure of what the backbone looks at only when it runs.

    Raises:
        ValueError: the shares of the three axes are no numbers that make up a head, heads cut a layer unevenly, or
            what else it is to return is neither true nor false.
    """
    text, vision = config.get_text_config(), config.backbone_config.vision_config
    for part in (config, config.backbone_config, text, vision):
        for name in ("output_attentions", "output_hidden_states", "return_dict"):
            if not isinstance(getattr(part, name, None), bool | None):
                raise ValueError(f"`{name}` is {getattr(part, name)!r}; true or false is expected.")
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    sections = (text.rope_parameters or {}).get("mrope_section")
    if sections is not None:
        whole = isinstance(sections, list) and len(sections) == 3 and all(type(one) is int for one in sections)
        if not whole or min(sections) < 0 or sum(sections) != head // 2:
            raise ValueError(
                f"`mrope_section` is {sections!r}; three whole numbers with the sum {head // 2} are expected."
            )
    if vision.hidden_size % vision.num_heads:
        raise ValueError(f"`num_heads` is {vision.num_heads}, which does not divide {vision.hidden_size}.")


def _held_elements(name: str, **hub_options: Any) -> int | None:
    """Numbers in the weights' files, by the headers of safetensors files or by size; None where there are none."""
    for index in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        if found := _file(name, index, **hub_options):
            try:
                shards = set(json.loads(Path(found).read_text(encoding="utf-8"))["weight_map"].values())
                files = [_file(name, Path(shard).name, **hub_options) for shard in sorted(shards)]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(f"{name}: {index} is damaged ({_in_words(error)}). Copy it again.") from error
            break
    else:
        files = [_file(name, SAFE_WEIGHTS_NAME, **hub_options) or _file(name, WEIGHTS_NAME, **hub_options)]
    present = [Path(file) for file in files if file is not None]
    return sum(map(_elements, present)) if present else None


def _elements(file: Path) -> int:
    """Numbers in a file; those of quantized weights count as packed by two."""
    if file.suffix != ".safetensors":
        return file.stat().st_size
    try:
        with safe_open(str(file), framework="pt") as weights:
            slices = (weights.get_slice(key) for key in weights.keys())  # noqa: SIM118 (no mapping)
            return sum(math.prod(one.get_shape()) * (2 if one.get_dtype() in PACKED else 1) for one in slices)
    except SafetensorError as error:
        raise ModelError(f"{file} holds damaged weights ({error}). Copy it again.") from error


def _file(name: str, file: str, **hub_options: Any) -> str | None:
    found: str | None = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub_options)
    return found


def _in_words(error: Exception) -> str:
    """An error of somebody else's code, with its type where the text alone says nothing."""
    return str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}."


def _model_error(name: str, error: Exception) -> ModelError:
    message = _in_words(error)
    return ModelError(message if name in message else f"{name} cannot be loaded: {message}")
