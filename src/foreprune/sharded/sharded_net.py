"""`ShardedNet`: a `Net` whose tensors are this process's parts of the parameters."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from foreprune.core.blocks import Block, by_parameter
from foreprune.core.collective import totals
from foreprune.core.masks import Masks
from foreprune.core.net import Net, Params
from foreprune.core.prunable import Prunable
from foreprune.core.sharding import is_sharded, local_of, refuse_flattened, reshard
from foreprune.core.targets import unwrapped
from foreprune.sharded.deferred import Deferred
from foreprune.sharded.gathering import Gatherer, Gathering, parting
from foreprune.sharded.layout import Layout

_FULLY_SHARD = "torch.distributed.fsdp._fully_shard"


@dataclass(frozen=True, eq=False)
class ShardedNet(Net):
    """A view of a model under `fully_shard`. Build it with `ShardedNet.of`.

    `params` and `weights` are parts: what is computed entry by entry needs no other process. A call gathers layer by
    layer, in its forward and in its backward pass, and returns what the whole model would. The model's own gathering is
    left out, so that it is not changed in any way.
    """

    layouts: Mapping[str, Layout] = field(default_factory=dict)
    gatherer: Gatherer = field(default_factory=Gatherer)
    _owned: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, *, prunable: Prunable = None) -> ShardedNet:
        """View `module`, of which some parameter is a DTensor; otherwise as `Net.of`."""
        refuse_flattened(module)
        reshard(unwrapped(module))
        net = cast(ShardedNet, super().of(module, prunable=prunable))
        mesh = next(cast(DTensor, value).device_mesh for value in net.params.values() if is_sharded(value))
        layouts = {name: Layout.of(name, value, mesh) for name, value in net.params.items()}
        return replace(net, params={name: local_of(value) for name, value in net.params.items()}, layouts=layouts)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Parameter -> shape of the whole."""
        return {name: layout.shape for name, layout in self.layouts.items()}

    def part(self, name: str, whole: Tensor) -> Tensor:
        """What this process holds of a tensor of the shape of a parameter."""
        return self.layouts[name].part(whole)

    def deferred(self, name: str, make: Callable[[Tensor], Tensor], *, dtype: torch.dtype | None = None) -> Tensor:
        """As in `Net`, but computed anew whenever it is used, for the length of that."""
        value = self.params[name]
        if not self.layouts[name].sharded:
            return make(value)
        return Deferred(partial(make, value), like=value, dtype=dtype or value.dtype)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """As in `Net`; all processes have to call."""
        return self.layouts[name].gather(part)

    def fill(self, name: str, out: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """As in `Net`, by a whole that is there for the length of the call: the numbers of one process."""
        layout = self.layouts[name]
        if not layout.sharded:
            return draw(out)
        whole = torch.empty(layout.shape, dtype=out.dtype, device=out.device)
        return out.copy_(layout.view(draw(whole)))

    def place(self, tensor: Tensor) -> int:
        """As in `Net`: that of the part, where the tensor was gathered."""
        return super().place(self.gatherer.part_of(tensor))

    def of_block(self, tensor: Tensor, block: Block) -> Tensor:
        """What this process holds of a block; `tensor` is its part of the tensor."""
        return tensor[self.layouts[block.parameter].held(block)]

    def any(self, tensor: Tensor, block: Block) -> bool:
        """As in `Net`, on all processes."""
        return totals([bool(self.of_block(tensor, block).any())], self.groups, self.device)[0] > 0

    def rows(self, name: str, tensor: Tensor, axis: int) -> NDArray[np.bool_]:
        """As in `Net`, of the whole tensor."""
        flags = np.zeros(self.layouts[name].shape[axis], np.int64)
        flags[self.layouts[name].rows(axis)] = super().rows(name, tensor, axis)
        return np.array(totals(flags.tolist(), self.groups, self.device, largest=True), np.bool_)

    def keep_best(self, scores: Mapping[str, Tensor], keep: Any, **options: Any) -> Masks:
        """`keep_best` on parts of scores; the masks are parts too."""
        from foreprune.sharded.sharded_select import keep_best_sharded

        return keep_best_sharded(self, scores, keep, **options)

    def kept(self, masks: Masks) -> int:
        """How many prunable weights parts of masks keep on all processes."""
        from foreprune.sharded.sharded_select import counts_of

        return sum(counts_of(self, masks, self.blocks).values())

    def dense(self) -> Masks:
        """Parts of masks that keep everything. Of their counts only those of the blocks are those of the whole."""
        return Masks._adopt(
            {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()},
            kept={name: weight.numel() for name, weight in self.weights.items()},
            table=by_parameter(self.blocks),
        )

    def summing(self) -> ShardedNet:
        """The same, for processes that see different data: derivatives are sums over them."""
        return replace(self, gatherer=Gatherer(summed=True))

    @property
    def groups(self) -> list[Any]:
        """The processes: summed over each group in turn, numbers are sums over all of them."""
        return next(iter(self.layouts.values())).mesh.get_all_groups()

    @property
    def sums(self) -> bool:
        """Whether derivatives are sums over processes that see different data."""
        return self.gatherer.summed

    @cached_property
    def size(self) -> int:
        """Number of parameters, on all processes."""
        return sum(math.prod(layout.shape) for layout in self.layouts.values())

    @property
    def holds_scores(self) -> bool:
        """No: they are as large as the parts of the weights."""
        return False

    @property
    def replayable(self) -> bool:
        """No: gathering is no tensor operation that could be noted."""
        return False

    def owners(self, passed: Params) -> MutableMapping[int, Tensor]:
        """As in `Net`, of the weights that are gathered in the next call; large ones are left out."""
        self._owned.clear()
        self._owned.update(
            (value.data_ptr(), self.params[name])
            for name, value in passed.items()
            if name in self.layouts and not self.layouts[name].sharded
        )

        def own(name: str, whole: Tensor) -> None:
            layout = self.layouts[name]
            if layout.sharded:
                self._owned[whole.data_ptr()] = layout.gather(self.params[name])

        self.gatherer.on_small = own
        return self._owned

    def saving(self, message: str) -> contextlib.AbstractContextManager[Any]:
        """What autograd saves is kept without gathered weights. Hooks of the model on it are not refused."""
        return self.gatherer.saving()

    def parting(self, nodes: Iterable[Any]) -> contextlib.AbstractContextManager[Callable[[Tensor], Tensor | None]]:
        """As in `Net`: whole derivatives are not kept until all of their terms are there."""
        return parting(nodes)

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        """As in `Net`, with parts for parameters. All processes have to call, with the same inputs."""
        parts = {name: params.get(name, own) for name, own in self.params.items()}
        mode = Gathering(parts, self.layouts, self.gatherer)
        others = {name: value for name, value in params.items() if name not in parts}
        with _ungathered(self.module), mode:
            return super().__call__({**others, **mode.stand_ins}, *args, **kwargs)


@contextlib.contextmanager
def _ungathered(module: nn.Module) -> Iterator[None]:
    """The hooks by which `fully_shard` gathers parameters are out of the way, and afterwards where they were."""
    hooked: list[tuple[Any, list[tuple[int, Any]]]] = []
    try:
        for part in module.modules():
            for hooks in (part._forward_pre_hooks, part._forward_hooks):
                before = list(hooks.items())
                mine = [key for key, hook in before if getattr(hook, "__module__", "").startswith(_FULLY_SHARD)]
                if mine:
                    hooked.append((hooks, before))
                    for key in mine:
                        del cast(Any, hooks)[key]
        yield
    finally:
        for hooks, before in hooked:
            hooks.clear()
            hooks.update(before)
