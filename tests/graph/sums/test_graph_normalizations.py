"""Scales of normalizations and layer scales as weights of edges."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graph.sums.forwards import Network, conv, scores
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune.analysis.effective import effective_masks
from foreprune.analysis.path_sums import path_count
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import PathGraph, path_graph

IMAGE = torch.rand(2, 3, 8, 8)
GAMMA = torch.tensor([0.5, -2.0, 0.0, 3.0])
VARIANCE = torch.tensor([0.25, 4.0, 9.0, 1e-4])
ROUNDING = {"double": 1e-12, "single": 1e-4}
METHODS = ("synflow", "synflow-l2", "synflow-dist", "synflow-l2-dist")


def pooled(m: Any, x: Tensor) -> Tensor:
    output: Tensor = m.head(m.b(F.relu(m.norm(m.a(x)))).mean((2, 3)))
    return output


def with_scale(norm: nn.Module | None, scale: Tensor | None) -> tuple[nn.Module, nn.Module]:
    """A network with the normalization, and one whose first convolution has its scale multiplied in."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {"a": conv(3, 4), "b": conv(4, 4), "head": nn.Linear(4, 2)}
    network = Network(pooled, norm=norm or nn.Identity(), **parts).double().eval()
    other = Network(pooled, norm=nn.Identity(), **copy.deepcopy(parts)).double().eval()
    if scale is not None:
        with torch.no_grad():
            other.a.weight.mul_(scale.double().abs().view(-1, 1, 1, 1))
    return network, other


def drawn(norm: Any) -> Any:
    with torch.no_grad():
        if getattr(norm, "weight", None) is not None:
            norm.weight.copy_(GAMMA.view(norm.weight.shape))
            if getattr(norm, "bias", None) is not None:
                norm.bias.fill_(-7.0)
        if getattr(norm, "running_var", None) is not None:
            norm.running_var.copy_(VARIANCE)
            norm.running_mean.fill_(11.0)
    return norm


class Rows(nn.Module):
    """A normalization of channels-last rows."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return output


class Upcast(nn.LayerNorm):
    """As language models write it: in single precision, whatever the rest is in."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps).to(
            x.dtype
        )


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(GAMMA.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(self.gamma.reshape(1, -1, 1, 1))


class Builtin(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return torch.batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, False, 0.1, self.eps, False
        )


class ByKeyword(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            input=x, running_mean=self.running_mean, running_var=self.running_var, weight=self.weight, eps=self.eps
        )


DEVIATION = (VARIANCE.double() + 1e-5).sqrt()
NORMS: dict[str, tuple[Callable[[], nn.Module], Tensor | None]] = {
    "batch": (lambda: drawn(nn.BatchNorm2d(4)), GAMMA.abs() / DEVIATION),
    "batch, large eps": (lambda: drawn(nn.BatchNorm2d(4, eps=2.0)), GAMMA.abs() / (VARIANCE.double() + 2).sqrt()),
    "batch, not affine": (lambda: drawn(nn.BatchNorm2d(4, affine=False)), 1 / DEVIATION),
    "batch, no statistics": (lambda: drawn(nn.BatchNorm2d(4, track_running_stats=False)), GAMMA.abs()),
    "batch, neither": (lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False), None),
    "batch, builtin": (lambda: drawn(Builtin(4)), GAMMA.abs() / DEVIATION),
    "batch, keywords": (lambda: drawn(ByKeyword(4)), GAMMA.abs() / DEVIATION),
    "instance": (lambda: drawn(nn.InstanceNorm2d(4, affine=True)), GAMMA.abs()),
    "instance, statistics": (
        lambda: drawn(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        GAMMA.abs() / DEVIATION,
    ),
    "group": (lambda: drawn(nn.GroupNorm(2, 4)), GAMMA.abs()),
    "layer": (lambda: Rows(drawn(nn.LayerNorm(4))), GAMMA.abs()),
    "layer, upcast": (lambda: Rows(drawn(Upcast(4))), GAMMA.abs()),
    "layer, not affine": (lambda: Rows(nn.LayerNorm(4, elementwise_affine=False)), None),
    "rms": (lambda: Rows(drawn(nn.RMSNorm(4))), GAMMA.abs()),
    "layer scale": (LayerScale, GAMMA.abs()),
    "local response": (lambda: nn.LocalResponseNorm(2), None),
}


def assert_proportional(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    factor = sum(float(score.sum()) for score in wanted.values()) / sum(float(s.sum()) for s in found.values())
    assert 0 < factor < math.inf
    for name in wanted:
        torch.testing.assert_close(found[name] * factor, wanted[name], rtol=1e-10, atol=0, msg=name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.usefixtures("with_and_without_replay")
def test_a_scale_is_the_weight_of_an_edge(name: str, method: str) -> None:
    """As if the weights before it were larger by it; a channel whose scale is zero carries nothing."""
    build, scale = NORMS[name]
    given: dict[str, Any] = {"inputs": IMAGE.double()}
    if method.endswith("dist"):
        given["mean_image"] = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    form = {"form": "theta2"} if "l2" in method else {}
    network, other = with_scale(build(), scale)
    found, wanted = (foreprune.score(model, method, **given, **form) for model in (network, other))
    assert_proportional(found, wanted)
    if "l2" in method:  # the score is |w| dR/dw^2, and dividing by the scaled weight is not dividing by the weight
        return
    masks = [foreprune.prune(model, method, density=0.3, rounds=6, **given) for model in (network, other)]
    assert masks[0] == masks[1]


@pytest.mark.parametrize("name", [name for name in NORMS if name != "layer scale"])
def test_as_an_identity_a_normalization_passes_its_input_on(name: str) -> None:
    network, other = with_scale(NORMS[name][0](), None)
    for method in ("synflow", "synflow-l2"):
        found, wanted = (foreprune.score(m, method, inputs=IMAGE, batchnorm="identity") for m in (network, other))
        assert all(torch.equal(found[key], score) for key, score in wanted.items())


@pytest.mark.parametrize("name", ["batch", "group", "layer", "rms", "layer scale"])
@pytest.mark.parametrize("method", ["synflow", "synflow-l2"])
def test_a_scale_that_is_zero_everywhere_counts_as_one(name: str, method: str) -> None:
    norm = NORMS[name][0]()
    network, other = with_scale(norm, 1 / DEVIATION if name == "batch" else None)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.zero_()
    found, wanted = (
        foreprune.score(model, method, inputs=IMAGE, form="theta2")
        if "l2" in method
        else foreprune.score(model, method, inputs=IMAGE)
        for model in (network, other)
    )
    assert_proportional(found, wanted)


@pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
def test_branches_that_begin_as_nothing_are_pruned_as_others() -> None:
    """Zero-initialized residual branches: the last normalization of each has gamma zero."""
    from foreprune.zoo import models

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.create("resnet-20", input_shape=(3, 32, 32), classes=10)
    zeroed = copy.deepcopy(model)
    with torch.no_grad():
        for name, norm in zeroed.named_modules():
            if isinstance(norm, nn.BatchNorm2d) and name.endswith("2"):
                norm.weight.zero_()
    x = torch.zeros(1, 3, 32, 32)
    masks = foreprune.prune(zeroed, "synflow", density=0.1, inputs=x, rounds=5)
    assert masks == foreprune.prune(model, "synflow", density=0.1, inputs=x, rounds=5)


def test_layer_scales_that_are_pruned_are_zero() -> None:
    """Only what the network itself holds counts as one, not what a mask has made of it."""
    network, _ = with_scale(LayerScale(), None)
    net = Net.of(network, prunable=["norm.gamma", "a.weight"])
    dense = Masks.dense(net.weights)
    cut = Masks({name: mask & (name != "norm.gamma") for name, mask in dense.items()})
    graph = path_graph(net, as_inputs(IMAGE))
    assert float(graph.sum(graph.masked(torch.abs, dense)).value) > 0
    assert float(graph.sum(graph.masked(torch.abs, cut)).value) == 0


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("method", ["synflow", "synflow-l2"])
def test_scales_far_out_of_range_keep_their_exponents(method: str, precision: Any) -> None:
    """Forty normalizations of 2**40 each, or of 2**-40."""
    for exponent in (40, -40):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = [nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, eps=0.0)) for _ in range(40)]
        model = nn.Sequential(*parts, nn.Linear(6, 2))
        plain = nn.Sequential(*(copy.deepcopy(part[0]) for part in parts), copy.deepcopy(model[-1]))
        for part in parts:
            part[1].running_var.fill_(2.0 ** (-2 * exponent))
        found = list(foreprune.score(model, method, inputs=torch.zeros(1, 6), precision=precision).values())
        wanted = list(foreprune.score(plain, method, inputs=torch.zeros(1, 6)).values())
        factor = float(wanted[0].sum()) / float(found[0].sum())
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one.double() * factor, other, rtol=ROUNDING[precision], atol=0)
        total = PathGraph(Net.of(model), as_inputs(torch.zeros(1, 6))).sum({})
        bare = PathGraph(Net.of(plain), as_inputs(torch.zeros(1, 6))).sum({})
        assert total.log10 - bare.log10 == pytest.approx(40 * exponent * math.log10(2), rel=1e-9)


