"""Densities by patterns: groups of blocks with exact counts of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreprune
from foreprune.core.unscored import UnscoredBlocks


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.layer(self.embed(x)).mean(1))
        return output


def network() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


DATA = (torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3)
DENSITIES = {"*": 0.2, "*.in_proj_weight[q,k]": 0.5, "head": 1.0}


@pytest.mark.filterwarnings("ignore::foreprune.core.unscored.UnscoredBlocks", "ignore::foreprune.LayerCollapse")
@pytest.mark.parametrize("method", ["random", "magnitude", "erk", "uniform", "snip", "iterative-snip", "synflow"])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_every_group_has_its_count(method: str, scope: Any) -> None:
    if scope == "local" and method in ("erk", "uniform"):
        pytest.skip("they set the densities themselves")
    given = {"data": DATA} if "snip" in method else {"inputs": DATA[0]} if method == "synflow" else {}
    rounds = {"rounds": 4} if "rounds" in foreprune.get_method(method).settings else {}
    masks = foreprune.prune(network(), method, density=DENSITIES, scope=scope, **given, **rounds)
    counts = masks.block_counts()
    assert sum(counts[f"layer.self_attn.in_proj_weight[{label}]"][0] for label in "qk") == 64
    assert counts["head.weight"] == (24, 24)
    rest = masks.total - 128 - 24
    assert masks.kept == 64 + 24 + round(0.2 * rest)
    assert masks.metadata["density"] == repr(DENSITIES)


def test_one_density_for_all_is_the_number() -> None:
    one = foreprune.prune(network(), "magnitude", density=0.3)
    assert foreprune.prune(network(), "magnitude", density={"*": 0.3}) == one
    assert foreprune.prune(network(), "erk", density={"*": 0.3}) == foreprune.prune(network(), "erk", density=0.3)


@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
def test_the_first_pattern_that_fits_decides() -> None:
    masks = foreprune.prune(network(), "random", density={"head": 0.5, "*.weight": 0.25, "*_proj_weight": 1.0})
    assert masks.layer_counts()["head.weight"] == (12, 24)
    assert masks.layer_densities()["layer.self_attn.in_proj_weight"] == 1.0
    with pytest.warns(UnscoredBlocks):
        masks = foreprune.prune(network(), "synflow", density={"*[q,k]": 0.5, "*": 0.1}, inputs=DATA[0], rounds=2)
    assert [masks.block_counts()[f"layer.self_attn.in_proj_weight[{label}]"] for label in "qk"] == [(32, 64)] * 2


@pytest.mark.parametrize(
    ("density", "error", "message"),
    [
        ({}, ValueError, "density is an empty mapping; give e.g."),
        (
            {"head": 0.5},
            ValueError,
            r"no density pattern fits 'embed.weight'; add a density for the others: \"\*\": 0.1",
        ),
        ({"haed": 0.5, "*": 0.1}, ValueError, "density pattern 'haed' fits no prunable block; there are embed.weight"),
        ({"layer.norm1": 0.5, "*": 0.1}, ValueError, "density pattern 'layer.norm1' fits no prunable block"),
        ({"re:(": 0.5, "*": 0.1}, ValueError, r"density pattern 're:\(' is not a regular expression"),
        ({"head": 1.5, "*": 0.1}, ValueError, r"density of 'head': density must be in \(0, 1\]"),
        ({"head": "all", "*": 0.1}, TypeError, "density of 'head': density must be a number, not 'all'"),
        ({3: 0.5}, TypeError, "density has 3 for a pattern; patterns are strings"),
        ({"head": 0.001, "*": 0.1}, ValueError, "density of 'head': density 0.001 keeps none of 24 weights"),
    ],
)
def test_densities_that_cannot_be(density: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        foreprune.prune(network(), "random", density=density)


def test_what_does_not_go_with_several_densities() -> None:
    with pytest.raises(TypeError, match="give density= by patterns alone, without sparsity= or compression="):
        foreprune.prune(network(), "random", density={"*": 0.1}, sparsity=0.9)
    with pytest.raises(ValueError, match="method 'phew' chooses among all weights at once; give it one density"):
        foreprune.prune(network(), "phew", density=DENSITIES, inputs=DATA[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gates": "all"}, 'gates must be "erk" .*, "keep" .* or "score" .*, not \'all\''),
        ({"floor": 1.5}, r"floor must be in \[0, 1\], a share of every block's Erdős-Rényi-kernel count, not 1.5"),
        ({"floor": True}, "floor must be in .*, not True"),
    ],
)
def test_gates_and_floors_that_cannot_be(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        foreprune.prune(network(), "random", density=0.5, **given)


def test_methods_that_set_the_densities_take_no_floor() -> None:
    with pytest.raises(ValueError, match="method 'erk' sets the layer densities itself; leave floor=0"):
        foreprune.prune(network(), "erk", density=0.5, floor=0.5)


def test_metadata_say_what_is_not_the_default() -> None:
    plain = foreprune.prune(network(), "snip", density=0.5, data=DATA)
    assert not {"gates", "floor"} & plain.metadata.keys()
    given = foreprune.prune(network(), "snip", density=0.5, data=DATA, gates="keep", floor=0.5)
    assert (given.metadata["gates"], given.metadata["floor"]) == ("keep", "0.5")
