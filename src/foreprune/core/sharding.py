"""Parameters that are spread over processes: what `torch.distributed.fsdp.fully_shard` makes of them (DTensors).

Every process holds a part of each tensor. Nothing here communicates.
"""

from __future__ import annotations

import copy
import sys
from typing import Any, cast

from torch import Tensor, nn


def is_sharded(value: object) -> bool:
    """Whether `value` is a DTensor: a tensor of which every process holds a part."""
    # without the module there is none, and importing it takes half a second
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def local_of(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its part of a DTensor, all of any other. It shares the memory."""
    return cast(Tensor, cast(Any, tensor)._local_tensor) if is_sharded(tensor) else tensor


def part_of(full: Tensor, like: Tensor, *, name: str) -> Tensor:
    """The part of `full` that this process would hold if it were sharded as `like` is; a view.

    Raises:
        ValueError: `like` is sharded in a way that cuts no such part (tensor parallelism over the axis that
            `fully_shard` cuts, partial sums), or over processes that this one does not belong to.
    """
    if not is_sharded(like):
        return full
    return cut(full, cast(Any, like).device_mesh, cast(Any, like).placements, name=name)


def cut(full: Tensor, mesh: Any, placements: Any, *, name: str) -> Tensor:
    """The part of `full` that this process holds by `placements` on `mesh`; a view. Errors as in `part_of`."""
    place = mesh.get_coordinate()
    if place is None:
        raise ValueError(f"{name!r} is sharded over processes that this one does not belong to; call it on those only")
    part = full
    for size, coordinate, placement in zip(mesh.shape, place, placements, strict=True):
        if type(placement).__name__ == "Replicate":
            continue
        if type(placement).__name__ != "Shard":
            raise ValueError(
                f"{name!r} is sharded as {placements}, of which this process holds no block; only Shard and Replicate "
                "are known here, as fully_shard makes them: shard another axis with shard_placement_fn="
            )
        step = -(-part.shape[placement.dim] // size)
        start = min(coordinate * step, part.shape[placement.dim])
        part = part.narrow(placement.dim, start, min(step, part.shape[placement.dim] - start))
    return part


def unsharded_copy(layer: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy of a layer, without what `fully_shard` may have made of it; `memo` as of `copy.deepcopy`."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(layer, fsdp.FSDPModule):
        return copy.deepcopy(layer, memo)
    kind: Any = next(base for base in type(layer).__mro__[1:] if not issubclass(base, fsdp.FSDPModule))
    twin: nn.Module = kind.__new__(kind)
    nn.Module.__init__(twin)
    own = {
        key: value
        for key, value in vars(layer).items()
        if not key.endswith("_hooks") and not key.startswith("__composable_api")
    }
    vars(twin).update(copy.deepcopy(own, memo))
    return twin


def reshard(module: nn.Module) -> None:
    """Let every part of `module` under `fully_shard` hold its sharded parameters.

    After a forward without a backward the outermost one still holds gathered copies; training starts from the same
    state.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None:
        for part in module.modules():
            if isinstance(part, fsdp.FSDPModule):
                cast(Any, part).reshard()


def refuse_flattened(module: nn.Module) -> None:
    """Raise TypeError for a module under `FullyShardedDataParallel` (FSDP1), which has no parameters of its own shape.

    Raises:
        TypeError: some part of it is wrapped.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(isinstance(part, fsdp.FullyShardedDataParallel) for part in module.modules()):
        raise TypeError(
            "the model is wrapped in FullyShardedDataParallel (FSDP1), which flattens parameters, so that masks have "
            "no place in them; shard it with torch.distributed.fsdp.fully_shard (FSDP2) instead"
        )
