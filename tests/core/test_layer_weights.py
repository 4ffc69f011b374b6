"""Weights by the type of their layer: parametrized, recurrent and stacked ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune

import foreprune
from foreprune.core.init import fresh
from foreprune.core.layer_units import incoming, incoming_of, unit_index
from foreprune.core.net import Net
from foreprune.core.normalized import KeptForNorm
from foreprune.core.select import keep_top

X, Y = torch.rand(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(9) % 3
DENSITY = 0.85  # no row of six weights loses all of them
WORDS = torch.rand(9, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Scaled(nn.Module):
    """A parametrization of a user: factors for rows, learned."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.linspace(0.5, 2, 10, dtype=torch.float64))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factors[:, None]


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).mT


def scaled(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Scaled())


def half_pruned(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(layer.weight.shape, generator=generator) < 0.9
    return torch_prune.custom_from_mask(layer, "weight", mask)  # type: ignore[no-any-return, no-untyped-call]


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


Wrap = Callable[[Any], nn.Module]
WRAPS: dict[str, tuple[Wrap, str]] = {
    "weight norm": (parametrizations.weight_norm, "0.parametrizations.weight.original1"),
    "spectral norm": (parametrizations.spectral_norm, "0.parametrizations.weight.original"),
    "a user's": (scaled, "0.parametrizations.weight.original"),
    "hooked weight norm": (old_weight_norm, "0.weight_v"),
    "hooked spectral norm": (nn.utils.spectral_norm, "0.weight_orig"),
    "torch.nn.utils.prune": (half_pruned, "0.weight_orig"),
}


def network(wrap: Wrap | None) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, head = nn.Linear(6, 10).double(), nn.Linear(10, 3).double()
        if wrap is not None:
            first = wrap(first)
            with torch.no_grad():  # its norms are no longer those it was made with
                for key in ("weight_g", "parametrizations.weight.original0"):
                    if key in dict(first.named_parameters()):
                        first.get_parameter(key).mul_(torch.linspace(0.5, 2, 10, dtype=torch.float64)[:, None])
            first(X)
        return nn.Sequential(first, nn.Tanh(), head).eval()


def plain(model: nn.Sequential) -> nn.Sequential:
    """The same function with ordinary parameters."""
    twin = network(None)
    with torch.no_grad():
        model(X)
        twin[0].weight.copy_(model[0].weight)
        twin[0].bias.copy_(model[0].bias)
    return twin


def given(method: Any) -> dict[str, Any]:
    if method.needs & {"images", "labels"}:
        arguments: dict[str, Any] = {"data": (X, Y)}
    else:
        arguments = {"inputs": X, "data": (X, Y)} if "shape" in method.needs else {}
    return arguments | ({"rounds": 3} if "rounds" in method.settings else {})


@pytest.mark.parametrize("method", foreprune.list_methods(), ids=lambda method: method.name)
@pytest.mark.parametrize("kind", WRAPS)
def test_a_parametrized_network_is_pruned_like_the_one_with_ordinary_weights(kind: str, method: Any) -> None:
    wrap, name = WRAPS[kind]
    model = network(wrap)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    expected = foreprune.prune(plain(model), method, density=DENSITY, **given(method))
    before = model[0].__dict__.copy()
    masks = foreprune.prune(model, method, density=DENSITY, **given(method))
    assert tuple(masks) == (name, "2.weight")
    assert torch.equal(masks[name], expected["0.weight"])
    assert torch.equal(masks["2.weight"], expected["2.weight"])
    assert masks.kept == expected.kept
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in state.items())
    assert model[0].__dict__.keys() == before.keys()
    assert all(model[0].__dict__[key] is value for key, value in before.items())


