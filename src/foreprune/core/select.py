"""`keep_top`: the only place where scores become masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foreprune.core.masks import Masks

_DIGIT = 16  # bits settled per pass of the radix selection


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
    key = _keys(scores, among)
    living = sum(score.numel() for score in scores.values()) if among is None else among.kept
    _check_count(keep, living)
    if not torch.any((key != 0) & (key != torch.iinfo(key.dtype).min)):
        raise _no_signal()
    pieces = torch.split(_largest(key, keep, generator), [score.numel() for score in scores.values()])
    return Masks({name: piece.view(score.shape) for (name, score), piece in zip(scores.items(), pieces, strict=True)})


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
        key = _keys({name: score}, only)
        signal = signal or bool(torch.any((key != 0) & (key != torch.iinfo(key.dtype).min)))
        flat = _largest(key, counts[name], generator) if counts[name] else torch.zeros_like(key, dtype=torch.bool)
        kept[name] = flat.view(score.shape)
    if not signal:
        raise _no_signal()
    return Masks(kept)


def _check_count(keep: int, living: int, *, least: int = 1, of: str = "") -> None:
    if not least <= keep <= living:
        raise ValueError(f"cannot keep {keep:,} of {living:,} weights{of}; ask for a number from {least} to {living:,}")


class NoSignal(ValueError):
    """Every score is zero."""


def _no_signal() -> NoSignal:
    return NoSignal(
        "every score is zero, so no weight is better than another: no signal reaches the prunable weights "
        "(dead network, zero loss gradient, or layers that the output does not depend on)"
    )


def _keys(scores: Mapping[str, Tensor], among: Masks | None) -> Tensor:
    """Integers that order like the scores of all tensors, one after the other; dead weights get the lowest one."""
    _check(scores)
    key = _ordered_bits(torch.cat([score.flatten() for score in scores.values()]))
    if among is not None:
        key.masked_fill_(torch.cat([~among._tensors[name].flatten() for name in scores]), torch.iinfo(key.dtype).min)
    return key


def _largest(key: Tensor, keep: int, generator: torch.Generator) -> Tensor:
    threshold, above = _kth_largest(key, keep)
    kept = key > threshold
    ties = torch.nonzero(key == threshold).squeeze(1)
    draw = torch.randperm(ties.numel(), generator=generator)[: keep - above]
    kept[ties[draw.to(ties.device)]] = True
    return kept


def _check(scores: Mapping[str, Tensor]) -> None:
    for name, score in scores.items():
        if not score.is_floating_point():
            raise TypeError(f"scores of {name!r} are {score.dtype}; scores must be floating point")
        # the sum of finite numbers can overflow, so only a sum that is not finite is worth the closer look
        if not torch.isfinite(score.sum()) and not torch.isfinite(score).all():
            kind = "NaN" if torch.isnan(score).any() else "infinite"
            raise ValueError(
                f"the scores of {name!r} are {kind}: look for NaN or infinite weights or inputs, or overflow in "
                f"{score.dtype} (try model.double() and double inputs)"
            )


def _ordered_bits(values: Tensor) -> Tensor:
    """Integers that order like the floating values; 0.0 and -0.0 are equal (both 0)."""
    if values.dtype != torch.float64:
        values = values.float()
    bits = (values + 0.0).view(torch.int64 if values.dtype == torch.float64 else torch.int32)
    width = torch.iinfo(bits.dtype).bits
    return bits ^ ((bits >> (width - 1)) & torch.iinfo(bits.dtype).max)


def _kth_largest(key: Tensor, k: int) -> tuple[Tensor, int]:
    """The k-th largest integer and how many are strictly larger, by radix selection from the top 16 bits down.

    One histogram over all entries, then only over those that share the leading bits: about two reads of the scores,
    against a full partial sort in `torch.kthvalue`.
    """
    shift = torch.iinfo(key.dtype).bits - _DIGIT
    above = 0
    candidates = key
    while True:
        digit = (candidates >> shift) & (2**_DIGIT - 1)
        if candidates is key:
            digit ^= 2 ** (_DIGIT - 1)  # the leading digit carries the sign
        counts = torch.bincount(digit, minlength=2**_DIGIT)
        at_least = counts.flip(0).cumsum(0).flip(0)
        bucket = int(torch.searchsorted(-at_least, -(k - above), right=True)) - 1
        larger = int(at_least[bucket]) - int(counts[bucket])
        candidates = candidates[digit == bucket]
        above += larger
        if shift == 0 or candidates.numel() == 1:
            return candidates[0], above
        shift -= _DIGIT
