"""Operations with weights on unit numbers: convolutions, linear layers in all their notations, and attention."""

from __future__ import annotations

import math
import string
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreprune.graph.sums.gates import Call, Flow, Gates, flow_of
from foreprune.graph.sums.operations import plain
from foreprune.graph.sums.products import attended, attending, check_weight, learned_scores, multi_head_arguments
from foreprune.graph.units.recorder import COMPUTED, Recorder, along, numbers_of, recorder_of
from foreprune.graph.units.unit_graph import Ints

Labels = tuple[str, str, str]  # a letter for each axis: of the factor, of the numbers, of the result, as in einsum


def convolution(gates: Gates, call: Call) -> Tensor:
    """One layer, whose weights between two channels are a kernel."""
    recorder = recorder_of(gates)
    value, weight = call.argument(0, "input"), call.argument(1, "weight")
    check_weight(gates, call, weight, value)
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


def linear(gates: Gates, call: Call) -> Tensor:
    """(..., in) times (out, in), or a weight (in,) alone."""
    value, weight = call.argument(0, "input"), call.argument(1, "weight")
    places = string.ascii_letters[2 : value.dim() + 1]
    ours = "ab" if weight.dim() == 2 else "b"
    return _contract(recorder_of(gates), call, weight, value, (ours, places + "b", places + ours[:-1]))


def product(gates: Gates, call: Call) -> Tensor:
    """A matrix product or einsum: with a parameter a linear layer, with constants (attention) a mixing of places."""
    call = attending(call)
    operands = call.tensors()
    if sum(flow_of(value) is not None for value in operands) != 1:
        result: Tensor = plain(gates, call)
        return result
    operands = operands[::-1] if call.name == "rmatmul" else operands
    equation = call.args[0] if call.name == "einsum" else ""
    if len(operands) != 2 or call.name == "tensordot" or "." in equation:
        raise gates.error(
            call.func, "is a product that walks cannot follow; write it with linear, matmul or einsum of two tensors"
        )
    labels = _einsum_labels(equation) if equation else _matmul_labels(operands[0].dim(), operands[1].dim())
    if flow_of(operands[0]) is not None:
        operands, labels = operands[::-1], (labels[1], labels[0], labels[2])
    recorder, factor = recorder_of(gates), operands[0]
    if factor.requires_grad and not recorder.is_parameter(factor):  # computed from parameters: relative positions?
        gates.check_constant(call.func, factor)
        return learned_scores(gates, call, COMPUTED)
    return _contract(recorder, call, factor, operands[1], labels)


def _matmul_labels(left: int, right: int) -> Labels:
    batch = string.ascii_letters[3 : 1 + max(left, right, 2)]
    before, after = ("a" if left > 1 else ""), ("c" if right > 1 else "")
    ours, theirs = (batch[len(batch) - max(dims - 2, 0) :] for dims in (left, right))
    return ours + before + "b", theirs + "b" + after, batch + before + after


def _einsum_labels(equation: str) -> Labels:
    terms, arrow, out = equation.replace(" ", "").partition("->")
    left, right = terms.split(",")
    if not arrow:
        out = "".join(sorted(label for label in set(left + right) if (left + right).count(label) == 1))
    return left, right, out


