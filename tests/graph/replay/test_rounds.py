"""Rounds that run from a tape against rounds of the network."""

from __future__ import annotations

import gc
import itertools
import random
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.select import keep_top
from foreprune.core.task import Task, as_inputs
from foreprune.graph import PathGraph, path_graph
from foreprune.graph.replay import ReplayedPaths, rounds
from foreprune.methods.synflow import synflow
from foreprune.zoo import models
from tests.graph.sums.forwards import Network, conv

ROUNDS = 9


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every forward of the network."""
    made: list[int] = []
    real = PathGraph.outputs

    def counting(self: PathGraph, *args: Any, **kwargs: Any) -> Any:
        made.append(1)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(PathGraph, "outputs", counting)
    return made


def assert_proportional(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-11) -> None:
    """The same up to one power of two."""
    total = [sum(float(scores[name].sum()) for name in expected) for scores in (found, expected)]
    assert min(total) > 0
    shift = total[1] / total[0]
    assert abs(torch.tensor(shift).log2() % 1) < 1e-9 or abs(torch.tensor(shift).log2() % 1 - 1) < 1e-9
    for name, value in expected.items():
        torch.testing.assert_close(found[name] * shift, value, rtol=rtol, atol=1e-30, msg=name)


def residual(self: Any, x: Tensor) -> Tensor:
    out = self.first(x)
    skip = out
    out = F.relu(self.second(out), inplace=True)
    out += skip
    return self.last(F.adaptive_avg_pool2d(F.relu(out), 1).flatten(1))


def shared(self: Any, x: Tensor) -> Tensor:
    return self.last(torch.tanh(self.second(torch.relu(self.second(self.first(x))))).mean((2, 3)))


def joined(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    return self.last(F.max_pool2d(torch.cat([self.second(x), x.roll(1, 1)], 1), 4).amax((2, 3))[:, ::2])


def written(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    table = torch.zeros_like(x)
    table[:, 1:] = self.second(x)[:, 1:]
    return self.last(table.mean((2, 3)))


def constants(self: Any, x: Tensor) -> Tensor:
    scale = torch.linspace(0.5, 2, 6, dtype=x.dtype).view(1, 6, 1, 1)
    return self.last((self.second(self.first(x) * scale) + 3).mean((2, 3)))


NETWORKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "residual": residual,
    "shared": shared,
    "joined": joined,
    "written": written,
    "constants": constants,
}


def network(function: Callable[[Any, Tensor], Any]) -> Network:
    torch.manual_seed(0)
    parts = {"first": conv(3, 6), "second": conv(6, 6), "last": nn.Linear(6, 4)}
    return Network(function, **parts).double().eval()


Function = Callable[[Tensor], Tensor]
FUNCTIONS = [(torch.abs, torch.abs), (torch.square, torch.abs), (torch.square, torch.square)]


def replayed(net: Net, inputs: Any) -> ReplayedPaths:
    found = path_graph(net, inputs)
    assert isinstance(found, ReplayedPaths)
    return found


def scores(
    paths: PathGraph,
    masks: Masks,
    weights: Function = torch.abs,
    factors: Function = torch.abs,
    image: Tensor | None = None,
) -> dict[str, Tensor]:
    """As the methods ask for them."""
    return paths.gradients(paths.masked(weights, masks), times=paths.masked(factors, masks), image=image)


def one_by_one(
    net: Net,
    inputs: Any,
    masks: Masks,
    weights: Function = torch.abs,
    factors: Function = torch.abs,
    image: Tensor | None = None,
) -> dict[str, Tensor]:
    """Each round by the network."""
    dense = {name: weights(value) for name, value in net.weights.items()}
    grads = PathGraph(net, inputs).gradients(masks(dense), net.prunable, image=image)
    return {name: grads[name] * factors(masks(net.weights)[name]) for name in net.prunable}


def fewer(masks: Masks, flow: dict[str, Tensor], share: float = 0.8) -> Masks:
    return keep_top(flow, int(masks.kept * share), generator=torch.Generator(), among=masks)


@pytest.mark.parametrize("functions", FUNCTIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_round_gives_what_the_network_gives(
    name: str, functions: tuple[Function, Function], forwards: list[int]
) -> None:
    net = Net.of(network(NETWORKS[name]))
    inputs = as_inputs(torch.ones(1, 3, 8, 8).double())
    paths = replayed(net, inputs)
    masks, flows, expected = Masks.dense(net.weights), [], []
    for _ in range(ROUNDS):
        flows.append(scores(paths, masks, *functions))
        expected.append(one_by_one(net, inputs, masks, *functions))
        masks = fewer(masks, expected[-1])
    assert len(forwards) == ROUNDS + 3  # from the fourth on, none of ours
    assert {tuple(flow) for flow in flows} == {net.prunable}  # their order decides ties
    for found, wanted in zip(flows, expected, strict=True):  # at the end: no round has changed an earlier result
        assert_proportional(found, wanted)


def test_a_mean_image_starts_other_rounds(forwards: list[int]) -> None:
    net = Net.of(network(residual))
    inputs = as_inputs(torch.ones(1, 3, 8, 8).double())
    masks, paths = Masks.dense(net.weights), replayed(net, inputs)
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 8, 8, generator=generator).double() for _ in range(2)]
    for image in images:
        for _ in range(ROUNDS):
            found = scores(paths, masks, image=image.clone())
            assert_proportional(found, one_by_one(net, inputs, masks, image=image))
    assert len(forwards) == 2 * (ROUNDS + 3)


def test_other_functions_of_the_weights_may_follow_in_the_same_rounds(forwards: list[int]) -> None:
    net = Net.of(network(residual))
    inputs = as_inputs(torch.ones(1, 3, 8, 8).double())
    masks, paths = Masks.dense(net.weights), replayed(net, inputs)
    for functions in FUNCTIONS:
        for _ in range(4):
            assert_proportional(scores(paths, masks, *functions), one_by_one(net, inputs, masks, *functions))
    assert len(forwards) == 3 * 4 + 3


def test_other_weights_start_other_rounds(forwards: list[int]) -> None:
    """Fewer of them, or in another order in memory."""
    net = Net.of(network(residual))
    inputs = as_inputs(torch.ones(1, 3, 8, 8).double())
    paths, weights = replayed(net, inputs), dict(net.magnitudes)
    some = {name: value for name, value in weights.items() if name.endswith("weight")}
    turned = {**some, "last.weight": some["last.weight"].t().contiguous().t()}
    for given in (weights, some, turned):
        for _ in range(4):
            assert_proportional(paths.gradients(given), PathGraph(net, inputs).gradients(given))
    assert len(forwards) == 3 * (4 + 3)


def test_gradients_without_factors_are_no_views_of_each_other() -> None:
    net = Net.of(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double())
    inputs = as_inputs(torch.ones(1, 5).double())
    paths, weights = replayed(net, inputs), {name: net.magnitudes[name] for name in net.prunable}
    expected = PathGraph(net, inputs).gradients(weights)
    for _ in range(5):
        found = paths.gradients(weights)
        assert_proportional(found, expected)
        for value in found.values():
            value.zero_()


def test_some_weights_alone_come_from_the_network(forwards: list[int]) -> None:
    net = Net.of(network(residual))
    inputs = as_inputs(torch.ones(1, 3, 8, 8).double())
    paths, weights = replayed(net, inputs), {name: net.magnitudes[name] for name in net.prunable}
    for _ in range(5):
        assert list(paths.gradients(weights, ["last.weight"])) == ["last.weight"]
    assert len(forwards) == 5


def test_a_derivative_that_no_weight_changes_stays_as_it_is(forwards: list[int]) -> None:
    net = Net.of(nn.Linear(5, 3).double())
    inputs = as_inputs(torch.ones(1, 5).double())
    masks, paths = Masks.dense(net.weights), replayed(net, inputs)
    for _ in range(6):
        flow = scores(paths, masks)
        torch.testing.assert_close(flow["weight"], masks(net.magnitudes)["weight"], rtol=0, atol=0)
        masks = fewer(masks, flow)
    assert len(forwards) == 3


def test_a_branch_without_a_path_is_no_reason_to_run_the_network(forwards: list[int]) -> None:
    net = Net.of(network(joined))
    inputs = as_inputs(torch.ones(1, 3, 8, 8).double())
    dense, paths = Masks.dense(net.weights), replayed(net, inputs)
    cut = Masks({name: mask & (name != "second.weight") for name, mask in dense.items()})
    for masks in (dense, dense, dense, cut, cut):
        flow = scores(paths, masks)
    assert len(forwards) == 3
    assert_proportional(flow, one_by_one(net, inputs, cut))
    assert not flow["second.weight"].any()
    assert flow["first.weight"].any()


@pytest.mark.parametrize("name", ["resnet-20", "vgg-11", "lenet-300-100"])
@pytest.mark.parametrize("method", ["synflow", "synflow-l2"])
def test_masks_are_those_of_rounds_of_the_network(name: str, method: str, forwards: list[int]) -> None:
    torch.manual_seed(1)
    shape = (1, 28, 28) if name == "lenet-300-100" else (3, 32, 32)
    model = models.create(name, input_shape=shape, classes=10).double()
    inputs = torch.ones(1, *shape).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", foreprune.LayerCollapse)
        found = foreprune.prune(model, method, density=0.1, inputs=inputs, rounds=8)
        assert len(forwards) < 8
        slow = masks_of_the_network(model, inputs, torch.square if method == "synflow-l2" else torch.abs)
    assert found == slow


def masks_of_the_network(model: nn.Module, inputs: Tensor, weights: Function) -> Masks:
    net = Net.of(model)
    masks = Masks.dense(net.weights)
    for k in range(1, 9):
        flow = one_by_one(net, as_inputs(inputs), masks, weights)
        keep = net.total - int((1 - 0.1 ** (k / 8)) * net.total) if k < 8 else round(0.1 * net.total)
        masks = keep_top(flow, keep, generator=torch.Generator(), among=masks)
    return masks


def test_powers_of_two_are_chosen_anew_when_sums_leave_their_range(
    forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "RANGE", 2.0**21)
    model = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(8, 8, bias=False), nn.ReLU())])
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)
    net, inputs = Net.of(model.double()), as_inputs(torch.ones(1, 8).double())
    masks, paths = Masks.dense(net.weights), replayed(net, inputs)
    for _ in range(14):
        found, expected = scores(paths, masks), one_by_one(net, inputs, masks)
        assert_proportional(found, expected)
        masks = fewer(masks, expected, 0.85)
    recordings = (len(forwards) - 14 - 1) // 2
    assert 2 <= recordings <= 7


def test_a_program_is_not_made_again_and_again(forwards: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "RECORDINGS", 2)
    real, used = rounds.Replay.gradients, []

    def once(self: Any, *args: Any) -> Any:
        """Agrees, and is never of use again."""
        used.append(self)
        return real(self, *args) if used.count(self) == 1 else None

    monkeypatch.setattr(rounds.Replay, "gradients", once)
    net, inputs = Net.of(network(residual)), as_inputs(torch.ones(1, 3, 8, 8).double())
    paths = replayed(net, inputs)
    for _ in range(8):
        scores(paths, Masks.dense(net.weights))
    assert len(forwards) == 8 + 2
    assert len(set(used)) == 2


def reads_weights_behind_torch(self: Any, x: Tensor) -> Tensor:
    scale = float(self.first.weight.detach().numpy().sum())
    return self.last((self.first(x) * scale).mean((2, 3)))


def normalizes_behind_torch(self: Any, x: Tensor) -> Tensor:
    weight = self.first.weight.detach()
    scale = torch.from_numpy(weight.numpy().sum((1, 2, 3)) + 1)
    return self.last((self.first(x) * scale.view(1, -1, 1, 1)).mean((2, 3)))


def reads_a_sum(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    return self.last((x * 2 if float(x.detach().sum()) > 1e9 else x).mean((2, 3)))


def alternates(self: Any, x: Tensor) -> Tensor:
    self.calls = getattr(self, "calls", 0) + 1
    x = self.first(x)
    return self.last((self.second(x) if self.calls % 2 else x).mean((2, 3)))


@pytest.mark.parametrize(
    "function", [reads_weights_behind_torch, normalizes_behind_torch, reads_a_sum], ids=lambda f: f.__name__
)
def test_what_a_tape_cannot_know_runs_the_network(function: Callable[..., Any], forwards: list[int]) -> None:
    net = Net.of(network(function))
    inputs = as_inputs(torch.ones(1, 3, 8, 8).double())
    masks, paths = Masks.dense(net.weights), replayed(net, inputs)
    for _ in range(ROUNDS):
        found, expected = scores(paths, masks), one_by_one(net, inputs, masks)
        assert_proportional(found, expected)
        masks = fewer(masks, expected)
    assert 2 * ROUNDS <= len(forwards) <= 2 * ROUNDS + 1  # one to find out


def test_a_network_that_changes_from_call_to_call_is_not_repeated(forwards: list[int]) -> None:
    net = Net.of(network(alternates))
    inputs = as_inputs(torch.ones(1, 3, 8, 8).double())
    paths = replayed(net, inputs)
    flows = [scores(paths, Masks.dense(net.weights)) for _ in range(6)]
    assert len(forwards) == 7
    # the third call of seven was the comparison
    assert [float(flow["second.weight"].sum()) > 0 for flow in flows] == [True, False, False, True, False, True]


def test_calls_have_rounds_of_their_own(forwards: list[int]) -> None:
    """Also those of one network, one after the other or in turns."""
    inputs = as_inputs(torch.ones(1, 3, 8, 8).double())
    nets = [Net.of(network(residual)), Net.of(network(shared))]
    tasks = [Task((), inputs, None, torch.Generator()) for _ in range(2)]
    for _ in range(5):
        for task, net in itertools.product(tasks, nets):
            masks = Masks.dense(net.weights)
            assert_proportional(synflow(net, task, masks), one_by_one(net, inputs, masks))
    assert len(forwards) == 4 * (3 + 5)  # three of each call, and those of the comparison


def test_nothing_outlives_the_call() -> None:
    task = Task((), as_inputs(torch.ones(1, 3, 8, 8).double()), None, torch.Generator())
    net = Net.of(network(residual))
    dense = Masks.dense(net.weights)
    for _ in range(5):
        synflow(net, task, dense)
    paths = task.once(path_graph, net, task.example)
    alive = [weakref.ref(item) for item in (paths, net, paths.masked(torch.abs, dense)["last.weight"])]
    gc.collect()
    gc.disable()
    try:
        del net, task, paths
        assert [ref() for ref in alive] == [None, None, None]
    finally:
        gc.enable()


class Parts(nn.Module):
    """A network with a convolution `c`, linear layers and the given forward."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.c = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.e0, self.e1, self.o = nn.Linear(128, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.nothing = nn.Linear(128, 1)
        self.nothing.weight, self.nothing.bias = (nn.Parameter(torch.empty(0, *size)) for size in ((128,), ()))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(self, x)
        return y


