"""Token ids, masks and precisions: what the kind of the inputs and weights changes in the graph of paths."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from graph.sums.forwards import Network, scores
from torch import Tensor, nn
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
    found = scores(network, IDS, prunable=["table.weight", "a.weight"])
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
def test_half_precision_is_scored_in_double(dtype: torch.dtype) -> None:
    """float16 holds no more than 65504; the path sum of this network is larger at every layer."""
    layers = [nn.Linear(64, 64) for _ in range(8)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.uniform_(50, 100)
    half = nn.Sequential(*layers).to(dtype)
    double = nn.Sequential(*(nn.Linear(64, 64) for _ in range(8))).double()
    double.load_state_dict({name: value.double() for name, value in half.state_dict().items()})
    found, wanted = scores(half, torch.zeros(1, 64, dtype=dtype)), scores(double, torch.zeros(1, 64))
    for name in wanted:
        assert found[name].dtype == torch.float64
        assert torch.equal(found[name], wanted[name])


def position_bias(m: Any, x: Tensor) -> Tensor:
    """A small network on coordinates, as Swin's position biases; its value drops out."""
    return m.head(m.a(x) + m.b(m.grid).sum(0) + m.b(torch.linspace(0, 1, 4)))


def filter_of_the_network(m: Any, x: Tensor) -> Tensor:
    return m.head(m.a(x) @ (m.b(torch.eye(4)).T @ torch.ones(4, 6) * 0 + torch.eye(6).float()))


def converted(m: Any, x: Tensor) -> Tensor:
    return m.head(torch.cat([m.a(x)[:, :3].half(), torch.zeros(len(x), 3, dtype=x.dtype)], 1).to(m.head.weight.dtype))


def written(m: Any, x: Tensor) -> Tensor:
    table = torch.zeros(len(x), 6)
    table[:, 1:] = m.a(x)[:, 1:]
    return m.head(table)


PLAIN = torch.ones(4)  # neither parameter nor buffer


def not_a_buffer(m: Any, x: Tensor) -> Tensor:
    return m.head(m.a(x) + m.b(PLAIN))


def memory(m: Any, x: Tensor) -> Tensor:
    """Writes into a view of a buffer, which the next operation sees."""
    m.grid[1:2].fill_(1.0)
    return m.head(m.a(x) * m.grid[1, :1])


@pytest.mark.parametrize("function", [position_bias, filter_of_the_network, converted, written, not_a_buffer, memory])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["double", "single"])
def test_constants_of_another_precision_than_the_sums(function: Any, dtype: torch.dtype, precision: Any) -> None:
    """What a forward keeps or makes in the network's precision mixes with flows of the sums'."""
    network = Network(function, a=nn.Linear(4, 6), b=nn.Linear(4, 6), head=nn.Linear(6, 2), grid=torch.zeros(3, 4))
    double = copy.deepcopy(network).to(dtype).double()
    found = foreprune.score(network.to(dtype), "synflow", inputs=FLAT.to(dtype), precision=precision)
    wanted = foreprune.score(double, "synflow", inputs=FLAT.double())
    assert float(wanted["a.weight"].sum()) > 0
    for name, score in found.items():
        assert score.dtype == (torch.float64 if precision == "double" else torch.float32)
        torch.testing.assert_close(score.double(), wanted[name], rtol=1e-13 if precision == "double" else 1e-5, atol=0)


def test_networks_of_mixed_precision() -> None:
    body, head = nn.Linear(4, 6).bfloat16(), nn.Linear(6, 2)
    mixed = Network(lambda m, x: m.head(F.relu(m.a(x)).float()), a=body, head=head)
    found = scores(mixed, FLAT.bfloat16())
    assert [float(score.float().sum()) for score in found.values()] == pytest.approx(
        [float(found["head.weight"].sum())] * 2, rel=0.01
    )
    assert foreprune.prune(mixed, "synflow", density=0.5, inputs=FLAT.bfloat16()).kept == 18
