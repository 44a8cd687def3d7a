"""The YAML file of editors as `configs/editors.yaml` describes it: its entries, checked by pydantic."""

import re
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, Field, StrictBool, model_validator

from editreward.simulation import EDITORS
from editreward.validation import KNOWN_ENTRIES_ONLY, validated

RESERVED_ARGUMENTS = ("generator", "num_images_per_prompt", "output_type", "return_dict")
"""Arguments of a pipeline that the package sets itself, or whose defaults it relies on."""

SIDE_MULTIPLE = 16
"""Sides of resized source images are multiples of it; no pipeline asks for more."""


def _check_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"must be different numbers, not {list(seeds)}")
    return seeds


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise ValueError(f"{name!r} may have letters, digits, '.', '_' and '-' only")
    return name


def _check_prompt(prompt: str) -> str:
    if "{instruction}" not in prompt:
        raise ValueError("must have {instruction} in it")
    return prompt


Seed: TypeAlias = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Seeds: TypeAlias = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_check_seeds)]
Share: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=1)]


class PipelineEntry(BaseModel):
    """A pipeline; the fields are those of `editreward.editors.editors.PipelineEditor`."""

    model_config = KNOWN_ENTRIES_ONLY
    name: str
    seeds: Seeds
    pipeline: str
    checkpoint: str
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    placement: Literal["device", "model_offload", "sequential_offload"] = "device"
    load: dict[str, object] = {}
    call: dict[str, object] = {}
    image_argument: str = "image"
    prompt_argument: str = "prompt"
    image_list: StrictBool = False
    prompt: Annotated[str, AfterValidator(_check_prompt)] = "{instruction}"
    pixels: Annotated[int, Field(strict=True, ge=SIDE_MULTIPLE**2)] | None = None

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        taken = {*RESERVED_ARGUMENTS, self.image_argument, self.prompt_argument} & self.call.keys()
        if taken:
            raise ValueError(f"'call' must not set {', '.join(sorted(taken))}")
        if self.load.keys() & {"torch_dtype", "dtype"}:
            raise ValueError("'dtype' stands beside 'load', not in it")
        return self


class Skill(BaseModel):
    """How well a simulated editor does."""

    model_config = KNOWN_ENTRIES_ONLY
    instruction_following: Share
    visual_quality: Share


class SimulatedEntry(BaseModel):
    """An editor of simulated scenes: one of those that the simulation knows by name, or one with its own skill."""

    model_config = KNOWN_ENTRIES_ONLY
    name: str
    seeds: Seeds
    simulated: Skill

    @model_validator(mode="before")
    @classmethod
    def _skill_by_name(cls, entry: dict[str, object]) -> dict[str, object]:
        if entry["simulated"] is not True:
            return entry
        if entry["name"] not in EDITORS:
            raise ValueError(f"'simulated: true' is for {', '.join(EDITORS)}; give others a skill")
        following, quality = EDITORS[entry["name"]]
        return {**entry, "simulated": {"instruction_following": following, "visual_quality": quality}}


class FolderEntry(BaseModel):
    """Images that were made elsewhere."""

    model_config = KNOWN_ENTRIES_ONLY
    name: str
    seeds: Seeds
    images: str
    files: str = "{group_id}-{seed}.png"

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        if "{group_id}" not in self.files or (len(self.seeds) > 1 and "{seed}" not in self.files):
            raise ValueError("'files' must have {group_id} in it, and {seed} where there are several seeds")
        return self


Entry: TypeAlias = PipelineEntry | SimulatedEntry | FolderEntry

KINDS: dict[str, type[Entry]] = {"pipeline": PipelineEntry, "simulated": SimulatedEntry, "images": FolderEntry}
"""Kinds of editors by the key that only they have."""


class NamedEntry(BaseModel):
    """What entries of all kinds have; the rest is checked by kind."""

    model_config = {"extra": "allow"}
    name: Annotated[str, AfterValidator(_check_name)]


class EditorsFile(BaseModel):
    """The whole file.

    Args:
        editors: the editors.
        seeds: of the editors that have none of their own.
    """

    model_config = KNOWN_ENTRIES_ONLY
    editors: Annotated[list[NamedEntry], Field(min_length=1)]
    seeds: object = None

    def entries(self, where: str) -> list[Entry]:
        """The editors, each checked by its kind.

        Raises:
            ValueError: one is not as described, or two have one name; `where`, editor and key are named.
        """
        entries: list[Entry] = []
        for entry in self.editors:
            if entry.name.lower() in {other.name.lower() for other in entries}:
                raise ValueError(f"{where}: two editors are named {entry.name!r}.")
            content = entry.model_dump()
            if content.get("seeds", self.seeds) is not None:
                content = {"seeds": self.seeds, **content}
            kinds = [kind for kind in KINDS if kind in content]
            if len(kinds) != 1:
                raise ValueError(f"{where}: editor {entry.name}: needs exactly one of the keys {', '.join(KINDS)}.")
            entries.append(validated(KINDS[kinds[0]], content, f"{where}: editor {entry.name}"))
        return entries
