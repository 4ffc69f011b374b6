"""Small networks, each written twice: as a module, and as the list of all its paths, walked edge by edge.

Slow and obvious: every entry of every activation is the list of the paths that lead to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foreprune.core.masks import Masks
from foreprune.core.net import Net

Entry = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Walk:
    """A path: where it starts and ends, its weights, the product of its constants, that of the scales of its
    normalizations."""

    start: int
    end: int
    entries: tuple[Entry, ...] = ()
    coefficient: float = 1.0
    scale: float = 1.0

    def value(self, weights: dict[str, Tensor]) -> float:
        """Product of the weights and scales, without the constants."""
        return self.scale * float(np.prod([float(weights[name][position]) for name, position in self.entries]))


Walks = np.ndarray  # of lists of Walk


def filled(shape: tuple[int, ...]) -> Walks:
    array = np.empty(shape, dtype=object)
    for position in np.ndindex(*shape):
        array[position] = []
    return array


def entries(*shape: int) -> Walks:
    array = filled(shape)
    for number, position in enumerate(np.ndindex(*shape)):
        array[position] = [Walk(number, 0)]
    return array


def linear(x: Walks, name: str, outputs: int) -> Walks:
    out = filled((outputs,))
    for o, i in itertools.product(range(outputs), range(x.size)):
        out[o] += [replace(walk, entries=(*walk.entries, (name, (o, i)))) for walk in x[i]]
    return out


def conv(x: Walks, name: str, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0) -> Walks:
    channels, height, width = x.shape
    out = filled((outputs, *((size + 2 * padding - kernel) // stride + 1 for size in (height, width))))
    for o, row, column in np.ndindex(*out.shape):
        for c, i, j in itertools.product(range(channels), range(kernel), range(kernel)):
            y, z = row * stride + i - padding, column * stride + j - padding
            if 0 <= y < height and 0 <= z < width:
                out[o, row, column] += [
                    replace(walk, entries=(*walk.entries, (name, (o, c, i, j)))) for walk in x[c, y, z]
                ]
    return out


def pool(x: Walks, kernel: int, *, stride: int, padding: int = 0, mean: bool) -> Walks:
    channels, height, width = x.shape
    out = filled((channels, *((size + 2 * padding - kernel) // stride + 1 for size in (height, width))))
    share = 1 / kernel**2 if mean else 1.0
    for c, row, column in np.ndindex(*out.shape):
        for i, j in itertools.product(range(kernel), range(kernel)):
            y, z = row * stride + i - padding, column * stride + j - padding
            if 0 <= y < height and 0 <= z < width:
                out[c, row, column] += [replace(walk, coefficient=walk.coefficient * share) for walk in x[c, y, z]]
    return out


def scale(x: Walks, factors: Sequence[float]) -> Walks:
    out = filled(x.shape)
    for position in np.ndindex(*x.shape):
        out[position] = [replace(walk, scale=walk.scale * factors[position[0]]) for walk in x[position]]
    return out


def add(x: Walks, y: Walks) -> Walks:
    out = filled(x.shape)
    for position in np.ndindex(*x.shape):
        out[position] = [*x[position], *y[position]]
    return out


@dataclass(frozen=True, eq=False)
class Case:
    model: nn.Module
    x: Tensor
    walks: tuple[Walk, ...]

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.model.named_parameters()}

    def kept(self, masks: Masks) -> list[Walk]:
        return [walk for walk in self.walks if all(bool(masks[name][at]) for name, at in walk.entries)]

    def masks(self, density: float, seed: int = 0) -> Masks:
        generator = torch.Generator().manual_seed(seed)
        weights = Net.of(self.model).weights
        return Masks({name: torch.rand(w.shape, generator=generator) < density for name, w in weights.items()})


class Residual(nn.Module):
    """An identity skip, then a projection of stride 2 beside a convolution of stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.block = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.down = nn.Conv2d(2, 2, 3, stride=2, padding=1, bias=False)
        self.project = nn.Conv2d(2, 2, 1, stride=2, bias=False)
        self.head = nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        out = self.block(x)
        out += x
        x = F.relu(out, inplace=True)
        return self.head(F.relu(self.down(x) + self.project(x)).flatten(1))

    @staticmethod
    def walk() -> Walks:
        x = conv(entries(1, 2, 2), "stem.weight", 2, 3, padding=1)
        x = add(conv(x, "block.weight", 2, 3, padding=1), x)
        x = add(conv(x, "down.weight", 2, 3, stride=2, padding=1), conv(x, "project.weight", 2, 1, stride=2))
        return linear(x.reshape(-1), "head.weight", 2)


