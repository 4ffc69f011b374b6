"""Attention scores on paths: zeros, because attention is uniform, and masks, which say over what.

Learned biases of scores drop out, like every additive constant on paths; what is so low that a softmax leaves nothing
of it is a mask and stays. Constants that are not learned, such as the slopes of ALiBi, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foreprune.graph.sums.gates import Call, Flow, Gates, flow_of

CLOSED = -50.0  # exp(-50) is nothing beside 1; masks are -100, -10000, the lowest number or -inf


def scores(gates: Gates, call: Call) -> Any:
    """Attention scores are shifted and scaled as they are: zeros stay zeros and masks stay masks."""
    first = call.first()
    flows = [flow for flow in call.flows() if flow.logits]
    others = [value for value in call.tensors() if (flow := flow_of(value)) is None or not flow.logits]
    plain = call.map(lambda value: additive_mask(gates, call.func, value) if _is_in(value, others) else value)
    if call.in_place and _is_in(first, others):  # what is changed is not what the scores are in
        plain = Call(getattr(torch, call.name), plain.args, plain.kwargs)
    chained, met = any(flow.chained for flow in flows), flows[0].met if len(flows) == 1 == len(call.flows()) else None
    error = next((flow.error for flow in flows if flow.error is not None), None)
    return gates.finish(call, plain.run().detach(), Flow(logits=True, chained=chained, met=met, error=error))


def _is_in(value: Any, values: list[Tensor]) -> bool:
    return any(value is each for each in values)


def additive_mask(gates: Gates, func: Callable[..., Any], bias: Any) -> Any:
    """What remains of something that is added to attention scores."""
    flow = flow_of(bias)
    if flow is not None:
        if flow.chained:
            raise gates.error(func, "adds products of activations to attention scores, which has no meaning for paths")
        return torch.zeros_like(bias).detach() if flow.masked is None else flow.masked
    gates.check_constant(func, bias)
    return closed(bias.detach()) if gates.learned(bias) else bias


def closed(values: Tensor) -> Tensor:
    """Masks stay, everything else becomes zero."""
    return torch.where(values <= CLOSED, values, 0.0)


def masked(value: Tensor, fill: Any, fills: Callable[[Tensor], Tensor]) -> Tensor | None:
    """What activations would be as attention scores, after some of them were filled with `fill`; None: zeros."""
    flow = flow_of(value)
    before = None if flow is None else flow.masked
    low = fill.is_floating_point() and bool((fill <= CLOSED).any()) if isinstance(fill, Tensor) else fill <= CLOSED
    if before is None and not low:
        return None
    return closed(fills(torch.zeros_like(value).detach() if before is None else before))


def along(flow: Flow, change: Callable[[Tensor], Tensor]) -> Flow:
    """The flow after its entries were rearranged."""
    if flow.masked is None and flow.attention is None:
        return flow
    return replace(
        flow,
        masked=None if flow.masked is None else change(flow.masked),
        attention=None if flow.attention is None else change(flow.attention),
    )