def test_layers_conserve_the_sum_over_paths() -> None:
    network, _ = with_scale(drawn(nn.BatchNorm2d(4)), None)
    for method in ("synflow", "synflow-l2"):
        form = {"form": "theta2"} if "l2" in method else {}
        sums = [float(score.sum()) for score in scores(network, IMAGE, method=method, **form).values()]
        assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)


def test_a_scale_has_no_gradient_where_it_may_be_pruned() -> None:
    network, _ = with_scale(drawn(nn.BatchNorm2d(4)), None)
    found = foreprune.score(network, "synflow", inputs=IMAGE, prunable=["norm.weight", "a.weight"])
    assert not found["norm.weight"].any()
    assert found["a.weight"].any()


def test_counts_and_reachability_pass_every_channel() -> None:
    """A zero in a scale is a value like that of a kept weight, and training may change it."""
    network, other = with_scale(drawn(nn.BatchNorm2d(4)), None)
    masks = Masks.dense(Net.of(network).weights)
    assert path_count(network, inputs=IMAGE).value == path_count(other, inputs=IMAGE).value
    assert effective_masks(network, masks, inputs=IMAGE) == masks


def test_permuting_channels_permutes_scores() -> None:
    network, _ = with_scale(drawn(nn.BatchNorm2d(4)), None)
    order = torch.tensor([2, 0, 3, 1])
    turned = copy.deepcopy(network)
    with torch.no_grad():
        turned.a.weight.copy_(network.a.weight[order])
        turned.b.weight.copy_(network.b.weight[:, order])
        for name in ("weight", "running_var"):
            getattr(turned.norm, name).copy_(getattr(network.norm, name)[order])
    found, wanted = scores(turned, IMAGE), scores(network, IMAGE)
    torch.testing.assert_close(found["a.weight"], wanted["a.weight"][order], rtol=1e-12, atol=0)
    torch.testing.assert_close(found["b.weight"], wanted["b.weight"][:, order], rtol=1e-12, atol=0)
