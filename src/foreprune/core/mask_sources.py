"""Masks from zero weights, ready scores and `torch.nn.utils.prune`, back to the last, and under other names."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from foreprune.core.blocks import whole
from foreprune.core.budget import Density, as_densities, grouped, lots_of
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.prunable import Prunable
from foreprune.core.seeds import generator_for
from foreprune.core.select import Scope, keep_best
from foreprune.core.settings import check_scope_and_seed
from foreprune.core.sharding import is_sharded
from foreprune.core.targets import parameters_of, unwrapped

Rename = Mapping[str, str] | Callable[[str], str]


def masks_from_zeros(model: nn.Module, *, prunable: Prunable = None) -> Masks:
    """See `Masks.from_zeros`."""
    net = Net.of(model, prunable=prunable)
    tensors = {name: weight.detach() != 0 for name, weight in net.weights.items()}
    masks = Masks(tensors, metadata={"method": "zeros"}, blocks=net.blocks)
    if empty := masks.collapsed_blocks():
        warnings.warn(
            f"{len(empty)} of {len(masks.blocks)} weights hold nothing but zeros ({', '.join(empty[:5])}"
            f"{', ...' if len(empty) > 5 else ''}) and are taken as pruned whole; if they were initialized with zeros, "
            "exclude them with prunable=",
            stacklevel=3,
        )
    return masks


def masks_from_scores(scores: Mapping[str, Tensor], density: Density, *, scope: Scope, seed: int) -> Masks:
    """See `Masks.from_scores`."""
    if not isinstance(scores, Mapping):
        raise TypeError(f"scores must be a mapping from parameter name to tensor, not {type(scores).__name__}")
    for name, score in scores.items():
        if not isinstance(score, Tensor):
            raise TypeError(f"the scores of {name!r} must be a tensor, not {type(score).__name__}")
        if score.layout != torch.strided:
            raise TypeError(
                f"the scores of {name!r} must be a dense tensor, not {score.layout}; write scores.to_dense()"
            )
    check_scope_and_seed(scope, seed)
    density = as_densities(density=density)
    blocks = [whole(name, score.shape) for name, score in scores.items()]
    (lots,) = lots_of(grouped(blocks, density, slots={name: name for name in scores}))
    keep = lots[0].keep if len(lots) == 1 else lots
    masks = keep_best(scores, keep, scope=scope, generator=generator_for("prune", int(seed)))
    return masks.with_metadata({"method": "scores", "density": repr(density), "seed": str(seed), "scope": scope})


def masks_from_torch_prune(model: nn.Module) -> Masks:
    """See `Masks.from_torch_prune`."""
    found: dict[str, Tensor] = {}
    for prefix, owner in unwrapped(model).named_modules(remove_duplicate=False):
        for attribute in _pruned_attributes(owner):
            name = f"{prefix}.{attribute}" if prefix else attribute
            found[name] = owner.get_buffer(f"{attribute}_mask") != 0
    if not found:
        raise ValueError(
            "the model holds no mask of torch.nn.utils.prune: prune it with that first, or use Masks.from_zeros(model) "
            "where prune.remove has been called already"
        )
    return Masks(found, metadata={"method": "torch.nn.utils.prune"})


def masks_to_torch_prune(masks: Masks, model: nn.Module) -> nn.Module:
    """See `Masks.to_torch_prune`."""
    module = unwrapped(model)
    owners = list(module.named_modules())
    for prefix, owner in owners:
        for attribute in _pruned_attributes(owner):
            if (name := f"{prefix}.{attribute}" if prefix else attribute) in masks:
                raise ValueError(
                    f"{name!r} is pruned by torch.nn.utils.prune already; "
                    f"call prune.remove(module, {attribute!r}) first"
                )
    targets = parameters_of(module, masks.shapes)
    if any(map(is_sharded, [*targets.values(), *masks.values()])):
        raise ValueError(
            "torch.nn.utils.prune is for whole models, and this one, or its masks, are sharded over processes; write "
            "masks.attach(model, optimizer), or masks.full().to_torch_prune(model) before fully_shard"
        )
    names = {id(parameter): name for name, parameter in targets.items()}
    places = [
        (owner, attribute, names[id(parameter)])
        for _, owner in owners
        for attribute, parameter in owner._parameters.items()
        if id(parameter) in names  # wherever a tied weight is used
    ]
    for owner, attribute, name in places:
        mask = masks[name].to(targets[name].device, targets[name].dtype)
        torch_prune.custom_from_mask(owner, attribute, mask)  # type: ignore[no-untyped-call]
    return model


def renamed_masks(masks: Masks, names: Rename | None, *, strip: str, add: str) -> Masks:
    """See `Masks.renamed`."""
    if (names is None) == (not strip and not add):
        raise TypeError('give either names (a mapping or a function) or prefixes: strip="module.", add="model."')
    to = {name: add + _stripped(name, strip) for name in masks} if names is None else _renamed(masks, names)
    doubled = [name for name, count in Counter(to.values()).items() if count > 1]
    if doubled:
        both = [name for name in masks if to[name] == doubled[0]]
        raise ValueError(f"{both[0]!r} and {both[1]!r} would both be named {doubled[0]!r}; give each its own name")
    blocks = [
        replace(
            block, name=to[block.parameter] + block.name.removeprefix(block.parameter), parameter=to[block.parameter]
        )
        for block in masks.blocks
    ]
    return Masks({to[name]: mask for name, mask in masks.items()}, metadata=masks.metadata, blocks=blocks)


def _renamed(masks: Masks, names: Rename) -> dict[str, str]:
    if isinstance(names, Mapping):
        if odd := [name for name in names if name not in masks]:
            raise ValueError(f"there is no mask {odd[0]!r} to rename; there are {', '.join(list(masks)[:4])}, ...")
        to = {name: names.get(name, name) for name in masks}
    elif callable(names):
        to = {name: names(name) for name in masks}
    else:
        raise TypeError(f"names must be a mapping from old to new or a function of the old, not {type(names).__name__}")
    for old, new in to.items():
        if not isinstance(new, str) or not new:
            raise TypeError(f"the new name of {old!r} must be a string that is not empty, not {new!r}")
    return to


def _stripped(name: str, prefix: str) -> str:
    if not name.startswith(prefix) or name == prefix:
        raise ValueError(f"{name!r} does not begin with {prefix!r}, so it cannot be stripped; give a function instead")
    return name.removeprefix(prefix)


def _pruned_attributes(owner: nn.Module) -> tuple[str, ...]:
    """Names of the tensors of this module that `torch.nn.utils.prune` masks."""
    hooks = owner._forward_pre_hooks.values()
    return tuple(hook._tensor_name for hook in hooks if isinstance(hook, torch_prune.BasePruningMethod))
