"""Units that keep weights, counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from walked_nets import case

from foreprune.analysis.effective import effective_masks
from foreprune.analysis.widths import Width, incoming, unit_sparsities, units_by_sparsity, widths
from foreprune.core.masks import Masks


def bits(*rows: str) -> torch.Tensor:
    return torch.tensor([[sign == "1" for sign in row] for row in rows])


def two_layers() -> tuple[nn.Module, Masks]:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    return model, Masks({"0.weight": bits("1111", "0000", "0100"), "2.weight": bits("110", "000")})


def test_fed_and_connected_units() -> None:
    model, masks = two_layers()
    assert widths(model, masks) == {"0.weight": Width(3, 2, None), "2.weight": Width(2, 1, None)}
    effective = effective_masks(model, masks, inputs=torch.zeros(1, 4))
    # unit 0 has both sides, unit 1 no incoming, unit 2 no outgoing weight
    assert widths(model, masks, effective=effective) == {"0.weight": Width(3, 2, 1), "2.weight": Width(2, 1, 1)}


def test_fed_units_are_the_widths_of_masks() -> None:
    given = case("residual")
    masks = given.masks(0.3, 2)
    found = widths(given.model, masks)
    assert {name: (width.fed, width.units) for name, width in found.items()} == masks.widths()


def test_sparsity_of_units_and_of_the_network() -> None:
    model, masks = two_layers()
    found = unit_sparsities(model, masks)
    assert found["0.weight"].tolist() == [0.0, 1.0, 0.75]
    assert found["2.weight"].tolist() == pytest.approx([1 / 3, 1.0])
    shares = units_by_sparsity(model, masks, at=(0, 1 / 3, 0.5, 0.75, 0.9, 1))
    assert shares == {0.0: 1.0, 1 / 3: 0.8, 0.5: 0.6, 0.75: 0.6, 0.9: 0.4, 1.0: 0.4}


def test_thresholds_are_met_whatever_the_rounding() -> None:
    model = nn.Sequential(nn.Linear(10, 1, bias=False))
    for kept in range(11):
        mask = torch.zeros(1, 10, dtype=torch.bool)
        mask[0, :kept] = True
        shares = units_by_sparsity(model, Masks({"0.weight": mask}))
        assert [s for s, share in shares.items() if share == 1.0] == [round(s / 10, 1) for s in range(11 - kept)]


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
    # each unit has (inputs of its group) x 9 weights
    sparsity = unit_sparsities(model, Masks({"0.weight": mask}))["0.weight"]
    assert float(sparsity[2]) == pytest.approx(1 - expected[2] / (4 // groups * 9))


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


def test_vectors_are_units_of_one_weight() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    masks = Masks({"0.bias": torch.tensor([True, False, True]), "1.weight": torch.tensor([False, False, True])})
    assert widths(model, masks) == {"0.bias": Width(3, 2, None), "1.weight": Width(3, 1, None)}
    assert unit_sparsities(model, masks)["0.bias"].tolist() == [0, 1, 0]


def test_errors() -> None:
    model, masks = two_layers()
    with pytest.raises(ValueError, match=r"sparsities must be in \[0, 1\], .* not 1\.5"):
        units_by_sparsity(model, masks, at=(0.5, 1.5))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        units_by_sparsity(model, masks, at=(math.nan,))
    with pytest.raises(ValueError, match="belong to another model"):
        widths(case("residual").model, masks)
    with pytest.raises(ValueError, match="the effective masks belong to another model"):
        widths(model, masks, effective=Masks({"0.weight": masks["0.weight"]}))
