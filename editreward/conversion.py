"""Turn a published EditReward checkpoint into a model folder for `AutoModel` and `AutoProcessor`."""

import ast
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from configuration_editreward import EditRewardConfig, load_tokenizer
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor


class ConversionError(ValueError):
    """A checkpoint or prompts file that cannot be converted. The message says what does not fit."""


@dataclass
class Prompts:
    """The prompt text that a checkpoint was trained with, whitespace included.

    Attributes:
        templates: Per dimension, with `{text_prompt}` for the instruction.
        reward_suffix: Text after the template, with the token `<|Reward|>`.
        system_prompt: System turn; `None` for the chat template's own.
    """

    templates: dict[str, str]
    reward_suffix: str
    system_prompt: str | None = None


# Names of the constants in the published repository's Python files, and what each is the prompt of. The two overall
# prompts are those of single-head models with `reward_dim: overall` and `overall_detail`.
TEMPLATE_CONSTANTS = {
    "INSTRUCTION_EDIT_FOLLOWING": "instruction_following",
    "INSTRUCTION_EDIT_QUALITY": "visual_quality",
    "INSTRUCTION_EDIT_OVERALL": "overall",
    "INSTRUCTION_EDIT_OVERALL_DETAILED": "overall_detail",
}
SUFFIX_CONSTANT = "prompt_with_special_token"

_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

# Published key to ours, by the first pattern that matches. Older checkpoints have the second form.
_KEY_PATTERNS = [
    (r"model\.visual\.(.+)", r"backbone.visual.\1"),
    (r"model\.language_model\.(.+)", r"backbone.language_model.\1"),
    (r"visual\.(.+)", r"backbone.visual.\1"),
    (r"model\.((?:layers|embed_tokens|norm)\..+)", r"backbone.language_model.\1"),
    (r"rm_heads\.head_(\d+)\.(.+)", r"heads.mlps.\1.\2"),
    (r"rm_head\.(.+)", r"heads.mlps.0.\1"),
]
_DROPPED_KEYS = {"lm_head.weight"}
_EMBEDDINGS = "backbone.language_model.embed_tokens.weight"


def read_prompts_json(path: str | Path) -> Prompts:
    """Prompts from a JSON file with `templates`, `reward_suffix` and optionally `system_prompt`."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConversionError(f"Templates file {path} does not exist.") from error
    except json.JSONDecodeError as error:
        raise ConversionError(f"Templates file {path} is not valid JSON: {error}.") from error
    for key, kind in (("templates", dict), ("reward_suffix", str)):
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise ConversionError(f"Templates file {path} needs the field {key!r} ({kind.__name__}).")
    return Prompts(content["templates"], content["reward_suffix"], content.get("system_prompt"))


def read_prompts_py(paths: Iterable[str | Path], overall: str = "overall_detail") -> Prompts:
    """Prompts from the published repository's Python files, which are parsed and never run.

    The templates are in its `dataset/prompts.py`, the suffix with the reward token in a data collator beside it.

    Args:
        paths: The files; a constant may be in any of them.
        overall: Which of the two overall prompts a single-head model was trained with: `overall` or
            `overall_detail`, as its configuration's `reward_dim` says.
    """
    paths = list(paths)
    constants: dict[str, str] = {}
    for path in paths:
        try:
            tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConversionError(f"Prompts file {path} does not exist.") from error
        except SyntaxError as error:
            raise ConversionError(f"Prompts file {path} is not valid Python: {error}.") from error
        for node in tree.body:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                constants.update(
                    {target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)}
                )
    # The published code fills templates in with `str.format`, which turns doubled braces into single ones.
    templates = {
        name: constants[constant].replace("{{", "{").replace("}}", "}")
        for constant, name in TEMPLATE_CONSTANTS.items()
        if constant in constants
    }
    chosen = templates.pop(overall, None)
    templates = {name: text for name, text in templates.items() if not name.startswith("overall")}
    if chosen is not None:
        templates["overall"] = chosen
    names = ", ".join(map(str, paths))
    if not templates:
        raise ConversionError(f"{names}: found none of the templates {', '.join(TEMPLATE_CONSTANTS)}.")
    if SUFFIX_CONSTANT not in constants:
        raise ConversionError(
            f"{names}: found no {SUFFIX_CONSTANT}. Pass the file that defines it as well; in the published repository "
            "it is a data collator beside the prompts file."
        )
    return Prompts(templates, constants[SUFFIX_CONSTANT])


def read_state_dict(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint file, or of the weight files in a folder, sharded or not."""
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        files = [checkpoint] if checkpoint.exists() else []
    elif indices := sorted(checkpoint.glob("*.index.json")):
        shards = sorted(set(json.loads(indices[0].read_text())["weight_map"].values()))
        files = [checkpoint / shard for shard in shards]
        if lacking := [file.name for file in files if not file.exists()]:
            raise ConversionError(f"Checkpoint {checkpoint}: {indices[0].name} names files not there: {lacking}.")
    else:
        # Trainers leave other pickles beside the weights.
        found = [file for file in sorted(checkpoint.iterdir()) if file.suffix in _WEIGHT_SUFFIXES]
        found = [file for file in found if not re.match(r"training_args|rng_state|optimizer|scheduler", file.name)]
        suffix = min((file.suffix for file in found), key=_WEIGHT_SUFFIXES.index, default=None)
        files = [file for file in found if file.suffix == suffix]
    if not files:
        kinds = ", ".join(_WEIGHT_SUFFIXES)
        raise ConversionError(f"Checkpoint {checkpoint}: no such file, or no weights ({kinds}) in it.")
    state_dict: dict[str, torch.Tensor] = {}
    for file in files:
        state_dict.update(_read_weights(file))
    return state_dict


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors each have errors of their own for a broken file
        raise ConversionError(f"Checkpoint file {file} cannot be read: {error}") from error
    while isinstance(content, dict) and len(wrapped := {"model", "state_dict", "module"} & set(content)) == 1:
        inner = content[wrapped.pop()]
        if not isinstance(inner, dict):
            break
        content = inner
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ConversionError(f"Checkpoint file {file} holds no state dict (names to tensors).")
    return content


