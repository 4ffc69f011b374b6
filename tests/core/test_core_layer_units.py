"""Which unit each weight feeds, counted by hand for every kind of layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foreprune.core.layer_units import incoming


@pytest.mark.parametrize(("groups", "units"), [(1, 6), (2, 12)])
def test_units_of_transposed_convolutions(groups: int, units: int) -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 6 * groups, 3, groups=groups, bias=False))
    mask = torch.zeros(4, 6, 3, 3, dtype=torch.bool)
    mask[3, 2] = True
    mask[0, 2, 0, 0] = True
    counts = incoming(model, "0.weight", mask)
    assert counts.numel() == units
    expected = [0] * units
    if groups == 1:
        expected[2] = 10
    else:
        expected[2], expected[6 + 2] = 1, 9
    assert counts.tolist() == expected


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Conv2d, nn.Conv3d])
def test_a_unit_is_an_output_that_moves_with_its_weights(kind: type[nn.Module], groups: int) -> None:
    """The slow and obvious way: which outputs change with one weight."""
    layer = kind(4, 8, 1, groups=groups, bias=False)
    weight = layer.weight
    x = torch.ones(1, 4, *[1] * (weight.dim() - 2))
    for place in range(weight.numel()):
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[place] = True
        with torch.no_grad():
            weight.copy_(mask.view_as(weight))
        output = layer(x).flatten().long()
        assert torch.equal(incoming(nn.Sequential(layer), "0.weight", mask.view_as(weight)), output)


def test_units_of_grouped_convolutions_and_of_gpt2s_layer() -> None:
    grouped = nn.Sequential(nn.Conv2d(4, 6, 2, groups=2))
    assert incoming(grouped, "0.weight", torch.ones(6, 2, 2, 2).bool()).tolist() == [8] * 6

    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nf = 3
            self.weight = nn.Parameter(torch.ones(5, 3))

    model = nn.Sequential(Conv1D())
    mask = torch.zeros(5, 3, dtype=torch.bool)
    mask[:2, 1] = True
    assert incoming(model, "0.weight", mask).tolist() == [0, 2, 0]
