"""Further losses within the model, beside the loss of the rewards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from editreward.groups.rows import GroupRow

if TYPE_CHECKING:
    from editreward.training.terms import GroupBatch
    from modeling_editreward import EditRewardModel


class AuxiliaryLoss(Protocol):
    """What [`EditRewardTrainer`] adds to its loss, with `weight`, each micro-batch counting alike."""

    weight: float

    def watch(self, model: "EditRewardModel") -> None:
        """Called once with the model that is trained, to hook into it."""

    def targets(self, rows: Sequence[GroupRow]) -> dict[str, Tensor]:
        """The targets of a batch's rows; computed by the collator, in the processes that read data."""

    def __call__(self, inputs: "GroupBatch", targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses by name, scalars, of the batch that the model was just run on."""

    def save(self, folder: str | Path) -> None:
        """Write what has to stand beside the trained model, if anything."""
