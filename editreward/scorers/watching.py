"""Whether a part of a model still computes what it did.

PyTorch counts writes to a tensor, but not those past it (`.data`): without a look at the values kept results could be
those of other weights.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def can_watch(model: PreTrainedModel) -> bool:
    """Whether all that a model computes with can be watched.

    Adapters can be switched off and merged without a trace; quantized, sharded and offloaded weights are no plain
    tensors.
    """
    return not hasattr(model, "peft_config") and all(
        type(weight) is nn.Parameter and not weight.is_meta and not weight.is_inference()
        for weight in model.parameters()
    )


class Watched:
    """Tells whether results of a module, kept from an earlier call, still hold.

    They do not after a change of a tensor, its device or type, of the attention or of autocast; nor after a weight was
    written to, be it in a way that PyTorch counts (optimizers, `load_state_dict`, operations in place) or past it,
    through `.data`, as far as eight elements of each tensor show.

    Args:
        module: a part of a model that `can_watch` allows, with a configuration of its own.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        self._module = module
        self._state: tuple[object, ...] = ()
        self._samples: list[Tensor] = []
        self._values = torch.empty(0)

    def has_changed(self) -> bool:
        """Whether results of before the last call of this are void. The first call says so."""
        tensors = [*self._module.parameters(), *self._module.buffers()]
        device = tensors[0].device.type
        state = (
            self._module.config._attn_implementation,
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            *((tensor.data_ptr(), tensor._version, tensor.dtype, tensor.shape) for tensor in tensors),
        )
        if state == self._state and torch.equal(self._sample(), self._values):
            return False
        self._state = state
        # Views, which also keep the memory, so that no other weights can come to lie where these do.
        self._samples = [tensor.detach().flatten()[:: max(1, tensor.numel() // 8)] for tensor in tensors]
        self._values = self._sample()
        return True

    def _sample(self) -> Tensor:
        return torch.cat([sample.to(self._samples[0].device) for sample in self._samples])
