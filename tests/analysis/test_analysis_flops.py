"""Multiply-adds worked out by hand."""

from __future__ import annotations

import pytest
import torch
from contract.nets import NETS, example
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune.analysis.flops import LayerCost, cost
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.zoo.models import create


def test_convolutions_and_linear_layers() -> None:
    given = example("residual")
    found = cost(given.model, inputs=given.x)
    dense = {
        "stem.weight": 64 * 4 * 2 * 9,
        "first.weight": 64 * 4 * 4 * 9,
        "second.weight": 64 * 4 * 4 * 9,
        "third.weight": 16 * 6 * 4 * 9,
        "shortcut.weight": 16 * 6 * 4,
        "head.weight": 6 * 3,
    }
    assert found.layers == {name: LayerCost(macs, macs) for name, macs in dense.items()}
    assert found.dense_macs == found.macs == sum(dense.values())
    assert (found.dense_flops, found.flops) == (2 * found.dense_macs, 2 * found.macs)


@pytest.mark.parametrize("name", NETS)
def test_each_layer_shrinks_with_its_own_density(name: str) -> None:
    given = example(name)
    masks = foreprune.prune(given.model, "erk", density=0.3)
    dense, found = cost(given.model, inputs=given.x), cost(given.model, masks, inputs=given.x)
    assert found.dense_macs == dense.macs
    for key, (kept, total) in masks.layer_counts().items():
        whole = dense.layers[key].macs
        assert whole % total == 0, "every weight is used equally often"
        assert found.layers[key] == LayerCost(whole, whole // total * kept)
    rest = dense.macs - sum(layer.macs for layer in dense.layers.values())
    assert found.macs == rest + sum(layer.macs for layer in found.layers.values())
    parameters = sum(value.numel() for value in given.model.parameters())
    assert (found.parameters, found.kept_parameters) == (parameters, parameters - masks.total + masks.kept)
    assert (found.dense_bytes, found.bytes) == (8 * parameters, 8 * found.kept_parameters)


def test_products_without_weights_are_not_pruned() -> None:
    given = example("attention")
    empty = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in Net.of(given.model).weights.items()}
    found = cost(given.model, Masks(empty), inputs=given.x)
    assert found.macs == 2 * (7 * 7 * 8)  # queries with keys, attention with values, for seven tokens
    encoder = example("encoder")
    found = cost(encoder.model, inputs=encoder.x)
    assert found.layers["layer.self_attn.in_proj_weight"].macs == 6 * 8 * 24
    assert found.layers["layer.self_attn.out_proj.weight"].macs == 6 * 8 * 8
    assert found.macs - sum(layer.macs for layer in found.layers.values()) == 2 * (6 * 6 * 8)


def test_a_weight_that_is_used_twice_costs_twice() -> None:
    given = example("tied")
    assert cost(given.model, inputs=given.x).layers["down.weight"].macs == 2 * 8 * 8


def test_weights_that_are_transposed_or_cut_before_use() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 6))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x @ self.weight, self.weight[:, :6]) + x @ self.weight.narrow(1, 2, 4)

    masks = Masks({"weight": torch.ones(4, 6).tril().bool()})
    found = cost(Odd(), masks, inputs=torch.zeros(1, 4))
    assert found.layers["weight"] == LayerCost(24 + 24 + 16, 64 * 10 // 24)


def test_only_one_sample_is_counted() -> None:
    given = example("conv")
    assert cost(given.model, inputs=given.x) == cost(given.model, inputs=given.x[:1])


def test_published_numbers() -> None:
    model = create("resnet-50", input_shape=(3, 224, 224), classes=1000)
    found = cost(model, inputs=torch.zeros(1, 3, 224, 224))
    assert found.parameters == 25_557_032
    assert found.dense_macs == 4_089_184_256
