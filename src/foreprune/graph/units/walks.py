"""Random walks along the units of a network, thousands at a time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.graph.units.steps import Crossing, Floats, Junction, Preference, choose
from foreprune.graph.units.unit_graph import Ints, Layer, UnitGraph, weightless_skips

Visits = list[tuple[Ints, Ints]]  # numbers of walks and the prunable weights they visit, one entry per visit


class Walker:
    """Draws walks over the graph of a network's units.

    A walk is at a unit. Forward it takes one of the exits that lead through, all equally likely: a layer that reads the
    unit, an addition, or the end at an output. Through a layer it goes on to a unit with a probability proportional to
    the mass of the kernel between them, and visits one weight of that kernel in proportion to its preference. Backward
    it crosses the layer that made the unit by the same rule, or takes one of the branches of the addition, all equally
    likely. No walk enters a unit from which no path leads through.

    Args:
        net: the network; its weights give the preferences.
        graph: its units.
        preference: what the probabilities of weights and of kernels are proportional to.
        kernels: a visit to a weight counts for its whole kernel.
        skips: whether walks may pass from the input of a residual block straight to its sum.
        rng: decides everything.

    Raises:
        ValueError: a weight is NaN or infinite.
    """

    def __init__(
        self,
        net: Net,
        graph: UnitGraph,
        *,
        preference: Preference,
        kernels: bool,
        skips: bool = True,
        rng: np.random.Generator,
    ) -> None:
        self.net, self.graph, self.kernels, self.rng = net, graph, kernels, rng
        self.offsets: dict[str, int] = {}
        self.total = 0  # prunable weights
        for name, weight in net.weights.items():
            self.offsets[name] = self.total
            self.total += weight.numel()
        self.steps: list[Crossing | Junction] = [
            Crossing(node, self._values(node.weight), start=self.offsets.get(node.weight, -1), preference=preference)
            if isinstance(node, Layer)
            else Junction(node)
            for node in graph.nodes
        ]
        if not skips:
            for number, entries in weightless_skips(graph).items():
                step = self.steps[number]
                assert isinstance(step, Junction)
                step.without(entries)
        alive = self._close_dead_ends()
        self.inputs, self.outputs = (units[alive[units]] for units in (graph.inputs, graph.outputs))
        self._find_exits()

    def _values(self, name: str) -> NDArray[np.floating]:
        weight = self.graph.constants[name] if name in self.graph.constants else self.net.params[name]
        weight = weight.detach().flatten().cpu()
        values: NDArray[np.floating] = (
            weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
        ).numpy()
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name!r} holds NaN or infinite values, so walks have no probabilities; look at its values"
            )
        return values

    def _close_dead_ends(self) -> NDArray[np.bool_]:
        """Close the ways to units that no path from the inputs reaches, or from which none reaches the outputs."""
        count = self.graph.count + 1  # the last entry stands for "nothing there" and is never alive
        reached, leading = np.zeros(count, bool), np.zeros(count, bool)
        reached[self.graph.inputs] = leading[self.graph.outputs] = True
        for step in self.steps:
            reached[step.targets] |= step.reached(reached)
        for step in reversed(self.steps):
            leading[step.sources[step.leading(leading)]] = True
        alive = reached & leading
        for step in self.steps:
            step.close(alive)
        return alive

    def _find_exits(self) -> None:
        """Which steps lead on from each unit, and at which place it stands there; which step made it, likewise."""
        count = self.graph.count
        self.maker, self.made_at = np.full(count, -1), np.zeros(count, np.int64)
        found: list[tuple[Ints, Ints, int]] = [(self.outputs, np.zeros_like(self.outputs), len(self.steps))]
        for number, step in enumerate(self.steps):
            targets = step.targets.ravel()
            self.maker[targets], self.made_at[targets] = number, np.arange(targets.size)
            if isinstance(step, Crossing):
                places = np.flatnonzero(step.leading(np.ones(count, bool)))
                found.append((step.sources.ravel()[places], places, number))
            else:
                branch, places = np.nonzero(step.sources >= 0)
                found.append((step.sources[branch, places], places, number))
        units = np.concatenate([entry[0] for entry in found])
        order = np.argsort(units, kind="stable")
        self.exit_place = np.concatenate([entry[1] for entry in found])[order]
        self.exit_step = np.concatenate([np.full(len(entry[0]), entry[2]) for entry in found])[order]
        self.exits = np.bincount(units, minlength=count)
        self.first_exit = np.cumsum(self.exits) - self.exits

    def free(self, count: int, *, begin: int) -> tuple[Ints, Ints]:
        """`count` walks, numbered `begin`, `begin + 1`, ...: even ones from an input, odd ones from an output, each
        from the next in turn.

        Returns:
            Positions of the walks, from 0, and the prunable weights they visit, one entry per visit.
        """
        numbers = np.arange(begin, begin + count)
        visits: Visits = []
        for odd, starts, go in ((0, self.inputs, self._onward), (1, self.outputs, self._back)):
            mine = numbers[numbers % 2 == odd]
            if len(starts):
                visits += go(mine - begin, starts[(mine // 2) % len(starts)])
        return _joined(visits)

    def through(self, weights: Ints) -> tuple[Ints, Ints]:
        """One walk through each of these reachable weights: onward to an output, and back to an input."""
        walks = np.arange(len(weights))
        before, after = np.zeros_like(weights), np.zeros_like(weights)
        visits: Visits = []
        missing = np.ones(len(weights), bool)
        for step in self.steps:
            if isinstance(step, Junction) or step.start < 0:
                continue
            chosen = np.flatnonzero(missing & (weights >= step.start) & (weights < step.start + step.weights.size))
            if not len(chosen):
                continue
            pair = step.pair_of[weights[chosen] - step.start]
            chosen, pair = chosen[pair >= 0], pair[pair >= 0]  # a tied weight may be dead in one of its layers
            group, target, source = np.unravel_index(pair, step.mass.shape)
            before[chosen], after[chosen] = step.sources[group, source], step.targets[group, target]
            position = weights[chosen] - step.start
            visits.append(self._visited(step, walks[chosen], position, (group, source, target)))
            missing[chosen] = False
        return _joined([*visits, *self._onward(walks, after), *self._back(walks, before)])

    def _onward(self, walks: Ints, units: Ints) -> Visits:
        visits: Visits = []
        following, places = self._exit(units)
        for number, step in enumerate(self.steps):
            chosen = np.flatnonzero(following == number)
            if not len(chosen):
                continue
            if isinstance(step, Junction):
                units = step.targets[places[chosen]]
            else:
                pair = step.onward(places[chosen], self.rng)
                visits.append(self._cross(step, walks[chosen], pair))
                units = step.targets[pair[0], pair[2]]
            following[chosen], places[chosen] = self._exit(units)
        return visits

    def _exit(self, units: Ints) -> tuple[Ints, Ints]:
        """An exit that leads on from each unit: the step behind it, and the place there."""
        chosen = self.first_exit[units] + choose(self.exits[units], self.rng)
        return self.exit_step[chosen], self.exit_place[chosen]

    def _back(self, walks: Ints, units: Ints) -> Visits:
        visits: Visits = []
        maker, places = self.maker[units], self.made_at[units]
        for number in range(len(self.steps) - 1, -1, -1):
            chosen = np.flatnonzero(maker == number)
            if not len(chosen):
                continue
            step = self.steps[number]
            if isinstance(step, Junction):
                units = step.back(places[chosen], self.rng)
            else:
                pair = step.back(places[chosen], self.rng)
                visits.append(self._cross(step, walks[chosen], pair))
                units = step.sources[pair[0], pair[1]]
            maker[chosen], places[chosen] = self.maker[units], self.made_at[units]
        return visits

    def _cross(self, step: Crossing, walks: Ints, pair: tuple[Ints, Ints, Ints]) -> tuple[Ints, Ints]:
        """The weight by which walks pass between pairs (group, source, target) of units."""
        if step.start < 0:
            return walks[:0], walks[:0]
        return self._visited(step, walks, walks if self.kernels else step.weight(*pair, self.rng), pair)

    def _visited(
        self, step: Crossing, walks: Ints, positions: Ints, pair: tuple[Ints, Ints, Ints]
    ) -> tuple[Ints, Ints]:
        if not self.kernels:
            return walks, positions + step.start
        kernels, sizes = step.kernels(*pair)
        return np.broadcast_to(walks[:, None], kernels.shape)[sizes > 0], kernels[sizes > 0] + step.start

    def masks(self, kept: NDArray[np.bool_]) -> Masks:
        """Masks from one boolean for each prunable weight."""
        found = {}
        for name, weight in self.net.weights.items():
            flat = torch.from_numpy(kept[self.offsets[name] : self.offsets[name] + weight.numel()])
            found[name] = flat.view(weight.shape).to(weight.device)
        return Masks(found, blocks=self.net.blocks)

    def visit_probability(self) -> Floats:
        """For every prunable weight the expected number of visits by one walk from an input.

        The product of Markov matrices, p_l = Q_l ... Q_1 1/D. Unless a weight is tied, no walk visits it twice, so this
        is the probability of a visit.
        """
        expected = np.zeros(self.total)
        units = np.zeros(self.graph.count + 1)
        units[self.inputs] = 1 / max(1, len(self.inputs))
        exits = np.append(np.maximum(self.exits, 1), 1)
        for step in self.steps:
            leaving = units[step.sources] / exits[step.sources]
            if isinstance(step, Junction):
                np.add.at(
                    units, np.broadcast_to(step.targets, leaving.shape)[step.sources >= 0], leaving[step.sources >= 0]
                )
                continue
            total = step.mass.sum(axis=1)
            rate = np.where(total > 0, leaving / np.where(total > 0, total, 1), 0.0)[:, None, :]  # per unit of mass
            np.add.at(units, step.targets, (rate * step.mass).sum(axis=2))
            if step.start < 0:
                continue
            for positions, sizes in step.shares():
                share = rate * (step.mass * (sizes > 0) if self.kernels else sizes)
                np.add.at(expected, step.start + positions, share)
        return expected

    def reachable(self) -> NDArray[np.bool_]:
        """Which prunable weights lie on a path from an input to an output, all of whose weights are not zero."""
        found = np.zeros(self.total, bool)
        for step in self.steps:
            if isinstance(step, Crossing) and step.start >= 0:
                found[step.start : step.start + step.weights.size] |= step.pair_of >= 0
        return found


def _joined(visits: Visits) -> tuple[Ints, Ints]:
    walks, weights = zip((np.zeros(0, np.int64), np.zeros(0, np.int64)), *visits, strict=True)
    return np.concatenate(walks), np.concatenate(weights)
