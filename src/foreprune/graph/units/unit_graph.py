"""The network as a graph of units (channels, neurons): values, as `foreprune.graph.units.record` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layer:
    """A weighted layer. In group g, unit `sources[g, i]` feeds unit `targets[g, o]` through the weights at positions
    `rows[g, o] + columns[g, i, k]` of the flattened parameter `weight`.

    Shapes: sources (G, I), targets (G, O), rows (G, O), columns (G, I, K). Unit numbers count from 0. A source or a
    column of -1 pads its row: there is nothing. Places of a kernel that only ever meet padding are left out.
    """

    weight: str
    sources: Ints
    targets: Ints
    rows: Ints
    columns: Ints


@dataclass(frozen=True, eq=False)
class Join:
    """An addition: unit `targets[u]` is the sum of the units `sources[b, u]`, b over branches (-1: nothing there).

    Shapes: sources (B, U), targets (U,).
    """

    sources: Ints
    targets: Ints


@dataclass(frozen=True, eq=False)
class UnitGraph:
    """Layers and joins in the order of the forward, and the units at both ends.

    Attributes:
        nodes: every weighted layer and every addition.
        inputs: (n,) units that receive the network's inputs: entries of a flat input, channels of an image.
        outputs: (m,) units of the output.
        count: number of units.
        constants: the fixed weights of layers whose `weight` is no parameter (a blur kernel in a buffer).
    """

    nodes: tuple[Layer | Join, ...]
    inputs: Ints
    outputs: Ints
    count: int
    constants: Mapping[str, Tensor]


def weightless_skips(graph: UnitGraph) -> dict[int, NDArray[np.bool_]]:
    """For additions, by their place among the nodes: at which entries (B, U) of its sources the unit skips layers
    without a weight of its own, as x does in x + f(x).

    There another branch of the same sum comes through at least one layer from what made the unit. In p(x) + f(x)
    neither branch does. Additions without such an entry are left out.
    """
    maker = np.full(graph.count + 1, -1)  # the last entry stands for "nothing there"
    found = {}
    for number, node in enumerate(graph.nodes):
        if isinstance(node, Join):
            made = maker[node.sources]
            skips = np.zeros(node.sources.shape, bool)
            for origin in np.unique(made):
                mine = (made == origin) & (node.sources >= 0)
                derived = _through_layers(graph, node.sources[mine], until=number)[node.sources]
                skips |= mine & (derived.sum(axis=0) > derived)
            if skips.any():
                found[number] = skips
        maker[node.targets] = number
    return found


def _through_layers(graph: UnitGraph, units: Ints, *, until: int) -> NDArray[np.bool_]:
    """Which units are fed by `units` through at least one layer, by the nodes before the place `until`."""
    before, after = (np.zeros(graph.count + 1, bool) for _ in range(2))  # without and with a layer on the way
    before[units] = True
    for node in graph.nodes[:until]:
        if isinstance(node, Layer):
            after[node.targets] |= (before | after)[node.sources].any(axis=1, keepdims=True)
        else:
            before[node.targets] |= before[node.sources].any(axis=0)
            after[node.targets] |= after[node.sources].any(axis=0)
        before[-1] = after[-1] = False
    return after
