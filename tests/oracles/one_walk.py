"""Walks one at a time, by the rules of `foreprune.graph.Walker`, and their exact probabilities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from oracles.unit_paths import edges, offsets, reach

from foreprune.core.net import Net
from foreprune.graph import Join, Layer, UnitGraph

Kernel = list[tuple[int, float]]  # weights (-1: not prunable) with what their probability is proportional to
PREFERENCE: dict[str, Callable[[float], float]] = {
    "weights": lambda weight: abs(weight),
    "uniform": lambda weight: float(weight != 0),
    "inverse": lambda weight: 1 / abs(weight) if weight else 0.0,
    "inverse-weight": lambda weight: 1 / abs(weight) if weight else 0.0,
}


@dataclass
class Exit:
    """A way on from a unit: to other units through kernels (a layer), or to one unit through nothing (an addition)."""

    kernels: dict[int, Kernel] = field(default_factory=lambda: defaultdict(list))
    norms: dict[int, float] = field(default_factory=lambda: defaultdict(float))  # sum |w| of each kernel
    joins: int | None = None
    inverted: bool = False  # kernels count by 1 / sum |w|

    def mass(self, unit: int) -> float:
        if self.inverted:
            return 1 / self.norms[unit]
        return sum(size for _, size in self.kernels[unit])

    def share(self, unit: int, size: float) -> float:
        """What a weight has of its kernel's mass."""
        return self.mass(unit) * size / sum(size for _, size in self.kernels[unit])


class Oracle:
    """All exits of all units, onward and back, without those that lead nowhere."""

    def __init__(self, net: Net, graph: UnitGraph, bias: str = "weights", *, skips: bool = True) -> None:
        self.graph, self.total = graph, net.total
        closed = set() if skips else self.identities(net, graph)
        closure = reach(graph, [e for e in edges(net, graph, value=True) if (e.source, e.target) not in closed])
        alive = closure[graph.inputs].any(0) & closure[:, graph.outputs].any(1)
        self.inputs = [int(unit) for unit in graph.inputs if alive[unit]]
        self.outputs = [int(unit) for unit in graph.outputs if alive[unit]]
        self.onward: dict[int, list[Exit]] = defaultdict(list)
        self.back: dict[int, list[Exit]] = defaultdict(list)
        prefer, start = PREFERENCE[bias], offsets(net)
        for node in graph.nodes:
            if not isinstance(node, Layer):
                for branch in node.sources:
                    for source, target in zip(branch.tolist(), node.targets.tolist(), strict=True):
                        if source >= 0 and alive[source] and alive[target] and (source, target) not in closed:
                            self.onward[source].append(Exit(joins=target))
                            self.back[target].append(Exit(joins=source))
                continue
            values = graph.constants[node.weight] if node.weight in graph.constants else net.params[node.weight]
            flat = [prefer(float(value)) for value in values.flatten()]
            ahead: dict[int, Exit] = defaultdict(lambda: Exit(inverted=bias == "inverse"))
            behind: dict[int, Exit] = defaultdict(lambda: Exit(inverted=bias == "inverse"))
            size = [abs(float(value)) for value in values.flatten()]
            for g, sources in enumerate(node.sources.tolist()):
                for i, source in enumerate(sources):
                    for o, target in enumerate(node.targets[g].tolist()):
                        if source < 0 or not (alive[source] and alive[target]):
                            continue
                        for column in node.columns[g, i].tolist():
                            position = int(node.rows[g, o]) + column
                            if column < 0 or not flat[position]:
                                continue
                            weight = start[node.weight] + position if node.weight in start else -1
                            ahead[source].kernels[target].append((weight, flat[position]))
                            behind[target].kernels[source].append((weight, flat[position]))
                            ahead[source].norms[target] += size[position]
                            behind[target].norms[source] += size[position]
            for unit, exit_ in ahead.items():
                self.onward[unit].append(exit_)
            for unit, exit_ in behind.items():
                self.back[unit].append(exit_)
        for unit in self.outputs:
            self.onward[unit].append(Exit())

    @staticmethod
    def identities(net: Net, graph: UnitGraph) -> set[tuple[int, int]]:
        """Units and the sums they enter, where another unit of the sum comes from them too."""
        closure = reach(graph, edges(net, graph))
        found = set()
        for node in graph.nodes:
            for target, entries in zip(node.targets, node.sources.T, strict=True) if isinstance(node, Join) else ():
                sources = [int(source) for source in entries if source >= 0]
                found |= {
                    (one, int(target)) for one in sources for other in sources if one != other and closure[one, other]
                }
        return found

    def walk(self, unit: int, exits: dict[int, list[Exit]], rng: np.random.Generator) -> list[int]:
        """The prunable weights that one walk visits."""
        visited = []
        while exits[unit]:
            exit_ = exits[unit][rng.integers(len(exits[unit]))]
            if exit_.joins is not None:
                unit = exit_.joins
                continue
            if not exit_.kernels:
                break
            units = list(exit_.kernels)
            masses = np.array([exit_.mass(other) for other in units])
            unit = units[rng.choice(len(units), p=masses / masses.sum())]
            sizes = np.array([size for _, size in exit_.kernels[unit]])
            weight = exit_.kernels[unit][rng.choice(len(sizes), p=sizes / sizes.sum())][0]
            visited += [weight] if weight >= 0 else []
        return visited

    def expected(self, starts: list[int], exits: dict[int, list[Exit]], *, kernels: bool) -> NDArray[np.float64]:
        """Expected visits to each prunable weight by one walk that starts at each of `starts` equally often."""
        found = np.zeros(self.total)
        pending = dict.fromkeys(starts, 1 / max(1, len(starts)))
        order = sorted(range(self.graph.count), reverse=exits is self.back)  # every edge leads to a later unit
        for unit in order:
            share = pending.pop(unit, 0.0) / max(1, len(exits[unit]))
            for exit_ in exits[unit]:
                if exit_.joins is not None:
                    pending[exit_.joins] = pending.get(exit_.joins, 0.0) + share
                total = sum(exit_.mass(other) for other in exit_.kernels)
                for other, kernel in exit_.kernels.items():
                    pending[other] = pending.get(other, 0.0) + share * exit_.mass(other) / total
                    for weight, size in kernel:
                        if weight >= 0:
                            found[weight] += (
                                share * (exit_.mass(other) if kernels else exit_.share(other, size)) / total
                            )
        return found
