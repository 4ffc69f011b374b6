"""What a graph of units says about paths, by brute force, and what the open-gate network itself says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel

from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import Layer, PathGraph, UnitGraph

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Edge:
    """From unit to unit, by a weight (its position among all prunable weights) or, in an addition or a layer that is
    not prunable, by none (-1)."""

    source: int
    target: int
    weight: int


def offsets(net: Net) -> dict[str, int]:
    found, total = {}, 0
    for name, weight in net.weights.items():
        found[name] = total
        total += weight.numel()
    return found


def edges(net: Net, graph: UnitGraph, *, value: bool = False) -> list[Edge]:
    """Every edge of the graph; with `value` only those whose weight is not zero."""
    start = offsets(net)
    found = []
    for node in graph.nodes:
        if not isinstance(node, Layer):
            for branch in node.sources:
                found += [Edge(int(s), int(t), -1) for s, t in zip(branch, node.targets, strict=True) if s >= 0]
            continue
        values = graph.constants[node.weight] if node.weight in graph.constants else net.params[node.weight]
        for g, (sources, targets) in enumerate(zip(node.sources, node.targets, strict=True)):
            for i, source in enumerate(sources):
                for o, target in enumerate(targets):
                    for column in node.columns[g, i]:
                        if source < 0 or column < 0:
                            continue
                        position = int(node.rows[g, o] + column)
                        size = float(values.flatten()[position])
                        if size == 0 and (value or node.weight in graph.constants):
                            continue
                        weight = start[node.weight] + position if node.weight in start else -1
                        found.append(Edge(int(source), int(target), weight))
    return found


def reach(graph: UnitGraph, found: list[Edge]) -> Bools:
    """reach[u, v]: whether a path leads from unit u to unit v; every unit reaches itself."""
    closure = np.eye(graph.count, dtype=bool)
    step = np.zeros_like(closure)
    for edge in found:
        step[edge.source, edge.target] = True
    for _ in range(graph.count):
        longer = closure | (closure.astype(np.float64) @ step > 0)
        if (longer == closure).all():
            return closure
        closure = longer
    return closure


def paths_of_units(net: Net, graph: UnitGraph) -> tuple[Bools, Bools]:
    """Which weights lie on a path, and which pairs of weights lie on a common one (on the diagonal: twice on one)."""
    found = edges(net, graph)
    closure = reach(graph, found)
    from_inputs, to_outputs = closure[graph.inputs].any(0), closure[:, graph.outputs].any(1)
    source, target, weight = (
        np.array([getattr(edge, key) for edge in found]) for key in ("source", "target", "weight")
    )
    use = np.zeros((len(found), net.total))
    use[np.flatnonzero(weight >= 0), weight[weight >= 0]] = 1
    single = (from_inputs[source] & to_outputs[target]) @ use > 0
    follows = from_inputs[source][:, None] & closure[target][:, source] & to_outputs[target][None, :]
    pairs = use.T @ follows @ use > 0
    return single, pairs | pairs.T


def paths_of_network(net: Net, inputs: tuple[object, ...]) -> tuple[Bools, Bools]:
    """The same from the sum over paths of the network: its first and second derivatives are positive or zero."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: (0.5 + torch.rand(value.shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for name, value in net.weights.items()
    }
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        total = PathGraph(net, as_inputs(inputs)).sum(weights).value
    first = torch.autograd.grad(total, list(weights.values()), create_graph=True, materialize_grads=True)
    flat = torch.cat([grad.flatten() for grad in first])
    rows = torch.autograd.grad(
        flat, list(weights.values()), torch.eye(len(flat), dtype=flat.dtype), is_grads_batched=True, allow_unused=True
    )
    wide = [
        torch.zeros(len(flat), value.numel()) if row is None else row.flatten(1)
        for row, value in zip(rows, weights.values(), strict=True)
    ]
    second = torch.cat(wide, 1)
    return tuple((part > 1e-12 * part.max()).numpy() for part in (flat.detach(), second))
