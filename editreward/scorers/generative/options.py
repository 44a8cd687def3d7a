"""Generative scorers from a spec, `generative:MODEL`, or a YAML file with an entry `generative` or `editscore`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from editreward.scorers.generative.scorer import GenerativeScorer
from editreward.scorers.loading import ModelError
from editreward.scorers.registry import ScorerOptions
from editreward.validation import KNOWN_ENTRIES_ONLY, Text, validated

PROMPTS = {"generative": "editreward", "editscore": "editscore"}
"""Default prompt set by the name of the scorer."""
OWN_PROMPTS = "prompts.yaml"
"""In a folder of a model or an adapter: what it was trained to be asked, which goes before the default."""
SHARED = ("device", "dtype", "revision", "max_batch_tokens", "seed", "prompts", "passes", "temperature")
"""Options of the command line that generative scorers have."""

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class GenerativeOptions:
    """What a generative scorer can be told; see `GenerativeScorer.from_pretrained`.

    Args:
        base: folder or Hub id of the model, or of an adapter that names its base.
        adapter: folder or Hub id of a LoRA adapter.
        prompts: name or file of a prompt set; by default `prompts.yaml` of the model's folder, else `editreward`.
        passes: answers to each prompt.
        temperature, top_p, top_k, repetition_penalty: of the sampling.
        seed: of the first pass.
        mode: how answers are written.
        device, dtype: where to run, and the precision.
        revision: of the base, or of the adapter where there is one.
        image_route: how images become pixels.
        max_pixels: of an image.
        max_new_tokens: of an answer.
        max_batch_tokens: held at once.
        cache: where merged models are kept.
    """

    base: Text
    adapter: Text | None = None
    prompts: Text | None = None
    passes: Count = 1
    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0)] = 20
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    seed: int = 42
    mode: Literal["sample", "greedy", "expected", "published"] = "sample"
    device: Text | None = None
    dtype: Text | None = None
    revision: Text | None = None
    image_route: Literal["upright", "published", "published_batch"] | None = None
    max_pixels: Count | None = None
    max_new_tokens: Count | None = None
    max_batch_tokens: Count | None = None
    cache: Text | None = None


def load(name: str, argument: str | None, options: ScorerOptions) -> GenerativeScorer:
    """Made by the registry.

    Raises:
        ValueError: the spec names no model, or an option is wrong.
    """
    if not argument:
        raise ModelError(f"Name the model: {name}:FOLDER or {name}:ORG/NAME, a model or an adapter.")
    return _made(name, {"base": argument} | _given(options), f"{name}:{argument}", options)


def read(name: str, content: Mapping[str, object], path: Path, options: ScorerOptions) -> GenerativeScorer:
    """Made by the registry, of a YAML file.

    Raises:
        ValueError: an entry is wrong, or the model cannot be used.
    """
    entries = {key: value for key, value in content.items() if key != name} | {"base": content[name]}
    for key in ("base", "adapter", "prompts", "cache"):
        value = entries.get(key)
        if not isinstance(value, str):
            continue
        beside = path.parent / value
        if key == "cache" or (beside.is_file() if key == "prompts" else beside.exists()):
            entries[key] = str(beside)
    return _made(name, entries | _given(options), str(path), options)


def _given(options: ScorerOptions) -> dict[str, object]:
    return {name: value for name, value in asdict(options).items() if name in SHARED and value is not None}


def _made(name: str, entries: Mapping[str, object], where: str, options: ScorerOptions) -> GenerativeScorer:
    chosen = validated(GenerativeOptions, dict(entries), where)
    settings = {key: value for key, value in asdict(chosen).items() if key not in ("base", "device", "prompts")}
    if settings["revision"] is None:
        del settings["revision"]
    return GenerativeScorer.from_pretrained(
        chosen.base,
        prompts=chosen.prompts or _prompts_of(chosen) or PROMPTS[name],
        device=chosen.device or options.default_device,
        **settings,
    )


def _prompts_of(options: GenerativeOptions) -> str | None:
    """The prompt set that lies in the folder of the adapter or of the model."""
    folders = [Path(folder).expanduser() for folder in (options.adapter, options.base) if folder]
    return next((str(folder / OWN_PROMPTS) for folder in folders if (folder / OWN_PROMPTS).is_file()), None)
