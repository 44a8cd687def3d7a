"""Modules of language models and vision towers with fewer passes over memory than transformers' own.

A gate's activation and its product are written over the gate; a norm in float32 is one operation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

SILU = (nn.SiLU, type(ACT2FN["silu"]))


class LeanModules:
    """Gated MLPs with SiLU, and RMS norms in float32, that compute the same where no gradient is wanted.

    Args:
        model: whose modules these are: with `gate_proj`, `up_proj`, `down_proj` and `act_fn`, or with `weight` and
            `variance_epsilon`, as transformers names them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._lean: list[tuple[nn.Module, Callable[[Any, Tensor], Tensor]]] = []
        for module in model.modules():
            if "forward" in vars(module):  # somebody else's hook or kernel
                continue
            is_gated = all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj"))
            if is_gated and isinstance(getattr(module, "act_fn", None), SILU):
                self._lean.append((module, _gated))
            elif hasattr(module, "variance_epsilon"):
                self._lean.append((module, _normed))

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block, in which no gradient may be wanted, the modules are lean."""
        for module, forward in self._lean:
            module.forward = partial(forward, module)
        try:
            yield
        finally:
            for module, _ in self._lean:
                vars(module).pop("forward", None)  # gone already where another thread was faster


def _gated(module: Any, hidden: Tensor) -> Tensor:
    gate = F.silu(module.gate_proj(hidden), inplace=True)
    found: Tensor = module.down_proj(gate.mul_(module.up_proj(hidden)))
    return found


def _normed(module: Any, hidden: Tensor) -> Tensor:
    if not hidden.dtype == module.weight.dtype == torch.float32:  # the module's own way rounds in between
        found: Tensor = type(module).forward(module, hidden)
        return found
    return F.rms_norm(hidden, module.weight.shape, module.weight, module.variance_epsilon)
