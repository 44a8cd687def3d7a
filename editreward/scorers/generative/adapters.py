"""Published LoRA adapters, merged into their base: every key is used, or the adapter is refused."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from editreward.files import atomic_folder, write_json
from editreward.scorers.fingerprints import content_hash, fingerprint_of, versions
from editreward.scorers.folders import cache_folder
from editreward.scorers.loading import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "merged.json"
SIDE_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
"""Of a base, beside its weights: tokenizer, image processor, chat template."""

PATTERNS = (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
OLD_NAMES = (
    (re.compile(r"^model\.(?!language_model\.|visual\.)"), "model.language_model."),
    (re.compile(r"^visual\."), "model.visual."),
)
"""Names of modules before transformers 4.52, and what they became."""


def merged_folder(
    base: str | Path,
    adapter: str | Path,
    cache: Path | None = None,
    dtype: torch.dtype | None = None,
    **hub_options: Any,
) -> Path:
    """The folder of a base with an adapter merged into it, made where it is not there.

    Args:
        base: folder or Hub id of the base.
        adapter: folder or Hub id of the adapter.
        cache: where merged models are kept; by default `merged` in `cache_folder()`.
        dtype: precision of the merged weights; by default the base's.
        hub_options: `revision` of the adapter, and `token`.

    Returns:
        A folder that holds model, tokenizer and image processor, and a manifest that says what they were made of.

    Raises:
        ModelError: the adapter does not fit the base, changes nothing, or one of the two cannot be read.
    """
    base_path = local_folder(base, "base", **{k: v for k, v in hub_options.items() if k != "revision"})
    adapter_path = local_folder(adapter, "adapter", **hub_options)
    made_of = {
        "base": str(base),
        "base_hash": _base_hash(base_path),
        "adapter": str(adapter),
        "adapter_hash": _adapter_hash(adapter_path),
        "dtype": str(dtype),
        "versions": versions("torch", "transformers"),
    }
    content = {name: value for name, value in made_of.items() if name not in ("base", "adapter")}
    name = content_hash(fingerprint_of(**content))[:24]
    cache = cache or cache_folder() / "merged"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / name
    with FileLock(cache / f"{name}.lock"):  # others wait, and then find it there
        if not (target / MANIFEST).is_file():
            merged = merge(base_path, adapter_path, dtype)
            with atomic_folder(target) as part:
                merged.save_pretrained(part)
                for pattern in SIDE_FILES:
                    for path in base_path.glob(pattern):
                        if not (part / path.name).exists() and not path.name.endswith(".index.json"):
                            (part / path.name).write_bytes(path.read_bytes())
                write_json(part / MANIFEST, made_of)
    return target


def local_folder(name: str | Path, what: str, **hub_options: Any) -> Path:
    """A folder here, or the snapshot of a Hub repository.

    Raises:
        ModelError: it is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(str(name), **hub_options))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ModelError(
            f"The {what} {name} is neither a folder nor a Hub repository that can be reached from here. Check the "
            "spelling; a private or gated one needs `hf auth login` first."
        ) from error


