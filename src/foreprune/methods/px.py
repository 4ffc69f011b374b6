"""PX: keep the weights on the paths that the data use, by a bound on the trace of the tangent kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import BatchNormMode, Net, gradients, primary_output, scoring
from foreprune.core.task import Batch, Task, require_grad
from foreprune.graph import PathError, PathGraph
from foreprune.graph.sums.gates import Arguments, Call, Gates, Handler, flow_of
from foreprune.graph.sums.operations import HANDLERS
from foreprune.graph.sums.paths import check_growing

State = tuple[str, Tensor | None]  # the name of a gate's function, and what it did to the real activations

_ACTIVATIONS = (
    "relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardtanh softplus softsign threshold rrelu prelu "
    "tanhshrink hardshrink softshrink clamp clip clamp_min clamp_max log_sigmoid sigmoid hardsigmoid tanh"
)
_POOLS = "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"


@scorer(
    "px",
    paper="Iurada, Ciccone & Tommasi, CVPR 2024, arXiv:2406.01820, section 4",
    needs={"images"},
    rounds=100,
)
def px(net: Net, task: Task, masks: Masks, *, batchnorm: BatchNormMode = "eval") -> Scores:
    """Keep the weights with the largest w^2 dR/d(w^2), R = sum_k z1_k z2_k from the bound on the tangent kernel.

    z1_k sums the squared inputs over the active paths to output k: the network with weights of 1, with its gates as the
    real network sets them for each input, on x^2. z2_k sums the squared weights over all paths to k: gates open, inputs
    of 1. In a ReLU network without biases the tangent kernel's diagonal is at most z1_k times the trace of the path
    kernel for k. R is summed over all samples in the data; labels are not looked at. 100 rounds, exponential schedule.
    Scores are defined up to one common factor. Below a dense last layer z1 is the same for all outputs, and PX is
    SynFlow-L2 in its conserved form: data matter from the round on in which the last layer has lost weights.

    The gates come from a pass of the real masked network on the data, with batch normalization in inference mode, as in
    the authors' code, or with the statistics of the batch (`batchnorm="train"`). A ReLU is 0 or 1. The paper says
    nothing of others; here an activation counts with its squared slope, and max-pooling takes the entry it takes in the
    real network. In z1 and z2 normalizations are identities, as in the paper, where the authors' code runs them in
    training mode, which leaves no sum over paths; that code also squares the statistics of shortcuts.
    """
    squared = masks({name: value.square() for name, value in net.params.items()})
    leaves = require_grad(squared, net.prunable)
    relevance, _ = PathGraph(net, task.batches[0].inputs).outputs(leaves)
    parts = [active_energy(net, batch, masks, relevance.numel(), batchnorm=batchnorm) for batch in task.batches]
    largest = max(exponent for _, exponent in parts)
    energy = torch.stack([tensor * 2.0 ** (exponent - largest) for tensor, exponent in parts]).sum(0)
    grads = gradients((relevance.flatten() * energy).sum(), leaves, net.prunable)
    check_growing(grads)
    return {name: grads[name].mul_(squared[name]) for name in net.prunable}


def active_energy(
    net: Net, batch: Batch, masks: Masks, outputs: int, *, batchnorm: BatchNormMode
) -> tuple[Tensor, int]:
    """z1, summed over the samples of a batch, as (tensor with `outputs` entries, exponent): tensor * 2**exponent.

    Raises:
        PathError: an operation that has no meaning for paths, or a forward that takes another way without its weights.
        ValueError: not `outputs` numbers for each sample.
    """
    gates = _RealGates(net, _real_states(net, batch, masks, batchnorm=batchnorm))
    double = any(value.dtype == torch.float64 for value in net.params.values())
    dtype = torch.float64 if double else torch.float32
    ones = masks({name: torch.ones_like(value, dtype=dtype) for name, value in net.params.items()})

    def source(tensor: Tensor) -> Tensor:
        return gates.source(tensor.to(dtype).square()) if tensor.is_floating_point() else gates.ids(tensor.clone())

    with scoring(net), torch.no_grad(), gates:
        inputs = batch.inputs.map(source)
        output = primary_output(inputs.call(lambda *args, **kwargs: net(ones, *args, **kwargs)))
        output = gates.resolve(output)
    flow = flow_of(output)
    assert flow is not None  # the open paths have been looked at before
    if next(gates.states, None) is not None:
        raise PathError("the network leaves out activations when its weights are ones; use 'synflow-l2' or 'snip'")
    if output.numel() != batch.size * outputs:
        raise ValueError(
            f"px needs a network whose outputs belong to samples, and this one gives {outputs} numbers for one sample "
            f"and {output.numel()} for {batch.size}; use 'synflow-l2' or 'snip'"
        )
    total: Tensor = output.reshape(batch.size, outputs).sum(0)
    return total, flow.exponent


def _real_states(net: Net, batch: Batch, masks: Masks, *, batchnorm: BatchNormMode) -> list[State]:
    inputs = batch.inputs.map(torch.clone)  # a forward may work on its inputs in place
    params = masks(net.params)
    recorder = _Recorder()
    with scoring(net, batchnorm=batchnorm), torch.no_grad(), recorder:
        inputs.call(lambda *args, **kwargs: net(params, *args, **kwargs))
    return recorder.states


class _Recorder(TorchFunctionMode):
    """Notes what each gate does: of an activation the squared slope, of a max-pooling its input."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[State] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.__name__.strip("_")
        if name in _HANDLERS:
            value = args[0] if args else kwargs["input"]
            state = None
            if isinstance(value, Tensor) and value.is_floating_point():
                state = value.clone() if name in _POOLS.split() else _squared_slope(func, value, args, kwargs)
            self.states.append((name, state))
        return func(*args, **kwargs)


