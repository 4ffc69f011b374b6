"""Effective density: what is left when kept weights that lie on no kept input-output path are removed too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foreprune.analysis.every_path import COUNTED
from foreprune.analysis.pruned import Pruned, undisturbed
from foreprune.core.layer_units import incoming, unit_index
from foreprune.core.masks import Masks
from foreprune.graph import PathGraph
from foreprune.graph.sums.gates import Call, Flow, Gates, Handler, flow_of, leaves, walk
from foreprune.graph.sums.operations import HANDLERS

_DUST = 1e-6  # what rounding leaves where float64 sums of ones are zero is far smaller


def effective_masks(model: nn.Module, masks: Masks | None = None, *, inputs: Any) -> Masks:
    """`masks` without the weights that no path from input to output runs through.

    The procedure of Frankle et al. 2021, appendix M: weights are 1 or 0 as the mask says, one input of ones goes
    forward, the sum of the logits backward, and kept weights with a gradient of zero go. Two things differ: pooling
    passes every entry of a window, because the largest of several equal ones is an arbitrary choice, and only whether
    something arrives is passed on, not how much, so that nothing under- or overflows in deep networks.

    The result depends on the size of the inputs: with padding, some entries of a kernel may never touch an image of
    one pixel. It is idempotent, and the function of a network without biases and normalization does not change; with
    them a unit whose incoming weights are all cut still passes a constant on. Gates count as edges where they multiply
    a live path (squeeze-and-excitation, GLU). Units that no path reaches even in the dense network, such as queries and
    keys of attention, keep their weights: paths say nothing about them.

    Raises:
        PathError: an operation that has no meaning for paths.
    """
    with undisturbed():
        return effective(Pruned.of(model, masks, inputs))


def effective(pruned: Pruned) -> Masks:
    """`effective_masks` of a network that is prepared already."""
    module, masks = pruned.net.module, pruned.masks
    reached = _reached(pruned, masks)
    dense: Mapping[str, Tensor] | None = None
    found = {}
    for name in masks:
        live = masks[name] & reached[name]
        silent = (incoming(module, name, masks[name]) > 0) & (incoming(module, name, live) == 0)
        if bool(silent.any()):
            if dense is None:
                dense = _reached(pruned, Masks.dense(pruned.net.weights))
            pathless = incoming(module, name, dense[name]) == 0
            index = unit_index(module, name, masks.shapes[name]).to(live.device)
            live |= masks[name] & pathless[index]
        found[name] = live
    return Masks(found, metadata=masks.metadata)


def _reached(pruned: Pruned, masks: Masks) -> dict[str, Tensor]:
    """name -> whether a path along kept weights runs through each weight, were it kept itself."""
    weights = masks({name: torch.ones_like(value, dtype=torch.float64) for name, value in pruned.floating()})
    grads = PathGraph(pruned.net, pruned.inputs, REACHED).gradients(weights, masks)
    return {name: grad > _DUST for name, grad in grads.items()}


def _binary(value: Tensor) -> Tensor:
    """1 where anything arrives, else 0; the same for the gradient on its way back."""
    carrier = value.clone()
    carrier.register_hook(lambda grad: (grad > _DUST).to(grad.dtype))  # type: ignore[no-untyped-call]
    return (carrier - carrier.detach()) + (value.detach() > _DUST).to(value.dtype)


def _once(handler: Handler) -> Handler:
    """The same operation with weights, but it sees and tells only whether something arrives."""

    def handle(gates: Gates, call: Call) -> Any:
        tensors = [value for value in leaves((call.args, call.kwargs)) if isinstance(value, Tensor)]
        flowing = [value for value in tensors if flow_of(value) is not None]
        weights = [value for value in tensors if flow_of(value) is None and value.requires_grad]
        if len(flowing) != 1 or not weights:
            return handler(gates, call)
        seen = gates.mark(_binary(flowing[0]), Flow())
        args, kwargs = (walk(part, lambda v: seen if v is flowing[0] else v) for part in (call.args, call.kwargs))
        result = handler(gates, Call(call.func, args, kwargs, call.in_place))
        flow = flow_of(result)
        assert flow is not None
        return gates.finish(call, _binary(result), Flow(rank=flow.rank))

    return handle


def _gated(handler: Handler) -> Handler:
    """A product of a path and a gate: the gate lets everything pass, and what it depends on counts."""

    def handle(gates: Gates, call: Call) -> Any:
        pair = call.argument(0, "input"), call.argument(1, "other")
        flows = tuple(map(flow_of, pair))
        if any(flow is None or flow.logits for flow in flows):
            return handler(gates, call)
        opened = handler(gates, Call(call.func, call.args, call.kwargs, False))
        gate = pair[0] if flows[0].rank > flows[1].rank else pair[1]  # type: ignore[union-attr]
        flow = flow_of(opened)
        assert flow is not None
        return gates.finish(call, _with_gate(opened, gate), flow)

    return handle


def _glu(gates: Gates, call: Call) -> Any:
    value, dim = call.argument(0, "input"), call.argument(1, "dim")
    opened = HANDLERS["glu"](gates, call)
    flow = flow_of(opened)
    assert flow is not None
    return gates.mark(_with_gate(opened, value.chunk(2, -1 if dim is None else dim)[1]), flow)


def _with_gate(opened: Tensor, gate: Tensor) -> Tensor:
    """`opened`, unchanged in value, with a gradient for the gate wherever something passes it."""
    return opened + (opened.detach() > _DUST).to(opened.dtype) * (gate - gate.detach())


_WEIGHTED = """linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul rmatmul mm bmm mv
dot einsum tensordot addmm addmv baddbmm div divide truediv true_divide"""
_PRODUCTS = "mul multiply rmul"

REACHED: dict[str, Handler] = (
    COUNTED
    | {name: HANDLERS[name] for name in ("interpolate", "upsample")}
    | {name: _once(COUNTED[name]) for name in _WEIGHTED.split()}
    | {name: _gated(_once(COUNTED[name])) for name in _PRODUCTS.split()}
    | {"glu": _glu}
)
