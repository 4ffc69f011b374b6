"""What of the example inputs the paths are followed for: one sample, or a whole graph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foreprune.core.net import Net, scoring
from foreprune.core.task import Inputs


class Sample(NamedTuple):
    """Inputs, and those of their tensors that are constants: by `id`."""

    inputs: Inputs
    constants: frozenset[int] = frozenset()


def one_sample(net: Net, inputs: Inputs) -> Sample:
    """The first sample of every tensor; the whole of them where the forward takes no first sample alone, because axis 0
    is no batch: nodes of a graph, or pairs of ends of its edges.

    Of a graph's inputs those of shape (n, n), beside features of n nodes, and sparse ones are its adjacency: constants.
    """
    first = inputs.map(lambda tensor: tensor[:1] if tensor.dim() and tensor.layout == torch.strided else tensor)
    tensors = inputs.tensors()
    if not _may_be_a_graph([*tensors, *net.module.buffers()]) or all(not t.dim() or len(t) <= 1 for t in tensors):
        return Sample(first)
    if _runs(net, first) or not _runs(net, inputs):
        return Sample(first)
    real = [tensor for tensor in tensors if tensor.is_floating_point()]
    nodes = next((tensor for tensor in real if not _square(tensor)), real[0] if real else None)
    found = [tensor for tensor in real if tensor is not nodes and _is_adjacency(tensor, nodes)]
    return Sample(inputs, frozenset(map(id, found)))


def _may_be_a_graph(tensors: list[Tensor]) -> bool:
    """Whether there are adjacencies or ends of edges: others need not be tried."""
    edges = any(not t.is_floating_point() and t.dim() == 2 and 2 in t.shape for t in tensors)
    return any(map(_square, tensors)) or (edges and any(t.is_floating_point() for t in tensors))


def _runs(net: Net, inputs: Inputs) -> bool:
    """Whether the forward takes them."""
    try:
        with scoring(net), torch.no_grad():
            inputs.map(torch.clone).call(lambda *args, **kwargs: net(net.params, *args, **kwargs))
    except (RuntimeError, IndexError, ValueError, TypeError, AssertionError):  # what shapes that do not fit raise
        return False
    return True


def _square(tensor: Tensor) -> bool:
    return tensor.layout != torch.strided or (tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1])


def _is_adjacency(tensor: Tensor, nodes: Tensor | None) -> bool:
    return nodes is not None and _square(tensor) and len(tensor) == len(nodes)
