"""Image editors: diffusers pipelines, the simulation's editors, and folders of images that were made elsewhere."""

import difflib
import importlib
import inspect
import io
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import yaml
from PIL import Image

from configuration_editreward import check_choice
from editreward.editors.instructions import SourceRow
from editreward.simulation import ARTEFACTS, EDITORS, EditTask, apply_artefact, render_scene, simulate_group
from editreward.simulation.edits import realise
from editreward.simulation.groups import EDITOR_SPREAD, MINIMUM_SIZE

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
PLACEMENTS = ("device", "model_offload", "sequential_offload")
RESERVED_ARGUMENTS = ("generator", "num_images_per_prompt", "output_type", "return_dict")
"""Arguments of a pipeline that this module sets itself, or whose defaults it relies on."""

SIDE_MULTIPLE = 16
"""Sides of resized source images are multiples of it; no pipeline asks for more."""

SIMULATED_ID = re.compile(r"simulated-(train|validation|test)-(\d{6,})")

Edit: TypeAlias = Callable[[SourceRow, int], Image.Image]
"""Makes the candidate of a row with a seed. It raises whatever goes wrong: that candidate has failed."""


class Editor(Protocol):
    """What the run asks of an editor."""

    @property
    def name(self) -> str:
        """Goes into the column `editor`; letters, digits, ".", "_" and "-"."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the candidates of every row."""

    def settings(self) -> dict[str, Any]:
        """What decides the images, as JSON: candidates made with other settings are not this editor's."""

    def check(self) -> None:
        """Raise a ValueError or OSError if it cannot work, as far as can be told without loading it."""

    def load(self, device: "torch.device") -> Edit:
        """Make it ready. What it holds is freed with the function that it returns."""


@dataclass(frozen=True)
class PipelineEditor:
    """A pipeline of diffusers, or of any package, that takes an image and a prompt.

    Args:
        name: name of the editor.
        seeds: seeds of `torch.Generator`, one candidate each.
        pipeline: a class of diffusers, or the dotted path of another package's class with the same interface.
        checkpoint: Hub id or folder.
        dtype: "float32", "bfloat16" or "float16". By default bfloat16, on the CPU float32.
        placement: "device"; or "model_offload" and "sequential_offload", which keep the weights in main memory and
            bring a model, or a layer, to the GPU when it is its turn: slower, for GPUs that are too small.
        load: more arguments of `from_pretrained`, such as `revision` and `variant`.
        call: more arguments of the pipeline's call, such as `num_inference_steps`.
        image_argument, prompt_argument: what the call's arguments are named.
        image_list: hand the source images over as a list. Without it, rows with several source images fail.
        prompt: the prompt, in which `{instruction}` stands for the instruction.
        pixels: resize source images to about so many pixels. By default they are left to the pipeline.
    """

    name: str
    seeds: tuple[int, ...]
    pipeline: str
    checkpoint: str
    dtype: str | None = None
    placement: str = "device"
    load_arguments: dict[str, Any] = field(default_factory=dict)
    call_arguments: dict[str, Any] = field(default_factory=dict)
    image_argument: str = "image"
    prompt_argument: str = "prompt"
    image_list: bool = False
    prompt: str = "{instruction}"
    pixels: int | None = None

    def settings(self) -> dict[str, Any]:
        """See `Editor`. Where the weights lie does not count."""
        settings = asdict(self)
        for key in ("name", "seeds", "placement"):
            del settings[key]
        return settings

    def check(self) -> None:
        """See `Editor`: the class exists and takes the arguments."""
        pipeline = _pipeline_class(self.pipeline)
        if not any("__call__" in vars(base) for base in pipeline.__mro__):
            return  # such as DiffusionPipeline, which becomes what the checkpoint says
        parameters = inspect.signature(pipeline.__call__).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return
        for argument in (self.image_argument, self.prompt_argument, *self.call_arguments):
            if argument not in parameters:
                known = ", ".join(name for name in parameters if name != "self")
                raise ValueError(f"Editor {self.name}: {self.pipeline} takes no {argument!r}, but: {known}.")

    def load(self, device: "torch.device") -> Edit:
        """See `Editor`."""
        import torch

        dtype = self.dtype or ("float32" if device.type == "cpu" else "bfloat16")
        pipeline = _pipeline_class(self.pipeline).from_pretrained(
            self.checkpoint, torch_dtype=getattr(torch, dtype), **self.load_arguments
        )
        pipeline.set_progress_bar_config(disable=True)
        if self.placement == "device":
            pipeline.to(device)
        elif self.placement == "model_offload":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.enable_sequential_cpu_offload(device=device)

        def edit(row: SourceRow, seed: int) -> Image.Image:
            images = row.images()
            if self.pixels is not None:
                images = [resize(image, self.pixels) for image in images]
            if len(images) > 1 and not self.image_list:
                raise ValueError(f"the row has {len(images)} source images, which needs image_list: true")
            output = pipeline(
                **{
                    self.image_argument: images if self.image_list else images[0],
                    self.prompt_argument: self.prompt.replace("{instruction}", row.instruction),
                    "generator": torch.Generator("cpu").manual_seed(seed),  # the same noise on every device
                    **self.call_arguments,
                }
            )
            if any(getattr(output, "nsfw_content_detected", None) or ()):
                raise ValueError("the pipeline's safety checker withheld the image")
            return _checked_image(output)

        return edit


