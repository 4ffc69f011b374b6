"""The rule: how scores become masks, the only place where they do. Exact counts, ties at random, no NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, reduce
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreprune.core.blocks import Block, by_parameter, covers
from foreprune.core.density import apportion, erdos_renyi_kernel
from foreprune.core.masks import Masks, outside
from foreprune.core.threshold import Piece, Ties, flat_of, has_signal, keep_of, largest

Scope = Literal["global", "local"]


class Lot(NamedTuple):
    """Blocks that share a number of weights."""

    blocks: tuple[Block, ...]
    keep: int


class Unscored(NamedTuple):
    """Blocks that a score says nothing of: which of their weights are kept, and whether all are.

    Attributes:
        scores: name of the block -> what decides within it instead.
        whole: keep them whole, instead of their Erdős-Rényi-kernel share.
    """

    scores: Mapping[str, Tensor]
    whole: bool = False


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
        raise no_signal()
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
        raise no_signal()
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
    keep: int | Sequence[Lot],
    *,
    scope: Scope = "global",
    generator: torch.Generator,
    among: Masks | None = None,
    blocks: Sequence[Block] = (),
    unscored: Unscored | None = None,
    floor: float = 0.0,
    choice: Callable[..., Choice] | None = None,
) -> Masks:
    """Keep `keep` weights by `keep_top`, or with `scope="local"` the same fraction of every block, as near as whole
    numbers and what `among` has left allow.

    Args:
        scores: name -> floating tensor of the weight's shape; larger means keep.
        keep: how many, in total or in each lot of blocks.
        scope: compare scores over all blocks of a lot, or within each block.
        generator: a CPU generator for the ties.
        among: choose only among the weights these masks keep.
        blocks: the blocks of the network; default: those of `among`, or whole tensors.
        unscored: blocks that get their share (of the global scope; of the local one, the same fraction as all) by
            other scores.
        floor: share of its Erdős-Rényi-kernel count that every block keeps of its best, whatever others score. Matters
            for the global scope only.
        choice: what the masks are made in, called with the arguments of `Choice`, which is the default.

    Raises:
        NoSignal: every score among the living weights is zero.
        ValueError: as `keep_top`; or blocks that are to be kept whole, of more weights than there are to keep.
    """
    blocks = blocks or (Masks.dense(scores) if among is None else among).blocks
    made = (choice or Choice)(scores, among, blocks, unscored.scores if unscored else {}, generator)
    covered = all(map(covers, made.table.values()))
    if isinstance(keep, int) and scope == "global" and not unscored and not floor and covered:
        return made.best(keep)
    made.check_finite()
    for lot in [Lot(tuple(blocks), keep)] if isinstance(keep, int) else keep:
        _check_count(lot.keep, sum(made.living[block.name] for block in lot.blocks), least=0)
        (_keep_shared if scope == "global" else _keep_fraction)(made, lot, unscored, floor)
    if not made.signal:
        raise no_signal()
    return made.masks()


class Choice:
    """Masks in the making, block by block."""

    def __init__(
        self,
        scores: Mapping[str, Tensor],
        among: Masks | None,
        blocks: Sequence[Block],
        instead: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> None:
        self.scores, self.among, self.blocks, self.instead = scores, among, blocks, instead
        self.generator = generator
        self.table = by_parameter(blocks)
        self.signal = False
        self.ties: dict[frozenset[str], Ties] = {}  # blocks that were compared -> what a draw had a part in
        self.kept = dict.fromkeys((block.name for block in blocks), 0)
        double = any(score.dtype == torch.float64 for score in scores.values())
        self.dtype = torch.float64 if double else torch.float32
        self.parts: dict[str, NDArray[np.bool_]] = {}

    @cached_property
    def living(self) -> dict[str, int]:
        """Block -> how many of its weights there are to choose from."""
        if self.among is None:
            return {block.name: block.size for block in self.blocks}
        return {name: kept for name, (kept, _) in self.among.block_counts().items()}

    def check_finite(self) -> None:
        """Raise ValueError for a score that is NaN or infinite, TypeError for one that is no floating number."""
        _check_finite(self.scores)

    def best(self, keep: int) -> Masks:
        """Masks of the `keep` best of all, where nothing is outside of blocks: `keep_top`."""
        found = keep_top(self.scores, keep, generator=self.generator, among=self.among)
        return Masks._adopt(found._tensors, kept=found._kept, table=self.table).with_metadata(found.metadata)

    def take(self, blocks: Sequence[Block], keep: int) -> dict[str, int]:
        """Keep the `keep` best of these blocks, compared with each other; how many of each that are."""
        pieces = [self._piece(block) for block in blocks]
        living = sum(self.living[block.name] for block in blocks)
        found = keep_of(pieces, keep, living=living, generator=self.generator) if keep else None
        if found is None:  # no weight of these, or all scores are zero: at random
            flat = flat_of(pieces)
            self._note(blocks, has_signal(flat))
            mask, ties = largest(flat, keep, self.generator)
            ends = np.cumsum([block.size for block in blocks])
            for block, end in zip(blocks, ends, strict=True):
                self.parts[block.name] = mask[end - block.size : end]
        else:
            self._note(blocks, True)
            parts, ties = found
            self.parts.update({block.name: part.mask for block, part in zip(blocks, parts, strict=True)})
        names = frozenset(block.name for block in blocks)
        self.ties = {others: drawn for others, drawn in self.ties.items() if not names & others} | {names: ties}
        counts = {block.name: int(np.count_nonzero(self.parts[block.name])) for block in blocks}
        self.kept.update(counts)
        return counts

    def masks(self) -> Masks:
        """What has been taken."""
        whole = {name: score for name, score in self.scores.items() if name not in self.table}
        found = {name: torch.from_numpy(self.parts[name]).view(score.shape) for name, score in whole.items()}
        kept = {name: self.kept[name] for name in whole}
        for name, blocks in self.table.items():
            mask = outside(blocks, torch.device("cpu"))
            for block in blocks:
                mask[block.index] = torch.from_numpy(self.parts[block.name]).view(mask[block.index].shape)
            found[name], kept[name] = mask, sum(self.kept[block.name] for block in blocks)
        tensors = {name: found[name].to(score.device) for name, score in self.scores.items()}
        masks = Masks._adopt(tensors, kept={name: kept[name] for name in tensors}, table=self.table)
        return masks.with_metadata(_noted(reduce(Ties.plus, self.ties.values(), Ties())))

    def _note(self, blocks: Sequence[Block], signal: bool) -> None:
        self.signal |= signal and any(block.name not in self.instead for block in blocks)

    def _piece(self, block: Block) -> Piece:
        score = self.instead.get(block.name)
        if score is None:
            score = self.scores[block.parameter][block.index]
        alive = None if self.among is None else self.among._tensors[block.parameter][block.index]
        return Piece(
            score.detach().to("cpu", self.dtype).reshape(-1).numpy(),
            None if alive is None else alive.reshape(-1).cpu().numpy(),
        )


def _keep_fraction(choice: Choice, lot: Lot, unscored: Unscored | None, floor: float) -> None:
    """The same fraction of each block."""
    fixed = _kept_whole(lot, unscored)
    free = [block for block in lot.blocks if block.name not in fixed]
    keep = lot.keep - sum(fixed.values())
    share = keep / max(1, sum(block.size for block in free))
    counts = fixed | apportion(
        {block.name: share * block.size for block in free},
        {block.name: choice.living[block.name] for block in free},
        keep,
    )
    for block in lot.blocks:
        choice.take([block], counts[block.name])


def _keep_shared(choice: Choice, lot: Lot, unscored: Unscored | None, floor: float) -> None:
    """The best over all blocks, except that unscored ones keep their share, and that none keeps less than its floor."""
    fixed = _kept_whole(lot, unscored)
    silent = [block for block in lot.blocks if block.name in choice.instead and block.name not in fixed]
    scored = [block for block in lot.blocks if block.name not in choice.instead]
    ideal = erk_counts(lot) if silent or floor else {}
    if silent:
        room = {block.name: choice.living[block.name] for block in silent}
        # what scores decide about is one more name, so that whole numbers add up
        rest = {"": sum(ideal[block.name] for block in scored)}
        left = {"": sum(choice.living[block.name] for block in scored)}
        shared = apportion({name: ideal[name] for name in room} | rest, room | left, lot.keep)
        fixed |= {name: shared[name] for name in room}
    for block in lot.blocks:
        if block.name in fixed:
            choice.take([block], fixed[block.name])
    keep = lot.keep - sum(fixed.values())
    least = {b.name: min(math.floor(floor * ideal[b.name]), choice.living[b.name]) for b in scored} if floor else {}
    while scored:
        counts = choice.take(scored, keep)
        short = [block for block in scored if counts[block.name] < least.get(block.name, 0)]
        for block in short:
            keep -= choice.take([block], least[block.name])[block.name]
        if not short:
            return
        scored = [block for block in scored if block not in short]


def check_whole(unscored: Unscored | None, lots: Sequence[Lot]) -> None:
    """Raise ValueError if blocks that are to be kept whole have more weights than their lot keeps."""
    for lot in lots:
        _kept_whole(lot, unscored)


def _kept_whole(lot: Lot, unscored: Unscored | None) -> dict[str, int]:
    """Of the blocks that are kept whole, how many weights that is."""
    if unscored is None or not unscored.whole:
        return {}
    fixed = {block.name: block.size for block in lot.blocks if block.name in unscored.scores}
    if (least := sum(fixed.values())) > lot.keep:
        total = sum(block.size for block in lot.blocks)
        raise ValueError(
            f'gates="keep" keeps the {least:,} weights of {", ".join(list(fixed)[:3])}'
            f"{', ...' if len(fixed) > 3 else ''}, and {lot.keep:,} of {total:,} are to be kept; ask for a density of "
            f'at least {least / total:.3g}, or write gates="erk"'
        )
    return fixed


def erk_counts(lot: Lot) -> dict[str, float]:
    """Name -> what Erdős-Rényi-kernel densities keep of each block; they add up to the lot's number."""
    total = sum(block.size for block in lot.blocks)
    densities = erdos_renyi_kernel({block.name: block.shape for block in lot.blocks}, lot.keep / max(1, total))
    return {block.name: densities[block.name] * block.size for block in lot.blocks}


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


def no_signal() -> NoSignal:
    """The error of scores that are all zero."""
    return NoSignal(
        "every score is zero, so no weight is better than another: no signal reaches the prunable weights "
        "(dead network, zero loss gradient, or layers that the output does not depend on); look at the weights, the "
        "inputs and the loss, or exclude what cannot be reached with prunable="
    )
