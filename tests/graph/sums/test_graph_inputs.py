"""Token ids, masks and precisions: what the kind of the inputs and weights changes in the graph of paths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graph.sums.forwards import Network, scores
from torch import nn
from torch.nn import functional as F

import foreprune

FLAT = torch.rand(2, 4)
IDS = torch.tensor([[1, 2, 0, 3]])


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(
    "embed",
    [
        lambda m, ids: m.table(ids),
        lambda m, ids: F.embedding(ids, m.table.weight),
        lambda m, ids: m.table.weight[ids],
        lambda m, ids: torch.index_select(m.table.weight, 0, ids.flatten()).view(*ids.shape, -1),
        lambda m, ids: m.table(ids) + m.positions(torch.arange(ids.shape[1])),
        lambda m, ids: m.table(ids) + m.positions.weight[: ids.shape[1]],
        lambda m, ids: m.table((ids + 1).clamp(max=4)),
    ],
)
def test_token_ids_embed_as_ones(embed: Any) -> None:
    network = Network(
        lambda m, ids: m.head(m.a(embed(m, ids))),
        table=nn.Embedding(5, 4),
        positions=nn.Embedding(9, 4),
        a=nn.Linear(4, 6),
        head=nn.Linear(6, 2),
    ).double()
    with torch.no_grad():
        network.table.weight.zero_()
    found = scores(network, IDS)
    wanted = scores(nn.Sequential(network.a, network.head), torch.ones(1, 4, 4).double())
    for name, key in (("a.weight", "0.weight"), ("head.weight", "1.weight")):
        torch.testing.assert_close(found[name], wanted[key], rtol=1e-12, atol=0)


def test_a_language_model_with_a_tied_head() -> None:
    network = Network(
        lambda m, ids: m.head(m.a(m.table(ids))),
        table=nn.Embedding(5, 4),
        a=nn.Linear(4, 4),
        head=nn.Linear(4, 5, bias=False),
    ).double()
    network.head.weight = network.table.weight
    found = scores(network, IDS)
    assert found.keys() == {"table.weight", "a.weight"}
    assert float(found["table.weight"].sum()) == pytest.approx(float(found["a.weight"].sum()))


@pytest.mark.parametrize(
    "pool",
    [
        lambda h, mask: (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
        lambda h, mask: (h * mask.unsqueeze(-1).to(h.dtype)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1),
        lambda h, mask: h.masked_fill(mask[..., None] == 0, 0.0).mean(1),
        lambda h, mask: torch.where(mask[..., None].bool(), h, 0.0).mean(1),
        lambda h, mask: h.mean(1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_masks_among_the_inputs_are_constants(pool: Any, dtype: torch.dtype) -> None:
    network = Network(lambda m, x, mask: m.head(pool(m.a(x), mask)), a=nn.Linear(4, 6), head=nn.Linear(6, 2)).double()
    found = scores(network, torch.rand(2, 5, 4).double(), torch.ones(2, 5, dtype=dtype))
    plain = Network(lambda m, x: m.head(m.a(x).mean(1)), a=network.a, head=network.head)
    wanted = scores(plain, torch.rand(2, 5, 4).double())
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-12, atol=0)


def test_a_constant_that_a_mask_of_the_inputs_selects_from_stays_one() -> None:
    """Integers that look something up are token ids; booleans are not."""
    table = torch.ones(1, 5, 6)
    network = Network(
        lambda m, x, mask: m.head(m.a(x).mean(1) + m.table[mask].sum(0)),
        a=nn.Linear(4, 6),
        head=nn.Linear(6, 2),
        table=table,
    ).double()
    found = scores(network, torch.rand(1, 5, 4).double(), torch.ones(1, 5, dtype=torch.bool))
    assert float(found["a.weight"].sum()) == pytest.approx(float(found["head.weight"].sum()), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_single(dtype: torch.dtype) -> None:
    """float16 holds no more than 65504; the path sum of this network is larger at every layer."""
    layers = [nn.Linear(64, 64) for _ in range(8)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.uniform_(50, 100)
    half = nn.Sequential(*layers).to(dtype)
    single = nn.Sequential(*(nn.Linear(64, 64) for _ in range(8)))
    single.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    found, wanted = scores(half, torch.zeros(1, 64, dtype=dtype)), scores(single, torch.zeros(1, 64))
    for name in wanted:
        assert found[name].dtype == dtype
        torch.testing.assert_close(found[name].float(), wanted[name], rtol=0.02, atol=0)


def test_networks_of_mixed_precision() -> None:
    body, head = nn.Linear(4, 6).bfloat16(), nn.Linear(6, 2)
    mixed = Network(lambda m, x: m.head(F.relu(m.a(x)).float()), a=body, head=head)
    found = scores(mixed, FLAT.bfloat16())
    assert [float(score.float().sum()) for score in found.values()] == pytest.approx(
        [float(found["head.weight"].sum())] * 2, rel=0.01
    )
    assert foreprune.prune(mixed, "synflow", density=0.5, inputs=FLAT.bfloat16()).kept == 18
