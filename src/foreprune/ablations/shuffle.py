"""Shuffling: the same number of weights in each layer, at other places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreprune.ablations.registry import ablation

if TYPE_CHECKING:
    from foreprune.core.masks import Masks


@ablation("shuffle", changes="masks", words="shuffled", paper="Frankle et al., ICLR 2021, arXiv:2009.08576, section 5")
def shuffle(masks: Masks, *, seed: int = 0) -> Masks:
    """Permute the mask of every block at random: the same count in each layer, at other places.

    Frankle et al., ICLR 2021, section 5. The shuffle of several published codes permutes a local variable and changes
    nothing.

    Raises:
        TypeError: `masks` are no `Masks`.
    """
    import torch

    from foreprune.core.masks import check_masks
    from foreprune.core.seeds import generator_for

    check_masks(masks)
    generator = generator_for("shuffle", seed)
    shuffled = dict(masks)
    for block in masks.blocks:
        part = shuffled[block.parameter][block.index]
        order = torch.randperm(block.size, generator=generator).to(part.device)
        shuffled[block.parameter][block.index] = part.flatten()[order].view(part.shape)
    note = {"ablation": "shuffle", "ablation.seed": str(seed)}
    return masks.replaced(shuffled).with_metadata({**masks.metadata, **note})
