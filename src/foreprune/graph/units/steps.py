"""What a walk can do at one node of a unit graph: cross a layer, or come back through an addition.

All walks of a batch cross a layer together: the next unit comes from one binary search in the running sums of the
layer's kernel masses, the weight inside the kernel from the few sums of that kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from foreprune.graph.units.unit_graph import Ints, Join, Layer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Preference:
    """What the probabilities of a walk are proportional to.

    Attributes:
        weight: weights -> the preference of each within its kernel; 0 where no walk may pass.
        kernel: L1 norms of kernels -> the preference of each kernel. Without, the sum of those of its weights.
    """

    weight: Callable[[NDArray[np.floating]], Floats]
    kernel: Callable[[Floats], Floats] | None = None


class Crossing:
    """A layer ready to be walked through.

    Attributes:
        start: where its parameter begins among all prunable weights; -1 if it is not prunable.
        mass: (G, O, I) preferences of the kernels between two units; 0 where no walk may pass.
        in_order: positions count up through (group, target, source, place), as in a convolution.
    """

    def __init__(self, layer: Layer, weights: NDArray[np.floating], *, start: int, preference: Preference) -> None:
        self.layer, self.weights, self.start, self.preference = layer, weights, start, preference
        self.sources, self.targets = layer.sources, layer.targets
        groups, inside, width = layer.columns.shape
        shape = (groups, layer.rows.shape[1], inside)
        self.in_order = np.prod(shape) * width == weights.size and _in_order(layer)
        size = preference.weight if preference.kernel is None else _absolute
        if self.in_order:
            entries = weights.reshape(*shape, width)
            self.mass = size(entries[..., 0])
            for k in range(1, width):
                self.mass += size(entries[..., k])
        else:
            self.mass = np.zeros(shape)
            for positions, inside_kernel in self._places():
                self.mass += size(weights[positions]) * inside_kernel
        if preference.kernel is not None:
            self.mass = preference.kernel(self.mass)

    def _places(self) -> Iterator[tuple[Ints, NDArray[np.bool_]]]:
        """For each place of the kernel, (G, O, I) positions in the parameter, and which of them are no padding."""
        for k in range(self.layer.columns.shape[2]):
            columns = self.layer.columns[:, None, :, k]
            yield self.layer.rows[:, :, None] + np.maximum(columns, 0), columns >= 0

    def entries(self) -> Iterator[tuple[Ints, Floats]]:
        """For each place of the kernel, (G, O, I) positions in the parameter and preferences, 0 for padding."""
        for positions, inside_kernel in self._places():
            yield positions, self.preference.weight(self.weights[positions]) * inside_kernel

    def shares(self) -> Iterator[tuple[Ints, Floats]]:
        """As `entries`, with the part of the kernel's mass that is its weight's; 0 where no walk may pass."""
        total: Floats | float = 1.0
        if self.preference.kernel is not None:
            sums = sum(sizes for _, sizes in self.entries())
            total = np.divide(self.mass, sums, out=np.zeros_like(self.mass), where=sums > 0)
        for positions, sizes in self.entries():
            yield positions, sizes * total * (self.mass > 0)

    def close(self, alive: NDArray[np.bool_]) -> None:
        """Let no walk pass that leads from or to a dead unit."""
        ends = alive[self.targets][:, :, None], alive[self.sources][:, None, :]
        if not all(end.all() for end in ends):
            self.mass *= ends[0] & ends[1]

    def reached(self, units: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which targets (G, O) a walk can reach from the given units."""
        found: Floats = self.mass @ units[self.sources][:, :, None].astype(np.float64)
        return found[:, :, 0] > 0

    def leading(self, units: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which sources (G, I) lead to the given units."""
        found: Floats = units[self.targets][:, None, :].astype(np.float64) @ self.mass
        return found[:, 0, :] > 0

    @cached_property
    def _onward(self) -> Floats:
        return _running(np.ascontiguousarray(self.mass.transpose(0, 2, 1)))

    @cached_property
    def _back(self) -> Floats:
        return _running(self.mass)

    def onward(self, places: Ints, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """From sources at `places` (in flattened `sources`) draw where to: group, source, target."""
        target = _draw(self._onward, places, self.mass.shape[1], rng)
        group, source = np.divmod(places, self.mass.shape[2])
        return group, source, target

    def back(self, places: Ints, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """From targets at `places` draw where from: group, source, target."""
        source = _draw(self._back, places, self.mass.shape[2], rng)
        group, target = np.divmod(places, self.mass.shape[1])
        return group, source, target

    def kernels(self, group: Ints, source: Ints, target: Ints) -> tuple[Ints, Floats]:
        """The kernels between pairs of units, (n, K): positions in the parameter and preferences, 0 for padding."""
        columns = self.layer.columns[group, source]
        positions = self.layer.rows[group, target][:, None] + np.maximum(columns, 0)
        return positions, np.where(columns >= 0, self.preference.weight(self.weights[positions]), 0.0)

    def weight(self, group: Ints, source: Ints, target: Ints, rng: np.random.Generator) -> Ints:
        """One position in the parameter for each kernel, drawn by preference."""
        width = self.layer.columns.shape[2]
        if width == 1:
            only: Ints = self.layer.rows[group, target] + self.layer.columns[group, source, 0]
            return only
        if self.in_order:  # one row of the parameter for each kernel
            row = (group * self.mass.shape[1] + target) * self.mass.shape[2] + source
            sizes = self.preference.weight(self.weights.reshape(-1, width).take(row, axis=0))
        else:
            positions, sizes = self.kernels(group, source, target)
        sums = np.cumsum(sizes, axis=1)
        level = np.minimum(rng.random(len(sums)) * sums[:, -1], np.nextafter(sums[:, -1], 0))
        place = (sums <= level[:, None]).sum(axis=1)
        drawn: Ints = row * width + place if self.in_order else positions[np.arange(len(place)), place]
        return drawn

    @cached_property
    def pair_of(self) -> Ints:
        """Position in the parameter -> flat index in `mass` of a pair of units that it joins, -1 if walks pass none."""
        found = np.full(self.weights.size, -1, np.int64)
        pairs = np.arange(self.mass.size).reshape(self.mass.shape)
        for positions, sizes in self.entries():
            open_ = (sizes > 0) & (self.mass > 0)
            found[positions[open_]] = pairs[open_]
        return found


class Junction:
    """An addition ready to be walked through: its branches (B, U), -1 where closed, and the units they add up to."""

    def __init__(self, join: Join) -> None:
        self.sources, self.targets = join.sources, join.targets

    def without(self, entries: NDArray[np.bool_]) -> None:
        """Let no walk come from these entries (B, U) of the sources."""
        self.sources = np.where(entries, -1, self.sources)

    def close(self, alive: NDArray[np.bool_]) -> None:
        """Let no walk pass that leads from or to a dead unit."""
        self.sources = np.where(alive[self.sources] & alive[self.targets], self.sources, -1)

    def reached(self, units: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which targets (U,) a walk can reach from the given units."""
        found: NDArray[np.bool_] = np.logical_or.reduce(units[self.sources], axis=0)
        return found

    def leading(self, units: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which sources (B, U) lead to the given units."""
        return units[self.targets] & (self.sources >= 0)

    @cached_property
    def _open(self) -> tuple[Ints, Ints, Ints]:
        """Open branches one target after another; where each target's begin, and how many there are."""
        open_ = self.sources.T >= 0
        counts = open_.sum(axis=1)
        return self.sources.T[open_], np.cumsum(counts) - counts, counts

    def back(self, places: Ints, rng: np.random.Generator) -> Ints:
        """From targets at `places` the units of one branch each, all equally likely."""
        sources, begin, counts = self._open
        drawn: Ints = sources[begin[places] + choose(counts[places], rng)]
        return drawn


def _absolute(weights: NDArray[np.floating]) -> Floats:
    size: Floats = np.abs(weights, dtype=np.float64)
    return size


def choose(counts: Ints, rng: np.random.Generator) -> Ints:
    """A number below each count, all equally likely. Counts of one use up no randomness."""
    chosen = np.zeros(len(counts), np.int64)
    several = np.flatnonzero(counts > 1)
    chosen[several] = rng.integers(counts[several])
    return chosen


def _in_order(layer: Layer) -> bool:
    """Whether positions count up through (group, target, source, k), so that a view of the parameter will do."""
    inside = layer.columns[0].size
    entries = np.arange(inside).reshape(layer.columns.shape[1:])
    return bool((layer.columns == entries).all() and (layer.rows.ravel() == np.arange(layer.rows.size) * inside).all())


def _running(mass: Floats) -> Floats:
    """Running sums along the last axis, one row after another: row r climbs from r to r + 1."""
    rows = mass.reshape(-1, mass.shape[-1])
    sums = np.cumsum(rows, axis=1)
    total = sums[:, -1:].copy()
    sums /= np.where(total > 0, total, 1.0)
    sums += np.arange(len(sums))[:, None]
    return sums.ravel()


def _draw(sums: Floats, rows: Ints, width: int, rng: np.random.Generator) -> Ints:
    """An entry in each of these rows, likely in proportion to its mass; never one of no mass."""
    level = np.minimum(rows + rng.random(len(rows)), np.nextafter(rows + 1.0, 0))
    order = np.argsort(level)  # so that the search goes through memory once
    drawn = np.empty(len(rows), np.int64)
    drawn[order] = np.searchsorted(sums, level[order], side="right")
    return drawn - rows * width
