"""Which paths there are where a network pools, averages or scales: tables of handlers for `PathGraph`.

A path leads from one entry of the input to one entry of the output, and every entry of a pooling window is an edge of
its own. `EVERY_PATH` opens maxima as well: a maximum is a gate over its window, so each entry passes (SynFlow runs
maxima as they are and sees the largest entry only); averages divide, as in the network. In `COUNTED` every constant
that is not zero is 1, averages included, so that with weights of 1 each path adds exactly 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.graph.sums.gates import Call, Flow, Gates, Handler, flow_of, leaves, walk
from foreprune.graph.sums.operations import HANDLERS

Step = Callable[[Tensor, int, int], Tensor]  # (value, axis, size of the result there) -> sums over windows


def _sums(gates: Gates, call: Call, dims: int, step: Callable[[int], Step]) -> Any:
    """Sums over windows in place of a pooling operation, which is run for the size of its result."""
    value = call.argument(0, "input")
    flow = flow_of(value)
    assert flow is not None
    with torch.no_grad():
        pooled = call.func(*call.args, **call.kwargs)
    size = (pooled if isinstance(pooled, Tensor) else pooled[0]).shape
    for axis in range(-dims, 0):
        value = step(axis)(value, axis, size[axis])
    gates.mark(value, flow)
    return value if isinstance(pooled, Tensor) else (value, *pooled[1:])


def _pool(dims: int, *, dilated: bool) -> Handler:
    def handle(gates: Gates, call: Call) -> Any:
        kernel = _per_axis(call.argument(1, "kernel_size"), dims)
        stride = _per_axis(call.argument(2, "stride") or kernel, dims)
        padding = _per_axis(call.argument(3, "padding") or 0, dims)
        dilation = _per_axis((call.argument(4, "dilation") if dilated else None) or 1, dims)

        def step(axis: int) -> Step:
            def windows(value: Tensor, axis: int, size: int) -> Tensor:
                span = dilation[axis] * (kernel[axis] - 1) + 1
                # with ceil_mode the last windows reach over the edge
                right = max(0, (size - 1) * stride[axis] + span - padding[axis] - value.shape[axis])
                padded = F.pad(value.movedim(axis, -1), (padding[axis], right))
                picked = padded.unfold(-1, span, stride[axis])[..., :size, :: dilation[axis]]
                return picked.sum(-1).movedim(-1, axis)

            return windows

        return _sums(gates, call, dims, step)

    return handle


def _adaptive_pool(dims: int) -> Handler:
    def windows(value: Tensor, axis: int, size: int) -> Tensor:
        length = value.shape[axis]
        edges = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
        return torch.cat([value.narrow(axis, at, to - at).sum(axis, keepdim=True) for at, to in edges], axis)

    return lambda gates, call: _sums(gates, call, dims, lambda axis: windows)


def _per_axis(value: Any, dims: int) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return tuple(map(int, sizes * dims if len(sizes) == 1 else sizes))


def _largest(gates: Gates, call: Call) -> Any:
    """amax, and max in its three forms: of everything, along an axis, of two tensors."""
    value, other = call.argument(0, "input"), call.argument(1, "dim", "axis", "other")
    flow = flow_of(value)
    if isinstance(other, Tensor):
        return _larger(gates, call)
    if flow is None or flow.logits:
        return HANDLERS[call.name](gates, call)
    keepdim = bool(call.argument(2, "keepdim"))
    total = gates.mark(value.sum() if other is None else value.sum(other, keepdim=keepdim), flow)
    if call.name == "amax" or other is None:
        return total
    with torch.no_grad():
        indices = call.func(*call.args, **call.kwargs).indices
    return torch.return_types.max((total, indices))


def _larger(gates: Gates, call: Call) -> Any:
    pair = call.argument(0, "input"), call.argument(1, "other")
    if any((flow := flow_of(value)) is None or flow.logits for value in pair):
        return HANDLERS[call.name](gates, call)
    return HANDLERS["add"](gates, Call(torch.add, pair, {}, False))


def _mean(gates: Gates, call: Call) -> Any:
    value, dim = call.argument(0, "input"), call.argument(1, "dim", "axis")
    flow = flow_of(value)
    if flow is None or flow.logits:
        return HANDLERS["mean"](gates, call)
    keepdim = bool(call.argument(2, "keepdim"))
    return gates.mark(value.sum() if dim is None else value.sum(dim, keepdim=keepdim), flow)


def _indicated(call: Call, *, numbers: bool = False) -> Call:
    """The same call with 1 for every constant that is not zero; weights that record gradients stay."""

    def indicate(value: Any) -> Any:
        if isinstance(value, Tensor):
            constant = value.is_floating_point() and flow_of(value) is None and not value.requires_grad
            return (value != 0).to(value.dtype) if constant else value
        return float(value != 0) if numbers and isinstance(value, (int, float)) else value

    return Call(call.func, walk(call.args, indicate), walk(call.kwargs, indicate), call.in_place)


def _weighted(gates: Gates, call: Call) -> Any:
    return HANDLERS[call.name](gates, _indicated(call))


def _scaled(gates: Gates, call: Call) -> Any:
    flows = [flow_of(value) for value in leaves((call.args, call.kwargs))]
    scores = any(flow is not None and flow.logits for flow in flows)
    return HANDLERS[call.name](gates, call if scores else _indicated(call, numbers=True))


def _added(gates: Gates, call: Call) -> Any:
    alpha = call.kwargs.get("alpha", 1)
    kwargs = {**call.kwargs, **({"alpha": int(alpha != 0)} if "alpha" in call.kwargs else {})}
    return HANDLERS[call.name](gates, Call(call.func, call.args, kwargs, call.in_place))


def _attention(gates: Gates, call: Call) -> Any:
    """Each query takes every value that the mask lets through, once."""
    query, value = call.argument(0, "query"), call.argument(2, "value")
    flow = flow_of(value)
    if flow is None or flow.logits:
        return HANDLERS[call.name](gates, call)
    size = value.shape[-2]
    unit = torch.eye(size, dtype=value.dtype, device=value.device).expand(*value.shape[:-2], size, size)
    unit = gates.mark(unit.clone(), Flow())
    positional = (*call.args[:2], unit, *call.args[3:]) if len(call.args) > 2 else call.args
    named = {name: unit if name == "value" else item for name, item in call.kwargs.items()}
    taken = HANDLERS[call.name](gates, Call(call.func, positional, named, False)).detach() > 0
    if value.dim() > 3 and query.shape[-3] != value.shape[-3]:  # grouped queries
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    return gates.mark(taken.to(value.dtype) @ value, flow)


def _multi_head_attention(gates: Gates, call: Call) -> Any:
    """torch's own attention averages over the keys that its masks let through: multiply by their number."""
    values = dict(inspect.signature(F.multi_head_attention_forward).bind(*call.args, **call.kwargs).arguments)
    wanted = values.get("need_weights", True), values.get("average_attn_weights", True)
    every_head = {**values, "need_weights": True, "average_attn_weights": False}
    output, weights = HANDLERS[call.name](gates, Call(call.func, (), every_head, False))
    keys = (weights.detach() > 0).sum(-1)  # (..., heads, queries)
    if not bool((keys == keys[..., :1, :]).all()):
        raise gates.error(call.func, "lets its heads see different numbers of keys, which this count cannot follow")
    flow = flow_of(output)
    assert flow is not None
    each = keys[..., 0, :].movedim(-1, 0).unsqueeze(-1)  # the output is (queries, batch, features)
    shown = weights.mean(-3) if wanted[1] else weights
    return gates.mark(output * each.to(output.dtype), flow), shown if wanted[0] else None


