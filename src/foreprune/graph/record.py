"""Records the units of a network, for walks along its paths.

The forward runs once with open gates on tensors that hold, instead of activations, the number of the unit each entry
belongs to. Views, permutations, concatenations and flattening then need no code of their own: what they do to the
numbers is what they do to the units. Weighted layers and additions are recorded; no convolution is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.core.net import Net, primary_output, scoring
from foreprune.core.task import Inputs
from foreprune.graph.gates import Call, Flow, Gates, Handler, PathError, flow_of, leaves, walk
from foreprune.graph.operations import HANDLERS
from foreprune.graph.units import Join, Layer, UnitGraph


def record_units(net: Net, inputs: Inputs) -> UnitGraph:
    """Record the units of `net` for inputs of the shape of `inputs`.

    Inputs are told apart entry by entry if the layers that read them do so (a multilayer perceptron), else by channel
    (axis 1), else by feature (last axis).

    Raises:
        PathError: an operation that mixes units of one layer in a way that walks cannot follow, or has no meaning for
            paths.
    """
    mixed: _Mixed | None = None
    for axis in (None, 1, -1):
        try:
            return _Recorder(net, axis).record(inputs)
        except _Mixed as error:
            mixed = error
    assert mixed is not None
    raise PathError(str(mixed))


class _Mixed(PathError):
    """Entries of different units meet where one unit is needed."""


@dataclass
class _Parameter:
    name: str
    start: int  # in bytes
    stop: int
    itemsize: int


@dataclass(eq=False)
class _Units:
    """What the recorder has numbered so far. Numbers count from 1 while recording; 0 is a constant."""

    axis: int | None
    count: int = 0
    nodes: list[Layer | Join] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)

    def fresh(self, size: int) -> Tensor:
        numbers = torch.arange(self.count + 1, self.count + 1 + size, device="cpu")
        self.count += size
        return numbers


class _Recorder(Gates):
    """The open-gate mode on unit numbers in float64, which holds them exactly."""

    def __init__(self, net: Net, axis: int | None) -> None:
        super().__init__(net, _HANDLERS)
        self.units = _Units(axis)
        self.parameters: dict[int, list[_Parameter]] = {}
        for name, value in net.params.items():
            first = value.data_ptr()
            span = _Parameter(name, first, first + value.numel() * value.element_size(), value.element_size())
            self.parameters.setdefault(value.untyped_storage().data_ptr(), []).append(span)

    def record(self, inputs: Inputs) -> UnitGraph:
        with torch.no_grad(), scoring(self.net), torch.no_grad(), self:
            start = inputs.map(self._start)
            result = start.call(lambda *args, **kwargs: self.net(self.net.params, *args, **kwargs))
            output = self.resolve(primary_output(result))
        if flow_of(output) is None:
            raise PathError("the output does not depend on the inputs through operations that walks can follow")
        outputs = torch.unique(_squeezed(output)).long()
        return UnitGraph(
            tuple(self.units.nodes),
            torch.cat(self.units.inputs) - 1,
            outputs[outputs > 0] - 1,
            self.units.count,
        )

    def _start(self, tensor: Tensor) -> Tensor:
        one = tensor[:1] if tensor.dim() else tensor
        return self.source(one) if one.is_floating_point() else self.ids(one.to(self.net.device, copy=True))

    def source(self, values: Tensor) -> Tensor:
        shape, axis = values.shape, self.units.axis
        if axis is None:
            numbers = self.units.fresh(values.numel()).view(shape)
        else:
            axis = axis if values.dim() > 2 else -1
            numbers = _along(self.units.fresh(shape[axis]), axis, shape)
        self.units.inputs.append(torch.unique(numbers))
        return self.mark(numbers.to(torch.float64).to(self.net.device), Flow())

    def weigh(self, call: Call, result: Tensor, exponent: int) -> Tensor:
        return self.finish(call, result, Flow())

    def positions(self, call: Call, weight: Tensor) -> tuple[str, Tensor]:
        """Name of the parameter that `weight` is (a view of), and the positions of its entries in it, as strides."""
        address = weight.data_ptr()
        for span in self.parameters.get(weight.untyped_storage().data_ptr(), ()):
            if span.start <= address < span.stop or span.start == span.stop:
                return span.name, torch.tensor((address - span.start) // span.itemsize, device="cpu")
        raise self.error(call.func, "uses a weight that is computed from parameters, whose units walks cannot follow")

    def layer(self, call: Call, weight: Tensor, sources: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Record a layer: `sources` (G, P) numbers of the unit behind each input position, `rows` (G, O) and `columns`
        (G, P, K) offsets in `weight`. Returns the numbers of the output units, (G, O)."""
        name, offset = self.positions(call, weight)
        targets = self.units.fresh(rows.numel()).view(rows.shape)
        units, grouped = _grouped(sources, columns)
        self.units.nodes.append(Layer(name, units - 1, targets - 1, rows + offset, grouped))
        return targets

    def mixed(self, call: Call, why: str) -> _Mixed:
        return _Mixed(str(self.error(call.func, why)))


