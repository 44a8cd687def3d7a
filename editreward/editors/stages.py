"""Training an editor on edits that exist: imitation (sft) and preferences (dpo)."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from editreward.editors.adapters import Conditions, without_gradients
from editreward.editors.flow import dpo_loss, flow_matching_loss, noisy
from editreward.editors.trainer import EditorTrainer, TrainingStopped

Row = TypeVar("Row")


@dataclass(frozen=True)
class Edit:
    """An edit to imitate, or one of a pair.

    Attributes:
        source, instruction: what was asked.
        edited: what became of it.
        rejected: a worse edit; None where there is no pair.
    """

    source: Image.Image
    instruction: str
    edited: Image.Image
    rejected: Image.Image | None = None

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all of it."""
        digest = hashlib.sha256(self.instruction.encode(errors="surrogatepass"))
        for image in (self.source, self.edited, self.rejected):
            digest.update(b"" if image is None else f"{image.mode} {image.size}".encode() + image.tobytes())
        return digest.hexdigest()


def rows_of_step(count: int, number: int, size: int, trainer: EditorTrainer) -> list[int]:
    """Positions of the rows of a step: all rows in a new order again and again, shared among the processes."""
    accelerator = trainer.accelerator
    first = (number * accelerator.num_processes + accelerator.process_index) * size
    made = []
    for place in range(first, first + size):
        order = np.random.default_rng([trainer.args.seed, place // count]).permutation(count)
        made.append(int(order[place % count]))
    return made


def read_rows(read: Callable[[int], Row], places: Sequence[int], count: int, on_bad_row: str) -> tuple[list[Row], int]:
    """Rows at these places of `count`, and how many others were read in place of those that cannot be.

    Args:
        read: a row; raises an OSError or ValueError.
        places, count: of the rows.
        on_bad_row: "stop", or "skip" to take the next row that can be read.

    Raises:
        TrainingStopped: a row cannot be read, or none can.
    """
    rows, skipped = [], 0
    for place in places:
        for other in range(count):
            try:
                rows.append(read((place + other) % count))
                break
            except (OSError, ValueError) as error:
                if on_bad_row == "stop":
                    raise TrainingStopped(
                        f"Row {place} cannot be read: {error}. Mend it, or leave such rows out: `--on_bad_row skip`."
                    ) from error
                skipped += 1
                last = error
        else:
            raise TrainingStopped(f"None of {count} rows can be read; the last: {last}.") from last
    return rows, skipped


def levels_and_noise(clean: Tensor, shift: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Levels shift u / (1 + (shift - 1) u) of uniform u, (batch,), and noise like `clean`, the same on all devices."""
    uniform = torch.rand(len(clean), generator=generator)
    level = shift * uniform / (1 + (shift - 1) * uniform)
    noise = torch.randn(clean.shape, generator=generator)
    return level.to(clean.device), noise.to(clean.device)


class _Offline(ABC):
    """What sft and dpo share: batches of a dataset, one update a step."""

    def __init__(self, edits: Sequence[Edit] | Callable[[int], Edit], count: int) -> None:
        self.read = edits if callable(edits) else edits.__getitem__
        self.count = count

    def step(self, trainer: EditorTrainer, number: int) -> dict[str, float]:
        """See `Stage`."""
        args = trainer.args
        parts = args.gradient_accumulation_steps
        rows = rows_of_step(self.count, number, parts * args.per_device_train_batch_size, trainer)
        found: list[dict[str, float]] = []
        stopped: TrainingStopped | None = None
        edits: list[Edit] = []
        skipped = 0
        try:
            edits, skipped = read_rows(self.read, rows, self.count, args.on_bad_row)
        except TrainingStopped as error:
            stopped = error
        trainer.together(stopped)
        for part in range(parts):
            batch = edits[part::parts]
            generator = torch.Generator().manual_seed(trainer.seed(1, number, part))
            with trainer.timed("encode"), without_gradients():
                conditions = trainer.adapter.encode([e.source for e in batch], [e.instruction for e in batch])
            with trainer.timed("update"):
                loss, logged = self.loss(trainer, batch, conditions, generator)
                trainer.backward(loss / parts)
            found.append({"loss": loss.item(), **logged})
        norm = trainer.update()
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]} | {
            "grad_norm": norm,
            "rows_skipped": float(skipped),
        }

    @abstractmethod
    def loss(
        self, trainer: EditorTrainer, batch: Sequence[Edit], conditions: Conditions, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and what to log."""


class Sft(_Offline):
    """Imitates edits: the flow-matching loss."""

    def loss(
        self, trainer: EditorTrainer, batch: Sequence[Edit], conditions: Conditions, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean over a batch."""
        with torch.no_grad():
            clean = trainer.adapter.latents([edit.edited for edit in batch])
        level, noise = levels_and_noise(clean, trainer.args.level_shift, generator)
        velocity = trainer.velocity(noisy(clean, noise, level), level, conditions)
        losses = flow_matching_loss(velocity, clean, noise)
        if trainer.args.loss_weighting == "clean":
            losses = losses * level**2
        return losses.mean(), {}


class Dpo(_Offline):
    """Prefers the better of two edits: Diffusion-DPO."""

    def loss(
        self, trainer: EditorTrainer, batch: Sequence[Edit], conditions: Conditions, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean over a batch; both edits of a pair get one level and one noise."""
        with torch.no_grad():
            both = [trainer.adapter.latents([edit.edited for edit in batch])]
            both.append(trainer.adapter.latents([edit.rejected for edit in batch if edit.rejected is not None]))
        level, noise = levels_and_noise(both[0], trainer.args.level_shift, generator)
        clean, twice = torch.cat(both), torch.cat([level, level])
        noises, conditions = torch.cat([noise, noise]), {n: torch.cat([one, one]) for n, one in conditions.items()}
        images = noisy(clean, noises, twice)
        with trainer.reference() as velocity:
            reference = flow_matching_loss(velocity(images, twice, conditions), clean, noises)
        losses = flow_matching_loss(trainer.velocity(images, twice, conditions), clean, noises)
        (chosen, rejected), (chosen_ref, rejected_ref) = losses.chunk(2), reference.chunk(2)
        loss = dpo_loss(chosen, rejected, chosen_ref, rejected_ref, trainer.args.dpo_beta)
        margin = (rejected - rejected_ref) - (chosen - chosen_ref)
        return loss.mean(), {
            "margin": margin.mean().item(),
            "ordered": (margin > 0).float().mean().item(),
            "chosen_error": chosen.mean().item(),
        }
