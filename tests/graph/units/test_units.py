"""The recorded units and edges of networks, against what the open-gate network itself computes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from graph.sums.forwards import Network, conv
from graph.units.unit_networks import CASES, FLAT, IMAGE, TOKENS
from oracles.unit_paths import edges, paths_of_network, paths_of_units
from torch import Tensor, nn
from torch.nn import functional as F

from foreprune import PathError
from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import PathGraph
from foreprune.graph.units.record import record_units
from foreprune.graph.units.unit_graph import Join, Layer, UnitGraph

NOT_PRUNED = ("norm", "position", "token", "table", "scale", "gain")


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def weights(name: str, parameter: nn.Parameter) -> bool:
    return "bias" not in name and not any(part in name for part in NOT_PRUNED) and parameter.dim() > 0


def prepared(name: str) -> tuple[nn.Module, Net, tuple[Any, ...]]:
    model, inputs = CASES[name]()
    model = model.double()
    given = tuple(part.double() if part.is_floating_point() else part for part in inputs)
    return model, Net.of(model, prunable=weights), given


def record(model: nn.Module, *inputs: Any) -> UnitGraph:
    return record_units(Net.of(model, prunable=lambda name, parameter: True), as_inputs(inputs))


def layers(graph: UnitGraph) -> list[Layer]:
    return [node for node in graph.nodes if isinstance(node, Layer)]


def joins(graph: UnitGraph) -> list[Join]:
    return [node for node in graph.nodes if isinstance(node, Join)]


def positions(layer: Layer) -> np.ndarray:
    """(G, O, I, K), -1 for padding."""
    columns = layer.columns[:, None]
    return np.where(columns >= 0, layer.rows[:, :, None, None] + columns, -1)


@pytest.mark.parametrize("name", CASES)
def test_weights_lie_on_the_paths_that_the_network_has(name: str) -> None:
    """Which weights lie on a path, and which two on a common one: the first and second derivatives of the sum over
    paths are positive exactly there."""
    _, net, inputs = prepared(name)
    single, pairs = paths_of_units(net, record_units(net, as_inputs(inputs)))
    wanted_single, wanted_pairs = paths_of_network(net, inputs)
    assert wanted_single.any()
    np.testing.assert_array_equal(single, wanted_single)
    np.testing.assert_array_equal(pairs, wanted_pairs)


@pytest.mark.parametrize("name", CASES)
def test_every_weight_appears_once_in_each_use(name: str) -> None:
    _, net, inputs = prepared(name)
    seen = {key: np.zeros(weight.numel(), np.int64) for key, weight in net.weights.items()}
    uses = dict.fromkeys(seen, 0)
    for layer in layers(record_units(net, as_inputs(inputs))):
        if layer.weight not in seen:
            continue
        found = positions(layer)
        found = found[found >= 0]
        assert len(np.unique(found)) == len(found)
        np.add.at(seen[layer.weight], found, 1)
        uses[layer.weight] += 1
    for key, times in seen.items():
        wanted = np.full_like(times, uses[key])
        if key.endswith("in_proj_weight"):  # queries and keys carry no path
            wanted[: 2 * len(wanted) // 3] = 0
        if name == "concatenation twice of the same" and key == "second.weight":  # one channel is a constant
            wanted.reshape(2, 5, 9)[:, 2] = 0
        if name == "fixed factors" and key == "b.weight":
            wanted.reshape(2, 3)[:, 1] = 0
        if name == "writing into a buffer" and key == "c.weight":
            wanted.reshape(2, 5)[:, [1, 2]] = 0
        if name == "writing into views" and key == "d.weight":
            wanted.reshape(2, 4)[:, 3] = 0
        np.testing.assert_array_equal(times, wanted, err_msg=key)


def test_both_tests_above_see_all_that_the_networks_do() -> None:
    """So that no case passes because nothing was recorded: the numbers of layers and additions."""
    counts = {}
    for name in ("chain", "bottlenecks", "vision transformer", "tied layers", "twice the same"):
        graph = record(*prepared(name)[::2][:1], *prepared(name)[2])
        counts[name] = (len(layers(graph)), len(joins(graph)))
    # the class token has places of its own in the multilayer perceptrons and in the second projection
    assert counts == {
        "chain": (3, 0),
        "bottlenecks": (7, 2),
        "vision transformer": (1 + 2 + 4 + 3 + 4 + 1, 5),
        "tied layers": (4, 0),
        "twice the same": (3, 3),
    }


FLAT_CASES = ["chain", "twice the same", "tied layers", "outputs that are read on", "experts"]


@pytest.mark.parametrize("name", FLAT_CASES)
def test_the_number_of_paths_is_that_of_the_network(name: str) -> None:
    """Without images a path of units is a path: with all weights one, the sum over paths counts them."""
    _, net, inputs = prepared(name)
    graph = record_units(net, as_inputs(inputs))
    ending = np.zeros(graph.count)
    ending[graph.inputs] = 1
    for node in graph.nodes:  # nodes are in the order of the forward
        for edge in edges(net, UnitGraph((node,), graph.inputs, graph.outputs, graph.count, graph.constants)):
            ending[edge.target] += ending[edge.source]
    ones = {key: torch.ones_like(value) for key, value in net.params.items()}
    counted = PathGraph(net, as_inputs(inputs)).sum(ones)
    assert ending[graph.outputs].sum() == float(counted.value) * 2.0**counted.exponent


def test_kernels_of_a_convolution_in_groups() -> None:
    layer = layers(record(nn.Conv2d(4, 6, (2, 3), groups=2), torch.zeros(1, 4, 5, 5)))[0]
    entries = np.arange(72).reshape(2, 3, 2, 6)  # group, output, input, place
    np.testing.assert_array_equal(positions(layer), entries)
    np.testing.assert_array_equal(layer.sources, [[0, 1], [2, 3]])
    np.testing.assert_array_equal(layer.targets, [[4, 5, 6], [7, 8, 9]])


def test_kernels_of_a_transposed_convolution_in_groups() -> None:
    layer = layers(record(nn.ConvTranspose1d(4, 6, 5, groups=2), torch.zeros(1, 4, 5)))[0]
    entries = np.arange(60).reshape(2, 2, 3, 5).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(positions(layer), entries)
    np.testing.assert_array_equal(layer.sources, [[0, 1], [2, 3]])


def test_pixels_of_a_channel_are_one_kernel_of_the_layer_that_reads_them_flattened() -> None:
    model = nn.Sequential(conv(2, 3), nn.Flatten(), nn.Linear(3 * 64, 2))
    graph = record(model, IMAGE)
    layer = layers(graph)[1]
    np.testing.assert_array_equal(layer.sources, layers(graph)[0].targets)
    np.testing.assert_array_equal(positions(layer)[0], np.arange(2 * 3 * 64).reshape(2, 3, 64))


def test_channels_that_are_read_in_another_order() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(torch.cat([x[:, 1:], x], 1))

    graph = record(Network(forward, a=nn.Conv2d(2, 2, 1), b=nn.Conv2d(3, 1, 1)), IMAGE)
    np.testing.assert_array_equal(layers(graph)[1].sources, [[2, 3]])
    np.testing.assert_array_equal(positions(layers(graph)[1])[0, 0], [[1, -1], [0, 2]])


def test_the_branches_of_additions() -> None:
    graph = record(*_skip())
    stem, inner = layers(graph)[:2]
    np.testing.assert_array_equal(np.sort(joins(graph)[0].sources, 0), [stem.targets[0], inner.targets[0]])
    np.testing.assert_array_equal(layers(graph)[2].sources[0], joins(graph)[0].targets)


def _skip() -> tuple[nn.Module, Tensor]:
    model, inputs = CASES["identity skip in place"]()
    return model, inputs[0]


def test_an_addition_of_a_constant_or_of_zeros_is_none() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x) + 1.0 + self.a.bias
        return self.b(0 + x + torch.zeros_like(x))

    graph = record(Network(forward, a=nn.Linear(4, 3), b=nn.Linear(3, 2)), FLAT)
    assert not joins(graph)
    np.testing.assert_array_equal(layers(graph)[1].sources, layers(graph)[0].targets)


def test_what_is_padded_with_is_a_constant() -> None:
    for value in ({}, {"value": 1.0}):
        model = Network(
            lambda self, x, v=value: self.b(F.pad(self.a(x), (2, 1), **v)), a=nn.Linear(4, 3), b=nn.Linear(6, 2)
        )
        layer = layers(record(model, FLAT))[1]
        np.testing.assert_array_equal(layer.sources, [[4, 5, 6]])
        np.testing.assert_array_equal(layer.columns[..., 0], [[2, 3, 4]])


def test_places_of_a_channel_that_hold_several_units_are_their_sum() -> None:
    """Each unit counts once, at however many places it is."""
    graph = record(nn.Sequential(conv(2, 8), nn.PixelShuffle(2), conv(2, 3)), IMAGE)
    (join,) = joins(graph)
    np.testing.assert_array_equal(np.sort(join.sources, 0), layers(graph)[0].targets.reshape(2, 4).T)
    np.testing.assert_array_equal(layers(graph)[1].sources, join.targets[None])


TAPS: dict[str, tuple[nn.Module, tuple[int, ...], list[int]]] = {
    "one pixel": (nn.Conv2d(1, 1, 3, padding=1), (1, 1), [4]),
    "two pixels": (nn.Conv2d(1, 1, 3, padding=1), (2, 2), list(range(9))),
    "one row": (nn.Conv2d(1, 1, 3, padding=1), (1, 4), [3, 4, 5]),
    "stride beyond the image": (nn.Conv1d(1, 1, 5, padding=2, stride=4), (2,), [2, 3]),
    "dilation beyond the image": (nn.Conv1d(1, 1, 3, padding="same", dilation=4), (4,), [1]),
    "even, same": (nn.Conv1d(1, 1, 4, padding="same"), (2,), [0, 1, 2]),
    "valid": (nn.Conv1d(1, 1, 3, padding="valid"), (3,), [0, 1, 2]),
    "circular": (nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), (1,), [0, 1, 2]),
    "transposed, cut off": (nn.ConvTranspose1d(1, 1, 4, padding=2, stride=2), (2,), [0, 1, 2, 3]),
    "transposed, one pixel": (nn.ConvTranspose1d(1, 1, 4, padding=1), (1,), [1, 2]),
    "transposed, wider": (nn.ConvTranspose1d(1, 1, 3, padding=1, output_padding=1, stride=2), (1,), [1, 2]),
}


@pytest.mark.parametrize("name", TAPS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_places_of_a_kernel_that_meet_only_padding_carry_no_path(name: str) -> None:
    layer, size, wanted = TAPS[name]
    model = layer.double()
    x = torch.zeros(1, 1, *size, dtype=torch.float64)
    net = Net.of(model)
    graph = record_units(net, as_inputs(x))
    np.testing.assert_array_equal(np.sort(positions(layers(graph)[0]).ravel()), wanted)
    ones = {"weight": torch.ones_like(net.params["weight"])}
    flow = PathGraph(net, as_inputs(x)).gradients(ones, ["weight"])["weight"].flatten()
    np.testing.assert_array_equal(torch.nonzero(flow)[:, 0].numpy(), wanted)
    assert model(x).shape == _recorded_shape(model, x)


def _recorded_shape(model: nn.Module, x: Tensor) -> torch.Size:
    """The shape that the recorder gives to the result, as a layer behind it sees it."""
    seen = []

    def forward(self: Any, x: Tensor) -> Tensor:
        seen.append(self.inner(x).shape)
        return self.inner(x)

    record(Network(forward, inner=model), x)
    return seen[-1]


def test_inputs_are_told_apart_as_finely_as_the_layers_that_read_them() -> None:
    flattened = nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 3))
    assert len(record(flattened, IMAGE).inputs) == 2 * 64
    assert len(record(nn.Sequential(conv(2, 3), nn.Flatten()), IMAGE).inputs) == 2
    assert len(record(nn.Sequential(nn.AvgPool2d(4), *flattened[:1], nn.Linear(8, 3)), IMAGE).inputs) == 2
    assert len(record(nn.Linear(4, 3), TOKENS).inputs) == 4
    assert len(record(nn.Linear(4, 3), TOKENS[:, :1]).inputs) == 4
    gray = prepared("gray images")
    assert len(record(gray[0], *gray[2]).inputs) == 2


def test_the_batch_and_the_size_of_images_do_not_matter() -> None:
    model = nn.Sequential(conv(2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    graphs = [record(model, torch.zeros(*shape)) for shape in ((1, 2, 4, 4), (7, 2, 1024, 2048))]
    for one, other in zip(*(layers(graph) for graph in graphs), strict=True):
        np.testing.assert_array_equal(one.sources, other.sources)
        np.testing.assert_array_equal(positions(one), positions(other))


def test_outputs() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        x = self.a(x)
        return {"logits": torch.cat([x[:, :2], x.new_ones(len(x), 1)], 1), "other": x}

    graph = record(Network(forward, a=nn.Linear(4, 3)), FLAT)
    np.testing.assert_array_equal(graph.outputs, layers(graph)[0].targets[0, :2])


def test_keyword_arguments_count_in_the_order_of_their_names() -> None:
    def forward(self: Any, a: Tensor, b: Tensor) -> Tensor:
        return self.a(a) + self.b(b)

    net = Net.of(Network(forward, a=nn.Linear(4, 2), b=nn.Linear(3, 2)))
    one, other = torch.zeros(1, 4), torch.zeros(1, 3)
    graphs = [record_units(net, as_inputs(given)) for given in ({"a": one, "b": other}, {"b": other, "a": one})]
    for first, second in zip(*(layers(graph) for graph in graphs), strict=True):
        np.testing.assert_array_equal(first.sources, second.sources)


def test_the_larger_of_two_has_the_paths_of_both() -> None:
    def network(join: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
        def forward(self: Any, x: Tensor) -> Tensor:
            x = join(self.a(x), self.b(x)).clamp(min=0)
            return self.c(torch.max(x, torch.zeros(3)))

        return Network(forward, a=nn.Linear(4, 3), b=nn.Linear(4, 3), c=nn.Linear(3, 2))

    wanted = record(network(torch.add), FLAT)
    for join in (torch.maximum, torch.max, torch.fmax):
        graph = record(network(join), FLAT)
        np.testing.assert_array_equal(joins(graph)[0].sources, joins(wanted)[0].sources)
        np.testing.assert_array_equal(layers(graph)[2].sources, joins(graph)[0].targets[None])


def test_statistics_are_no_units() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(torch.cat([x, x.std(1, keepdim=True), torch.linalg.vector_norm(x, dim=1, keepdim=True)], 1))

    graph = record(Network(forward, a=nn.Linear(4, 3), b=nn.Linear(5, 2)), FLAT)
    np.testing.assert_array_equal(layers(graph)[1].sources, layers(graph)[0].targets)


def test_halves_that_are_changed_in_place() -> None:
    """Views of one tensor: what is written into one is seen through the other."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        left, right = x.chunk(2, 1)
        left += self.b(right)
        right *= 2
        return self.c(x)

    graph = record(Network(forward, a=nn.Linear(4, 4), b=nn.Linear(2, 2), c=nn.Linear(4, 2)), FLAT)
    a, b, c = layers(graph)
    (join,) = joins(graph)
    np.testing.assert_array_equal(join.sources, [b.targets[0], a.targets[0, :2]])
    np.testing.assert_array_equal(c.sources[0], [*a.targets[0, 2:], *join.targets])


