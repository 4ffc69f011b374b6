"""What each family of torch functions becomes when the gates are open: one handler each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foreprune.graph.sums import products
from foreprune.graph.sums.gates import Call, Flow, Gates, Handler, Handlers, flow_of, known_flow, leaves
from foreprune.graph.sums.scores import along, masked, scores
from foreprune.graph.vocabulary import Family

_BILINEAR = " (state-space scans and products of features do; a gate needs a sigmoid, an activation or a softmax)"
_SHIFT = 60  # the largest power of two by which an addition in place scales what it adds


def open_gate(rank: int) -> Handler:
    """Activations, dropout, normalizations: an open gate passes its input on."""

    def handle(gates: Gates, call: Call) -> Any:
        value = call.first()
        flow = flow_of(value)
        if flow is None:
            raise gates.error(
                call.func, "takes the network's activations as a parameter, which has no meaning for paths"
            )
        in_place = call.in_place or call.kwargs.get("inplace", False)
        # a copy, as the real operation makes one: an addition in place may change the input afterwards
        return gates.mark(value if in_place else value.clone(), flow.with_rank(max(rank, flow.rank)))

    return handle


def structure(gates: Gates, call: Call) -> Any:
    """Rearranging, selecting, averaging, pooling: executed as it is. Constants in a concatenation become zeros."""
    flows = call.flows()
    exponent = max(flow.exponent for flow in flows)
    first = call.first()
    if not isinstance(first, Tensor) or len(call.tensors()) > 1:
        call = call.map(lambda value: _aligned(gates, call, value, exponent))
    result = call.run()
    logits = [flow for flow in flows if flow.logits]
    flow = Flow(exponent, max(flow.rank for flow in flows), bool(logits), any(flow.chained for flow in logits))
    if len(flows) == 1 and logits:
        flow = logits[0]
    for at, value in enumerate(leaves(result)):
        if isinstance(value, Tensor) and value.is_floating_point() and value is not first:
            gates.mark(value, _rearranged(gates, call, flow, at) if len(flows) == 1 else flow)
    return result


def _rearranged(gates: Gates, call: Call, flow: Flow, at: int) -> Flow:
    """The flow of one result, with what its activations are as attention scores or weights."""
    value = call.first()
    old = flow_of(value)
    if old is None or call.family is not Family.STRUCTURE or (old.masked is None and old.attention is None):
        return flow

    def change(shadow: Tensor) -> Tensor:
        found: Tensor = list(leaves(call.map(lambda item: shadow if item is value else item).run()))[at]
        return found

    old = along(old, change)
    return replace(flow, masked=old.masked, attention=old.attention)


def _glu(gates: Gates, call: Call) -> Any:
    """a * sigmoid(b): the gate b is open."""
    value = call.argument(0, "input")
    return gates.mark(halves(call)[0].clone(), known_flow(value))


def halves(call: Call) -> tuple[Tensor, Tensor]:
    """What a gated linear unit passes on, and its gate."""
    value, dim = call.argument(0, "input"), call.argument(1, "dim")
    passed, gate = value.chunk(2, -1 if dim is None else dim)
    return passed, gate


def _constant(gates: Gates, call: Call) -> Any:
    """New tensors that take only shape and type from the activations."""
    return call.run()


def _statistic(gates: Gates, call: Call) -> Any:
    """Variances and norms: they scale activations, so they count as gates and their value does not matter."""
    result = call.run()
    for value in leaves(result):
        gates.mark(value, Flow(rank=3))
    return result


def _aligned(gates: Gates, call: Call, value: Any, exponent: int) -> Any:
    """A term of a sum or concatenation at a common exponent; constants drop out."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    flow = flow_of(value)
    if flow is None:
        gates.check_constant(call.func, value)
        return torch.zeros_like(value)
    return value if flow.exponent == exponent else value * 2.0 ** (flow.exponent - exponent)


def recenters(call: Call) -> bool:
    """Whether it is x - x.mean(...): a mean that is broadcast back recenters activations, as normalizations do."""
    left, right = call.pair()
    return call.name in ("sub", "subtract") and right.numel() < left.numel()


def add(gates: Gates, call: Call) -> Any:
    """A sum of two flows; constants drop out, and attention scores are shifted as they are."""
    left, right = call.pair()
    flows = (flow_of(left), flow_of(right))
    if all(flow is None or flow.logits for flow in flows):  # masks and offsets of attention scores
        return scores(gates, call)
    if flows[0] is None or flows[1] is None:
        value, other = (left, right) if flows[0] is not None else (right, left)
        if call.in_place and value is left:
            gates.check_constant(call.func, other)
            return left
        return _opened(gates, call, value, other)
    if flows[0].logits or flows[1].logits:
        if flows[0].chained or flows[1].chained:
            raise gates.error(call.func, "adds attention scores to activations, which has no meaning for paths")
        return scores(gates, call)  # relative positions; without a softmax they are refused where they are used
    if recenters(call) and _broadcast(left, right) == left.shape:
        return left if call.in_place else gates.mark(left.clone(), flows[0])
    factor = abs(call.kwargs.get("alpha", 1))
    shift = flows[1].exponent - flows[0].exponent
    if call.in_place and shift <= _SHIFT:
        return gates.mark(left.add_(right, alpha=factor * 2.0**shift), Flow(flows[0].exponent))
    exponent = max(flows[0].exponent, flows[1].exponent)
    total = torch.add(_aligned(gates, call, left, exponent), _aligned(gates, call, right, exponent), alpha=factor)
    return gates.finish(call, total, Flow(exponent))


