"""What each kind of torch function becomes when the gates are open: one handler each, and the table of names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.graph.gates import Call, Flow, Gates, Handler, flow_of, flows_in, leaves, walk


def _broadcast(left: Tensor, right: Tensor) -> torch.Size:
    shape: torch.Size = torch.broadcast_shapes(left.shape, right.shape)  # type: ignore[no-untyped-call]
    return shape


def _gate(rank: int) -> Handler:
    """Activations, dropout, normalisations: an open gate passes its input on."""

    def handle(gates: Gates, call: Call) -> Any:
        value = call.args[0] if call.args else next(iter(call.kwargs.values()))
        flow = flow_of(value)
        if flow is None:
            raise gates.error(
                call.func, "takes the network's activations as a parameter, which has no meaning for paths"
            )
        return gates.finish(call, value.view_as(value), flow.replace(rank=max(rank, flow.rank), shared=True))

    return handle


def _structure(gates: Gates, call: Call) -> Any:
    """Rearranging, selecting, averaging, pooling: executed as it is. Constants in a concatenation become zeros."""
    flows = flows_in((call.args, call.kwargs))
    exponent = max(flow.exponent for flow in flows)
    args, kwargs = call.args, call.kwargs
    if len(flows) > 1 or isinstance(args[0] if args else None, (tuple, list)):
        args = walk(args, lambda value: _aligned(gates, call, value, exponent))
    result = call.func(*args, **kwargs)
    flow = Flow(exponent, max(flow.rank for flow in flows), any(flow.logits for flow in flows), flows[0].shared)
    floating = any(value.is_floating_point() for value in leaves((args, kwargs)) if flow_of(value) is not None)
    for value in leaves(result):
        if isinstance(value, Tensor) and value.is_floating_point() == floating and value is not args[0]:
            gates.mark(value, flow)
    return result


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
        if value.grad_fn is not None:
            raise gates.error(
                call.func,
                "joins the paths with a tensor that depends on weights but was not computed from the "
                "inputs by torch functions "
                "(a custom autograd function or a scripted module?)",
            )
        return torch.zeros_like(value)
    return value if flow.exponent == exponent else value * 2.0 ** (flow.exponent - exponent)


def _add(gates: Gates, call: Call) -> Any:
    left, right = call.args[0], call.argument(1, "other")
    flows = [flow_of(left), flow_of(right)]
    both = flows[0] is not None and flows[1] is not None
    if not both:
        value, other = (left, right) if flows[0] is not None else (right, left)
        flow = flows[0] or flows[1]
        assert flow is not None
        if flow.logits:  # masks are added to attention scores
            return gates.finish(call, value + other, flow)
        if isinstance(other, Tensor):
            _aligned(gates, call, other, 0)
            if _broadcast(value, other) != value.shape:
                value = value.expand(_broadcast(value, other))
        if call.in_place and value is left:
            return left
        return gates.finish(call, value.view_as(value), flow.replace(shared=True))
    assert flows[0] is not None
    assert flows[1] is not None
    if flows[0].logits and flows[1].logits:
        return gates.finish(call, left + right, flows[0])
    if flows[0].logits or flows[1].logits:
        raise gates.error(call.func, "adds attention scores to activations, which has no meaning for paths")
    factor = abs(call.kwargs.get("alpha", 1))
    if call.in_place and not flows[0].shared:
        left.add_(right, alpha=factor * 2.0 ** (flows[1].exponent - flows[0].exponent))
        return gates.mark(left, Flow(flows[0].exponent))
    exponent = max(flows[0].exponent, flows[1].exponent)
    total = torch.add(_aligned(gates, call, left, exponent), _aligned(gates, call, right, exponent), alpha=factor)
    return gates.finish(call, total, Flow(exponent))


def _multiply(gates: Gates, call: Call) -> Any:
    left, right = call.args[0], call.argument(1, "other")
    flows = (flow_of(left), flow_of(right))
    if flows[0] is not None and flows[1] is not None:
        if flows[0].rank == flows[1].rank:
            raise gates.error(call.func, "multiplies two sums over paths, which has no meaning for paths")
        value, gate = (left, right) if flows[0].rank < flows[1].rank else (right, left)
        shape = _broadcast(value, gate)
        flow = flow_of(value)
        assert flow is not None
        if call.in_place and value is left:
            return value
        return gates.finish(call, value.expand(shape).view(shape), flow.replace(shared=True))
    value, factor = (left, right) if flows[0] is not None else (right, left)
    flow = flow_of(value)
    assert flow is not None
    if flow.logits:
        return gates.finish(call, torch.zeros_like(value * factor), flow)
    result = value * (factor.abs() if isinstance(factor, Tensor) else abs(factor))
    weighed = gates.weigh(call, result, flow.exponent)
    weighed_flow = flow_of(weighed)
    assert weighed_flow is not None
    return gates.mark(weighed, weighed_flow.replace(rank=flow.rank))


def _divide(gates: Gates, call: Call) -> Any:
    left, right = call.args[0], call.argument(1, "other")
    flow = flow_of(left)
    if flow is None:  # a constant over a flow: the reciprocal is a statistic
        return gates.mark(right.view_as(right), Flow(0, 3, shared=True))
    if flow_of(right) is not None:  # division by a statistic of the activations is a normalisation
        shape = _broadcast(left, right)
        return left if call.in_place else gates.mark(left.expand(shape).view(shape), flow.replace(shared=True))
    if flow.logits:
        return gates.finish(call, torch.zeros_like(left), flow)
    return gates.finish(
        call, left / (right.abs() if isinstance(right, Tensor) else abs(right)), flow.replace(shared=False)
    )


def _matmul(gates: Gates, call: Call) -> Any:
    operands = [value for value in call.args if isinstance(value, Tensor)]
    flows = [flow for flow in map(flow_of, operands) if flow is not None]
    args = tuple(_non_negative(gates, call, value) for value in call.args)
    if len(flows) == 1:
        return gates.weigh(call, call.func(*args, **call.kwargs), flows[0].exponent)
    scores = call.func(*[torch.zeros_like(v) if isinstance(v, Tensor) else v for v in call.args], **call.kwargs)
    return gates.mark(scores.detach(), Flow(logits=True))


def _weighted(weight: int, bias: int) -> Handler:
    """Linear and convolution: the bias drops out, the weight at position `weight` is the tensor that was passed in."""

    def handle(gates: Gates, call: Call) -> Any:
        value = call.argument(0, "input")
        flow = flow_of(value)
        if flow is None or flow_of(call.argument(weight, "weight")) is not None:
            raise gates.error(call.func, "computes its weight from the inputs, which has no meaning for paths")
        args = list(call.args)
        if len(args) > bias:
            args[bias] = None
        kwargs = {**call.kwargs, **({"bias": None} if "bias" in call.kwargs else {})}
        kernel = _non_negative(gates, call, call.argument(weight, "weight"))
        if "weight" in kwargs:
            kwargs["weight"] = kernel
        else:
            args[weight] = kernel
        return gates.weigh(call, call.func(*args, **kwargs), flow.exponent)

    return handle


def _non_negative(gates: Gates, call: Call, value: Any) -> Any:
    """A constant factor without its sign. Weights come non-negative already; only those computed from them are looked
    at."""
    if not isinstance(value, Tensor) or flow_of(value) is not None or (value.is_leaf and value.requires_grad):
        return value
    if value.grad_fn is not None and bool((value.detach() < 0).any()):
        raise gates.error(
            call.func, "uses a weight that is recentred or re-signed before use, which has no meaning for paths"
        )
    return value if value.grad_fn is not None else value.abs()


def _addmm(gates: Gates, call: Call) -> Any:
    """bias + a @ b, as in GPT-2's Conv1D: only the product carries paths."""
    products: dict[str, Callable[..., Tensor]] = {"addmm": torch.mm, "addmv": torch.mv, "baddbmm": torch.bmm}
    function = products[call.func.__name__.strip("_")]
    if flow_of(call.args[0]) is not None:
        raise gates.error(call.func, "adds a product to activations in one step, which paths cannot follow here")
    return _matmul(gates, Call(function, call.args[1:3], {}, False))


