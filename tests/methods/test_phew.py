"""PHEW: what it keeps, and how much its paths are worth."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
from graph.sums.forwards import conv
from graph.units.unit_networks import CASES, FLAT
from oracles.one_walk import Oracle
from oracles.unit_paths import edges
from torch import Tensor, nn

import foreprune
from foreprune.analysis import layer_widths
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import PathGraph, Walker, record_units
from foreprune.methods.phew import PREFERENCES, Bias, first_visits
from foreprune.zoo import models

pytestmark = pytest.mark.filterwarnings("ignore::foreprune.LayerCollapse")
NETS = (
    "chain",
    "bottlenecks",
    "concatenation",
    "grouped and depthwise",
    "transposed convolutions",
    "identity skip in place",
    "tied layers",
    "one dimension",
    "two inputs",
)


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def prune(model: nn.Module, density: float, *inputs: Any, **hyper: Any) -> Masks:
    return foreprune.prune(model, "phew", density=density, inputs=inputs, **hyper)


def longest_path(net: Net, inputs: Any) -> int:
    """The most prunable weights on one path."""
    graph = record_units(net, as_inputs(inputs))
    most = np.zeros(graph.count, np.int64)
    for edge in sorted(edges(net, graph), key=lambda edge: edge.target):  # every edge leads to a later unit
        most[edge.target] = max(most[edge.target], most[edge.source] + (edge.weight >= 0))
    return int(most[graph.outputs].max())


def without_flow(model: nn.Module, masks: Masks, *inputs: Any) -> int:
    """Kept weights that lie on no kept path, by the sum over paths of the network with weights 0 and 1."""
    net = Net.of(model)
    ones = {name: masks[name].double() for name in masks}
    flow = PathGraph(net, as_inputs(inputs)).gradients(ones, list(masks))
    return sum(int((masks[name] & (flow[name] <= 0)).sum()) for name in masks)


@pytest.mark.parametrize(
    "hyper", [{}, {"bias": "inverse"}, {"bias": "inverse-weight"}, {"conserve": "kernel"}, {"skips": "never"}], ids=str
)
@pytest.mark.parametrize("name", NETS)
def test_whole_paths_are_kept_and_hardly_more_than_asked_for(name: str, hyper: dict[str, Any]) -> None:
    """Every kept weight lies on a kept path, no layer is empty, and the count is off by less than one path."""
    model, inputs = CASES[name]()
    net = Net.of(model)
    length = longest_path(net, inputs) * (9 if "conserve" in hyper else 1)
    for density in (1 / net.total, 0.03, 0.1, 0.35, 0.8):
        target = round(density * net.total) or 1
        masks = prune(model, target / net.total, *inputs, **hyper)
        assert target <= masks.kept < target + length
        assert without_flow(model, masks, *inputs) == 0
        if name in ("chain", "grouped and depthwise", "transposed convolutions", "tied layers", "one dimension"):
            assert not masks.collapsed()  # without branches one path crosses every layer


@pytest.mark.parametrize(("name", "density", "length"), [("resnet-20", 0.1, 20), ("vgg-11", 0.02, 9)])
def test_networks_of_the_papers(name: str, density: float, length: int) -> None:
    """Every kept weight lies on a kept path, and all layers keep the width of the dense network."""
    model = models.create(name, input_shape=(3, 32, 32), classes=10)
    x = torch.zeros(1, 3, 32, 32)
    masks = prune(model, density, x)
    target = round(density * masks.total)
    assert target <= masks.kept < target + length
    assert without_flow(model, masks, x) == 0
    assert all(width.fed == width.units for width in layer_widths(model, masks).values())


def test_bottlenecks_of_resnet_50() -> None:
    """The published code takes every 1x1 convolution for a shortcut."""
    model = models.create("resnet-50", input_shape=(3, 64, 64), classes=10)
    masks = prune(model, 0.005, torch.zeros(1, 3, 64, 64))
    target = round(0.005 * masks.total)
    assert target <= masks.kept < target + 50
    assert not masks.collapsed()


DENSITIES = (0.004, 0.01, 0.03, 0.1, 0.3, 0.7, 0.95, 1.0)


@pytest.mark.parametrize("hyper", [{}, {"bias": "inverse"}, {"conserve": "kernel"}, {"skips": "never"}])
@pytest.mark.parametrize("name", ["bottlenecks", "concatenation", "tied layers", "resnet"])
def test_densities_of_one_seed_are_nested(name: str, hyper: dict[str, Any]) -> None:
    if name == "resnet":
        model, inputs = models.create("resnet-8", input_shape=(3, 16, 16), classes=4), (torch.zeros(1, 3, 16, 16),)
    else:
        model, inputs = CASES[name]()
    total = Net.of(model).total
    masks = [prune(model, max(density, 1 / total), *inputs, seed=3, **hyper) for density in DENSITIES]
    for small, large in itertools.pairwise(masks):
        assert small & large == small
    assert masks[0].kept < masks[-1].kept == total


def test_what_a_walk_does_does_not_depend_on_how_many_follow() -> None:
    model = models.create("resnet-8", input_shape=(3, 16, 16), classes=4)
    net = Net.of(model)
    graph = record_units(net, as_inputs(torch.zeros(1, 3, 16, 16)))

    def visits(target: int) -> Any:
        walker = Walker(net, graph, preference=PREFERENCES["weights"], kernels=False, rng=np.random.default_rng(0))
        return first_visits(walker, target)

    whole = visits(net.total)
    assert whole.max() < np.iinfo(np.int32).max
    never = np.iinfo(np.int32).max
    for target in (1, 700, 5000, 40_000, net.total - 3):
        part = visits(target)
        seen = part != never
        assert seen.sum() >= target
        np.testing.assert_array_equal(part[seen], whole[seen])
        assert part[seen].max() < whole[~seen].min(initial=never)


def test_as_many_weights_of_each_layer_as_one_walk_at_a_time_keeps() -> None:
    """The published loop, by the documented rules: walks in turn from inputs and outputs until enough is kept."""
    model = nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(96, 4)
    )
    x = torch.zeros(1, 3, 4, 4)
    net = Net.of(model)
    target = 180
    oracle = Oracle(net, record_units(net, as_inputs(x)))
    limits = np.cumsum([weight.numel() for weight in net.weights.values()])

    def slow(seed: int) -> list[int]:
        rng, kept, walks = np.random.default_rng(seed), set[int](), 0
        while len(kept) < target:
            onward = walks % 2 == 0
            starts, exits = (oracle.inputs, oracle.onward) if onward else (oracle.outputs, oracle.back)
            kept |= set(oracle.walk(starts[walks // 2 % len(starts)], exits, rng))
            walks += 1
        return np.bincount(np.searchsorted(limits, sorted(kept), side="right"), minlength=4).tolist()

    def fast(seed: int) -> list[int]:
        masks = prune(model, target / net.total, x, seed=seed)
        return [kept for kept, _ in masks.layer_counts().values()]

    ours = np.array([fast(seed) for seed in range(60)])
    theirs = np.array([slow(seed) for seed in range(30)])
    error = np.sqrt(ours.var(0) / len(ours) + theirs.var(0) / len(theirs))
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()


def test_seeds() -> None:
    model, inputs = CASES["bottlenecks"]()
    masks = [prune(model, 0.1, *inputs, seed=seed) for seed in (0, 0, 1)]
    assert masks[0] == masks[1] != masks[2]


@pytest.mark.parametrize(
    "hyper",
    [
        {},
        {"bias": "uniform"},
        {"bias": "inverse"},
        {"bias": "inverse-weight"},
        {"conserve": "kernel"},
        {"skips": "never"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NETS)
def test_everything_on_a_path_can_be_kept(name: str, hyper: dict[str, Any]) -> None:
    model, inputs = CASES[name]()
    assert prune(model, 1.0, *inputs, **hyper).density == 1.0


def test_more_than_what_lies_on_paths_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[1] = 0  # with it go the two weights that read the unit
    masks = prune(model, 12 / 18, FLAT)
    assert masks.kept == 12
    assert not masks["0.weight"][1].any()
    assert not masks["1.weight"][:, 1].any()
    message = (
        "only 12 of 18 prunable weights lie on a path from input to output, and 13 are to be kept; ask for a smaller "
        "density, or exclude with prunable= what carries no path (zeros, attention scores, gates)"
    )
    with pytest.raises(foreprune.PathError, match=re.escape(message)):
        prune(model, 13 / 18, FLAT)
    nn.init.zeros_(model[0].weight)
    with pytest.raises(foreprune.PathError, match="only 0 of 18 prunable weights"):
        prune(model, 0.1, FLAT)


def test_walks_visit_no_queries_and_keys() -> None:
    model, inputs = CASES["vision transformer"]()
    masks = prune(model, 0.4, *inputs, gates="score")
    for number in (0, 1):
        assert not masks[f"qkv.{number}.weight"][:8].any()
        assert masks[f"qkv.{number}.weight"][8:].any()
    assert without_flow(model, masks, *inputs) == 0


@pytest.mark.parametrize("hyper", [{"bias": "magnitude"}, {"conserve": "kernels"}, {"skips": "none"}])
def test_settings_are_checked(hyper: dict[str, str]) -> None:
    ((key, value),) = hyper.items()
    allowed = {
        "bias": "'weights', 'uniform', 'inverse', 'inverse-weight'",
        "conserve": "'weight', 'kernel'",
        "skips": "'equal', 'never'",
    }[key]
    with pytest.raises(ValueError, match=f"method 'phew': {key} must be one of {allowed}, not '{value}'"):
        prune(nn.Linear(4, 3), 0.5, FLAT, **hyper)


def test_kernels_are_kept_whole() -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.Flatten(), nn.Linear(8 * 16, 4))
    with torch.no_grad():
        model[2].weight[0, 0, 0] = 0
    masks = prune(model, 0.1, torch.zeros(1, 3, 4, 4), conserve="kernel")
    for name, kernel in (("0.weight", (8, 3, 9)), ("2.weight", (8, 8, 9)), ("4.weight", (4, 8, 16))):
        kept = masks[name].reshape(kernel).sum(2)
        assert set(kept.unique().tolist()) <= {0, kernel[2], 6}
        assert (kept == 6).sum() == int(name == "2.weight" and bool(kept[0, 0]))  # but for weights that are zero
    single = prune(model, 0.1, torch.zeros(1, 3, 4, 4))
    assert 1 in single["0.weight"].reshape(8, 3, 9).sum(2)


def test_biases_prefer_what_they_say() -> None:
    model = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20))
    x = torch.zeros(1, 30)
    size = {}
    for bias in ("weights", "uniform", "inverse", "inverse-weight"):
        masks = prune(model, 0.1, x, bias=bias)
        size[bias] = float(model[0].weight.detach().abs()[masks["0.weight"]].mean())
    assert size["weights"] > 1.15 * size["uniform"] > 1.15 * 1.15 * size["inverse"]
    assert size["inverse"] == size["inverse-weight"]  # kernels of linear layers are single weights


@pytest.mark.parametrize(
    ("bias", "perplexity"), [("weights", 62.0), ("uniform", 64.0), ("inverse", 61.7), ("inverse-weight", 30.2)]
)
def test_how_many_units_the_next_hop_chooses_among(bias: Bias, perplexity: float) -> None:
    """Of 64 behind 3x3 kernels: the authors' inverse walks hardly prefer any, by the sum of 1/|w| half of them."""
    model = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.weight)
    net = Net.of(model)
    graph = record_units(net, as_inputs(torch.zeros(1, 64, 4, 4)))
    walker = Walker(net, graph, preference=PREFERENCES[bias], kernels=False, rng=np.random.default_rng(0))
    following = walker.visit_probability().reshape(64, 64, 9).sum(2) * 64  # of a target, given the source
    np.testing.assert_allclose(following.sum(0), 1)
    assert np.exp(-(following * np.log(following)).sum(0)).mean() == pytest.approx(perplexity, abs=0.8)


