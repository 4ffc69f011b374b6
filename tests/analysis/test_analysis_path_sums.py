"""Path counts, norms and traces against walking every path; finite where plain numbers are not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from walked_nets import NAMES, Walk, case, densities

from foreprune.analysis.path_sums import path_count, path_kernel_trace, path_norm, synflow_objective
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import EVERY_PATH, PathError, PathGraph
from foreprune.zoo.models import create


def trace_of(walks: list[Walk], weights: dict[str, Tensor]) -> float:
    """sum_p sum_{j in p} c_p (v_p / theta_j)^2, without dividing."""
    total = 0.0
    for walk in walks:
        factors = [float(weights[name][at]) for name, at in walk.entries]
        for skip in range(len(factors)):
            total += walk.coefficient * (walk.scale * float(np.prod(factors[:skip] + factors[skip + 1 :]))) ** 2
    return total


@pytest.mark.parametrize("name", [*NAMES, "normalized"])
def test_sums_over_paths_are_those_of_walking_each_path(name: str) -> None:
    given = case(name)
    for density, seed in densities():
        masks = given.masks(density, seed)
        walks = given.kept(masks)
        count = path_count(given.model, masks, inputs=given.x)
        assert count.value == len(walks)
        assert isinstance(count.value, int)
        assert count.log10 == pytest.approx(math.log10(len(walks)) if walks else -math.inf)
        norm = sum(walk.coefficient * abs(walk.value(given.weights)) for walk in walks)
        assert path_norm(given.model, masks, inputs=given.x).value == pytest.approx(norm, rel=1e-12)
        trace = path_kernel_trace(given.model, masks, inputs=given.x)
        assert trace.value == pytest.approx(trace_of(walks, given.weights), rel=1e-12)
        if walks:
            assert trace.log10 == pytest.approx(math.log10(trace_of(walks, given.weights)), rel=1e-12)


def test_the_walked_networks_are_of_the_size_meant() -> None:
    """Guards the oracle: sizes worked out by hand."""
    assert {name: len(case(name).walks) for name in NAMES} == {
        "mlp": 3 * 4 * 4 * 2,
        "strided": 2 * 2 * 5**2 * 3 * 2,  # along one side 2 + 3 entries reach the two outputs
        "residual": (2 * 4 + 2) * (2 * 4 * 4 + 4) * 2 * 2,  # 4 + 1 entries for each of two channels; block and skip
        "concatenation": (2 * 4 * 4 + 2 * 4 * 4) * 2 * 3,
        "average": 2 * (2 * (2 + 4 + 4)) ** 2 * 2 * 2,
        "maximum": 2 * 4 * 4 * 4 * 2,
    }


@pytest.mark.parametrize("name", [name for name in NAMES if name != "maximum"])
def test_without_maxima_synflows_objective_is_the_path_norm(name: str) -> None:
    given = case(name)
    masks = given.masks(0.7)
    norm = path_norm(given.model, masks, inputs=given.x).value
    assert synflow_objective(given.model, masks, inputs=given.x).value == pytest.approx(norm, rel=1e-13)


def test_synflow_sees_only_the_largest_entry_under_a_maximum() -> None:
    given = case("maximum")
    weights = {name: value.abs() for name, value in given.weights.items()}
    with torch.no_grad():
        y = F.conv2d(torch.ones(1, 1, 4, 4).double(), weights["0.weight"])
        y = F.conv2d(F.max_pool2d(y, 2, stride=1), weights["3.weight"])
        wanted = float(F.linear(y.flatten(1), weights["6.weight"]).sum())
    assert synflow_objective(given.model, inputs=given.x).value == pytest.approx(wanted, rel=1e-12)
    norm = path_norm(given.model, inputs=given.x).value
    assert norm is not None
    assert norm > 3.9 * wanted


@pytest.mark.parametrize("name", NAMES)
def test_the_unmasked_gradient_would_count_pruned_edges(name: str) -> None:
    given = case(name)
    masks = given.masks(0.7)
    net = Net.of(given.model)
    squares = {key: value.square() for key, value in masks(net.params).items()}
    grads = PathGraph(net, as_inputs(given.x), EVERY_PATH).gradients(squares, net.prunable)
    unmasked = float(sum(grad.sum() for grad in grads.values()))
    found = path_kernel_trace(given.model, masks, inputs=given.x).value
    assert found is not None
    assert unmasked > 1.05 * found > 0


def test_weights_of_zero_that_are_kept_still_carry_the_trace() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, 5.0]]))
    # paths (w0, w1): squared rests are w1^2 + w0^2 for each
    assert path_kernel_trace(model, inputs=torch.zeros(1, 2)).value == 2 * 9 + 2 * 25 + 4
    assert path_count(model, inputs=torch.zeros(1, 2)).value == 4


def test_weights_that_are_not_prunable_take_part() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)).double()
    masks = Masks({"0.weight": torch.tensor([[True, False], [True, True], [False, False]])})
    squares = [layer.weight.detach().square() for layer in (model[0], model[1])]
    kept = squares[0] * masks["0.weight"]
    wanted = float((masks["0.weight"] * squares[1].T).sum() + kept.sum())
    assert path_count(model, masks, inputs=torch.zeros(1, 2)).value == 3
    assert path_kernel_trace(model, masks, inputs=torch.zeros(1, 2)).value == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.MaxPool1d(3, stride=2, padding=1), (2, 7)),
        (nn.MaxPool2d(3, stride=2, padding=1), (2, 7, 6)),
        (nn.MaxPool2d(2, stride=3, ceil_mode=True), (1, 7, 8)),
        (nn.MaxPool2d((2, 3), stride=(1, 2), padding=(1, 0), dilation=(2, 1)), (1, 6, 7)),
        (nn.MaxPool2d(2, return_indices=False), (1, 5, 4)),
        (nn.MaxPool3d(2, stride=1), (1, 3, 3, 4)),
        (nn.AdaptiveMaxPool1d(3), (1, 7)),
        (nn.AdaptiveMaxPool2d((2, 3)), (2, 5, 7)),
        (nn.AdaptiveMaxPool2d((None, 2)), (1, 3, 5)),
        (nn.AvgPool1d(3, stride=2, padding=1), (2, 7)),
        (nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (1, 6, 7)),
        (nn.AvgPool2d(2, ceil_mode=True), (1, 5, 7)),
        (nn.AvgPool2d(2, divisor_override=3), (1, 4, 4)),
        (nn.AvgPool3d(2), (1, 4, 4, 2)),
        (nn.AdaptiveAvgPool1d(4), (2, 7)),
        (nn.AdaptiveAvgPool2d((3, 2)), (1, 7, 5)),
        (nn.AdaptiveAvgPool3d(2), (1, 3, 4, 5)),
        (nn.Upsample(scale_factor=2), (1, 3, 3)),
        (nn.ZeroPad2d(1), (1, 3, 3)),
        (nn.ReflectionPad2d(1), (1, 3, 3)),
        (nn.PixelShuffle(2), (4, 2, 2)),
    ],
    ids=repr,
)
def test_every_entry_of_a_window_is_an_edge(layer: nn.Module, shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    units = torch.eye(size).view(size, *shape)
    edges = int((layer(units) != 0).sum())  # one input entry at 1, the others 0: where does it show?
    model = nn.Sequential(nn.Linear(1, size, bias=False), nn.Unflatten(1, shape), layer)
    assert path_count(model, inputs=torch.zeros(1, 1)).value == edges


class Scaled(nn.Module):
    """Constants of all kinds between two layers."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(2, width, bias=False)
        self.between = between
        self.register_buffer("blur", torch.tensor([[0.25, 0.5, 0.0], [0.0, 0.125, 0.5], [0.25, 0.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self.first(x))


@pytest.mark.parametrize(
    ("between", "paths"),
    [
        (lambda x: 0.5 * x, 6),
        (lambda x: x / 7, 6),
        (lambda x: x * torch.tensor([0.5, 0.0, -2.0]), 4),
        (lambda x: x * 0.0, 0),
        (lambda x: torch.add(x, x, alpha=0.1), 12),
        (lambda x: torch.sub(x, x.flip(1), alpha=3), 12),
        (lambda x: x.mul(0.5).div_(3), 6),
        (lambda x: x.mean(1), 6),
        (lambda x: torch.mean(x), 6),
        (lambda x: x.mean(dim=-1, keepdim=True) + x, 6 + 3 * 6),
        (lambda x: x.amax(1), 6),
        (lambda x: x.max(1).values, 6),
        (lambda x: x.max(dim=1, keepdim=True)[0] + x, 6 + 3 * 6),
        (lambda x: x.max(), 6),
        (lambda x: torch.maximum(x, 0.3 * x), 12),
        (lambda x: torch.max(x, x.flip(1)), 12),
        (lambda x: torch.maximum(x, torch.zeros(3)), 6),
        (lambda x: x @ torch.tensor([[0.5, 0.0], [0.25, 3.0], [0.0, 1.0]]), 2 * 4),
        (lambda x: F.relu(x).cumsum(1), 2 * (1 + 2 + 3)),
    ],
)
def test_constants_count_as_one(between: Callable[[Tensor], Tensor], paths: int) -> None:
    assert path_count(Scaled(between), inputs=torch.zeros(1, 2)).value == paths


class Attend(nn.Module):
    """Self-attention in one of its spellings, over four tokens."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.values = nn.Linear(2, 4, bias=False)
        self.queries = nn.Linear(2, 4, bias=False)
        self.own = nn.MultiheadAttention(4, 2, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        q, v = self.queries(x), self.values(x)
        causal = torch.ones(4, 4).tril().bool()
        if self.spelling == "torch":
            return F.scaled_dot_product_attention(q, q, v)
        if self.spelling == "torch-causal":
            return F.scaled_dot_product_attention(q, q, value=v, is_causal=True)
        if self.spelling == "torch-masked":
            return F.scaled_dot_product_attention(q, q, v, attn_mask=causal)
        if self.spelling == "grouped":
            heads = [y.view(1, 4, -1, 2).transpose(1, 2) for y in (torch.cat([q, q], -1), q, v)]
            return F.scaled_dot_product_attention(*heads, enable_gqa=True)
        scores = q @ q.transpose(1, 2) / 2
        if self.spelling == "by-hand-causal":
            scores = scores.masked_fill(~causal, -math.inf)
        if self.spelling == "module":
            return self.own(v, v, v, need_weights=False)[0]
        if self.spelling == "module-causal":
            return self.own(v, v, v, attn_mask=~causal)[0]
        return scores.softmax(-1) @ v


@pytest.mark.parametrize(
    ("spelling", "paths"),
    [
        ("torch", 4 * 4 * 4 * 2),
        ("torch-causal", 10 * 4 * 2),
        ("torch-masked", 10 * 4 * 2),
        ("grouped", 2 * 4 * 4 * 4 * 2),
        ("by-hand", 4 * 4 * 4 * 2),
        ("by-hand-causal", 10 * 4 * 2),
        ("module", 4 * 4 * 4 * 2 * 4 * 4),
        ("module-causal", 10 * 4 * 2 * 4 * 4),
    ],
)
def test_attention_takes_every_value_its_mask_lets_through(spelling: str, paths: int) -> None:
    assert path_count(Attend(spelling), inputs=torch.zeros(1, 4, 2)).value == paths


def test_token_ids_embed_as_ones() -> None:
    model = nn.Sequential(nn.Embedding(9, 3), nn.Linear(3, 2, bias=False))
    assert path_count(model, inputs=torch.zeros(1, 5, dtype=torch.long)).value == 5 * 3 * 2


def test_interpolation_with_coefficients_has_no_count() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Upsample(scale_factor=2, mode="bilinear"))
    with pytest.raises(PathError, match=r"interpolate in module '1' \(Upsample\) mixes neighbors .*'bilinear'"):
        path_count(model, inputs=torch.zeros(1, 1, 3, 3))
    assert path_norm(model, inputs=torch.zeros(1, 1, 3, 3)).value is not None


def test_counts_are_exact_up_to_two_to_the_53_and_none_above() -> None:
    def count(widths: list[int]) -> Any:
        layers = [nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(widths)]
        return path_count(nn.Sequential(*layers), inputs=torch.zeros(1, widths[0]))

    odd = [3, 243, 243, 243, 243, 243]
    assert count(odd).value == 3 * 243**5  # 2^41.2, no power of two
    assert count([8, 256, 256, 256, 256, 256, 256]).value == 2**51
    assert count([1, 2, 256, 256, 256, 256, 256, 256, 16]).value == 2**53
    above = count([1, 3, 256, 256, 256, 256, 256, 256, 16])
    assert above.value is None
    assert above.log10 == pytest.approx(math.log10(3 * 2**52))


def test_a_network_without_paths_has_none() -> None:
    given = case("mlp")
    masks = Masks({name: torch.zeros_like(value, dtype=torch.bool) for name, value in given.weights.items()})
    assert path_count(given.model, masks, inputs=given.x) == (0, -math.inf)
    assert path_norm(given.model, masks, inputs=given.x) == (0.0, -math.inf)
    assert path_kernel_trace(given.model, masks, inputs=given.x) == (0.0, -math.inf)


def test_sums_beyond_float64_come_as_log10() -> None:
    layers = [nn.Linear(40, 40, bias=False) for _ in range(150)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers:
            layer.weight.fill_(10.0)
    x = torch.zeros(1, 40)
    assert path_norm(model, inputs=x).value is None
    assert path_norm(model, inputs=x).log10 == pytest.approx(151 * math.log10(40) + 150, rel=1e-12)
    trace = path_kernel_trace(model, inputs=x)
    assert trace.value is None
    assert trace.log10 == pytest.approx(math.log10(150) + 151 * math.log10(40) + 298, rel=1e-12)
    with torch.no_grad():
        for layer in layers:
            layer.weight.fill_(1e-6)
    assert path_norm(model, inputs=x).value is None
    assert path_norm(model, inputs=x).log10 == pytest.approx(151 * math.log10(40) - 900, rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "paths"),
    [("resnet-110", (3, 32, 32), 269.2), ("resnet-50", (3, 224, 224), 143.5), ("vgg-19", (3, 32, 32), 56.7)],
)
def test_sums_are_finite_on_deep_networks(name: str, shape: tuple[int, int, int], paths: float) -> None:
    model, x = create(name, input_shape=shape, classes=10), torch.zeros(1, *shape)
    count = path_count(model, inputs=x)
    assert count.value is None
    assert count.log10 == pytest.approx(paths, abs=2.5)
    for measure in (path_norm, synflow_objective, path_kernel_trace):
        found = measure(model, inputs=x)
        assert math.isfinite(found.log10)
        assert found.value is not None
        assert math.log10(found.value) == pytest.approx(found.log10)


def test_only_one_sample_counts_and_only_its_shape() -> None:
    given = case("strided")
    assert path_count(given.model, inputs=given.x) == path_count(given.model, inputs=given.x[:1])
    assert path_norm(given.model, inputs=given.x) == path_norm(given.model, inputs=torch.full_like(given.x, 7.0))


def test_masks_of_another_model_are_refused() -> None:
    given = case("mlp")
    with pytest.raises(ValueError, match=r"masks belong to another model: it has no parameter 'stem\.weight'"):
        path_count(given.model, case("residual").masks(0.5), inputs=given.x)
    with pytest.raises(TypeError, match=r"masks must be foreprune.Masks or None .* not dict"):
        path_count(given.model, {}, inputs=given.x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give inputs=, of which only the shape counts"):
        path_count(given.model, inputs=None)
