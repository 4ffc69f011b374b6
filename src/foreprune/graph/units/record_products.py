"""Matrix products of unit numbers: linear layers in all their notations, and attention."""

from __future__ import annotations

import inspect
import math
import string

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.graph.sums.gates import Call, Flow, Gates, flow_of, leaves
from foreprune.graph.sums.operations import HANDLERS
from foreprune.graph.units.recorder import Recorder, numbers_of, recorder_of
from foreprune.graph.units.units import Ints

Labels = tuple[str, str, str]  # a letter for each axis: of the factor, of the numbers, of the result, as in einsum


def linear(gates: Gates, call: Call) -> Tensor:
    """(..., in) times (out, in), or a weight (in,) alone."""
    value, weight = call.argument(0, "input"), call.argument(1, "weight")
    places = string.ascii_letters[2 : value.dim() + 1]
    ours = "ab" if weight.dim() == 2 else "b"
    return _contract(recorder_of(gates), call, weight, value, (ours, places + "b", places + ours[:-1]))


def product(gates: Gates, call: Call) -> Tensor:
    """A matrix product or einsum: with a parameter a linear layer, with constants (attention) a mixing of places."""
    operands = [value for value in leaves((call.args, call.kwargs)) if isinstance(value, Tensor)]
    added = call.name in ("addmm", "addmv", "baddbmm")
    plain = not added or (flow_of(operands[0]) is None and "alpha" not in call.kwargs)
    if not plain or sum(flow_of(value) is not None for value in operands) != 1:
        result: Tensor = HANDLERS[call.name](gates, call)
        return result
    operands = operands[1:] if added else operands[::-1] if call.name == "rmatmul" else operands
    equation = call.args[0] if call.name == "einsum" else ""
    if len(operands) != 2 or call.name == "tensordot" or "." in equation:
        raise gates.error(
            call.func, "is a product that walks cannot follow; write it with linear, matmul or einsum of two tensors"
        )
    labels = _einsum_labels(equation) if equation else _matmul_labels(operands[0].dim(), operands[1].dim())
    if flow_of(operands[0]) is not None:
        operands, labels = operands[::-1], (labels[1], labels[0], labels[2])
    return _contract(recorder_of(gates), call, operands[0], operands[1], labels)


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
    recorder.check_weight(call, factor, value)
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
    query, value = call.argument(0, "query"), call.argument(2, "value")
    if flow_of(value) is None:
        raise gates.error(call.func, "attends to constant values, which has no meaning for paths")
    numbers = recorder.merged(call, numbers_of(value), [-2])
    if numbers.ndim > 2 and numbers.shape[-3] > 1:  # grouped queries: each head of the values serves several of them
        numbers = numbers.repeat(query.size(-3) // value.size(-3), axis=-3)
    return recorder.finish(call, recorder.hold(numbers, (*query.shape[:-1], value.shape[-1])), Flow())


def multi_head_attention(gates: Gates, call: Call) -> tuple[Tensor, Tensor | None]:
    """torch's own attention: the projection of the values, uniform attention, the projection of the output."""
    recorder = recorder_of(gates)
    bound = inspect.signature(F.multi_head_attention_forward).bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    given = bound.arguments
    query, value = given["query"], given["value"]
    if flow_of(value) is None or given["static_v"] is not None:
        raise gates.error(call.func, "attends to constant values, which has no meaning for paths")
    packed = given["in_proj_weight"]
    weight = given["v_proj_weight"] if packed is None else packed[2 * given["embed_dim_to_check"] :]
    values = linear(gates, Call(call.func, (value, weight), {}, False))
    numbers = recorder.merged(call, numbers_of(values), [0])
    mixed = recorder.mark(recorder.hold(numbers, (len(query), *values.shape[1:])), Flow())
    output = linear(gates, Call(call.func, (mixed, given["out_proj_weight"]), {}, False))
    if not given["need_weights"]:
        return output, None
    heads = () if given["average_attn_weights"] else (given["num_heads"],)
    weights = (*query.shape[1:-1], *heads, len(query), len(value))
    return output, torch.full(weights, 1 / len(value), device=query.device)
