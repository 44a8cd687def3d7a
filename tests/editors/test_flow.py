import math

import numpy as np
import pytest
import torch

from editreward.editors.flow import (
    SAMPLERS,
    clipped_objective,
    dpo_loss,
    flow_matching_loss,
    group_advantages,
    kl_divergence,
    log_probability,
    nft_loss,
    noisy,
    ode_step,
    sde_step,
)

MEAN, STD = 0.7, 0.4
"""Of a world whose images are one Gaussian number: its velocity is known."""


def velocity_of_gaussian(image, level):
    """E[noise - clean | noisy image] in closed form, for clean ~ N(MEAN, STD^2)."""
    variance = ((1 - level) * STD) ** 2 + level**2
    offset = image - (1 - level) * MEAN
    return level / variance * offset - (MEAN + (1 - level) * STD**2 / variance * offset)


@pytest.mark.parametrize("sampler", [None, *SAMPLERS])
def test_stochastic_samplers_have_the_marginals_of_the_plain_one(sampler):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(20000, 1, dtype=torch.float64, generator=generator)
    levels = torch.linspace(1, 0, 201, dtype=torch.float64)
    for level, following in zip(levels, levels[1:], strict=False):
        velocity = velocity_of_gaussian(image, level)
        both = level.expand(len(image)), following.expand(len(image))
        if sampler is None:
            image = ode_step(image, velocity, *both)
        else:
            step = sde_step(image, velocity, *both, amount=0.7 if sampler == "flow" else 0.15, sampler=sampler)
            image = step.mean + step.std[:, None] * torch.randn(image.shape, dtype=torch.float64, generator=generator)
    assert image.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert image.std().item() == pytest.approx(STD, abs=0.02)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_noise_the_stochastic_step_is_the_plain_one(sampler):
    image, velocity = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    level, following = torch.tensor([1.0, 0.9, 0.5, 0.1]).double(), torch.tensor([0.8, 0.7, 0.2, 0.0]).double()
    step = sde_step(image, velocity, level, following, amount=0.0, sampler=sampler)
    assert torch.allclose(step.mean, ode_step(image, velocity, level, following))
    assert step.std.abs().max() < 1e-12


def test_the_step_of_euler_and_maruyama_by_hand():
    x, v, t, after, amount = 0.3, -1.2, 0.6, 0.5, 0.7
    s = amount * math.sqrt(t / (1 - t))
    step = sde_step(
        *(torch.tensor([[one]]).double() for one in (x, v)), torch.tensor([t]), torch.tensor([after]), amount
    )
    assert step.mean.item() == pytest.approx(x + (v + s**2 / (2 * t) * (x + (1 - t) * v)) * (after - t), rel=1e-6)
    assert step.std.item() == pytest.approx(s * math.sqrt(t - after), rel=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_log_probabilities_and_divergence_are_those_of_torch(sampler):
    image, velocity, other, following_image = torch.randn(4, 3, 2, 4, 4, dtype=torch.float64)
    level, following = torch.tensor([1.0, 0.6, 0.4]).double(), torch.tensor([0.9, 0.5, 0.2]).double()
    step, reference = (sde_step(image, one, level, following, 0.5, sampler) for one in (velocity, other))
    normal, normal_ref = (
        torch.distributions.Normal(one.mean, one.std[:, None, None, None].expand_as(image))
        for one in (step, reference)
    )
    expected = normal.log_prob(following_image).flatten(1).mean(1)
    assert torch.allclose(log_probability(following_image, step), expected)
    expected = torch.distributions.kl_divergence(normal, normal_ref).flatten(1).mean(1)
    assert torch.allclose(kl_divergence(step, reference), expected)


def test_the_divergence_of_eq_9_in_terms_of_velocities():
    """Delta t / 2 (s (1 - t) / (2 t) + 1 / s)^2 ||v - v_ref||^2, section 4.1."""
    image, velocity, other = torch.randn(3, 1, 8, dtype=torch.float64)
    t, after, amount = 0.6, 0.45, 0.8
    s = amount * math.sqrt(t / (1 - t))
    steps = [sde_step(image, one, torch.tensor([t]), torch.tensor([after]), amount) for one in (velocity, other)]
    expected = (t - after) / 2 * (s * (1 - t) / (2 * t) + 1 / s) ** 2 * (velocity - other).square().mean()
    assert kl_divergence(*steps).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gradients_of_log_probabilities_are_finite_differences(sampler):
    image, following_image = torch.randn(2, 2, 3, dtype=torch.float64)
    level, following = torch.tensor([1.0, 0.5]).double(), torch.tensor([0.8, 0.3]).double()

    def value(velocity):
        step = sde_step(image, velocity, level, following, 0.6, sampler)
        reference = sde_step(image, torch.zeros_like(velocity), level, following, 0.6, sampler)
        return log_probability(following_image, step).sum() + kl_divergence(step, reference).sum()

    assert torch.autograd.gradcheck(value, torch.randn(2, 3, dtype=torch.float64, requires_grad=True))


def test_advantages_by_hand():
    nan = math.nan
    rewards = torch.tensor([1.0, 3.0, nan, 5.0, 5.0, 7.0, nan, 2.0, 4.0])
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3])
    made = group_advantages(rewards, groups)
    assert made.failed == [2] and made.flat == [1]
    assert made.used.tolist() == [True, True, False, False, False, False, False, True, True]
    assert np.allclose(made.values, [-1, 1, 0, 0, 0, 0, 0, -1, 1], atol=1e-3)
    rewards = torch.tensor([0.0, 2.0, 0.0, 4.0])
    groups = torch.tensor([0, 0, 1, 1])
    whole = group_advantages(rewards, groups, scale="batch").values
    assert np.allclose(whole, np.array([-1, 1, -2, 2]) / math.sqrt(2.5), atol=1e-3)
    assert group_advantages(rewards, groups, scale="none", limit=1.5).values.tolist() == [-1, 1, -1.5, 1.5]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "acts"),
    [
        (1.3, 2.0, -2.2, True),  # good and likelier already: no more
        (0.7, 2.0, -1.4, False),
        (1.3, -2.0, 2.6, False),
        (0.7, -2.0, 1.8, True),
        (1.05, 2.0, -2.1, False),
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, acts):
    old = torch.tensor([-3.0])
    value, clipped = clipped_objective(old + math.log(ratio), old, torch.tensor([advantage]), clip=0.1)
    assert value.item() == pytest.approx(loss, rel=1e-5) and clipped.item() is acts


