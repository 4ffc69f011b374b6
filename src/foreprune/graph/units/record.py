"""Records the units of a network, for walks along its paths.

The forward runs once with open gates on tensors that hold the numbers of units. Weighted layers and additions are
recorded; no convolution is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreprune.core.net import Net
from foreprune.core.task import Inputs
from foreprune.graph.sums.gates import Call, Flow, Gates, Handler, PathError, flow_of, flows_in, leaves, walk
from foreprune.graph.sums.operations import HANDLERS
from foreprune.graph.units import record_products
from foreprune.graph.units.recorder import Aliased, Mixed, Recorder, along, numbers_of, recorder_of
from foreprune.graph.units.units import Ints, UnitGraph


def record_units(net: Net, inputs: Inputs) -> UnitGraph:
    """Record the units of `net` for inputs of the shape of `inputs`.

    Inputs are told apart entry by entry if the layers that read them do so (a multilayer perceptron), else by channel
    (axis 1), else by feature (last axis). Keyword arguments count in the order of their names.

    Raises:
        PathError: an operation that mixes units of one layer in a way that walks cannot follow, or has no meaning for
            paths.
    """
    inputs = Inputs(inputs.args, dict(sorted((inputs.kwargs or {}).items())))
    failed: list[tuple[int, str]] = []
    for axis in (None, 1, -1):
        recorder = Recorder(net, _HANDLERS, axis=axis, dense=False)
        try:
            try:
                return recorder.record(inputs)
            except Aliased:
                recorder = Recorder(net, _HANDLERS, axis=axis, dense=True)
                return recorder.record(inputs)
        except Mixed as error:
            failed.append((len(recorder.nodes), str(error)))
    raise PathError(max(failed, key=lambda attempt: attempt[0])[1])  # of the attempt that came furthest


# --- handlers that differ from those of the plain mode ---------------------------------------------------------------


def _passed(call: Call, recorder: Recorder, numbers: Ints, shape: Sequence[int], like: Tensor) -> Tensor:
    """The result of an operation that keeps units: as much of a gate as its argument `like`."""
    flow = flow_of(like)
    assert flow is not None
    return recorder.finish(call, recorder.hold(numbers, shape), flow)


def _except_scores(handler: Handler) -> Handler:
    """Attention scores, which are zeros and masks, are computed as they are."""

    def handle(gates: Gates, call: Call) -> Any:
        scores = any(flow.logits for flow in flows_in((call.args, call.kwargs)))
        return (HANDLERS[call.name] if scores else handler)(gates, call)

    return handle


def _gate(rank: int) -> Handler:
    """An open gate passes its input on, without copying the numbers."""

    def handle(gates: Gates, call: Call) -> Any:
        value = call.args[0] if call.args else next(iter(call.kwargs.values()))
        flow = flow_of(value)
        if flow is None or recorder_of(gates).dense or call.in_place or call.kwargs.get("inplace", False):
            return HANDLERS[call.name](gates, call)
        return gates.mark(value.view_as(value), flow.with_rank(max(rank, flow.rank)))

    return handle


def _structure(gates: Gates, call: Call) -> Any:
    """Rearranging, selecting: executed as it is. What may share memory is noted."""
    result = HANDLERS["view"](gates, call)
    if call.name != "clone":
        recorder_of(gates).share(value for value in leaves((call.args[:1], result)) if isinstance(value, Tensor))
    return result


def _pad(gates: Gates, call: Call) -> Any:
    """Constants are 0, whatever the padding holds."""
    kwargs = {key: value for key, value in call.kwargs.items() if key != "value"}
    return HANDLERS["view"](gates, Call(call.func, call.args[:3], kwargs, False))


def _concatenate(gates: Gates, call: Call) -> Any:
    """One entry is enough along the axes over which no part changes."""
    parts, dim = list(call.argument(0, "tensors")), call.argument(1, "dim", "axis") or 0
    shape = [1] * parts[0].dim()
    if recorder_of(gates).dense or any(part.dim() != len(shape) for part in parts):
        return HANDLERS["view"](gates, call)
    for axis in range(len(shape)):
        if axis != dim % len(shape) and all(flow_of(part) is None or part.stride(axis) == 0 for part in parts):
            shape[axis] = parts[0].size(axis)
            parts = [_narrowed(gates, part, axis) for part in parts]
    result = HANDLERS["view"](gates, Call(torch.cat, (parts, dim), {}, False))
    flow = flow_of(result)
    assert flow is not None
    wide = [max(sizes) for sizes in zip(shape, result.shape, strict=True)]
    return gates.mark(result.expand(wide), flow)


def _narrowed(gates: Gates, part: Tensor, axis: int) -> Tensor:
    flow = flow_of(part)
    small = part.narrow(axis, 0, 1)
    return small if flow is None else gates.mark(small, flow)


def _convolution(gates: Gates, call: Call) -> Any:
    recorder = recorder_of(gates)
    value, weight = call.argument(0, "input"), call.argument(1, "weight")
    recorder.check_weight(call, weight, value)
    transposed, dims = "transpose" in call.name, weight.dim() - 2
    axis, groups = value.dim() - dims - 1, call.argument(6, "groups") or 1
    places = [other for other in range(value.dim()) if other != axis]
    units = recorder.merged(call, numbers_of(value), places).ravel()
    sources = np.broadcast_to(units, (value.size(axis),)).reshape(groups, -1)
    name, weight, offset = recorder.weight(call, weight)
    shape, strides, kernel = list(value.shape), weight.stride(), np.zeros(1, np.int64)
    shape[axis] = weight.size(1) * groups if transposed else weight.size(0)
    for dim in range(dims):
        place = axis + 1 + dim
        taps, shape[place] = _taps(call, dim, dims, shape[place], weight.size(2 + dim))
        kernel = (kernel[:, None] + taps * strides[2 + dim]).ravel()
    group = np.arange(groups)[:, None]
    if transposed:  # (in, out / groups, ...)
        rows = np.arange(weight.size(1)) * strides[1] + 0 * group
        columns = (group * (weight.size(0) // groups) + np.arange(weight.size(0) // groups)) * strides[0]
    else:  # (out, in / groups, ...)
        rows = (group * (weight.size(0) // groups) + np.arange(weight.size(0) // groups)) * strides[0]
        columns = np.arange(weight.size(1)) * strides[1] + 0 * group
    targets = recorder.layer(name, sources, rows + offset, columns[:, :, None] + kernel)
    return recorder.finish(call, recorder.hold(along(targets.ravel(), axis, len(shape)), shape), Flow())


def _taps(call: Call, dim: int, dims: int, size: int, kernel: int) -> tuple[Ints, int]:
    """Along one axis, the places of the kernel that meet more than padding (a 3x3 kernel on one pixel has one), and the
    size of the result."""
    transposed = "transpose" in call.name

    def option(position: int, name: str, default: int) -> Any:
        given = call.argument(position, name)
        if given is None or isinstance(given, (int, str)):
            return default if given is None else given
        return given[dim if len(given) == dims else 0]

    stride, padding = option(3, "stride", 1), option(4, "padding", 0)
    dilation = option(7 if transposed else 5, "dilation", 1)
    reach = dilation * (kernel - 1)
    before, both = (padding, 2 * padding) if isinstance(padding, int) else (0, 0)
    if padding == "same":
        before, both = reach // 2, reach
    if transposed:
        out = (size - 1) * stride - both + reach + option(5, "output_padding", 0) + 1
    else:
        out = (size + both - reach - 1) // stride + 1
    steps, room = (size, out) if transposed else (out, size)
    meets = np.arange(steps)[:, None] * stride - before + np.arange(kernel) * dilation
    return np.flatnonzero(((meets >= 0) & (meets < room)).any(axis=0)), out


def _spatial(gates: Gates, call: Call) -> Any:
    """Pooling and resizing work within a channel, so the units stay. One channel shows the shape."""
    recorder = recorder_of(gates)
    value = call.argument(0, "input")
    dims = next((int(sign) for sign in call.name if sign.isdigit()), value.dim() - 2)
    numbers = recorder.merged(call, numbers_of(value), range(-dims, 0))
    channel = torch.zeros(
        [1] * (value.dim() - dims) + list(value.shape[-dims:]), dtype=value.dtype, device=value.device
    )
    args, kwargs = (walk(part, lambda item: channel if item is value else item) for part in (call.args, call.kwargs))
    shape = [*value.shape[:-dims], *next(iter(leaves(call.func(*args, **kwargs)))).shape[-dims:]]
    result = _passed(call, recorder, numbers, shape, value)
    return (result, _indices(shape, value)) if call.name.endswith("_with_indices") else result


def _indices(shape: Sequence[int], value: Tensor) -> Tensor:
    return torch.zeros(tuple(shape), dtype=torch.long, device=value.device)


def _reduce(gates: Gates, call: Call) -> Any:
    """A mean, sum or maximum over places keeps the units; over units it joins them."""
    recorder = recorder_of(gates)
    value = call.argument(0, "input")
    given = [item for item in call.args[1:] if not isinstance(item, torch.dtype)]
    dim = given[0] if given else call.kwargs.get("dim", call.kwargs.get("axis"))
    keep = given[1] if len(given) > 1 else call.kwargs.get("keepdim", False)
    dims = range(value.dim()) if dim is None or dim == () else [dim] if isinstance(dim, int) else dim
    axes = tuple(axis % value.dim() for axis in dims)
    numbers = recorder.merged(call, numbers_of(value), axes, inputs=True)
    shape = [1 if axis in axes else size for axis, size in enumerate(value.shape) if keep or axis not in axes]
    result = _passed(call, recorder, numbers if keep else numbers.squeeze(axes), shape, value)
    if call.name == "max" and dim is not None:
        return torch.return_types.max((result, _indices(shape, value)))
    return result


def _maximum(gates: Gates, call: Call) -> Any:
    """The larger of two activations passes on the paths of both; with a constant it is a gate."""
    if call.name == "max" and not isinstance(call.argument(1, "other"), Tensor):
        return _reduce(gates, call)
    left, right = call.argument(0, "input"), call.argument(1, "other")
    return (_scaled if flow_of(left) is None or flow_of(right) is None else _join)(gates, call)


def _join(gates: Gates, call: Call) -> Any:
    recorder = recorder_of(gates)
    left, right = call.argument(0, "input"), call.argument(1, "other")
    if flow_of(left) is None or flow_of(right) is None:
        return HANDLERS["add"](gates, call)
    if call.name in ("sub", "subtract") and right.numel() < left.numel():  # recentring, as in the plain mode
        return HANDLERS["sub"](gates, call)
    both = torch.broadcast_tensors(left, right)  # type: ignore[no-untyped-call]
    pairs = np.stack(np.broadcast_arrays(numbers_of(both[0]), numbers_of(both[1])))
    joined = recorder.joined(pairs.reshape(2, -1)).reshape(pairs.shape[1:])
    return recorder.finish(call, recorder.hold(joined, both[0].shape), Flow())


def _scaled(gates: Gates, call: Call) -> Any:
    """A constant factor changes no unit, but where it is fixed at zero nothing passes."""
    left, right = call.argument(0, "input"), call.argument(1, "other")
    flows = (flow_of(left), flow_of(right))
    if (flows[0] is None) == (flows[1] is None) or (flows[0] is None and call.name in _DIVISIONS):
        return HANDLERS[call.name](gates, call)
    value, other = (left, right) if flows[0] is not None else (right, left)
    if not isinstance(other, Tensor):
        return value if call.in_place else gates.mark(value.view_as(value), flow_of(value) or Flow())
    gates.check_constant(call.func, other)
    wide, factor = torch.broadcast_tensors(value, other)  # type: ignore[no-untyped-call]
    closed = call.name in _PRODUCTS and not other.requires_grad
    numbers = numbers_of(wide) * (numbers_of(factor != 0) if closed else 1)
    return _passed(call, recorder_of(gates), numbers, wide.shape, value)


_PRODUCTS = ("mul", "multiply", "rmul")
_DIVISIONS = ("div", "divide", "true_divide", "truediv")


def _set_item(gates: Gates, call: Call) -> None:
    """What is written to lies in memory of its own; constants turn into zeros."""
    recorder = recorder_of(gates)
    target, index, value = call.args
    flow, written = flow_of(target), flow_of(value)
    if flow is None or not recorder.dense:
        recorder.check_unshared(target)
        numbers = torch.zeros_like(target, dtype=recorder.dtype) if flow is None else target
        copy = gates.mark(numbers.clone(memory_format=torch.contiguous_format), flow or Flow())
        gates.replaced[id(target)] = (target, copy)
        target = copy
    if written is None:
        gates.check_constant(call.func, value)
    with torch.no_grad():
        target[index] = 0.0 if written is None else value


def _statistic(gates: Gates, call: Call) -> Any:
    """Variances and norms scale activations; no unit is one."""
    return walk(call.func(*call.args, **call.kwargs), lambda value: gates.mark(torch.zeros_like(value), Flow(rank=3)))


def _unsupported(gates: Gates, call: Call) -> Any:
    raise gates.error(call.func, "has no meaning for walks along paths")


def _table() -> dict[str, Handler]:
    words: dict[Callable[[Gates, Call], Any], str] = {
        _pad: "pad",
        _concatenate: "cat concat concatenate",
        _convolution: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
        record_products.linear: "linear",
        record_products.product: "matmul rmatmul mm bmm mv dot addmm addmv baddbmm einsum tensordot",
        record_products.attention: "scaled_dot_product_attention",
        record_products.multi_head_attention: "multi_head_attention_forward",
        _spatial: """avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
            max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
            adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate upsample""",
        _reduce: "mean sum amax",
        _maximum: "max maximum fmax",
        _join: "add sub subtract rsub radd",
        _scaled: "mul multiply rmul div divide true_divide truediv",
        _set_item: "setitem",
        _unsupported: "cumsum fold",
    }
    kinds: dict[Handler, Handler] = {HANDLERS["view"]: _structure, HANDLERS["std"]: _statistic}
    kinds |= {HANDLERS[name]: _gate(rank) for name, rank in (("relu", 1), ("sigmoid", 2), ("pow", 3))}
    table = {name: kinds.get(handler, handler) for name, handler in HANDLERS.items()}
    table |= {name: handler for handler, names in words.items() for name in names.split()}
    return {name: _except_scores(own) if own is not HANDLERS[name] else own for name, own in table.items()}


_HANDLERS = _table()
