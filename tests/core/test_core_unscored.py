"""Blocks that a score says nothing of: which they are, and which layers are simply not used."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreprune
from foreprune.core.by_score import LayerCollapse
from foreprune.core.unscored import UnscoredBlocks


class Excited(nn.Module):
    """A convolution whose channels two more layers weigh, and a layer that nothing needs."""

    def __init__(self, *, unused: bool = False) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.head = nn.Linear(6, 3)
        self.unused = nn.Linear(6, 5) if unused else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        x = x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        output: Tensor = self.head(x.mean((2, 3)))
        return output


class Both(nn.Module):
    """A linear layer whose second half gates its first."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        output: Tensor = self.head(value * gate.sigmoid())
        return output


class Branch(nn.Module):
    """A residual branch that begins as nothing: its last scale is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.norm = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        output: Tensor = self.head((x + self.norm(self.inner(x))).mean((2, 3)))
        return output


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def pruned(model: nn.Module, method: Any, **given: Any) -> tuple[foreprune.Masks, list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks = foreprune.prune(model, method, **given)
    return masks, caught


IMAGES = torch.rand(6, 2, 6, 6)


def test_layers_of_gates_keep_their_share() -> None:
    masks, caught = pruned(Excited(), "synflow", density=0.3, inputs=IMAGES, rounds=4)
    assert masks.kept == round(0.3 * masks.total)
    assert all(kept for kept, _ in masks.layer_counts().values())
    assert [warning.category for warning in caught] == [UnscoredBlocks]
    assert "2 of 4 blocks get no score at all" in str(caught[0].message)
    assert ": down.weight, up.weight; " in str(caught[0].message)


def test_layers_that_the_output_does_not_depend_on_are_told_apart() -> None:
    masks, caught = pruned(Excited(unused=True), "synflow", density=0.3, inputs=IMAGES, rounds=4)
    assert masks.collapsed() == ("unused.weight",)
    assert "2 of 5 blocks" in str(caught[0].message)
    assert "unused" not in str(caught[0].message)
    assert str(caught[1].message).startswith("synflow at density 0.3 leaves no weight in 1 of 5 layers: unused.weight")


def test_half_of_a_layer_may_be_a_gate() -> None:
    masks, caught = pruned(Both(), "synflow", density=0.3, inputs=torch.rand(2, 6), rounds=4)
    assert [block.name for block in masks.blocks] == ["up.weight[unscored]", "up.weight[scored]", "head.weight"]
    assert masks["up.weight"][8:].any()
    assert masks.kept == round(0.3 * masks.total)
    assert [warning.category for warning in caught] == [UnscoredBlocks]


def test_what_lies_behind_a_zero_is_not_left_to_ties() -> None:
    data = (IMAGES, torch.arange(6) % 3)
    model = Branch()
    masks, caught = pruned(model, "snip", density=0.3, data=data)
    assert [warning.category for warning in caught] == [UnscoredBlocks]
    kept, weights = masks["inner.weight"], model.inner.weight
    assert 0 < int(kept.sum()) < kept.numel()
    assert weights[kept].abs().min() > weights[~kept].abs().max()


def test_scattered_rows_without_a_score_are_nobodys_block() -> None:
    """Dead units of a layer score zero too."""
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    scores = {name: torch.rand(weight.shape) for name, weight in model.named_parameters() if weight.dim() == 2}
    for rows in ([0, 1, 4, 5, 6], [1, 4, 7], [0, 8]):  # of different lengths, single, few
        zeroed = {name: score.clone() for name, score in scores.items()}
        zeroed["0.weight"][rows] = 0
        masks, caught = pruned(model, zeroed, density=0.5)
        assert caught == []
        assert len(masks.blocks) == 2


@pytest.mark.parametrize(
    ("method", "given"), [("magnitude", {}), ("synflow", {"inputs": torch.ones(1, 4), "rounds": 2})]
)
def test_units_that_were_pruned_earlier_stay_pruned(method: str, given: dict[str, Any]) -> None:
    """Their rows are regular too, and zeros were kept of them at random, in place of weights that are not zero."""
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        model[0].weight[6:] = 0
    masks, caught = pruned(model, method, density=0.4, **given)
    assert caught == []
    assert all(model.get_parameter(name)[mask].all() for name, mask in masks.items())


def test_ready_scores_of_a_block_that_are_all_zero() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    scores = {name: torch.rand(weight.shape) for name, weight in model.named_parameters() if weight.dim() == 2}
    scores["1.weight"].zero_()
    masks, _ = pruned(model, scores, density=0.3)
    assert masks.layer_counts()["1.weight"][0] > 0
    masks, _ = pruned(model, scores, density=0.3, gates="score")
    assert masks.layer_counts()["1.weight"][0] == 0


def test_every_score_zero_is_an_error_still() -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="every score is zero"):
        foreprune.prune(model, {"weight": torch.zeros(3, 4)}, density=0.5)


@pytest.mark.parametrize(("method", "settings"), [("synflow", {"rounds": 3}), ("phew", {})])
def test_blocks_that_are_too_large_to_be_kept_whole_are_said_before_the_first_round(method: str, settings: Any) -> None:
    """With the number of weights that was asked for, not that of a round on the way there."""
    done: list[int] = []
    progress = {"progress": lambda at, of: done.append(at)} if settings else {}
    with pytest.raises(
        ValueError, match=r"keeps the 36 weights of down.weight, up.weight, and 16 of 162 are to be kept"
    ):
        pruned(Excited(), method, density=0.1, gates="keep", inputs=IMAGES[:1], **settings, **progress)
    assert not done


@pytest.mark.parametrize("method", ["phew", "synflow"])
def test_all_of_it_is_kept_at_a_density_of_one(method: str) -> None:
    """Walks were to reach the layers of the gates as well, which they cannot."""
    masks, caught = pruned(Excited(), method, density=1, inputs=IMAGES[:1])
    assert masks.kept == masks.total
    assert caught == []


def test_the_model_is_untouched() -> None:
    model = Excited(unused=True).train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    pruned(model, "synflow", density=0.3, inputs=IMAGES, rounds=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert model.conv.weight.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)


class Attending(nn.Module):
    """Attention whose heads are together wider than its input, with a fused projection called `name`."""

    def __init__(self, name: str, *, by_head: bool = False) -> None:
        super().__init__()
        self.name, self.by_head = name, by_head
        self.add_module(name, nn.Linear(8, 36))
        self.to_out, self.head = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        made = self.get_submodule(self.name)(x)
        parts = made.unflatten(-1, (2, 3, 6)).unbind(-2) if self.by_head else made.unflatten(-1, (3, 2, 6)).unbind(-3)
        q, k, v = (part.transpose(1, 2) for part in parts)
        weighed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        output: Tensor = self.head((x + self.to_out(weighed.transpose(1, 2).flatten(2))).mean(1))
        return output


TOKENS = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


@pytest.mark.parametrize("name", ["to_qkv", "qkv_proj"])
def test_heads_wider_than_the_input_keep_their_share(name: str) -> None:
    """Their queries and keys went without a word while the layer was taken for one block."""
    masks, caught = pruned(Attending(name), "snip", data=TOKENS, density=0.1)
    assert [warning.category for warning in caught] == [UnscoredBlocks]
    kept = masks.block_counts()
    assert kept[f"{name}.weight[q]"][0] in (9, 10)
    assert kept[f"{name}.weight[k]"][0] in (9, 10)


@pytest.mark.parametrize("by_head", [False, True])
def test_a_warning_where_no_name_tells_queries_and_keys(by_head: bool) -> None:
    model = Attending("fused", by_head=by_head)
    with torch.no_grad():
        model.get_submodule("fused").weight.view(*((2, 3) if by_head else (1, 3)), -1, 8)[:, :2] *= 1e-3
    masks, caught = pruned(model, "snip", data=TOKENS, density=0.3)
    rows = masks["fused.weight"].any(1).view(*((2, 3) if by_head else (1, 3)), -1)
    assert not rows[:, :2].any()
    assert rows[:, 2].any()
    assert [str(warning.message) for warning in caught if warning.category is LayerCollapse] == [
        "snip at density 0.3 leaves no weight in 24 rows of fused.weight, where they lie as queries and keys do in a "
        'fused projection: call such a layer "qkv" if they come one after the other, which makes each of them a layer '
        "of its own here, or use 'erk'"
    ]
    assert not [one for one in pruned(model, "magnitude", density=0.1)[1] if "rows of" in str(one.message)]