def _squared_slope(func: Callable[..., Any], value: Tensor, args: Arguments, kwargs: Mapping[str, Any]) -> Tensor:
    if func.__name__.strip("_") == "relu":
        return value > 0
    rest = {key: item for key, item in kwargs.items() if key != "input"}
    with torch.enable_grad():
        leaf = value.detach().clone().requires_grad_()
        result = func(leaf.clone(), *args[1:], **rest)  # a clone, because it may work in place
        (slope,) = torch.autograd.grad(result.sum(), leaf)
    return slope.square()


class _RealGates(Gates):
    """Paths under the gates of a real pass, matched call by call."""

    def __init__(self, net: Net, states: list[State]) -> None:
        super().__init__(net, {**HANDLERS, **_HANDLERS})
        self.states = iter(states)
        self.state: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.__name__.strip("_")
        if name in _HANDLERS:
            noted, self.state = next(self.states, ("", None))
            if noted != name:
                raise self.error(func, "is not called there on real activations")
        return super().__torch_function__(func, types, args, kwargs)

    def real(self, call: Call) -> Tensor:
        """What was noted of this call."""
        if self.state is None or self.state.shape != call.argument(0, "input").shape:
            raise self.error(call.func, "gets something of another shape from real activations")
        return self.state


def _activation(gates: Gates, call: Call) -> Any:
    assert isinstance(gates, _RealGates)
    return HANDLERS[call.name](gates, call).mul_(gates.real(call))


def _pool(gates: Gates, call: Call) -> Any:
    """The entries that are the largest in the real network: the derivative of the pooling there."""
    assert isinstance(gates, _RealGates)
    value, flow = call.argument(0, "input"), flow_of(call.argument(0, "input"))
    assert flow is not None
    rest = {key: item for key, item in call.kwargs.items() if key != "input"}
    # the pull-back of the pull-back: forward-mode differentiation loads scripted, deprecated parts of torch
    with torch.enable_grad():
        real = gates.real(call).to(value.dtype).requires_grad_()
        result = call.func(real, *call.args[1:], **rest)
        probe = torch.zeros_like(result, requires_grad=True)
        (pulled,) = torch.autograd.grad(result, real, probe, create_graph=True)
        (chosen,) = torch.autograd.grad(pulled, probe, value)
    return gates.mark(chosen, flow)


_HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(_ACTIVATIONS.split(), _activation),
    **dict.fromkeys(_POOLS.split(), _pool),
}