def rename_keys(state_dict: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Published parameter names to ours. Returns the renamed tensors and the names that no rule knows."""
    renamed, left_over = {}, []
    for key, tensor in state_dict.items():
        key = key.removeprefix("module.")
        if key in _DROPPED_KEYS:
            continue
        for pattern, replacement in _KEY_PATTERNS:
            if re.fullmatch(pattern, key):
                renamed[re.sub(pattern, replacement, key)] = tensor
                break
        else:
            left_over.append(key)
    return renamed, left_over


def convert_checkpoint(
    checkpoint: str | Path,
    backbone: str | Path,
    prompts: Prompts,
    output: str | Path,
    *,
    head_type: str | None = None,
    aggregation: str = "mean",
    dtype: torch.dtype | None = None,
) -> EditRewardConfig:
    """Write a model folder with a published checkpoint's weights, and its prompts, positions and image handling.

    Args:
        checkpoint: File or folder, see `read_state_dict`.
        backbone: Folder or Hub id of the vision-language model it was trained from, for configuration, tokenizer and
            chat template. Its weights are not read.
        prompts: The prompt text that it was trained with.
        output: Folder to write.
        head_type: By default `multi` where the checkpoint has a head per dimension; else `single` where `prompts` has
            the template `overall` and no other, `shared` otherwise.
        aggregation: How the published configuration combines the dimensions.
        dtype: Of the backbone's weights; by default as they are. The heads are in float32.

    Returns:
        The configuration that was written.

    Raises:
        ConversionError: If the checkpoint does not fit, with the names of missing and left-over parameters.
    """
    state_dict, left_over = rename_keys(read_state_dict(checkpoint))
    if _EMBEDDINGS not in state_dict:
        raise ConversionError(
            f"Checkpoint {checkpoint}: no token embeddings. Found: {_some(left_over + list(state_dict))}."
        )
    head_type, dimensions = _head_and_dimensions(state_dict, prompts, head_type)
    processor = _published_processor(checkpoint, backbone, dimensions, prompts)
    config = _published_config(state_dict, backbone, dimensions, head_type, aggregation)
    model = _build(config, state_dict, left_over, checkpoint, dtype)
    rows = len(state_dict[_EMBEDDINGS])
    if max(processor.reward_token_ids) >= rows:
        raise ConversionError(
            f"The tokenizer of {backbone} puts <|Reward|> at {max(processor.reward_token_ids)}, the checkpoint has "
            f"{rows} embeddings. Pass the backbone that it was trained from."
        )
    model.save_pretrained(output)
    processor.save_pretrained(output)
    return config


def _published_processor(
    checkpoint: str | Path, backbone: str | Path, dimensions: list[str], prompts: Prompts
) -> EditRewardProcessor:
    tokenizer = None
    if (tokenizer_folder := Path(checkpoint) / "tokenizer").is_dir():
        tokenizer = load_tokenizer(tokenizer_folder)
    return EditRewardProcessor.from_backbone(
        backbone,
        tokenizer=tokenizer,
        dimensions=dimensions,
        layout="paper",
        position_scheme="sequential",
        templates={name: prompts.templates[name] for name in dimensions},
        reward_suffix=prompts.reward_suffix,
        system_prompt=prompts.system_prompt,
        image_mode="reference",
        instruction_mode="reference",
    )


def _head_and_dimensions(
    state_dict: dict[str, torch.Tensor], prompts: Prompts, head_type: str | None
) -> tuple[str, list[str]]:
    """The head type, if none is given the one that fits, and the dimensions that it scores."""
    if head_type is None:
        has_two = any(key.startswith("heads.mlps.1.") for key in state_dict)
        head_type = "multi" if has_two else "single" if set(prompts.templates) == {"overall"} else "shared"
    dimensions = [name for name in prompts.templates if (name == "overall") == (head_type == "single")]
    # The published heads have an order of their own, whatever that of a templates file.
    published = list(TEMPLATE_CONSTANTS.values())
    dimensions.sort(key=lambda name: published.index(name) if name in published else len(published))
    if head_type == "single" and not dimensions:
        raise ConversionError("A single-head model needs the template 'overall'.")
    return head_type, dimensions


def _published_config(
    state_dict: dict[str, torch.Tensor],
    backbone: str | Path,
    dimensions: list[str],
    head_type: str,
    aggregation: str,
) -> EditRewardConfig:
    backbone_config = AutoConfig.from_pretrained(backbone, trust_remote_code=False)
    # Published vocabularies grow by the reward token, or shrink from the backbone's padded size to the tokenizer's.
    backbone_config.get_text_config().vocab_size = len(state_dict[_EMBEDDINGS])
    widths = [state_dict.get(f"heads.mlps.0.{layer}.weight") for layer in (0, 3)]
    if any(weight is None for weight in widths):
        raise ConversionError(
            "The checkpoint has no reward head of the published form (linear layers 0, 3 and 5 in `rm_heads.head_0` "
            f"or `rm_head`). Found: {_some([key for key in state_dict if key.startswith('heads.')])}."
        )
    return EditRewardConfig(
        backbone_config=backbone_config,
        dimensions=dimensions,
        head_type=head_type,
        head_hidden_sizes=[len(weight) for weight in widths if weight is not None],
        aggregation=aggregation,
        uncertainty_aggregation="reference",
        layout="paper",
        position_scheme="sequential",
    )


def _build(
    config: EditRewardConfig,
    state_dict: dict[str, torch.Tensor],
    left_over: list[str],
    checkpoint: str | Path,
    dtype: torch.dtype | None,
) -> EditRewardModel:
    """The model with the checkpoint's own tensors, after a check that they fit."""
    dtype = dtype or state_dict[_EMBEDDINGS].dtype
    config.dtype = dtype
    with torch.device("meta"):
        model = EditRewardModel(config)
    expected = model.state_dict()
    missing = [key for key in expected if key not in state_dict]
    left_over = left_over + [key for key in state_dict if key not in expected]
    wrong = [
        f"{key} ({tuple(state_dict[key].shape)}, not {tuple(value.shape)})"
        for key, value in expected.items()
        if key in state_dict and state_dict[key].shape != value.shape
    ]
    faults = {"missing": missing, "left over": left_over, "of another shape": wrong}
    if any(faults.values()):
        listed = "; ".join(f"{what}: {_some(keys)}" for what, keys in faults.items() if keys)
        raise ConversionError(f"Checkpoint {checkpoint} does not fit the backbone and heads. Parameters {listed}.")
    for key, tensor in state_dict.items():
        state_dict[key] = tensor.to(torch.float32 if key.startswith("heads.") else dtype).contiguous()
        if not torch.isfinite(state_dict[key]).all():
            raise ConversionError(f"Checkpoint {checkpoint}: {key} holds NaN or infinite values.")
    model.load_state_dict(state_dict, assign=True)
    return model


def _some(names: Sequence[object]) -> str:
    shown = ", ".join(map(str, names[:8]))
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "nothing"