@pytest.mark.parametrize("reduce", ["amax", "max", "mean", "sum"])
def test_reductions_over_channels_join_them(reduce: str) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        found = getattr(self.a(x), reduce)(dim=1, keepdim=True)
        return self.b(found.values if reduce == "max" else found)

    graph = record(Network(forward, a=conv(2, 3), b=nn.Conv2d(1, 2, 1)), IMAGE)
    np.testing.assert_array_equal(np.sort(joins(graph)[0].sources[:, 0]), layers(graph)[0].targets[0])


def test_pooling_returns_what_it_returns() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        pooled, indices = F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True, return_indices=True)
        assert indices.shape == pooled.shape == (1, 3, 5, 5)
        assert F.interpolate(pooled, scale_factor=(2, 3), mode="bilinear").shape == (1, 3, 10, 15)
        assert F.adaptive_avg_pool2d(pooled[0], (None, 1)).shape == (3, 5, 1)
        return pooled

    assert len(record(Network(forward, a=conv(2, 3)), IMAGE).outputs) == 3


def refused(function: Callable[..., Any], *inputs: Tensor, **parts: Any) -> str:
    model = nn.Sequential()
    model.add_module("body", Network(function, **parts))
    with pytest.raises(PathError) as error:
        record(model, *inputs)
    return str(error.value)


