"""Train the bundled tiny editor.

    python -m research.tiny_editor.data --output runs/tiny-editor/triples --tasks 60000
    python -m research.tiny_editor.train --triples runs/tiny-editor/triples --output runs/tiny-editor --samples 600000

It begins on exact edits; from `--imperfect-from` of the samples on it sees edits as imperfect as collected ones are.
Run the same command again after a stop: it goes on from its last save, with the triples that are there by then.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from editreward.editors.tiny.transformer import TinyEditTransformer
from editreward.files import atomic_file

BATCH = 64
ALIKE = 16
SHIFT = 3.0
"""Most samples are noisy: what an edit becomes is decided there."""
WARM_UP = 50


class Triples:
    """Rendered triples of a folder, in memory: images (tasks, 3, side, side, 3) and tokens."""

    def __init__(self, folder: Path) -> None:
        files = [np.load(path) for path in sorted(folder.glob("*.npz"))]
        if not files:
            raise FileNotFoundError(f"There are no triples in {folder}: make some with research.tiny_editor.data.")
        self.images, self.input_ids, self.lengths = (
            np.concatenate([file[name] for file in files]) for name in ("images", "input_ids", "lengths")
        )

    def batch(self, step: int, imperfect: bool) -> dict[str, Tensor]:
        """The batch of a step, of exact or imperfect edits; images in -1..1.

        Its instructions are about as long as each other: of `ALIKE` batches drawn together, sorted, it is one.
        """
        rng = np.random.default_rng([7, step // ALIKE])
        rows = rng.integers(len(self.images), size=ALIKE * BATCH)
        wording = rng.integers(self.input_ids.shape[1], size=ALIKE * BATCH)
        by_length = np.argsort(self.lengths[rows, wording], kind="stable")
        chosen = by_length.reshape(ALIKE, BATCH)[rng.permutation(ALIKE)[step % ALIKE]]
        rows, wording, edits = rows[chosen], wording[chosen], 2 if imperfect else 1
        lengths = torch.from_numpy(self.lengths[rows, wording].astype(np.int64))
        longest = int(lengths.max())
        return {
            "source": pixels(self.images[rows, 0]),
            "clean": pixels(self.images[rows, edits]),
            "input_ids": torch.from_numpy(self.input_ids[rows, wording, :longest].astype(np.int64)),
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        }


def pixels(images: np.ndarray) -> Tensor:
    """uint8 (batch, side, side, 3) to -1..1, (batch, 3, side, side)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def optimizers(model: nn.Module) -> list[Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or not name.startswith("blocks.")]
    return [
        Muon(matrices, lr=1.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, constant, and linear to almost zero over the last 30 % of the steps."""
    return peak * min(1.0, (step + 1) / WARM_UP, max(0.02, (steps - step) / (0.3 * steps)))


def loss_of(clean_edit: Callable[..., Tensor], batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Mean squared error of the clean edit: the velocity's, times sigma squared."""
    clean, source = batch["clean"], batch["source"]
    uniform = torch.rand(len(clean), generator=generator)
    sigma = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    noise = torch.randn(clean.shape, generator=generator)
    level = sigma[:, None, None, None]
    noisy = (1 - level) * clean + level * noise
    with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
        predicted = clean_edit(noisy, sigma, source, batch["input_ids"], batch["attention_mask"])
    return (predicted - clean).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triples", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=600000)
    parser.add_argument("--imperfect-from", type=float, default=0.65)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--save-minutes", type=float, default=3.0)
    parser.add_argument("--compile", action="store_true", help="Compile the transformer: a fifth faster.")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = TinyEditTransformer()
    made = optimizers(model)
    state_file, step, cpu = args.output / "state.pt", 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(made, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, cpu = state["step"], state["cpu"]
    triples = Triples(args.triples)
    clean_edit = torch.compile(model.clean, dynamic=True) if args.compile else model.clean
    print(
        f"{sum(p.numel() for p in model.parameters())} parameters, {len(triples.images)} tasks, step {step}",
        flush=True,
    )
    steps = args.samples // BATCH
    saved_at, losses, cpu = time.time(), [], cpu - time.process_time()

    def save() -> None:
        state: dict[str, Any] = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in made]}
        with atomic_file(state_file) as part:
            torch.save({**state, "step": step, "cpu": cpu + time.process_time()}, part)

    while step < steps:
        imperfect = step >= args.imperfect_from * steps
        loss = loss_of(clean_edit, triples.batch(step, imperfect), torch.Generator().manual_seed(step))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in made:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, args.learning_rate)
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            entry = {
                "samples": step * BATCH,
                "loss": round(float(np.mean(losses)), 5),
                "cpu_minutes": round((cpu + time.process_time()) / 60, 2),
                "imperfect": imperfect,
            }
            losses = []
            with open(args.output / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
        if time.time() - saved_at > 60 * args.save_minutes:
            save()
            saved_at = time.time()
    save()


if __name__ == "__main__":
    main()