class Concatenation(nn.Module):
    """Each layer sees the outputs of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 2, bias=False)
        self.second = nn.Conv2d(2, 1, 1, bias=False)
        self.third = nn.Conv2d(3, 2, 2, bias=False)
        self.head = nn.Linear(2, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = torch.cat([F.relu(self.second(x)), x], dim=1)
        return self.head(F.relu(self.third(x)).flatten(1))

    @staticmethod
    def walk() -> Walks:
        x = conv(entries(1, 3, 3), "first.weight", 2, 2)
        x = np.concatenate([conv(x, "second.weight", 1, 1), x])
        return linear(conv(x, "third.weight", 2, 2).reshape(-1), "head.weight", 3)


def mlp() -> tuple[nn.Module, tuple[int, ...], Walks]:
    layers = [nn.Linear(i, o, bias=False) for i, o in ((3, 4), (4, 4), (4, 2))]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    walks = linear(linear(linear(entries(3), "0.weight", 4), "2.weight", 4), "4.weight", 2)
    return model, (3,), walks


def strided() -> tuple[nn.Module, tuple[int, ...], Walks]:
    model = nn.Sequential(
        nn.Conv2d(2, 2, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(2, 3, 2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3, 2, bias=False),
    )
    x = conv(entries(2, 4, 4), "0.weight", 2, 3, stride=2, padding=1)
    return model, (2, 4, 4), linear(conv(x, "2.weight", 3, 2).reshape(-1), "5.weight", 2)


def residual() -> tuple[nn.Module, tuple[int, ...], Walks]:
    return Residual(), (1, 2, 2), Residual.walk()


def concatenation() -> tuple[nn.Module, tuple[int, ...], Walks]:
    return Concatenation(), (1, 3, 3), Concatenation.walk()


def average() -> tuple[nn.Module, tuple[int, ...], Walks]:
    """Overlapping averages with padding, then a global average."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2, bias=False),
        nn.ReLU(),
        nn.AvgPool2d(2, stride=1, padding=1),
        nn.Conv2d(2, 2, 3, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 2, bias=False),
    )
    x = pool(conv(entries(1, 4, 4), "0.weight", 2, 2), 2, stride=1, padding=1, mean=True)
    x = pool(conv(x, "3.weight", 2, 3), 2, stride=1, mean=True)
    return model, (1, 4, 4), linear(x.reshape(-1), "6.weight", 2)


def maximum() -> tuple[nn.Module, tuple[int, ...], Walks]:
    """Overlapping maxima: two entries reach the same window's neighbors by several routes."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=1),
        nn.Conv2d(2, 1, 2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1, 2, bias=False),
    )
    x = pool(conv(entries(1, 4, 4), "0.weight", 2, 2), 2, stride=1, mean=False)
    return model, (1, 4, 4), linear(conv(x, "3.weight", 1, 2).reshape(-1), "6.weight", 2)


class Normalized(nn.Module):
    """Batch normalization with statistics, on a skip too; layer and RMS normalization, and a layer scale that is zero
    everywhere and counts as one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 2, bias=False)
        self.first = nn.BatchNorm2d(2, eps=0.5)
        self.block = nn.Conv2d(2, 2, 1, bias=False)
        self.second = nn.BatchNorm2d(2, affine=False)
        self.skip = nn.BatchNorm2d(2)
        self.gain = nn.Parameter(torch.zeros(2, 1, 1))
        self.layer = nn.LayerNorm(8)
        self.rms = nn.RMSNorm(8)
        self.head = nn.Linear(8, 2, bias=False)
        with torch.no_grad():
            for norm, variances, scales in (
                (self.first, (3.5, 0.5), (2.0, -3.0)),
                (self.second, (4.0, 0.25), None),
                (self.skip, (1.0, 9.0), (0.0, 0.0)),
            ):
                norm.running_mean.fill_(5.0)
                norm.running_var.copy_(torch.tensor(variances))
                if scales is not None:
                    norm.weight.copy_(torch.tensor(scales))
            self.layer.weight.copy_(torch.linspace(-1, 2.5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.stem(x)))
        x = self.second(self.block(x)) * self.gain + self.skip(x)
        return self.head(self.rms(self.layer(x.flatten(1))))

    @staticmethod
    def walk() -> Walks:
        x = scale(conv(entries(1, 3, 3), "stem.weight", 2, 2), [2 / 4**0.5, 3 / 1**0.5])
        block = scale(conv(x, "block.weight", 2, 1), [1 / (4 + 1e-5) ** 0.5, 1 / (0.25 + 1e-5) ** 0.5])
        x = add(block, scale(x, [1 / (1 + 1e-5) ** 0.5, 1 / (9 + 1e-5) ** 0.5])).reshape(-1)
        return linear(scale(x, np.abs(np.linspace(-1, 2.5, 8))), "head.weight", 2)


def normalized() -> tuple[nn.Module, tuple[int, ...], Walks]:
    return Normalized(), (1, 3, 3), Normalized.walk()


_BUILD: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...], Walks]]] = {
    function.__name__: function for function in (mlp, strided, residual, concatenation, average, maximum)
}
NAMES = tuple(_BUILD)  # layers and gates only
_BUILD["normalized"] = normalized
_made: dict[str, Case] = {}


def case(name: str) -> Case:
    """A network with random weights, random inputs, and its paths. Do not change it."""
    if name not in _made:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model, shape, walks = _BUILD[name]()
            x = torch.randn(5, *shape).double()
        ends = tuple(replace(walk, end=end) for end, found in enumerate(walks.reshape(-1)) for walk in found)
        _made[name] = Case(model.double(), x, ends)
    return _made[name]


def densities() -> Iterator[tuple[float, int]]:
    """Densities and seeds of masks to test with."""
    yield from ((1.0, 0), (0.8, 1), (0.6, 2), (0.4, 3))
