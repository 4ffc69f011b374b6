"""What each kind of torch function becomes when the gates are open: one handler each, and the table of names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.graph.sums.gates import Call, Flow, Gates, Handler, flow_of, flows_in, leaves, walk

_SHIFT = 60  # the largest power of two by which an addition in place scales what it adds


def _broadcast(left: Tensor, right: Tensor) -> torch.Size:
    shape: torch.Size = torch.broadcast_shapes(left.shape, right.shape)  # type: ignore[no-untyped-call]
    return shape


def _gate(rank: int) -> Handler:
    """Activations, dropout, normalizations: an open gate passes its input on."""

    def handle(gates: Gates, call: Call) -> Any:
        value = call.args[0] if call.args else next(iter(call.kwargs.values()))
        flow = flow_of(value)
        if flow is None:
            raise gates.error(
                call.func, "takes the network's activations as a parameter, which has no meaning for paths"
            )
        in_place = call.in_place or call.kwargs.get("inplace", False)
        # a copy, as the real operation makes one: an addition in place may change the input afterwards
        return gates.mark(value if in_place else value.clone(), flow.with_rank(max(rank, flow.rank)))

    return handle


def _structure(gates: Gates, call: Call) -> Any:
    """Rearranging, selecting, averaging, pooling: executed as it is. Constants in a concatenation become zeros."""
    flows = flows_in((call.args, call.kwargs))
    exponent = max(flow.exponent for flow in flows)
    args, kwargs = call.args, call.kwargs
    first = args[0] if args else next(iter(kwargs.values()))
    if not isinstance(first, Tensor) or sum(isinstance(value, Tensor) for value in leaves((args, kwargs))) > 1:
        args, kwargs = (walk(part, lambda value: _aligned(gates, call, value, exponent)) for part in (args, kwargs))
    result = call.func(*args, **kwargs)
    flow = Flow(exponent, max(flow.rank for flow in flows), any(flow.logits for flow in flows))
    for value in leaves(result):
        if isinstance(value, Tensor) and value.is_floating_point() and value is not first:
            gates.mark(value, flow)
    return result


def _glu(gates: Gates, call: Call) -> Any:
    """a * sigmoid(b): the gate b is open."""
    value, dim = call.argument(0, "input"), call.argument(1, "dim")
    flow = flow_of(value)
    assert flow is not None
    return gates.mark(value.chunk(2, -1 if dim is None else dim)[0].clone(), flow)


def _constant(gates: Gates, call: Call) -> Any:
    """New tensors that take only shape and type from the activations."""
    return call.func(*call.args, **call.kwargs)


def _statistic(gates: Gates, call: Call) -> Any:
    """Variances and norms: they scale activations, so they count as gates and their value does not matter."""
    result = call.func(*call.args, **call.kwargs)
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


def _add(gates: Gates, call: Call) -> Any:
    left, right = call.argument(0, "input"), call.argument(1, "other")
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
    # x - x.mean(...): a mean that is broadcast back recenters activations, as normalizations do
    if call.name in ("sub", "subtract") and right.numel() < left.numel() and _broadcast(left, right) == left.shape:
        return left if call.in_place else gates.mark(left.clone(), flows[0])
    factor = abs(call.kwargs.get("alpha", 1))
    shift = flows[1].exponent - flows[0].exponent
    if call.in_place and shift <= _SHIFT:
        return gates.mark(left.add_(right, alpha=factor * 2.0**shift), Flow(flows[0].exponent))
    exponent = max(flows[0].exponent, flows[1].exponent)
    total = torch.add(_aligned(gates, call, left, exponent), _aligned(gates, call, right, exponent), alpha=factor)
    return gates.finish(call, total, Flow(exponent))


def _opened(gates: Gates, call: Call, value: Tensor, other: Any) -> Tensor:
    """`value`, in the shape it gets from an operation with `other` that paths do not see."""
    flow = flow_of(value)
    assert flow is not None
    if isinstance(other, Tensor):
        if flow_of(other) is None:
            gates.check_constant(call.func, other)
        value = value.expand(_broadcast(value, other))
    return gates.finish(call, value.clone(), flow)


def _scores(gates: Gates, call: Call) -> Any:
    """Attention scores are shifted and scaled as they are: zeros stay zeros and masks stay masks."""
    return gates.finish(call, call.func(*call.args, **call.kwargs).detach(), Flow(logits=True))


def _multiply(gates: Gates, call: Call) -> Any:
    left, right = call.argument(0, "input"), call.argument(1, "other")
    flows = (flow_of(left), flow_of(right))
    if flows[0] is not None and flows[1] is not None:
        if flows[0].rank == flows[1].rank:
            raise gates.error(call.func, "multiplies two sums over paths, which has no meaning for paths")
        value, gate = (left, right) if flows[0].rank < flows[1].rank else (right, left)
        return left if call.in_place and value is left else _opened(gates, call, value, gate)
    value, factor = (left, right) if flows[0] is not None else (right, left)
    return _scale(gates, call, value, factor, torch.mul)


def _divide(gates: Gates, call: Call) -> Any:
    left, right = call.argument(0, "input"), call.argument(1, "other")
    if flow_of(left) is None:  # a constant over a flow: the reciprocal is a statistic
        return gates.mark(_opened(gates, call, right, left), Flow(rank=3))
    if flow_of(right) is not None:  # division by a statistic of the activations is a normalization
        return left if call.in_place else _opened(gates, call, left, right)
    return _scale(gates, call, left, right, torch.div)


def _scale(gates: Gates, call: Call, value: Tensor, factor: Any, operation: Callable[..., Tensor]) -> Any:
    flow = flow_of(value)
    assert flow is not None
    if flow.logits:
        return _scores(gates, call)
    if isinstance(factor, Tensor):
        gates.check_constant(call.func, factor)
    size = factor if isinstance(factor, Tensor) and factor.dtype == torch.bool else abs(factor)
    if call.in_place and value is call.args[0]:
        return gates.mark(getattr(value, f"{operation.__name__}_")(size), flow)
    scaled = gates.weigh(call, operation(value, size), flow.exponent)
    scaled_flow = flow_of(scaled)
    assert scaled_flow is not None
    return gates.mark(scaled, scaled_flow.with_rank(flow.rank))


def _matmul(gates: Gates, call: Call) -> Any:
    operands = [value for value in leaves((call.args, call.kwargs)) if isinstance(value, Tensor)]
    flowing = [value for value in operands if flow_of(value) is not None]
    if len(flowing) > 1:
        zeros = (walk(part, lambda v: torch.zeros_like(v) if isinstance(v, Tensor) else v) for part in _parts(call))
        args, kwargs = zeros
        return gates.mark(call.func(*args, **kwargs).detach(), Flow(logits=True))
    exponent = _exponent(gates, call, flowing[0])
    dtype = flowing[0].dtype
    args, kwargs = (walk(part, lambda value: _non_negative(gates, call, value, dtype)) for part in _parts(call))
    return gates.weigh(call, call.func(*args, **kwargs), exponent)


def _parts(call: Call) -> tuple[Any, Any]:
    return call.args, call.kwargs


def _exponent(gates: Gates, call: Call, value: Tensor) -> int:
    flow = flow_of(value)
    assert flow is not None
    if flow.logits:
        raise gates.error(
            call.func,
            "uses a product of two sums over paths (attention scores without a softmax?), which has no meaning for "
            "paths",
        )
    return flow.exponent


def _weighted(weight: int, bias: int) -> Handler:
    """Linear and convolution: the bias drops out, the weight at position `weight` is the tensor that was passed in."""

    def handle(gates: Gates, call: Call) -> Any:
        value = call.argument(0, "input")
        if flow_of(value) is None or flow_of(call.argument(weight, "weight")) is not None:
            raise gates.error(call.func, "computes its weight from the inputs, which has no meaning for paths")
        exponent = _exponent(gates, call, value)
        args = list(call.args)
        if len(args) > bias:
            args[bias] = None
        kwargs = {**call.kwargs, **({"bias": None} if "bias" in call.kwargs else {})}
        kernel = _non_negative(gates, call, call.argument(weight, "weight"), value.dtype)
        if "weight" in kwargs:
            kwargs["weight"] = kernel
        else:
            args[weight] = kernel
        return gates.weigh(call, call.func(*args, **kwargs), exponent)

    return handle


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
    return _matmul(gates, Call(products[call.name], call.args[1:3], {}, False))


def _softmax(gates: Gates, call: Call) -> Any:
    flow = flow_of(call.argument(0, "input"))
    if flow is not None and flow.logits:  # uniform over what the mask lets through; a constant
        return call.func(*call.args, **call.kwargs)
    return _gate(2)(gates, call)


def _attention(gates: Gates, call: Call) -> Any:
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    if flow_of(value) is None:
        raise gates.error(call.func, "attends to constant values, which has no meaning for paths")
    exponent = _exponent(gates, call, value)
    kwargs = {k: v for k, v in call.kwargs.items() if k not in ("query", "key", "value", "dropout_p")}
    rest = [*call.args[3:4], 0.0, *call.args[5:]] if len(call.args) > 4 else call.args[3:]
    zeros = (torch.zeros_like(query), torch.zeros_like(key))
    return gates.mark(call.func(*zeros, value, *rest, **kwargs), Flow(exponent))


def _multi_head_attention(gates: Gates, call: Call) -> Any:
    """torch's own attention with queries and keys of zero, so that attention is uniform, and without biases."""
    bound = inspect.signature(F.multi_head_attention_forward).bind(*call.args, **call.kwargs)
    values: dict[str, Any] = dict(bound.arguments)
    if flow_of(values["value"]) is None:
        raise gates.error(call.func, "attends to constant values, which has no meaning for paths")
    exponent = _exponent(gates, call, values["value"])
    width = values["embed_dim_to_check"]
    if values.get("in_proj_weight") is not None:
        packed = values["in_proj_weight"]
        values["in_proj_weight"] = torch.cat([torch.zeros_like(packed[: 2 * width]), packed[2 * width :]])
    for name in ("q_proj_weight", "k_proj_weight"):
        if values.get(name) is not None:
            values[name] = torch.zeros_like(values[name])
    values.update(in_proj_bias=None, out_proj_bias=None, bias_k=None, bias_v=None, dropout_p=0.0)
    output, weights = F.multi_head_attention_forward(**values)
    return gates.weigh(call, output, exponent), weights


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
    flows = flows_in(chosen)
    exponent = max(flow.exponent for flow in flows)
    if any(flow.logits for flow in flows):  # a mask on attention scores
        return gates.mark(torch.where(condition, chosen[0], chosen[1]), flows[0])
    first, second = (_aligned(gates, call, v, exponent) if isinstance(v, Tensor) else 0.0 for v in chosen)
    chosen_flow: Tensor = torch.where(condition, first, second)
    return gates.mark(chosen_flow, Flow(exponent, max(flow.rank for flow in flows)))


