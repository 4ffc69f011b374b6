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