@dataclass(frozen=True)
class SimulatedEditor:
    """An editor of simulated scenes, who carries out instructions as well as its skill has it.

    Its candidates' scores are drawn with the weights by which the simulation draws an editor's name for given scores:
    exp(-d^2 / (2 x 0.35^2)), where d is the distance of the scores, mapped onto 0..1, from the skill.

    Args:
        name: name of the editor.
        seeds: one candidate each.
        instruction_following, visual_quality: its skill, 0..1.
    """

    name: str
    seeds: tuple[int, ...]
    instruction_following: float
    visual_quality: float

    def settings(self) -> dict[str, Any]:
        """See `Editor`."""
        return {"instruction_following": self.instruction_following, "visual_quality": self.visual_quality}

    def check(self) -> None:
        """See `Editor`: always ready."""

    def scores(self, group_id: str, seed: int) -> dict[str, int]:
        """The true scores, 1..4, of the candidate of a group with a seed: what perfect annotators would say."""
        skill = (self.instruction_following, self.visual_quality)
        points = [(first, second) for first in range(1, 5) for second in range(1, 5)]
        weights = [
            math.exp(-(math.dist(((first - 1) / 3, (second - 1) / 3), skill) ** 2) / (2 * EDITOR_SPREAD**2))
            for first, second in points
        ]
        first, second = Random(f"{group_id} {self.name} {seed} scores").choices(points, weights)[0]
        return {"instruction_following": first, "visual_quality": second}

    def load(self, device: "torch.device | None" = None) -> Edit:
        """See `Editor`."""
        return self._edit

    def _edit(self, row: SourceRow, seed: int) -> Image.Image:
        task, size = _simulated_task(row), Image.open(io.BytesIO(row.source_images[0])).width
        scores = self.scores(row.group_id, seed)
        stream = f"{row.group_id} {self.name} {seed}"
        scene = realise(task, scores["instruction_following"], Random(f"{stream} scene")).scene
        image = render_scene(scene, size)
        quality = scores["visual_quality"]
        if quality == 4:
            return image
        pixels = Random(f"{stream} pixels")
        return apply_artefact(image, pixels.choice(tuple(ARTEFACTS)), quality, pixels)


@dataclass(frozen=True)
class FolderEditor:
    """Images that were made elsewhere, by an editor that has no pipeline in Python for example.

    Args:
        name: name of the editor that made them.
        seeds: one image of each row for every seed.
        folder: where they are.
        files: path of an image in the folder, in which `{group_id}` and `{seed}` stand for these.
    """

    name: str
    seeds: tuple[int, ...]
    folder: Path
    files: str = "{group_id}-{seed}.png"

    def settings(self) -> dict[str, Any]:
        """See `Editor`. The folder may move."""
        return {"files": self.files}

    def check(self) -> None:
        """See `Editor`: the folder exists."""
        if not self.folder.is_dir():
            raise FileNotFoundError(f"Editor {self.name}: there is no folder {self.folder}.")

    def load(self, device: "torch.device | None" = None) -> Edit:
        """See `Editor`."""
        from processing_editreward import load_image

        def edit(row: SourceRow, seed: int) -> Image.Image:
            file = self.folder / self.files.replace("{seed}", str(seed)).replace("{group_id}", row.group_id)
            if not file.resolve().is_relative_to(self.folder.resolve()):
                raise ValueError(f"the group's id leads out of {self.folder}")
            return load_image(file, "the image")

        return edit


