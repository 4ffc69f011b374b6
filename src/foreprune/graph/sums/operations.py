"""What each family of torch functions becomes when the gates are open: one handler each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.graph.sums.gates import Call, Flow, Gates, Handler, Handlers, flow_of, known_flow, leaves
from foreprune.graph.vocabulary import Family

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
    flow = Flow(exponent, max(flow.rank for flow in flows), any(flow.logits for flow in flows))
    for value in leaves(result):
        if isinstance(value, Tensor) and value.is_floating_point() and value is not first:
            gates.mark(value, flow)
    return result


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
        return _scores(gates, call)
    if flows[0] is None or flows[1] is None:
        value, other = (left, right) if flows[0] is not None else (right, left)
        if call.in_place and value is left:
            gates.check_constant(call.func, other)
            return left
        return _opened(gates, call, value, other)
    if flows[0].logits or flows[1].logits:
        raise gates.error(call.func, "adds attention scores to activations, which has no meaning for paths")
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


def _scores(gates: Gates, call: Call) -> Any:
    """Attention scores are shifted and scaled as they are: zeros stay zeros and masks stay masks."""
    return gates.finish(call, call.run().detach(), Flow(logits=True))


def _multiply(gates: Gates, call: Call) -> Any:
    left, right = call.pair()
    flows = (flow_of(left), flow_of(right))
    if flows[0] is not None and flows[1] is not None:
        if flows[0].rank == flows[1].rank:
            raise gates.error(call.func, "multiplies two sums over paths, which has no meaning for paths")
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
        return _scores(gates, call)
    if isinstance(factor, Tensor):
        gates.check_constant(call.func, factor)
        factor = torch.ones_like(factor) if gates.counts_as_one(factor) else factor
    size = factor if isinstance(factor, Tensor) and factor.dtype == torch.bool else abs(factor)
    if call.in_place and value is call.args[0]:
        return gates.mark(getattr(value, f"{operation.__name__}_")(size), flow)
    scaled = gates.weighted_sum(call, operation(value, size), flow.exponent)
    return gates.mark(scaled, known_flow(scaled).with_rank(flow.rank))


def _matmul(gates: Gates, call: Call) -> Any:
    flowing = [value for value in call.tensors() if flow_of(value) is not None]
    if len(flowing) > 1:
        zeros = call.map(lambda value: torch.zeros_like(value) if isinstance(value, Tensor) else value)
        return gates.mark(zeros.run().detach(), Flow(logits=True))
    exponent = _exponent(gates, call, flowing[0])
    dtype = flowing[0].dtype
    return gates.weighted_sum(call, call.map(lambda value: _non_negative(gates, call, value, dtype)).run(), exponent)


def _exponent(gates: Gates, call: Call, value: Tensor) -> int:
    flow = known_flow(value)
    if flow.logits:
        raise gates.error(
            call.func,
            "uses a product of two sums over paths (attention scores without a softmax?), which has no meaning for "
            "paths",
        )
    return flow.exponent


def check_weight(gates: Gates, call: Call, weight: Any, value: Any) -> None:
    """Raise PathError for a weight that depends on the inputs."""
    if flow_of(value) is None or flow_of(weight) is not None:
        raise gates.error(call.func, "computes its weight from the inputs, which has no meaning for paths")


def _weighted(gates: Gates, call: Call) -> Any:
    """Linear and convolution: the bias drops out, the weight is the tensor that was passed in."""
    value, weight = call.argument(0, "input"), call.argument(1, "weight")
    check_weight(gates, call, weight, value)
    exponent = _exponent(gates, call, value)
    weight = _non_negative(gates, call, weight, value.dtype)
    rest = {name: item for name, item in call.kwargs.items() if name not in ("input", "weight", "bias")}
    return gates.weighted_sum(call, call.func(value, weight, None, *call.args[3:], **rest), exponent)


def _non_negative(gates: Gates, call: Call, value: Any, dtype: torch.dtype) -> Any:
    """A constant factor without its sign. Weights come non-negative already; only those computed from them are looked
    at."""
    if not isinstance(value, Tensor) or flow_of(value) is not None or (value.is_leaf and value.requires_grad):
        return value
    if not value.requires_grad:
        return value.abs().to(dtype)
    gates.check_constant(call.func, value)
    if bool((value.detach() < 0).any()):
        raise gates.error(
            call.func, "uses a weight that is recentered or re-signed before use, which has no meaning for paths"
        )
    return value.to(dtype)


def _addmm(gates: Gates, call: Call) -> Any:
    """bias + a @ b, as in GPT-2's Conv1D: only the product carries paths."""
    products: dict[str, Callable[..., Tensor]] = {"addmm": torch.mm, "addmv": torch.mv, "baddbmm": torch.bmm}
    if flow_of(call.args[0]) is not None or "alpha" in call.kwargs:
        raise gates.error(
            call.func, "adds a product to activations or scales it in one step, which paths cannot follow here"
        )
    return _matmul(gates, Call(products[call.name], call.args[1:3], {}))