def _interpolate(gates: Gates, call: Call) -> Any:
    mode = call.argument(3, "mode") or "nearest"
    if not str(mode).startswith("nearest"):
        raise gates.error(call.func, f"mixes neighbors with coefficients (mode={mode!r}), so its paths have no number")
    return HANDLERS[call.name](gates, call)


def _table(rules: Mapping[str, Handler]) -> dict[str, Handler]:
    return {name: handler for names, handler in rules.items() for name in names.split()}


EVERY_PATH: dict[str, Handler] = HANDLERS | _table(
    {
        "max_pool1d max_pool1d_with_indices": _pool(1, dilated=True),
        "max_pool2d max_pool2d_with_indices": _pool(2, dilated=True),
        "max_pool3d max_pool3d_with_indices": _pool(3, dilated=True),
        "adaptive_max_pool1d": _adaptive_pool(1),
        "adaptive_max_pool2d": _adaptive_pool(2),
        "adaptive_max_pool3d": _adaptive_pool(3),
        "amax max": _largest,
        "maximum fmax": _larger,
    }
)

COUNTED: dict[str, Handler] = EVERY_PATH | _table(
    {
        "avg_pool1d": _pool(1, dilated=False),
        "avg_pool2d": _pool(2, dilated=False),
        "avg_pool3d": _pool(3, dilated=False),
        "adaptive_avg_pool1d": _adaptive_pool(1),
        "adaptive_avg_pool2d": _adaptive_pool(2),
        "adaptive_avg_pool3d": _adaptive_pool(3),
        "mean": _mean,
        "mul multiply rmul div divide truediv true_divide": _scaled,
        "add sub subtract rsub radd": _added,
        """linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul rmatmul mm bmm mv dot
        einsum tensordot addmm addmv baddbmm""": _weighted,
        "scaled_dot_product_attention": _attention,
        "multi_head_attention_forward": _multi_head_attention,
        "interpolate upsample": _interpolate,
    }
)
