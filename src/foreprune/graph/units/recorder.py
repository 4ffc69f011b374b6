"""The mode that numbers the units of a network while its forward runs.

Tensors hold, instead of activations, the number of the unit that each entry belongs to. Views, permutations,
concatenations and flattening then need no code of their own: what they do to the numbers is what they do to the units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreprune.core.net import Net
from foreprune.graph.sums.gates import Call, Flow, Gates, Handlers, PathError, flow_of
from foreprune.graph.sums.samples import Sample
from foreprune.graph.units.unit_graph import Ints, Join, Layer, UnitGraph

_MOST = 8  # kinds of places a layer may read without one unit for all of them; a class token makes two
COMPUTED = "uses a weight that is computed from parameters, which walks cannot follow"
_SHARED = "_foreprune_shared"
Axis = int | Literal["none"] | None


class Mixed(PathError):
    """Entries of different units meet where one unit is needed; perhaps the inputs are numbered too finely."""


class Aliased(Exception):
    """An addition in place changes a tensor of which there are views: numbers must lie in memory as activations do."""


@dataclass(frozen=True)
class _Span:
    """The memory of a parameter, in bytes."""

    name: str
    start: int
    stop: int
    itemsize: int


class Recorder(Gates):
    """The open-gate mode on unit numbers, as floating-point numbers. They count from 1; 0 is a constant.

    Args:
        net: the network.
        handlers: what each operation does to the numbers.
        axis: inputs are numbered along this axis, what token ids embed as along the last; None numbers every entry,
            and "none" gives each input one number.
        dense: give every tensor memory of its own, so that writing into views works. Otherwise most are expanded, which
            costs nothing however large the images are.
    """

    def __init__(self, net: Net, handlers: Handlers, *, axis: Axis, dense: bool) -> None:
        super().__init__(net, handlers)
        self.axis, self.dense = axis, dense
        self.count = 0
        self.nodes: list[Layer | Join] = []
        self.inputs: list[Ints] = []
        self.raw: list[Ints] = []  # inputs, and sums of them that no layer came before
        self.constants: dict[str, Tensor] = {}
        # one precision throughout, as in the plain mode; contiguous, so that places in memory are positions; recording
        # gradients, so that what was computed from parameters can be told from constants
        double = any(value.dtype == torch.float64 for value in net.params.values())
        self.dtype = torch.float64 if double else torch.float32
        self.params = {
            name: value.detach().to(self.dtype).contiguous().requires_grad_() if value.is_floating_point() else value
            for name, value in net.params.items()
        }
        self.spans: dict[int, list[_Span]] = {}
        for name, value in self.params.items():
            first = value.data_ptr()
            span = _Span(name, first, first + value.numel() * value.element_size(), value.element_size())
            self.spans.setdefault(value.untyped_storage().data_ptr(), []).append(span)

    def record(self, sample: Sample) -> UnitGraph:
        """Run the forward on numbers. Raises Mixed, Aliased and PathError."""

        def start(one: Tensor) -> Tensor:
            if id(one) in sample.constants:
                return one.to(self.net.device, self.dtype)
            return self.source(one) if one.is_floating_point() else self.ids(one.to(self.net.device, copy=True))

        output, _ = self.forward(self.params, sample.inputs, start)
        outputs = np.sort(numbers_of(output), axis=None)
        outputs = outputs[np.diff(outputs, prepend=0) > 0]  # without repetitions and without 0
        inputs_ = np.concatenate(self.inputs) if self.inputs else np.zeros(0, np.int64)
        return UnitGraph(tuple(self.nodes), inputs_ - 1, outputs - 1, self.count, self.constants)

    def source(self, values: Tensor, *, looked_up: bool = False) -> Tensor:
        shape = tuple(values.shape)
        if self.axis is None or not shape:
            numbers = self.fresh(values.numel()).reshape(shape)
        elif self.axis == "none" and not looked_up:
            numbers = self.fresh(1).reshape([1] * len(shape))
        else:
            axis = self.axis if len(shape) > 2 and isinstance(self.axis, int) and not looked_up else -1
            numbers = along(self.fresh(shape[axis]), axis, len(shape))
        self.inputs.append(numbers.ravel())
        self.raw += [numbers.ravel()] if numbers.size else []
        return self.mark(self.hold(numbers, shape), Flow())

    def met(self, call: Call) -> Tensor:
        """The output is a product of two towers: walks end, or begin, at the outputs of both."""
        ends = [numbers_of(value).ravel() for value in call.tensors() if flow_of(value) is not None]
        numbers = np.concatenate(ends)
        return self.mark(self.hold(numbers, numbers.shape), Flow())

    def _weight_norm(self, direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
        return direction

    def weighted_sum(self, call: Call, result: Tensor, exponent: int) -> Tensor:
        return self.finish(call, result, Flow())

    def fresh(self, size: int) -> Ints:
        """Numbers of new units. Raises Mixed if there are more than a number in a tensor can tell apart."""
        self.count += size
        if self.count > 2 / torch.finfo(self.dtype).eps:
            raise Mixed(f"the network has more than {self.count - size:,} units, and walks can follow no more")
        return np.arange(self.count - size + 1, self.count + 1)

    def hold(self, numbers: Ints, shape: Sequence[int]) -> Tensor:
        """A tensor of `shape` that holds `numbers`, which broadcast to it. It records gradients, by which tensors
        computed from it outside torch functions are found."""
        held = torch.from_numpy(numbers).to(self.net.device, self.dtype).requires_grad_()
        self.sources.append(held)
        wide = held.expand(tuple(shape))
        return wide.clone(memory_format=torch.contiguous_format) if self.dense else wide

    def finish(self, call: Call, result: Tensor, flow: Flow) -> Tensor:
        """Mark the result; one that belongs in place is written there, where views see it, or stands for it."""
        if call.in_place and flow_of(call.args[0]) is not None and result is not call.args[0]:
            target: Tensor = call.args[0]
            self.check_unshared(target)
            if self.dense:
                with torch.no_grad():
                    result = target.copy_(result)
        return super().finish(call, result, flow)

    @staticmethod
    def share(tensors: Iterable[Tensor]) -> None:
        """Note that these tensors may share memory with others."""
        for tensor in tensors:
            setattr(tensor, _SHARED, True)

    def check_unshared(self, tensor: Tensor) -> None:
        """Before a change in place. Raises Aliased if views would have to see it, and cannot."""
        if not self.dense and hasattr(tensor, _SHARED):
            raise Aliased

    def mixed(self, call: Call) -> Mixed:
        why = (
            "uses each of its weights for several units at once, as layers that mix tokens or positions do, so walks "
            "from unit to unit cannot follow"
        )
        return Mixed(str(self.error(call.func, why)).replace("a method that", "'synflow', or a method that"))

    def merged(self, call: Call, numbers: Ints, axes: Iterable[int], *, inputs: bool = False) -> Ints:
        """One unit for all places along `axes`, of size 1: theirs if they agree (constants aside), else their sum.

        Raises:
            Mixed: units of the inputs would have to be summed, and not `inputs`.
        """
        axes = tuple(axis % numbers.ndim for axis in axes)
        if not numbers.size:
            raise self.error(call.func, "works on an empty tensor")
        top: Ints = numbers.max(axis=axes, keepdims=True)
        odd = (numbers != top) & (numbers != 0)
        if not odd.any():
            return top
        if not inputs and (self.of_inputs(numbers) & odd.any(axes, keepdims=True)).any():
            raise self.mixed(call)
        alternatives = np.sort(np.moveaxis(numbers, axes, range(len(axes))).reshape(-1, top.size), axis=0)
        again = alternatives[1:] == alternatives[:-1]
        alternatives[1:][again] = 0
        return self.joined(alternatives).reshape(top.shape)

    def of_inputs(self, numbers: Ints) -> NDArray[np.bool_]:
        """Which of the units are inputs, or sums of nothing else."""
        found = np.zeros(numbers.shape, bool)
        for made in self.raw:
            found |= (numbers >= made[0]) & (numbers <= made[-1])
        return found

    def joined(self, branches: Ints) -> Ints:
        """Numbers of the units that sum up each column of `branches` (B, U). A sum of one unit is that unit."""
        columns, where = np.unique(branches, axis=1, return_inverse=True)
        numbers: Ints = columns.max(axis=0)
        several = np.count_nonzero(columns, axis=0) > 1
        if several.any():
            targets = self.fresh(int(several.sum()))
            sources = np.sort(columns[:, several], axis=0)[::-1]
            self.nodes.append(Join(sources[sources.any(axis=1)] - 1, targets - 1))
            numbers[several] = targets
            if self.of_inputs(sources[sources > 0]).all():
                self.raw.append(targets)
        return numbers[where.reshape(-1)]

    def classes(self, call: Call, places: Ints) -> tuple[Ints, Ints]:
        """The distinct rows of `places` (P, n), units by place, and which of them each place has.

        Raises:
            Mixed: too many, or units of the inputs.
        """
        if len(places) == 1:
            return places, np.zeros(1, np.int64)
        kinds, where = np.unique(places, axis=0, return_inverse=True)
        odd = (kinds != kinds.max(axis=0)) & (kinds != 0)
        if odd.any() and (len(kinds) > _MOST or self.of_inputs(kinds).any()):
            raise self.mixed(call)
        if len(kinds) > _MOST:  # they differ by constants alone, as under a mask
            return kinds.max(axis=0, keepdims=True), np.zeros(len(places), np.int64)
        return kinds, where.reshape(-1)

    def is_parameter(self, weight: Tensor) -> bool:
        """Whether `weight` is a parameter or a view of one."""
        if weight.layout != torch.strided:
            return False
        return weight.untyped_storage().data_ptr() in self.spans

    def weight(self, call: Call, weight: Tensor) -> tuple[str, Tensor, int]:
        """The parameter that `weight` is (a view of): its name, `weight` itself for its strides, and the position of
        its first entry. Constants get a name.

        Raises:
            PathError: it is computed from parameters.
        """
        address = weight.data_ptr()
        for span in self.spans.get(weight.untyped_storage().data_ptr(), ()):
            if span.start <= address < span.stop:
                return span.name, weight, (address - span.start) // span.itemsize
        if weight.requires_grad:
            self.check_constant(call.func, weight)
            raise self.error(call.func, COMPUTED)
        name = f"(constant {len(self.constants)})"
        self.constants[name] = weight.detach().contiguous()
        return name, self.constants[name], 0

    def layer(self, name: str, sources: Ints, rows: Ints, columns: Ints) -> Ints:
        """Record a layer and return the numbers of its output units, (G, O).

        Args:
            name: of its weight.
            sources: (G, P) the unit behind each input position, 0 for constants.
            rows: (G, O) positions in the weight.
            columns: (G, P, K) positions relative to those.
        """
        if not sources.any() or not columns.size:
            return np.zeros_like(rows)
        targets = self.fresh(rows.size).reshape(rows.shape)
        units, grouped = _by_unit(sources, columns)
        self.nodes.append(Layer(name, units - 1, targets - 1, rows, grouped))
        return targets


def recorder_of(gates: Gates) -> Recorder:
    """The mode that a handler is called with, as what it is."""
    assert isinstance(gates, Recorder)
    return gates


def along(numbers: Ints, axis: int, dims: int) -> Ints:
    """`numbers` along one axis of `dims`, with size 1 along the others."""
    shape = [1] * dims
    shape[axis] = -1
    return numbers.reshape(shape)


def numbers_of(values: Tensor) -> Ints:
    """The numbers that `values` holds, with one entry along every axis over which they do not change."""
    values = values.detach()
    for axis in range(values.dim()):
        if values.size(axis) > 1 and values.stride(axis) == 0:
            values = values.narrow(axis, 0, 1)
    for axis in range(values.dim()):
        if values.size(axis) > 1 and bool((values == values.narrow(axis, 0, 1)).all()):
            values = values.narrow(axis, 0, 1)
    return values.cpu().numpy().astype(np.int64)


def _by_unit(sources: Ints, columns: Ints) -> tuple[Ints, Ints]:
    """Collect the positions (G, P, K) that belong to the same unit: units (G, I) and columns (G, I, K').

    After a flattening the pixels of a channel are one kernel; a unit that is concatenated twice has two. Constants drop
    out.
    """
    if sources.all() and (sources[:, 1:] > sources[:, :-1]).all():
        return sources, columns
    order = np.argsort(sources, axis=1, kind="stable")
    ordered = np.take_along_axis(sources, order, axis=1)
    first = np.diff(ordered, axis=1, prepend=0) > 0
    real = ordered > 0
    unit = (np.cumsum(first, axis=1) - 1)[real]
    places = np.broadcast_to(np.arange(sources.shape[1]), sources.shape)
    rank = (places - np.maximum.accumulate(np.where(first, places, 0), axis=1))[real]
    group = np.nonzero(real)[0]
    units = np.zeros((len(sources), int(unit.max()) + 1), np.int64)
    units[group, unit] = ordered[real]
    found = np.full((*units.shape, int(rank.max()) + 1, columns.shape[2]), -1)
    found[group, unit, rank] = columns[group, order[real]]
    return units, found.reshape(*units.shape, -1)
