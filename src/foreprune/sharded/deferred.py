"""Parts of weights that are computed when they are used, and not kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Deferred(Tensor):
    """What `make()` returns, computed anew by every operation that takes it: a tensor without memory.

    It can be a leaf of autograd; derivatives are ordinary tensors.
    """

    make: Callable[[], Tensor]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, make: Callable[[], Tensor], *, like: Tensor, dtype: torch.dtype) -> Deferred:
        """Of the shape and on the device of `like`; `make` has to return that, in `dtype`."""
        deferred = Tensor._make_wrapper_subclass(cls, like.shape, dtype=dtype, device=like.device)
        deferred.make = make
        return deferred

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return Deferred(args[0].make, like=args[0], dtype=args[0].dtype)
        args, kwargs = tree_map_only(cls, made, (args, dict(kwargs or {})))
        return func(*args, **kwargs)


def made(tensor: Tensor) -> Tensor:
    """The values of a tensor, deferred or not, without derivatives."""
    if not isinstance(tensor, Deferred):
        return tensor.detach()
    with torch._C.DisableTorchFunction(), torch.no_grad():  # modes are about what the network does
        return tensor.make()