def _softmax(gates: Gates, call: Call) -> Any:
    value = call.args[0]
    flow = flow_of(value)
    if flow is not None and flow.logits:
        return call.func(value, *call.args[1:], **call.kwargs)  # uniform over what the mask lets through; a constant
    return _gate(2)(gates, call)


def _attention(gates: Gates, call: Call) -> Any:
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    flow = flow_of(value)
    if flow is None:
        raise gates.error(call.func, "attends to constant values, which has no meaning for paths")
    kwargs = {k: v for k, v in call.kwargs.items() if k not in ("query", "key", "value")}
    zeros = (torch.zeros_like(query), torch.zeros_like(key))
    return gates.mark(call.func(*zeros, value, *call.args[3:], **kwargs), Flow(flow.exponent))


def _multi_head_attention(gates: Gates, call: Call) -> Any:
    """torch's own attention with queries and keys of zero, so that attention is uniform, and without biases."""
    bound = inspect.signature(F.multi_head_attention_forward).bind(*call.args, **call.kwargs)
    values: dict[str, Any] = dict(bound.arguments)
    flow = flow_of(values["value"])
    if flow is None:
        raise gates.error(call.func, "attends to constant values, which has no meaning for paths")
    width = values["embed_dim_to_check"]
    if values.get("in_proj_weight") is not None:
        packed = values["in_proj_weight"]
        values["in_proj_weight"] = torch.cat([torch.zeros_like(packed[: 2 * width]), packed[2 * width :]])
    for name in ("q_proj_weight", "k_proj_weight"):
        if values.get(name) is not None:
            values[name] = torch.zeros_like(values[name])
    values.update(in_proj_bias=None, out_proj_bias=None, bias_k=None, bias_v=None, dropout_p=0.0)
    output, weights = F.multi_head_attention_forward(**values)
    return gates.weigh(call, output, flow.exponent), weights