def test_walks_by_the_inverse_of_the_kernel_as_in_the_authors_code() -> None:
    """Two 1x2 kernels from one unit: 1 / (1 + 3) against 1 / (2 + 2), then 1/|w| inside."""
    model = nn.Conv1d(1, 2, 2, padding=1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[[1.0, -3.0]], [[2.0, 6.0]]]))
    net = Net.of(model)
    graph = record_units(net, as_inputs(torch.zeros(1, 1, 4)))

    def probabilities(bias: Bias) -> Any:
        rng = np.random.default_rng(0)
        return Walker(net, graph, preference=PREFERENCES[bias], kernels=False, rng=rng).visit_probability()

    first, second = (1 / 4) / (1 / 4 + 1 / 8), (1 / 8) / (1 / 4 + 1 / 8)
    np.testing.assert_allclose(probabilities("inverse"), [first * 3 / 4, first / 4, second * 3 / 4, second / 4])
    total = 1 + 1 / 3 + 1 / 2 + 1 / 6
    np.testing.assert_allclose(probabilities("inverse-weight"), np.array([1, 1 / 3, 1 / 2, 1 / 6]) / total)


def test_without_skips_every_kept_path_crosses_every_block() -> None:
    model = models.create("resnet-20", input_shape=(3, 16, 16), classes=10)
    x = torch.zeros(1, 3, 16, 16)
    shares = {}
    for skips in ("equal", "never"):
        masks = prune(model, 0.02, x, skips=skips)
        shares[skips] = {name: kept / total for name, (kept, total) in masks.layer_counts().items()}
    inner = [name for name, weight in Net.of(model).weights.items() if weight.shape == (16, 16, 3, 3)]
    assert len(inner) == 6
    assert min(shares["never"][name] for name in inner) > max(shares["equal"][name] for name in inner)


