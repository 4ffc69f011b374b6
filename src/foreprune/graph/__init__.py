"""The network as a graph of paths."""

from foreprune.graph.sums.gates import PathError
from foreprune.graph.sums.paths import PathGraph, PathSum

__all__ = ["PathError", "PathGraph", "PathSum"]