def test_noise_velocity_and_preference_losses_by_hand():
    clean, noise = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -2.0]])
    assert noisy(clean, noise, torch.tensor([0.25])).tolist() == [[0.25, 1.0]]
    assert flow_matching_loss(torch.tensor([[0.0, -1.0]]), clean, noise).tolist() == [(1 + 9) / 2]
    made = dpo_loss(*(torch.tensor([one]) for one in (1.0, 2.0, 1.5, 1.9)), beta=3.0)
    assert made.item() == pytest.approx(math.log1p(math.exp(3 / 2 * ((1.0 - 1.5) - (2.0 - 1.9)))), rel=1e-6)


def nft_inputs():
    generator = torch.Generator().manual_seed(5)
    made = [torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=generator) for _ in range(4)]
    level = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    velocity, old, image, clean = made
    return velocity, old, image, level, clean


def test_nft_loss_by_hand():
    velocity, old, image, level, clean = nft_inputs()
    worth = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    found = nft_loss(velocity, old, image, level, clean, worth, 0.5)
    for n in range(3):
        t = level[n].item()
        better = image[n] - t * (0.5 * old[n] + 0.5 * velocity[n]) - clean[n]
        worse = image[n] - t * (1.5 * old[n] - 0.5 * velocity[n]) - clean[n]
        errors = [((one**2).mean() / one.abs().mean()).item() for one in (better, worse)]
        share = worth[n].item()
        assert found[n].item() == pytest.approx(share * errors[0] + (1 - share) * errors[1], rel=1e-5)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_nft_moves_towards_good_edits_and_away_from_bad_ones(beta):
    """At the sampling policy both errors weigh alike, and the gradient is that of imitation times 2 worth - 1."""
    velocity, _, image, level, clean = nft_inputs()
    target = (image - clean) / level[:, None, None, None]
    velocity.requires_grad_(True)
    worth = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)
    nft_loss(velocity, velocity.detach(), image, level, clean, worth, beta).sum().backward()
    for n in range(3):
        off = velocity[n].detach() - target[n]
        weight = 2 * beta * level[n] * (2 * worth[n] - 1) / off.abs().mean() / off.numel()
        assert torch.allclose(velocity.grad[n], weight * off, atol=1e-6)
