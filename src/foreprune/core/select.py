"""The rule: how scores become masks, the only place where they do. Exact counts, ties at random, no NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from foreprune.core.density import apportion
from foreprune.core.masks import Masks
from foreprune.core.threshold import Piece, Ties, flat_of, has_signal, keep_of, largest

Scope = Literal["global", "local"]


class NoSignal(ValueError):
    """Every score is zero."""


def keep_top(
    scores: Mapping[str, Tensor], keep: int, *, generator: torch.Generator, among: Masks | None = None
) -> Masks:
    """Keep exactly `keep` weights: those with the largest scores over all tensors together.

    Ties at the threshold are broken by a draw from `generator`, so the count is exact whatever the scores are. The
    metadata of the masks say what that had a part in: `ties_of` reads it.

    Args:
        scores: name -> floating tensor of the weight's shape; larger means keep.
        keep: how many weights to keep in total.
        generator: a CPU generator for the ties.
        among: choose only among the weights these masks keep (masks then only shrink).

    Raises:
        NoSignal: every score among the living weights is zero (a ValueError).
        ValueError: a score is NaN or infinite, or `keep` is more than there are.
    """
    living = sum(score.numel() for score in scores.values()) if among is None else among.kept
    _check_count(keep, living)
    _check_finite(scores)
    found = keep_of(_pieces(scores, among), keep, living=living, generator=generator)
    if found is None:
        raise _no_signal()
    parts, ties = found
    named = list(zip(scores.items(), parts, strict=True))
    masks = Masks._adopt(
        {name: torch.from_numpy(part.mask).view(score.shape).to(score.device) for (name, score), part in named},
        kept={name: part.kept for (name, _), part in named},
    )
    return masks.with_metadata(_noted(ties))


def keep_top_per_layer(
    scores: Mapping[str, Tensor],
    counts: Mapping[str, int],
    *,
    generator: torch.Generator,
    among: Masks | None = None,
) -> Masks:
    """In each tensor keep exactly the `counts[name]` weights with the largest scores; otherwise as `keep_top`.

    A tensor whose scores are all zero is pruned at random; that every score of every tensor is zero is an error.
    """
    kept: dict[str, Tensor] = {}
    signal, ties = False, Ties()
    for name, score in scores.items():
        only = None if among is None else Masks({name: among._tensors[name]})
        _check_count(counts[name], score.numel() if only is None else only.kept, least=0, of=f" of {name!r}")
        _check_finite({name: score})
        flat = flat_of(_pieces({name: score}, only))
        signal = signal or has_signal(flat)
        mask, drawn = largest(flat, counts[name], generator)
        ties = ties.plus(drawn)
        kept[name] = torch.from_numpy(mask).view(score.shape).to(score.device)
    if not signal:
        raise _no_signal()
    return Masks(kept, metadata=_noted(ties))


def ties_of(masks: Masks) -> Ties:
    """What a draw among equal scores had a part in when these masks were chosen; in the last round, if there were
    several."""
    drawn, tied = (int(masks.metadata.get(f"ties.{key}", 0)) for key in ("drawn", "tied"))
    return Ties(drawn, tied, zero=masks.metadata.get("ties.score") == "zero")


def _noted(ties: Ties) -> dict[str, str]:
    if not ties.drawn:
        return {}
    return {"ties.drawn": str(ties.drawn), "ties.tied": str(ties.tied), **({"ties.score": "zero"} if ties.zero else {})}


def keep_best(
    scores: Mapping[str, Tensor],
    keep: int,
    *,
    scope: Scope = "global",
    generator: torch.Generator,
    among: Masks | None = None,
) -> Masks:
    """Keep `keep` weights by `keep_top`, or with `scope="local"` the same fraction of every tensor by
    `keep_top_per_layer`, as near as whole numbers and what `among` has left allow."""
    if scope == "global":
        return keep_top(scores, keep, generator=generator, among=among)
    sizes = {name: score.numel() for name, score in scores.items()}
    share = keep / sum(sizes.values())
    room = sizes if among is None else {name: kept for name, (kept, _) in among.layer_counts().items()}
    counts = apportion({name: share * size for name, size in sizes.items()}, room, keep)
    return keep_top_per_layer(scores, counts, among=among, generator=generator)


def _check_finite(scores: Mapping[str, Tensor]) -> None:
    for name, score in scores.items():
        if not score.is_floating_point():
            raise TypeError(f"scores of {name!r} are {score.dtype}; make them floating point: scores.float()")
        # the sum of finite numbers can overflow, so only a sum that is not finite is worth the closer look
        if not math.isfinite(score.detach().sum()) and not torch.isfinite(score).all():
            kind = "NaN" if torch.isnan(score).any() else "infinite"
            raise ValueError(
                f"the scores of {name!r} are {kind}: look for NaN or infinite weights or inputs, or overflow in "
                f"{score.dtype} (try model.double() and double inputs)"
            )


def _pieces(scores: Mapping[str, Tensor], among: Masks | None) -> list[Piece]:
    """Scores and living flags as flat arrays on the CPU. Those that lie in order there are not copied."""
    double = any(score.dtype == torch.float64 for score in scores.values())
    dtype = torch.float64 if double else torch.float32
    return [
        Piece(
            score.detach().to("cpu", dtype).reshape(-1).numpy(),
            None if among is None else among._tensors[name].reshape(-1).cpu().numpy(),
        )
        for name, score in scores.items()
    ]


def _check_count(keep: int, living: int, *, least: int = 1, of: str = "") -> None:
    if not least <= keep <= living:
        raise ValueError(f"cannot keep {keep:,} of {living:,} weights{of}; ask for a number from {least} to {living:,}")


def _no_signal() -> NoSignal:
    return NoSignal(
        "every score is zero, so no weight is better than another: no signal reaches the prunable weights "
        "(dead network, zero loss gradient, or layers that the output does not depend on); look at the weights, the "
        "inputs and the loss, or exclude what cannot be reached with prunable="
    )
