"""Linear layers in oneDNN's own layout: on a CPU a few rows at a time are then read at the speed of memory.

PyTorch's product of a few rows with a large float32 matrix reorders the matrix anew each time, which takes about as
long as the product; writing answers is such products.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MOST_BYTES = 4 * 2**30
"""Of weights that are kept twice; models with more go on as they are."""


def _packed(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)


class PackedLinears:
    """The linear layers of modules, packed when they are first used; nothing where that is no gain.

    Args:
        modules: whose layers these are.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        layers = [one for module in modules for one in module.modules() if isinstance(one, nn.Linear)]
        weights = [layer.weight for layer in layers]
        is_cpu = all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)
        is_small = sum(weight.numel() * weight.element_size() for weight in weights) <= MOST_BYTES
        is_known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        self.layers = layers if is_cpu and is_small and is_known else []
        self._weights: dict[int, tuple[int, Tensor]] = {}

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block the layers multiply by their packed weights."""
        for layer in self.layers:
            layer.forward = self._forward(layer)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer in self.layers:
                vars(layer).pop("forward", None)  # gone already where another thread was faster

    def _forward(self, layer: nn.Linear) -> Any:
        version, packed = self._weights.get(id(layer), (-1, layer.weight))
        if version != layer.weight._version:
            version, packed = layer.weight._version, _packed(layer.weight)
            self._weights[id(layer)] = version, packed

        def forward(rows: Tensor) -> Tensor:
            found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, layer.bias, "none", [], "")
            return found

        return forward