@pytest.mark.parametrize("make", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", WRAPS)
def test_what_is_pruned_stays_zero_in_the_weight_itself(kind: str, make: str) -> None:
    wrap, name = WRAPS[kind]
    model = network(wrap).train()
    if make == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    masks = foreprune.prune(model, "snip", density=DENSITY, data=(X, Y))
    start = model[0].weight.detach().clone()
    masks.attach(model, optimizer)
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        optimizer.step()
    model(X)
    pruned = ~masks[name]
    assert pruned.any()
    assert not model[0].weight[pruned].any()
    assert float(loss.detach()) < 0.9
    assert not torch.equal(model[0].weight[~pruned], start[~pruned])
    assert torch.isfinite(model(X)).all()


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (parametrizations.orthogonal, "_Orthogonal"),
        (lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()), "Symmetric"),
    ],
)
def test_weights_that_no_zero_reaches_are_refused_by_name(wrap: Wrap, kind: str) -> None:
    model = nn.Sequential(wrap(nn.Linear(6, 6)), nn.Linear(6, 3))
    with pytest.raises(
        ValueError, match=rf"the weight '0.weight' is computed by {kind}, .* exclude it with prunable='0'"
    ):
        foreprune.prune(model, "magnitude", density=0.5)
    assert tuple(foreprune.prune(model, "magnitude", density=0.5, prunable="0")) == ("1.weight",)
    assert tuple(foreprune.prune(model, "magnitude", density=0.5, prunable=["1.weight"])) == ("1.weight",)