def counts_by_list(s: Any, x: Tensor) -> Tensor:
    h = F.relu(s.a(s.c(x).flatten(1)))
    return s.o(s.e0(h) if sum((h > 0)[0].tolist()) == 16 else s.e1(h))


def counts_by_numpy(s: Any, x: Tensor) -> Tensor:
    h = F.relu(s.a(s.c(x).flatten(1)))
    return s.o(s.e0(h) if int((h > 0).numpy().sum()) == 16 else s.e1(h))


def counts_by_shape(s: Any, x: Tensor) -> Tensor:
    h = F.relu(s.a(s.c(x).flatten(1)))
    return s.o(s.e0(h) if len((h > 0).nonzero()) == 16 else s.e1(h))


def mean_of_the_positive(s: Any, x: Tensor) -> Tensor:
    h = s.a(s.c(x).flatten(1))
    return s.o(s.e0(h)) + h[h > 0].mean()


def one_image_at_a_time(s: Any, x: Tensor) -> Tensor:
    return s.o(s.e0(s.a(torch.stack([F.relu(image) for image in s.c(x).unbind(0)]).flatten(1))))


def in_one_piece(s: Any, x: Tensor) -> Tensor:
    return s.o(s.e0(s.a(torch.cat([F.relu(piece) for piece in s.c(x).split(8, 1)], 1).flatten(1))))


