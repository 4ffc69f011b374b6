"""Normalizations on paths: each multiplies by its scale, |gamma| / sqrt(running variance + eps), as in inference.

The published SynFlow runs the network in inference mode with every entry of its state positive, so that the scale is an
edge weight. Layer, group and RMS normalization keep no statistics, so theirs is |gamma|, as that of batch and instance
normalization without them; the mean, the bias and what is divided by on the way are no part of a path. Scales are
constants: they have no gradient. One that is zero everywhere, as in residual branches that begin as nothing, counts as
one: it says where training begins, and not which weights matter.

Normalizations written by hand are no family of their own: their parameters enter with the power of all weights, but
what is computed from buffers is a constant and enters as it is, as the 1/n of an average does.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.graph.sums.gates import Call, Gates, Handlers, known_flow
from foreprune.graph.sums.operations import IDENTITIES, open_gate
from foreprune.graph.vocabulary import Family


class _Places(NamedTuple):
    """Where a function takes its weight and its running variance, and whether they belong to the last axes."""

    weight: int
    variance: int | None = None
    last_axes: bool = False


_EPS = 7  # where functions with a running variance take it; 1e-5 by default
_WEIGHT_ONLY = {"group_norm": _Places(2), "layer_norm": _Places(2, None, True), "rms_norm": _Places(2, None, True)}
_BY_FUNCTION = {F.batch_norm: _Places(3, 2), F.instance_norm: _Places(3, 2)}
_BUILTIN = {"batch_norm": _Places(1, 4), "instance_norm": _Places(1, 4)}  # torch.batch_norm and torch.instance_norm


def scaled(gates: Gates, call: Call) -> Any:
    """A normalization: an open gate that multiplies by its scale."""
    opened = open_gate(1)(gates, call)
    places = _BY_FUNCTION.get(call.func) or {**_BUILTIN, **_WEIGHT_ONLY}.get(call.name)
    root = None if places is None else _root(gates, call, places)
    if places is None or root is None:
        return opened
    # the largest becomes a number from 1/2 to 1, so that no power of it overflows
    largest = float(root.max()) if root.numel() else 0.0
    shift = math.frexp(largest)[1] if math.isfinite(largest) else 0
    scale = (root * 2.0**-shift) ** gates.power
    if not places.last_axes:
        scale = scale.view(-1, *[1] * (opened.dim() - 2))
    flow = known_flow(opened)
    result = gates.weighted_sum(call, opened * scale, flow.exponent + gates.power * shift)
    return gates.mark(result, known_flow(result).with_rank(flow.rank))


def _root(gates: Gates, call: Call, places: _Places) -> Tensor | None:
    """|gamma| / sqrt(variance + eps), or None if it is one everywhere."""
    weight = call.argument(places.weight, "weight")
    variance = None if places.variance is None else call.argument(places.variance, "running_var")
    scale = None
    if weight is not None:
        gates.check_constant(call.func, weight)
        own = gates.parameter(weight)
        # what is computed from parameters is computed from powers of them
        scale = weight.detach().abs() ** (1 / gates.power) if own is None else own.abs().to(gates.dtype)
        scale = scale if bool(scale.any()) else torch.ones_like(scale)
    if variance is not None:
        eps = call.argument(_EPS, "eps")
        deviation = (variance.detach().to(gates.dtype) + (1e-5 if eps is None else eps)).sqrt()
        scale = deviation.reciprocal() if scale is None else scale / deviation
    return None if scale is None or bool((scale == 1).all()) else scale


HANDLERS: Handlers = {**IDENTITIES, Family.NORMALIZATION: scaled}
