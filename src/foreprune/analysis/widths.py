"""Remaining width: how many units of each layer still have weights, and how sparse the units are.

A unit is one output of a linear layer or one output channel of a convolution. It is *fed* if it keeps at least one
incoming weight (Frankle et al. 2021 call the opposite neuron collapse), and *connected* if one of its incoming weights
lies on a kept path from input to output, so that it has incoming and outgoing weights that matter (the units that
remain in Patil & Dovrolis 2021, figure 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foreprune.analysis.pruned import with_masks
from foreprune.core.masks import Masks, check_same_weights, unwrapped

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Width:
    """Units of one layer: all of them, those with a kept incoming weight, and those on a kept path (None: unknown)."""

    units: int
    fed: int
    connected: int | None


def widths(model: nn.Module, masks: Masks, *, effective: Masks | None = None) -> dict[str, Width]:
    """Width of every layer, by the name of its weight. `effective` are the masks of `effective_masks`.

    Raises:
        ValueError: masks of another model.
    """
    net, masks = with_masks(model, masks)
    if effective is not None:
        check_same_weights(masks.shapes, effective.shapes, what="the effective masks")
    result = {}
    for name in masks:
        fed = incoming(net.module, name, masks[name])
        connected = None if effective is None else int((incoming(net.module, name, effective[name]) > 0).sum())
        result[name] = Width(fed.numel(), int((fed > 0).sum()), connected)
    return result


def unit_sparsities(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    """Fraction of the incoming weights of each unit that is pruned: name -> (units,), float64.

    Raises:
        ValueError: masks of another model.
    """
    net, masks = with_masks(model, masks)
    found = {}
    for name in masks:
        kept = incoming(net.module, name, masks[name])
        fan_in = max(masks[name].numel() // max(kept.numel(), 1), 1)
        found[name] = 1 - kept.double() / fan_in
    return found


def units_by_sparsity(
    model: nn.Module, masks: Masks, *, at: Sequence[float] = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
) -> dict[float, float]:
    """Fraction of the network's units whose incoming weights are pruned to a sparsity of at least s, for each s in
    `at` (Frankle et al. 2021, figure 5). At s = 1 stand the units that have collapsed.

    Raises:
        ValueError: masks of another model, or a sparsity outside [0, 1].
    """
    wrong = [s for s in at if not 0 <= s <= 1]
    if wrong:
        raise ValueError(f"sparsities must be in [0, 1], the fraction of weights removed, not {wrong[0]!r}")
    every = torch.cat([sparsity.flatten() for sparsity in unit_sparsities(model, masks).values()])
    total = max(every.numel(), 1)
    # 1 - kept/total may miss a threshold like 0.9 by the last bit
    return {float(s): int((every >= s - 1e-12).sum()) / total for s in at}


def incoming(module: nn.Module, name: str, values: Tensor) -> Tensor:
    """Sum of `values`, of the shape of the weight `name`, over the incoming weights of each unit: (units,), int64."""
    index = unit_index(module, name, tuple(values.shape))
    rest = [axis for axis in range(values.dim()) if index.shape[axis] == 1 and values.shape[axis] != 1]
    sums = values.sum(rest, keepdim=True) if rest else values.long()
    total = torch.zeros(int(index.max()) + 1 if index.numel() else 0, dtype=torch.int64, device=values.device)
    return total.index_add_(0, index.flatten().to(values.device), sums.flatten())


def unit_index(module: nn.Module, name: str, shape: tuple[int, ...]) -> Tensor:
    """Number of the unit that each weight feeds, in a shape that broadcasts to the weight's.

    Axis 0 counts units, except in transposed convolutions (axis 1, for each group of axis 0) and transformers' Conv1D
    (axis 1).
    """
    owner = unwrapped(module).get_submodule(name.rpartition(".")[0])
    ones = (1,) * (len(shape) - 2)
    if isinstance(owner, _TRANSPOSED) and len(shape) > 2:
        groups, width = owner.groups, shape[1]
        group = torch.arange(shape[0]) // max(shape[0] // groups, 1)
        return (group[:, None] * width + torch.arange(width)).view(shape[0], width, *ones)
    if type(owner).__name__ == "Conv1D" and hasattr(owner, "nf") and len(shape) == 2:
        return torch.arange(shape[1]).view(1, shape[1])
    if not shape:
        return torch.zeros((), dtype=torch.int64)
    return torch.arange(shape[0]).view(shape[0], *(1,) * (len(shape) - 1))


def units_of(module: nn.Module, name: str, shape: tuple[int, ...]) -> int:
    """Number of units a weight feeds."""
    index = unit_index(module, name, shape)
    return int(index.max()) + 1 if math.prod(index.shape) else 0