def _broadcast(left: Tensor, right: Tensor) -> torch.Size:
    shape: torch.Size = torch.broadcast_shapes(left.shape, right.shape)  # type: ignore[no-untyped-call]
    return shape


def _opened(gates: Gates, call: Call, value: Tensor, other: Any) -> Tensor:
    """`value`, in the shape it gets from an operation with `other` that paths do not see."""
    flow = known_flow(value)
    if isinstance(other, Tensor):
        if flow_of(other) is None:
            gates.check_constant(call.func, other)
        value = value.expand(_broadcast(value, other))
    return gates.finish(call, value.clone(), flow)


def _multiply(gates: Gates, call: Call) -> Any:
    left, right = call.pair()
    flows = (flow_of(left), flow_of(right))
    if flows[0] is not None and flows[1] is not None:
        if flows[0].rank == flows[1].rank:
            raise gates.error(call.func, "multiplies two sums over paths, which has no meaning for paths" + _BILINEAR)
        value, gate = (left, right) if flows[0].rank < flows[1].rank else (right, left)
        return left if call.in_place and value is left else _opened(gates, call, value, gate)
    value, factor = (left, right) if flows[0] is not None else (right, left)
    return _scale(gates, call, value, factor, torch.mul)


def _divide(gates: Gates, call: Call) -> Any:
    left, right = call.pair()
    if flow_of(left) is None:  # a constant over a flow: the reciprocal is a statistic
        return gates.mark(_opened(gates, call, right, left), Flow(rank=3))
    if flow_of(right) is not None:  # division by a statistic of the activations is a normalization
        return left if call.in_place else _opened(gates, call, left, right)
    return _scale(gates, call, left, right, torch.div)


def _scale(gates: Gates, call: Call, value: Tensor, factor: Any, operation: Callable[..., Tensor]) -> Any:
    flow = known_flow(value)
    if flow.logits:
        return scores(gates, call)
    if isinstance(factor, Tensor):
        gates.check_constant(call.func, factor)
        factor = torch.ones_like(factor) if gates.counts_as_one(factor) else factor
    size = factor if isinstance(factor, Tensor) and factor.dtype == torch.bool else abs(factor)
    if call.in_place and value is call.args[0]:
        return gates.mark(getattr(value, f"{operation.__name__}_")(size), flow)
    scaled = gates.weighted_sum(call, operation(value, size), flow.exponent)
    return gates.mark(scaled, known_flow(scaled).with_rank(flow.rank))


def _softmax(gates: Gates, call: Call) -> Any:
    """Attention is uniform over what the mask lets through. A softmax of activations is a gate, and where a matrix
    product takes it, attention of the same kind."""
    value = call.argument(0, "input")
    flow = flow_of(value)
    if flow is not None and flow.logits:
        return call.run()
    opened = open_gate(2)(gates, call)
    zeros = torch.zeros_like(value).detach() if flow is None or flow.masked is None else flow.masked
    attention = call.map(lambda item: zeros if item is value else item).run()
    return gates.mark(opened, replace(known_flow(opened), attention=attention, masked=None))


def _embedding(gates: Gates, call: Call) -> Any:
    """Token ids are the network's inputs: each embeds as ones. Constants (positions) embed as themselves and drop out
    later."""
    ids, table = call.argument(0, "input"), call.argument(1, "weight")
    ones = torch.ones(*ids.shape, table.shape[1], dtype=table.dtype, device=table.device)
    return gates.source(ones, looked_up=True)


def _masked_fill(gates: Gates, call: Call) -> Any:
    flow = flow_of(call.args[0])
    if flow is None:
        raise gates.error(call.func, "fills a constant with activations, which has no meaning for paths")
    mask, fill = call.argument(1, "mask"), call.argument(2, "value")
    if flow.logits:
        return gates.finish(call, call.args[0].masked_fill(mask, fill), flow)
    shadow = masked(call.args[0], fill, lambda zeros: zeros.masked_fill(mask, fill))
    return gates.finish(call, call.args[0].masked_fill(mask, 0), replace(flow, masked=shadow))


