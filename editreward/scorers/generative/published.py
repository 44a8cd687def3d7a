"""Answers drawn as the published EditScore draws them, to compare with it."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from editreward.scorers.generative.sampling import Sampling, penalised


class PublishedSampling(Sampling):
    """As `transformers.generate` samples, with torch's own generator: one row, which is seeded anew for each answer.

    Its draws depend on the order of answers and on the device; golden data hold on a CPU.
    """

    generator: torch.Generator

    @classmethod
    def seeded(cls, sampling: Sampling, seed: int) -> "PublishedSampling":
        """The same settings, at the start of an answer."""
        made = cls(sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty)
        object.__setattr__(made, "generator", torch.Generator().manual_seed(seed))
        return made

    def choose(
        self, logits: Tensor, draws: Sequence[float], seen: Sequence[Collection[int]] | None = None
    ) -> list[int]:
        """A token for the row."""
        if seen is not None:
            logits = penalised(logits, seen, self.repetition_penalty)
        logits = logits.cpu() / self.temperature
        lowest = logits.topk(min(self.top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
        ordered, places = logits.sort(descending=False)
        removed = ordered.softmax(-1).cumsum(-1) <= 1 - self.top_p
        removed[..., -1:] = False
        logits = logits.masked_fill(removed.scatter(1, places, removed), -torch.inf)
        return [int(token) for token in torch.multinomial(logits.softmax(-1), 1, generator=self.generator)[:, 0]]
