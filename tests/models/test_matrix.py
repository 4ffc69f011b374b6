"""Every method, and `analyze`, on the networks of `models`: right, or refused in one sentence.

Our own networks are tried whole; of those of torchvision, timm and transformers, where they are installed, a share.
`make matrix` tries all and writes docs/models.md. Cells that its record has as not right are known defects.
"""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from models import record
from models.cell import columns, own_warnings, try_cell
from models.fused import parts
from models.libraries import LIBRARIES, networks
from models.network import Network

import foreprune

SHARE = 6  # networks of each library, each with so many columns
RECORD = record.load()


def not_right(network: Network, chosen: tuple[str, ...]) -> dict[str, str]:
    key = (network.library, network.name)
    known = RECORD[key].not_right() if key in RECORD else []
    with network.made() as given:
        expected = own_warnings(given)
        cells = {column: try_cell(given, column, expected=expected) for column in chosen}
    return {
        column: f"{cell.outcome}: {cell.detail}"
        for column, cell in cells.items()
        if not cell.right and column not in known
    }


@pytest.mark.parametrize("name", networks("own"))
def test_every_method_on_our_own_networks(name: str) -> None:
    assert not_right(networks("own")[name], columns()) == {}


@pytest.mark.parametrize("library", [library for library in LIBRARIES if library != "own"])
def test_a_share_of_the_cells_of_other_libraries(library: str) -> None:
    try:
        rows = networks(library)
    except ImportError as error:
        pytest.skip(str(error))
    draw = random.Random(f"{library} 0")
    for name in draw.sample(list(rows), SHARE):
        assert not_right(rows[name], tuple(draw.sample(columns(), SHARE))) == {}, name


@pytest.mark.parametrize("library", LIBRARIES)
def test_fused_projections_are_split_where_the_libraries_split_them(library: str) -> None:
    """Or not at all."""
    try:
        rows = networks(library)
    except ImportError as error:
        pytest.skip(str(error))
    agreed = 0
    for name, network in rows.items():
        with network.made() as given:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    masks = foreprune.prune(given.model, "random", density=1)
            except (TypeError, ValueError):  # the matrix has what it says
                continue
            for parameter, mask in masks.items():
                numbered = torch.arange(mask.numel()).view(mask.shape)
                known = {
                    part: set(block.flatten().tolist())
                    for part, block in parts(given.model, parameter, numbered).items()
                }
                split = {
                    block.label: set(numbered[block.index].flatten().tolist())
                    for block in masks.blocks
                    if block.parameter == parameter and block.label
                }
                if known and split:
                    assert split == known, (name, parameter)
                    agreed += 1
    assert agreed >= 6
