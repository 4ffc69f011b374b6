"""The rule of `core.select` over processes: exact counts, and the masks that one process would choose.

The threshold is found by the bits of the scores, 16 at a time: each process counts its scores by these bits, and the
sums over processes say among which of them the threshold lies. Ties are drawn from the generator, which is the same
everywhere, in the order of the whole tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreprune.core.blocks import Block, covers, whole
from foreprune.core.collective import reduced, totals
from foreprune.core.mask_counts import outside
from foreprune.core.masks import Masks
from foreprune.core.select import Choice, Lot, keep_best, no_signal
from foreprune.sharded.layout import Layout
from foreprune.sharded.sharded_net import ShardedNet

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
_BITS = 16
_CHUNK = 2**16  # scores whose bits are looked at at a time


class _Piece(NamedTuple):
    """What this process holds of one block: `held` picks it out of its part of a tensor, where that is not all of it.

    What has to be copied for that (the rows of a fused projection) is copied each time it is asked for, and not kept.
    """

    block: Block
    layout: Layout
    held: tuple[Any, ...]
    part: Tensor
    flags: Tensor | None
    dtype: torch.dtype

    @property
    def scores(self) -> Floats:
        """The scores, flat."""
        found: Floats = self.part[self.held].detach().to("cpu", self.dtype).reshape(-1).numpy()
        return found

    @property
    def alive(self) -> Bools | None:
        """Which of them may be chosen; None: all."""
        if self.flags is None:
            return None
        found: Bools = self.flags[self.layout.held(self.block)].reshape(-1).cpu().numpy()
        return found

    def signal(self) -> bool:
        """Whether some score of these is not zero."""
        scores, alive = self.scores, self.alive
        return bool((scores if alive is None else scores[alive]).any())

    def tied(self, threshold: float) -> Bools:
        """Which scores are the threshold."""
        found: Bools = self.scores == threshold
        if (alive := self.alive) is not None:
            found &= alive
        return found


def keep_best_sharded(
    net: ShardedNet, scores: Mapping[str, Tensor], keep: int | Sequence[Lot], **options: Any
) -> Masks:
    """`keep_best` on parts of scores; the masks are parts too. All processes have to call.

    Raises:
        NoSignal: every score is zero (a ValueError).
        ValueError: a score of any process is NaN or infinite, or blocks are to be kept whole that are too large.
    """
    options["blocks"] = options.get("blocks") or net.blocks
    return keep_best(scores, keep, choice=partial(_ShardedChoice, net), **options)


class _ShardedChoice(Choice):
    """A choice of which this process holds parts."""

    def __init__(self, net: ShardedNet, *given: Any) -> None:
        super().__init__(*given)
        self.net = net
        self.made = {name: torch.zeros(score.shape, dtype=torch.bool) for name, score in self.scores.items()}
        for name, parts in self.table.items():
            if not covers(parts):
                self.made[name] |= net.part(name, outside(parts, torch.device("cpu")))

    @cached_property
    def living(self) -> dict[str, int]:
        """As in `Choice`, over all processes."""
        return super().living if self.among is None else counts_of(self.net, self.among, self.blocks)

    def check_finite(self) -> None:
        """As in `Choice`, in all processes."""
        check_finite(self.net, self.scores)

    def best(self, keep: int) -> Masks:
        """As in `Choice`: ties are drawn in the order of the tensors."""
        self.check_finite()
        self.take([whole(name, self.net.layouts[name].shape) for name in self.scores], keep)
        if not self.signal:
            raise no_signal()
        return self.masks()

    def take(self, blocks: Sequence[Block], keep: int) -> dict[str, int]:
        """As in `Choice`; numbers are those of all processes."""
        pieces = [self._piece_of(block) for block in blocks]
        signal = any(piece.signal() for piece in pieces)
        self._note(blocks, totals([signal], self.net.groups, self.net.device)[0] > 0)
        counts: list[int] = []
        # written one by one: flags of all of them at a time would be an eighth of their scores
        for piece, kept in zip(pieces, _largest(self.net, pieces, keep, self.generator), strict=True):
            index, made = piece.layout.held(piece.block), self.made[piece.block.parameter]
            made[index] = torch.from_numpy(kept).view(made[index].shape)
            counts.append(int(np.count_nonzero(kept)) if piece.layout.first else 0)
        names = [block.name for block in blocks]
        return dict(zip(names, totals(counts, self.net.groups, self.net.device), strict=True))

    def masks(self) -> Masks:
        """What has been taken. The counts are those of the parts."""
        tensors = {name: self.made[name].to(score.device) for name, score in self.scores.items()}
        kept = {name: int(torch.count_nonzero(mask)) for name, mask in tensors.items()}
        return Masks._adopt(tensors, kept=kept, table=self.table)

    def _piece_of(self, block: Block) -> _Piece:
        layout = self.net.layouts[block.parameter]
        part, held = self.scores[block.parameter], layout.held(block)
        if (instead := self.instead.get(block.name)) is not None:
            part, held = instead, (...,)
        flags = None if self.among is None else self.among._tensors[block.parameter]
        return _Piece(block, layout, held, part, flags, self.dtype)


def counts_of(net: ShardedNet, masks: Masks, blocks: Sequence[Block]) -> dict[str, int]:
    """How many weights of each block parts of masks keep on all processes."""
    held = [
        int(torch.count_nonzero(net.of_block(masks._tensors[block.parameter], block)))
        if net.layouts[block.parameter].first
        else 0
        for block in blocks
    ]
    return dict(zip([block.name for block in blocks], totals(held, net.groups, net.device), strict=True))


def check_finite(net: ShardedNet, scores: Mapping[str, Tensor]) -> None:
    """Raise in all processes where one of them has a score that is NaN or infinite."""
    bad = [0 if torch.isfinite(score).all() else 2 if torch.isnan(score).any() else 1 for score in scores.values()]
    for (name, score), kind in zip(scores.items(), totals(bad, net.groups, net.device, largest=True), strict=True):
        if kind:
            raise ValueError(
                f"the scores of {name!r} are {'NaN' if kind == 2 else 'infinite'}: look for NaN or infinite weights or "
                f"inputs, or overflow in {score.dtype} (try model.double() and double inputs)"
            )


def _keys(scores: Floats) -> NDArray[Any]:
    """Whole numbers without a sign in the order of the scores."""
    width = scores.dtype.itemsize * 8
    kind: Any = np.uint64 if width == 64 else np.uint32
    bits: Any = (scores + scores.dtype.type(0)).view(kind)  # -0 becomes 0
    negative = (bits >> kind(width - 1)).astype(np.bool_)
    keys: NDArray[Any] = np.where(negative, ~bits, bits | kind(1 << (width - 1)))
    return keys


def _threshold(net: ShardedNet, pieces: Sequence[_Piece], keep: int) -> tuple[float, int, int]:
    """The `keep`-th largest score of all processes, how many are above it, and how many are it."""
    dtype: np.dtype[Any] = np.dtype(np.float64 if pieces[0].dtype == torch.float64 else np.float32)
    width = dtype.itemsize * 8
    above, prefix, equal = 0, 0, 0
    for shift in range(width - _BITS, -1, -_BITS):
        counts = np.zeros(2**_BITS, np.int64)
        for piece in pieces:
            scores, alive = piece.scores, piece.alive
            for start in range(0, scores.size if piece.layout.first else 0, _CHUNK):
                at = slice(start, start + _CHUNK)
                found = scores[at] if alive is None else scores[at][alive[at]]
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


def _largest(net: ShardedNet, pieces: Sequence[_Piece], keep: int, generator: torch.Generator) -> Iterator[Bools]:
    """For each piece in turn, which of its scores are among the `keep` largest."""
    if not keep:
        yield from (np.zeros(piece.scores.size, np.bool_) for piece in pieces)
        return
    threshold, above, equal = _threshold(net, pieces, keep)
    draw = torch.randperm(equal, generator=generator, device="cpu")[: keep - above].numpy()
    chosen = np.zeros(equal, np.bool_)
    chosen[draw] = True
    held = [int(np.count_nonzero(piece.tied(threshold))) if piece.layout.first else 0 for piece in pieces]
    start = 0
    for piece, count in zip(pieces, totals(held, net.groups, net.device), strict=True):
        kept: Bools = piece.scores > threshold
        if (alive := piece.alive) is not None:
            kept &= alive
        mine = chosen[start : start + count]
        start += count
        if mine.all():
            kept |= piece.tied(threshold)
        elif mine.any():
            kept |= _drawn(net, piece, piece.tied(threshold), mine)
        yield kept


def _drawn(net: ShardedNet, piece: _Piece, ties: Bools, chosen: Bools) -> Bools:
    """Which of the ties that this process holds are `chosen`, where ties are in the order of the whole block."""
    layout, block = piece.layout, piece.block
    index = layout.held(block)
    flags = torch.zeros(net.params[block.parameter].shape, dtype=torch.uint8)
    flags[index] = torch.from_numpy(ties).to(torch.uint8).view(flags[index].shape)
    everywhere = layout.gather(flags.to(net.device)).cpu().numpy()
    within = everywhere[block.index].reshape(-1)
    within[np.flatnonzero(within)] = chosen
    drawn = np.zeros_like(everywhere)
    drawn[block.index] = within.reshape(drawn[block.index].shape)
    found: Bools = layout.part(torch.from_numpy(drawn))[index].reshape(-1).numpy().astype(np.bool_)
    return found
