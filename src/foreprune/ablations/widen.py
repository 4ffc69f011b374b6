"""Widening: the same number of weights in each layer, spread over more units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreprune.ablations.registry import ablation

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from foreprune.core.masks import Masks


@ablation(
    "widen",
    changes="masks",
    words="widened",
    paper="Patil & Dovrolis, ICML 2021, arXiv:2010.11354, section 3.1",
    value="fraction",
    meaning="the fraction of lost units to bring back",
)
def widen(masks: Masks, *, fraction: float, seed: int = 0) -> Masks:
    """Spread each tensor's weights over `fraction` of the output units that it had lost, with the same count.

    Patil & Dovrolis, ICML 2021, section 3.1 and figure 3: the width factor x = (w' - w) / (W - w), where w of W units
    are left before and w' after. Units to bring back are drawn at random; each first gets one weight, the other weights
    are shuffled over all units that are used then. With too few weights to give each unit one, w' is as many as there
    are weights.

    Raises:
        ValueError: `fraction` outside [0, 1].
    """
    from foreprune.core.masks import Masks
    from foreprune.core.seeds import generator_for

    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction of the lost units to bring back must be in [0, 1], not {fraction!r}")
    generator = generator_for("widen", seed)
    widened = {name: _spread(mask, fraction, generator) for name, mask in masks.items()}
    note = {"ablation": "widen", "ablation.fraction": repr(fraction), "ablation.seed": str(seed)}
    return Masks(widened, metadata={**masks.metadata, **note})


def _spread(mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    import torch

    rows = mask.flatten(1).cpu() if mask.dim() > 1 else mask[:, None].cpu()
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
    result = torch.zeros_like(rows)
    result[units] = spread
    return result.view(mask.shape).to(mask.device)