def twice(s: Any, x: Tensor) -> Tensor:
    return s.o(s.e0(s.a((s.c(x) + s.c(x)).flatten(1))))


def two_dilations(s: Any, x: Tensor) -> Tensor:
    wide = F.conv2d(x, s.c.weight, padding=2, dilation=2)
    return s.o(s.e0(s.a((s.c(x) + wide).flatten(1))))


def last_axis(s: Any, x: Tensor) -> Tensor:
    return s.o(s.e0(s.a(s.c(x).permute(0, 2, 3, 1).reshape(1, -1))))


def with_an_empty_layer(s: Any, x: Tensor) -> Tensor:
    h = s.c(x).flatten(1)
    return s.o(s.e0(torch.cat([s.a(h), s.nothing(h)], 1)))


def on_a_graph(s: Any, x: Tensor) -> Tensor:
    adjacency = torch.eye(16).to_sparse()
    return s.o(s.e0((adjacency @ s.a(s.c(x).flatten(1)).t()).t()))


GUESSES = [counts_by_list, counts_by_numpy, counts_by_shape, mean_of_the_positive, on_a_graph]
AWKWARD = [
    *GUESSES,
    one_image_at_a_time,
    in_one_piece,
    twice,
    two_dilations,
    last_axis,
    with_an_empty_layer,
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("function", AWKWARD, ids=lambda f: f.__name__)
def test_awkward_networks_give_what_they_give(function: Callable[..., Any], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    net = Net.of(Parts(function).to(memory_format=layout))
    inputs = as_inputs(torch.ones(1, 3, 4, 4))
    masks, paths = Masks.dense(net.weights), replayed(net, inputs)
    for _ in range(8):
        found, expected = scores(paths, masks), one_by_one(net, inputs, masks)
        if not any(flow.any() for flow in expected.values()):  # the forward took to a part without weights
            assert not any(flow.any() for flow in found.values())
            break
        assert_proportional(found, expected, rtol=1e-4)
        masks = fewer(masks, expected, 0.6)
    assert (paths._state.replay is None) == (function in GUESSES)


def draws_from_torch(s: Any, x: Tensor) -> Tensor:
    h = s.e0(s.a(s.c(x).flatten(1)))
    return s.o(h + s.e1(h) if torch.rand(()).item() < 2 else h)


def draws_from_python(s: Any, x: Tensor) -> Tensor:
    h = s.e0(s.a(s.c(x).flatten(1)))
    return s.o(h + s.e1(h) if random.random() < 2 else h)


@pytest.mark.parametrize("function", [draws_from_torch, draws_from_python])
def test_the_network_runs_where_a_program_would_be_a_guess(function: Callable[..., Any], forwards: list[int]) -> None:
    torch.manual_seed(0)
    net = Net.of(Parts(function))
    paths = replayed(net, as_inputs(torch.ones(1, 3, 4, 4)))
    for _ in range(5):
        scores(paths, Masks.dense(net.weights))
    assert len(forwards) == 5


def test_a_forward_that_fails_while_it_is_noted_fails(forwards: list[int]) -> None:
    model = Parts(last_axis)
    net, inputs = Net.of(model), as_inputs(torch.ones(1, 3, 4, 4))
    masks, paths = Masks.dense(net.weights), replayed(net, inputs)
    expected = scores(paths, masks)
    handle = model.e0.register_forward_hook(lambda *_: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            scores(paths, masks)
    handle.remove()
    for _ in range(3):
        assert_proportional(scores(paths, masks), expected, rtol=1e-6)
    assert len(forwards) == 1 + 2 + 2


def test_a_program_that_fails_is_given_up(forwards: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net.of(network(residual))
    inputs, masks = as_inputs(torch.ones(1, 3, 8, 8).double()), Masks.dense(net.weights)
    paths = replayed(net, inputs)
    for _ in range(3):
        expected = scores(paths, masks)
    monkeypatch.setattr(rounds.Replay, "gradients", lambda *_: 1 / 0)
    for _ in range(3):
        assert_proportional(scores(paths, masks), expected)
    assert len(forwards) == 3 + 3