def read_editors(file: str | os.PathLike[str]) -> list[Editor]:
    """Read the editors that a YAML file lists, as `configs/editors.yaml` describes it.

    Raises:
        ValueError: the file is not as described; the editor and the key are named.
        FileNotFoundError: there is no such file.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"There is no file {file} of editors; configs/editors.yaml in the repository is an example."
        )
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    try:
        return _editors(content, Path(file).parent)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _editors(content: Any, folder: Path) -> list[Editor]:
    if not isinstance(content, dict) or not isinstance(content.get("editors"), list) or not content["editors"]:
        raise ValueError("there must be a list 'editors'")
    _no_others(content, {"editors", "seeds"}, "the file")
    editors: list[Editor] = []
    for number, entry in enumerate(content["editors"], start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ValueError(f"editor {number} has no name")
        name = entry["name"]
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
            raise ValueError(f"the name {name!r} of an editor may have letters, digits, '.', '_' and '-' only")
        if name.lower() in {editor.name.lower() for editor in editors}:
            raise ValueError(f"two editors are named {name!r}")
        try:
            editors.append(_editor({"seeds": content.get("seeds"), **entry}, folder))
        except ValueError as error:
            raise ValueError(f"editor {name}: {error}") from error
    return editors


def _editor(entry: dict[str, Any], folder: Path) -> Editor:
    kinds: dict[str, Callable[[str, tuple[int, ...], dict[str, Any], Path], Editor]] = {
        "pipeline": _pipeline_editor,
        "simulated": _simulated_editor,
        "images": _folder_editor,
    }
    found = [kind for kind in kinds if kind in entry]
    if len(found) != 1:
        raise ValueError(f"needs exactly one of the keys {', '.join(kinds)}")
    seeds = entry.pop("seeds")
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"'seeds', its own or the file's, must be a list of different numbers >= 0, not {seeds!r}")
    return kinds[found[0]](entry.pop("name"), tuple(seeds), entry, folder)


def _pipeline_editor(name: str, seeds: tuple[int, ...], entry: dict[str, Any], folder: Path) -> PipelineEditor:
    kinds: dict[str, type | tuple[type, ...]] = {
        "pipeline": str,
        "checkpoint": str,
        "dtype": str,
        "placement": str,
        "load": dict,
        "call": dict,
        "image_argument": str,
        "prompt_argument": str,
        "image_list": bool,
        "prompt": str,
        "pixels": int,
    }
    _typed(entry, kinds)
    if "checkpoint" not in entry:
        raise ValueError("needs a 'checkpoint'")
    if "dtype" in entry:
        check_choice("dtype", entry["dtype"], DTYPES)
    check_choice("placement", entry.get("placement", "device"), PLACEMENTS)
    if "{instruction}" not in entry.get("prompt", "{instruction}"):
        raise ValueError("'prompt' must have {instruction} in it")
    if entry.get("pixels", SIDE_MULTIPLE**2) < SIDE_MULTIPLE**2:
        raise ValueError(f"'pixels' must be at least {SIDE_MULTIPLE**2}")
    load, call = entry.pop("load", {}), entry.pop("call", {})
    used = {*RESERVED_ARGUMENTS, entry.get("image_argument", "image"), entry.get("prompt_argument", "prompt")}
    if used & call.keys():
        raise ValueError(f"'call' must not set {', '.join(sorted(used & call.keys()))}")
    if load.keys() & {"torch_dtype", "dtype"}:
        raise ValueError("'dtype' stands beside 'load', not in it")
    if (folder / entry["checkpoint"]).is_dir():
        entry["checkpoint"] = str((folder / entry["checkpoint"]).resolve())
    return PipelineEditor(name, seeds, **entry, load_arguments=load, call_arguments=call)


def _simulated_editor(name: str, seeds: tuple[int, ...], entry: dict[str, Any], folder: Path) -> SimulatedEditor:
    _no_others(entry, {"simulated"}, "a simulated editor")
    skill = entry["simulated"]
    if skill is True:
        if name not in EDITORS:
            raise ValueError(f"'simulated: true' is for {', '.join(EDITORS)}; give others a skill")
        return SimulatedEditor(name, seeds, *EDITORS[name])
    names = {"instruction_following", "visual_quality"}
    if not isinstance(skill, dict) or skill.keys() != names:
        raise ValueError(f"'simulated' must be true or have {' and '.join(sorted(names))}, each from 0 to 1")
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in skill.values()):
        raise ValueError(f"a skill must be from 0 to 1: {skill}")
    return SimulatedEditor(name, seeds, float(skill["instruction_following"]), float(skill["visual_quality"]))


def _folder_editor(name: str, seeds: tuple[int, ...], entry: dict[str, Any], folder: Path) -> FolderEditor:
    _typed(entry, {"images": str, "files": str})
    files = entry.get("files", FolderEditor.files)
    if "{group_id}" not in files or (len(seeds) > 1 and "{seed}" not in files):
        raise ValueError("'files' must have {group_id} in it, and {seed} where there are several seeds")
    return FolderEditor(name, seeds, folder / entry["images"], files)


def _no_others(entry: Mapping[str, Any], known: set[str], what: str) -> None:
    unknown = [str(key) for key in entry if key not in known]
    if unknown:
        raise ValueError(f"{what} has no key {', '.join(unknown)}; there are: {', '.join(sorted(known))}")


def _typed(entry: Mapping[str, Any], kinds: Mapping[str, type | tuple[type, ...]]) -> None:
    _no_others(entry, {*kinds}, "such an editor")
    for key, value in entry.items():
        kind = kinds[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(f"{key!r} must be a {getattr(kind, '__name__', kind)}, not {value!r}")


def _pipeline_class(name: str) -> Any:
    module_name, _, class_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name or "diffusers")
    except ImportError as error:
        hint = "" if module_name else ' (pip install "editreward[generate]")'
        raise ValueError(f"The pipeline {name} cannot be imported: {error}{hint}.") from error
    if not hasattr(module, class_name):
        close = difflib.get_close_matches(class_name, dir(module), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        version = getattr(module, "__version__", "")
        raise ValueError(f"{module.__name__} {version} has no pipeline {class_name}.{hint}")
    return getattr(module, class_name)


def resize(image: Image.Image, pixels: int) -> Image.Image:
    """The image at about so many pixels, its sides multiples of 16, its aspect ratio nearly kept."""
    scale = math.sqrt(pixels / (image.width * image.height)) / SIDE_MULTIPLE
    width, height = (max(1, round(side * scale)) * SIDE_MULTIPLE for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _checked_image(output: Any) -> Image.Image:
    image = output.images[0]
    if not isinstance(image, Image.Image):
        raise TypeError(f"the pipeline returned a {type(image).__name__}, not a PIL image")
    image = image.convert("RGB")
    if image.getbbox() is None:  # no pixel differs from zero
        raise ValueError("the image is all black, as NaN values come out; try another dtype")
    return image


@lru_cache(maxsize=8)
def _task(split: str, number: int) -> tuple[EditTask, str]:
    group = simulate_group(number, split, candidates=1, size=MINIMUM_SIZE)
    return group.task, group.instruction


def _simulated_task(row: SourceRow) -> EditTask:
    match = SIMULATED_ID.fullmatch(row.group_id)
    if match is None:
        raise ValueError("simulated editors edit rows with the id simulated-SPLIT-SEED only")
    task, instruction = _task(match[1], int(match[2]))
    if instruction != row.instruction:
        raise ValueError(f"the simulated group of this id has another instruction: {instruction}")
    return task