def test_a_block_of_zeros_lets_nothing_through_without_skips() -> None:
    model, inputs = CASES["identity skip in place"]()
    nn.init.zeros_(model.inner.weight)
    assert not prune(model, 0.1, *inputs, gates="score")["inner.weight"].any()
    with pytest.raises(foreprune.PathError, match="only 0 of"):
        prune(model, 0.1, *inputs, skips="never", gates="score")


def trace(model: nn.Module, masks: Masks, x: Tensor) -> float:
    """Of the path kernel: the masked gradient of the sum over paths with squared weights (Patil & Dovrolis, eq. 6)."""
    net = Net.of(model)
    squares = {name: (weight**2 * masks[name]).double() for name, weight in net.weights.items()}
    graph = PathGraph(net, as_inputs(x))
    grads = graph.gradients(squares, list(squares))
    return sum(float((grads[name] * masks[name]).sum()) for name in squares) * 2.0 ** graph.sum(squares).exponent


def test_paths_with_large_weights_are_worth_more() -> None:
    """Figure 8: the trace of the path kernel orders the three kinds of walks."""
    layers = [nn.Linear(60, 100, bias=False), nn.Linear(100, 100, bias=False), nn.Linear(100, 10, bias=False)]
    model = nn.Sequential(*layers)
    x = torch.zeros(1, 60)
    traces = [
        sum(trace(model, prune(model, 0.05, x, bias=bias, seed=seed), x) for seed in range(5))
        for bias in ("weights", "uniform", "inverse")
    ]
    assert traces[0] > 1.7 * traces[1] > 1.7 * 5 * traces[2]