class Counting(nn.Module):
    """A parametrization that remembers how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return weight.tanh()


@pytest.mark.parametrize("method", ["magnitude", "snip"])
def test_buffers_of_a_parametrization_stay_as_they_were(method: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    parametrize.register_parametrization(model[0], "weight", Counting())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = {"data": (torch.rand(4, 6), torch.arange(4) % 3)} if method == "snip" else {}
    foreprune.prune(model, method, density=0.5, **data)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weight_normalization_of_single_weights_is_followed() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(1, 4)), nn.Linear(4, 2))
    assert Net.of(model).prunable == ("0.parametrizations.weight.original1", "1.weight")


def test_a_weight_that_a_hook_of_a_user_computes_is_refused() -> None:
    layer = nn.Linear(4, 4)
    del layer.weight
    layer.weight = torch.ones(4, 4)
    with pytest.raises(ValueError, match=r"the weight '0.weight' is computed by a hook, where zeros of no parameter"):
        Net.of(nn.Sequential(layer, nn.Linear(4, 2)))


@pytest.mark.parametrize("kind", ["weight norm", "hooked weight norm"])
def test_what_is_divided_by_a_norm_keeps_a_weight(kind: str) -> None:
    model, name = network(WRAPS[kind][0]), WRAPS[kind][1]
    weights = Net.of(model).weights
    scores = {key: value.abs() for key, value in weights.items()}
    scores[name][[4, 7]] = 0
    with pytest.warns(KeptForNorm) as caught:
        masks = foreprune.prune(model, scores, density=0.5)
    assert str(caught[0].message) == (
        f"2 weights of {name} are kept against their scores, in place of as many others of the same layer, because a "
        "normalization divides by the norms of parts that would have had no weight; make it an ordinary parameter "
        "first (torch.nn.utils.parametrize.remove_parametrizations) to prune by score alone"
    )
    assert caught[0].filename == __file__
    plainly = keep_top(scores, 45, generator=torch.Generator())
    assert masks.layer_counts() == plainly.layer_counts()
    assert torch.equal(masks["2.weight"], plainly["2.weight"])
    more, less = masks[name] & ~plainly[name], plainly[name] & ~masks[name]
    assert more.sum(1).tolist() == [0, 0, 0, 0, 1, 0, 0, 1, 0, 0]
    assert all(weights[name][row].abs().argmax() == more[row].int().argmax() for row in (4, 7))
    others = masks[name] & (plainly[name].sum(1) > 1)[:, None]
    assert weights[name][less].abs().max() < weights[name][others].abs().min()  # the smallest that a row can spare
    masks.apply_(model)
    assert torch.isfinite(model(X)).all()


def test_more_parts_than_weights_left_are_refused() -> None:
    model = network(parametrizations.weight_norm)
    scores = {name: value.abs() for name, value in Net.of(model).weights.items()}
    scores["2.weight"] += 10
    with pytest.raises(
        ValueError, match=r"the masks keep 6 weights of '0.weight', whose 10 parts _WeightNorm divides by"
    ):
        foreprune.prune(model, scores, density=0.4)
    whole = network(parametrizations.spectral_norm)
    scores = {name: value.abs() for name, value in Net.of(whole).weights.items()}
    scores["0.parametrizations.weight.original"] *= 0
    with pytest.raises(
        ValueError, match=r"the masks keep 0 weights of '0.weight', whose 1 parts _SpectralNorm divides b"
    ):
        foreprune.prune(whole, scores, density=0.2, gates="score")


def test_a_parametrization_is_followed_in_transposed_convolutions_and_recurrent_layers() -> None:
    model = nn.Sequential(
        parametrizations.weight_norm(nn.ConvTranspose2d(3, 5, 2)),
        parametrizations.weight_norm(nn.LSTM(4, 3), "weight_hh_l0"),
    )
    net = Net.of(model)
    name = "0.parametrizations.weight.original1"
    assert net.prunable == (name, "1.weight_ih_l0", "1.parametrizations.weight_hh_l0.original1")
    assert incoming(model, name, torch.ones(3, 5, 2, 2).long()).tolist() == [12] * 5
    drawn = fresh(net, torch.Generator().manual_seed(0))
    assert drawn[name].std() == pytest.approx((2 / (5 * 4)) ** 0.5, rel=0.4)
    assert not torch.equal(drawn[name], net.params[name])


class Steps(nn.Module):
    """A recurrent layer or cell over five words, its last state to three classes."""

    def __init__(self, kind: Any, **settings: Any) -> None:
        super().__init__()
        self.cell = kind(6, 8, **settings)
        self.head = nn.Linear(settings.get("proj_size", 8) * (2 if settings.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.cell, nn.RNNBase):
            output: Tensor = self.head(self.cell(x.transpose(0, 1))[0][-1])
            return output
        state: Any = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        output = self.head(state[0] if isinstance(state, tuple) else state)
        return output


def steps(kind: Any, **settings: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Steps(kind, **settings).double()


RECURRENT = {
    "LSTM": (nn.LSTM, {}, 4 * 8 * (6 + 8)),
    "GRU of two layers": (nn.GRU, {"num_layers": 2, "bidirectional": True}, 2 * 3 * 8 * (6 + 8 + 16 + 8)),
    "RNN": (nn.RNN, {}, 8 * (6 + 8)),
    "projected LSTM": (nn.LSTM, {"proj_size": 5}, 4 * 8 * (6 + 5) + 5 * 8),
    "LSTM cell": (nn.LSTMCell, {}, 4 * 8 * (6 + 8)),
    "GRU cell": (nn.GRUCell, {}, 3 * 8 * (6 + 8)),
}
PATHS = ("phew", "px", "synflow", "synflow-dist", "synflow-l2", "synflow-l2-dist")


@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse", "ignore::foreprune.core.unscored.UnscoredBlocks")
@pytest.mark.parametrize("name", RECURRENT)
def test_kernels_of_recurrent_layers_are_prunable_whatever_the_method(name: str) -> None:
    kind, settings, kernels = RECURRENT[name]
    model = steps(kind, **settings)
    total = kernels + model.head.weight.numel()
    lists = list(getattr(model.cell, "_flat_weights", []))
    for method in foreprune.list_methods():
        arguments = given(method)
        arguments |= {key: WORDS if key == "inputs" else (WORDS, Y) for key in arguments if key in ("inputs", "data")}
        if method.name in PATHS:
            with pytest.raises(foreprune.PathError, match=r"in module 'cell' \(\w+\) has no meaning for paths: a rec"):
                foreprune.prune(model, method, density=0.3, **arguments)
        else:
            masks = foreprune.prune(model, method, density=0.3, **arguments)
            assert (masks.kept, masks.total) == (round(0.3 * total), total)
        assert all(own is found for own, found in zip(getattr(model.cell, "_flat_weights", []), lists, strict=True))


def test_a_recurrent_layer_trains_with_its_masks() -> None:
    model = steps(nn.LSTM)
    masks = foreprune.prune(model, "snip", density=0.4, data=(WORDS, Y))
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    masks.attach(model, optimizer)
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(WORDS), Y)
        loss.backward()
        optimizer.step()
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())
    assert float(loss.detach()) < 0.8


class Experts(nn.Module):
    """Every expert in one tensor, (experts, out, in) or transposed, weighted by a router."""

    def __init__(self, *, is_transposed: bool) -> None:
        super().__init__()
        self.num_experts, self.is_transposed = 3, is_transposed
        self.up = nn.Parameter(torch.randn(3, 6, 10) if is_transposed else torch.randn(3, 10, 6))
        self.down = nn.Parameter(torch.randn(3, 10, 4) if is_transposed else torch.randn(3, 4, 10))
        self.bias = nn.Parameter(torch.zeros(3, 4))
        self.places = nn.Parameter(torch.zeros(1, 3, 6))

    def forward(self, x: Tensor) -> Tensor:
        rule = "bi,eio->beo" if self.is_transposed else "bi,eoi->beo"
        hidden = torch.einsum(rule, x, self.up).relu()
        return torch.einsum(rule.replace("bi", "bei"), hidden, self.down) + self.bias


class Mixture(nn.Module):
    def __init__(self, *, is_transposed: bool = False) -> None:
        super().__init__()
        self.experts = Experts(is_transposed=is_transposed)
        self.router, self.head = nn.Linear(6, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).softmax(-1)[:, :, None]
        output: Tensor = self.head((chosen * self.experts(x)).sum(1))
        return output


@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
@pytest.mark.parametrize("is_transposed", [False, True])
def test_stacked_experts_are_prunable(is_transposed: bool) -> None:
    torch.manual_seed(0)
    model = Mixture(is_transposed=is_transposed).double()
    total = 3 * 60 + 3 * 40 + 18 + 12
    assert Net.of(model).prunable == ("experts.up", "experts.down", "router.weight", "head.weight")
    for method in foreprune.list_methods():
        if method.name in PATHS:
            continue
        masks = foreprune.prune(model, method, density=0.3, **given(method))
        assert (masks.kept, masks.total) == (round(0.3 * total), total)
        assert masks.layer_counts()["experts.up"][0] > 0


@pytest.mark.parametrize("is_transposed", [False, True])
def test_each_expert_has_units_and_fans_of_its_own(is_transposed: bool) -> None:
    model = Mixture(is_transposed=is_transposed)
    shape = tuple(model.experts.up.shape)
    assert int(unit_index(model, "experts.up", shape).max()) + 1 == 3 * 10
    assert incoming(model, "experts.up", torch.ones(shape).long()).tolist() == [6] * 30
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[1] = True
    assert incoming(model, "experts.up", mask).tolist() == [0] * 10 + [6] * 10 + [0] * 10
    second = next(block for block in Net.of(model).blocks if block.name == "experts.up[1]")
    assert incoming_of(model, second, mask).tolist() == [6] * 10
    drawn = fresh(Net.of(model), torch.Generator().manual_seed(0))["experts.down"]
    assert drawn.std() == pytest.approx((2 / 10) ** 0.5, rel=0.2)


def test_what_is_no_stack_of_experts() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.zeros(4, 5, 6))

    assert Net.of(nn.Sequential(Table(), nn.Linear(2, 2))).prunable == ("1.weight",)


def test_layers_with_three_axes_of_their_own_are_no_stack_of_experts() -> None:
    """Each output channel became a block of its own."""

    class ExpertConv(nn.Conv1d):
        pass

    class ExpertPair(nn.Bilinear):
        pass

    model = nn.ModuleDict({"conv": ExpertConv(3, 8, 3), "pair": ExpertPair(3, 4, 5), "head": nn.Linear(5, 8)})
    masks = foreprune.prune(model, "erk", density=0.5)
    assert list(masks.block_counts()) == ["conv.weight", "pair.weight", "head.weight"]


def test_a_bilinear_kernel_is_prunable_and_a_bag_of_embeddings_is_not() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.both = nn.EmbeddingBag(7, 4), nn.Bilinear(4, 4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            words = self.bag(ids)
            output: Tensor = self.both(words, words)
            return output

    ids = torch.arange(18).view(9, 2) % 7
    masks = foreprune.prune(Pair(), "snip", density=0.25, data=(ids, Y))
    assert masks.layer_counts() == {"both.weight": (12, 48)}


class Language(nn.Module):
    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        output: Tensor = self.head(self.hidden(self.embed(ids)).mean(1))
        return output


@pytest.mark.filterwarnings("ignore::foreprune.core.cautions.SmallShare")
def test_an_embedding_tied_to_a_head_is_prunable_only_by_name() -> None:
    assert tuple(foreprune.prune(Language(tied=False), "erk", density=0.5)) == ("hidden.weight", "head.weight")
    model = Language(tied=True)
    assert tuple(foreprune.prune(model, "erk", density=0.5)) == ("hidden.weight",)
    for name in ("embed.weight", "head.weight"):
        masks = foreprune.prune(model, "erk", density=0.5, prunable=[name])
        assert masks.layer_counts() == {"embed.weight": (22, 44)}