def _embedding(gates: Gates, call: Call) -> Any:
    """Token ids are the network's inputs: each embeds as ones. Constants (positions) embed as themselves and drop out
    later."""
    ids, table = call.argument(0, "input"), call.argument(1, "weight")
    return gates.mark(torch.ones(*ids.shape, table.shape[1], dtype=table.dtype, device=table.device), Flow())


def _masked_fill(gates: Gates, call: Call) -> Any:
    flow = flow_of(call.args[0])
    if flow is None:
        raise gates.error(call.func, "fills a constant with activations, which has no meaning for paths")
    fill = call.argument(2, "value") if flow.logits else 0
    return gates.finish(call, call.args[0].masked_fill(call.argument(1, "mask"), fill), flow.replace(shared=False))


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
    result = call.func(*call.args, **call.kwargs)
    flow = flow_of(value)
    if flow is None or result.is_floating_point() != value.is_floating_point():
        return result
    return gates.mark(
        value.to(result.device).view_as(value) if value.is_floating_point() else result, flow.replace(shared=True)
    )


def _set_item(gates: Gates, call: Call) -> Any:
    target, index, value = call.args
    flow, written = flow_of(target), flow_of(value)
    if flow is None:  # a preallocated constant that activations are written into
        target.zero_()
        flow = Flow(written.exponent if written else 0)
        gates.mark(target, flow)
    elif flow.shared:
        fresh = gates.mark(target.clone(), flow.replace(shared=False))
        gates.replaced[id(target)] = (target, fresh)
        target = fresh
    target[index] = _aligned(gates, call, value, flow.exponent) if isinstance(value, Tensor) else 0.0


def _table() -> dict[str, Handler]:
    words: dict[Handler, str] = {
        _gate(
            1
        ): """relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardtanh softplus softsign threshold rrelu
            prelu tanhshrink hardshrink softshrink clamp clip clamp_min clamp_max dropout dropout1d dropout2d dropout3d
            alpha_dropout feature_dropout feature_alpha_dropout batch_norm instance_norm layer_norm group_norm rms_norm
            local_response_norm normalize neg log_softmax logsigmoid""",
        _gate(2): "sigmoid hardsigmoid tanh",
        _gate(3): "pow square sqrt rsqrt reciprocal exp log log1p abs erf sin cos rdiv rpow",
        _statistic: "std var std_mean var_mean norm vector_norm",
        _structure: """view reshape flatten unflatten permute transpose t swapaxes swapdims movedim contiguous clone
            detach
            squeeze unsqueeze expand expand_as broadcast_to repeat repeat_interleave tile getitem get select narrow
            index_select gather take_along_dim chunk split tensor_split split_with_sizes unbind cat concat concatenate
            stack hstack vstack dstack pad roll flip rot90 unfold fold pixel_shuffle pixel_unshuffle channel_shuffle
            interpolate upsample mean sum cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
            adaptive_avg_pool2d adaptive_avg_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
            max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
            amax max view_as reshape_as diagonal tril triu nan_to_num positive get""",
        _add: "add sub subtract rsub radd",
        _multiply: "mul multiply rmul",
        _divide: "div divide truediv true_divide",
        _matmul: "matmul rmatmul mm bmm mv dot einsum tensordot",
        _addmm: "addmm addmv baddbmm",
        _weighted(1, 2): "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
        _softmax: "softmax",
        _attention: "scaled_dot_product_attention",
        _multi_head_attention: "multi_head_attention_forward",
        _embedding: "embedding",
        _masked_fill: "masked_fill",
        _where: "where",
        _convert: "to float half double bfloat16 type type_as",
        _set_item: "setitem",
    }
    return {name: handler for handler, names in words.items() for name in names.split()}


HANDLERS = _table()
