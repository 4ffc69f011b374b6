"""Masks under which every weight that is divided by a norm has one.

Weight and spectral normalization divide by the norm of what is left of a part of a weight, a row, say. A part that has
lost all its weights would be 0/0, and the network NaN from the first step of training on.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from foreprune.core.layer_weights import LayerWeight, computed, parts_of
from foreprune.core.masks import Masks
from foreprune.core.net import Net

_REMOVE = "torch.nn.utils.parametrize.remove_parametrizations"


class KeptForNorm(UserWarning):
    """Weights were kept for the sake of a norm, against their scores."""


def with_norms(net: Net, masks: Masks, *, stacklevel: int) -> Masks:
    """The same masks, but where a normalization would divide by zero: there the largest weight of the part is kept in
    place of the smallest that others of the same tensor can spare, so that counts stay.

    Raises:
        ValueError: a tensor has fewer weights left than parts.

    Warns:
        KeptForNorm: which tensors and how many weights that are.
    """
    changed = {}
    for name, weight in net.computed.items():
        mask = masks[name].cpu()
        holder = net.module.get_parameter(name).detach()
        made = computed(net.module, weight, holder * mask.to(holder.device))
        if not torch.isfinite(made).all():
            changed[name] = _spread(mask, net.params[name].abs().cpu(), net, weight)
    if not changed:
        return masks
    swapped = {name: int((mask & ~masks[name].cpu()).sum()) for name, mask in changed.items()}
    warnings.warn(
        f"{sum(swapped.values()):,} weights of {', '.join(swapped)} are kept against their scores, in place of as many "
        "others of the same layer, because a normalization divides by the norms of parts that would have had no "
        f"weight; make it an ordinary parameter first ({_REMOVE}) to prune by score alone",
        KeptForNorm,
        stacklevel=stacklevel + 1,
    )
    return masks.replaced({name: changed.get(name, mask).to(mask.device) for name, mask in masks.items()})


def _spread(mask: Tensor, size: Tensor, net: Net, weight: LayerWeight) -> Tensor:
    """As many weights as in `mask`, at least one in each part."""
    part = parts_of(net.module, weight).expand(mask.shape).flatten()
    kept, size = mask.flatten().clone(), size.flatten()
    counts = torch.bincount(part[kept], minlength=int(part.max()) + 1)
    if kept.sum() < counts.numel():
        raise ValueError(
            f"the masks keep {int(kept.sum()):,} weights of {weight.name!r}, whose {counts.numel():,} parts "
            f"{weight.computed_by} divides by their norms, and a part without a weight would be NaN: make it an "
            f"ordinary parameter first ({_REMOVE}), keep more, or exclude it with prunable="
            f"{weight.layer or weight.name!r}"
        )
    for empty in (counts == 0).nonzero().flatten().tolist():
        own = (part == empty).nonzero().flatten()
        kept[own[size[own].argmax()]] = True
        counts[empty] = 1
        spare = (kept & (counts[part] > 1)).nonzero().flatten()
        least = spare[size[spare].argmin()]
        kept[least] = False
        counts[part[least]] -= 1
    return kept.view(mask.shape)