def _contract(recorder: Recorder, call: Call, factor: Tensor, value: Tensor, labels: Labels) -> Tensor:
    """The product of `factor` (a parameter, a constant) and numbers, summed over the axes that the result lacks."""
    check_weight(recorder, call, factor, value)
    ours, theirs, out = labels
    for axis, label in reversed(list(enumerate(ours))):
        if label in theirs and factor.size(axis) == 1 < value.size(theirs.index(label)):
            factor, ours = factor.squeeze(axis), ours[:axis] + ours[axis + 1 :]  # broadcast: one weight for all places
    sizes = {label: max(_size(factor, ours, label), _size(value, theirs, label)) for label in ours + theirs}
    own = [label for label in ours if label not in theirs]
    groups = [label for label in ours if label in theirs and label in out]
    summed = [label for label in ours if label in theirs and label not in out]
    places = [label for label in theirs if label not in ours]
    if any(label not in out for label in own + places) or any(len(set(term)) < len(term) for term in labels):
        raise recorder.error(call.func, "is a product that walks cannot follow; write it with linear or matmul")

    # the units as (places, groups, summed), with one place wherever all hold the same units
    numbers = numbers_of(value)
    shape = [numbers.shape[axis] if label in places else sizes[label] for axis, label in enumerate(theirs)]
    spans = [shape[theirs.index(label)] for label in places]
    order = [theirs.index(label) for label in places + groups + summed]
    units = np.broadcast_to(numbers, shape).transpose(order)
    units = units.reshape(math.prod(spans), math.prod(sizes[label] for label in groups), -1)

    weighted = factor.requires_grad or recorder.is_parameter(factor)
    if not weighted and (len(units) > 1 or not (units[..., :1] != units).any()):  # attention, say
        found, width = recorder.merged(call, units, [2]), [1 for _ in own]
    else:
        found, width = _layers(recorder, call, factor, ours, (groups, own, summed), units), [sizes[x] for x in own]
    found = found.reshape([*spans, *(sizes[label] for label in groups), *width])
    found = found.transpose([(places + groups + own).index(label) for label in out])
    return recorder.finish(call, recorder.hold(found, [sizes[label] for label in out]), Flow())


def _layers(
    recorder: Recorder, call: Call, factor: Tensor, labels: str, names: tuple[list[str], ...], units: Ints
) -> Ints:
    """Record one layer for each kind of place; numbers of the output units as (places, groups, own)."""
    kinds, where = recorder.classes(call, units.reshape(len(units), -1))
    name, factor, offset = recorder.weight(call, factor)
    group, row, column = (_offsets(factor, labels, axes) for axes in names)
    rows = group[:, None] + row + offset
    columns = np.broadcast_to(column, units.shape[1:])[:, :, None]
    return np.stack([recorder.layer(name, kind.reshape(units.shape[1:]), rows, columns) for kind in kinds])[where]


def _size(tensor: Tensor, labels: str, label: str) -> int:
    return tensor.size(labels.index(label)) if label in labels else 1


def _offsets(tensor: Tensor, labels: str, axes: list[str]) -> Ints:
    """Positions of the entries along some axes, flattened in that order."""
    found = np.zeros(1, np.int64)
    for label in axes:
        axis = labels.index(label)
        found = (found[:, None] + np.arange(tensor.size(axis)) * tensor.stride(axis)).ravel()
    return found


def attention(gates: Gates, call: Call) -> Tensor:
    """Uniform attention mixes places, not channels: the output has the units of the values."""
    recorder = recorder_of(gates)
    query, value = call.argument(0, "query"), attended(gates, call, call.argument(2, "value"))
    numbers = recorder.merged(call, numbers_of(value), [-2])
    if numbers.ndim > 2 and numbers.shape[-3] > 1:  # grouped queries: each head of the values serves several of them
        numbers = numbers.repeat(query.size(-3) // value.size(-3), axis=-3)
    return recorder.finish(call, recorder.hold(numbers, (*query.shape[:-1], value.shape[-1])), Flow())


def multi_head_attention(gates: Gates, call: Call) -> tuple[Tensor, Tensor | None]:
    """torch's own attention: the projection of the values, uniform attention, the projection of the output."""
    recorder = recorder_of(gates)
    given = multi_head_arguments(call)
    query, value = given["query"], attended(gates, call, given["value"] if given["static_v"] is None else None)
    packed = given["in_proj_weight"]
    weight = given["v_proj_weight"] if packed is None else packed[2 * given["embed_dim_to_check"] :]
    values = linear(gates, Call(call.func, (value, weight), {}))
    numbers = recorder.merged(call, numbers_of(values), [0])
    mixed = recorder.mark(recorder.hold(numbers, (len(query), *values.shape[1:])), Flow())
    output = linear(gates, Call(call.func, (mixed, given["out_proj_weight"]), {}))
    if not given["need_weights"]:
        return output, None
    heads = () if given["average_attn_weights"] else (given["num_heads"],)
    weights = (*query.shape[1:-1], *heads, len(query), len(value))
    return output, torch.full(weights, 1 / len(value), device=query.device)
