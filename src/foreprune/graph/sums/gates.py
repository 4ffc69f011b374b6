"""The mode under which a forward runs with its gates open, and what it knows of each tensor."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from foreprune.core.net import Net, Params, primary_output, scoring
from foreprune.core.task import Inputs
from foreprune.graph.vocabulary import LOOKUPS, WHY_NOT, Family, family_of

Arguments = tuple[Any, ...]
_RANGE = 2.0**20  # flows are kept within [1/_RANGE, _RANGE] by powers of two
_IDS = "_foreprune_ids"
_LEARNED = "_foreprune_learned"
_RECORDING = (Tensor.requires_grad_, Tensor.retain_grad)  # switches of autograd, which the sums set by themselves
_WRITING = frozenset({"__set__", "__setitem__", "__get__"})  # what they give or change is the tensor itself


class PathError(ValueError):
    """An operation has no meaning for paths. The message names it, the module, and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """What is known of a tensor that paths run through. Its true value is tensor * 2**exponent.

    `rank` says how much the tensor is a gate: 0 a sum over paths, 1 an activation, 2 a squashing gate (sigmoid), 3 a
    statistic. In a product of two flows the one of higher rank is the gate and counts as one.

    `logits` are attention scores before the softmax, products of two sums over paths: zeros (plus masks), because
    attention is uniform. They are `chained` once they were multiplied by activations without a softmax; before that,
    `met` is the product, for the case that it is the network's output. Where they come from a product that is none of
    two sums, `error` is what to raise if no softmax follows.

    Activations can turn out to be attention scores too: `masked` holds the zeros and masks that they would be, and
    after a softmax `attention` the uniform weights.
    """

    exponent: int = 0
    rank: int = 0
    logits: bool = False
    chained: bool = False
    met: Call | None = None
    error: PathError | None = None
    masked: Tensor | None = None
    attention: Tensor | None = None

    def with_rank(self, rank: int) -> Flow:
        return replace(self, rank=rank)