def _where(gates: Gates, call: Call) -> Any:
    condition, *chosen = call.args
    if condition.dtype != torch.bool:  # x.where(condition, y)
        condition, chosen = chosen[0], [condition, *chosen[1:]]
    flows = call.flows()
    exponent = max(flow.exponent for flow in flows)
    if any(flow.logits for flow in flows):  # a mask on attention scores
        return gates.mark(torch.where(condition, chosen[0], chosen[1]), flows[0])
    first, second = (_aligned(gates, call, v, exponent) if isinstance(v, Tensor) else 0.0 for v in chosen)
    found: Tensor = torch.where(condition, first, second)
    shadow = None
    if len(flows) == 1:
        at = 0 if flow_of(chosen[0]) is not None else 1
        fill = chosen[1 - at]

        def fills(zeros: Tensor) -> Tensor:
            filled: Tensor = torch.where(condition, zeros, fill) if at == 0 else torch.where(condition, fill, zeros)
            return filled

        shadow = masked(chosen[at], fill, fills)
    return gates.mark(found, Flow(exponent, max(flow.rank for flow in flows), masked=shadow))


def _convert(gates: Gates, call: Call) -> Any:
    """Changes of precision are gates of no interest; changes of device are made."""
    value = call.args[0]
    flow, result = flow_of(value), call.run()
    if flow is None or result is value or not isinstance(result, Tensor) or not result.is_floating_point():
        return result  # also a number, by float(x)
    return gates.mark(value.to(result.device).clone(), flow)


def _set_item(gates: Gates, call: Call) -> Any:
    target, index, value = call.args
    flow, written = flow_of(target), flow_of(value)
    if flow is not None and flow.logits:  # a mask on attention scores
        target[index] = value
        return
    exponent = max(known.exponent for known in (flow, written) if known is not None)
    if flow is None or flow.exponent != exponent:
        # a constant that activations are written into, perhaps the user's own: another tensor stands for it from now on
        fresh = _aligned(gates, call, target, exponent).to(gates.dtype, copy=True)
        gates.replaced[id(target)] = (target, gates.mark(fresh, Flow(exponent)))
        target = fresh
    target[index] = _aligned(gates, call, value, exponent) if isinstance(value, Tensor) else 0.0


def _copy(gates: Gates, call: Call) -> Any:
    """`a.copy_(b)`: b stands for a from now on."""
    target, source = call.args[0], call.argument(1, "src")
    flow = flow_of(source)
    if flow is None:
        gates.check_constant(call.func, source)
        return gates.finish(call, torch.zeros_like(target), Flow())
    return gates.finish(call, source.expand(target.shape).clone(), flow)


def _accumulate(gates: Gates, call: Call) -> Any:
    """`a.index_add(dim, index, b)`, `a.scatter_add(dim, index, b)`: sums, as over the neighbors in a graph."""
    target, dim, index, source = (call.argument(i, *names) for i, names in enumerate(_ADDED))
    exponent = max(flow.exponent for flow in call.flows())
    target, source = (_aligned(gates, call, value, exponent) for value in (target, source))
    function = torch.index_add if call.name == "index_add" else torch.scatter_add
    if "alpha" in call.kwargs:
        raise gates.error(call.func, "scales what it adds in one step, which paths cannot follow here")
    return gates.weighted_sum(call, function(target, dim, index, source), exponent)


_ADDED = (("input",), ("dim",), ("index",), ("source", "src"))


GATE_RANKS = {
    **dict.fromkeys((Family.ACTIVATION, Family.DROPOUT, Family.NORMALIZATION, Family.PASSING), 1),
    Family.SQUASHING: 2,
    Family.SCALE_FUNCTION: 3,
}
_STRUCTURAL = (
    *(Family.STRUCTURE, Family.CONCATENATION, Family.PADDING, Family.RESIZING, Family.OVERLAPPING_SUM),
    *(Family.MEAN, Family.SUM, Family.LARGEST, Family.MAXIMUM, Family.LARGER, Family.AVERAGE_POOLING),
    *(Family.ADAPTIVE_AVERAGE_POOLING, Family.MAX_POOLING, Family.INDEXED_MAX_POOLING, Family.ADAPTIVE_MAX_POOLING),
)
IDENTITIES: Handlers = {
    **{family: open_gate(rank) for family, rank in GATE_RANKS.items()},
    **dict.fromkeys(_STRUCTURAL, structure),
    **dict.fromkeys((Family.LINEAR, Family.CONVOLUTION), products.weighted),
    Family.MATRIX_PRODUCT: products.matmul,
    Family.ADDED_PRODUCT: products.added_product,
    Family.COMPOSED: products.composed,
    Family.ATTENTION: products.attention,
    Family.MULTI_HEAD_ATTENTION: products.multi_head_attention,
    Family.COPY: _copy,
    Family.ACCUMULATION: _accumulate,
    Family.EMBEDDING: _embedding,
    Family.SOFTMAX: _softmax,
    Family.GATED_LINEAR_UNIT: _glu,
    Family.STATISTIC: _statistic,
    Family.ADDITION: add,
    Family.MULTIPLICATION: _multiply,
    Family.DIVISION: _divide,
    Family.MASKING: _masked_fill,
    Family.SELECTION: _where,
    Family.ASSIGNMENT: _set_item,
    Family.CONVERSION: _convert,
    Family.CREATION: _constant,
}


def plain(gates: Gates, call: Call) -> Any:
    """What the sum over paths makes of a call, for readings that differ from it only sometimes."""
    family = call.family
    assert family is not None
    return IDENTITIES[family](gates, call)
