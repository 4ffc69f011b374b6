"""Path scores against walking every path of small networks, dense and masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from oracles.unrolled import Path, Unrolled, saliencies
from torch import Tensor, nn
from torch.nn import functional as F

import foreprune
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import Inputs, task_for
from foreprune.graph import PathGraph

ROUNDS = 3  # the third may be a replay
pytestmark = pytest.mark.usefixtures("with_and_without_replay")


@dataclass(frozen=True)
class Case:
    model: nn.Module
    shape: tuple[int, ...]
    paths: list[Path]
    scales: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)  # weights of edges that nobody prunes


def deep_mlp() -> Case:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    graph = Unrolled()
    x = graph.input(3)
    for name, shape in (("0.weight", (4, 3)), ("2.weight", (4, 4)), ("4.weight", (2, 4))):
        x = graph.linear(x, name, shape)
    return Case(model, (3,), list(graph.paths(x)))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.b = nn.Conv2d(2, 2, 2)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2 * 2 * 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(F.relu(self.norm(self.b(F.relu(self.a(x))))).flatten(1))
        return output


def convolutions() -> Case:
    """Stride, padding, batch normalization with odd statistics, flatten."""
    model = Convolutions()
    with torch.no_grad():
        model.norm.running_mean.fill_(3.0)
        model.norm.running_var.copy_(torch.tensor([0.25, 7.0]))
        model.norm.weight.copy_(torch.tensor([-0.5, 2.0]))
        model.norm.bias.fill_(-9.0)
    scales = np.array([0.5 / np.sqrt(0.25 + 1e-5), 2.0 / np.sqrt(7.0 + 1e-5)])
    graph = Unrolled()
    x = graph.conv(graph.input(1, 5, 5), "a.weight", (2, 1, 3, 3), stride=2, padding=1)
    x = graph.scale(graph.conv(x, "b.weight", (2, 2, 2, 2)), "scale")
    paths = list(graph.paths(graph.linear(x.reshape(-1), "head.weight", (2, 8))))
    return Case(model, (1, 5, 5), paths, {"scale": scales})


class ResidualAdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.inner = nn.Conv2d(2, 2, 3, padding=1, groups=2)
        self.project = nn.Conv2d(2, 2, 1, stride=2)
        self.down = nn.Conv2d(2, 2, 3, stride=2, padding=1)
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        out = self.inner(x)
        out += x
        x = F.relu(out, inplace=True)
        out = self.down(x)
        out += self.project(x)
        output: Tensor = self.head(F.avg_pool2d(F.relu(out), 2).flatten(1))
        return output


def residual_add() -> Case:
    """Identity and projection shortcuts, grouped convolution, average pooling."""
    graph = Unrolled()
    x = graph.conv(graph.input(1, 4, 4), "stem.weight", (2, 1, 1, 1))
    x = graph.add(graph.conv(x, "inner.weight", (2, 1, 3, 3), padding=1, groups=2), x)
    left = graph.conv(x, "down.weight", (2, 2, 3, 3), stride=2, padding=1)
    right = graph.conv(x, "project.weight", (2, 2, 1, 1), stride=2)
    x = graph.average(graph.add(left, right), 2).reshape(-1)
    return Case(ResidualAdd(), (1, 4, 4), list(graph.paths(graph.linear(x, "head.weight", (2, 2)))))


class Concatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 2, 3, padding=1)
        self.b = nn.Conv2d(4, 2, 3, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.a(x))], dim=1)
        x = torch.cat([x, F.relu(self.b(x))], dim=1)
        output: Tensor = self.head(x.mean((2, 3)))
        return output


def concatenation() -> Case:
    """DenseNet's joins, global average."""
    graph = Unrolled()
    x = graph.input(2, 3, 3)
    x = np.concatenate([x, graph.conv(x, "a.weight", (2, 2, 3, 3), padding=1)])
    x = np.concatenate([x, graph.conv(x, "b.weight", (2, 4, 3, 3), padding=1)])
    x = graph.average(x, 3).reshape(-1)
    return Case(Concatenation(), (2, 3, 3), list(graph.paths(graph.linear(x, "head.weight", (2, 6)))))


CASES: tuple[Callable[[], Case], ...] = (deep_mlp, convolutions, residual_add, concatenation)


