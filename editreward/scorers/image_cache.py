"""Features of source images, kept from one call to the next."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import BatchFeature

from editreward.scorers.watching import Watched, can_watch
from modeling_editreward import EditRewardModel
from processing_editreward import PackedGroup

_Key: TypeAlias = tuple[bytes, tuple[int, ...]]


class SourceImageCache:
    """What the vision tower made of the source images that were scored last.

    An image is known by the bytes of its resized and normalised patches. All are forgotten when the tower is not what
    it was, see `Watched`.

    Args:
        model: whose tower encodes.
        size: images to keep; those that were not used for longest go first.

    Raises:
        ValueError: the model cannot be watched, see `can_watch`, or `size` is less than 1.
    """

    def __init__(self, model: EditRewardModel, size: int) -> None:
        if size < 1:
            raise ValueError(f"`image_cache_size` must be positive, or 0 for no cache; got {size}.")
        self._model, self._size = model, size
        self._features: OrderedDict[_Key, Tensor] = OrderedDict()
        self._tower = Watched(model.backbone.visual)
        self._forget_if_changed()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._features)

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._features.clear()

    @torch.no_grad()
    def encode(self, groups: Sequence[PackedGroup], batch: BatchFeature) -> list[Tensor]:
        """Features of the images of a batch, those of known sources without encoding them again.

        Args:
            groups: those of the batch.
            batch: what `EditRewardProcessor.collate` made of them, on the CPU.

        Returns:
            What `EditRewardModel.encode_images` would.
        """
        with self._lock:
            self._forget_if_changed()
            grids = batch["image_grid_thw"]
            images = batch["pixel_values"].split(grids.prod(-1).tolist())
            keys = {index: _key(images[index], grids[index]) for index in _sources(groups, batch["image_index"])}
            features = {index: self._features[key] for index, key in keys.items() if key in self._features}
            new = [index for index in range(len(images)) if index not in features]
            if new:
                device = self._model.device
                patches = torch.cat([images[index] for index in new])
                encoded = self._model.encode_images(patches.to(device), grids[new].to(device))
                features.update(zip(new, encoded, strict=True))
            for index, key in keys.items():
                self._features[key] = features[index]
                self._features.move_to_end(key)
            while len(self._features) > self._size:
                self._features.popitem(last=False)
            return [features[index] for index in range(len(images))]

    def _forget_if_changed(self) -> None:
        if not can_watch(self._model):
            raise ValueError(
                "`image_cache_size` is for models of plain weights: merge adapters (`editreward merge`), and do not "
                "quantize or offload."
            )
        if self._tower.has_changed():
            self._features.clear()


def _sources(groups: Sequence[PackedGroup], image_index: Tensor) -> list[int]:
    """Which images of a batch are sources of a group, in order of appearance."""
    sources: list[int] = []
    places = iter(image_index.tolist())
    for group in groups:
        # A group's images are its sources, then its candidates, one each.
        images = [next(places) for _ in group.image_grid_thw]
        sources += images[: len(images) - len(group.reward_columns)]
    return list(dict.fromkeys(sources))


def _key(patches: Tensor, grid: Tensor) -> _Key:
    return hashlib.sha256(patches.numpy().data).digest(), tuple(grid.tolist())
