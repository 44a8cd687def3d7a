"""What a training loop hands over: images of any common form, gathered into edit groups."""

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from editreward.groups import EditGroup
from editreward.groups.group import ImageInput
from editreward.scorers.fingerprints import content_hash
from images_editreward import load_image


@dataclass(frozen=True)
class Batch:
    """Edits, gathered into groups.

    Attributes:
        groups: of edits of one source and one instruction, in order of appearance.
        places: for each group the positions of its candidates among the edits.
        group_of: for each edit the position of its group, -1 for one that is in none; shape `(edits,)`.
        failed: why an edit is in no group, by position.
    """

    groups: tuple[EditGroup, ...]
    places: tuple[tuple[int, ...], ...]
    group_of: np.ndarray
    failed: dict[int, str]


def gather(sources: Sequence[object], edited: Sequence[object], instructions: Sequence[str]) -> Batch:
    """Gather edits into groups by source image and instruction; never by the text alone.

    Args:
        sources: for each edit its source, or a list of several; an array or tensor with one image per edit, too.
        edited: the edits, a list of images or one array or tensor `(edits, ...)`.
        instructions: for each edit what it was to do.

    Raises:
        ValueError: the arguments have different lengths.
        TypeError: an argument is no sequence, or an instruction no text.
    """
    named = {"sources": sources, "edited": edited, "instructions": instructions}
    for name, value in named.items():
        if isinstance(value, str | bytes | Image.Image) or not hasattr(value, "__len__"):
            raise TypeError(f"`{name}` has one entry per edit; it is a {type(value).__name__}.")
    sizes = {name: len(value) for name, value in named.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"Different numbers of edits: {', '.join(f'{n} in {name}' for name, n in sizes.items())}.")
    opened: dict[int, tuple[object, ImageInput, str]] = {}  # a loop repeats the source's object for each of its edits
    groups: dict[tuple[str, ...], EditGroup] = {}
    members: dict[tuple[str, ...], dict[int, ImageInput]] = {}
    failed: dict[int, str] = {}
    for index, (source, edit, instruction) in enumerate(zip(sources, edited, instructions, strict=True)):
        if not isinstance(instruction, str):
            raise TypeError(f"Instruction {index} is a {type(instruction).__name__}, not a text.")
        try:
            before = [_opened(one, f"source {index}", opened) for one in _as_list(source)]
            image = to_image(edit, f"edited image {index}")
        except ValueError as error:
            failed[index] = str(error)
            continue
        key = (instruction, *(digest for _, digest in before))
        groups.setdefault(key, EditGroup([one for one, _ in before], instruction, []))
        members.setdefault(key, {})[index] = image
    of = np.full(len(instructions), -1)
    for number, places in enumerate(members.values()):
        of[list(places)] = number
    made = (EditGroup(groups[key].sources, key[0], list(images.values())) for key, images in members.items())
    return Batch(tuple(made), tuple(tuple(images) for images in members.values()), of, failed)


def to_image(image: object, name: str) -> ImageInput:
    """An image as scorers take it.

    Args:
        image: PIL, the bytes of a file, base64 of these (also as a data URI), a path, a uint8 array or tensor
            (height, width, channels) or (channels, height, width), or floats of 0..1 in one of these shapes.
        name: what errors call it.

    Raises:
        ValueError: it cannot be an image.
    """
    if isinstance(image, str):
        return Path(image) if os.path.isfile(image) else from_base64(image, name)
    if isinstance(image, Image.Image | bytes | Path):
        return image
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[0] in (1, 3, 4) and image.shape[-1] > 4:
        image = np.moveaxis(image, 0, -1)
    return load_image(image, name)


def from_base64(text: str, name: str) -> bytes:
    """The bytes of a base64 text or data URI.

    Raises:
        ValueError: it is neither.
    """
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise ValueError(f"{name} is a data URI that is not base64.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name} is neither base64 nor a file that exists.") from error


def _as_list(source: object) -> list[object]:
    return list(source) if isinstance(source, list | tuple) else [source]


def _opened(image: object, name: str, known: dict[int, tuple[object, ImageInput, str]]) -> tuple[ImageInput, str]:
    """A source with a hash of its content; the same object is looked at once.

    The object is kept: else its id is given away again.
    """
    if id(image) not in known or not isinstance(image, Image.Image | bytes | str):
        made = to_image(image, name)
        known[id(image)] = image, made, digest_of(made, name)
    return known[id(image)][1:]


def digest_of(image: ImageInput, name: str) -> str:
    """A hash of a file's bytes or of an image's pixels.

    Raises:
        ValueError: it cannot be read.
    """
    if isinstance(image, bytes):
        return content_hash(image)
    if isinstance(image, Path):
        return content_hash(file_bytes(image, name))
    pixels = load_image(image, name)
    return content_hash(f"{pixels.size}", pixels.tobytes())


def file_bytes(path: Path, name: str) -> bytes:
    """The bytes of an image's file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error}") from error
