"""What a logger can say of masks while a network trains."""

from __future__ import annotations

import torch
from torch import nn

from foreprune.core.blocks import by_parameter
from foreprune.core.collective import gathered
from foreprune.core.layer_units import incoming
from foreprune.core.mask_counts import outside
from foreprune.core.masks import Masks
from foreprune.core.targets import parameters_of


@torch.no_grad()
def mask_metrics(model: nn.Module, masks: Masks, *, prefix: str = "masks/") -> dict[str, float]:
    """Numbers of the weights as they are now, under `prefix`.

    density: the fraction of the prunable weights that are not zero. At most that of the masks.
    dead_units: outputs of linear layers and channels of convolutions whose incoming weights are all zero.
    revived_weights: weights that the masks prune and that are not zero; NaN counts. 0 while the masks are attached.

    On a model under `fully_shard` all processes have to call it; weights are gathered one by one.

    Raises:
        ValueError: masks of another model.
    """
    blocks = by_parameter(masks.blocks)
    counts = []
    for name, parameter in parameters_of(model, masks.shapes).items():
        weight, mask = gathered(parameter.detach()), gathered(masks[name])
        alive = weight != 0
        dead = incoming(model, name, alive) == 0
        parts = blocks.get(name, ())
        prunable = alive & ~outside(parts, alive.device) if parts else alive
        counts.append(torch.stack([prunable.sum(), dead.sum(), (alive & ~mask.to(alive.device)).sum()]).cpu())
    alive_weights, dead_units, revived = torch.stack(counts).sum(0).tolist()
    return {
        f"{prefix}density": alive_weights / masks.total,
        f"{prefix}dead_units": float(dead_units),
        f"{prefix}revived_weights": float(revived),
    }
