"""The network as a graph of paths."""

from foreprune.graph.gates import PathError
from foreprune.graph.paths import PathGraph, PathSum

__all__ = ["PathError", "PathGraph", "PathSum"]
