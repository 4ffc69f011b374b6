"""The network as a graph of units (channels, neurons): values, as `foreprune.graph.record` makes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layer:
    """A weighted layer. In group g, unit `sources[g, i]` feeds unit `targets[g, o]` through the weights at positions
    `rows[g, o] + columns[g, i, k]` of the flattened parameter `weight`, where `columns` is not negative.

    Shapes: sources (G, I), targets (G, O), rows (G, O), columns (G, I, K); all int64. Unit numbers count from 0.
    """

    weight: str
    sources: Tensor
    targets: Tensor
    rows: Tensor
    columns: Tensor


@dataclass(frozen=True, eq=False)
class Join:
    """An addition: unit `targets[u]` is the sum of the units `sources[b, u]`, b over branches (-1: nothing there).

    Shapes: sources (B, U), targets (U,); int64.
    """

    sources: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class UnitGraph:
    """Layers and joins in the order of the forward, and the units at both ends.

    Attributes:
        nodes: every weighted layer and every addition.
        inputs: (n,) units that receive the network's inputs: entries of a flat input, channels of an image.
        outputs: (m,) units of the output.
        count: number of units.
    """

    nodes: tuple[Layer | Join, ...]
    inputs: Tensor
    outputs: Tensor
    count: int
