"""`Masks`: which weights are kept. An immutable mapping from parameter name to boolean tensor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from foreprune.core.blocks import Block, Table, by_parameter, check_table, covers, whole
from foreprune.core.collective import gathered
from foreprune.core.mask_counts import count, kept_of, outside
from foreprune.core.mask_files import PackedMasks, read_bits, write_bits
from foreprune.core.sharding import is_sharded, local_of, part_of
from foreprune.core.targets import check_same_weights, parameters_of

if TYPE_CHECKING:
    from foreprune.core.attach import Handle
    from foreprune.core.budget import Density
    from foreprune.core.mask_sources import Rename
    from foreprune.core.prunable import Prunable
    from foreprune.core.select import Scope


class Masks(Mapping[str, Tensor]):
    """An immutable mapping name -> bool tensor of the weight's shape; True keeps the weight.

    Density is kept / total. Values compare by content, combine with `&` and `|`, and are cloned on the way in and out,
    so nobody can change a mask that somebody else holds. Masks of a sharded model are DTensors, sharded as its
    parameters. `metadata` (strings) says where the masks come from; it does not take part in comparisons.

    `blocks` are the prunable parts of tensors that hold several layers, such as the queries, keys and values of a fused
    projection; they do not take part in comparisons either. Weights outside of them are kept, whatever `tensors` say,
    and no count has them. A tensor without blocks is prunable as a whole.

    Raises:
        TypeError: no mapping, or a value that is not a boolean tensor.
        ValueError: no weights at all, or blocks that do not lie in the tensors.
    """

    __slots__ = ("_kept", "_table", "_tensors", "metadata")

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        metadata: Mapping[str, str] | None = None,
        blocks: Iterable[Block] = (),
    ) -> None:
        if not isinstance(tensors, Mapping):
            raise TypeError(f"masks are made of a mapping name -> boolean tensor, not {type(tensors).__name__}")
        for name, mask in tensors.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise TypeError(f"mask {name!r} must be a boolean tensor, not {found}; write (mask != 0)")
        self._tensors = {
            name: mask.detach().clone(memory_format=torch.contiguous_format) for name, mask in tensors.items()
        }
        self.metadata = dict(metadata or {})
        self._table = by_parameter(blocks)
        check_table(self._table, self.shapes)
        for name, parts in self._table.items():
            if not covers(parts):
                mask = self._tensors[name]
                local_of(mask).logical_or_(part_of(outside(parts, mask.device), mask, name=name))
        self._kept = {name: kept_of(mask, self._table.get(name, ())) for name, mask in self._tensors.items()}
        if not self.total:
            raise ValueError("masks without a single weight; give at least one non-empty tensor")

    @classmethod
    def dense(cls, weights: Mapping[str, Tensor], *, blocks: Iterable[Block] = ()) -> Masks:
        """Keep everything."""
        return cls({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}, blocks=blocks)

    @classmethod
    def from_zeros(cls, model: nn.Module, *, prunable: Prunable = None) -> Masks:
        """Masks of a model that was pruned elsewhere: weights that are exactly zero are pruned, all others kept.

        `prunable` says which weights to look at, as in `foreprune.prune`. What was initialized with zeros (adapters, a
        zero head) would count as pruned: exclude it; weights of nothing but zeros are named in a warning.

        Raises:
            ValueError, TypeError: `prunable` fits nothing, or no module.
        """
        from foreprune.core.mask_sources import masks_from_zeros

        return masks_from_zeros(model, prunable=prunable)

    @classmethod
    def from_scores(
        cls, scores: Mapping[str, Tensor], density: Density, *, scope: Scope = "global", seed: int = 0
    ) -> Masks:
        """Keep exactly `round(density * total)` weights, those with the largest scores, ties drawn from `seed`.

        The same masks as `foreprune.prune(model, scores, gates="score", ...)`, without a model, so that it is not known
        which tensors hold several layers. `scores` are name -> floating tensor of the weight's shape, larger means
        keep; `density` is in (0, 1], or a mapping from patterns to densities, as in `foreprune.prune`, each with an
        exact count; `scope` "global" compares over all tensors, "local" keeps the same fraction of each.

        Raises:
            ValueError: scores that are NaN, infinite or all zero; a density that keeps nothing; a pattern that fits
                nothing, or a tensor that none fits.
            TypeError: scores that are no mapping of dense floating tensors.
        """
        from foreprune.core.mask_sources import masks_from_scores

        return masks_from_scores(scores, density, scope=scope, seed=seed)

    @classmethod
    def from_torch_prune(cls, model: nn.Module) -> Masks:
        """The masks that `torch.nn.utils.prune` has put on `model`, under the names that its weights have after
        `prune.remove`: call that on each of them, then `attach`. The model is not changed.

        Raises:
            ValueError: nothing of the model is pruned so.
        """
        from foreprune.core.mask_sources import masks_from_torch_prune

        return masks_from_torch_prune(model)

    def to_torch_prune(self, model: nn.Module) -> nn.Module:
        """Prune `model` in place by `torch.nn.utils.prune`, with these masks, and return it.

        Its parameters are then named `weight_orig`, beside buffers `weight_mask`, and keep the values of pruned
        weights; `prune.remove(module, "weight")` makes the zeros permanent. Tied weights stay tied.

        Raises:
            ValueError: the masks belong to another model, it is pruned so already, or it is sharded. Nothing has been
                changed then.
        """
        from foreprune.core.mask_sources import masks_to_torch_prune

        return masks_to_torch_prune(self, model)

    def renamed(self, names: Rename | None = None, *, strip: str = "", add: str = "") -> Masks:
        """The same masks under other names, such as those of the model inside or around another.

        Args:
            names: old -> new names, where names that are missing stay; or a function of the old name.
            strip: prefix that every name begins with and loses: "module.".
            add: prefix that every name gets, after `strip`: "model.".

        Raises:
            ValueError: two masks would have one name, a name without the prefix, or one that there is not.
            TypeError: nothing to do, or new names that are no strings.
        """
        from foreprune.core.mask_sources import renamed_masks

        return renamed_masks(self, names, strip=strip, add=add)

    @classmethod
    def _adopt(cls, tensors: dict[str, Tensor], *, kept: dict[str, int], table: Table | None = None) -> Masks:
        """Masks of contiguous boolean tensors that nobody else holds, with so many prunable weights kept in each:
        nothing is checked, nothing copied."""
        masks = object.__new__(cls)
        masks._tensors, masks._kept, masks.metadata, masks._table = tensors, kept, {}, dict(table or {})
        return masks

    def with_metadata(self, metadata: Mapping[str, str]) -> Masks:
        """The same masks with other metadata; no tensor is copied."""
        twin = self._adopt(self._tensors, kept=self._kept, table=self._table)
        twin.metadata = dict(metadata)
        return twin

    def replaced(self, tensors: Mapping[str, Tensor]) -> Masks:
        """Other masks for the same blocks, with the same metadata."""
        return Masks(tensors, metadata=self.metadata, blocks=self.blocks)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    @property
    def kept(self) -> int:
        """Number of weights kept."""
        return sum(self._kept.values())

    @property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(total for _, total in self.layer_counts().values())

    @property
    def density(self) -> float:
        """kept / total."""
        return self.kept / self.total

    @property
    def sparsity(self) -> float:
        """Fraction removed, (total - kept) / total."""
        return (self.total - self.kept) / self.total

    def layer_counts(self) -> dict[str, tuple[int, int]]:
        """name -> (kept, total) of each tensor's prunable weights."""
        return {
            name: (
                self._kept[name],
                sum(block.size for block in self._table[name]) if name in self._table else mask.numel(),
            )
            for name, mask in self._tensors.items()
        }

    def layer_densities(self) -> dict[str, float]:
        """name -> kept / total of that tensor (an empty tensor counts as dense)."""
        return {name: kept / total if total else 1.0 for name, (kept, total) in self.layer_counts().items()}

    def collapsed(self) -> tuple[str, ...]:
        """Names of the tensors with no weight left."""
        return tuple(name for name, (kept, total) in self.layer_counts().items() if total and not kept)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The prunable blocks, in the order of the tensors: a tensor, or its parts where it holds several layers."""
        return tuple(
            block
            for name, mask in self._tensors.items()
            for block in self._table.get(name) or (whole(name, mask.shape),)
        )

    def block_counts(self) -> dict[str, tuple[int, int]]:
        """Block -> (kept, total). A tensor that is not split is one block of its name."""
        counts: dict[str, tuple[int, int]] = {}
        for name, mask in self._tensors.items():
            if name not in self._table:
                counts[name] = self._kept[name], mask.numel()
                continue
            held = gathered(mask)
            counts |= {block.name: (count(held[block.index]), block.size) for block in self._table[name]}
        return counts

    def block_densities(self) -> dict[str, float]:
        """Block -> kept / total (an empty one counts as dense)."""
        return {name: kept / total if total else 1.0 for name, (kept, total) in self.block_counts().items()}

    def collapsed_blocks(self) -> tuple[str, ...]:
        """Names of the blocks with no weight left."""
        return tuple(name for name, (kept, total) in self.block_counts().items() if total and not kept)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self._tensors.keys() == other._tensors.keys() and all(
            torch.equal(mask, other._tensors[name].to(mask.device)) for name, mask in self._tensors.items()
        )

    __hash__ = None  # type: ignore[assignment]  # compared by content, which is too large to hash on every lookup

    def __and__(self, other: Masks) -> Masks:
        return self._combine(other, torch.logical_and)

    def __or__(self, other: Masks) -> Masks:
        return self._combine(other, torch.logical_or)

    def _combine(self, other: Masks, rule: Callable[[Tensor, Tensor], Tensor]) -> Masks:
        if not isinstance(other, Masks):
            return NotImplemented
        check_same_weights(self.shapes, other.shapes, what="the other masks")
        table = {name: parts for name, parts in self._table.items() if other._table.get(name) == parts}
        return Masks(
            {name: rule(mask, other._tensors[name].to(mask.device)) for name, mask in self._tensors.items()},
            blocks=(block for parts in table.values() for block in parts),
        )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """name -> shape."""
        return {name: tuple(mask.shape) for name, mask in self._tensors.items()}

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on another device."""
        return self.replaced({name: mask.to(device) for name, mask in self._tensors.items()})

    def __call__(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`params` with every masked tensor multiplied by its mask; nothing is changed in place.

        Tensors of which nothing is pruned are passed on themselves.
        """
        return {name: value * self._tensors[name] if self._prunes(name) else value for name, value in params.items()}

    def _prunes(self, name: str) -> bool:
        return name in self._tensors and self._kept[name] < self._tensors[name].numel()

    def multiply(self, name: str, value: Tensor, *, out: Tensor) -> None:
        """`value` times the mask of `name`, written to `out`; none of them records gradients."""
        mask = self._tensors[name]
        if value.device.type == "cpu" and value.dtype in (torch.float32, torch.float64):
            np.multiply(value.numpy(), mask.numpy(), out=out.numpy())  # torch takes twice as long
        else:
            torch.mul(value, mask, out=out)

    def apply_(self, module: nn.Module) -> nn.Module:
        """Set the pruned weights of `module` to zero, in place, once. To keep them zero in training use `attach`.

        Raises:
            ValueError: the masks belong to another model.
        """
        targets = parameters_of(module, self.shapes)
        with torch.no_grad():
            for name, parameter in targets.items():
                mask = self._tensors[name]
                part = local_of(mask) if is_sharded(mask) else part_of(mask, parameter, name=name)
                held = local_of(parameter)
                held.masked_fill_(~part.to(held.device), 0)
        return module

    def attach(self, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Handle:
        """Keep the pruned weights of `module` exactly zero while `optimizer` trains it; see `foreprune.core.attach`."""
        from foreprune.core.attach import attach

        return attach(self._tensors, module, optimizer)

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> Path:
        """Write a safetensors file with one bit per weight, whole or not at all.

        `metadata` is added to the masks' own (method, density, seed, ...). Any safetensors reader opens the file; its
        layout stands in `foreprune.core.mask_files`. Of sharded masks the first process writes the file, for which
        they are gathered tensor by tensor; all have to call.
        """
        about = {key: str(value) for key, value in {**self.metadata, **(metadata or {})}.items()}
        bits, writes = {}, True
        for name, mask in self._tensors.items():
            if is_sharded(mask):
                writes = not any(cast(Any, mask).device_mesh.get_coordinate())
            whole_mask = gathered(mask)
            if writes:
                bits[name] = np.packbits(whole_mask.flatten().cpu().numpy())
        return write_bits(Path(path), PackedMasks(bits, self.shapes, about, self._table)) if writes else Path(path)

    def full(self) -> Masks:
        """The whole masks, of those that are sharded over processes, on each of them; all have to call."""
        whole = {name: gathered(mask) if is_sharded(mask) else mask.clone() for name, mask in self._tensors.items()}
        return Masks._adopt(whole, kept=dict(self._kept), table=self._table).with_metadata(self.metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Masks:
        """Read masks written by `save`. Nothing in the file is executed or trusted.

        Raises:
            FileNotFoundError: no such file.
            ValueError: truncated, damaged, or not a foreprune mask file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no mask file at {path}; write one with masks.save(path) or `foreprune prune`")
        try:
            found = read_bits(path)
        except ValueError as error:
            raise ValueError(f"{path} is {error}") from error
        tensors = {}
        for name, shape in found.shapes.items():
            kept = np.unpackbits(found.bits[name], count=math.prod(shape)).astype(np.bool_)
            tensors[name] = torch.from_numpy(kept).reshape(shape)
        return cls(tensors, metadata=found.metadata, blocks=(one for parts in found.table.values() for one in parts))

    def __repr__(self) -> str:
        return (
            f"Masks({len(self)} tensors, kept {self.kept:,}/{self.total:,}, density {self.density:.4g}, "
            f"sparsity {self.sparsity:.4g})"
        )


def check_masks(masks: object, *, optional: bool = False) -> None:
    """Raise TypeError for what is no `Masks`; `optional`: None is allowed too."""
    if not isinstance(masks, Masks) and not (optional and masks is None):
        raise TypeError(
            f"masks must be foreprune.Masks{' or None (every weight is kept)' if optional else ''}, not "
            f"{type(masks).__name__}"
        )
