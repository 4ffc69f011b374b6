"""Units that keep weights, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from walked_nets import case

from foreprune.analysis.effective import effective_masks
from foreprune.analysis.widths import Width, layer_widths, unit_histograms, units_by_sparsity
from foreprune.core.masks import Masks


def bits(*rows: str) -> torch.Tensor:
    return torch.tensor([[sign == "1" for sign in row] for row in rows])


def two_layers() -> tuple[nn.Module, Masks]:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    return model, Masks({"0.weight": bits("1111", "0000", "0100"), "2.weight": bits("110", "000")})


def histogram(**counts: int) -> tuple[int, ...]:
    return tuple(counts.get(f"b{at}", 0) for at in range(21))


def test_fed_and_connected_units() -> None:
    model, masks = two_layers()
    assert layer_widths(model, masks) == {"0.weight": Width(3, 2, None), "2.weight": Width(2, 1, None)}
    effective = effective_masks(model, masks, inputs=torch.zeros(1, 4))
    # unit 0 has both sides, unit 1 no incoming, unit 2 no outgoing weight
    assert layer_widths(model, masks, effective=effective) == {"0.weight": Width(3, 2, 1), "2.weight": Width(2, 1, 1)}


def test_fed_units_have_a_weight_in_their_row() -> None:
    given = case("residual")
    masks = given.masks(0.3, 2)
    for name, width in layer_widths(given.model, masks).items():
        assert (width.fed, width.units) == (int(masks[name].flatten(1).any(1).sum()), len(masks[name]))


def test_the_two_of_eight_outputs_of_a_transposed_convolution() -> None:
    """Whose outputs are axis 1 of the weight."""
    mask = torch.zeros(4, 8, 3, 3, dtype=torch.bool)
    mask[:, :2] = True
    model = nn.Sequential(nn.ConvTranspose2d(4, 8, 3))
    assert layer_widths(model, Masks({"0.weight": mask})) == {"0.weight": Width(8, 2, None)}


def test_density_of_units_and_sparsity_of_the_network() -> None:
    model, masks = two_layers()
    assert unit_histograms(model, masks) == {
        "0.weight": histogram(b0=1, b5=1, b20=1),
        "2.weight": histogram(b0=1, b14=1),
    }
    # sparsities 0, 1, 0.75 and 1/3, 1
    assert units_by_sparsity(model, masks) == {
        0.0: 1.0,
        0.1: 0.8,
        0.2: 0.8,
        0.3: 0.8,
        0.4: 0.6,
        0.5: 0.6,
        0.6: 0.6,
        0.7: 0.6,
        0.8: 0.4,
        0.9: 0.4,
        1.0: 0.4,
    }


def test_thresholds_are_met_whatever_the_rounding() -> None:
    model = nn.Sequential(nn.Linear(10, 1, bias=False))
    for kept in range(11):
        mask = torch.zeros(1, 10, dtype=torch.bool)
        mask[0, :kept] = True
        shares = units_by_sparsity(model, Masks({"0.weight": mask}))
        assert [s for s, share in shares.items() if share == 1.0] == [round(s / 10, 1) for s in range(11 - kept)]


def by_hand(mask: Tensor) -> tuple[int, ...]:
    counts = [0] * 21
    for unit in range(mask.shape[0]):
        weights = mask[unit].flatten().tolist()
        kept = sum(weights)
        if not kept:
            counts[0] += 1
            continue
        for number in range(1, 21):
            # (number - 1) / 20 < kept / all <= number / 20, in whole numbers
            if (number - 1) * len(weights) < 20 * kept <= number * len(weights):
                counts[number] += 1
    return tuple(counts)


@pytest.mark.parametrize("shape", [(60, 20), (60, 40), (13, 7), (9, 4, 3, 3), (30, 1), (1, 300)])
@pytest.mark.parametrize("density", [0.0, 0.04, 0.5, 1.0])
def test_units_are_counted_by_what_they_keep(shape: tuple[int, ...], density: float) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < density
    layer: Any = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2:])
    (found,) = unit_histograms(nn.Sequential(layer), Masks({"0.weight": mask})).values()
    assert found == by_hand(mask)
    assert sum(found) == shape[0]


@pytest.mark.parametrize("groups", [1, 2])
def test_density_of_the_units_of_transposed_convolutions(groups: int) -> None:
    """Each unit has (inputs of its group) x 9 weights."""
    model = nn.Sequential(nn.ConvTranspose2d(4, 6 * groups, 3, groups=groups, bias=False))
    mask = torch.zeros(4, 6, 3, 3, dtype=torch.bool)
    mask[3, 2] = True
    mask[0, 2, 0, 0] = True
    found = unit_histograms(model, Masks({"0.weight": mask}))["0.weight"]
    bins = [0] * 21
    bins[0] = 6 * groups - groups
    for count in (10,) if groups == 1 else (1, 9):
        bins[-(-20 * count * groups // 36)] += 1
    assert found == tuple(bins)


def test_vectors_are_units_of_one_weight() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    masks = Masks({"0.bias": torch.tensor([True, False, True]), "1.weight": torch.tensor([False, False, True])})
    assert layer_widths(model, masks) == {"0.bias": Width(3, 2, None), "1.weight": Width(3, 1, None)}
    assert unit_histograms(model, masks)["0.bias"] == histogram(b0=1, b20=2)


def test_a_network_without_a_graph_of_paths_is_counted_by_its_layers() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.cell(x)[0]).sort().values

    assert layer_widths(Odd(), Masks({"out.weight": bits("0000", "0101")})) == {"out.weight": Width(2, 1, None)}


def test_errors() -> None:
    model, masks = two_layers()
    for function in (layer_widths, unit_histograms, units_by_sparsity):
        with pytest.raises(ValueError, match="belong to another model"):
            function(case("residual").model, masks)
    with pytest.raises(ValueError, match="the effective masks belong to another model"):
        layer_widths(model, masks, effective=Masks({"0.weight": masks["0.weight"]}))
