"""Packed linear layers multiply as plain ones, and follow their weights."""

import torch
from torch import nn

from editreward.scorers.generative.packed import PackedLinears


def test_packed_layers_give_the_products_of_plain_ones():
    module = nn.Sequential(nn.Linear(48, 300), nn.Linear(300, 20, bias=False))
    packed = PackedLinears([module])
    for rows in (1, 2, 7, 40):
        given = torch.randn(1, rows, 48)
        with torch.no_grad():
            expected = module(given)
            with packed.used():
                found = module(given)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert "forward" not in vars(module[0])


def test_weights_that_change_are_packed_again():
    layer = nn.Linear(8, 8)
    packed, given = PackedLinears([layer]), torch.randn(3, 8)
    with torch.no_grad():
        for factor in (1.0, 2.0):
            layer.weight.mul_(factor)
            with packed.used():
                torch.testing.assert_close(layer(given), nn.functional.linear(given, layer.weight, layer.bias))


def test_half_precision_and_large_models_go_on_as_they_are(monkeypatch):
    assert PackedLinears([nn.Linear(8, 8).bfloat16()]).layers == []
    monkeypatch.setattr("editreward.scorers.generative.packed.MOST_BYTES", 100)
    assert PackedLinears([nn.Linear(8, 8)]).layers == []
