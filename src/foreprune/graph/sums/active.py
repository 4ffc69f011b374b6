"""Sums over the active paths: those that the gates of a real pass let through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from foreprune.core.net import BatchNormMode, Net, Params, scoring
from foreprune.core.task import Inputs
from foreprune.graph.sums.gates import Arguments, Call, Gates, Handler, PathError, known_flow
from foreprune.graph.sums.operations import IDENTITIES, plain
from foreprune.graph.vocabulary import Family, family_of

_State = tuple[str, Tensor | None]  # the name of a gate's function, and what it did to the real activations


def active_outputs(
    net: Net, inputs: Inputs, weights: Params, *, real: Params, batchnorm: BatchNormMode = "eval"
) -> tuple[Tensor, int]:
    """The squared inputs, summed over the active paths to each output, as (tensor, exponent): tensor * 2**exponent.

    Each path counts with the product of its `weights` and of the squared slopes of its activations in a pass of the
    network with the parameters `real`; max-pooling takes the entry that it takes there.

    Args:
        net: the network.
        inputs: all samples; gates differ from one to the next.
        weights: non-negative tensors, one for each parameter, all in the precision of the sums.
        real: the parameters that set the gates.
        batchnorm: how the real pass normalizes, as in `foreprune.core.net.scoring`.

    Raises:
        PathError: an operation that has no meaning for paths, or a forward that takes another way without its weights.
    """
    noted = _NotedGates()
    with scoring(net, batchnorm=batchnorm), torch.no_grad(), noted:
        # copies, as a forward may work on its inputs in place
        inputs.map(torch.clone).call(lambda *args, **kwargs: net(real, *args, **kwargs))
    gates = _RealGates(net, noted.states)
    dtype = next(value.dtype for value in weights.values() if value.is_floating_point())

    def start(tensor: Tensor) -> Tensor:
        return gates.source(tensor.to(dtype).square()) if tensor.is_floating_point() else gates.ids(tensor.clone())

    found = gates.forward(weights, inputs, start, grad=False)
    if next(gates.states, None) is not None:
        raise PathError("the network leaves out activations when its weights are ones; use 'synflow-l2' or 'snip'")
    return found


class _NotedGates(TorchFunctionMode):
    """Notes what each gate of a real pass does: of an activation the squared slope, of a max-pooling its input."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[_State] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        call = Call(func, args, dict(kwargs or {}))
        if (family := call.family) in _REAL:
            value, state = call.first(), None
            if isinstance(value, Tensor) and value.is_floating_point():
                state = value.clone() if family in _POOLS else _squared_slope(call, value)
            self.states.append((call.name, state))
        return call.run()


def _squared_slope(call: Call, value: Tensor) -> Tensor:
    if call.name == "relu":
        return value > 0
    rest = {key: item for key, item in call.kwargs.items() if key != "input"}
    with torch.enable_grad():
        leaf = value.detach().clone().requires_grad_()
        result = call.func(leaf.clone(), *call.args[1:], **rest)  # a clone, because it may work in place
        (slope,) = torch.autograd.grad(result.sum(), leaf)
    return slope.square()


class _RealGates(Gates):
    """Paths under the gates of a real pass, matched call by call."""

    def __init__(self, net: Net, states: list[_State]) -> None:
        super().__init__(net, {**IDENTITIES, **_REAL})  # type: ignore[dict-item]
        self.states = iter(states)
        self.state: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if family_of(func.__name__) in _REAL:
            noted, self.state = next(self.states, ("", None))
            if noted != func.__name__.strip("_"):
                raise self.error(func, "is not called there on real activations")
        return super().__torch_function__(func, types, args, kwargs)


def _real_state(gates: Gates, call: Call) -> Tensor:
    """What was noted of this call."""
    assert isinstance(gates, _RealGates)
    if gates.state is None or gates.state.shape != call.argument(0, "input").shape:
        raise gates.error(call.func, "gets something of another shape from real activations")
    return gates.state


def _activation(gates: Gates, call: Call) -> Any:
    return plain(gates, call).mul_(_real_state(gates, call))


def _pool(gates: Gates, call: Call) -> Any:
    """The entries that are the largest in the real network: the derivative of the pooling there."""
    value = call.argument(0, "input")
    rest = {key: item for key, item in call.kwargs.items() if key != "input"}
    # the pull-back of the pull-back: forward-mode differentiation loads scripted, deprecated parts of torch
    with torch.enable_grad():
        real = _real_state(gates, call).to(value.dtype).requires_grad_()
        result = call.func(real, *call.args[1:], **rest)
        probe = torch.zeros_like(result, requires_grad=True)
        (pulled,) = torch.autograd.grad(result, real, probe, create_graph=True)
        (chosen,) = torch.autograd.grad(pulled, probe, value)
    return gates.mark(chosen, known_flow(value))


_POOLS = (Family.MAX_POOLING, Family.ADAPTIVE_MAX_POOLING)
_REAL: dict[Family | None, Handler] = {
    **dict.fromkeys((Family.ACTIVATION, Family.SQUASHING), _activation),
    **dict.fromkeys(_POOLS, _pool),
}
