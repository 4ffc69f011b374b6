"""Masks in a loop of one's own under accelerate.

handle = attach(masks, accelerator, model, optimizer)      # after accelerator.prepare
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from foreprune.core.attach import Handle
from foreprune.core.masks import Masks, check_masks
from foreprune.integrations.carried import check_same, missing

if TYPE_CHECKING:
    from accelerate import Accelerator


def attach(
    masks: Masks,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    name: str = "masks",
) -> Handle:
    """Keep pruned weights exactly zero, as `Masks.attach`, and let the masks travel with the accelerator's state.

    `accelerator.save_state(folder)` then writes `folder/<name>.safetensors` too, and `accelerator.load_state(folder)`
    raises ValueError, before it loads anything, if the file is missing or holds other masks. `Masks.load` reads it. For
    the logs: `accelerator.log(foreprune.integrations.mask_metrics(model, masks), step=step)`.

    Args:
        masks: for `model`, under the names of the unwrapped module.
        accelerator: of which `prepare` has made `model` and `optimizer`.
        model: as prepared.
        optimizer: as prepared, or the one inside.
        name: of the file; give each model its own where an accelerator holds several that are pruned.

    Returns:
        A `Handle`, of which `remove()` takes all of it out again.

    Raises:
        TypeError, ValueError: as `Masks.attach`; something that is no accelerator.
    """
    check_masks(masks)
    if not hasattr(accelerator, "register_load_state_pre_hook"):
        raise TypeError(
            f"accelerator must be an accelerate.Accelerator, not {type(accelerator).__name__}; without one write "
            "masks.attach(model, optimizer)"
        )
    file = f"{name}.safetensors"

    def save(models: list[nn.Module], weights: list[Any], output_dir: str) -> None:
        if accelerator.is_local_main_process:
            masks.save(Path(output_dir) / file)

    def load(models: list[nn.Module], input_dir: str) -> None:
        path = Path(input_dir) / file
        if not path.is_file():
            raise missing(f"{input_dir} has no {file}, so it", instead="accelerator.load_state before attach")
        check_same(Masks.load(path), masks, where=input_dir)

    inner = masks.attach(model, optimizer)
    hooks = [accelerator.register_save_state_pre_hook(save), accelerator.register_load_state_pre_hook(load)]
    return Handle(inner.masks, [inner, *hooks])
