"""How the next token of an answer is chosen."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 128
"""Logits that are gone through as one, see `highest`."""


@dataclass(frozen=True)
class Sampling:
    """Temperature, then the `top_k` likeliest tokens, then the fewest of these whose probability reaches `top_p`.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: share of the probability, 1 for all.
        top_k: number of tokens, 0 for all.
        repetition_penalty: as in transformers, over the tokens of prompt and answer; 1 for none.

    Raises:
        ValueError: a number is out of range.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 20
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"`temperature` must not be negative, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` must be in 0..1, 0 excluded, got {self.top_p}.")
        if self.top_k < 0:
            raise ValueError(f"`top_k` must not be negative, got {self.top_k}; 0 takes all tokens.")
        if self.repetition_penalty <= 0:
            raise ValueError(f"`repetition_penalty` must be positive, got {self.repetition_penalty}.")

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0

    def choose(
        self, logits: Tensor, draws: Sequence[float], seen: Sequence[Collection[int]] | None = None
    ) -> list[int]:
        """A token for each row.

        Args:
            logits: `(rows, vocabulary)`.
            draws: for each row a number of 0..1, 1 excluded: a row's token depends on its own number alone.
            seen: for each row the tokens of its prompt and answer, where there is a repetition penalty.
        """
        if seen is not None:
            logits = penalised(logits, seen, self.repetition_penalty)
        if self.is_greedy:
            return [int(token) for token in logits.argmax(-1)]
        values, indices = highest(logits, min(self.top_k or logits.shape[-1], logits.shape[-1]))
        # On the CPU and in float64: the sums must not differ from one device or batch to another.
        probabilities = (values.double().cpu() / self.temperature).softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        kept = probabilities.masked_fill(before >= self.top_p, 0)
        ends = kept.cumsum(-1)
        drawn = torch.tensor(draws, dtype=torch.float64).unsqueeze(-1) * ends[:, -1:]
        place = (ends <= drawn).sum(-1, keepdim=True).clamp(max=kept.shape[-1] - 1)
        return [int(token) for token in indices.cpu().gather(-1, place).squeeze(-1)]


def highest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest logits of each row, falling, and their places: as `topk`, which takes long for a whole vocabulary.

    They lie in the blocks whose own highest one is among the `count` highest of all blocks.

    Args:
        logits: `(rows, vocabulary)`.
        count: how many.
    """
    blocks, left = divmod(logits.shape[-1], BLOCK)
    if blocks <= 2 * count:
        return logits.topk(count, dim=-1)
    cut = logits[:, : blocks * BLOCK].view(len(logits), blocks, BLOCK)
    chosen = cut.amax(-1).topk(count, dim=-1).indices
    values = cut.gather(1, chosen.unsqueeze(-1).expand(-1, -1, BLOCK)).flatten(1)
    places = (chosen.unsqueeze(-1) * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    if left:
        behind = torch.arange(blocks * BLOCK, logits.shape[-1], device=logits.device).expand(len(logits), -1)
        values, places = torch.cat([values, logits[:, blocks * BLOCK :]], 1), torch.cat([places, behind], 1)
    found = values.topk(count, dim=-1)
    return found.values, places.gather(1, found.indices)


def penalised(logits: Tensor, seen: Sequence[Collection[int]], penalty: float) -> Tensor:
    """Logits of seen tokens divided by the penalty where they are positive, else multiplied (arXiv 1909.05858)."""
    logits = logits.clone()
    for row, tokens in zip(logits, seen, strict=True):
        index = torch.tensor(sorted(tokens), device=row.device)
        found = row[index]
        row[index] = torch.where(found > 0, found / penalty, found * penalty)
    return logits
