"""Widening: the same number of weights in each layer, spread over more units."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING

from foreprune.ablations.registry import ablation

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from foreprune.core.masks import Masks


@ablation(
    "widen",
    changes="masks",
    words="widened",
    paper="Patil & Dovrolis, ICML 2021, arXiv:2010.11354, section 3.1",
    value="fraction",
    meaning="the fraction of lost units to bring back",
    takes_model=True,
)
def widen(masks: Masks, *, fraction: float, model: nn.Module | None = None, seed: int = 0) -> Masks:
    """Spread each block's weights over `fraction` of the output units that it had lost, with the same count.

    Patil & Dovrolis, ICML 2021, section 3.1 and figure 3: the width factor x = (w' - w) / (W - w), where w of W units
    are left before and w' after. Units to bring back are drawn at random; each first gets one weight, the other weights
    are shuffled over all units that are used then. With too few weights to give each unit one, w' is as many as there
    are weights.

    The layers of `model` tell which entries of a weight feed one unit. Without it that is axis 0, which is right except
    for transposed convolutions and transformers' Conv1D (GPT-2): pass `model` where there are any.

    Raises:
        TypeError: `masks` are no `Masks`, or `fraction` is no number.
        ValueError: `fraction` outside [0, 1], or masks of another model.
    """
    from foreprune.core.layer_units import unit_index
    from foreprune.core.masks import check_masks, parameters_of
    from foreprune.core.seeds import generator_for

    check_masks(masks)
    if isinstance(fraction, bool) or not isinstance(fraction, numbers.Real):
        raise TypeError(f"fraction of the lost units to bring back must be a number, not {fraction!r}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction of the lost units to bring back must be in [0, 1], not {fraction!r}")
    if model is not None:
        parameters_of(model, masks.shapes)
    generator = generator_for("widen", seed)
    widened = dict(masks)
    for block in masks.blocks:
        index = unit_index(model, block.parameter, block.tensor)
        if block.spans:  # units are counted from 0 in each block
            index = index.expand(block.tensor)[block.index].unique(return_inverse=True)[1]
        part = widened[block.parameter][block.index]
        widened[block.parameter][block.index] = _spread(part, index, fraction, generator)
    note = {"ablation": "widen", "ablation.fraction": repr(fraction), "ablation.seed": str(seed)}
    return masks.replaced(widened).with_metadata({**masks.metadata, **note})


def _spread(mask: Tensor, index: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """`index`: the number of the unit that each entry feeds."""
    import torch

    if not mask.numel():
        return mask
    by_unit = index.expand(mask.shape).flatten().argsort(stable=True)
    rows = mask.flatten().cpu()[by_unit].view(int(index.max()) + 1, -1)
    kept = int(torch.count_nonzero(rows))
    used, lost = rows.any(1).nonzero()[:, 0], (~rows.any(1)).nonzero()[:, 0]
    back = lost[torch.randperm(len(lost), generator=generator)[: round(fraction * len(lost))]]
    units = torch.cat([used, back])[:kept]
    if not len(back) or not kept:
        return mask
    inside = rows.size(1)
    first = torch.randint(inside, (len(units),), generator=generator)
    spread = torch.zeros(len(units), inside, dtype=torch.bool)
    spread[torch.arange(len(units)), first] = True
    free = (~spread.flatten()).nonzero()[:, 0]
    spread.view(-1)[free[torch.randperm(len(free), generator=generator)[: kept - len(units)]]] = True
    rows = torch.zeros_like(rows)
    rows[units] = spread
    result = torch.empty_like(by_unit, dtype=torch.bool)
    result[by_unit] = rows.flatten()
    return result.view(mask.shape).to(mask.device)
