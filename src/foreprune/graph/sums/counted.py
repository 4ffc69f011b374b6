"""Which paths there are where a network pools, averages or scales: handlers for `PathGraph`.

A path leads from one entry of the input to one entry of the output, and every entry of a pooling window is an edge of
its own. `EVERY_PATH` opens maxima as well: a maximum is a gate over its window, so each entry passes (SynFlow runs
maxima as they are and sees the largest entry only); averages divide and normalizations scale, as in the network. In
`COUNTED` every constant that is not zero is 1, averages and scales of normalizations included, so that with weights of
1 each path adds exactly 1. A scale that is zero in some channels does not close them there: like a kept weight that
happens to be zero it is an edge, and training may change it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.graph.sums.gates import Call, Flow, Gates, Handlers, flow_of, known_flow
from foreprune.graph.sums.operations import IDENTITIES, plain
from foreprune.graph.sums.products import attending, multi_head_arguments
from foreprune.graph.sums.scales import HANDLERS
from foreprune.graph.vocabulary import Family

Windows = Callable[[Tensor, int, int], Tensor]  # (value, axis from the end, size of the result there) -> sums


def pooled_axes(call: Call) -> int:
    """How many of the last axes a pooling operation works on: the digit in its name."""
    return next(int(sign) for sign in call.name if sign.isdigit())


def _window_sums(gates: Gates, call: Call, windows: Windows) -> Any:
    """Sums over windows in place of a pooling operation, which is run for the size of its result."""
    value = call.argument(0, "input")
    flow = known_flow(value)
    with torch.no_grad():
        pooled = call.run()
    size = (pooled if isinstance(pooled, Tensor) else pooled[0]).shape
    for axis in range(-pooled_axes(call), 0):
        value = windows(value, axis, size[axis])
    gates.mark(value, flow)
    return value if isinstance(pooled, Tensor) else (value, *pooled[1:])


def _pool(gates: Gates, call: Call) -> Any:
    dims, dilated = pooled_axes(call), call.family is not Family.AVERAGE_POOLING
    kernel = _per_axis(call.argument(1, "kernel_size"), dims)
    stride = _per_axis(call.argument(2, "stride") or kernel, dims)
    padding = _per_axis(call.argument(3, "padding") or 0, dims)
    dilation = _per_axis((call.argument(4, "dilation") if dilated else None) or 1, dims)

    def windows(value: Tensor, axis: int, size: int) -> Tensor:
        span = dilation[axis] * (kernel[axis] - 1) + 1
        # with ceil_mode the last windows reach over the edge
        right = max(0, (size - 1) * stride[axis] + span - padding[axis] - value.shape[axis])
        padded = F.pad(value.movedim(axis, -1), (padding[axis], right))
        picked = padded.unfold(-1, span, stride[axis])[..., :size, :: dilation[axis]]
        return picked.sum(-1).movedim(-1, axis)

    return _window_sums(gates, call, windows)


def _adaptive_pool(gates: Gates, call: Call) -> Any:
    def windows(value: Tensor, axis: int, size: int) -> Tensor:
        length = value.shape[axis]
        edges = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
        return torch.cat([value.narrow(axis, at, to - at).sum(axis, keepdim=True) for at, to in edges], axis)

    return _window_sums(gates, call, windows)


def _per_axis(value: Any, dims: int) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return tuple(map(int, sizes * dims if len(sizes) == 1 else sizes))


def _total(gates: Gates, call: Call) -> Any:
    """The sum in place of a mean, of amax, or of max of everything or along an axis."""
    value, dim = call.argument(0, "input"), call.argument(1, "dim", "axis", "other")
    flow = flow_of(value)
    if isinstance(dim, Tensor):
        return _larger(gates, call)
    if flow is None or flow.logits:
        return plain(gates, call)
    total = gates.mark(value.sum() if dim is None else value.sum(dim, keepdim=bool(call.argument(2, "keepdim"))), flow)
    if call.family is not Family.MAXIMUM or dim is None:
        return total
    with torch.no_grad():
        indices = call.run().indices
    return torch.return_types.max((total, indices))


def _larger(gates: Gates, call: Call) -> Any:
    pair = call.pair()
    if any((flow := flow_of(value)) is None or flow.logits for value in pair):
        return plain(gates, call)
    return plain(gates, Call(torch.add, pair, {}))


def _indicated(call: Call, *, numbers: bool = False) -> Call:
    """The same call with 1 for every constant that is not zero; weights that record gradients stay."""

    def indicate(value: Any) -> Any:
        if isinstance(value, Tensor):
            constant = value.is_floating_point() and flow_of(value) is None and not value.requires_grad
            return (value != 0).to(value.dtype) if constant else value
        return float(value != 0) if numbers and isinstance(value, (int, float)) else value

    return call.map(indicate)


def _weighted(gates: Gates, call: Call) -> Any:
    return plain(gates, _indicated(attending(call)))


def _scaled(gates: Gates, call: Call) -> Any:
    scores = any(flow.logits for flow in call.flows())
    return plain(gates, call if scores else _indicated(call, numbers=True))


def _added(gates: Gates, call: Call) -> Any:
    if "alpha" in call.kwargs:
        call = replace(call, kwargs={**call.kwargs, "alpha": int(call.kwargs["alpha"] != 0)})
    return plain(gates, call)


def _attention(gates: Gates, call: Call) -> Any:
    """Each query takes every value that the mask lets through, once."""
    query, value = call.argument(0, "query"), call.argument(2, "value")
    flow = flow_of(value)
    if flow is None or flow.logits:
        return plain(gates, call)
    size = value.shape[-2]
    unit = torch.eye(size, dtype=value.dtype, device=value.device).expand(*value.shape[:-2], size, size)
    unit = gates.mark(unit.clone(), Flow())
    given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), call.args, strict=False))
    taken = plain(gates, Call(call.func, (), {**given, **call.kwargs, "value": unit})).detach() > 0
    if value.dim() > 3 and query.shape[-3] != value.shape[-3]:  # grouped queries
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    return gates.mark(taken.to(value.dtype) @ value, flow)


def _multi_head_attention(gates: Gates, call: Call) -> Any:
    """torch's own attention averages over the keys that its masks let through: multiply by their number."""
    values = multi_head_arguments(call)
    every_head = {**values, "need_weights": True, "average_attn_weights": False}
    output, weights = plain(gates, Call(call.func, (), every_head))
    keys = (weights.detach() > 0).sum(-1)  # (..., heads, queries)
    if not bool((keys == keys[..., :1, :]).all()):
        raise gates.error(call.func, "lets its heads see different numbers of keys, which this count cannot follow")
    each = keys[..., 0, :].movedim(-1, 0).unsqueeze(-1)  # the output is (queries, batch, features)
    shown = weights.mean(-3) if values["average_attn_weights"] else weights
    return gates.mark(output * each.to(output.dtype), known_flow(output)), shown if values["need_weights"] else None