@pytest.mark.parametrize(("uniform", "hidden"), [(False, 1), (False, 2), (True, 1), (True, 2)])
def test_the_worth_of_a_path_grows_with_depth_as_in_appendix_a4(uniform: bool, hidden: int) -> None:
    """E[Pi(b, b)] / E[Pi(u, u)] is 2 to the number of hidden layers for normal weights. For uniform ones it is 1.5 to
    that number: E|x|^3 / (E|x| E x^2) is 2 for the normal distribution and 3/2 for the uniform."""
    width, walks = 400, 40_000
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(hidden + 1)))
    for layer in model:
        nn.init.kaiming_uniform_(layer.weight) if uniform else nn.init.kaiming_normal_(layer.weight)
    net = Net.of(model)
    graph = record_units(net, as_inputs(torch.zeros(1, width)))
    squares = torch.cat([weight.flatten().double() ** 2 for weight in net.weights.values()]).numpy()
    worth = {}
    biases: tuple[Bias, ...] = ("weights", "uniform")
    for bias in biases:
        walker = Walker(net, graph, preference=PREFERENCES[bias], kernels=False, rng=np.random.default_rng(0))
        numbers, weights = walker.free(2 * walks, begin=0)
        onward = numbers % 2 == 0
        order = np.lexsort((weights[onward], numbers[onward]))
        path = squares[weights[onward][order]].reshape(walks, hidden + 1)
        worth[bias] = float((path.prod(1)[:, None] / path).sum(1).mean())
    assert worth["weights"] / worth["uniform"] == pytest.approx((1.5 if uniform else 2.0) ** hidden, rel=0.03)