def _softmax(gates: Gates, call: Call) -> Any:
    flow = flow_of(call.argument(0, "input"))
    if flow is not None and flow.logits:  # uniform over what the mask lets through; a constant
        return call.run()
    return open_gate(2)(gates, call)


def _attention(gates: Gates, call: Call) -> Any:
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    exponent = _exponent(gates, call, attended(gates, call, value))
    kwargs = {k: v for k, v in call.kwargs.items() if k not in ("query", "key", "value", "dropout_p")}
    rest = [*call.args[3:4], 0.0, *call.args[5:]] if len(call.args) > 4 else call.args[3:]
    zeros = (torch.zeros_like(query), torch.zeros_like(key))
    return gates.mark(call.func(*zeros, value, *rest, **kwargs), Flow(exponent))


def attended(gates: Gates, call: Call, value: Any) -> Any:
    """The values that attention averages. Raises PathError for constants."""
    if flow_of(value) is None:
        raise gates.error(call.func, "attends to constant values, which has no meaning for paths")
    return value


def multi_head_arguments(call: Call) -> dict[str, Any]:
    """The arguments of torch's own attention by name."""
    bound = inspect.signature(F.multi_head_attention_forward).bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def _multi_head_attention(gates: Gates, call: Call) -> Any:
    """torch's own attention with queries and keys of zero, so that attention is uniform, and without biases."""
    values = multi_head_arguments(call)
    exponent = _exponent(gates, call, attended(gates, call, values["value"]))
    width = values["embed_dim_to_check"]
    if values["in_proj_weight"] is not None:
        packed = values["in_proj_weight"]
        values["in_proj_weight"] = torch.cat([torch.zeros_like(packed[: 2 * width]), packed[2 * width :]])
    for name in ("q_proj_weight", "k_proj_weight"):
        if values[name] is not None:
            values[name] = torch.zeros_like(values[name])
    values.update(in_proj_bias=None, out_proj_bias=None, bias_k=None, bias_v=None, dropout_p=0.0)
    output, weights = F.multi_head_attention_forward(**values)
    return gates.weighted_sum(call, output, exponent), weights


def _embedding(gates: Gates, call: Call) -> Any:
    """Token ids are the network's inputs: each embeds as ones. Constants (positions) embed as themselves and drop out
    later."""
    ids, table = call.argument(0, "input"), call.argument(1, "weight")
    return gates.source(torch.ones(*ids.shape, table.shape[1], dtype=table.dtype, device=table.device))


def _masked_fill(gates: Gates, call: Call) -> Any:
    flow = flow_of(call.args[0])
    if flow is None:
        raise gates.error(call.func, "fills a constant with activations, which has no meaning for paths")
    fill = call.argument(2, "value") if flow.logits else 0
    return gates.finish(call, call.args[0].masked_fill(call.argument(1, "mask"), fill), flow)


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
    return gates.mark(found, Flow(exponent, max(flow.rank for flow in flows)))


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
    **dict.fromkeys((Family.LINEAR, Family.CONVOLUTION), _weighted),
    Family.MATRIX_PRODUCT: _matmul,
    Family.ADDED_PRODUCT: _addmm,
    Family.ATTENTION: _attention,
    Family.MULTI_HEAD_ATTENTION: _multi_head_attention,
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
