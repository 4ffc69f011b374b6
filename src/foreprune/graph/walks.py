"""Random walks along the units of a network, thousands at a time.

All walks of a batch go through a layer together: the next unit comes from one binary search in the running sum of the
layer's kernel masses, the weight inside the kernel from another in the few sums of that kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.graph.units import Layer, UnitGraph

Bias = Literal["weights", "uniform", "inverse"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(eq=False)
class _Step:
    """A layer ready to be walked through. `mass[g, i, o]` is the sum of the biased weights between two units, zero
    where no walk may pass; the sums run along targets (forward) and along sources (backward)."""

    start: int  # of the layer's parameter among all prunable weights; -1 if it is not prunable
    sources: Ints  # (G, I)
    targets: Ints  # (G, O)
    rows: Ints  # (G, O)
    columns: Ints  # (G, I, K)
    biased: Floats  # the parameter, flattened, as positive numbers
    mass: Floats  # (G, I, O)

    @cached_property
    def forward(self) -> Floats:
        return np.cumsum(self.mass.ravel())

    @cached_property
    def backward(self) -> Floats:
        return np.cumsum(self.mass.transpose(0, 2, 1).ravel())

    def kernel(self, group: Ints, source: Ints, target: Ints) -> Ints:
        """Positions in the parameter of the kernels between pairs of units, (n, K), -1 for padding."""
        columns = self.columns[group, source]
        return np.where(columns >= 0, self.rows[group, target][:, None] + columns, -1)

    @cached_property
    def edge_of(self) -> Ints:
        """Position in the parameter -> flat index in `mass` of the pair of units it joins; -1 for none."""
        found = np.full(self.biased.size, -1, np.int64)
        pairs = np.arange(self.mass.size).reshape(self.mass.shape)
        for k in range(self.columns.shape[2]):
            columns = self.columns[:, :, None, k]
            real = np.broadcast_to(columns >= 0, self.mass.shape)
            found[(self.rows[:, None, :] + columns)[real]] = pairs[real]
        return found


@dataclass(eq=False)
class _Branch:
    """An addition ready to be walked through: source units by branch (-1: closed), and the units they add up to."""

    sources: Ints  # (B, U)
    targets: Ints  # (U,)


class Walker:
    """Draws walks over the graph of a network's units.

    Args:
        net: the network; its weights give the probabilities.
        graph: its units.
        bias: what the probability of a weight is proportional to: |w|, 1 where w is not zero, or 1/|w|.
        kernels: a visit to a weight counts for its whole kernel.
        rng: decides everything.
    """

    def __init__(self, net: Net, graph: UnitGraph, *, bias: Bias, kernels: bool, rng: np.random.Generator) -> None:
        self.net, self.graph, self.kernels, self.rng = net, graph, kernels, rng
        self.offsets: dict[str, int] = {}
        self.total = 0
        for name, weight in net.weights.items():
            self.offsets[name] = self.total
            self.total += weight.numel()
        self.steps: list[_Step | _Branch] = [
            self._step(node, bias)
            if isinstance(node, Layer)
            else _Branch(node.sources.numpy().copy(), node.targets.numpy())
            for node in graph.nodes
        ]
        self._close_dead_ends()
        self._index()
        self.connected = all(len(units) for units in self.starts.values())

    def _step(self, layer: Layer, bias: Bias) -> _Step:
        weight = self.net.params[layer.weight].flatten().cpu()
        positive = weight.abs().float() if weight.dtype != torch.float64 else weight.abs()
        if bias == "uniform":
            positive = (positive > 0).to(positive.dtype)
        elif bias == "inverse":
            positive = torch.where(positive > 0, 1 / positive, 0.0)
        rows, columns = layer.rows, layer.columns
        groups, outside, inside, width = *rows.shape, *columns.shape[1:]
        size = groups * outside * inside * width
        if size == weight.numel() and _in_order(rows, columns):
            mass = positive.view(groups, outside, inside, width).sum(-1, dtype=torch.float64)
        else:
            mass = torch.zeros(groups, outside, inside, dtype=torch.float64, device="cpu")
            for k in range(width):
                at = rows[:, :, None] + columns[:, None, :, k]
                mass += torch.where(columns[:, None, :, k] >= 0, positive[at.clamp(min=0)], 0.0)
        return _Step(
            self.offsets.get(layer.weight, -1),
            layer.sources.numpy(),
            layer.targets.numpy(),
            rows.numpy(),
            columns.numpy(),
            positive.numpy(),
            np.ascontiguousarray(mass.numpy().transpose(0, 2, 1)),
        )

    def _close_dead_ends(self) -> None:
        """No walk may enter a unit that no path from the inputs reaches, or from which none reaches the outputs."""
        count = self.graph.count + 1  # the last entry stands for "nothing there" and is never alive
        reached, leading = np.zeros(count, bool), np.zeros(count, bool)
        reached[self.graph.inputs.numpy()] = True
        leading[self.graph.outputs.numpy()] = True
        for step in self.steps:
            if isinstance(step, _Step):
                open_ = (step.mass > 0) & reached[step.sources][:, :, None]
                reached[step.targets] |= open_.any(1)
            else:
                reached[step.targets] |= reached[step.sources].any(0)
        for step in reversed(self.steps):
            if isinstance(step, _Step):
                open_ = (step.mass > 0) & leading[step.targets][:, None, :]
                np.logical_or.at(leading, step.sources, open_.any(2))
            else:
                for branch in step.sources:
                    np.logical_or.at(leading, branch, leading[step.targets])
                leading[-1] = False
        alive = reached & leading
        alive[-1] = False
        for step in self.steps:
            if isinstance(step, _Step):
                step.mass *= alive[step.sources][:, :, None] & alive[step.targets][:, None, :]
            else:
                step.sources = np.where(alive[step.sources] & alive[step.targets], step.sources, -1)
        self.alive = alive[:-1]
        self.starts = {
            "forward": self.graph.inputs.numpy()[self.alive[self.graph.inputs.numpy()]],
            "backward": self.graph.outputs.numpy()[self.alive[self.graph.outputs.numpy()]],
        }

    def _index(self) -> None:
        """Where each unit is made, through which doors it is read, and at which place behind the door."""
        count = self.graph.count
        self.is_output = np.zeros(count, bool)
        self.is_output[self.graph.outputs.numpy()] = True
        self.maker = np.full(count, -1, np.int64)
        self.place_out = np.zeros(count, np.int64)  # unit -> index among its maker's targets, flattened
        depth = np.zeros(count, np.int64)
        self.doors: list[int] = []  # step behind each door: one for a layer, one for each branch of an addition
        self.places: list[Ints] = []  # by door: unit -> index among the layer's sources, or the unit it is added into
        readers: list[NDArray[np.bool_]] = []
        for number, step in enumerate(self.steps):
            self.maker[step.targets.ravel()] = number
            self.place_out[step.targets.ravel()] = np.arange(step.targets.size)
            if isinstance(step, _Step):
                ways = [(step.sources.ravel(), np.arange(step.sources.size), (step.mass > 0).any(2).ravel())]
                depth[step.targets.ravel()] = depth[step.sources].max(initial=0) + 1
            else:
                ways = [(branch, step.targets, branch >= 0) for branch in step.sources]
                depth[step.targets] = depth[step.sources].max(0, initial=0)
            for units, place, open_ in ways:
                self.doors.append(number)
                self.places.append(np.zeros(count, np.int64))
                self.places[-1][units[open_]] = place[open_]
                readers.append(np.zeros(count, bool))
                readers[-1][units[open_]] = True
        self.length = max(1, int(depth[self.graph.outputs.numpy()].max(initial=1)))
        self.readers = np.array(readers).reshape(len(readers), count) & ~self.is_output
        self.branches = self.readers.sum(0)
        self.only = self.readers.argmax(0)

    def free(self, count: int, *, begin: int) -> tuple[Ints, Ints]:
        """`count` walks, numbered `begin`, `begin + 1`, ...: even ones from an input, odd ones from an output.

        Returns:
            Numbers of the walks, from 0, and the prunable weights they visit, one entry per visit.
        """
        numbers = np.arange(begin, begin + count)
        here: list[tuple[Ints, Ints]] = []
        for odd, direction, go in ((0, "forward", self._forward), (1, "backward", self._backward)):
            mine = numbers[numbers % 2 == odd]
            starts = self.starts[direction]
            here += go(mine - begin, starts[(mine // 2) % len(starts)])
        return _joined(here)

    def through(self, weights: Ints) -> tuple[Ints, Ints]:
        """One walk through each of these reachable weights: onward to an output, and back to an input."""
        numbers = np.arange(len(weights))
        before, after = np.zeros_like(weights), np.zeros_like(weights)
        here: list[tuple[Ints, Ints]] = []
        missing = np.ones(len(weights), bool)
        for step in self.steps:
            if isinstance(step, _Branch) or step.start < 0 or not missing.any():
                continue
            chosen = np.flatnonzero(missing & (weights >= step.start) & (weights < step.start + step.biased.size))
            position = weights[chosen] - step.start
            code = step.edge_of[position]
            usable = (code >= 0) & (step.mass.ravel()[code] > 0)  # a tied weight may be dead in one of its layers
            chosen, position, code = chosen[usable], position[usable], code[usable]
            group, source, target = np.unravel_index(code, step.mass.shape)
            before[chosen], after[chosen] = step.sources[group, source], step.targets[group, target]
            kernel = step.kernel(group, source, target) if self.kernels else position[:, None]
            here.append(self._visit(step, numbers[chosen], kernel))
            missing[chosen] = False
        here += self._forward(numbers, after)
        here += self._backward(numbers, before)
        return _joined(here)

    def _forward(self, walks: Ints, units: Ints) -> list[tuple[Ints, Ints]]:
        here = []
        units = units.copy()
        following = self._next_door(units)
        for door, (number, places) in enumerate(zip(self.doors, self.places, strict=True)):
            chosen = np.flatnonzero(following == door)
            if not len(chosen):
                continue
            step, place = self.steps[number], places[units[chosen]]
            if isinstance(step, _Branch):
                units[chosen] = place
            else:
                width = step.mass.shape[2]
                target = _draw(step.forward, place * width, width, self.rng) - place * width
                group, source = np.divmod(place, step.mass.shape[1])
                here.append(self._cross(step, walks[chosen], group, source, target))
                units[chosen] = step.targets[group, target]
            following[chosen] = self._next_door(units[chosen])
        return here

    def _backward(self, walks: Ints, units: Ints) -> list[tuple[Ints, Ints]]:
        here = []
        units = units.copy()
        for number in range(len(self.steps) - 1, -1, -1):
            step = self.steps[number]
            chosen = np.flatnonzero(self.maker[units] == number)
            if not len(chosen):
                continue
            place = self.place_out[units[chosen]]
            if isinstance(step, _Branch):
                branches = step.sources[:, place]
                branch = _pick(branches >= 0, self.rng)
                units[chosen] = branches[branch, np.arange(len(chosen))]
            else:
                width = step.mass.shape[1]
                source = _draw(step.backward, place * width, width, self.rng) - place * width
                outside = step.mass.shape[2]
                group, target = place // outside, place % outside
                here.append(self._cross(step, walks[chosen], group, source, target))
                units[chosen] = step.sources[group, source]
        return here

    def _next_door(self, units: Ints) -> Ints:
        """A door that leads on from each unit, each as likely as its others; -1 at an output."""
        following = np.where(self.branches[units] > 0, self.only[units], -1)
        several = np.flatnonzero(self.branches[units] > 1)
        following[several] = _pick(self.readers[:, units[several]], self.rng)
        return following

    def _cross(self, step: _Step, walks: Ints, group: Ints, source: Ints, target: Ints) -> tuple[Ints, Ints]:
        """The weight (or kernel) by which walks pass from `source` to `target`."""
        kernel = step.kernel(group, source, target)
        if self.kernels or kernel.shape[1] == 1:
            return self._visit(step, walks, kernel)
        sums = np.cumsum(np.where(kernel >= 0, step.biased[kernel], 0.0), axis=1, dtype=np.float64)
        level = self.rng.random(len(walks)) * sums[:, -1]
        k = np.minimum((sums <= level[:, None]).sum(1), (sums < sums[:, -1:]).sum(1))
        return self._visit(step, walks, kernel[np.arange(len(walks)), k][:, None])

    def _visit(self, step: _Step, walks: Ints, positions: Ints) -> tuple[Ints, Ints]:
        if step.start < 0:
            return walks[:0], walks[:0]
        real = (positions >= 0) & (step.biased[positions] > 0)
        return np.broadcast_to(walks[:, None], positions.shape)[real], positions[real] + step.start

    def masks(self, kept: NDArray[np.bool_]) -> Masks:
        """Masks from one boolean for each prunable weight."""
        found = {}
        for name, weight in self.net.weights.items():
            start = self.offsets[name]
            flat = torch.from_numpy(kept[start : start + weight.numel()])
            found[name] = flat.view(weight.shape).to(weight.device)
        return Masks(found)

    def visit_probability(self) -> Floats:
        """For every prunable weight the exact probability that one walk from an input visits it.

        The product of Markov matrices: p_l = Q_l ... Q_1 1/D, with the branches of each unit equally likely.
        """
        probability = np.zeros(self.total)
        units = np.zeros(self.graph.count)
        starts = self.starts["forward"]
        if len(starts):
            units[starts] = 1 / len(starts)
        for door, (number, places) in enumerate(zip(self.doors, self.places, strict=True)):
            step, readers = self.steps[number], np.flatnonzero(self.readers[door])
            leaving = np.zeros(self.graph.count)
            leaving[readers] = units[readers] / self.branches[readers]
            if isinstance(step, _Branch):
                np.add.at(units, places[readers], leaving[readers])
                continue
            totals = step.mass.sum(2, keepdims=True)
            # probability per unit of biased weight, (G, I, O)
            rate = np.where(step.mass > 0, leaving[step.sources][:, :, None] / np.where(totals > 0, totals, 1), 0.0)
            np.add.at(units, step.targets, (rate * step.mass).sum(1))
            if step.start < 0:
                continue
            for k in range(step.columns.shape[2]):
                columns = step.columns[:, :, k]
                positions = (step.rows[:, None, :] + columns[:, :, None])[columns >= 0].ravel()
                share = rate[columns >= 0].ravel() * step.biased[positions]
                probability[step.start + positions] += share  # a position occurs once per layer
        return probability


def _in_order(rows: torch.Tensor, columns: torch.Tensor) -> bool:
    """Whether the positions of a layer count up through (group, target, source, k), so that a view will do."""
    inside = columns.shape[1] * columns.shape[2]
    entries = torch.arange(inside, device="cpu").view(1, *columns.shape[1:])
    return torch.equal(columns, entries.expand_as(columns)) and torch.equal(
        rows.flatten(), torch.arange(rows.numel(), device="cpu") * inside
    )


def _draw(sums: Floats, starts: Ints, width: int, rng: np.random.Generator) -> Ints:
    """Indices in rows `starts ... starts + width` of a running sum, likely in proportion to its increments."""
    high = sums[starts + width - 1]
    low = np.where(starts > 0, sums[starts - 1], 0.0)
    level = np.minimum(low + rng.random(len(starts)) * (high - low), np.nextafter(high, -np.inf))
    return np.searchsorted(sums, level, side="right")


def _pick(options: NDArray[np.bool_], rng: np.random.Generator) -> Ints:
    """In each column one of the true rows, all equally likely."""
    ranks = np.cumsum(options, axis=0)
    wanted = np.floor(rng.random(options.shape[1]) * ranks[-1]) + 1
    picked: Ints = (ranks >= wanted).argmax(0)
    return picked


def _joined(here: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    nothing: list[Any] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    walks, weights = zip(*(here or nothing), strict=True)
    return np.concatenate(walks), np.concatenate(weights)
