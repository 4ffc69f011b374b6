"""How many weights are kept where: one density for all blocks, or one for each group of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from foreprune.core.blocks import Block
from foreprune.core.density import as_density, keep_count, round_count
from foreprune.core.prunable import fitting
from foreprune.core.schedule import ScheduleName, densities
from foreprune.core.select import Lot

Density = float | Mapping[str, float]


class Group(NamedTuple):
    """Blocks that share a density, and the pattern that named them."""

    blocks: tuple[Block, ...]
    density: float
    pattern: str = "*"

    @property
    def total(self) -> int:
        """Number of weights."""
        return sum(block.size for block in self.blocks)

    @property
    def keep(self) -> int:
        """The number of weights to keep, `round(density * total)`.

        Raises:
            ValueError: that is zero.
        """
        try:
            return keep_count(self.density, self.total)
        except ValueError as error:
            raise ValueError(f"density of {self.pattern!r}: {error}" if self.pattern != "*" else str(error)) from None


def as_densities(
    *, density: Density | None = None, sparsity: float | None = None, compression: float | None = None
) -> Density:
    """What is asked for: one density, or pattern -> density.

    Raises:
        TypeError: several of the arguments, or none.
        ValueError: one density outside (0, 1]; those of patterns are looked at by `grouped`.
    """
    if not isinstance(density, Mapping):
        return as_density(density=density, sparsity=sparsity, compression=compression)
    if sparsity is not None or compression is not None:
        raise TypeError("give density= by patterns alone, without sparsity= or compression=")
    return dict(density)


def grouped(blocks: Sequence[Block], density: Density, *, slots: Mapping[str, str]) -> tuple[Group, ...]:
    """The groups of blocks that `density` names: all of them, or those that its patterns fit.

    A block belongs to the first pattern that fits it; "*" takes what no other one fits, wherever it stands. `slots`:
    each name of a tensor -> its first one, which the blocks have.

    Raises:
        TypeError: a density that is no number.
        ValueError: a density outside (0, 1], a pattern that fits no prunable block, or a block that none fits.
    """
    if not isinstance(density, Mapping):
        return (Group(tuple(blocks), density),)
    if not density:
        raise ValueError('density is an empty mapping; give e.g. {"*.qkv[q,k]": 0.5, "*": 0.1}')
    shares = {}
    for pattern, value in density.items():
        if not isinstance(pattern, str):
            raise TypeError(f"density has {pattern!r} for a pattern; patterns are strings, as for prunable=")
        try:
            shares[pattern] = as_density(density=value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"density of {pattern!r}: {error}") from None
    table: dict[str, tuple[Block, ...]] = {}
    for block in blocks:
        table[block.parameter] = (*table.get(block.parameter, ()), block)
    named = {slot: key for slot, key in slots.items() if key in table}
    owner: dict[Block, str] = {}
    for pattern in shares:
        if pattern == "*":
            continue
        found = fitting(pattern, named, table, of="density")
        if not found:
            known = ", ".join(block.name for block in blocks[:6])
            raise ValueError(f"density pattern {pattern!r} fits no prunable block; there are {known}, ...")
        owner = dict.fromkeys(found, pattern) | owner
    left = [block for block in blocks if block not in owner]
    if left and "*" not in shares:
        raise ValueError(f'no density pattern fits {left[0].name!r}; add a density for the others: "*": 0.1')
    owner |= dict.fromkeys(left, "*")
    groups = (
        Group(tuple(block for block in blocks if owner[block] == pattern), share, pattern)
        for pattern, share in shares.items()
    )
    return tuple(group for group in groups if group.blocks)


def lots_of(
    groups: tuple[Group, ...], *, rounds: int = 1, schedule: ScheduleName = "exponential"
) -> list[tuple[Lot, ...]]:
    """For each round, how many weights every group keeps; the last keeps `Group.keep`, those before it the numbers of
    `round_count`."""
    final = [group.keep for group in groups]
    steps = [densities(group.density, rounds=rounds, schedule=schedule) for group in groups]
    return [
        tuple(
            Lot(group.blocks, last if done == rounds else max(last, round_count(course[done - 1], group.total)))
            for group, last, course in zip(groups, final, steps, strict=True)
        )
        for done in range(1, rounds + 1)
    ]
