"""Walks: where they start, which branches they take, what they never visit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from graph.sums.forwards import Network, conv
from graph.units.unit_networks import CASES, FLAT, IMAGE
from numpy.typing import NDArray
from oracles.unit_paths import edges, reach
from torch import Tensor, nn

from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph.units.record import record_units
from foreprune.graph.units.unit_graph import weightless_skips
from foreprune.graph.units.walks import Walker
from foreprune.methods.phew import PREFERENCES

Counts = NDArray[np.int64]


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def walker_of(
    model: nn.Module,
    *inputs: Tensor,
    seed: int = 0,
    bias: Any = "weights",
    kernels: bool = False,
    skips: bool = True,
    prunable: Any = None,
) -> Walker:
    net = Net.of(model, prunable=prunable)
    graph = record_units(net, as_inputs(inputs))
    rng = np.random.default_rng(seed)
    return Walker(net, graph, preference=PREFERENCES[bias], kernels=kernels, skips=skips, rng=rng)


def named(walker: Walker, weights: Counts) -> dict[str, Counts]:
    """Visits to each weight, in the shape of its parameter."""
    counts = np.bincount(weights, minlength=walker.total)
    return {
        name: counts[walker.offsets[name] :][: weight.numel()].reshape(weight.shape)
        for name, weight in walker.net.weights.items()
    }


def by_direction(walker: Walker, count: int) -> tuple[dict[str, Counts], dict[str, Counts]]:
    """Visits of `count` walks from inputs and of `count` walks from outputs."""
    numbers, weights = walker.free(2 * count, begin=0)
    return named(walker, weights[numbers % 2 == 0]), named(walker, weights[numbers % 2 == 1])


def about(count: int, probability: float, walks: int) -> bool:
    return abs(count - walks * probability) < 5 * np.sqrt(walks * probability * (1 - probability)) + 1e-9


def test_starts_take_turns() -> None:
    """A depthwise first layer shows the input of a walk, a depthwise last layer its output."""
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 3, 1, groups=3))
    walker = walker_of(model, torch.zeros(1, 4, 2, 2))
    for begin in (0, 5, 64):
        numbers, weights = walker.free(50, begin=begin)
        for first, places, parity in ((0, 4, 0), (16, 3, 1)):
            mine = (weights >= first) & (weights < first + places) & ((numbers + begin) % 2 == parity)
            np.testing.assert_array_equal(
                weights[mine] - first, (numbers[mine] + begin) // 2 % places, err_msg=f"{begin} {parity}"
            )
            assert mine.sum() == 25


def test_walks_start_only_where_they_can_get_through() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[:, 1] = 0
        model[1].weight[0] = 0
    walker = walker_of(model, FLAT)
    assert walker.inputs.tolist() == [0, 2, 3]
    assert len(walker.outputs) == 1
    onward, back = by_direction(walker, 3000)
    np.testing.assert_array_equal(onward["0.weight"].sum(0), [1000, 0, 1000, 1000])
    np.testing.assert_array_equal(back["1.weight"].sum(1), [0, 3000])


def branches(*, skips: bool = True) -> Walker:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((self.a(x) + x) + self.b(x))

    model = Network(forward, stem=nn.Linear(4, 4), a=nn.Linear(4, 4), b=nn.Linear(4, 4), head=nn.Linear(4, 2))
    return walker_of(model, FLAT, skips=skips)


def test_at_a_fork_each_branch_is_equally_likely() -> None:
    """Onward, three ways lead on from the stem; back, (a + x) + b is an addition of an addition."""
    count = 40_000
    onward, back = by_direction(branches(), count)
    for branch, probability in (("a", 1 / 3), ("b", 1 / 3)):
        assert about(int(onward[f"{branch}.weight"].sum()), probability, count)
    for branch, probability in (("a", 1 / 4), ("b", 1 / 2)):
        assert about(int(back[f"{branch}.weight"].sum()), probability, count)
    for found in (onward, back):
        assert found["stem.weight"].sum() == found["head.weight"].sum() == count


def test_skips_are_walked_half_of_the_time() -> None:
    model, inputs = CASES["identity skip in place"]()
    for found in by_direction(walker_of(model, *inputs), 20_000):
        assert about(int(found["inner.weight"].sum()), 0.5, 20_000)


def test_without_skips_a_walk_takes_one_of_the_branches_with_weights() -> None:
    count = 20_000
    for found in by_direction(branches(skips=False), count):
        for branch in "ab":
            assert about(int(found[f"{branch}.weight"].sum()), 1 / 2, count)
        assert found["a.weight"].sum() + found["b.weight"].sum() == count


@pytest.mark.parametrize(("name", "share"), [("identity skip in place", 1), ("projection skip", 1 / 2)])
def test_only_branches_without_weights_are_skips(name: str, share: float) -> None:
    """A projection shortcut is a branch like any other."""
    model, inputs = CASES[name]()
    for found in by_direction(walker_of(model, *inputs, skips=False), 20_000):
        assert about(int(found["inner.weight"].sum()), share, 20_000)


def test_skips_of_an_addition() -> None:
    """x in x + f(x), also where it is one of several parts; no half of a reversible block, no sum of a thing with
    itself, no sums of inputs alone."""

    def skips(forward: Any) -> list[list[list[bool]]]:
        parts = {name: nn.Linear(4, 4) for name in "abcd"}
        graph = record_units(Net.of(Network(forward, **parts)), as_inputs(FLAT))
        return [entries.tolist() for entries in weightless_skips(graph).values()]

    own, skip = [False] * 4, [True] * 4
    assert skips(lambda self, x: self.b(x) + x) == [[own, skip]]
    assert skips(lambda self, x: self.b(self.a(x)) + self.c(x)) == []
    assert skips(lambda self, x: self.a(x) + self.b(x) + x) == [[own, skip]]
    assert skips(lambda self, x: (y := self.a(x)) + y) == []
    assert skips(lambda self, x: (y := self.a(x)) + (y + self.b(y))) == [[own, skip]] * 2

    def halves(self: Any, x: Tensor) -> Tensor:
        left, right = self.a(x).split(2, dim=-1)
        return left + nn.functional.linear(right, self.b.weight[:2, :2])

    def joined(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        return x + torch.cat([self.b(x)[:, 2:], self.c(x)[:, 2:]], dim=-1)

    assert skips(halves) == []
    assert skips(joined) == [[own, skip]]


def test_a_branch_that_leads_nowhere_is_never_taken() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.b(self.a(x)) + x)

    model = Network(forward, stem=nn.Linear(4, 4), a=nn.Linear(4, 4), b=nn.Linear(4, 4), head=nn.Linear(4, 2))
    nn.init.zeros_(model.b.weight)
    for found in by_direction(walker_of(model, FLAT), 500):
        assert found["a.weight"].sum() == found["b.weight"].sum() == 0
        assert found["stem.weight"].sum() == found["head.weight"].sum() == 500


def test_an_output_that_is_read_on_is_an_end_half_of_the_time() -> None:
    model, inputs = CASES["outputs that are read on"]()
    onward, back = by_direction(walker_of(model, *inputs), 20_000)
    assert about(int(onward["b.weight"].sum()), 0.5, 20_000)
    assert back["b.weight"].sum() == 2 * 20_000 // 5


@pytest.mark.parametrize("bias", ["weights", "uniform", "inverse", "inverse-weight"])
def test_weights_of_exactly_zero_are_never_visited(bias: Any) -> None:
    model = nn.Sequential(conv(2, 6), nn.ReLU(), conv(6, 6), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand_like(parameter) < 0.5)
        model[2].weight[:, 2] = 0  # kernels of nothing but zeros
        model[2].weight[3] = 0
    for kernels in (False, True):
        walker = walker_of(model, IMAGE, bias=bias, kernels=kernels)
        _, weights = walker.free(20_000, begin=0)
        counts = named(walker, weights)
        for name, weight in walker.net.weights.items():
            assert not counts[name][(weight == 0).numpy()].any()
        assert not counts["0.weight"][2].any()
        assert not counts["5.weight"].reshape(3, 6, 4)[:, 3].any()
        reachable = walker.reachable()
        assert not np.bincount(weights, minlength=walker.total)[~reachable].any()
        assert len(np.unique(weights)) == reachable.sum()


def test_a_network_without_a_path_has_no_walks() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    nn.init.zeros_(model[1].weight)
    walker = walker_of(model, FLAT)
    assert not walker.reachable().any()
    assert not walker.visit_probability().any()
    numbers, weights = walker.free(10, begin=0)
    assert len(numbers) == len(weights) == 0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales_of_units_do_not_matter(scale: float) -> None:
    """Running sums over a whole layer would lose units whose weights are small beside those of others."""
    model = nn.Sequential(nn.Linear(4, 30), nn.Linear(30, 3)).double()
    plain = walker_of(model, FLAT.double()).free(4000, begin=0)
    with torch.no_grad():
        model[0].weight[:, ::2] *= scale
        model[1].weight[:, ::3] *= scale
    scaled = walker_of(model, FLAT.double()).free(4000, begin=0)
    onward = [np.bincount(found[1][found[0] % 2 == 0], minlength=210) for found in (plain, scaled)]
    np.testing.assert_array_equal(onward[0], onward[1])
    assert (np.bincount(scaled[0]) == 2).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        model[1].weight[0, 0] = value
    with pytest.raises(ValueError, match=r"'1.weight' holds NaN or infinite values, so walks have no probabilities"):
        walker_of(model, FLAT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = nn.Sequential(conv(2, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).to(torch.bfloat16)
    reference = walker_of(model.float(), IMAGE).free(500, begin=0)
    if dtype is torch.float16:
        model.half().float()  # bfloat16 has numbers that float16 rounds
        reference = walker_of(model.half().float(), IMAGE).free(500, begin=0)
    found = walker_of(model.to(dtype), IMAGE.to(dtype)).free(500, begin=0)
    np.testing.assert_array_equal(found[1], reference[1])


PATHS = (
    "bottlenecks",
    "concatenation",
    "convolutions and flatten",
    "grouped and depthwise",
    "two inputs",
    "sub pixels",
)


@pytest.mark.parametrize("name", PATHS)
def test_a_walk_is_a_path_from_an_input_to_an_output(name: str) -> None:
    """Free walks in both directions, and walks through a weight, which visit it."""
    model, inputs = CASES[name]()
    walker = walker_of(model, *inputs)
    graph, found = walker.graph, edges(walker.net, walker.graph)
    ends = {edge.weight: (edge.source, edge.target) for edge in found if edge.weight >= 0}
    free = reach(graph, [edge for edge in found if edge.weight < 0])  # by additions alone
    wanted = np.flatnonzero(walker.reachable())
    assert len(wanted) == walker.total
    for numbers, weights, through in (*walker.free(200, begin=0), None), (*walker.through(wanted), wanted):
        for number in range(numbers.max() + 1):
            walk = sorted(ends[weight] for weight in weights[numbers == number].tolist())
            assert through is None or through[number] in weights[numbers == number]
            assert free[graph.inputs, walk[0][0]].any()
            assert free[walk[-1][1], graph.outputs].any()
            assert all(free[before[1], after[0]] for before, after in itertools.pairwise(walk))


def test_a_walk_through_a_weight_visits_whole_kernels() -> None:
    model, inputs = CASES["grouped and depthwise"]()
    walker = walker_of(model, *inputs, kernels=True)
    numbers, weights = walker.through(np.array([8 + 9 * 2 + 5, 8 + 36 + 100]))  # one of 8 + 36 + 108 + 12 weights each
    layers = [np.split(np.sort(weights[numbers == number]), [1, 10, 19]) for number in (0, 1)]
    assert [len(kernel) for kernel in (*layers[0], *layers[1])] == [1, 9, 9, 1] * 2
    np.testing.assert_array_equal(layers[0][1], np.arange(8 + 18, 8 + 27))
    np.testing.assert_array_equal(layers[1][2], np.arange(8 + 36 + 99, 8 + 36 + 108))


def test_walks_through_tied_weights() -> None:
    model, inputs = CASES["tied layers"]()
    with torch.no_grad():
        model.a.weight[0] = 0  # dead in its first use, alive as a column in its transposed use
    walker = walker_of(model, *inputs)
    wanted = np.flatnonzero(walker.reachable())
    numbers, weights = walker.through(wanted)
    assert set(weights) <= set(wanted)
    for number, weight in enumerate(wanted):
        assert weight in weights[numbers == number]


def test_a_fixed_factor_of_zero_lets_no_walk_pass_and_one_that_is_trained_does() -> None:
    def network(scale: Tensor) -> nn.Module:
        def forward(self: Any, x: Tensor) -> Tensor:
            return x + self.scale * self.a(x)

        return Network(forward, a=nn.Linear(4, 4), scale=scale)

    assert not walker_of(network(torch.zeros(4)), FLAT).reachable().any()
    assert walker_of(network(nn.Parameter(torch.zeros(4))), FLAT).reachable().all()


def test_layers_that_are_not_pruned_are_walked_through() -> None:
    model = nn.Sequential(conv(2, 3), nn.ReLU(), conv(3, 3), nn.ReLU(), conv(3, 2))
    whole = walker_of(model, IMAGE)
    part = walker_of(model, IMAGE, prunable=["2.weight"])
    assert part.total == 81
    numbers, _ = part.free(1000, begin=0)
    assert (np.bincount(numbers, minlength=1000) == 1).all()
    exact = whole.visit_probability()[whole.offsets["2.weight"] :][:81]
    np.testing.assert_allclose(part.visit_probability(), exact)


def test_the_same_seed_gives_the_same_walks() -> None:
    model, inputs = CASES["bottlenecks"]()
    walks = [walker_of(model, *inputs, seed=seed).free(300, begin=0)[1] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(walks[0], walks[1])
    assert len(walks[0]) != len(walks[2]) or (walks[0] != walks[2]).any()


def test_masks() -> None:
    model = nn.Sequential(conv(2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    walker = walker_of(model, IMAGE)
    masks = walker.masks(np.arange(60) % 3 == 0)
    assert masks["0.weight"].shape == (3, 2, 3, 3)
    assert masks["0.weight"].flatten().tolist() == [position % 3 == 0 for position in range(54)]
    assert masks["3.weight"].flatten().tolist() == [position % 3 == 0 for position in range(54, 60)]
