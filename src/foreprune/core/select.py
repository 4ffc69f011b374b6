"""`keep_top`: the only place where scores become masks.

The threshold of many scores is found in one pass over them. A sample brackets it; the pass counts what lies above the
bracket and collects what lies within, a fraction of a percent; among those it is then looked up exactly. If the sample
misled, which only costs time, the scores are partitioned as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreprune.core.masks import Masks

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
_FEW = 2**16  # scores that are partitioned as a whole at once
_SAMPLE = 2**17
_CHUNK = 2**18  # scores in the second-level cache of a core
_JOINED = 2**21  # scores, at most, that are put in one piece first
_MARGIN = 4.0  # standard deviations of a sample's quantile


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
    _check_finite(scores)
    pieces = _pieces(scores, among)
    bracketed = _bracketed(pieces, keep, living, generator) if living > _FEW else None
    if bracketed is None:
        flat = _flat(pieces)
        if not _has_signal(flat):
            raise _no_signal()
        bracketed = _split(_largest(flat, keep, generator), pieces)
    named = list(zip(scores.items(), bracketed, strict=True))
    return Masks._adopt(
        {name: torch.from_numpy(part.mask).view(score.shape).to(score.device) for (name, score), part in named},
        kept={name: part.kept for (name, _), part in named},
    )


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
        _check_finite({name: score})
        flat = _flat(_pieces({name: score}, only))
        signal = signal or _has_signal(flat)
        mask = torch.from_numpy(_largest(flat, counts[name], generator))
        kept[name] = mask.view(score.shape).to(score.device)
    if not signal:
        raise _no_signal()
    return Masks(kept)


class _Piece(NamedTuple):
    """The scores of one tensor, flat, and which of them live (None: all)."""

    scores: Floats
    alive: Bools | None


class _Stretch(NamedTuple):
    """A part of a piece, and its part of the mask to be made."""

    scores: Floats
    alive: Bools | None
    mask: Bools


class _Part(NamedTuple):
    """The new mask of one tensor, flat, and how many weights it keeps."""

    mask: Bools
    kept: int


class _Within(NamedTuple):
    """What one pass over a stretch of scores finds of a bracket."""

    above: int
    positions: NDArray[np.int64]
    values: Floats


def _check_finite(scores: Mapping[str, Tensor]) -> None:
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


def _pieces(scores: Mapping[str, Tensor], among: Masks | None) -> list[_Piece]:
    """Selection runs in NumPy on the CPU, wherever the scores are: its comparisons, partition and search for ties take
    a tenth to a half of the time of torch's. Scores that lie in order on the CPU are not copied."""
    double = any(score.dtype == torch.float64 for score in scores.values())
    dtype = torch.float64 if double else torch.float32
    return [
        _Piece(
            score.detach().to("cpu", dtype).reshape(-1).numpy(),
            None if among is None else among._tensors[name].reshape(-1).cpu().numpy(),
        )
        for name, score in scores.items()
    ]


def _joined(pieces: list[_Piece]) -> _Piece:
    """All pieces one after the other, in a copy."""
    alive = [piece.alive for piece in pieces if piece.alive is not None]
    return _Piece(np.concatenate([piece.scores for piece in pieces]), np.concatenate(alive) if alive else None)


def _split(mask: Bools, pieces: list[_Piece]) -> list[_Part]:
    """The mask of all pieces as one of each, with memory of its own."""
    ends = np.cumsum([piece.scores.size for piece in pieces])
    parts = [mask[end - piece.scores.size : end].copy() for piece, end in zip(pieces, ends, strict=True)]
    return [_Part(part, int(np.count_nonzero(part))) for part in parts]


def _flat(pieces: list[_Piece]) -> Floats:
    """All scores one after the other, in a copy; those of dead weights are -inf."""
    flat, alive = _joined(pieces)
    if alive is not None:
        flat[~alive] = -math.inf
    return flat


def _has_signal(flat: Floats) -> bool:
    largest = flat.max(initial=-math.inf)
    if largest != 0:  # the usual case, in one pass
        return bool(largest != -math.inf)
    return bool(((flat != 0) & (flat != -math.inf)).any())


