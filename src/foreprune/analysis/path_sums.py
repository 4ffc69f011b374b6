"""Sums over all input-output paths: how many there are, the path norm, SynFlow's objective, the path kernel's trace.

They leave the range of floating point on common networks (a ResNet-50 at 224 px has about 10^150 paths), so each comes
as its value, where that can be represented, and as log10, always. All are computed in float64 for one input sample.
Weights that are not prunable take part and count as kept.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foreprune.analysis.pruned import Pruned, undisturbed
from foreprune.core.masks import Masks
from foreprune.graph import COUNTED, EVERY_PATH, PathGraph, PathSum

_EXACT = 2**53  # whole numbers up to here are exact in float64


class Quantity(NamedTuple):
    """A sum over paths: `value`, or None where float64 cannot hold it, and `log10`, -inf for zero."""

    value: float | None
    log10: float


class PathCount(NamedTuple):
    """A number of paths: `value`, exact, or None above 2**53, and `log10`, -inf for none."""

    value: int | None
    log10: float


def path_count(model: nn.Module, masks: Masks | None = None, *, inputs: Any) -> PathCount:
    """Number of paths from an entry of the input to an entry of the output along kept weights.

    Every entry of a pooling or averaging window is an edge, identity skips are edges, attention takes every value that
    its mask lets through, normalizations pass everything on, also in channels whose scale is zero. Property: the sum
    over paths with all weights and inputs at 1. Other arguments as in `foreprune.analyze`.

    Raises:
        PathError: an operation that has no meaning for paths, or no whole number of them (bilinear interpolation).
    """
    with undisturbed():
        return count(Pruned.of(model, masks, inputs))


def path_norm(model: nn.Module, masks: Masks | None = None, *, inputs: Any) -> Quantity:
    """The l1 path norm, sum over paths of the product of |w| (Neyshabur et al. 2015; Frankle et al. 2021, D.5).

    Averages divide as they do in the network, normalizations multiply by their scale in inference mode (one that is
    zero everywhere counts as one); a maximum passes every entry of its window. Without maxima it is SynFlow's
    objective.

    Raises:
        PathError: an operation that has no meaning for paths.
    """
    with undisturbed():
        return norm(Pruned.of(model, masks, inputs))


def synflow_objective(model: nn.Module, masks: Masks | None = None, *, inputs: Any) -> Quantity:
    """R = 1^T (prod_l |W_l m_l|) 1, as SynFlow computes it: max pooling passes the largest entry of a window only.

    Tanaka et al. 2020, eq. 3.

    Raises:
        PathError: an operation that has no meaning for paths.
    """
    with undisturbed():
        return objective(Pruned.of(model, masks, inputs))


def path_kernel_trace(model: nn.Module, masks: Masks | None = None, *, inputs: Any) -> Quantity:
    """Trace of the path kernel, Tr Pi = sum_p sum_{j in p} (v_p / theta_j)^2 (Gebhart et al. 2021, eq. 14).

    Computed as sum_j m_j dR_PK/d(theta_j^2) with R_PK = 1^T (prod_l theta_l^2 m_l) 1 (eq. 15). The gradient is masked:
    dR/d(theta^2) of a pruned edge is not zero, though no path runs through it. The authors of PHEW mask as well.
    v_p is the product of the weights of a path. An average over n entries multiplies R_PK by 1/n, as in the network and
    in published code, so such a path counts 1/n; a maximum passes every entry of its window, so that the trace is that
    of the matrix `path_kernel` returns and bounds the tangent kernel of every input. The scale of a normalization,
    |gamma| / sqrt(running variance + eps), is part of v_p like a weight, but no theta_j: the sum is over weights. Where
    one path uses a weight twice (tied layers), each use counts.

    Raises:
        PathError: an operation that has no meaning for paths.
    """
    with undisturbed():
        return trace(Pruned.of(model, masks, inputs))


def count(pruned: Pruned) -> PathCount:
    """`path_count` of a network that is prepared already."""
    total = PathGraph(pruned.net, pruned.inputs, COUNTED).sum(pruned.indicators())
    value = _quantity(total).value
    return PathCount(round(value) if value is not None and value <= _EXACT else None, total.log10)


def norm(pruned: Pruned) -> Quantity:
    """`path_norm` of a network that is prepared already."""
    return _quantity(PathGraph(pruned.net, pruned.inputs, EVERY_PATH).sum(pruned.magnitudes()))


def squared_norm(pruned: Pruned) -> Quantity:
    """R_PK, the sum over paths of the product of w^2."""
    weights = {name: value.square() for name, value in pruned.magnitudes().items()}
    return _quantity(PathGraph(pruned.net, pruned.inputs, EVERY_PATH, power=2).sum(weights))


def objective(pruned: Pruned) -> Quantity:
    """`synflow_objective` of a network that is prepared already."""
    return _quantity(PathGraph(pruned.net, pruned.inputs).sum(pruned.magnitudes()))


def trace(pruned: Pruned) -> Quantity:
    """`path_kernel_trace` of a network that is prepared already."""
    weights = {name: value.square() for name, value in pruned.magnitudes().items()}
    graph = PathGraph(pruned.net, pruned.inputs, EVERY_PATH, power=2)
    grads = pruned.masks(graph.gradients(weights, [name for name, _ in pruned.floating()]))
    total: Tensor = torch.stack([grad.sum() for grad in grads.values()]).sum()
    return _quantity(PathSum(total, graph.sum(weights).exponent))


def _quantity(total: PathSum) -> Quantity:
    try:
        value = math.ldexp(float(total.value), total.exponent)
    except OverflowError:
        return Quantity(None, total.log10)
    return Quantity(value if value or not float(total.value) else None, total.log10)
