"""Edits that a policy makes, with what its training needs to know of how it made them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from editreward.editors.adapters import Conditions, EditAdapter
from editreward.editors.flow import log_probability, ode_step, sde_step


@dataclass(frozen=True)
class SamplerSettings:
    """How edits are sampled in training.

    Attributes:
        steps: from noise to an edit.
        sampler, noise: of the stochastic steps, see `flow.sde_step`.
        window: numbers of these steps; the others are deterministic.
    """

    steps: int
    sampler: str
    noise: float
    window: tuple[int, ...]


@dataclass(frozen=True)
class Transitions:
    """The stochastic steps of a batch of edits.

    Attributes:
        before, after: edits before and after each step, (batch, window, *latent_shape).
        level, following: noise levels of both, (window,).
        log_probability: of the steps, (batch, window).
    """

    before: Tensor
    after: Tensor
    level: Tensor
    following: Tensor
    log_probability: Tensor


def noise_of(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Gaussian noise, a sample for each seed, the same on every device: (samples, *shape)."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample(
    adapter: EditAdapter, transformer: nn.Module, conditions: Conditions, seeds: Sequence[int], steps: int
) -> list[Image.Image]:
    """Edits as the pipeline makes them, without added noise."""
    return adapter.images(sample_latents(adapter, transformer, conditions, seeds, steps))


@torch.no_grad()
def sample_latents(
    adapter: EditAdapter, transformer: nn.Module, conditions: Conditions, seeds: Sequence[int], steps: int
) -> Tensor:
    """Clean edits as the transformer sees them, (samples, *latent_shape)."""
    latents = noise_of(adapter.latent_shape, seeds).to(adapter.device)
    levels = adapter.levels(steps).to(adapter.device)
    for level, following in zip(levels, levels[1:], strict=False):
        velocity = adapter.velocity(transformer, latents, level.expand(len(latents)), conditions)
        latents = ode_step(latents, velocity, level.expand(len(latents)), following.expand(len(latents)))
    return latents


@torch.no_grad()
def roll_out(
    adapter: EditAdapter,
    transformer: nn.Module,
    conditions: Conditions,
    seeds: Sequence[int],
    settings: SamplerSettings,
) -> tuple[list[Image.Image], Transitions]:
    """Edits with added noise in the window's steps.

    Args:
        adapter, transformer: the policy; the transformer may be wrapped.
        conditions: one for each edit.
        seeds: of each edit's noise.
        settings: how.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def fresh() -> Tensor:
        made = [torch.randn(adapter.latent_shape, generator=generator) for generator in generators]
        return torch.stack(made).to(adapter.device)

    latents = fresh()
    levels = adapter.levels(settings.steps).to(adapter.device)
    before, after, found = [], [], []
    for number, (now, then) in enumerate(zip(levels, levels[1:], strict=False)):
        level, following = now.expand(len(latents)), then.expand(len(latents))
        velocity = adapter.velocity(transformer, latents, level, conditions)
        if number not in settings.window:
            latents = ode_step(latents, velocity, level, following)
            continue
        step = sde_step(latents, velocity, level, following, settings.noise, settings.sampler)
        before.append(latents)
        latents = step.mean + step.std.reshape(-1, *[1] * (latents.ndim - 1)) * fresh()
        after.append(latents)
        found.append(log_probability(latents, step))
    window = list(settings.window)
    made = Transitions(
        torch.stack(before, 1),
        torch.stack(after, 1),
        levels[window],
        levels[[n + 1 for n in window]],
        torch.stack(found, 1),
    )
    return adapter.images(latents), made