def _along(numbers: Tensor, axis: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """`numbers` along one axis of a tensor of `shape`, the same everywhere else; no memory is taken."""
    view = [1] * len(shape)
    view[axis] = -1
    return numbers.view(view).expand(shape)


def _squeezed(values: Tensor) -> Tensor:
    """One entry along every axis over which the values do not change."""
    for axis in range(values.dim()):
        if values.size(axis) > 1 and (values.stride(axis) == 0 or _constant_over(values, axis)):
            values = values.narrow(axis, 0, 1)
    return values


def _constant_over(values: Tensor, axis: int) -> bool:
    return bool((values == values.narrow(axis, 0, 1)).all())


def _units_along(gates: _Recorder, call: Call, values: Tensor, axis: int) -> Tensor:
    """The unit numbers along `axis`, which must be the same at every place of the other axes."""
    axis %= values.dim()
    flat = _squeezed(values)
    if flat.numel() != flat.size(axis):
        raise gates.mixed(call, "sees different units at different places")
    return flat.flatten().expand(values.size(axis)).long()


def _grouped(sources: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Collect the positions (G, P, K) that belong to the same unit: units (G, I) and columns (G, I, K'), padded with
    -1.

    After a flattening the pixels of a channel are one kernel; a unit that is concatenated twice has two.
    """
    groups, _positions, width = columns.shape
    ascending = sources.size(1) < 2 or bool((sources[:, 1:] > sources[:, :-1]).all())
    if ascending and int(sources.min()) > 0:
        return sources, columns
    units = [torch.unique(row[row > 0]) for row in sources]
    most = max(len(row) for row in units)
    if any(len(row) != most for row in units):  # constants in some groups only
        units = [F.pad(row, (0, most - len(row)), value=0) for row in units]
    lists: list[list[Tensor]] = []
    for g in range(groups):
        order = sources[g].argsort(stable=True)
        order = order[sources[g][order] > 0]
        counts = torch.bincount(torch.searchsorted(units[g][units[g] > 0], sources[g][order]), minlength=most)
        lists.append(list(torch.split(columns[g][order].reshape(-1), (counts * width).tolist())))
    longest = max(len(entry) for row in lists for entry in row)
    padded = [torch.stack([F.pad(entry, (0, longest - len(entry)), value=-1) for entry in row]) for row in lists]
    return torch.stack(units), torch.stack(padded)


# --- handlers that differ from those of the plain mode ---------------------------------------------------------------


def _recorder(gates: Gates) -> _Recorder:
    assert isinstance(gates, _Recorder)
    return gates


def _shape_of(call: Call) -> torch.Size:
    """The shape the operation returns, without computing it."""

    def to_meta(value: Any) -> Any:
        return torch.empty(value.shape, dtype=torch.float32, device="meta") if isinstance(value, Tensor) else value

    result = call.func(*walk(call.args, to_meta), **walk(call.kwargs, to_meta))
    shape: torch.Size = next(value for value in leaves(result) if isinstance(value, Tensor)).shape
    return shape


def _linear(gates: Gates, call: Call) -> Any:
    recorder = _recorder(gates)
    value, weight = call.argument(0, "input"), call.argument(1, "weight")
    if flow_of(value) is None or flow_of(weight) is not None:
        raise gates.error(call.func, "computes its weight from the inputs, which has no meaning for paths")
    out, size = weight.shape
    units = _units_along(recorder, call, value, -1)
    rows = (torch.arange(out, device="cpu") * weight.stride(0))[None]
    columns = (torch.arange(size, device="cpu") * weight.stride(1))[None, :, None]
    targets = recorder.layer(call, weight, units[None], rows, columns)
    return _numbered(recorder, call, targets, -1, (*value.shape[:-1], out))


def _convolution(gates: Gates, call: Call) -> Any:
    recorder = _recorder(gates)
    value, weight = call.argument(0, "input"), call.argument(1, "weight")
    if flow_of(value) is None or flow_of(weight) is not None:
        raise gates.error(call.func, "computes its weight from the inputs, which has no meaning for paths")
    transposed = "transpose" in call.name
    dims = weight.dim() - 2
    groups = call.argument(6, "groups") or 1
    axis = value.dim() - dims - 1
    units = _units_along(recorder, call, value, axis).view(groups, -1)
    kernel = torch.zeros(1, dtype=torch.long, device="cpu")
    for size, stride in zip(weight.shape[2:], weight.stride()[2:], strict=True):
        kernel = (kernel[:, None] + torch.arange(size, device="cpu") * stride).flatten()
    group = torch.arange(groups, device="cpu")[:, None]
    if transposed:  # (in, out / groups, ...)
        inside, outside = weight.size(0) // groups, weight.size(1)
        rows = torch.arange(outside, device="cpu")[None] * weight.stride(1) + torch.zeros_like(group)
        entries = (group * inside + torch.arange(inside, device="cpu")[None]) * weight.stride(0)
    else:  # (out, in / groups, ...)
        inside, outside = weight.size(1), weight.size(0) // groups
        rows = (group * outside + torch.arange(outside, device="cpu")[None]) * weight.stride(0)
        entries = torch.arange(inside, device="cpu")[None] * weight.stride(1) + torch.zeros_like(group)
    targets = recorder.layer(call, weight, units, rows, entries[:, :, None] + kernel)
    return _numbered(recorder, call, targets, axis, _shape_of(call))


def _numbered(
    recorder: _Recorder, call: Call, targets: Tensor, axis: int, shape: torch.Size | tuple[int, ...]
) -> Tensor:
    numbers = _along(targets.flatten().to(torch.float64).to(recorder.net.device), axis, shape)
    return recorder.finish(call, numbers, Flow())


def _product(gates: Gates, call: Call) -> Any:
    """A matrix product: with a parameter on the right a linear layer, with constants (attention) a mixing of places."""
    recorder = _recorder(gates)
    operands = [value for value in leaves((call.args, call.kwargs)) if isinstance(value, Tensor)]
    if sum(flow_of(value) is not None for value in operands) != 1:
        return HANDLERS["matmul"](gates, call)
    if call.name in ("addmm", "addmv", "baddbmm"):
        operands = operands[1:]
    if len(operands) != 2 or call.name in ("einsum", "tensordot"):
        raise gates.error(call.func, "is a product whose units walks cannot follow; write it with linear or matmul")
    left, right = operands
    if flow_of(left) is not None and right.untyped_storage().data_ptr() in recorder.parameters:
        return _linear(gates, Call(F.linear, (left, right.t()), {}, False))
    shape = _shape_of(Call(torch.matmul, (left, right), {}, False))
    value, axis = (right, -1) if flow_of(right) is not None else (left, -2)
    return _numbered(recorder, call, _units_along(recorder, call, value, axis)[None], axis, shape)


def _attention(gates: Gates, call: Call) -> Any:
    """Uniform attention mixes places, not channels: the output has the units of the values."""
    recorder = _recorder(gates)
    query, value = call.argument(0, "query"), call.argument(2, "value")
    if flow_of(value) is None:
        raise gates.error(call.func, "attends to constant values, which has no meaning for paths")
    if not _constant_over(value, value.dim() - 2):
        raise recorder.mixed(call, "mixes places that hold different units")
    shape = (*value.shape[:-2], query.shape[-2], value.shape[-1])
    return recorder.finish(call, value.narrow(-2, 0, 1).expand(shape), Flow())


def _multi_head_attention(gates: Gates, call: Call) -> Any:
    raise gates.error(call.func, "packs three projections and heads into one step, which walks cannot follow")


def _spatial(gates: Gates, call: Call) -> Any:
    """Pooling and resizing work within a channel, so the units stay."""
    recorder = _recorder(gates)
    value = call.args[0] if call.args else call.argument(0, "input")
    shape = _shape_of(call)
    first = value
    for axis in range(2 if value.dim() == len(shape) and value.dim() > 2 else 1, value.dim()):
        if value.size(axis) > 1 and not _constant_over(value, axis):
            raise recorder.mixed(call, "pools over places that hold different units")
        first = first.narrow(axis, 0, 1)
    numbers = recorder.finish(call, first.expand(shape), Flow())
    return (numbers, numbers) if call.name.endswith("_with_indices") else numbers


def _reduce(gates: Gates, call: Call) -> Any:
    """A mean or sum over places keeps the units; over units it would join them."""
    recorder = _recorder(gates)
    value = call.argument(0, "input")
    others = {key: item for key, item in call.kwargs.items() if key in ("dim", "axis", "keepdim")}
    dims = [item for item in call.args[1:2] if not isinstance(item, (torch.dtype, Tensor))]
    if len(call.args) > 2:
        others["keepdim"] = call.args[2]
    if not dims and "dim" not in others and "axis" not in others:
        dims = [tuple(range(value.dim()))]
    dim = dims[0] if dims else others.pop("dim", others.pop("axis", None))
    low, high = (function(value, dim, others.get("keepdim", False)) for function in (torch.amin, torch.amax))
    if not torch.equal(low, high):
        raise recorder.mixed(call, "adds up different units of one layer")
    return recorder.finish(call, high, Flow())


def _join(gates: Gates, call: Call) -> Any:
    recorder = _recorder(gates)
    left, right = call.argument(0, "input"), call.argument(1, "other")
    flows = (flow_of(left), flow_of(right))
    if flows[0] is None or flows[1] is None or flows[0].logits or flows[1].logits:
        return HANDLERS["add"](gates, call)
    if call.name in ("sub", "subtract") and right.numel() < left.numel():
        return HANDLERS["sub"](gates, call)
    shape = torch.broadcast_tensors(left, right)[0].shape  # type: ignore[no-untyped-call]
    small = [_squeezed(value.expand(shape)) for value in (left, right)]
    pairs = torch.stack(torch.broadcast_tensors(*small)).long()  # type: ignore[no-untyped-call]
    numbers, where = torch.unique(pairs.flatten(1), dim=1, return_inverse=True)
    targets = recorder.units.fresh(numbers.size(1))
    recorder.units.nodes.append(Join(numbers.cpu() - 1, targets - 1))
    joined = targets.to(torch.float64).to(left.device)[where].view(pairs.shape[1:]).expand(shape)
    return recorder.finish(call, joined, Flow())


def _scaled(gates: Gates, call: Call) -> Any:
    """A constant factor changes no unit."""
    left, right = call.argument(0, "input"), call.argument(1, "other")
    flows = (flow_of(left), flow_of(right))
    one_sided = (flows[0] is None) != (flows[1] is None)
    if not one_sided or (flows[0] or flows[1]).logits or (call.name in _DIVISIONS and flows[0] is None):  # type: ignore[union-attr]
        return HANDLERS[call.name](gates, call)
    value, other = (left, right) if flows[0] is not None else (right, left)
    flow = flow_of(value)
    assert flow is not None
    shape = torch.broadcast_tensors(value, other)[0].shape if isinstance(other, Tensor) else value.shape  # type: ignore[no-untyped-call]
    return gates.finish(call, value.expand(shape).clone(), flow)


_DIVISIONS = ("div", "divide", "true_divide")


def _unsupported(gates: Gates, call: Call) -> Any:
    raise gates.error(call.func, "has no meaning for walks along paths")


def _table() -> dict[str, Handler]:
    words: dict[Callable[[Gates, Call], Any], str] = {
        _linear: "linear",
        _convolution: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
        _product: "matmul rmatmul mm bmm mv addmm addmv baddbmm einsum tensordot",
        _attention: "scaled_dot_product_attention",
        _multi_head_attention: "multi_head_attention_forward",
        _spatial: """avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
            max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
            adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d interpolate upsample""",
        _reduce: "mean sum amax",
        _join: "add sub subtract rsub",
        _scaled: "mul multiply div divide true_divide",
        _unsupported: "cumsum max fold unfold",
    }
    return {**HANDLERS, **{name: handler for handler, names in words.items() for name in names.split()}}


_HANDLERS = _table()
