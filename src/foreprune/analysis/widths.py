"""Remaining width: how many units of each layer still have weights, and how sparse the units are.

A unit is one output of a linear layer or one output channel of a convolution. It is *fed* if it keeps at least one
incoming weight (Frankle et al. 2021 call the opposite neuron collapse), and *connected* if one of its incoming weights
lies on a kept path from input to output, so that it has incoming and outgoing weights that matter (the units that
remain in Patil & Dovrolis 2021, figure 2). Units are told by the type of each layer (`foreprune.core.layer_units`), so
they can be counted in networks whose paths have no meaning too.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from foreprune.analysis.statistics import sparse_units, unit_histogram
from foreprune.core.layer_units import incoming_of
from foreprune.core.masks import Masks
from foreprune.core.targets import check_same_weights, parameters_of


@dataclass(frozen=True)
class Width:
    """Units of one layer: all of them, those with a kept incoming weight, and those on a kept path (None: unknown)."""

    units: int
    fed: int
    connected: int | None


def layer_widths(model: nn.Module, masks: Masks, *, effective: Masks | None = None) -> dict[str, Width]:
    """Width of every layer, by the name of its block of weights. `effective` are the masks of `effective_masks`.

    Raises:
        ValueError: masks of another model.
    """
    if effective is not None:
        check_same_weights(masks.shapes, effective.shapes, what="the effective masks")
    parameters_of(model, masks.shapes)
    kept, lying = dict(masks), None if effective is None else dict(effective)
    result = {}
    for block in masks.blocks:
        fed = incoming_of(model, block, kept[block.parameter]) > 0
        connected = None
        if lying is not None:
            connected = int((incoming_of(model, block, lying[block.parameter]) > 0).sum())
        result[block.name] = Width(len(fed), int(fed.sum()), connected)
    return result


def unit_histograms(model: nn.Module, masks: Masks) -> dict[str, tuple[int, ...]]:
    """Units of every layer by the share of their incoming weights that is kept: name of its block of weights -> 21
    counts, of units that keep nothing and then of shares in bins of width 0.05
    (`foreprune.analysis.statistics.unit_histogram`).

    Raises:
        ValueError: masks of another model.
    """
    parameters_of(model, masks.shapes)
    tensors, found = dict(masks), {}
    for block in masks.blocks:
        kept = incoming_of(model, block, tensors[block.parameter])
        found[block.name] = unit_histogram(kept.tolist(), block.size // max(kept.numel(), 1))
    return found


def units_by_sparsity(model: nn.Module, masks: Masks) -> dict[float, float]:
    """Share of the network's units whose incoming weights are pruned to a sparsity of at least s, for s = 0, 0.1, ...,
    1 (Frankle et al. 2021, figure 5). At s = 1 stand the units that have collapsed.

    Raises:
        ValueError: masks of another model.
    """
    shares = sparse_units(unit_histograms(model, masks).values())
    return {at / 10: shares[2 * at] for at in range(11)}
