"""`keep_top`: the only place where scores become masks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreprune.core.masks import Masks

Floats = NDArray[np.floating[Any]]


class NoSignal(ValueError):
    """Every score is zero."""


def keep_top(
    scores: Mapping[str, Tensor], keep: int, *, generator: torch.Generator, among: Masks | None = None
) -> Masks:
    """Keep exactly `keep` weights: those with the largest scores over all tensors together.

    Ties at the threshold are broken by a draw from `generator`, so the count is exact whatever the scores are.

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
    flat = _flat(scores, among)
    if not _has_signal(flat):
        raise _no_signal()
    pieces = torch.split(_largest(flat, keep, generator), [score.numel() for score in scores.values()])
    named = zip(scores.items(), pieces, strict=True)
    return Masks({name: piece.view(score.shape).to(score.device) for (name, score), piece in named})


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
    signal = False
    for name, score in scores.items():
        only = None if among is None else Masks({name: among._tensors[name]})
        _check_count(counts[name], score.numel() if only is None else only.kept, least=0, of=f" of {name!r}")
        flat = _flat({name: score}, only)
        signal = signal or _has_signal(flat)
        kept[name] = _largest(flat, counts[name], generator).view(score.shape).to(score.device)
    if not signal:
        raise _no_signal()
    return Masks(kept)


def _flat(scores: Mapping[str, Tensor], among: Masks | None) -> Floats:
    """All scores one after the other, in a copy; those of dead weights are -inf.

    Selection runs in NumPy on the CPU, wherever the scores are: its partition, boolean indexing and search for ties
    take a tenth of the time of torch's, which pays for the copy.
    """
    for name, score in scores.items():
        if not score.is_floating_point():
            raise TypeError(f"scores of {name!r} are {score.dtype}; scores must be floating point")
        # the sum of finite numbers can overflow, so only a sum that is not finite is worth the closer look
        if not math.isfinite(score.detach().sum()) and not torch.isfinite(score).all():
            kind = "NaN" if torch.isnan(score).any() else "infinite"
            raise ValueError(
                f"the scores of {name!r} are {kind}: look for NaN or infinite weights or inputs, or overflow in "
                f"{score.dtype} (try model.double() and double inputs)"
            )
    joined = torch.cat([score.detach().flatten() for score in scores.values()])
    joined = joined if joined.dtype in (torch.float32, torch.float64) else joined.float()
    flat: Floats = joined.cpu().numpy()
    if among is not None:
        alive = torch.cat([among._tensors[name].flatten() for name in scores]).cpu().numpy()
        flat[~alive] = -math.inf
    return flat


def _has_signal(flat: Floats) -> bool:
    largest = flat.max(initial=-math.inf)
    if largest != 0:  # the usual case, in one pass
        return bool(largest != -math.inf)
    return bool(((flat != 0) & (flat != -math.inf)).any())


def _largest(flat: Floats, keep: int, generator: torch.Generator) -> Tensor:
    """Boolean tensor with exactly `keep` entries true, at the largest values; ties drawn at random."""
    if not keep:
        return torch.zeros(flat.size, dtype=torch.bool, device="cpu")
    threshold = _kth_largest(flat, keep)
    kept = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    draw = torch.randperm(ties.size, generator=generator, device="cpu")[: keep - np.count_nonzero(kept)]
    kept[ties[draw.numpy()]] = True
    return torch.from_numpy(kept)


def _kth_largest(flat: Floats, k: int) -> float:
    """The k-th largest value, looked for among the positive, the zero or the negative ones.

    The partition degenerates where most values are equal; and those that are, are zeros and dead weights.
    """
    positive = flat > 0
    above = int(np.count_nonzero(positive))
    if k <= above:
        candidates = flat if above == flat.size else flat[positive]
    else:
        k -= above
        zeros = int(np.count_nonzero(flat == 0))
        if k <= zeros:
            return 0.0
        k -= zeros
        candidates = flat[(flat < 0) & (flat > -math.inf)]
    position = candidates.size - k
    return float(np.partition(candidates, position)[position])


def _check_count(keep: int, living: int, *, least: int = 1, of: str = "") -> None:
    if not least <= keep <= living:
        raise ValueError(f"cannot keep {keep:,} of {living:,} weights{of}; ask for a number from {least} to {living:,}")


def _no_signal() -> NoSignal:
    return NoSignal(
        "every score is zero, so no weight is better than another: no signal reaches the prunable weights "
        "(dead network, zero loss gradient, or layers that the output does not depend on)"
    )