def _bracketed(pieces: list[_Piece], keep: int, living: int, generator: torch.Generator) -> list[_Part] | None:
    """The masks of `keep_top`, or None if the sample does not bracket the threshold."""
    low, high = _bracket(pieces, keep / living)
    few = sum(piece.scores.size for piece in pieces) <= _JOINED
    joined = [_joined(pieces)] if few else pieces
    masks: list[Bools] = [np.empty(piece.scores.size, np.bool_) for piece in joined]
    owners, stretches = [], []
    for owner, (piece, mask) in enumerate(zip(joined, masks, strict=True)):
        for start in range(0, piece.scores.size, _CHUNK):
            at = slice(start, start + _CHUNK)
            owners.append(owner)
            stretches.append(_Stretch(piece.scores[at], None if piece.alive is None else piece.alive[at], mask[at]))
    found = [_compare(stretch, low=low, high=high) for stretch in stretches]
    missing = keep - sum(part.above for part in found)
    values = np.concatenate([part.values for part in found])
    if not 0 < missing <= values.size:
        return None
    if values.size == living and not values.any():
        raise _no_signal()
    chosen = _largest(values, missing, generator)
    kept = [0] * len(masks)
    start = 0
    for owner, stretch, part in zip(owners, stretches, found, strict=True):
        stop = start + part.values.size
        taken = part.positions[chosen[start:stop]]
        stretch.mask[taken] = True
        kept[owner] += part.above + taken.size
        start = stop
    return _split(masks[0], pieces) if few else list(map(_Part, masks, kept))


def _bracket(pieces: list[_Piece], share: float) -> tuple[float, float]:
    """Two values between which the threshold lies almost surely, if the `share` largest scores are kept."""
    step = max(1, sum(piece.scores.size for piece in pieces) // _SAMPLE)
    while step % 2 == 0 or step % 3 == 0:  # kernels and rows have sizes of these factors
        step += 1
    drawn = np.concatenate(
        [piece.scores[::step] if piece.alive is None else piece.scores[::step][piece.alive[::step]] for piece in pieces]
    )
    middle, spread = drawn.size * (1 - share), _MARGIN * math.sqrt(drawn.size * share * (1 - share)) + _MARGIN
    first, last = math.floor(middle - spread), math.ceil(middle + spread)
    wanted = [position for position in (first, last) if 0 <= position < drawn.size]
    if wanted:
        drawn.partition(wanted)
    return (
        float(drawn[first]) if first >= 0 else -math.inf,
        float(drawn[last]) if last < drawn.size else math.inf,
    )


def _compare(stretch: _Stretch, *, low: float, high: float) -> _Within:
    """Set the mask where living scores are above `high`; collect those in [low, high]."""
    scores, alive, mask = stretch
    # Python numbers would be compared in double precision
    lowest, highest = scores.dtype.type(low), scores.dtype.type(high)
    np.greater(scores, highest, out=mask)
    padded = np.zeros((scores.size + 7) // 8 * 8, np.bool_)
    within = padded[: scores.size]
    np.greater_equal(scores, lowest, out=within)
    np.bitwise_xor(within, mask, out=within)
    if alive is not None:
        np.logical_and(mask, alive, out=mask)
    # eight flags at a time: most words are zero
    words = (padded.view(np.uint64) != 0).nonzero()[0]
    place = padded.reshape(-1, 8)[words].ravel().nonzero()[0]
    positions = words[place // 8] * 8 + place % 8
    if alive is not None:
        positions = positions[alive[positions]]
    return _Within(int(np.count_nonzero(mask)), positions, scores[positions])


def _largest(flat: Floats, keep: int, generator: torch.Generator) -> Bools:
    """Exactly `keep` entries true, at the largest values; ties drawn at random."""
    if not keep:
        return np.zeros(flat.size, np.bool_)
    threshold = _kth_largest(flat, keep)
    kept: Bools = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    draw = torch.randperm(ties.size, generator=generator, device="cpu")[: keep - np.count_nonzero(kept)]
    kept[ties[draw.numpy()]] = True
    return kept


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
