"""Image editors: diffusers pipelines, the simulation's editors, and folders of images that were made elsewhere."""

import difflib
import importlib
import inspect
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol, TypeAlias

from PIL import Image

from editreward.editors.config import SIDE_MULTIPLE, EditorsFile, Entry, FolderEntry, SimulatedEntry
from editreward.editors.instructions import SourceRow
from editreward.simulation import ARTEFACTS, EditTask, apply_artefact, render_scene, simulate_group
from editreward.simulation.edits import realise
from editreward.simulation.groups import EDITOR_SPREAD, MINIMUM_SIZE
from editreward.validation import read_yaml
from images_editreward import image_size, load_image

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import BaseOutput

SIMULATED_ID = re.compile(r"simulated-(?:(collage)-)?(train|validation|test)-(\d{6,})")

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

    def settings(self) -> dict[str, object]:
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
    load_arguments: dict[str, object] = field(default_factory=dict)
    call_arguments: dict[str, object] = field(default_factory=dict)
    image_argument: str = "image"
    prompt_argument: str = "prompt"
    image_list: bool = False
    prompt: str = "{instruction}"
    pixels: int | None = None

    def settings(self) -> dict[str, object]:
        """See `Editor`. Where the weights lie does not count."""
        settings = asdict(self)
        for key in ("name", "seeds", "placement"):
            del settings[key]
        return settings

    def check(self) -> None:
        """See `Editor`: the class exists and takes the arguments."""
        pipeline = pipeline_class(self.pipeline)
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
        pipeline = pipeline_class(self.pipeline).from_pretrained(
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

    def settings(self) -> dict[str, object]:
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
        task, size = simulated_task(row), image_size(row.source_images[0])[1]
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

    def settings(self) -> dict[str, object]:
        """See `Editor`. The folder may move."""
        return {"files": self.files}

    def check(self) -> None:
        """See `Editor`: the folder exists."""
        if not self.folder.is_dir():
            raise FileNotFoundError(f"Editor {self.name}: there is no folder {self.folder}.")

    def load(self, device: "torch.device | None" = None) -> Edit:
        """See `Editor`."""

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
    folder = Path(file).parent
    return [_editor(entry, folder) for entry in read_yaml(file, EditorsFile).entries(str(file))]


def editor_of(spec: str, seeds: Sequence[int]) -> Editor:
    """One editor with given seeds, by a short name.

    Args:
        spec: a file as `read_editors` takes it, which has one editor, or `FILE.yaml:NAME`; or the folder or Hub id of
            a pipeline of diffusers.
        seeds: in place of its own.

    Raises:
        ValueError: the file has no such editor, or several and none is named; or images made elsewhere have no seed in
            their names.
        FileNotFoundError: there is no such file.
    """
    match = re.fullmatch(r"(.+\.ya?ml)(?::(.+))?", spec)
    if match is None:
        return PipelineEditor(Path(spec).name, tuple(seeds), "DiffusionPipeline", spec)
    editors = read_editors(match[1])
    chosen = [editor for editor in editors if match[2] in (None, editor.name)]
    if len(chosen) != 1:
        names = ", ".join(editor.name for editor in editors)
        raise ValueError(f"{spec}: name one editor, {match[1]}:NAME, of: {names}.")
    (editor,) = chosen
    if isinstance(editor, FolderEditor) and len(seeds) > 1 and "{seed}" not in editor.files:
        raise ValueError(f"Editor {editor.name}: 'files' must have {{seed}} in it, where there are several seeds.")
    assert isinstance(editor, PipelineEditor | SimulatedEditor | FolderEditor)
    return replace(editor, seeds=tuple(seeds))


def _editor(entry: Entry, folder: Path) -> Editor:
    """The editor of an entry; paths start from the file's folder."""
    if isinstance(entry, SimulatedEntry):
        skill = entry.simulated
        return SimulatedEditor(entry.name, entry.seeds, skill.instruction_following, skill.visual_quality)
    if isinstance(entry, FolderEntry):
        return FolderEditor(entry.name, entry.seeds, folder / entry.images, entry.files)
    fields = dict(entry)
    load, call, checkpoint = fields.pop("load"), fields.pop("call"), folder / fields["checkpoint"]
    if checkpoint.is_dir():
        fields["checkpoint"] = str(checkpoint.resolve())
    return PipelineEditor(**fields, load_arguments=load, call_arguments=call)


def pipeline_class(name: str) -> "type[DiffusionPipeline]":
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


def _checked_image(output: "BaseOutput") -> Image.Image:
    image = output.images[0]
    if not isinstance(image, Image.Image):
        raise TypeError(f"the pipeline returned a {type(image).__name__}, not a PIL image")
    image = load_image(image, "the image")
    if image.getbbox() is None:  # no pixel differs from zero
        raise ValueError("the image is all black, as NaN values come out; try another dtype")
    return image


@lru_cache(maxsize=8)
def _task(world: str, split: str, number: int) -> tuple[EditTask, str]:
    group = simulate_group(number, split, candidates=1, size=MINIMUM_SIZE, world=world)
    return group.task, group.instruction


def simulated_task(row: SourceRow) -> EditTask:
    """What a simulated row asks for, as data. Raises a ValueError for other rows."""
    match = SIMULATED_ID.fullmatch(row.group_id)
    if match is None:
        raise ValueError("simulated editors edit rows with the id simulated-SPLIT-SEED only")
    task, instruction = _task(match[1] or "shapes", match[2], int(match[3]))
    if instruction != row.instruction:
        raise ValueError(f"the simulated group of this id has another instruction: {instruction}")
    return task
