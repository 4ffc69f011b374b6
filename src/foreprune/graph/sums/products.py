"""Products on paths: linear layers, convolutions, matrix products and attention."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foreprune.graph.sums.gates import Call, Flow, Gates, flow_of, known_flow
from foreprune.graph.sums.scores import additive_mask

_PRODUCT = (
    "uses a product of two sums over paths (attention scores without a softmax, or a state-space scan?), which has no "
    "meaning for paths"
)
_PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "addmm": torch.mm,
    "addmv": torch.mv,
    "baddbmm": torch.bmm,
    "addbmm": torch.bmm,
}


def matmul(gates: Gates, call: Call) -> Any:
    """A matrix product or einsum. Of two sums over paths: attention scores."""
    call = attending(call)
    flows = call.flows()
    if len(flows) > 1:
        chained = len(flows) > 2 or any(flow.logits for flow in flows)
        zeros = call.map(lambda value: torch.zeros_like(value) if isinstance(value, Tensor) else value)
        met = None if chained else call
        return gates.mark(zeros.run().detach(), Flow(logits=True, chained=chained, met=met))
    flowing = next(value for value in call.tensors() if flow_of(value) is not None)
    exponent = exponent_of(gates, call, flowing)
    for value in call.tensors():
        if flow_of(value) is None and value.requires_grad and not value.is_leaf and bool((value.detach() < 0).any()):
            gates.check_constant(call.func, value)
            return learned_scores(gates, call, RESIGNED)  # relative positions, if a softmax follows
    return gates.weighted_sum(
        call, call.map(lambda value: non_negative(gates, call, value, flowing.dtype)).run(), exponent
    )


RESIGNED = "uses a weight that is recentered or re-signed before use, which has no meaning for paths"


def learned_scores(gates: Gates, call: Call, why: str) -> Tensor:
    """Attention scores from a product with what was computed from parameters; without a softmax, why it is refused."""
    zeros = torch.zeros_like(call.run()).detach()
    return gates.mark(zeros, Flow(logits=True, error=gates.error(call.func, why)))


def attending(call: Call) -> Call:
    """The same product of dense tensors, with uniform weights in the place of a softmax of activations that multiplies
    others."""
    if any(value.layout != torch.strided for value in call.tensors()):
        dense = call.map(lambda value: value.to_dense() if _is_sparse(value) else value)
        call = Call(torch.matmul if "sp" in call.name else call.func, dense.args, dense.kwargs)
    attention = [value for value in call.tensors() if (flow := flow_of(value)) and flow.attention is not None]
    if len(attention) != 1 or len(call.flows()) != 2:
        return call
    return call.map(lambda value: known_flow(value).attention if value is attention[0] else value)


def _is_sparse(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout != torch.strided


def added_product(gates: Gates, call: Call) -> Any:
    """beta bias + alpha a @ b, as in GPT-2's Conv1D: the sum of a bias and a product."""
    bias, left, right = (call.argument(i, *names) for i, names in enumerate(_FACTORS))
    product = gates.again(_PRODUCTS[call.name], left, right)
    if call.name == "addbmm":
        product = gates.again(torch.sum, product, 0)
    if (alpha := call.kwargs.get("alpha", 1)) != 1:
        product = gates.again(torch.mul, product, alpha)
    if (beta := call.kwargs.get("beta", 1)) != 1:
        bias = gates.again(torch.mul, bias, beta)
    return _in_place(gates, call, gates.again(torch.add, bias, product))


_FACTORS = (("input",), ("mat1", "mat", "batch1"), ("mat2", "vec", "batch2"))


