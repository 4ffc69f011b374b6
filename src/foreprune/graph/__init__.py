"""The network as a graph of paths. Other rooms import from here only."""

from foreprune.graph.sums.active import active_outputs
from foreprune.graph.sums.counted import COUNTED, EVERY_PATH
from foreprune.graph.sums.enumerated import Path, Weight, every_path
from foreprune.graph.sums.gates import PathError, graph_nodes
from foreprune.graph.sums.operations import IDENTITIES
from foreprune.graph.sums.paths import (
    Normalization,
    PathGraph,
    PathSum,
    Precision,
    check_growing,
    path_dtype,
    path_graph,
)
from foreprune.graph.sums.reached import reached
from foreprune.graph.sums.samples import one_sample
from foreprune.graph.units.record import record_units
from foreprune.graph.units.steps import Preference
from foreprune.graph.units.unit_graph import Join, Layer, UnitGraph
from foreprune.graph.units.walks import Walker

__all__ = [
    "COUNTED",
    "EVERY_PATH",
    "IDENTITIES",
    "Join",
    "Layer",
    "Normalization",
    "Path",
    "PathError",
    "PathGraph",
    "PathSum",
    "Precision",
    "Preference",
    "UnitGraph",
    "Walker",
    "Weight",
    "active_outputs",
    "check_growing",
    "every_path",
    "graph_nodes",
    "one_sample",
    "path_dtype",
    "path_graph",
    "reached",
    "record_units",
]
