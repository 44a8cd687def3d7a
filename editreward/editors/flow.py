r"""
The formulas of training a flow-matching editor.

A noisy image is x_t = (1 - t) x_0 + t x_1 with noise x_1 and the noise level t in 0..1; a network predicts the
velocity v = x_1 - x_0. Sampling goes from t = 1 to t = 0. Numbers of equations are those of Flow-GRPO (arXiv
2505.05470) unless another paper is named. Tensors have shape (batch, ...); levels have shape (batch,).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLERS = ("flow", "cps")
"""Stochastic samplers: of Flow-GRPO, and coefficients-preserving sampling."""

LEAST_SPREAD = 1e-6
"""A group whose rewards differ by no more has no spread."""


def like(levels: Tensor, images: Tensor) -> Tensor:
    """Levels with trailing dimensions of size 1, to be multiplied with images."""
    return levels.reshape(-1, *[1] * (images.ndim - 1))


def noisy(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t x_1, eq. 1."""
    t = like(level, clean)
    return (1 - t) * clean + t * noise


def per_sample(values: Tensor) -> Tensor:
    """The mean over all dimensions but the first."""
    return values.flatten(1).mean(1)


def flow_matching_loss(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of each sample's velocity, eq. 2: (batch,)."""
    return per_sample((velocity.float() - (noise - clean).float()).square())


@dataclass(frozen=True)
class Step:
    """A step of a stochastic sampler: the next image is Gaussian.

    Attributes:
        mean: shaped like the images.
        std: (batch,); the same in every dimension.
    """

    mean: Tensor
    std: Tensor


def ode_step(image: Tensor, velocity: Tensor, level: Tensor, following: Tensor) -> Tensor:
    """Euler's step of dx = v dt (eq. 6) from one level to the following, lower one."""
    return image + like(following - level, image) * velocity


def sde_step(
    image: Tensor, velocity: Tensor, level: Tensor, following: Tensor, amount: float, sampler: str = "flow"
) -> Step:
    r"""The distribution of the next image.

    "flow" is the step of Euler and Maruyama, eq. 9, of the equation that has the marginals of dx = v dt, eq. 8:

        dx = (v + s^2 / (2 t) (x + (1 - t) v)) dt + s dw,    s = amount sqrt(t / (1 - t)).

    At t = 1, where s has no bound, 1 - t is taken at the following level.

    "cps" (coefficients-preserving sampling, arXiv 2509.05952) mixes new noise into what the network takes for the
    noise, and keeps its share; with a = amount pi / 2 and t' the following level:

        x' = (1 - t') (x - t v) + t' (cos(a) (x + (1 - t) v) + sin(a) noise).

    Args:
        image, velocity: at `level`.
        level, following: t and the next, lower one.
        amount: how much noise; 0 is the step of the equation without noise.
        sampler: one of `SAMPLERS`.
    """
    t, after = like(level, image), like(following, image)
    if sampler == "cps":
        angle = amount * math.pi / 2
        clean, noise = image - t * velocity, image + (1 - t) * velocity
        return Step((1 - after) * clean + after * math.cos(angle) * noise, following * math.sin(angle))
    step = after - t
    room = torch.where(t < 1, 1 - t, 1 - after)
    variance = amount**2 * t / room
    mean = image + (velocity + variance / (2 * t) * (image + (1 - t) * velocity)) * step
    return Step(mean, (variance * -step).sqrt().reshape(-1))


def log_probability(image: Tensor, step: Step) -> Tensor:
    """Log-density of an image under a step, as a mean over its dimensions: (batch,).

    The mean instead of the sum, as in the published code: a ratio of densities is then the geometric mean of the
    dimensions' ratios, and small clip ranges fit images of any size.
    """
    std = like(step.std, image)
    return per_sample(-((image - step.mean) ** 2) / (2 * std**2) - std.log() - math.log(2 * math.pi) / 2)


def kl_divergence(step: Step, reference: Step) -> Tensor:
    """KL divergence between two steps of one standard deviation, as a mean over the dimensions: (batch,).

    ||mean - mean_ref||^2 / (2 std^2): section 4.1's closed form.
    """
    return per_sample((step.mean - reference.mean) ** 2 / (2 * like(step.std, step.mean) ** 2))


@dataclass(frozen=True)
class Advantages:
    """Advantages of a batch.

    Attributes:
        values: (samples,); 0 where `used` is false.
        used: false for samples without a reward, and those of groups that teach nothing.
        failed: positions of groups of which fewer than two samples have a reward.
        flat: positions of groups whose rewards are all the same.
    """

    values: Tensor
    used: Tensor
    failed: list[int]
    flat: list[int]


def group_advantages(rewards: Tensor, group_of: Tensor, scale: str = "group", limit: float = 5.0) -> Advantages:
    """Rewards minus their group's mean, divided by a standard deviation, eq. 4.

    Args:
        rewards: (samples,); NaN for what failed: it has no part in its group's mean.
        group_of: each sample's group, (samples,).
        scale: divide by the standard deviation of the "group", of the whole "batch" (deviations from the groups'
            means), or by nothing ("none").
        limit: advantages are clipped to -limit..limit.
    """
    known = ~rewards.isnan()
    centred = torch.zeros_like(rewards)
    spread = torch.ones_like(rewards)
    used = torch.zeros_like(known)
    failed, flat = [], []
    for group in group_of.unique().tolist():
        members = (group_of == group) & known
        values = rewards[members]
        if len(values) < 2:
            failed.append(group)
        elif values.max() - values.min() <= LEAST_SPREAD:
            flat.append(group)
        else:
            used |= members
            centred[members] = values - values.mean()
            spread[members] = values.std(unbiased=False)
    if scale == "batch" and used.any():
        spread[:] = centred[used].square().mean().sqrt()
    if scale != "none":
        centred = centred / (spread + 1e-4)
    return Advantages(centred.clamp(-limit, limit), used, failed, flat)


def clipped_objective(log_probability: Tensor, old: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The loss of each sample, minus the clipped objective of eq. 5, and where the clipping acts: (batch,) each."""
    ratio = (log_probability - old).exp()
    plain, clipped = advantage * ratio, advantage * ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(plain, clipped), clipped < plain


def dpo_loss(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor, beta: float) -> Tensor:
    """Diffusion-DPO (arXiv 2311.12908, eq. 14) in terms of velocities: (batch,).

    -log sigmoid(-beta / 2 ((chosen - chosen_ref) - (rejected - rejected_ref)))

    Args:
        chosen, rejected: flow-matching losses of both edits at one level and with one noise, (batch,).
        chosen_ref, rejected_ref: the same of the model that training started from.
        beta: strength of the ties to that model; the paper's beta x T, for losses that are means over dimensions.
    """
    return -F.logsigmoid(-beta / 2 * ((chosen - chosen_ref) - (rejected - rejected_ref)))


def nft_loss(
    velocity: Tensor, old: Tensor, image: Tensor, level: Tensor, clean: Tensor, worth: Tensor, beta: float
) -> Tensor:
    """DiffusionNFT (arXiv 2509.16117), on errors of the clean image, each divided by its mean size: (batch,).

    worth ||x_0+ - x_0||^2 + (1 - worth) ||x_0- - x_0||^2, where the clean images x_0+ and x_0- follow from

        v+ = (1 - beta) old + beta v,    v- = (1 + beta) old - beta v.

    Its minimum is v = old + (2 worth - 1) / beta (target - old) where both errors weigh alike.

    Args:
        velocity, old: of the trained policy, and of that which sampled the edits, at `image`.
        image, level: noisy edits and their levels.
        clean: the edits.
        worth: 0..1, (batch,); 1/2 only holds the policy at `old`.
        beta: below 1 the policy may move further.
    """
    t = like(level, image)

    def error(guess: Tensor) -> Tensor:
        off = (image - t * guess.float() - clean).float()
        return per_sample(off.square()) / per_sample(off.detach().abs()).clamp(min=1e-5)

    better, worse = (1 - beta) * old + beta * velocity, (1 + beta) * old - beta * velocity
    return worth * error(better) + (1 - worth) * error(worse)