def _convert(gates: Gates, call: Call) -> Any:
    """Changes of precision are gates of no interest; changes of device are made."""
    value = call.args[0]
    flow = flow_of(value)
    result = call.func(*call.args, **call.kwargs)
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
        fresh = _aligned(gates, call, target, exponent).clone()
        gates.replaced[id(target)] = (target, gates.mark(fresh, Flow(exponent)))
        target = fresh
    target[index] = _aligned(gates, call, value, exponent) if isinstance(value, Tensor) else 0.0


def _table() -> dict[str, Handler]:
    words: dict[Handler, str] = {
        _gate(
            1
        ): """relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardtanh softplus softsign threshold rrelu
            prelu tanhshrink hardshrink softshrink clamp clip clamp_min clamp_max dropout dropout1d dropout2d dropout3d
            alpha_dropout feature_dropout feature_alpha_dropout batch_norm instance_norm layer_norm group_norm rms_norm
            local_response_norm normalize neg log_softmax log_sigmoid""",
        _gate(2): "sigmoid hardsigmoid tanh",
        _gate(3): "pow square sqrt rsqrt reciprocal exp log log1p abs erf sin cos rdiv rpow",
        _glu: "glu",
        _constant: """zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full
            new_empty new_tensor""",
        _statistic: "std var std_mean var_mean norm linalg_norm linalg_vector_norm",
        _structure: """view reshape flatten unflatten permute transpose t swapaxes swapdims movedim contiguous clone
            detach
            squeeze unsqueeze expand expand_as broadcast_to repeat repeat_interleave tile getitem get select narrow
            index_select gather take_along_dim chunk split tensor_split split_with_sizes unbind cat concat concatenate
            stack hstack vstack dstack pad roll flip rot90 unfold fold pixel_shuffle pixel_unshuffle channel_shuffle
            interpolate upsample mean sum cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
            adaptive_avg_pool2d adaptive_avg_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
            max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
            amax max maximum fmax view_as reshape_as ravel moveaxis diagonal tril triu nan_to_num positive get""",
        _add: "add sub subtract rsub radd",
        _multiply: "mul multiply rmul",
        _divide: "div divide truediv true_divide",
        _matmul: "matmul rmatmul mm bmm mv dot einsum tensordot",
        _addmm: "addmm addmv baddbmm",
        _weighted(1, 2): "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
        _softmax: "softmax softmin",
        _attention: "scaled_dot_product_attention",
        _multi_head_attention: "multi_head_attention_forward",
        _embedding: "embedding",
        _masked_fill: "masked_fill",
        _where: "where",
        _convert: "to float half double bfloat16 type type_as cpu cuda",
        _set_item: "setitem",
    }
    return {name: handler for handler, names in words.items() for name in names.split()}


HANDLERS = _table()
