"""Thousands of walks at once against walks one at a time, and against the exact product of Markov matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from graph.units.unit_networks import CASES
from numpy.typing import NDArray
from oracles.one_walk import Oracle
from torch import nn

from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import Walker, record_units
from foreprune.methods.phew import PREFERENCES

WALKS = 40_000
NAMES = (
    "chain",
    "convolutions and flatten",
    "bottlenecks",
    "concatenation",
    "concatenation twice of the same",
    "grouped and depthwise",
    "transposed convolutions",
    "twice the same",
    "tied layers",
    "addmm",
    "einsums",
    "vision transformer",
    "constant kernels",
    "two inputs",
    "outputs that are read on",
)


def build(name: str, *, zeros: float = 0.0) -> tuple[Net, Any]:
    """With some of the weights exactly zero."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, inputs = CASES[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(torch.rand_like(parameter) >= zeros)
    net = Net.of(model, prunable=lambda name, parameter: parameter.dim() > 1 and "token" not in name)
    return net, record_units(net, as_inputs(inputs))


def visits(walker: Walker, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Visits to each weight by `count` walks from inputs, and by as many from outputs."""
    numbers, weights = walker.free(2 * count, begin=0)
    assert numbers.min() >= 0
    assert numbers.max() < 2 * count
    onward, back = (np.bincount(weights[numbers % 2 == odd], minlength=walker.total) for odd in (0, 1))
    return onward, back


def agrees(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> None:
    """Pearson's statistic of visits, where five or more are expected, is what it would be by chance."""
    assert not counts[expected == 0].any()
    large = expected >= 5
    freedom = int(large.sum())
    assert freedom > 4
    statistic = float(((counts[large] - expected[large]) ** 2 / expected[large]).sum())
    # visits of one walk to different layers are dependent, so the spread is a little more than that of chance
    assert abs(statistic - freedom) < 6 * np.sqrt(2 * freedom), (statistic, freedom)
    small = ~large & (expected > 0)
    assert abs(counts[small].sum() - expected[small].sum()) < 6 * np.sqrt(expected[small].sum()) + 5


@pytest.mark.parametrize("bias", ["weights", "uniform", "inverse", "inverse-weight"])
@pytest.mark.parametrize("name", NAMES)
def test_visits_have_the_exact_probabilities(name: str, bias: Any) -> None:
    net, graph = build(name, zeros=0.3 if name != "outputs that are read on" else 0.0)
    oracle = Oracle(net, graph, bias)
    walker = Walker(net, graph, preference=PREFERENCES[bias], kernels=False, rng=np.random.default_rng(0))
    assert walker.inputs.tolist() == oracle.inputs
    assert walker.outputs.tolist() == oracle.outputs
    onward = oracle.expected(oracle.inputs, oracle.onward, kernels=False)
    back = oracle.expected(oracle.outputs, oracle.back, kernels=False)
    np.testing.assert_allclose(walker.visit_probability(), onward, rtol=1e-9, atol=1e-300)
    found = visits(walker, WALKS)
    agrees(found[0], WALKS * onward)
    agrees(found[1], WALKS * back)


WITH_SKIPS = ("identity skip in place", "projection skip", "bottlenecks", "shortcut padded with zeros")


@pytest.mark.parametrize("bias", ["weights", "inverse"])
@pytest.mark.parametrize("name", WITH_SKIPS)
def test_visits_without_skips_have_the_exact_probabilities(name: str, bias: Any) -> None:
    net, graph = build(name)
    oracle = Oracle(net, graph, bias, skips=False)
    walker = Walker(net, graph, preference=PREFERENCES[bias], kernels=False, skips=False, rng=np.random.default_rng(0))
    assert walker.inputs.tolist() == oracle.inputs
    assert walker.outputs.tolist() == oracle.outputs
    onward = oracle.expected(oracle.inputs, oracle.onward, kernels=False)
    np.testing.assert_allclose(walker.visit_probability(), onward, rtol=1e-9, atol=1e-300)
    found = visits(walker, WALKS)
    agrees(found[0], WALKS * onward)
    agrees(found[1], WALKS * oracle.expected(oracle.outputs, oracle.back, kernels=False))


@pytest.mark.parametrize("bias", ["weights", "inverse"])
@pytest.mark.parametrize("name", ["bottlenecks", "convolutions and flatten", "grouped and depthwise"])
def test_visits_to_kernels_have_the_exact_probabilities(name: str, bias: Any) -> None:
    net, graph = build(name, zeros=0.3)
    oracle = Oracle(net, graph, bias)
    walker = Walker(net, graph, preference=PREFERENCES[bias], kernels=True, rng=np.random.default_rng(0))
    onward = oracle.expected(oracle.inputs, oracle.onward, kernels=True)
    np.testing.assert_allclose(walker.visit_probability(), onward, rtol=1e-9)
    counts, _ = visits(walker, WALKS)
    assert not counts[onward == 0].any()
    spread = np.sqrt(WALKS * onward * (1 - onward))
    assert np.abs((counts - WALKS * onward)[spread > 0] / spread[spread > 0]).max() < 5.5


@pytest.mark.parametrize(
    ("name", "bias", "skips"),
    [
        ("bottlenecks", "weights", True),
        ("bottlenecks", "inverse", True),
        ("bottlenecks", "inverse-weight", False),
        ("concatenation twice of the same", "weights", True),
        ("convolutions and flatten", "inverse", True),
        ("vision transformer", "weights", True),
        ("vision transformer", "inverse", False),
    ],
)
def test_a_walk_at_a_time_gives_the_same_distribution(name: str, bias: Any, skips: bool) -> None:
    """Also of pairs of weights visited by one walk: their first and last."""
    net, graph = build(name)
    oracle = Oracle(net, graph, bias, skips=skips)
    walker = Walker(net, graph, preference=PREFERENCES[bias], kernels=False, skips=skips, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    count = 3000
    numbers, weights = walker.free(2 * WALKS, begin=0)
    for odd, starts, exits in ((0, oracle.inputs, oracle.onward), (1, oracle.outputs, oracle.back)):
        slow = [oracle.walk(starts[k % len(starts)], exits, rng) for k in range(count)]
        mine = numbers % 2 == odd
        fast = np.bincount(weights[mine], minlength=walker.total) / WALKS
        agrees(np.bincount(np.concatenate([np.array(walk) for walk in slow]), minlength=walker.total), count * fast)
        lengths = np.bincount(numbers[mine] // 2, minlength=WALKS)
        mean = np.mean([len(walk) for walk in slow])
        assert abs(lengths.mean() - mean) < 6 * lengths.std() / np.sqrt(count) + 1e-9
        ends = {(min(walk), max(walk)) for walk in slow}
        order = np.argsort(numbers[mine], kind="stable")
        split = np.split(weights[mine][order], np.cumsum(lengths)[:-1])
        pairs = {(int(walk.min()), int(walk.max())) for walk in split}
        assert len(ends & pairs) > 0.9 * len(ends)


def test_both_directions_agree_where_the_network_is_its_own_mirror_image() -> None:
    """Three layers, the last the transpose of the first, the middle symmetric: walks back are walks onward."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 5))
    with torch.no_grad():
        model[2].weight.add_(model[2].weight.T.clone())
        model[4].weight.copy_(model[0].weight.T)
    net = Net.of(model)
    graph = record_units(net, as_inputs(torch.zeros(1, 5)))
    walker = Walker(net, graph, preference=PREFERENCES["weights"], kernels=False, rng=np.random.default_rng(0))
    onward, back = visits(walker, WALKS)
    first, middle, last = (slice(0, 35), slice(35, 84), slice(84, 119))
    mirrored = np.concatenate(
        [back[last].reshape(5, 7).T.ravel(), back[middle].reshape(7, 7).T.ravel(), back[first].reshape(7, 5).T.ravel()]
    )
    statistic = ((onward - mirrored) ** 2 / np.maximum(onward + mirrored, 1)).sum()
    assert abs(statistic - 119) < 6 * np.sqrt(2 * 119)
    exact = WALKS * walker.visit_probability()
    agrees(onward, exact)
    agrees(mirrored, exact)


@pytest.mark.parametrize("name", CASES)
def test_the_reachable_weights_are_those_on_paths(name: str) -> None:
    net, graph = build(name, zeros=0.4)
    reachable = np.zeros(net.total, bool)
    for exits in Oracle(net, graph).onward.values():
        for each in exits:
            for kernel in each.kernels.values():
                reachable[[weight for weight, _ in kernel if weight >= 0]] = True
    walker = Walker(net, graph, preference=PREFERENCES["weights"], kernels=False, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(walker.reachable(), reachable)
