"""Effective density: what is left when kept weights that lie on no kept input-output path are removed too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from foreprune.analysis.pruned import Pruned, undisturbed
from foreprune.core.layer_units import incoming, unit_index
from foreprune.core.masks import Masks
from foreprune.graph import reached


def effective_masks(model: nn.Module, masks: Masks | None = None, *, inputs: Any) -> Masks:
    """`masks` without the weights that no path from input to output runs through.

    The procedure of Frankle et al. 2021, appendix M: weights are 1 or 0 as the mask says, one input of ones goes
    forward, the sum of the logits backward, and kept weights with a gradient of zero go. Two things differ: pooling
    passes every entry of a window, because the largest of several equal ones is an arbitrary choice, and only whether
    something arrives is passed on, not how much, so that nothing under- or overflows in deep networks.

    The result depends on the size of the inputs: with padding, some entries of a kernel may never touch an image of
    one pixel. It is idempotent, and the function of a network without biases and normalization does not change; with
    them a unit whose incoming weights are all cut still passes a constant on. Gates count as edges where they multiply
    a live path (squeeze-and-excitation, GLU). Units that no path reaches even in the dense network, such as queries and
    keys of attention, keep their weights: paths say nothing about them.

    Raises:
        PathError: an operation that has no meaning for paths.
    """
    with undisturbed():
        return effective(Pruned.of(model, masks, inputs))


def effective(pruned: Pruned) -> Masks:
    """`effective_masks` of a network that is prepared already."""
    module, masks = pruned.net.module, pruned.masks
    on_path = reached(pruned.net, pruned.inputs, masks)
    dense: Mapping[str, Tensor] | None = None
    found = {}
    for name in masks:
        live = masks[name] & on_path[name]
        silent = (incoming(module, name, masks[name]) > 0) & (incoming(module, name, live) == 0)
        if bool(silent.any()):
            if dense is None:
                dense = reached(pruned.net, pruned.inputs, pruned.net.dense())
            pathless = incoming(module, name, dense[name]) == 0
            index = unit_index(module, name, masks.shapes[name]).to(live.device)
            live |= masks[name] & pathless[index]
        found[name] = live
    return masks.replaced(found)
