"""What prune warns of, word for word: ties, a small share, a head of zeros; and scoring as if that head were drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreprune
from foreprune.core.cautions import SmallShare, TiedScores, ZeroHead
from foreprune.core.net import Net
from foreprune.core.select import ties_of
from foreprune.core.unscored import UnscoredBlocks
from foreprune.core.zeros import with_drawn_heads, zero_heads

X, Y = torch.rand(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(12) % 3


class Branches(nn.Module):
    """Residual branches that begin as nothing."""

    def __init__(self, *, gamma: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 16)
        self.first = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16))
        self.second = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
        self.head = nn.Linear(16, 3)
        for branch in (self.first, self.second):
            nn.init.constant_(branch[1].weight, gamma)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(x)
        output: Tensor = self.head(x + self.second(x))
        return output


def seeded(kind: Any, **settings: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = kind(**settings).double()
        return model


def test_what_ties_decide_is_said_with_its_cause() -> None:
    model = seeded(Branches)
    # 96 + 48 weights have a score, 512 have none: 394 are kept, 250 of them drawn
    with pytest.warns(TiedScores) as caught:
        masks = foreprune.prune(model, "snip", density=0.6, data=(X, Y), gates="score")
    assert len(caught) == 1
    assert str(caught[0].message) == (
        "63% of what snip keeps was decided by ties: 250 of 394 weights were drawn at random among 512 of score zero; "
        "gamma of first.1, second.1 is zero, which no gradient passes: score a copy of the model in which it is one, "
        "or use a method that counts it as one ('synflow') or reads no gradient ('erk')"
    )
    assert caught[0].filename == __file__
    assert masks.layer_counts()["stem.weight"] == (96, 96)
    assert masks.layer_counts()["head.weight"] == (48, 48)
    assert (masks.metadata["ties.drawn"], masks.metadata["ties.tied"]) == ("250", "512")
    assert ties_of(masks) == (250, 512, True)


def test_of_several_rounds_the_last_one_is_said() -> None:
    with pytest.warns(TiedScores, match="63% of what iterative-snip keeps .*: 250 of 394 weights .* among 338 of "):
        foreprune.prune(
            seeded(Branches), "iterative-snip", density=0.6, data=(X, Y), rounds=3, schedule="linear", gates="score"
        )


@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
@pytest.mark.parametrize(
    ("density", "gamma"),
    [
        (0.2, 0.0),  # 131 of the 144 with a score
        (0.6, 1.0),
        (1.0, 0.0),  # nobody loses
    ],
)
def test_no_warning_where_ties_decide_nothing(density: float, gamma: float) -> None:
    masks = foreprune.prune(seeded(Branches, gamma=gamma), "snip", density=density, data=(X, Y), gates="score")
    assert "ties.drawn" not in masks.metadata


def test_few_ties_are_noted_and_not_warned_of() -> None:
    scores = {"0.weight": torch.arange(4000.0).view(40, 100)}
    scores["0.weight"][:, :4] = 2500.0  # 160 equal ones at the threshold
    masks = foreprune.prune(nn.Sequential(nn.Linear(100, 40)), scores, density=0.39)
    assert ties_of(masks) == (1560 - 15 * 96, 160, False)  # 120, less than a tenth of 1,560


def test_equal_scores_that_are_not_zero_and_every_layer_by_itself() -> None:
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    scores = {name: torch.ones(20, 20) for name in ("0.weight", "1.weight")}
    with pytest.warns(TiedScores) as caught:
        foreprune.prune(model, scores, density=0.3, scope="local")
    assert str(caught[0].message) == (
        "100% of what scores keeps was decided by ties: 240 of 240 weights were drawn at random among 800 of equal "
        "score; keep fewer weights, or use a method whose scores differ"
    )
    scores["0.weight"][:10] = 0.0  # 120 drawn among 200 ones; in the other layer 120 among 400
    with pytest.warns(TiedScores, match="240 of 240 weights were drawn at random among 600 of equal score;"):
        foreprune.prune(model, scores, density=0.3, scope="local", gates="score")


def test_ties_of_a_choice_that_a_floor_has_undone_do_not_count() -> None:
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    scores = {"0.weight": torch.arange(400.0).view(20, 20) + 10, "1.weight": torch.ones(20, 20)}
    masks = foreprune.prune(model, scores, density=0.25, floor=0.5)  # at first 200 of the first layer
    assert masks.layer_counts() == {"0.weight": (150, 400), "1.weight": (50, 400)}
    assert ties_of(masks) == (50, 400, False)
    masks = foreprune.prune(model, scores, density=0.55, floor=0.1)  # the floor asks for nothing more
    assert masks.layer_counts() == {"0.weight": (400, 400), "1.weight": (40, 400)}
    assert ties_of(masks) == (40, 400, False)


@pytest.mark.parametrize("method", ["random", "uniform", "er", "erk"])
def test_methods_that_draw_on_purpose_do_not_warn(method: str) -> None:
    foreprune.prune(nn.Linear(300, 300), method, density=0.5)


def test_no_signal_in_what_is_kept_without_a_scale_of_zero() -> None:
    model = seeded(Branches, gamma=1.0)
    scores = {name: torch.zeros_like(weight) for name, weight in Net.of(model).weights.items()}
    scores["head.weight"] += torch.rand(3, 16)
    with pytest.warns(TiedScores, match="of score zero; keep fewer weights, give more data, or exclude with prunable="):
        foreprune.prune(model, scores, density=0.5, gates="score")


def test_where_branches_keep_a_share_ties_decide_nothing_and_their_scales_are_named() -> None:
    with pytest.warns(
        UnscoredBlocks, match="first.0.weight, second.0.weight; .*; gamma of first.1, second.1 is zero, wh"
    ):
        masks = foreprune.prune(seeded(Branches), "snip", density=0.6, data=(X, Y))
    assert "ties.drawn" not in masks.metadata


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(40, 8), nn.LayerNorm(8)
        self.table = nn.Parameter(torch.zeros(30, 8))
        self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        output: Tensor = self.head(self.hidden(self.norm(self.embed(ids))).mean(1) + self.table.mean(0))
        return output


def test_a_small_share_of_prunable_parameters_is_said_with_what_holds_the_rest() -> None:
    with pytest.warns(SmallShare) as caught:
        foreprune.prune(Words(), "erk", density=0.5)
    assert len(caught) == 1
    assert str(caught[0].message) == (
        "only 88 of 675 parameters (13.0%) are prunable, and density counts no others; the rest stays whole, most of "
        "it in embed.weight of Embedding (320), table of Words (240), norm.weight of LayerNorm (8): to prune those too "
        "write prunable=lambda name, weight: weight.dim() > 1, or list names"
    )
    assert caught[0].filename == __file__
    masks = foreprune.prune(Words(), "erk", density=0.5, prunable=lambda name, weight: weight.dim() > 1)
    assert masks.total == 320 + 240 + 88


def test_a_share_that_was_asked_for_is_not_warned_of() -> None:
    foreprune.prune(Words(), "erk", density=0.5, prunable="head")
    foreprune.prune(nn.Sequential(nn.Linear(8, 9, bias=False), nn.LayerNorm(36)), "erk", density=0.5)  # exactly half


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.head, self.other = nn.Linear(8, 3), nn.Linear(8, 3)
        for layer in (self.head, self.other):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        output: Tensor = self.head(x) + self.other(x)
        return output


def zero_headed() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 3)).double()
    nn.init.zeros_(model[4].weight)
    return model


NO_SIGNAL = (
    r"every score is zero: the weights of the head 4.weight are all zero, so nothing passes it: write repair=\"head\" "
    r"to score as if it were drawn at random \(the model itself stays as it is\)"
)


@pytest.mark.parametrize("prunable", [None, "4"])
@pytest.mark.parametrize("method", ["snip", "iterative-snip", "synflow", "synflow-l2"])
def test_a_head_of_zeros_is_named_where_it_takes_every_score(method: str, prunable: str | None) -> None:
    with pytest.raises(ValueError, match=NO_SIGNAL):
        foreprune.prune(zero_headed(), method, density=0.5, data=(X, Y), inputs=X, prunable=prunable)


def test_phew_names_it_too() -> None:
    with pytest.raises(foreprune.PathError, match=r"only 0 of 580 .*; the weights of the head 4.weight are all zero"):
        foreprune.prune(zero_headed(), "phew", density=0.5, inputs=X)


@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
@pytest.mark.parametrize("method", ["magnitude", "grasp"])
def test_a_head_without_scores_is_warned_of(method: str) -> None:
    with pytest.warns(ZeroHead) as caught:
        foreprune.prune(zero_headed(), method, density=0.3, data=(X, Y), gates="score")
    assert [warning.category for warning in caught].count(ZeroHead) == 1
    assert str(caught[0].message) == (
        "the weights of the head 4.weight are all zero, so their scores are zero and those of other layers miss what "
        'passes it; write repair="head" to score as if it were drawn at random (the model itself stays as it is)'
    )
    assert caught[0].filename == __file__
    with pytest.warns(UnscoredBlocks, match='4.weight; .*; the weights of the head 4.weight are all .* repair="head"'):
        foreprune.prune(zero_headed(), method, density=0.3, data=(X, Y))
    with pytest.warns(ZeroHead) as again:
        foreprune.score(zero_headed(), method, data=(X, Y))
    assert again[0].filename == __file__


@pytest.mark.parametrize("method", ["random", "erk", "ntk-sap"])
def test_methods_that_do_not_read_the_head_do_not_warn(method: str) -> None:
    foreprune.prune(zero_headed(), method, density=0.3, data=(X, Y), inputs=X)


@pytest.mark.parametrize("method", [method.name for method in foreprune.list_methods()])
@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
def test_repair_scores_as_if_the_head_were_drawn(method: str) -> None:
    model = zero_headed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    settings = {"rounds": 3} if "rounds" in foreprune.get_method(method).settings else {}
    given: dict[str, Any] = {"density": 0.5, "data": (X, Y), "inputs": X, **settings}
    masks = foreprune.prune(model, method, repair="head", **given)
    assert masks.metadata["repair"] == "head"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert masks == foreprune.prune(model, method, repair="head", **given)
    twin = zero_headed()
    with torch.no_grad():
        twin[4].weight.copy_(with_drawn_heads(Net.of(model), seed=0).params["4.weight"])
    assert masks == foreprune.prune(twin, method, **given)
    assert masks == foreprune.prune(twin, method, repair="head", **given)  # nothing to repair
    assert "repair" not in foreprune.prune(twin, method, repair="head", **given).metadata


def test_the_head_is_drawn_by_its_own_initialization_from_the_seed() -> None:
    net = Net.of(seeded(TwoHeads))
    assert zero_heads(net) == ("head.weight", "other.weight")
    first, again, other = (with_drawn_heads(net, seed=seed).params for seed in (0, 0, 1))
    for name in zero_heads(net):
        assert 0 < first[name].abs().max() <= 8**-0.5  # U(-1, 1) / sqrt(fan-in), as Linear draws
        assert first[name].abs().max() > 0.7 * 8**-0.5
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    assert not torch.equal(first["head.weight"], first["other.weight"])
    assert all(first[name] is net.params[name] for name in net.params if name not in zero_heads(net))
    scores = foreprune.score(net.module, "snip", data=(X, Y), repair="head")
    assert all(value.any() for value in scores.values())


class Early(nn.Module):
    """A head of zeros that is defined before the layers it comes after."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier, self.body = nn.Sequential(nn.Linear(6, 3)), nn.Linear(4, 6)
        nn.init.zeros_(self.classifier[0].weight)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.classifier(self.body(x).relu())
        return output


