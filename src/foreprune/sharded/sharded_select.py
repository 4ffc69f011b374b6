"""The rule of `core.select` over processes: exact counts, and the masks that one process would choose.

The threshold is found by the bits of the scores, 16 at a time: each process counts its scores by these bits, and the
sums over processes say among which of them the threshold lies. Ties are drawn from the generator, which is the same
everywhere, in the order of the whole tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreprune.core.collective import reduced, totals
from foreprune.core.density import apportion
from foreprune.core.masks import Masks
from foreprune.core.select import NoSignal, Scope, no_signal
from foreprune.sharded.layout import Layout
from foreprune.sharded.sharded_net import ShardedNet

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
_BITS = 16
_CHUNK = 2**16  # scores whose bits are looked at at a time


class _Piece(NamedTuple):
    """The scores that this process holds of one tensor, flat, and which of them live (None: all)."""

    scores: Floats
    alive: Bools | None
    layout: Layout

    def living(self) -> Floats:
        return self.scores if self.alive is None else self.scores[self.alive]


def keep_best_sharded(
    net: ShardedNet,
    scores: Mapping[str, Tensor],
    keep: int,
    *,
    scope: Scope = "global",
    generator: torch.Generator,
    among: Masks | None = None,
) -> Masks:
    """`keep_best` on parts of scores; the masks are parts too. All processes have to call.

    Raises:
        NoSignal: every score is zero (a ValueError).
        ValueError: a score of any process is NaN or infinite.
    """
    pieces = _pieces(net, scores, among)
    check_finite(net, pieces)
    if scope == "local":
        sizes = {name: int(np.prod(piece.layout.shape)) for name, piece in pieces.items()}
        room = sizes if among is None else counts_of(net, among)
        share = keep / sum(sizes.values())
        counts = apportion({name: share * size for name, size in sizes.items()}, room, keep)
        return keep_counts_sharded(net, scores, counts, generator=generator, among=among)
    if not _signal(net, pieces):
        raise no_signal()
    return _as_masks(scores, _largest(net, pieces, keep, generator))


def keep_counts_sharded(
    net: ShardedNet,
    scores: Mapping[str, Tensor],
    counts: Mapping[str, int],
    *,
    generator: torch.Generator,
    among: Masks | None = None,
) -> Masks:
    """`keep_top_per_layer` on parts of scores; otherwise as `keep_best_sharded`."""
    pieces = _pieces(net, scores, among)
    check_finite(net, pieces)
    if not _signal(net, pieces):
        raise NoSignal(str(no_signal()))
    kept: dict[str, Bools] = {}
    for name, piece in pieces.items():
        if counts[name]:
            kept |= _largest(net, {name: piece}, counts[name], generator)
        else:
            kept[name] = np.zeros(piece.scores.size, np.bool_)
    return _as_masks(scores, kept)


def counts_of(net: ShardedNet, masks: Mapping[str, Tensor]) -> dict[str, int]:
    """How many weights parts of masks keep on all processes, by name."""
    held = [int(torch.count_nonzero(mask)) if net.layouts[name].first else 0 for name, mask in masks.items()]
    return dict(zip(masks, totals(held, net.groups, net.device), strict=True))


def check_finite(net: ShardedNet, pieces: Mapping[str, _Piece]) -> None:
    """Raise in all processes where one of them has a score that is NaN or infinite."""
    bad = [
        0 if np.isfinite(piece.scores).all() else 2 if np.isnan(piece.scores).any() else 1 for piece in pieces.values()
    ]
    for (name, piece), kind in zip(pieces.items(), totals(bad, net.groups, net.device, largest=True), strict=True):
        if kind:
            raise ValueError(
                f"the scores of {name!r} are {'NaN' if kind == 2 else 'infinite'}: look for NaN or infinite weights or "
                f"inputs, or overflow in {piece.scores.dtype} (try model.double() and double inputs)"
            )


def _pieces(net: ShardedNet, scores: Mapping[str, Tensor], among: Masks | None) -> dict[str, _Piece]:
    double = any(score.dtype == torch.float64 for score in scores.values())
    dtype = torch.float64 if double else torch.float32
    return {
        name: _Piece(
            score.detach().to("cpu", dtype).reshape(-1).numpy(),
            None if among is None else among[name].reshape(-1).cpu().numpy(),
            net.layouts[name],
        )
        for name, score in scores.items()
    }


def _signal(net: ShardedNet, pieces: Mapping[str, _Piece]) -> bool:
    return totals([any(piece.living().any() for piece in pieces.values())], net.groups, net.device)[0] > 0


def _as_masks(scores: Mapping[str, Tensor], kept: Mapping[str, Bools]) -> Masks:
    return Masks._adopt(
        {name: torch.from_numpy(kept[name]).view(score.shape).to(score.device) for name, score in scores.items()},
        kept={name: int(np.count_nonzero(mask)) for name, mask in kept.items()},
    )


def _keys(scores: Floats) -> NDArray[Any]:
    """Whole numbers without a sign in the order of the scores."""
    width = scores.dtype.itemsize * 8
    kind: Any = np.uint64 if width == 64 else np.uint32
    bits: Any = (scores + scores.dtype.type(0)).view(kind)  # -0 becomes 0
    negative = (bits >> kind(width - 1)).astype(np.bool_)
    keys: NDArray[Any] = np.where(negative, ~bits, bits | kind(1 << (width - 1)))
    return keys


def _threshold(net: ShardedNet, pieces: Mapping[str, _Piece], keep: int) -> tuple[float, int, int]:
    """The `keep`-th largest score of all processes, how many are above it, and how many are it."""
    dtype = next(iter(pieces.values())).scores.dtype
    width = dtype.itemsize * 8
    above, prefix, equal = 0, 0, 0
    for shift in range(width - _BITS, -1, -_BITS):
        counts = np.zeros(2**_BITS, np.int64)
        for piece in pieces.values():
            for start in range(0, piece.scores.size if piece.layout.first else 0, _CHUNK):
                at = slice(start, start + _CHUNK)
                found = piece.scores[at] if piece.alive is None else piece.scores[at][piece.alive[at]]
                keys = _keys(found)
                if shift + _BITS < width:
                    keys = keys[keys >> keys.dtype.type(shift + _BITS) == prefix]
                digits = (keys >> keys.dtype.type(shift)) & keys.dtype.type(2**_BITS - 1)
                counts += np.bincount(digits.astype(np.int64), minlength=2**_BITS)
        summed = reduced(torch.from_numpy(counts).to(net.device), net.groups).cpu().numpy()
        larger = np.cumsum(summed[::-1])[::-1] - summed  # than this digit
        digit = int(np.flatnonzero(above + larger < keep)[0])
        above, equal = above + int(larger[digit]), int(summed[digit])
        prefix = prefix << _BITS | digit
    top = 1 << (width - 1)
    kind: Any = np.uint64 if width == 64 else np.uint32
    bits = np.array([prefix ^ top if prefix & top else ~prefix & (2**width - 1)], kind)
    return float(bits.view(dtype)[0]), above, equal


def _largest(net: ShardedNet, pieces: Mapping[str, _Piece], keep: int, generator: torch.Generator) -> dict[str, Bools]:
    threshold, above, equal = _threshold(net, pieces, keep)
    kept: dict[str, Bools] = {}
    for name, piece in pieces.items():
        kept[name] = piece.scores > piece.scores.dtype.type(threshold)
        if piece.alive is not None:
            kept[name] &= piece.alive
    draw = torch.randperm(equal, generator=generator, device="cpu")[: keep - above].numpy()
    chosen = np.zeros(equal, np.bool_)
    chosen[draw] = True
    ties = {name: _ties(piece, threshold) for name, piece in pieces.items()}
    if keep - above == equal:
        return {name: kept[name] | ties[name] for name in pieces}
    held = [int(np.count_nonzero(tie)) if pieces[name].layout.first else 0 for name, tie in ties.items()]
    start = 0
    for (name, tie), count in zip(ties.items(), totals(held, net.groups, net.device), strict=True):
        if count:
            kept[name] |= _drawn(pieces[name].layout, tie, chosen[start : start + count], net.device)
        start += count
    return kept


def _ties(piece: _Piece, threshold: float) -> Bools:
    ties: Bools = piece.scores == piece.scores.dtype.type(threshold)
    return ties if piece.alive is None else ties & piece.alive


def _drawn(layout: Layout, ties: Bools, chosen: Bools, device: torch.device) -> Bools:
    """Which of the ties that this process holds are `chosen`, where ties are in the order of the whole tensor."""
    shape = part_shape(layout)
    flags = torch.from_numpy(ties).to(device, torch.uint8).view(shape)
    whole = layout.gather(flags).reshape(-1).cpu().numpy()
    whole[np.flatnonzero(whole)] = chosen
    drawn: Bools = layout.part(torch.from_numpy(whole).view(layout.shape)).reshape(-1).numpy().astype(np.bool_)
    return drawn


def part_shape(layout: Layout) -> tuple[int, ...]:
    """The shape of what this process holds."""
    return tuple(layout.part(torch.empty(layout.shape, device="meta")).shape)
