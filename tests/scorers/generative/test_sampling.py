"""Tokens are drawn from the distribution that transformers' warpers make."""

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from editreward.scorers.generative.sampling import BLOCK, Sampling, highest

DRAWS = 4000


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 1.5}, {"top_k": 0, "top_p": 1.0}, {"top_k": 3, "top_p": 0.5}, {"top_k": 500}]
)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_the_share_of_each_token_is_its_probability(settings, penalty):
    sampling = Sampling(**{"temperature": 0.7, **settings}, repetition_penalty=penalty)
    logits = 3 * torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    seen = [2, 5, 7]
    warped = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), logits.clone())
    warped = TemperatureLogitsWarper(sampling.temperature)(None, warped)
    if sampling.top_k:
        warped = TopKLogitsWarper(sampling.top_k)(None, warped)
    warped = TopPLogitsWarper(sampling.top_p)(None, warped)
    expected = warped.softmax(-1)[0].double().numpy()
    draws = ((np.arange(DRAWS) + 0.5) / DRAWS).tolist()
    chosen = sampling.choose(logits.expand(DRAWS, -1), draws, [seen] * DRAWS if penalty != 1 else None)
    np.testing.assert_allclose(np.bincount(chosen, minlength=40) / DRAWS, expected, atol=1.5 / DRAWS)


def test_without_temperature_the_likeliest_token_is_taken():
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(1))
    assert Sampling(0.0).choose(logits, [0.99] * 5) == logits.argmax(-1).tolist()


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"repetition_penalty": 0.0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`"):
        Sampling(**settings)


@pytest.mark.parametrize("vocabulary", [40, 50 * BLOCK, 50 * BLOCK + 7])
def test_the_highest_logits_are_found_as_by_topk(vocabulary):
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(0))
    logits[0, 2 * BLOCK : 2 * BLOCK + 25] += 10  # all of the highest in one block
    logits[1, -3:] += 10  # and behind the last whole one
    values, places = highest(logits, 20)
    wanted = logits.topk(20, dim=-1)
    assert torch.equal(values, wanted.values) and torch.equal(places, wanted.indices)
