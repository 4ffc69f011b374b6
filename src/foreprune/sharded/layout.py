"""How one parameter is spread over processes: its parts, the whole, and sums over processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate

from foreprune.core.blocks import Block
from foreprune.core.sharding import cut, is_sharded
from foreprune.sharded.deferred import made


@dataclass(frozen=True, eq=False)
class Layout:
    """The whole of a tensor is spread over the processes of `mesh` as `placements` say.

    Attributes:
        name: of the parameter.
        shape: of the whole.
        mesh: the processes, the same for all parameters of a model.
        placements: one for each axis of the mesh. Of a parameter that is not sharded every process holds the whole.
        first: whether the part of this process counts in sums over processes; of several copies only one does.
    """

    name: str
    shape: tuple[int, ...]
    mesh: DeviceMesh
    placements: tuple[Placement, ...]
    first: bool

    @classmethod
    def of(cls, name: str, parameter: Tensor, mesh: DeviceMesh) -> Layout:
        """The layout of a parameter, a DTensor or not.

        Raises:
            ValueError: it is sharded over other processes than `mesh`, or in another way than `fully_shard` does.
        """
        placements: tuple[Placement, ...] = (Replicate(),) * mesh.ndim
        if is_sharded(parameter):
            spread = cast(DTensor, parameter)
            if spread.device_mesh != mesh:
                raise ValueError(
                    f"{name!r} is sharded over {spread.device_mesh} and other parameters over {mesh}; shard all of "
                    "them over one mesh to score them"
                )
            placements = tuple(spread.placements)
            cut(torch.empty(parameter.shape, device="meta"), mesh, placements, name=name)  # raises if it cannot be
        place = list(mesh.get_coordinate() or ())
        copies = [at for at, placement in zip(place, placements, strict=True) if placement.is_replicate()]
        return cls(name, tuple(parameter.shape), mesh, placements, not any(copies))

    @property
    def sharded(self) -> bool:
        """Whether this process holds only a part."""
        return any(placement.is_shard() for placement in self.placements)

    def spread(self, part: Tensor) -> Tensor:
        """The DTensor with this part; the part itself where it is the whole."""
        if not self.sharded:
            return part
        stride = torch.empty(self.shape, device="meta").stride()
        shape = torch.Size(self.shape)
        return DTensor.from_local(part, self.mesh, self.placements, run_check=False, shape=shape, stride=stride)

    def gather(self, part: Tensor) -> Tensor:
        """The whole, from the parts of all processes, which all have to call."""
        return cast(DTensor, self.spread(made(part))).full_tensor() if self.sharded else part

    def part(self, whole: Tensor) -> Tensor:
        """This process's part of a whole that every process holds, in memory of its own."""
        return self.view(whole).clone(memory_format=torch.contiguous_format) if self.sharded else whole

    def view(self, whole: Tensor) -> Tensor:
        """The same, in the memory of the whole."""
        return cut(whole, self.mesh, self.placements, name=self.name) if self.sharded else whole

    def rows(self, axis: int) -> NDArray[np.int64]:
        """The numbers of the rows along `axis` that this process holds."""
        ones = [1] * len(self.shape)
        numbers = torch.arange(self.shape[axis]).view(*ones[:axis], -1, *ones[axis + 1 :]).expand(self.shape)
        found = cut(numbers, self.mesh, self.placements, name=self.name).movedim(axis, 0).flatten(1)
        rows: NDArray[np.int64] = found[:, 0].numpy() if found.shape[1] else np.zeros(0, np.int64)
        return rows

    def held(self, block: Block) -> tuple[Any, ...]:
        """What picks out of this process's part what it holds of a block."""
        if not block.spans:
            return (...,)
        within = np.zeros(block.tensor[block.axis], np.bool_)
        for start, stop in block.spans:
            within[start:stop] = True
        places = torch.from_numpy(np.flatnonzero(within[self.rows(block.axis)]))
        return (*(slice(None),) * block.axis, places)

    def summed(self, whole: Tensor) -> Tensor:
        """This process's part of the sum of what the processes hold; all of them have to call."""
        partial = DTensor.from_local(whole, self.mesh, (Partial(),) * self.mesh.ndim, run_check=False)
        return partial.redistribute(placements=self.placements).to_local()
