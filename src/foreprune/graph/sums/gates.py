"""The mode under which a forward runs with its gates open, and what it knows of each tensor."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from foreprune.core.net import Net

Arguments = tuple[Any, ...]
_RANGE = 2.0**20  # flows are kept within [1/_RANGE, _RANGE] by powers of two


class PathError(ValueError):
    """An operation has no meaning for paths. The message names it, the module, and what to do."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What is known of a tensor that paths run through. Its true value is tensor * 2**exponent.

    `rank` says how much the tensor is a gate: 0 a sum over paths, 1 an activation, 2 a squashing gate (sigmoid), 3 a
    statistic. In a product of two flows the one of higher rank is the gate and counts as one.
    """

    exponent: int = 0
    rank: int = 0
    logits: bool = False  # attention scores before the softmax: zeros (plus masks), because attention is uniform

    def with_rank(self, rank: int) -> Flow:
        return Flow(self.exponent, rank, self.logits)


def flow_of(value: Any) -> Flow | None:
    """The flow that runs through a tensor, or None for constants, integers and things that are not tensors."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    return getattr(value, "_foreprune_flow", None)


Handler = Callable[["Gates", "Call"], Any]
_IDS = "_foreprune_ids"
_LOOKUPS = frozenset({"getitem", "gather", "index_select", "take", "take_along_dim"})


class Gates(TorchFunctionMode):
    """Replaces gates, constants and attention while a forward runs; everything else is executed as it is."""

    def __init__(self, net: Net, handlers: Mapping[str, Handler]) -> None:
        super().__init__()
        self.net = net
        self.handlers = handlers  # by the name of the torch function, without underscores
        self.sources: list[Tensor] = []  # where paths begin
        self.replaced: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # id -> (kept alive, what it became by an in-place operation)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Arguments = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.replaced:
            args, kwargs = walk(args, self.resolve), walk(dict(kwargs or {}), self.resolve)
        kwargs = dict(kwargs or {})
        name = func.__name__
        if not any(flow_of(value) for value in leaves((args, kwargs))):
            if not any(isinstance(value, Tensor) and hasattr(value, _IDS) for value in leaves((args, kwargs))):
                return func(*args, **kwargs)
            if name != "embedding":
                return self._integers(func, args, kwargs)
        handler = self.handlers.get(name.strip("_"))
        if handler is None:
            return self._unknown(func, args, kwargs)
        return handler(self, Call(func, args, kwargs, in_place=name.endswith("_") and not name.endswith("__")))

    def resolve(self, value: Any) -> Any:
        """What a tensor has become through in-place operations."""
        while isinstance(value, Tensor) and id(value) in self.replaced:
            value = self.replaced[id(value)][1]
        return value

    def source(self, values: Tensor) -> Tensor:
        """A tensor where paths begin. It records gradients, so that what was computed from it can be told from
        constants, also where torch functions did not see it happen."""
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

    def weigh(self, call: Call, result: Tensor, exponent: int) -> Tensor:
        """Bring a weighted sum back into range by a power of two."""
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
                if func.__name__.strip("_") in _LOOKUPS:
                    return self.source(torch.ones_like(value))
            elif isinstance(value, Tensor):
                self.ids(value)
        return result

    def _unknown(self, func: Callable[..., Any], args: Arguments, kwargs: Mapping[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if any(
            isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()) for value in leaves(result)
        ):
            raise self.error(func, "has no meaning for paths")
        return result

    def _module(self) -> str:
        """The innermost module of the network whose forward is on the stack."""
        names = {id(module): name for name, module in self.net.module.named_modules()}
        frame = inspect.currentframe()
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and id(owner) in names:
                return f"{names[id(owner)] or '(the model itself)'!r} ({type(owner).__name__})"
            frame = frame.f_back
        return "(unknown)"


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One call of a torch function: what was called, with what, and whether it changes its first argument."""

    func: Callable[..., Any]
    args: Arguments
    kwargs: dict[str, Any]
    in_place: bool

    @property
    def name(self) -> str:
        name: str = self.func.__name__
        return name.strip("_")

    def argument(self, position: int, *names: str) -> Any:
        for name in names:
            if name in self.kwargs:
                return self.kwargs[name]
        return self.args[position] if len(self.args) > position else None


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


def graph_nodes(tensor: Tensor) -> Iterator[Any]:
    """Every node of the autograd graph behind a tensor."""
    stack, seen = [tensor.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            stack.extend(parent for parent, _ in node.next_functions)


def flows_in(value: Any) -> list[Flow]:
    """The flows of all tensors in a nest."""
    return [flow for item in leaves(value) if (flow := flow_of(item)) is not None]
