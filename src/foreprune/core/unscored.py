"""Blocks that a score says nothing of, or too little.

Where attention is uniform and gates are open, as on paths, queries, keys and the layers of gates make no difference, so
their scores are exactly zero; so are those behind a scale that begins at zero. Before training attention is nearly
uniform, and with it the gradients of queries and keys are small. By these scores attention would be the first thing to
go; docs/results/attention.md has what that costs, and what else was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreprune.core.attention import score_blocks
from foreprune.core.blocks import Block, split
from foreprune.core.budget import Group
from foreprune.core.cautions import about_zeros
from foreprune.core.layer_units import is_conv1d, is_transposed, owner_of
from foreprune.core.masks import Masks
from foreprune.core.net import Net, scoring
from foreprune.core.select import Unscored
from foreprune.core.task import Task, require_grad

Gates = Literal["erk", "keep", "score"]
# Of fewer rows a third is empty by chance now and then.
FEW_ROWS = 24


class UnscoredBlocks(UserWarning):
    """A score says nothing, or too little, of some blocks, so something else decides how much of them is kept."""


def unscored_blocks(scores: Mapping[str, Tensor], net: Net, task: Task) -> tuple[Net, tuple[Block, ...]]:
    """The blocks whose scores are all zero while those of others are not, and the network that has them.

    Where the rows without a score are a regular part of a tensor that no name tells to be split, such as queries and
    keys that lie head by head, or the gates of a gated linear unit, that part is a block of its own, "[unscored]".

    Layers that the output does not depend on are not among them: one forward pass on the task's example, with its real
    gates, shows which weights it is computed from. Without an example there is no telling.

    Args:
        scores: of the dense network.
        net: the network.
        task: what the score has looked at.
    """
    parts = net.restricted(
        piece for block in net.blocks for piece in (_pieces(scores, net, block) if not block.spans else (block,))
    )
    blocks = [block for block in parts.blocks if block.size]
    silent = [block for block in blocks if not net.any(scores[block.parameter], block)]
    if not silent or len(silent) == len(blocks):
        return net, ()
    unused = _unused(net, task)
    found = tuple(block for block in silent if block.parameter not in unused)
    return (parts, found) if found else (net, ())


def _pieces(scores: Mapping[str, Tensor], net: Net, block: Block) -> tuple[Block, ...]:
    """A tensor, or its rows with and without a score, if those without are at least a third of it and follow each other
    at regular distances, two or more at a time."""
    score = scores[block.parameter]
    if score.dim() < 2 or not block.size:
        return (block,)
    owner = owner_of(net.module, block.parameter)
    axis = 1 if is_conv1d(owner) else 0
    zero = ~net.rows(block.parameter, score, axis)
    if not zero.size / 3 <= np.count_nonzero(zero) < zero.size or is_transposed(owner):
        return (block,)
    if not net.rows(block.parameter, net.params[block.parameter], axis)[zero].all():
        return (block,)  # rows of zeros, of units pruned earlier, have no score for another reason
    ends = np.flatnonzero(np.diff(zero.astype(np.int8), prepend=0, append=0)).tolist()
    without = tuple(zip(ends[::2], ends[1::2], strict=True))
    lengths, gaps = np.diff(ends)[::2], np.diff(ends)[1::2]
    if not ends or lengths.min() < 2 or np.ptp(lengths) or (gaps.size and np.ptp(gaps)):
        return (block,)
    borders = [0, *ends, zero.size]
    between = zip(borders[::2], borders[1::2], strict=True)
    with_score = tuple((start, stop) for start, stop in between if start < stop)
    return split(block.parameter, block.tensor, axis, {"unscored": without, "scored": with_score})


def emptied_rows(masks: Masks, net: Net) -> dict[str, int]:
    """Layer -> how many of its rows have lost all weights, where those are a third or two of it and lie as queries and
    keys do in a fused projection: one after the other, or the same part of every head.

    What is known to hold several layers is left out: it is split into blocks, and they are looked at one by one.
    """
    lost = {}
    for block in net.blocks:
        if not block.spans and len(block.tensor) > 1:
            axis = 1 if is_conv1d(owner_of(net.module, block.parameter)) else 0
            lost[block.name] = _empty_thirds(net.rows(block.parameter, masks[block.parameter], axis))
    return {name: rows for name, rows in lost.items() if rows}


def _empty_thirds(alive: NDArray[np.bool_]) -> int:
    """How many rows make up the empty thirds of every head, or of all heads together, if most others are not empty."""
    if alive.size < FEW_ROWS:
        return 0
    for heads in range(1, alive.size // 6 + 1):
        if alive.size % (3 * heads) == 0:
            thirds = alive.reshape(heads, 3, -1)
            empty = ~thirds.any((0, 2))
            count = int(np.count_nonzero(empty))
            if 0 < count < 3 and thirds[:, ~empty].mean() >= 0.5:
                return count * alive.size // 3
    return 0


def with_attention(found: tuple[Block, ...], net: Net) -> tuple[Block, ...]:
    """These blocks and all queries and keys, in the order of the network; only these where no other would be left."""
    silent = {block.name for block in found} | score_blocks(net.blocks)
    joint = tuple(block for block in net.blocks if block.name in silent)
    return joint if len(joint) < len(net.blocks) else found


def instead_of(blocks: tuple[Block, ...], net: Net, *, whole: bool) -> Unscored | None:
    """What decides within these blocks: the size of their weights."""
    if not blocks:
        return None
    return Unscored({block.name: net.of_block(net.params[block.parameter], block).abs() for block in blocks}, whole)


def notice(blocks: tuple[Block, ...], net: Net, *, gates: Gates, silent: bool = True) -> str:
    """What happened to these blocks, and what to do about it; `silent`: all of their scores are zero."""
    names = f"{', '.join(block.name for block in blocks[:4])}{', ...' if len(blocks) > 4 else ''}"
    done = (
        "they are kept whole" if gates == "keep" else "the largest of their weights are kept, as many as erk would keep"
    )
    other = 'gates="erk" keeps a share of them' if gates == "keep" else 'gates="keep" keeps them whole'
    zeros = about_zeros(net, of=[block.parameter for block in blocks]) if silent else ""
    if silent:
        why = "get no score at all, because they only feed gates (queries and keys, squeeze-and-excitation) or lie "
        why, instead = f"{why}behind zeros", "prunes them first"
    else:
        why, instead = "make attention scores, whose gradients say little before training", "lets scores decide"
    said = f'{len(blocks)} of {len(net.blocks)} blocks {why}, and {done}: {names}; {other}, and gates="score" {instead}'
    return f"{said}; {zeros}" if zeros else said


def beside(
    net: Net,
    task: Task,
    keep: int,
    reached: Mapping[str, Tensor],
    found: tuple[Block, ...],
    *,
    make: Callable[[Net, Group], Masks],
    whole: bool,
) -> Masks:
    """Masks of a method without scores, and beside them of the blocks that it cannot reach.

    Args:
        net: the network.
        task: whose generator draws ties.
        keep: how many weights in all.
        reached: not zero for the weights that the method can reach.
        found: the blocks that it cannot.
        make: the method: (network of the other blocks, what they keep) -> masks.
        whole: keep those blocks whole, not their share.
    """
    unscored = instead_of(found, net, whole=whole)
    chosen = net.keep_best(reached, keep, generator=task.generator, blocks=net.blocks, unscored=unscored)
    rest = net.restricted(block for block in net.blocks if block not in found)
    counts, tensors = chosen.block_counts(), dict(net.dense())
    left = sum(counts[block.name][0] for block in rest.blocks)
    for block in found:
        tensors[block.parameter][block.index] = chosen[block.parameter][block.index]
    return joined(net, [make(rest, Group(rest.blocks, left / rest.total)), net.dense().replaced(tensors)])


def joined(net: Net, made: Iterable[Masks]) -> Masks:
    """Masks of all blocks, of which each of `made` prunes some."""
    dense = net.dense()
    tensors = dict(dense)
    for masks in made:
        for name, mask in masks.items():
            tensors[name] &= mask
    return dense.replaced(tensors)


def _unused(net: Net, task: Task) -> frozenset[str]:
    """Parameters that the output is not computed from."""
    example = task.example or (task.batches[0].inputs if task.batches else None)
    if example is None:
        return frozenset()
    dtype = net.params[net.prunable[0]].dtype
    example = example.map(lambda tensor: tensor.to(net.device, dtype if tensor.is_floating_point() else None).clone())
    leaves = require_grad(net.params, net.prunable)
    with scoring(net):
        output = example.call(lambda *args, **kwargs: net(leaves, *args, **kwargs))
        outputs = [tensor for tensor in _tensors(output) if tensor.requires_grad]
        if not outputs:
            return frozenset()
        grads = torch.autograd.grad(
            outputs,
            [leaves[name] for name in net.prunable],
            grad_outputs=[torch.zeros_like(tensor) for tensor in outputs],
            allow_unused=True,
        )
    return frozenset(name for name, grad in zip(net.prunable, grads, strict=True) if grad is None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value))
