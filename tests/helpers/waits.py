"""Counts what would make the host wait for a GPU, on tensors of the CPU."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result or its shape the host must know before it goes on.
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "bincount",
}


class Waits(TorchDispatchMode):
    """Notes the operations within that a host would wait for, `tolist` and indexing by a mask among them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __enter__(self) -> "Waits":
        self._patch = pytest.MonkeyPatch()
        tolist = torch.Tensor.tolist

        def noting(tensor: torch.Tensor) -> Any:
            self.names.append("tolist")
            return tolist(tensor)

        self._patch.setattr(torch.Tensor, "tolist", noting)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._patch.undo()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for arg in args
            if isinstance(arg, (list, tuple))
            for index in arg
        )
        if name in WAITING or by_mask:
            self.names.append(name)
        return func(*args, **(kwargs or {}))