def composed(gates: Gates, call: Call) -> Any:
    """addcmul, addcdiv and lerp, as the sums of products they are."""
    value, one, other = (call.argument(i, *names) for i, names in enumerate(_TERMS))
    if call.name == "lerp":  # value (1 - weight) + end weight
        rest = 1 - other if not isinstance(other, Tensor) else gates.again(torch.rsub, other, 1)
        result = gates.again(torch.add, gates.again(torch.mul, value, rest), gates.again(torch.mul, one, other))
        return _in_place(gates, call, result)
    term = gates.again(torch.mul if call.name == "addcmul" else torch.div, one, other)
    if (factor := call.kwargs.get("value", 1)) != 1:
        term = gates.again(torch.mul, term, factor)
    return _in_place(gates, call, gates.again(torch.add, value, term))


_TERMS = (("input",), ("tensor1", "end"), ("tensor2", "weight"))


def _in_place(gates: Gates, call: Call, result: Tensor) -> Tensor:
    return gates.finish(call, result, known_flow(result)) if call.in_place else result


def exponent_of(gates: Gates, call: Call, value: Tensor) -> int:
    """That of the flow of `value`. Raises PathError for attention scores."""
    flow = known_flow(value)
    if flow.logits:
        raise flow.error or gates.error(call.func, _PRODUCT)
    return flow.exponent


def check_weight(gates: Gates, call: Call, weight: Any, value: Any) -> None:
    """Raise PathError for a weight that depends on the inputs."""
    if flow_of(value) is None or flow_of(weight) is not None:
        raise gates.error(call.func, "computes its weight from the inputs, which has no meaning for paths")


def weighted(gates: Gates, call: Call) -> Any:
    """Linear and convolution: the bias drops out, the weight is the tensor that was passed in."""
    value, weight = call.argument(0, "input"), call.argument(1, "weight")
    check_weight(gates, call, weight, value)
    exponent = exponent_of(gates, call, value)
    weight = non_negative(gates, call, weight, value.dtype)
    rest = {name: item for name, item in call.kwargs.items() if name not in ("input", "weight", "bias")}
    return gates.weighted_sum(call, call.func(value, weight, None, *call.args[3:], **rest), exponent)


def non_negative(gates: Gates, call: Call, value: Any, dtype: torch.dtype) -> Any:
    """A constant factor without its sign. Weights come non-negative already; only those computed from them are looked
    at."""
    if not isinstance(value, Tensor) or flow_of(value) is not None or (value.is_leaf and value.requires_grad):
        return value
    if not value.requires_grad:
        return value.abs().to(dtype)
    gates.check_constant(call.func, value)
    if bool((value.detach() < 0).any()):
        raise gates.error(call.func, RESIGNED)
    return value.to(dtype)


def attention(gates: Gates, call: Call) -> Any:
    """`scaled_dot_product_attention`: uniform weights over what the mask leaves, applied to the values."""
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    exponent = exponent_of(gates, call, attended(gates, call, value))
    kwargs = {k: v for k, v in call.kwargs.items() if k not in ("query", "key", "value", "attn_mask", "dropout_p")}
    mask = additive_mask(gates, call.func, call.argument(3, "attn_mask"))
    rest = [mask, 0.0, *call.args[5:]]
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


def multi_head_attention(gates: Gates, call: Call) -> Any:
    """torch's own attention with queries and keys of zero, so that attention is uniform, and without biases."""
    values = multi_head_arguments(call)
    exponent = exponent_of(gates, call, attended(gates, call, values["value"]))
    width = values["embed_dim_to_check"]
    if values["in_proj_weight"] is not None:
        packed = values["in_proj_weight"]
        values["in_proj_weight"] = torch.cat([torch.zeros_like(packed[: 2 * width]), packed[2 * width :]])
    for name in ("q_proj_weight", "k_proj_weight"):
        if values[name] is not None:
            values[name] = torch.zeros_like(values[name])
    values["attn_mask"] = additive_mask(gates, call.func, values["attn_mask"])
    values.update(in_proj_bias=None, out_proj_bias=None, bias_k=None, bias_v=None, dropout_p=0.0)
    output, weights = F.multi_head_attention_forward(**values)
    return gates.weighted_sum(call, output, exponent), weights
