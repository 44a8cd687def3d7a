"""Further losses within the model, beside the loss of the rewards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


class AuxiliaryLoss(Protocol):
    """What [`EditRewardTrainer`] adds to its loss, with `weight`, each micro-batch counting alike."""

    weight: float

    def watch(self, model: Any) -> None:
        """Called once with the model that is trained, to hook into it."""

    def targets(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The targets of a batch's rows; computed by the collator, in the processes that read data."""

    def __call__(self, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses by name, scalars, of the batch that the model was just run on."""

    def save(self, folder: str | Path) -> None:
        """Write what has to stand beside the trained model, if anything."""
