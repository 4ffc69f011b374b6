"""Warnings about masks that are right by the rule and yet not what one wants: each once a call, in one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

from torch import Tensor

from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.select import ties_of
from foreprune.core.zeros import zero_heads, zero_scales

# Equal scores decide 1 to 5 % of what |w| keeps of weights in bfloat16, where rounding alone makes them equal (at
# densities from 0.1 to 0.001). Twice that is no rounding.
MANY_TIES = 0.1
# A single unit without signal is a tenth of a network of a few hundred weights.
FEW_TIES = 100
# Below, a network whose prunable weights are all removed keeps more than half of its parameters.
SMALL_SHARE = 0.5


class TiedScores(UserWarning):
    """A relevant part of what is kept was drawn at random among weights of equal score."""


class SmallShare(UserWarning):
    """Most of the parameters are not prunable."""


class ZeroHead(UserWarning):
    """The last layer's weights are all zero, so the scores of other layers vanish or mean little."""


def warn_of_ties(masks: Masks, net: Net, *, method: str, stacklevel: int) -> None:
    """Warn (`TiedScores`) if at least a share `MANY_TIES` of the kept weights, and `FEW_TIES` of them, were drawn at
    random among equal scores."""
    ties = ties_of(masks)
    if ties.drawn < max(FEW_TIES, MANY_TIES * masks.kept):
        return
    todo = "keep fewer weights, or use a method whose scores differ"
    if ties.zero:
        todo = about_zeros(net)
        todo = todo or "keep fewer weights, give more data, or exclude with prunable= what no signal reaches"
    warnings.warn(
        f"{ties.drawn / masks.kept:.0%} of what {method} keeps was decided by ties: {ties.drawn:,} of {masks.kept:,} "
        f"weights were drawn at random among {ties.tied:,} of {'score zero' if ties.zero else 'equal score'}; {todo}",
        TiedScores,
        stacklevel=stacklevel + 1,
    )


def warn_of_small_share(net: Net, *, stacklevel: int) -> None:
    """Warn (`SmallShare`) if less than `SMALL_SHARE` of the parameters are prunable, and say what holds the rest."""
    parameters = sum(value.numel() for value in net.params.values())
    if net.total >= SMALL_SHARE * parameters:
        return
    rest = sorted(
        ((value.numel(), name) for name, value in net.params.items() if name not in net.weights),
        key=lambda entry: -entry[0],
    )
    modules = dict(net.module.named_modules())
    holders = ", ".join(
        f"{name} of {type(modules[name.rpartition('.')[0]]).__name__} ({count:,})" for count, name in rest[:3]
    )
    warnings.warn(
        f"only {net.total:,} of {parameters:,} parameters ({net.total / parameters:.1%}) are prunable, and density "
        f"counts no others; the rest stays whole, most of it in {holders}: to prune those too write "
        "prunable=lambda name, weight: weight.dim() > 1, or list names",
        SmallShare,
        stacklevel=stacklevel + 1,
    )


def warn_of_zero_head(net: Net, scores: Mapping[str, Tensor], *, stacklevel: int) -> None:
    """Warn (`ZeroHead`) if the head's weights are all zero and for that have scores of zero."""
    if heads := [name for name in zero_heads(net) if name in scores and not scores[name].any()]:
        warnings.warn(
            f"the weights of the head {listed(heads)} are all zero, so their scores are zero and those of other layers "
            f"miss what passes it; {REPAIR}",
            ZeroHead,
            stacklevel=stacklevel + 1,
        )


REPAIR = 'write repair="head" to score as if it were drawn at random (the model itself stays as it is)'


def about_zeros(net: Net, *, of: Iterable[str] | None = None) -> str:
    """What of the network's zeros makes scores zero, those of the parameters `of` or all, and what to do: a clause, or
    nothing."""
    if heads := zero_heads(net):
        return f"the weights of the head {listed(heads)} are all zero, so nothing passes it: {REPAIR}"
    scales = zero_scales(net)
    if of is not None:  # of the same branch
        names = tuple(of)
        scales = tuple(scale for scale in scales if any(n.startswith(scale[: scale.rfind(".") + 1]) for n in names))
    if scales:
        return (
            f"gamma of {listed(scales)} is zero, which no gradient passes: score a copy of the model in which it is "
            "one, or use a method that counts it as one ('synflow') or reads no gradient ('erk')"
        )
    return ""


def listed(names: tuple[str, ...] | list[str], most: int = 5) -> str:
    """ "a, b, c", and "..." after `most` of them."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