def test_a_head_that_is_defined_first_is_known_by_its_name() -> None:
    """repair= found no layer of zeros at the end of the module and did nothing, without a word."""
    torch.manual_seed(0)
    model = Early()
    assert zero_heads(Net.of(model)) == ("classifier.0.weight",)
    with pytest.raises(ValueError, match=r"the weights of the head classifier\.0\.weight are all zero"):
        foreprune.prune(model, "synflow", density=0.5, inputs=torch.ones(1, 4))
    masks = foreprune.prune(model, "synflow", density=0.5, inputs=torch.ones(1, 4), repair="head")
    assert masks.metadata["repair"] == "head"
    model.get_submodule("classifier").add_module("adapter", nn.Linear(3, 3))  # zeros of another name are no head
    model.classifier.adapter.weight.data.zero_()
    model.classifier[0].weight.data.fill_(1)
    assert zero_heads(Net.of(model)) == ()


def test_what_is_no_head_of_zeros() -> None:
    model = seeded(Branches)
    nn.init.zeros_(model.second[0].weight)  # inside a branch
    assert zero_heads(Net.of(model)) == ()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)  # nothing but zeros
    assert zero_heads(Net.of(model)) == ()
    with pytest.raises(ValueError, match=r"every score is zero: gamma of first.1, second.1 is zero, which no"):
        foreprune.prune(model, "snip", density=0.5, data=(X, Y))


@pytest.mark.parametrize("call", [foreprune.prune, foreprune.score])
def test_repair_takes_nothing_else(call: Any) -> None:
    density = {"density": 0.5} if call is foreprune.prune else {}
    with pytest.raises(ValueError, match=r'repair must be "head" \(score as if .*\) or None, not \'gamma\''):
        call(nn.Linear(3, 3), "magnitude", repair="gamma", **density)
