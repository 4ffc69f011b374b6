"""Records the units of a network, for walks along its paths.

The forward runs once with open gates on tensors that hold the numbers of units. Weighted layers and additions are
recorded; no convolution is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreprune.core.net import Net
from foreprune.core.task import Inputs
from foreprune.graph.sums.counted import pooled_axes
from foreprune.graph.sums.gates import (
    Call,
    Flow,
    Gates,
    Handler,
    Handlers,
    PathError,
    flow_of,
    known_flow,
    leaves,
    walk,
)
from foreprune.graph.sums.operations import GATE_RANKS, IDENTITIES, plain, recenters, structure
from foreprune.graph.sums.samples import one_sample
from foreprune.graph.units import weighted
from foreprune.graph.units.recorder import Aliased, Axis, Mixed, Recorder, numbers_of, recorder_of
from foreprune.graph.units.unit_graph import Ints, UnitGraph
from foreprune.graph.vocabulary import Family


def record_units(net: Net, inputs: Inputs) -> UnitGraph:
    """Record the units of `net` for inputs of the shape of `inputs`.

    Inputs are told apart entry by entry if the layers that read them do so (a multilayer perceptron), else by channel
    (axis 1), else by feature (last axis), else not at all (a waveform). What token ids embed as is told apart by
    feature, unless layers tell apart every entry. Keyword arguments count in the order of their names.

    Raises:
        PathError: an operation that mixes units of one layer in a way that walks cannot follow, or has no meaning for
            paths.
    """
    inputs = Inputs(inputs.args, dict(sorted((inputs.kwargs or {}).items())))
    sample = one_sample(net, inputs)
    failed: list[tuple[int, str]] = []
    axes: tuple[Axis, ...] = (None, 1, -1, "none")
    for axis in axes:
        recorder = Recorder(net, UNIT_HANDLERS, axis=axis, dense=False)
        try:
            try:
                return recorder.record(sample)
            except Aliased:
                recorder = Recorder(net, UNIT_HANDLERS, axis=axis, dense=True)
                return recorder.record(sample)
        except Mixed as error:
            failed.append((len(recorder.nodes), str(error)))
    raise PathError(max(failed, key=lambda attempt: attempt[0])[1])  # of the attempt that came furthest


# --- handlers that differ from those of the plain mode ---------------------------------------------------------------


def _passed(call: Call, recorder: Recorder, numbers: Ints, shape: Sequence[int], like: Tensor) -> Tensor:
    """The result of an operation that keeps units: as much of a gate as its argument `like`."""
    return recorder.finish(call, recorder.hold(numbers, shape), known_flow(like))


def _except_scores(handler: Handler) -> Handler:
    """Attention scores, which are zeros and masks, are computed as they are."""

    def handle(gates: Gates, call: Call) -> Any:
        return (plain if any(flow.logits for flow in call.flows()) else handler)(gates, call)

    return handle


def _gate(rank: int) -> Handler:
    """An open gate passes its input on, without copying the numbers."""

    def handle(gates: Gates, call: Call) -> Any:
        value = call.first()
        flow = flow_of(value)
        if flow is None or recorder_of(gates).dense or call.in_place or call.kwargs.get("inplace", False):
            return plain(gates, call)
        return gates.mark(value.view_as(value), flow.with_rank(max(rank, flow.rank)))

    return handle


def _structure(gates: Gates, call: Call) -> Any:
    """Rearranging, selecting: executed as it is. What may share memory is noted."""
    result = structure(gates, call)
    if call.name != "clone":
        recorder_of(gates).share(value for value in leaves((call.args[:1], result)) if isinstance(value, Tensor))
    return result


def _pad(gates: Gates, call: Call) -> Any:
    """Constants are 0, whatever the padding holds."""
    kwargs = {key: value for key, value in call.kwargs.items() if key != "value"}
    return structure(gates, Call(call.func, call.args[:3], kwargs))


def _concatenate(gates: Gates, call: Call) -> Any:
    """One entry is enough along the axes over which no part changes."""
    parts, dim = list(call.argument(0, "tensors")), call.argument(1, "dim", "axis") or 0
    shape = [1] * parts[0].dim()
    if recorder_of(gates).dense or any(part.dim() != len(shape) for part in parts):
        return structure(gates, call)
    for axis in range(len(shape)):
        if axis != dim % len(shape) and all(flow_of(part) is None or part.stride(axis) == 0 for part in parts):
            shape[axis] = parts[0].size(axis)
            parts = [_narrowed(gates, part, axis) for part in parts]
    result = structure(gates, Call(torch.cat, (parts, dim), {}))
    wide = [max(sizes) for sizes in zip(shape, result.shape, strict=True)]
    return gates.mark(result.expand(wide), known_flow(result))


def _narrowed(gates: Gates, part: Tensor, axis: int) -> Tensor:
    flow = flow_of(part)
    small = part.narrow(axis, 0, 1)
    return small if flow is None else gates.mark(small, flow)


def _spatial(gates: Gates, call: Call) -> Any:
    """Pooling and resizing work within a channel, so the units stay. One channel shows the shape."""
    recorder = recorder_of(gates)
    value = call.argument(0, "input")
    dims = value.dim() - 2 if call.family is Family.RESIZING else pooled_axes(call)
    numbers = recorder.merged(call, numbers_of(value), range(-dims, 0))
    channel = torch.zeros(
        [1] * (value.dim() - dims) + list(value.shape[-dims:]), dtype=value.dtype, device=value.device
    )
    example = call.map(lambda item: channel if item is value else item).run()
    shape = [*value.shape[:-dims], *next(iter(leaves(example))).shape[-dims:]]
    result = _passed(call, recorder, numbers, shape, value)
    return (result, _indices(shape, value)) if call.family is Family.INDEXED_MAX_POOLING else result


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
    left, right = call.pair()
    return (_scaled if flow_of(left) is None or flow_of(right) is None else _join)(gates, call)


def _join(gates: Gates, call: Call) -> Any:
    recorder = recorder_of(gates)
    left, right = call.pair()
    if flow_of(left) is None or flow_of(right) is None or recenters(call):
        return plain(gates, call)
    both = torch.broadcast_tensors(left, right)  # type: ignore[no-untyped-call]
    pairs = np.stack(np.broadcast_arrays(numbers_of(both[0]), numbers_of(both[1])))
    joined = recorder.joined(pairs.reshape(2, -1)).reshape(pairs.shape[1:])
    return recorder.finish(call, recorder.hold(joined, both[0].shape), Flow())


def _scaled(gates: Gates, call: Call) -> Any:
    """A constant factor changes no unit, but where it is fixed at zero nothing passes."""
    left, right = call.pair()
    flows = (flow_of(left), flow_of(right))
    if (flows[0] is None) == (flows[1] is None) or (flows[0] is None and call.family is Family.DIVISION):
        return plain(gates, call)
    value, other = (left, right) if flows[0] is not None else (right, left)
    if not isinstance(other, Tensor):
        return value if call.in_place else gates.mark(value.view_as(value), flow_of(value) or Flow())
    gates.check_constant(call.func, other)
    wide, factor = torch.broadcast_tensors(value, other)  # type: ignore[no-untyped-call]
    closed = call.family is Family.MULTIPLICATION and not other.requires_grad
    numbers = numbers_of(wide) * (numbers_of(factor != 0) if closed else 1)
    return _passed(call, recorder_of(gates), numbers, wide.shape, value)


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
    return walk(call.run(), lambda value: gates.mark(torch.zeros_like(value), Flow(rank=3)))


def _accumulate(gates: Gates, call: Call) -> Any:
    """Sums over places: the units stay."""
    recorder = recorder_of(gates)
    target, dim, source = call.argument(0, "input"), call.argument(1, "dim"), call.argument(3, "source", "src")
    if flow_of(source) is None or "alpha" in call.kwargs:
        return plain(gates, call)
    numbers = recorder.merged(call, numbers_of(source), [dim])
    spread = recorder.hold(numbers, target.shape)
    gates.mark(spread, Flow())
    if flow_of(target) is None:
        gates.check_constant(call.func, target)
        return recorder.finish(call, spread, Flow())
    return gates.again(torch.Tensor.add_ if call.in_place else torch.add, target, spread)


def _unsupported(gates: Gates, call: Call) -> Any:
    raise gates.error(call.func, "has no meaning for walks along paths")


_SPATIAL = (
    *(Family.MAX_POOLING, Family.INDEXED_MAX_POOLING, Family.ADAPTIVE_MAX_POOLING, Family.RESIZING),
    *(Family.AVERAGE_POOLING, Family.ADAPTIVE_AVERAGE_POOLING),
)
_OWN: Handlers = {
    **{family: _gate(rank) for family, rank in GATE_RANKS.items()},
    Family.MATRIX_PRODUCT: weighted.product,
    Family.LINEAR: weighted.linear,
    Family.CONVOLUTION: weighted.convolution,
    Family.ATTENTION: weighted.attention,
    Family.MULTI_HEAD_ATTENTION: weighted.multi_head_attention,
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys((Family.MEAN, Family.SUM, Family.LARGEST), _reduce),
    **dict.fromkeys((Family.MAXIMUM, Family.LARGER), _maximum),
    **dict.fromkeys((Family.MULTIPLICATION, Family.DIVISION), _scaled),
    Family.STATISTIC: _statistic,
    Family.STRUCTURE: _structure,
    Family.CONCATENATION: _concatenate,
    Family.PADDING: _pad,
    Family.OVERLAPPING_SUM: _unsupported,
    Family.ACCUMULATION: _accumulate,
    Family.ADDITION: _join,
    Family.ASSIGNMENT: _set_item,
}
UNIT_HANDLERS: Handlers = {**IDENTITIES, **{family: _except_scores(handler) for family, handler in _OWN.items()}}