def flow_of(value: Any) -> Flow | None:
    """The flow that runs through a tensor, or None for constants, integers and things that are not tensors."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    return getattr(value, "_foreprune_flow", None)


def known_flow(value: Any) -> Flow:
    """The flow of a tensor that has one."""
    flow = flow_of(value)
    assert flow is not None
    return flow


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One call of a torch function: what was called, with what, and whether it changes its first argument."""

    func: Callable[..., Any]
    args: Arguments
    kwargs: dict[str, Any]
    in_place: bool = False

    @property
    def name(self) -> str:
        name: str = self.func.__name__
        return name.strip("_")

    @property
    def family(self) -> Family | None:
        return family_of(self.func.__name__)

    def argument(self, position: int, *names: str) -> Any:
        for name in names:
            if name in self.kwargs:
                return self.kwargs[name]
        return self.args[position] if len(self.args) > position else None

    def pair(self) -> tuple[Any, Any]:
        """Both operands of a binary operation."""
        return self.argument(0, "input"), self.argument(1, "other")

    def first(self) -> Any:
        """The first argument, whatever its name is."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    def leaves(self) -> Iterable[Any]:
        return leaves((self.args, self.kwargs))

    def tensors(self) -> list[Tensor]:
        return [value for value in self.leaves() if isinstance(value, Tensor)]

    def flows(self) -> list[Flow]:
        return [flow for value in self.leaves() if (flow := flow_of(value)) is not None]

    def map(self, function: Callable[[Any], Any]) -> Call:
        """The same call with `function` applied to every argument, also inside lists."""
        return Call(self.func, walk(self.args, function), walk(self.kwargs, function), self.in_place)

    def run(self) -> Any:
        """What the function itself returns."""
        return self.func(*self.args, **self.kwargs)


Handler = Callable[["Gates", Call], Any]
Handlers = Mapping[Family, Handler]


class Gates(TorchFunctionMode):
    """Replaces gates, constants and attention while a forward runs; everything else is executed as it is."""

    def __init__(self, net: Net, handlers: Handlers) -> None:
        super().__init__()
        self.net = net
        self.handlers = handlers  # what becomes of each family of operations
        self.power = 1  # that the magnitudes of all weights enter with
        self._own: MutableMapping[int, Tensor] = {}  # address of a weight -> the parameter it stands for
        self._copies: list[Tensor] = []  # of weights; alive, so that nothing else gets their address
        self.dtype = torch.float64  # of all flows and constants; `forward` sets it to that of the weights
        self.sources: list[Tensor] = []  # where paths begin
        # id -> (the tensor, kept alive; what it became by an operation in place)
        self.replaced: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.replaced:
            args, kwargs = walk(args, self.resolve), walk(dict(kwargs or {}), self.resolve)
        if func in _RECORDING and flow_of(args[0]) is not None:
            return args[0]
        kwargs = dict(kwargs or {})
        name = func.__name__
        in_place = name.endswith("_") or name in _WRITING
        if not in_place:
            args, kwargs = walk(args, self.precise), dict(walk(kwargs, self.precise))
        if not any(flow_of(value) for value in leaves((args, kwargs))):
            if not any(isinstance(value, Tensor) and hasattr(value, _IDS) for value in leaves((args, kwargs))):
                return self._constants(func, args, kwargs, in_place=in_place)
            if name != "embedding":
                return self._integers(func, args, kwargs)
        call = Call(func, args, kwargs, in_place=name.endswith("_") and not name.endswith("__"))
        family = call.family
        return self._unknown(call) if family is None else self.handlers[family](self, call)

    def forward(
        self, weights: Params, inputs: Inputs, start: Callable[[Tensor], Tensor], *, grad: bool = True
    ) -> tuple[Tensor, int]:
        """The primary output of the network with these weights, as (tensor, exponent): tensor * 2**exponent.

        `start` makes of each input tensor one where paths begin; `grad`: whether gradients are recorded.

        Raises:
            PathError: an operation that has no meaning for paths.
        """
        self.dtype = next(value.dtype for value in weights.values() if value.is_floating_point())
        self._own = self.net.owners(weights)
        buffers = {name: self.precise(value) for name, value in self.net.module.named_buffers()}
        tensors = {**buffers, **weights}
        with scoring(self.net), torch.set_grad_enabled(grad):
            with self:
                output = inputs.map(start).call(lambda *args, **kwargs: self.net(tensors, *args, **kwargs))
                tensor: Tensor = self.resolve(primary_output(output))
            flow = flow_of(tensor)
            if flow is not None and flow.error is not None:
                raise flow.error
            if flow is not None and flow.met is not None:
                tensor = self.met(flow.met)
                flow = flow_of(tensor)
        if flow is None or flow.logits:
            raise PathError(
                "the output does not depend on the inputs through operations that paths can follow (it is computed "
                "outside torch functions, from constants or integers only, in a scripted module, or is a product of "
                "two sums); use a data-driven method such as 'snip'"
            )
        return tensor, flow.exponent

    def met(self, call: Call) -> Tensor:
        """The product of two towers that is the network's output: a path is then a pair of paths, one through each."""
        return self.weighted_sum(
            Call(call.func, call.args, call.kwargs), call.run(), sum(f.exponent for f in call.flows())
        )

    def again(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What becomes of another call: an operation that stands for several is followed as those."""
        return self.__torch_function__(func, (), args, kwargs)

    def resolve(self, value: Any) -> Any:
        """What a tensor has become through in-place operations."""
        while isinstance(value, Tensor) and id(value) in self.replaced:
            value = self.replaced[id(value)][1]
        return value

    def precise(self, value: Any) -> Any:
        """A constant in the precision of the flows: what a forward makes or keeps in that of the network would not mix
        with them."""
        if not isinstance(value, Tensor) or value.dtype == self.dtype or not value.is_floating_point():
            return value
        return value if flow_of(value) is not None else value.to(self.dtype)

    def _constants(self, func: Callable[..., Any], args: Arguments, kwargs: dict[str, Any], *, in_place: bool) -> Any:
        """A call that no path runs through. What is computed from parameters is remembered as such."""
        name = func.__name__
        result = self._weight_norm(*args, **kwargs) if name == "_weight_norm" else func(*args, **kwargs)
        result = result if in_place else walk(self._converted(name, args, result), self.precise)
        if any(self.learned(value) for value in leaves((args, kwargs))):
            for value in leaves(result):
                if isinstance(value, Tensor):
                    setattr(value, _LEARNED, True)
        return result

    def learned(self, value: Any) -> bool:
        """Whether a tensor is a parameter or was computed from some."""
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.layout != torch.strided:
            return False
        return hasattr(value, _LEARNED) or value.data_ptr() in self._own

    def _weight_norm(self, direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
        """g v / |v|: the weight is v, and g / |v| a scale as those of normalizations are, a constant."""
        v, g = (self._own.get(value.data_ptr()) for value in (direction, length))
        if v is None or g is None or not self.power:
            return direction.clone()
        v, g = v.detach().to(self.dtype), g.detach().to(self.dtype)
        norm = torch.norm_except_dim(v, 2, dim)
        return direction * (g.abs() / torch.where(norm > 0, norm, 1.0)) ** self.power

    def _converted(self, name: str, args: Arguments, result: Any) -> Any:
        """The result of an operation on constants, but with its digits if only its precision was to change."""
        if family_of(name) is not Family.CONVERSION or not isinstance(result, Tensor) or result is args[0]:
            return result
        if not (result.is_floating_point() and isinstance(args[0], Tensor) and args[0].is_floating_point()):
            return result
        copy = args[0].to(result.device, copy=True)
        if (own := self._own.get(args[0].data_ptr())) is not None:
            self._own[copy.data_ptr()] = own
            self._copies.append(copy)
        return copy

    def parameter(self, value: Tensor) -> Tensor | None:
        """What the network holds where a weight was passed in: the parameter, in the shape of `value`; None for
        constants and for what is computed from parameters."""
        own = self._own.get(value.data_ptr()) if self.power else None
        return own.detach().reshape(value.shape) if own is not None and own.numel() == value.numel() else None

    def counts_as_one(self, factor: Tensor) -> bool:
        """Whether activations are multiplied by a parameter that is zero everywhere, as the scales of residual branches
        often are at first."""
        own = self.parameter(factor)
        return own is not None and not bool(own.any())

    def source(self, values: Tensor, *, looked_up: bool = False) -> Tensor:
        """A tensor where paths begin: an input, or what was looked up in a table. It records gradients, so that what is
        computed from it can be told from constants, also where torch functions did not see it happen."""
        values = values.detach().requires_grad_()
        self.sources.append(values)
        return self.mark(values.clone(), Flow())

    @staticmethod
    def ids(values: Tensor) -> Tensor:
        """Integers that come from the inputs: token ids, perhaps. Booleans are masks."""
        if values.dtype != torch.bool and not values.is_floating_point():
            setattr(values, _IDS, True)
        return values

    @staticmethod
    def mark(tensor: Tensor, flow: Flow) -> Tensor:
        tensor._foreprune_flow = flow  # type: ignore[attr-defined]
        return tensor

    def finish(self, call: Call, result: Tensor, flow: Flow) -> Tensor:
        """Mark the result; for an in-place operation let it stand for the tensor that was changed from now on."""
        self.mark(result, flow)
        if call.in_place and isinstance(call.args[0], Tensor) and result is not call.args[0]:
            self.replaced[id(call.args[0])] = (call.args[0], result)
        return result

    def weighted_sum(self, call: Call, result: Tensor, exponent: int) -> Tensor:
        """Bring the result of a weighted operation back into range by a power of two, and mark it."""
        largest = self.largest(result) if result.numel() else 0.0
        if 0 < largest < math.inf and not 1 / _RANGE <= largest <= _RANGE:
            shift = math.frexp(largest)[1]
            result, exponent = result * 2.0**-shift, exponent + shift
        self.in_range(result)
        return self.finish(call, result, Flow(exponent))

    def largest(self, tensor: Tensor) -> float:
        """The largest entry, as a number."""
        return float(tensor.detach().amax())

    def in_range(self, tensor: Tensor) -> None:
        """Called with every weighted sum."""

    def error(self, func: Callable[..., Any], why: str) -> PathError:
        return PathError(
            f"{resolve_name(func) or func.__name__} in module {self._module()} {why}; use a method that follows the "
            "real network ('snip', 'grasp', 'magnitude', 'erk', ...) or replace the operation"
        )

    def check_constant(self, func: Callable[..., Any], value: Any) -> None:
        """Raise if a tensor without a flow was computed from the inputs all the same."""
        if isinstance(value, Tensor) and any(
            getattr(node, "variable", None) is source for node in graph_nodes(value) for source in self.sources
        ):
            raise self.error(
                func,
                "joins the paths with a tensor that was computed from the inputs, but not by torch functions "
                "(a custom autograd function or a scripted module?)",
            )

    def _integers(self, func: Callable[..., Any], args: Arguments, kwargs: Mapping[str, Any]) -> Any:
        """Token ids and masks are computed as they are; what ids look up in a table is ones, like an embedding."""
        result = func(*args, **kwargs)
        for value in leaves(result):
            if isinstance(value, Tensor) and value.is_floating_point():
                if func.__name__.strip("_") in LOOKUPS:
                    return self.source(torch.ones_like(value), looked_up=True)
            elif isinstance(value, Tensor):
                self.ids(value)
        return result

    def _unknown(self, call: Call) -> Any:
        result = call.run()
        if any(
            isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()) for value in leaves(result)
        ):
            raise self.error(call.func, "has no meaning for paths" + WHY_NOT.get(call.name, ""))
        return result

    def _module(self) -> str:
        """The innermost module of the network whose forward is on the stack."""
        # torch.utils.module_tracker hooks every call of every module, for a name that only an error needs
        names = {id(module): name for name, module in self.net.module.named_modules()}
        frame = inspect.currentframe()
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and id(owner) in names:
                return f"{names[id(owner)] or '(the model itself)'!r} ({type(owner).__name__})"
            frame = frame.f_back
        return "(unknown)"


# torch.utils._pytree does the same in 3 to 6 times the time, and these run for every operation of a forward


def walk(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same nest of tuples, lists and dicts with `function` applied to every leaf."""
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(walk(item, function) for item in value) if type(value) in (tuple, list) else value
    if type(value) is dict:
        return {key: walk(item, function) for key, item in value.items()}
    return function(value)


def leaves(value: Any) -> Iterable[Any]:
    """Every leaf of a nest of tuples, lists and dicts."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    else:
        yield value


def graph_nodes(*begin: Any) -> Iterator[Any]:
    """Every node of the autograd graph behind some tensors or nodes, these included."""
    stack, seen = [one.grad_fn if isinstance(one, Tensor) else one for one in begin], set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            stack.extend(parent for parent, _ in node.next_functions)