def _resized(gates: Gates, call: Call) -> Any:
    mode = call.argument(3, "mode") or "nearest"
    if not str(mode).startswith("nearest"):
        raise gates.error(call.func, f"mixes neighbors with coefficients (mode={mode!r}), so its paths have no number")
    return plain(gates, call)


EVERY_PATH: Handlers = {
    **HANDLERS,
    **dict.fromkeys((Family.MAX_POOLING, Family.INDEXED_MAX_POOLING), _pool),
    Family.ADAPTIVE_MAX_POOLING: _adaptive_pool,
    **dict.fromkeys((Family.LARGEST, Family.MAXIMUM), _total),
    Family.LARGER: _larger,
}
WEIGHTED = (Family.LINEAR, Family.CONVOLUTION, Family.MATRIX_PRODUCT)
COUNTED: Handlers = {
    **EVERY_PATH,
    Family.NORMALIZATION: IDENTITIES[Family.NORMALIZATION],
    **dict.fromkeys(WEIGHTED, _weighted),
    **dict.fromkeys((Family.MULTIPLICATION, Family.DIVISION), _scaled),
    Family.ADDITION: _added,
    Family.AVERAGE_POOLING: _pool,
    Family.ADAPTIVE_AVERAGE_POOLING: _adaptive_pool,
    Family.MEAN: _total,
    Family.RESIZING: _resized,
    Family.ATTENTION: _attention,
    Family.MULTI_HEAD_ATTENTION: _multi_head_attention,
}
