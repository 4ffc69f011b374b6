"""Ablations: change one thing about pruned networks and keep the rest, to see what mattered.

Functions of masks (and models); none changes what it is given.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foreprune.core.init import fresh
from foreprune.core.masks import Masks, check_same_weights
from foreprune.core.method import Method, Scores
from foreprune.core.net import Net
from foreprune.core.seeds import generator_for
from foreprune.core.task import Task
from foreprune.methods import method as find_method

Scheme = Literal["dense", "layer", "neuron"]


def shuffle(masks: Masks, *, seed: int = 0) -> Masks:
    """Permute the mask of every tensor at random: the same count in each layer, at other places.

    Frankle et al., ICLR 2021, section 5. The shuffle of several published codes permutes a local variable and changes
    nothing.
    """
    generator = generator_for("shuffle", seed)
    shuffled = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
        shuffled[name] = mask.flatten()[order].view(mask.shape)
    return Masks(shuffled, metadata={**masks.metadata, "ablation": "shuffle", "ablation.seed": str(seed)})


def widen(masks: Masks, *, fraction: float, seed: int = 0) -> Masks:
    """Spread each tensor's weights over `fraction` of the output units that it had lost, with the same count.

    Patil & Dovrolis, ICML 2021, section 3.1 and figure 3: the width factor x = (w' - w) / (W - w), where w of W units
    are left before and w' after. Units to bring back are drawn at random; each first gets one weight, the other weights
    are shuffled over all units that are used then. With too few weights to give each unit one, w' is as many as there
    are weights.

    Raises:
        ValueError: `fraction` outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction of the lost units to bring back must be in [0, 1], not {fraction!r}")
    generator = generator_for("widen", seed)
    widened = {name: _spread(mask, fraction, generator) for name, mask in masks.items()}
    note = {"ablation": "widen", "ablation.fraction": repr(fraction), "ablation.seed": str(seed)}
    return Masks(widened, metadata={**masks.metadata, **note})


def _spread(mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
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


def reinitialize(
    model: nn.Module, masks: Masks | None = None, *, scheme: Scheme = "dense", seed: int = 0
) -> dict[str, Tensor]:
    """New weights for a (pruned) network: name -> tensor for every parameter.

    Put them in with `model.load_state_dict(weights, strict=False)` (buffers stay).

    `"dense"` draws as for the unpruned network, Kaiming normal with variance 2 / fan-in (Frankle et al., section 5).
    `"layer"` takes the fan-in times the layer's density (Liu et al., ICLR 2019); `"neuron"` takes for each output unit
    the number of weights it keeps (Evci et al., 2020, arXiv:2010.03533). Pruned weights are zero in the result. `model`
    is not changed.

    Raises:
        ValueError: unknown scheme, a sparse scheme without masks, or masks of another model.
    """
    if scheme not in ("dense", "layer", "neuron"):
        raise ValueError(f'scheme must be "dense", "layer" or "neuron", not {scheme!r}')
    if scheme != "dense" and masks is None:
        raise ValueError(f"scheme {scheme!r} depends on what is kept: give masks=")
    net = Net.of(model, prunable=list(masks) if masks is not None else None)
    drawn = fresh(net, generator_for("reinitialise", seed))  # names a stream of numbers: another word, other weights
    if masks is None:
        return drawn
    check_same_weights({name: tuple(net.params[name].shape) for name in masks}, masks.shapes, what="the masks")
    for name, mask in masks.items():
        mask = mask.to(drawn[name].device)
        if scheme == "layer":
            drawn[name].mul_(1 / math.sqrt(max(masks.layer_densities()[name], 1 / mask.numel())))
        elif scheme == "neuron":
            rows = mask.flatten(1)
            density = rows.sum(1).clamp(min=1) / rows.size(1)
            drawn[name].mul_(density.rsqrt().view(-1, *[1] * (mask.dim() - 1)).to(drawn[name].dtype))
        drawn[name].mul_(mask)
    return drawn


def invert(method: str | Method) -> Method:
    """The same method keeping what it values least: every round keeps the smallest scores instead of the largest.

    Frankle et al., ICLR 2021, section 5. Scores are negated, which reverses their order whatever their signs; the 1/z
    of several published codes is infinite at zero and leaves signed scores in order within each sign.

    Returns:
        A record for `foreprune.prune(model, invert("snip"), ...)`.

    Raises:
        ValueError: the method has no scores.
    """
    found = method if isinstance(method, Method) else find_method(method)
    score = found.score
    if score is None or not isinstance(found.make, partial):
        raise ValueError(
            f"method {found.name!r} has no scores to invert; choose one that has (snip, grasp, synflow, ...)"
        )

    def negated(net: Net, task: Task, masks: Masks, /, **hyper: Any) -> Scores:
        return {name: -value for name, value in score(net, task, masks, **hyper).items()}

    make = partial(found.make.func, negated, **found.make.keywords)
    return replace(found, name=f"{found.name}-inverted", make=make, score=negated)
