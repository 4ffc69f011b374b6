"""Masks in training: pruned weights of a plain, unrenamed module stay exactly zero while any optimizer trains it.

Two hooks do it. A hook on each masked parameter multiplies its gradient by the mask as soon as it is accumulated, so
whatever the optimizer derives from gradients (momentum, second moments, norms for clipping) never sees a pruned weight.
A hook after `optimizer.step()` multiplies the weights by the mask again, which catches what does not come from the
masked gradient: updates that mix entries (Muon), noise, or state loaded from elsewhere. Neither hook lives in the
module itself, so the keys of `state_dict`, `copy.deepcopy`, `torch.save`, `DistributedDataParallel` and
`torch.compile` see an ordinary module.

Both products are made in every step. Leaving the second out while nothing seems to have touched weights and gradients
would save one percent of a step of a small network, but writes to `.data`, to shared NumPy memory and to optimizer
state leave no trace that costs less to look for than the product does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from foreprune.core.converted import hint
from foreprune.core.masks import parameters_of, unwrapped


class _Removable(Protocol):
    def remove(self) -> None: ...


class Handle:
    """The hooks that `attach` installed. Call `remove()`, or use it as a context manager, to take them out again.

    Attributes:
        masks: name -> bool tensor, as attached (read-only).
    """

    def __init__(self, masks: Mapping[str, Tensor], hooks: list[_Removable]) -> None:
        self.masks: Mapping[str, Tensor] = MappingProxyType(dict(masks))
        self._hooks = hooks
        self._active = True

    @property
    def active(self) -> bool:
        """Whether the hooks are still installed."""
        return self._active

    def remove(self) -> None:
        """Take the hooks out; a second call does nothing. Pruned weights are zero now and may grow from here on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._active = False

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        total = sum(mask.numel() for mask in self.masks.values())
        state = "attached" if self._active else "removed"
        return f"Handle({state}, {len(self.masks)} tensors, kept {kept:,}/{total:,})"


