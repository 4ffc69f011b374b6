"""The fast search for a threshold: which of many scores are the largest, exactly, with ties drawn at random.

Scores are flat NumPy arrays on the CPU: comparisons, partition and search for ties take a tenth to a half of the time
of torch's. The threshold of many scores is found in one pass over them. A sample brackets it; the pass counts what lies
above the bracket and collects what lies within, a fraction of a percent; among those it is then looked up exactly. If
the sample misled, which only costs time, the scores are partitioned as a whole.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
FEW = 2**16  # scores that are partitioned as a whole at once
JOINED = 2**21  # scores, at most, that are put in one piece first
SAMPLE = 2**17
CHUNK = 2**18  # scores in the second-level cache of a core
MARGIN = 4.0  # standard deviations of a sample's quantile


class Piece(NamedTuple):
    """The scores of one tensor, flat, and which of them live (None: all)."""

    scores: Floats
    alive: Bools | None


class Part(NamedTuple):
    """The new mask of one tensor, flat, and how many weights it keeps."""

    mask: Bools
    kept: int


class Ties(NamedTuple):
    """Equal scores that of which only some were kept: `drawn` at random of `tied`; `zero`: all of score zero."""

    drawn: int = 0
    tied: int = 0
    zero: bool = True

    def plus(self, other: Ties) -> Ties:
        """Those of two tensors together."""
        return Ties(self.drawn + other.drawn, self.tied + other.tied, self.zero and other.zero)


class Largest(NamedTuple):
    """Which scores are the largest, and what a draw among equal ones had a part in."""

    kept: Bools
    ties: Ties


class _Stretch(NamedTuple):
    """A part of a piece, and its part of the mask to be made."""

    scores: Floats
    alive: Bools | None
    mask: Bools


class _Within(NamedTuple):
    """What one pass over a stretch of scores finds of a bracket."""

    above: int
    positions: NDArray[np.int64]
    values: Floats


def keep_of(
    pieces: list[Piece], keep: int, *, living: int, generator: torch.Generator
) -> tuple[list[Part], Ties] | None:
    """The `keep` largest of all pieces' `living` scores; None if every one of them is zero."""
    found = _bracketed(pieces, keep, living, generator) if living > FEW else None
    if found is not None:
        return found
    flat = flat_of(pieces)
    if not has_signal(flat):
        return None
    kept, ties = largest(flat, keep, generator)
    return _split(kept, pieces), ties


def flat_of(pieces: list[Piece]) -> Floats:
    """All scores one after the other, in a copy; those of dead weights are -inf."""
    flat, alive = _joined(pieces)
    if alive is not None:
        flat[~alive] = -math.inf
    return flat


def has_signal(flat: Floats) -> bool:
    """Whether any score of `flat_of` that lives is not zero."""
    top = flat.max(initial=-math.inf)
    if top != 0:  # the usual case, in one pass
        return bool(top != -math.inf)
    return bool(((flat != 0) & (flat != -math.inf)).any())


def largest(flat: Floats, keep: int, generator: torch.Generator) -> Largest:
    """Exactly `keep` entries true, at the largest values; ties drawn at random."""
    if not keep:
        return Largest(np.zeros(flat.size, np.bool_), Ties())
    threshold = _kth_largest(flat, keep)
    kept: Bools = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    draw = torch.randperm(ties.size, generator=generator, device="cpu")[: keep - np.count_nonzero(kept)]
    kept[ties[draw.numpy()]] = True
    lost = draw.numel() < ties.size
    return Largest(kept, Ties(draw.numel(), ties.size, zero=threshold == 0) if lost else Ties())


def _joined(pieces: list[Piece]) -> Piece:
    """All pieces one after the other, in a copy."""
    alive = [piece.alive for piece in pieces if piece.alive is not None]
    return Piece(np.concatenate([piece.scores for piece in pieces]), np.concatenate(alive) if alive else None)


def _split(mask: Bools, pieces: list[Piece]) -> list[Part]:
    """The mask of all pieces as one of each, with memory of its own."""
    ends = np.cumsum([piece.scores.size for piece in pieces])
    parts = [mask[end - piece.scores.size : end].copy() for piece, end in zip(pieces, ends, strict=True)]
    return [Part(part, int(np.count_nonzero(part))) for part in parts]


def _bracketed(
    pieces: list[Piece], keep: int, living: int, generator: torch.Generator
) -> tuple[list[Part], Ties] | None:
    """The same, or None if the sample does not bracket the threshold or no score is different from zero."""
    low, high = _bracket(pieces, keep / living)
    few = sum(piece.scores.size for piece in pieces) <= JOINED
    joined = [_joined(pieces)] if few else pieces
    masks: list[Bools] = [np.empty(piece.scores.size, np.bool_) for piece in joined]
    owners, stretches = [], []
    for owner, (piece, mask) in enumerate(zip(joined, masks, strict=True)):
        for start in range(0, piece.scores.size, CHUNK):
            at = slice(start, start + CHUNK)
            owners.append(owner)
            stretches.append(_Stretch(piece.scores[at], None if piece.alive is None else piece.alive[at], mask[at]))
    found = [_compare(stretch, low=low, high=high) for stretch in stretches]
    missing = keep - sum(part.above for part in found)
    values = np.concatenate([part.values for part in found])
    if not 0 < missing <= values.size or (values.size == living and not values.any()):
        return None
    chosen, ties = largest(values, missing, generator)
    kept = [0] * len(masks)
    start = 0
    for owner, stretch, part in zip(owners, stretches, found, strict=True):
        stop = start + part.values.size
        taken = part.positions[chosen[start:stop]]
        stretch.mask[taken] = True
        kept[owner] += part.above + taken.size
        start = stop
    return _split(masks[0], pieces) if few else list(map(Part, masks, kept)), ties


def _bracket(pieces: list[Piece], share: float) -> tuple[float, float]:
    """Two values between which the threshold lies almost surely, if the `share` largest scores are kept."""
    step = max(1, sum(piece.scores.size for piece in pieces) // SAMPLE)
    while step % 2 == 0 or step % 3 == 0:  # kernels and rows have sizes of these factors
        step += 1
    drawn = np.concatenate(
        [piece.scores[::step] if piece.alive is None else piece.scores[::step][piece.alive[::step]] for piece in pieces]
    )
    middle, spread = drawn.size * (1 - share), MARGIN * math.sqrt(drawn.size * share * (1 - share)) + MARGIN
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
