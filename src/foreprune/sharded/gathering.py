"""Weights that are gathered when an operation of a forward or a backward pass comes to them, and not kept.

While a forward runs, empty tensors of the right shape stand in the places of the parameters. A `TorchFunctionMode`
puts the gathered weight into each operation that is called with one. What autograd saves of a gathered weight is not
the weight but where to get it: it is gathered again in the backward pass.

All processes run the same operations in the same order, so that they meet in every gathering.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map_only

from foreprune.sharded.layout import Layout

_SHAPES = frozenset({"size", "dim", "numel", "nelement", "ndimension", "is_floating_point", "is_complex", "__len__"})
_SMALL = 2**16  # entries of a weight (a scale, a bias) that may stay gathered for the length of a forward


class _Gather(Function):
    """The whole of a weight. Its derivative is the part of the whole derivative, which all processes compute alike, or
    with `summed` the part of the sum of theirs."""

    along_paths = True

    @staticmethod
    def forward(ctx: Any, part: Tensor, layout: Layout, summed: bool) -> Tensor:
        ctx.layout, ctx.summed = layout, summed
        ctx.set_materialize_grads(False)
        return layout.gather(part)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if grads[0] is None:
            return None, None, None
        return _Part.apply(grads[0], ctx.layout, ctx.summed), None, None  # type: ignore[no-untyped-call]


def _part(gathering: Any, whole: Tensor) -> Tensor:
    layout: Layout = gathering.layout
    return layout.summed(whole.contiguous()) if gathering.summed else layout.part(whole)


class _Part(Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, layout: Layout, summed: bool) -> Tensor:
        ctx.layout, ctx.summed = layout, summed
        return _part(ctx, whole)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Gather.apply(grads[0], ctx.layout, ctx.summed), None, None  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def parting(nodes: Iterable[Any]) -> Iterator[Callable[[Tensor], Tensor | None]]:
    """While a graph with these nodes is differentiated, each term of the derivative of a gathered weight is cut to this
    process's part as soon as it is there.

    There is one term from every operation that takes the weight. Autograd adds them up before it goes on to the
    gathering, so in a second derivative, where one comes on the way up through the layers and the other on the way
    down, it would hold whole derivatives of all layers at a time.

    Yields:
        A function: leaf -> the sum of its parts, which autograd then lacks, or None.
    """
    parts: dict[Any, Tensor] = {}  # gathering -> sum of its terms, in the order of their last ones

    def take(ways: Sequence[tuple[Any, ...] | None], grads: tuple[Any, ...], _: Any) -> tuple[Any, ...]:
        left = list(grads)
        for place, way in enumerate(ways):
            if way is None or grads[place] is None:
                continue
            *views, (gathering, _) = way
            term = grads[place]
            for view, number in views:
                inputs: list[Tensor | None] = [None] * len(view._input_metadata)
                inputs[number] = term
                term = view(*inputs)
            term = _part(gathering, term)
            parts[gathering] = parts.pop(gathering).add_(term) if gathering in parts else term
            left[place] = None
        return tuple(left)

    hooks = []
    for node in nodes:
        ways = [_way(edge) for edge in node.next_functions]
        if sum(parent is not None for parent, _ in node.next_functions) > 1 and any(ways):
            hooks.append(node.register_hook(partial(take, ways)))

    def rest(leaf: Tensor) -> Tensor | None:
        found = [term for gathering, term in parts.items() if gathering.next_functions[0][0].variable is leaf]
        return sum(found[1:], found[0]) if found else None

    try:
        yield rest
    finally:
        for hook in hooks:
            hook.remove()


def _way(edge: tuple[Any, int]) -> tuple[tuple[Any, int], ...] | None:
    """The nodes by which a derivative gets to the gathering of a large weight, and to nothing else."""
    way = [edge]
    while way[-1][0] is not None:
        node = way[-1][0]
        if getattr(node, "_forward_cls", None) is _Gather:
            return tuple(way) if math.prod(node.layout.shape) > _SMALL else None
        following = [parent for parent in node.next_functions if parent[0] is not None]
        if len(following) != 1 or len(node.next_functions) != 1:
            return None
        way.append(following[0])
    return None


class _Gathered(NamedTuple):
    """Where a gathered weight comes from."""

    storage: StorageWeakRef
    part: Tensor
    layout: Layout

    def expired(self) -> bool:
        return bool(cast(Any, self.storage).expired())


class _Saved(NamedTuple):
    """What autograd keeps of a gathered weight or a view of it."""

    part: Tensor
    layout: Layout
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class Gatherer:
    """Gathers weights and knows which tensors are gathered ones.

    `summed`: processes see different data, so derivatives are sums over them.
    """

    def __init__(self, *, summed: bool = False) -> None:
        self.summed = summed
        self._live: dict[int, _Gathered] = {}  # storage -> what it holds, as long as it does
        self.on_small: Callable[[str, Tensor], None] = lambda name, whole: None

    def gather(self, part: Tensor, layout: Layout) -> Tensor:
        """The whole weight, with its derivative."""
        if not layout.sharded and not self.summed:
            return part
        whole = cast(Tensor, _Gather.apply(part, layout, self.summed))  # type: ignore[no-untyped-call]
        if layout.sharded:
            self._note(whole, part.detach(), layout)
        return whole

    def part_of(self, tensor: Tensor) -> Tensor:
        """The part that a tensor, or what it is a view of, was gathered from; otherwise the tensor itself."""
        with torch._C.DisableTorchFunction():
            known = self._live.get(tensor.untyped_storage()._cdata)
        return tensor if known is None or known.expired() else known.part

    def _note(self, whole: Tensor, part: Tensor, layout: Layout) -> None:
        self._live = {key: known for key, known in self._live.items() if not known.expired()}
        storage = whole.untyped_storage()
        self._live[storage._cdata] = _Gathered(cast(Any, StorageWeakRef)(storage), part, layout)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """What autograd saves inside is kept without gathered weights. Other hooks on it are let pass."""
        hooks: Any = torch._C._autograd
        refused = hooks._saved_tensors_hooks_get_disabled_error_message()
        hooks._saved_tensors_hooks_enable()
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            if refused is not None:
                hooks._saved_tensors_hooks_disable(refused, False)

    def _pack(self, tensor: Tensor) -> Tensor | _Saved:
        with torch._C.DisableTorchFunction():
            known = self._live.get(tensor.untyped_storage()._cdata)
            if known is None or known.expired():
                return tensor.detach()
            return _Saved(known.part, known.layout, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def _unpack(self, saved: Tensor | _Saved) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        with torch._C.DisableTorchFunction(), torch.no_grad():
            whole = saved.layout.gather(saved.part)
            self._note(whole, saved.part, saved.layout)
            return whole.as_strided(saved.size, saved.stride, saved.offset)


class Gathering(TorchFunctionMode):
    """While it is on, operations on `stand_ins` get the gathered weights.

    Args:
        parts: parameter name -> what this process holds of the tensor that takes its place.
    """

    def __init__(self, parts: Mapping[str, Tensor], layouts: Mapping[str, Layout], gatherer: Gatherer) -> None:
        super().__init__()
        self.parts, self.layouts, self.gatherer = parts, layouts, gatherer
        # not a number: whatever uses one without its operation being seen does not go unnoticed
        self.stand_ins = {
            name: torch.full((), float("nan"), dtype=part.dtype, device=part.device).expand(layouts[name].shape)
            for name, part in parts.items()
        }
        self._names = {id(tensor): name for name, tensor in self.stand_ins.items()}
        self._kept: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func.__name__ in _SHAPES or not any(id(value) in self._names for value in tree_iter((args, kwargs))):
            return func(*args, **kwargs)
        if func.__name__ == "__get__":
            found = func(*args, **kwargs)
            if not isinstance(found, Tensor):
                return found
        args, kwargs = tree_map_only(Tensor, self._whole, (args, kwargs))
        return func(*args, **kwargs)

    def _whole(self, value: Tensor) -> Tensor:
        name = self._names.get(id(value))
        if name is None:
            return value
        if name in self._kept:
            return self._kept[name]
        whole = self.gatherer.gather(self.parts[name], self.layouts[name])
        if whole.numel() <= _SMALL:
            self._kept[name] = whole
            self.gatherer.on_small(name, whole)
        return whole
