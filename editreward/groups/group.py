"""The edit group: a source, an instruction, and the edited images that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from PIL import Image

    from editreward.groups.rows import GroupRow

ImageInput: TypeAlias = "Image.Image | np.ndarray | torch.Tensor | str | Path | bytes | GroupRow"
"""An image: PIL, array, tensor, file path, URL, the bytes of a file, or `{"bytes", "path"}` of a dataset's row."""


@dataclass(frozen=True)
class EditGroup:
    """One source (one image or several), one instruction, and N edited images, the candidates.

    Attributes:
        sources: the image before the edit, or several for an edit of several images.
        instruction: what the edits were to do.
        edited: the candidates.
        group_id: what to call the group in messages; empty where nothing is known.

    Raises:
        TypeError: `sources` or `edited` is a single image.
    """

    sources: Sequence[ImageInput]
    instruction: str
    edited: Sequence[ImageInput]
    group_id: str = ""

    def __post_init__(self) -> None:
        for name in ("sources", "edited"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                raise TypeError(f"`{name}` of an EditGroup is a tuple of images, not a {type(value).__name__}.")
            object.__setattr__(self, name, tuple(value))

    def __repr__(self) -> str:
        """Without the images, which may be megabytes of bytes."""
        name = f"{self.group_id!r}, " if self.group_id else ""
        return f"EditGroup({name}{len(self.sources)} source, {len(self.edited)} edited, {self.instruction!r})"

    @property
    def source(self) -> ImageInput | list[ImageInput]:
        """The source as the processor takes it: the image, or a list of several."""
        return list(self.sources) if len(self.sources) != 1 else self.sources[0]

    @property
    def fault(self) -> str:
        """Why no scorer can score the group; empty if nothing is missing."""
        if not self.sources:
            return "source is an empty list. Pass the image that was edited."
        if not isinstance(self.instruction, str) or not self.instruction.strip():
            return "instruction is empty. Say what the edit was meant to do."
        if not self.edited:
            return "edited is an empty list. Pass at least one edited image."
        return ""


@dataclass(frozen=True)
class EditPair:
    """What a pairwise judge sees: two edits, in the order in which they are to be shown.

    Attributes:
        sources, instruction: as for `EditGroup`.
        first, second: the edited images.
        dimension: what is asked about, "overall" or a benchmark's own name such as "prompt_following".
        ties: whether one is better or neither is; otherwise one of them is.
    """

    sources: Sequence[ImageInput]
    instruction: str
    first: ImageInput
    second: ImageInput
    dimension: str = "overall"
    ties: bool = False