def base_of(folder: str | Path) -> str | None:
    """The base that an adapter's folder names, a path from the adapter's folder on if it is there; None: no adapter.

    Raises:
        ModelError: the adapter names no base.
    """
    path = Path(folder).expanduser()
    if not (path / CONFIG).is_file() or (path / "config.json").is_file():
        return None
    named = json.loads((path / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not named:
        raise ModelError(f"The adapter {folder} names no base: give the base, and this as `adapter`.")
    return str(path / named) if (path / named).is_dir() else str(named)


def merge(base: Path, adapter: Path, dtype: torch.dtype | None = None) -> "PreTrainedModel":
    """A base with an adapter added to its weights, on the CPU, in the base's precision or another.

    Raises:
        ModelError: as `merged_folder`.
    """
    from transformers import AutoModelForImageTextToText

    config, weights = _read(adapter)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype or "auto")
    kind = (config.get("auto_mapping") or {}).get("base_model_class")
    if kind not in (None, type(model).__name__):
        raise ModelError(
            f"The adapter {adapter} sits on a {kind}, and {base} is a {type(model).__name__}. Name the base that it "
            "was trained on."
        )
    modules = dict(model.named_modules())
    found = _by_module(weights, modules, f"The adapter {adapter}", str(base))
    missing = sorted(_expected(config, modules, f"The adapter {adapter}") - set(found))
    if missing:
        raise ModelError(
            f"The adapter {adapter} lacks weights of {missing[0]}{_more(missing)}, which its adapter_config.json "
            "names. Copy it again."
        )
    if not any(parts["lora_B"].any() for parts in found.values()):
        raise ModelError(
            f"The adapter {adapter} changes nothing: all its lora_B are zero, as before the first step of training. "
            "Name the adapter that was trained, or none."
        )
    for name, parts in found.items():
        _add(modules[name], parts, _scale(config, name, parts, adapter), f"{adapter} has for {name}", str(base))
    return model


@torch.no_grad()
def _add(module: nn.Module, parts: Mapping[str, Tensor], scale: float, what: str, base: str) -> None:
    """Add the product of an adapter's matrices to a layer's weights, in float32 and rounded once."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    shapes = [list(parts[part].shape) for part in ("lora_B", "lora_A")]
    if [shapes[0][0], shapes[1][1]] != list(weight.shape):
        raise ModelError(
            f"The adapter {what} matrices of {shapes[0]} and {shapes[1]}, whose product does not fit the "
            f"{list(weight.shape)} of the base {base}: it belongs to another base."
        )
    product = parts["lora_B"].float() @ parts["lora_A"].float()
    weight.copy_((weight.float() + scale * product).to(weight.dtype))


def _scale(config: Mapping[str, Any], name: str, parts: Mapping[str, Tensor], adapter: Path) -> float:
    """What the product is multiplied by: alpha / r, with rsLoRA (arXiv 2312.03732) alpha / sqrt(r).

    Raises:
        ModelError: the rank is not that of the configuration.
    """
    rank, alpha = (_of_pattern(config, pattern, name, whole) for pattern, whole in PATTERNS)
    ranks = {parts["lora_A"].shape[0], parts["lora_B"].shape[1]}
    if ranks != {rank}:
        raise ModelError(
            f"The adapter {adapter} has matrices of rank {max(ranks)} for {name}, where its adapter_config.json says "
            f"{rank}: the two belong to different adapters."
        )
    return float(alpha) / (float(rank) ** 0.5 if config.get("use_rslora") else float(rank))


def _of_pattern(config: Mapping[str, Any], pattern: str, name: str, whole: str) -> Any:
    """A setting of a module: that of the first pattern its name ends with, by PEFT's rule, else the adapter's."""
    patterns = config.get(pattern) or {}
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?{key}$", name)), config.get(whole))


def _read(adapter: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of an adapter, as its files have them."""
    path = adapter / CONFIG
    if not path.is_file():
        raise ModelError(f"{adapter} is no adapter: it has no adapter_config.json.")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kind = "DoRA" if config.get("use_dora") else config.get("peft_type")
    has_more = config.get("bias", "none") != "none" or config.get("modules_to_save") or config.get("fan_in_fan_out")
    if kind != "LORA" or has_more:
        raise ModelError(
            f"The adapter {adapter} is no plain LoRA ({kind}, bias {config.get('bias')!r}, modules_to_save "
            f"{config.get('modules_to_save')}). Merge it by the program that made it, and name the merged model."
        )
    try:
        return config, load_file(adapter / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The adapter {adapter} has no readable {WEIGHTS} ({error}). Copy it again.") from error


def _by_module(
    weights: Mapping[str, Tensor], modules: Mapping[str, nn.Module], adapter: str, base: str
) -> dict[str, dict[str, Tensor]]:
    """An adapter's two matrices of each module of the base, whichever transformers saved it.

    Raises:
        ModelError: a key is no such matrix, the base has no such module, or one of the two is missing.
    """
    found: dict[str, dict[str, Tensor]] = {}
    unexpected = []
    for key, weight in weights.items():
        match = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.(lora_[AB])(?:\.default)?\.weight", key)
        name = match and _present(match.group(1), modules)
        if match and name:
            found.setdefault(name, {})[match.group(2)] = weight
        else:
            unexpected.append(key)
    if unexpected:
        raise ModelError(
            f"{adapter} has weights that the base {base} has no place for: {unexpected[0]}{_more(unexpected)}. Name "
            "the base that it was trained on."
        )
    for name, parts in found.items():
        if len(parts) < 2:
            raise ModelError(f"{adapter} has only {next(iter(parts))} of {name}. Copy it again.")
    return found


def _present(name: str, modules: Mapping[str, nn.Module]) -> str | None:
    """A linear layer by its present name or its name before transformers 4.52; None: there is none."""
    names = [name, *(pattern.sub(new, name) for pattern, new in OLD_NAMES)]
    return next((one for one in names if isinstance(modules.get(one), nn.Linear)), None)


def _expected(config: Mapping[str, Any], modules: Mapping[str, nn.Module], adapter: str) -> set[str]:
    """Linear layers that an adapter's configuration names, by their present or their former names."""
    target = config.get("target_modules")
    linear = {name for name, module in modules.items() if isinstance(module, nn.Linear)}
    if target == "all-linear":
        return {name for name in linear if name != "lm_head"}
    if isinstance(target, str):
        return {name for name in linear if re.fullmatch(target, name) or re.fullmatch(target, _former(name))}
    if not isinstance(target, list):
        raise ModelError(f"{adapter} has no `target_modules` in its adapter_config.json. Copy it again.")
    names = {name for name in linear if any(f".{name}".endswith(f".{one}") for one in target)}
    excluded = config.get("exclude_modules") or []
    if isinstance(excluded, str):
        return {name for name in names if not re.fullmatch(excluded, name)}
    return {name for name in names if not any(f".{name}".endswith(f".{one}") for one in excluded)}


def _former(name: str) -> str:
    """A module's name before transformers 4.52."""
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    return name.replace("model.language_model.", "model.", 1)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _adapter_hash(adapter: Path) -> str:
    files = [path for path in (adapter / CONFIG, adapter / WEIGHTS) if path.is_file()]
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()


def _base_hash(base: Path) -> str:
    """Of its small files the content, of its weights name, size and time: they may be as large as a disk is slow."""
    parts: list[str | bytes] = []
    for path in sorted(base.iterdir()):
        if path.suffix in (".json", ".jinja", ".txt"):
            parts += [path.name, path.read_bytes()]
        elif path.suffix == ".safetensors":
            found = path.stat()
            parts += [path.name, f"{found.st_size} {found.st_mtime_ns}"]
    return content_hash(*parts)
