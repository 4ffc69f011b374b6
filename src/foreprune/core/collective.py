"""What several processes have to agree on: sums, equal tensors, errors. All processes of the groups have to call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from foreprune.core.sharding import is_sharded

_T = TypeVar("_T")


def reduced(value: Tensor, groups: Iterable[Any], *, largest: bool = False) -> Tensor:
    """The sum (or the largest) over the processes of each group in turn, in place."""
    import torch.distributed as distributed

    operation = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
    for group in groups:
        distributed.all_reduce(value, operation, group=group)
    return value


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that is sharded over processes, all of which have to call; of any other, itself."""
    return cast(Tensor, cast(Any, tensor).full_tensor()) if is_sharded(tensor) else tensor


def totals(numbers: Sequence[int], groups: Iterable[Any], device: torch.device, *, largest: bool = False) -> list[int]:
    """The same for whole numbers."""
    value = torch.tensor(numbers, dtype=torch.int64, device=device)
    found: list[int] = reduced(value, groups, largest=largest).tolist()
    return found


def same_everywhere(tensors: Iterable[Tensor], groups: Iterable[Any], device: torch.device) -> bool:
    """Whether all processes hold the same tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    number = int.from_bytes(digest.digest()[:7])
    high, low = totals([number, -number], groups, device, largest=True)
    return high == -low


def together(build: Callable[[], _T], groups: Iterable[Any], device: torch.device, *, what: str) -> _T:
    """What `build()` returns; an error in one process is an error in all of them, so that none waits for ever.

    Raises:
        RuntimeError: another process failed; it raises its own error.
    """
    try:
        value = build()
    except Exception:
        totals([1], groups, device, largest=True)
        raise
    if totals([0], groups, device, largest=True)[0]:
        raise RuntimeError(f"another process failed in {what}; its error says why")
    return value
