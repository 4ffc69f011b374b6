"""A network unrolled into single units and edges, and every path of it walked one by one. Slow and obvious.

Each unit knows its incoming edges. An edge carries a fixed coefficient (1, or 1/n of an average) and at most one entry
of one weight; a weight that is used in several places (convolution) has several edges.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Units = npt.NDArray[np.int64]
Entry = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Path:
    """Where it starts (position among the inputs), the product of its coefficients, the weights along it."""

    start: int
    coefficient: float
    entries: tuple[Entry, ...]


@dataclass
class Unrolled:
    incoming: list[list[tuple[int, float, Entry | None]]] = field(default_factory=list)
    inputs: dict[int, int] = field(default_factory=dict)

    def _unit(self) -> int:
        self.incoming.append([])
        return len(self.incoming) - 1

    def _units(self, shape: tuple[int, ...]) -> Units:
        return np.array([self._unit() for _ in range(int(np.prod(shape)))]).reshape(shape)

    def input(self, *shape: int) -> Units:
        units = self._units(shape)
        for unit in units.flat:
            self.inputs[int(unit)] = len(self.inputs)
        return units

    def linear(self, x: Units, name: str, shape: tuple[int, int]) -> Units:
        out = self._units((shape[0],))
        for o, i in itertools.product(*map(range, shape)):
            self.incoming[out[o]].append((int(x[i]), 1.0, (name, (o, i))))
        return out

    def conv(
        self,
        x: Units,
        name: str,
        shape: tuple[int, int, int, int],
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> Units:
        height, width = (
            (size + 2 * padding - kernel) // stride + 1 for size, kernel in zip(x.shape[1:], shape[2:], strict=True)
        )
        out = self._units((shape[0], height, width))
        for o, i, r, c, row, column in itertools.product(*map(range, (*shape, height, width))):
            y, z = row * stride + r - padding, column * stride + c - padding
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                channel = i + o // (shape[0] // groups) * shape[1]
                self.incoming[out[o, row, column]].append((int(x[channel, y, z]), 1.0, (name, (o, i, r, c))))
        return out

    def scale(self, x: Units, name: str) -> Units:
        """An edge for each entry, with the weight of its channel."""
        out = self._units(x.shape)
        for position, unit in np.ndenumerate(out):
            self.incoming[unit] = [(int(x[position]), 1.0, (name, position[:1]))]
        return out

    def add(self, *terms: Units) -> Units:
        out = self._units(terms[0].shape)
        for position, unit in np.ndenumerate(out):
            self.incoming[unit] = [(int(term[position]), 1.0, None) for term in terms]
        return out

    def average(self, x: Units, kernel: int) -> Units:
        channels, height, width = x.shape
        out = self._units((channels, height // kernel, width // kernel))
        for (channel, row, column), unit in np.ndenumerate(out):
            window = x[channel, row * kernel : (row + 1) * kernel, column * kernel : (column + 1) * kernel]
            self.incoming[unit] = [(int(source), 1 / kernel**2, None) for source in window.flat]
        return out

    def paths(self, outputs: Units) -> Iterator[Path]:
        """Every path from an input to one of `outputs`."""
        stack: list[tuple[int, float, tuple[Entry, ...]]] = [(int(unit), 1.0, ()) for unit in outputs.flat]
        while stack:
            unit, coefficient, entries = stack.pop()
            if unit in self.inputs:
                yield Path(self.inputs[unit], coefficient, entries)
            for source, factor, entry in self.incoming[unit]:
                stack.append((source, coefficient * factor, entries if entry is None else (entry, *entries)))


Weights = Mapping[str, npt.NDArray[np.float64]]


def value(path: Path, weights: Weights) -> float:
    product = path.coefficient
    for name, position in path.entries:
        product *= float(weights[name][position])
    return product


def saliencies(
    paths: list[Path], weights: Weights, *, image: npt.NDArray[np.float64] | None = None
) -> tuple[float, dict[str, npt.NDArray[np.float64]]]:
    """R, the sum of all path values, and for each weight w dR/dw: the sum of the values of the paths through it."""
    total = 0.0
    through = {name: np.zeros_like(array) for name, array in weights.items()}
    for path in paths:
        size = value(path, weights) * (1.0 if image is None else float(image.flat[path.start]))
        total += size
        for name, position in path.entries:
            through[name][position] += size
    return total, through
