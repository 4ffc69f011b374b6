"""NTK-SAP on token ids: what is looked up by them is drawn, once for both evaluations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import Inputs, as_inputs
from foreprune.methods.drawn_embeddings import DrawnEmbeddings, mark
from foreprune.methods.ntk_sap import Draw, draws, sensitivity

IDS = torch.tensor([[1, 2, 1, 0], [3, 3, 2, 1]])


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = F.relu(self.mix(x))
        x = x if mask is None else x * mask.unsqueeze(-1)
        output: Tensor = self.out(x.mean(1))
        return output


class Tokens(nn.Module):
    """Looks its tokens up as `how` says and gives them to `Head`; positions are looked up by a range."""

    def __init__(self, how: str = "module") -> None:
        super().__init__()
        self.table = nn.Embedding(4, 5)
        self.positions = nn.Embedding(4, 5)
        self.head = Head()
        self.how = how

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        ids = ids.view(-1, ids.shape[-1]).clone()  # views and copies come from the inputs too
        if self.how == "module":
            x = self.table(ids)
        elif self.how == "index":
            x = self.table.weight[ids]
        else:
            x = torch.index_select(self.table.weight, 0, ids.flatten()).unflatten(0, ids.shape)
        x = x + 0 * self.positions(torch.arange(ids.shape[1]))
        first = x[torch.arange(len(ids)), (ids == 0).int().argmax(1)]  # reads activations, not a table
        output: Tensor = self.head(x, mask) + 0 * first.sum()
        return output


@pytest.mark.parametrize("how", ["module", "index", "select"])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_score_of_the_network_behind_the_embeddings(how: str, masked: bool) -> None:
    """The rest of the network on the same normal inputs, weights and perturbations."""
    torch.manual_seed(0)
    model = Tokens(how).double()
    mask = (torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]),) if masked else ()
    net, rest = Net.of(model), Net.of(model.head)
    generator = torch.Generator().manual_seed(3)
    (draw,) = draws(net, as_inputs((IDS, *mask)), generator, sizes=[5], epsilon=0.1, init="kaiming")
    assert torch.equal(draw.inputs.args[0], IDS[[0, 1, 0, 1, 0]])
    z = torch.empty(5, 4, 5, dtype=torch.float64).normal_(generator=generator.clone_state())
    shorter = [
        {key.removeprefix("head."): value.clone() for key, value in part.items() if "head." in key}
        for part in (draw.weights, draw.perturbed)
    ]
    wanted = sensitivity(rest, Masks.dense(rest.weights), Draw(*shorter, Inputs((z, *draw.inputs.args[1:]))))
    found = sensitivity(net, Masks.dense(net.weights), draw)
    torch.testing.assert_close(found[0], wanted[0])
    assert float(found[0]) > 0
    for name, part in wanted[1].items():
        torch.testing.assert_close(found[1][f"head.{name}"], part)


@pytest.mark.filterwarnings("ignore::foreprune.core.cautions.SmallShare")
def test_the_ids_do_not_matter_but_their_shape_does() -> None:
    torch.manual_seed(0)
    model = Tokens()
    one, two = (foreprune.score(model, "ntk-sap", inputs=ids) for ids in (IDS, 3 - IDS))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert foreprune.prune(model, "ntk-sap", density=0.3, rounds=2, inputs={"ids": IDS}).kept == round(0.3 * 48)


def test_positions_keep_their_table_and_bags_are_drawn() -> None:
    table = torch.zeros(4, 5)
    with DrawnEmbeddings([table], torch.Generator().manual_seed(0)) as drawn:
        assert not F.embedding(torch.arange(4), table).any()
        assert not torch.zeros(4, 5)[mark(torch.tensor([0, 1]))].any()  # no parameter
        assert F.embedding_bag(mark(torch.tensor([[0, 1], [2, 3]])), table).all()
        assert F.embedding(mark(torch.tensor([2])) + 1, table).all()
        assert not F.embedding((mark(torch.tensor([2])) > 1).long(), table).any()  # no longer ids: a mask
    assert [tuple(one.shape) for one in drawn.drawn] == [(2, 5), (1, 5)]
    assert drawn.has(table)
    assert not drawn.has(torch.zeros(4, 5))


class Changing(Tokens):
    """Looks its tokens up twice where an activation is positive, which perturbed weights may change."""

    calls = 0

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        Changing.calls += 1
        output: Tensor = self.head(torch.cat([self.table(ids)] * (1 if Changing.calls % 2 else 2), 1))
        if Changing.calls % 2 == 0:
            output = output + self.head(self.table(ids))
        return output


def test_lookups_in_another_order_under_perturbation_are_refused() -> None:
    with pytest.raises(ValueError, match=r"looks up its embeddings in another order when .* perturbed .*'synflow'"):
        foreprune.score(Changing(), "ntk-sap", inputs=IDS)


@pytest.mark.parametrize("prunable", [["table.weight", "head.out.weight"], lambda name, weight: "weight" in name])
def test_a_table_has_no_score(prunable: Any) -> None:
    with pytest.raises(ValueError, match=r"draws what is looked up in 'table.weight', .* leave it out with prunable="):
        foreprune.score(Tokens(), "ntk-sap", inputs=IDS, prunable=prunable)


def test_a_table_that_is_tied_to_the_head_has_one() -> None:
    model = Tokens()
    model.head.mix = nn.Linear(5, 5)
    model.head.out = nn.Linear(5, 4)
    model.head.out.weight = model.table.weight
    scores = foreprune.score(model, "ntk-sap", inputs=IDS, prunable=["table.weight", "head.mix.weight"])
    assert all(bool(score.all()) for score in scores.values())
