"""Derivatives of a number with respect to named tensors."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from foreprune.core.net import Params


def gradients(total: Tensor, params: Params, names: Iterable[str], *, create_graph: bool = False) -> dict[str, Tensor]:
    """d total / d params[name] for each name; zeros where `total` does not depend on it.

    Without `create_graph` every gradient has memory of its own, so callers may change it in place.
    """
    names = list(names)
    if not total.requires_grad:
        return {name: torch.zeros_like(params[name]) for name in names}
    grads = torch.autograd.grad(
        total, [params[name] for name in names], create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, grads if create_graph else owned(grad.detach() for grad in grads), strict=True))


def add_gradients(total: Tensor, params: Params, onto: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add d total / d params[name] to `onto[name]` in place, each as soon as it is known: no other copy of all of them.

    Args:
        total: a scalar.
        params: leaves of its graph, or none.
        onto: tensors that share no memory.
    """

    def add(name: str, grad: Tensor) -> Tensor:
        onto[name].add_(grad)
        return torch.zeros((), dtype=grad.dtype, device=grad.device).expand(grad.shape)

    if total.requires_grad:
        hooks = [params[name].register_hook(partial(add, name)) for name in onto]  # type: ignore[no-untyped-call]
        try:
            torch.autograd.grad(total, [params[name] for name in onto], allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
    return onto


def owned(grads: Iterable[Tensor]) -> list[Tensor]:
    """Copies of those that are expanded or share memory: autograd hands one tensor to both terms of a sum."""
    found: list[Tensor] = []
    seen: set[int] = set()
    for grad in grads:
        storage = grad.untyped_storage()
        small = storage.nbytes() < grad.numel() * grad.element_size()
        found.append(grad.clone() if small or storage._cdata in seen else grad)
        seen.add(storage._cdata)
    return found
