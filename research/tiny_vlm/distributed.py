"""Several processes that train together, one for each core."""

import torch
import torch.distributed as dist
from torch import nn


def rank_and_ranks() -> tuple[int, int]:
    """This process's number and how many train together (`torchrun`); 0 and 1 for a process on its own."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes that train together."""
    _, ranks = rank_and_ranks()
    if ranks == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = nn.utils.parameters_to_vector(gradients) / ranks
    dist.all_reduce(flat)
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = gradient.view_as(parameter)


def agreed(number: float) -> float:
    """The first process's `number`, in all of them."""
    shared = torch.tensor(number, dtype=torch.float64)
    if dist.is_initialized():
        dist.broadcast(shared, src=0)
    return shared.item()
