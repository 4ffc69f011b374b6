"""Which weights a path runs through: `PathGraph` on zeros and ones, forward and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import Inputs
from foreprune.graph.sums.counted import COUNTED, WEIGHTED
from foreprune.graph.sums.gates import Call, Flow, Gates, Handler, Handlers, flow_of, known_flow
from foreprune.graph.sums.operations import IDENTITIES, halves, plain
from foreprune.graph.sums.paths import PathGraph
from foreprune.graph.vocabulary import Family

_DUST = 1e-6  # what rounding leaves where float64 sums of ones are zero is far smaller


def reached(net: Net, inputs: Inputs, masks: Masks) -> dict[str, Tensor]:
    """name -> whether a path along kept weights runs through each weight, were it kept itself.

    Pooling passes every entry of a window, and gates that multiply a live path count as edges (squeeze-and-excitation,
    GLU). Only whether something arrives is passed on, not how much, so that nothing under- or overflows.

    Raises:
        PathError: an operation that has no meaning for paths.
    """
    ones = {
        n: torch.ones_like(value, dtype=torch.float64) for n, value in net.params.items() if value.is_floating_point()
    }
    grads = PathGraph(net, inputs, REACHED, power=0).gradients(masks(ones), masks)
    return {name: grad > _DUST for name, grad in grads.items()}


def _binary(value: Tensor) -> Tensor:
    """1 where anything arrives, else 0; the same for the gradient on its way back."""
    carrier = value.clone()
    carrier.register_hook(lambda grad: (grad > _DUST).to(grad.dtype))  # type: ignore[no-untyped-call]
    return (carrier - carrier.detach()) + (value.detach() > _DUST).to(value.dtype)


def uses_weights(gates: Gates, call: Call) -> tuple[Tensor, list[Tensor]] | None:
    """The flow and the weights that an operation multiplies, or None if it is not one of one flow with weights."""
    if call.family is Family.MULTIPLICATION and any(gates.counts_as_one(value) for value in call.tensors()):
        return None
    flowing = [value for value in call.tensors() if flow_of(value) is not None]
    weights = [value for value in call.tensors() if flow_of(value) is None and value.requires_grad]
    if len(flowing) != 1 or not weights or known_flow(flowing[0]).logits:
        return None
    return flowing[0], weights


def _once(handler: Handler) -> Handler:
    """The same operation with weights, but it sees and tells only whether something arrives."""

    def handle(gates: Gates, call: Call) -> Any:
        used = uses_weights(gates, call)
        if used is None:
            return handler(gates, call)
        seen = gates.mark(_binary(used[0]), Flow())
        result = handler(gates, call.map(lambda value: seen if value is used[0] else value))
        return gates.finish(call, _binary(result), Flow(rank=known_flow(result).rank))

    return handle


def _gated(handler: Handler) -> Handler:
    """A product of a path and a gate: the gate lets everything pass, and what it depends on counts."""

    def handle(gates: Gates, call: Call) -> Any:
        pair = call.pair()
        flows = [flow for value in pair if (flow := flow_of(value)) is not None]
        if len(flows) < 2 or any(flow.logits for flow in flows):
            return handler(gates, call)
        opened = handler(gates, Call(call.func, call.args, call.kwargs))
        gate = pair[0] if flows[0].rank > flows[1].rank else pair[1]
        return gates.finish(call, _with_gate(opened, gate), known_flow(opened))

    return handle


def _glu(gates: Gates, call: Call) -> Any:
    opened = plain(gates, call)
    return gates.mark(_with_gate(opened, halves(call)[1]), known_flow(opened))


def _with_gate(opened: Tensor, gate: Tensor) -> Tensor:
    """`opened`, unchanged in value, with a gradient for the gate wherever something passes it."""
    return opened + (opened.detach() > _DUST).to(opened.dtype) * (gate - gate.detach())


REACHED: Handlers = {
    **COUNTED,
    Family.RESIZING: IDENTITIES[Family.RESIZING],
    **{family: _once(COUNTED[family]) for family in (*WEIGHTED, Family.DIVISION)},
    Family.MULTIPLICATION: _gated(_once(COUNTED[Family.MULTIPLICATION])),
    Family.GATED_LINEAR_UNIT: _glu,
}
