"""The optimizers and their rate."""

from collections.abc import Iterable

import torch
from torch import nn

from research.tiny_vlm.arguments import TrainArguments


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by a Newton-Schulz iteration, for matrices (https://kellerjordan.github.io/posts/muon).

    Unlike `torch.optim.Muon` it computes in float32, which is faster on a CPU without bfloat16 instructions, and takes
    matrices of one shape together. The rate is matched to AdamW's: an update's root mean square is 0.2.
    """

    COEFFICIENTS = (3.4445, -4.775, 2.0315)

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = [self._momentum(parameter, group["momentum"]) for parameter in parameters]
                scale = 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, orthogonalised(torch.stack(updates)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> torch.Tensor:
        """The gradient with Nesterov's momentum."""
        assert parameter.grad is not None
        buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        buffer.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)


def orthogonalised(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Matrices (count, rows, columns) with their singular values brought near 1."""
    a, b, c = Muon.COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def build_optimizers(modules: list[nn.Module], args: TrainArguments) -> list[tuple[torch.optim.Optimizer, float]]:
    """The optimizers with their peak learning rates.

    Muon takes the matrices of the first module's blocks, AdamW all the rest.
    """
    matrices, tables, vectors = [], [], []
    for name, parameter in modules[0].named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif args.optimizer == "muon" and parameter.ndim == 2 and ("layers." in name or "blocks." in name):
            matrices.append(parameter)
        else:
            tables.append(parameter)
    for module in modules[1:]:
        tables.extend(module.parameters())
    groups = [{"params": tables, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98), eps=1e-8, fused=True)
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [(adamw, args.learning_rate)]
    if matrices:
        muon = Muon(matrices, lr=args.muon_learning_rate, weight_decay=args.weight_decay)
        optimizers.append((muon, args.muon_learning_rate))
    return optimizers


def rate(fraction: float, steps_since_start: int, args: TrainArguments) -> float:
    """The factor on the peak rates: linear warm-up, constant, then linear to zero at the end of the budget."""
    warm = min(1.0, (steps_since_start + 1) / max(1, args.warmup_steps))
    decay = min(1.0, max(0.0, (1.0 - fraction) / (1.0 - args.decay_from)))
    return warm * max(decay, 0.01)
