"""Keys and values of the tokens that every group begins with, computed once."""

import threading

import torch
from torch import Tensor
from transformers import BatchFeature

from editreward.scorers.watching import Watched, can_watch
from modeling_editreward import TREE_BLOCKS, EditRewardModel
from processing_editreward import EditRewardProcessor


class PromptPrefix:
    """What the language model makes of the prompt's text before the instruction and the first image.

    Args:
        model: whose language model it is.
        processor: that makes the groups.
    """

    def __init__(self, model: EditRewardModel, processor: EditRewardProcessor) -> None:
        self._model, self._ids = model, torch.tensor(processor.prefix_ids(), dtype=torch.long)
        self._watched = Watched(model.backbone.language_model)
        self._keys_and_values: list[tuple[Tensor, Tensor]] = []
        self._lock = threading.Lock()

    @torch.no_grad()
    def of(self, batch: BatchFeature) -> list[tuple[Tensor, Tensor]] | None:
        """The prefix of a batch on the CPU, for `EditRewardModel.forward`; None where there is none to use.

        That is with another attention than the model's own, and where `can_watch` says no.
        """
        model, count = self._model, len(self._ids)
        if model.config.get_text_config()._attn_implementation != TREE_BLOCKS or not can_watch(model):
            return None
        if count == 0 or not (batch["input_ids"][:, :count] == self._ids).all():
            return None
        with self._lock:
            if self._watched.has_changed():
                self._keys_and_values = model.encode_prefix(self._ids.to(model.device))
            return self._keys_and_values