class _Factor:
    """A mask as a factor of zeros and ones in the dtype of its weight.

    Multiplying by it is about 5 times faster than by booleans and 12 times faster than `masked_fill_` (CPU, measured).
    It does not know its parameter on purpose: a parameter whose hook refers back to it is never freed.
    """

    __slots__ = ("value",)

    def __init__(self, parameter: nn.Parameter, mask: Tensor) -> None:
        # empty_like keeps the strides of the weight (channels_last), which keeps the product a flat loop
        self.value = torch.empty_like(parameter, requires_grad=False).copy_(mask)

    def on(self, device: torch.device) -> Tensor:
        """The factor on `device`, where its weight may have been moved after `attach`. (Types need not match.)"""
        if self.value.device != device:
            self.value = self.value.to(device)
        return self.value

    def mask_gradient(self, parameter: Tensor) -> None:
        grad = parameter.grad
        if grad is None:
            return
        if grad.is_sparse or torch.is_grad_enabled():  # backward(create_graph=True) may still need the old values
            parameter.grad = grad * self.on(grad.device).to(grad.dtype)
        else:
            grad.mul_(self.on(grad.device))

    def zero_state(self, parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value.masked_fill_(self.value.to(value.device) == 0, 0)


def attach(masks: Mapping[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Handle:
    """Keep the weights that `masks` prunes exactly zero while `optimizer` trains `module`.

    At once, pruned weights, their gradients and their entries of existing optimizer state are set to zero (the
    curvature memory of `torch.optim.LBFGS`, which is not stored per weight, is forgotten). From then on gradients are
    masked as they arrive and weights after every step. Attaching twice prunes what either mask prunes.

    Args:
        masks: parameter name -> bool tensor of the parameter's shape, True keeps. A tied weight may be given under any
            of its names. Masks are copied, cast once to the dtype of the weight, and follow it to its device.
        module: the model; `DistributedDataParallel` and `torch.compile` wrappers are looked through.
        optimizer: the optimizer that trains it; accelerate's and Lightning's wrappers are looked through. With None
            only gradients are masked. Pruned weights then stay zero as long as a zero gradient, a zero weight and fresh
            state mean a zero update: true of SGD, Adam and their kin built after this call; not of momentum that
            predates the mask, of Muon, or of added noise.

    Returns:
        A `Handle`. Hooks follow neither a deep copy nor a pickle: attach the masks to the copy and its optimizer too.
        Loading a dense `state_dict` into the module brings pruned weights back until the next step: load first.
        Non-finite gradients make weights NaN, pruned ones included; a product does not hide it.

    Raises:
        TypeError: a mask that is not boolean, or something that is no module or optimizer.
        ValueError: masks for another model, two different masks for one tied weight, or an optimizer that updates none
            of the masked parameters. Whatever is raised, nothing has been changed and no hook stays.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}{hint(module)}")
    if optimizer is not None:
        optimizer = inner_optimizer(optimizer)
    masked = _masked_parameters(masks, unwrapped(module))
    if optimizer is not None and masked:
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if not any(id(parameter) in trained for parameter, _ in masked):
            raise ValueError(
                f"the optimizer updates none of the {len(masked)} masked parameters ({next(iter(masks))}, ...): it "
                "belongs to another model; build it from this model's parameters(), or give None to mask gradients only"
            )
    # A layer that keeps everything needs no hook and costs nothing.
    pruned = [(parameter, _Factor(parameter, mask)) for parameter, mask in masked if not bool(mask.all())]
    handle = Handle({name: mask.detach().clone() for name, mask in masks.items()}, [])
    try:
        # Hooks first: they can be taken out again, and what cannot be hooked has not been changed then.
        for parameter, factor in pruned:
            handle._hooks.append(_hook_gradient(parameter, factor))
        if pruned and optimizer is not None:
            for hook in _hook_optimizer(optimizer, pruned):
                handle._hooks.append(hook)
        if pruned and isinstance(optimizer, torch.optim.LBFGS):
            optimizer.state.clear()
        for parameter, factor in pruned:
            with torch.no_grad():
                parameter.masked_fill_(factor.value == 0, 0)  # a product would keep NaN and the sign of -0.0
                factor.mask_gradient(parameter)
            if optimizer is not None:
                factor.zero_state(parameter, optimizer)
    except BaseException:
        handle.remove()
        raise
    return handle


def inner_optimizer(optimizer: object) -> torch.optim.Optimizer:
    """The optimizer whose `step` changes the weights: what accelerate's `AcceleratedOptimizer` and Lightning's
    `LightningOptimizer` hold under `.optimizer`, or `optimizer` itself.

    Raises:
        TypeError: no optimizer.
    """
    found = optimizer
    # a scheduler has an `.optimizer` too, but no groups of parameters
    while hasattr(found, "param_groups") and isinstance(
        inner := getattr(found, "optimizer", None), torch.optim.Optimizer
    ):
        found = inner
    if not isinstance(found, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be the torch.optim.Optimizer that trains the module, not {type(optimizer).__name__}; "
            "give the one inside a wrapper, or None to mask gradients only"
        )
    return found


def _masked_parameters(masks: Mapping[str, Tensor], module: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
    """Each masked parameter once, with its mask; raises before anything is changed."""
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"mask {name!r} must be a boolean tensor, not {given}; write (mask != 0)")
    targets = parameters_of(module, {name: tuple(mask.shape) for name, mask in masks.items()})
    found: dict[int, tuple[str, nn.Parameter, Tensor]] = {}
    for name, parameter in targets.items():
        first, _, mask = found.setdefault(id(parameter), (name, parameter, masks[name]))
        if not torch.equal(mask, masks[name].to(mask.device)):
            raise ValueError(
                f"{first!r} and {name!r} are one tied weight but have different masks; "
                "give only one of them, or the same mask twice"
            )
    return [(parameter, mask) for _, parameter, mask in found.values()]


def _hook_gradient(parameter: nn.Parameter, factor: _Factor) -> _Removable:
    frozen = not parameter.requires_grad
    # Frozen now, perhaps thawed later: the hook stays with the parameter, but registering it needs the flag.
    if frozen:
        parameter.requires_grad_(True)
    try:
        hook = parameter.register_post_accumulate_grad_hook(factor.mask_gradient)  # type: ignore[no-untyped-call]
        return cast(_Removable, hook)
    finally:
        if frozen:
            parameter.requires_grad_(False)


def _hook_optimizer(
    optimizer: torch.optim.Optimizer, pruned: list[tuple[nn.Parameter, _Factor]]
) -> Iterator[_Removable]:
    weights: list[Tensor] = [parameter for parameter, _ in pruned]
    factors = [factor for _, factor in pruned]

    def mask_weights(_optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        matching = [factor.on(weight.device) for weight, factor in zip(weights, factors, strict=True)]
        with torch.no_grad():
            torch._foreach_mul_(weights, matching)

    def mask_state(loaded: torch.optim.Optimizer) -> None:
        for parameter, factor in pruned:
            factor.zero_state(parameter, loaded)

    yield optimizer.register_step_post_hook(mask_weights)
    yield optimizer.register_load_state_dict_post_hook(mask_state)
