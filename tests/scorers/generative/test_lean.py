"""Lean modules compute what transformers' own compute, and go when they are not used."""

import pytest
import torch

from editreward.scorers.generative.lean import LeanModules
from tests.helpers.generative import MODELS, writer


@pytest.mark.parametrize("name", MODELS)
def test_lean_modules_give_what_plain_ones_give(name):
    model = writer(name).model
    lean = LeanModules(model)
    layer = model.model.language_model.layers[0]
    hidden = torch.randn(5, model.config.get_text_config().hidden_size)
    with torch.no_grad():
        expected = layer.mlp(layer.input_layernorm(hidden))
        with lean.used():
            assert "forward" in vars(layer.mlp) and "forward" in vars(layer.input_layernorm)
            found = layer.mlp(layer.input_layernorm(hidden))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_norm_in_half_precision_rounds_as_its_module_does():
    class RMSNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.variance_epsilon = torch.nn.Parameter(torch.ones(4)), 1e-6

        def forward(self, hidden):
            return hidden + 1

    norm = RMSNorm()
    with LeanModules(norm).used(), torch.no_grad():
        assert norm(torch.zeros(4, dtype=torch.bfloat16)).tolist() == [1, 1, 1, 1]
