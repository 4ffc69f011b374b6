"""Reinitialization: the same masks with new weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from foreprune.ablations.registry import ablation

if TYPE_CHECKING:
    from torch import Tensor, nn

    from foreprune.core.masks import Masks

Scheme = Literal["dense", "layer", "neuron"]


@ablation(
    "reinit",
    changes="weights",
    words="reinitialized",
    paper="Frankle et al., ICLR 2021, arXiv:2009.08576, section 5",
    scheme="dense",
)
@ablation(
    "reinit-layer",
    changes="weights",
    words="reinitialized per layer",
    paper="Liu et al., ICLR 2019, arXiv:1810.05270",
    scheme="layer",
)
@ablation(
    "reinit-neuron",
    changes="weights",
    words="reinitialized per neuron",
    paper="Evci et al., 2020, arXiv:2010.03533",
    scheme="neuron",
)
def reinitialize(
    model: nn.Module,
    masks: Masks | None = None,
    *,
    scheme: Scheme = "dense",
    init: str = "kaiming-normal-fan-in",
    seed: int = 0,
) -> dict[str, Tensor]:
    """A (pruned) network drawn anew: name -> tensor for every parameter and for the running statistics.

    Put them in with `model.load_state_dict(weights, strict=False)`.

    Nothing of a training is left: biases and normalizations are drawn too, and running means, variances and counts of
    batches start again from 0, 1 and 0. What no layer knows how to draw stays, with a warning unless `init` is "own".

    `"dense"` draws as for the unpruned network (Frankle et al., section 5). `"layer"` takes the fan-in times the
    layer's density (Liu et al., ICLR 2019); `"neuron"` takes for each output unit the number of weights it keeps (Evci
    et al., 2020, arXiv:2010.03533): prunable weights are divided by the root of that density. Pruned weights are zero
    in the result. `model` is not changed.

    Args:
        init: distribution of the weights, as of `--init`; "own" for each layer's own `reset_parameters()`.

    Raises:
        TypeError: `masks` are no `Masks`.
        ValueError: unknown scheme or init, a sparse scheme without masks, or masks of another model.
    """
    from foreprune.core.init import check_initializer, fresh, fresh_statistics
    from foreprune.core.layer_units import incoming, unit_index
    from foreprune.core.masks import check_masks, check_same_weights
    from foreprune.core.net import Net
    from foreprune.core.seeds import generator_for

    if scheme not in ("dense", "layer", "neuron"):
        raise ValueError(f'scheme must be "dense", "layer" or "neuron", not {scheme!r}')
    check_initializer(init, also=("own",))
    if scheme != "dense" and masks is None:
        raise ValueError(f"scheme {scheme!r} depends on what is kept: give masks=")
    check_masks(masks, optional=True)
    net = Net.of(model, prunable=list(masks) if masks is not None else None)
    # the word names a stream of numbers: another word, other weights
    drawn = fresh(net, generator_for("reinitialise", seed), init=init) | fresh_statistics(net)
    if masks is None:
        return drawn
    check_same_weights({name: tuple(net.params[name].shape) for name in masks}, masks.shapes, what="the masks")
    densities = masks.block_densities()
    for name, mask in masks.items():
        mask = mask.to(drawn[name].device)
        if scheme == "layer":
            for block in (block for block in masks.blocks if block.parameter == name):
                drawn[name][block.index] *= 1 / math.sqrt(max(densities[block.name], 1 / max(block.size, 1)))
        elif scheme == "neuron":
            kept = incoming(net.module, name, mask)
            density = kept.clamp(min=1) / (mask.numel() // max(len(kept), 1))
            units = unit_index(net.module, name, tuple(mask.shape)).to(mask.device)
            drawn[name].mul_(density.rsqrt()[units].to(drawn[name].dtype))
        drawn[name].mul_(mask)
    return drawn