class Outside(torch.autograd.Function):
    """Computed by NumPy: no torch function sees it happen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


REFUSED: dict[str, tuple[Callable[..., Any], Tensor, dict[str, Any], str]] = {
    "mixing tokens": (
        lambda self, x: self.a(self.b(x).transpose(1, 2)),
        torch.zeros(1, 9, 4),
        {"a": nn.Linear(9, 2), "b": nn.Linear(4, 10)},
        r"linear in module 'body.a' \(Linear\) uses each of its weights for several units at once.*use 'synflow', or a",
    ),
    "computed weight": (
        lambda self, x: F.linear(x, self.a.weight * 2),
        FLAT,
        {"a": nn.Linear(4, 2)},
        r"linear in module 'body' \(Network\) uses a weight that is computed from parameters",
    ),
    "computed factor": (
        lambda self, x: x @ (self.a.weight * 2).t(),
        FLAT,
        {"a": nn.Linear(4, 2)},
        r"matmul in module 'body' \(Network\) uses a weight that is computed from parameters",
    ),
    "weight from inputs": (
        lambda self, x: F.linear(x, self.a(x)),
        FLAT,
        {"a": nn.Linear(4, 4)},
        r"linear in module 'body' \(Network\) computes its weight from the inputs",
    ),
    "cumulative sum": (
        lambda self, x: self.a(x).cumsum(1),
        FLAT,
        {"a": nn.Linear(4, 2)},
        r"cumsum in module 'body' \(Network\) has no meaning for walks along paths",
    ),
    "tensordot": (
        lambda self, x: torch.tensordot(x, self.a.weight, ([1], [1])),
        FLAT,
        {"a": nn.Linear(4, 2)},
        r"tensordot in module 'body' \(Network\) is a product that walks cannot follow; write it with linear, matmul",
    ),
    "ellipsis": (
        lambda self, x: torch.einsum("...i,oi->...o", x, self.a.weight),
        FLAT,
        {"a": nn.Linear(4, 2)},
        r"einsum in module 'body' \(Network\) is a product that walks cannot follow; write it with linear, matmul",
    ),
    "trace": (
        lambda self, x: torch.einsum("ij,bi->bi", self.a.weight, x),
        FLAT,
        {"a": nn.Linear(4, 4)},
        r"einsum in module 'body' \(Network\) is a product that walks cannot follow; write it with linear or matmul",
    ),
    "unknown operation": (
        lambda self, x: torch.fft.rfft(self.a(x)).real,
        FLAT,
        {"a": nn.Linear(4, 2)},
        r"fft.rfft in module 'body' \(Network\) has no meaning for paths",
    ),
    "outside torch": (
        lambda self, x: self.a(x) + Outside.apply(self.a(x)),
        FLAT,
        {"a": nn.Linear(4, 2)},
        r"add in module 'body' \(Network\) joins the paths with a tensor that was computed from the inputs, but not by",
    ),
    "nothing but constants": (
        lambda self, x: self.a(torch.zeros(3, 4)),
        FLAT,
        {"a": nn.Linear(4, 2)},
        r"the output does not depend on the inputs through operations that paths can follow",
    ),
    "attention to constants": (
        lambda self, x: F.scaled_dot_product_attention(x, x, torch.ones(2, 5, 4)) + self.a.bias,
        TOKENS,
        {"a": nn.Linear(4, 4)},
        r"scaled_dot_product_attention in module 'body' \(Network\) attends to constant values",
    ),
    "nothing left": (
        lambda self, x: self.a(x)[:0].mean((2, 3)),
        IMAGE,
        {"a": conv(2, 2)},
        r"mean in module 'body' \(Network\) works on an empty tensor",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_walks_cannot_follow_is_refused_by_name(name: str) -> None:
    function, x, parts, message = REFUSED[name]
    assert re.search(message, found := refused(function, x, **parts)), found


def test_recurrent_layers_are_refused_by_name() -> None:
    with pytest.raises(PathError, match=r"lstm in module '0' \(LSTM\) has no meaning for paths"):
        record(nn.Sequential(nn.LSTM(4, 3)), TOKENS)


def test_the_error_is_that_of_the_numbering_that_came_furthest() -> None:
    """Not the complaint that pixels are too fine for the first convolution."""
    model = nn.Sequential(conv(2, 9), nn.ReLU(), nn.Flatten(2), nn.Linear(64, 2))
    with pytest.raises(PathError, match=r"linear in module '3' \(Linear\) uses each of its weights for several units"):
        record(model, IMAGE)


def test_recording_writes_to_no_tensor_of_the_user() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        left, right = x[:, :2], x[:, 2:]
        left += right
        token = self.token.expand(3, 4)
        total = token.clone()
        total += x
        return self.b(total + x)

    token = nn.Parameter(torch.ones(1, 4))
    model = Network(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 2), token=token, kept=torch.ones(3, 4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = FLAT.clone()
    graph = record(model, x)
    assert len(joins(graph)) == 2
    assert torch.equal(x, FLAT)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())