def test_excluded_layers_are_walked_through_but_not_counted() -> None:
    model, inputs = CASES["bottlenecks"]()
    masks = prune(model, 0.3, *inputs, prunable=["first.0.weight", "second.2.weight"])
    assert set(masks) == {"first.0.weight", "second.2.weight"}
    assert 13 <= masks.kept < 13 + 2
    assert masks.total == 6 + 36


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_precision_of_the_weights_does_not_matter(dtype: torch.dtype) -> None:
    model, inputs = CASES["bottlenecks"]()
    model = model.to(torch.bfloat16).float()
    wanted = prune(model, 0.2, *inputs)
    assert prune(model.to(dtype), 0.2, *(x.to(dtype) for x in inputs)) == wanted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_matter() -> None:
    for name in ("bottlenecks", "vision transformer", "writing into views", "two inputs"):
        model, inputs = CASES[name]()
        wanted = prune(model, 0.2, *inputs)
        masks = prune(model.cuda(), 0.2, *inputs)
        assert all(masks[key].is_cuda for key in masks)
        assert masks.to("cpu") == wanted


def test_pixels_of_a_channel_are_one_kernel() -> None:
    """The L1 norm of all its pixels decides whether a channel is chosen; one weight in proportion to |w| is kept."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2 * 4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[2].weight.copy_(torch.tensor([[1.0, 0, 0, 0, 1, 1, 1, 3]]))
    counts = torch.zeros(8)
    for seed in range(200):
        masks = prune(model, 2 / 10, torch.zeros(1, 1, 2, 2), seed=seed)
        counts += masks["2.weight"][0]
    # the first walk starts at the input, where both channels are equally likely
    expected = 200 * torch.tensor([1 / 2, 0, 0, 0, 1 / 12, 1 / 12, 1 / 12, 1 / 4])
    assert not counts[1:4].any()
    assert (((counts - expected) ** 2 / expected)[expected > 0]).sum() < 20


def test_preferences() -> None:
    weights = np.array([-2.0, 0.0, 0.5, 1e-310])
    np.testing.assert_array_equal(PREFERENCES["weights"].weight(weights), [2.0, 0.0, 0.5, 1e-310])
    np.testing.assert_array_equal(PREFERENCES["uniform"].weight(weights), [1.0, 0.0, 1.0, 1.0])
    small = np.array([1e-40], np.float32)  # 1 / w is no float32
    for bias in ("inverse", "inverse-weight"):
        prefer = PREFERENCES[bias].weight
        np.testing.assert_array_equal(prefer(weights), [0.5, 0.0, 2.0, 1e290])
        assert np.isfinite(prefer(small)).all()
    kernel = PREFERENCES["inverse"].kernel
    assert kernel is not None
    np.testing.assert_array_equal(kernel(np.array([4.0, 0.0])), [0.25, 0.0])
    assert all(PREFERENCES[bias].kernel is None for bias in ("weights", "uniform", "inverse-weight"))