@pytest.fixture(params=CASES, ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        built: Case = request.param()
        return replace(built, model=built.model.double())


def masks_of(net: Net, *, density: float) -> Masks:
    generator = torch.Generator().manual_seed(1)
    return Masks({name: torch.rand(w.shape, generator=generator) < density for name, w in net.weights.items()})


def scores(
    case: Case, method: str, masks: Masks, *, mean_image: Tensor | None = None, **settings: Any
) -> dict[str, np.ndarray[Any, Any]]:
    net = Net.of(case.model)
    found = foreprune.get_method(method)
    inputs = torch.zeros(1, *case.shape, dtype=torch.float64)
    task = task_for(net, found.needs, asking=method, inputs=inputs, mean_image=mean_image)
    assert found.score is not None
    for _ in range(ROUNDS):
        latest = found.score(net, task, masks, **settings)
    return {name: score.numpy() for name, score in latest.items()}


def image_of(case: Case) -> Tensor:
    return torch.rand(case.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def weights_of(case: Case, masks: Masks) -> dict[str, np.ndarray[Any, Any]]:
    return {name: w.abs().numpy() for name, w in masks(Net.of(case.model).weights).items()} | case.scales


def assert_proportional(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Equal up to one common factor for all layers."""
    factor = sum(wanted[name].sum() for name in found) / sum(f.sum() for f in found.values())
    assert factor > 0
    for name in found:
        np.testing.assert_allclose(found[name] * factor, wanted[name], rtol=1e-10, atol=0, err_msg=name)


@pytest.mark.parametrize("density", [1.0, 0.6])
def test_synflow_is_the_sum_over_the_paths_through_a_weight(case: Case, density: float) -> None:
    masks = masks_of(Net.of(case.model), density=density)
    total, wanted = saliencies(case.paths, weights_of(case, masks))
    assert total > 0
    assert_proportional(scores(case, "synflow", masks), wanted)


@pytest.mark.parametrize("density", [1.0, 0.6])
def test_both_forms_of_synflow_l2(case: Case, density: float) -> None:
    masks = masks_of(Net.of(case.model), density=density)
    weights = weights_of(case, masks)
    _, squared = saliencies(case.paths, {name: w**2 for name, w in weights.items()})
    assert_proportional(scores(case, "synflow-l2", masks, form="theta2"), squared)
    plain = {name: np.divide(squared[name], w, out=np.zeros_like(w), where=w > 0) for name, w in weights.items()}
    assert_proportional(scores(case, "synflow-l2", masks, form="theta"), plain)


@pytest.mark.parametrize("density", [1.0, 0.6])
def test_distribution_forms_weigh_each_path_by_its_pixel(case: Case, density: float) -> None:
    masks = masks_of(Net.of(case.model), density=density)
    image, weights = image_of(case), weights_of(case, masks)
    _, wanted = saliencies(case.paths, weights, image=image.numpy())
    assert_proportional(scores(case, "synflow-dist", masks, mean_image=image), wanted)
    _, squared = saliencies(case.paths, {name: w**2 for name, w in weights.items()}, image=image.numpy())
    assert_proportional(scores(case, "synflow-l2-dist", masks, mean_image=image, form="theta2"), squared)


def test_the_mean_image_is_the_mean_over_all_samples_of_all_batches(case: Case) -> None:
    data = torch.rand(7, *case.shape, dtype=torch.float64)
    y = torch.zeros(7, dtype=torch.long)
    batches = [(data[:5], y[:5]), (data[5:], y[5:])]
    by_data = foreprune.score(case.model, "synflow-dist", data=batches)
    by_image = foreprune.score(case.model, "synflow-dist", inputs=data, mean_image=data.mean(0))
    for name in by_data:
        torch.testing.assert_close(by_data[name], by_image[name], rtol=1e-12, atol=0)


def test_the_path_sum_and_its_exponent_give_the_true_value(case: Case) -> None:
    net = Net.of(case.model)
    graph = PathGraph(net, Inputs((torch.zeros(1, *case.shape, dtype=torch.float64),)))
    total, _ = saliencies(case.paths, weights_of(case, Masks.dense(net.weights)))
    found = graph.sum(net.magnitudes)
    assert float(found.value) * 2.0**found.exponent == pytest.approx(total, rel=1e-12)
    assert 10**found.log10 == pytest.approx(total, rel=1e-9)
    ones = {name: torch.ones_like(weight) for name, weight in net.weights.items()}
    paths = graph.sum(ones)
    units = {name: np.ones(tuple(weight.shape)) for name, weight in net.weights.items()}
    counted, _ = saliencies(case.paths, units | case.scales)
    assert float(paths.value) * 2.0**paths.exponent == pytest.approx(counted, rel=1e-12)
