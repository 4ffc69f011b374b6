"""Pruning methods on sharded models: the same functions, on parts of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from foreprune.core.budget import Density
from foreprune.core.collective import same_everywhere, together, totals
from foreprune.core.masks import Masks
from foreprune.core.method import Method, Score, Scores
from foreprune.core.task import Task
from foreprune.methods import list_methods
from foreprune.sharded.sharded_net import ShardedNet
from foreprune.sharded.sharded_select import counts_of


def make_sharded(method: Method, net: ShardedNet, task: Task, density: Density, **options: Any) -> Masks:
    """`method.make` on a sharded model: masks sharded as its parameters. All processes have to call.

    Raises:
        ValueError: a method that needs the whole model in one place, or processes that were given different data.
    """
    _check(method, net, task)
    if method.masks is not None and isinstance(density, Mapping):
        raise ValueError(f"method {method.name!r} takes one density for a sharded model; give a number")
    if method.score is not None:
        method = replace(method, score=_agreed(method.score))
    parts = method.make(net, task, density, **options)
    counts = counts_of(net, parts, net.blocks)
    kept = dict.fromkeys(parts, 0)
    for block in net.blocks:
        kept[block.parameter] += counts[block.name]
    tensors = {name: net.layouts[name].spread(part) for name, part in parts.items()}
    return Masks._adopt(tensors, kept=kept, table=parts._table)


def scores_sharded(method: Method, net: ShardedNet, task: Task, **settings: Any) -> Scores:
    """One scoring pass on the dense model: name -> scores, sharded as the parameters."""
    _check(method, net, task)
    assert method.score is not None
    scores = method.score(net, task, net.dense(), **settings)
    return {name: net.layouts[name].spread(score) for name, score in scores.items()}


def _agreed(score: Score) -> Callable[..., Scores]:
    """The same score, of which an error in one process is an error in all."""

    def agreed(net: ShardedNet, task: Task, masks: Masks, **settings: Any) -> Scores:
        return together(lambda: score(net, task, masks, **settings), net.groups, net.device, what="scoring its part")

    return agreed


def _check(method: Method, net: ShardedNet, task: Task) -> None:
    if not method.sharded:
        others = ", ".join(other.name for other in list_methods() if other.sharded)
        raise ValueError(
            f"method {method.name!r} needs the whole model in one process, and this one is sharded; prune it before "
            f"fully_shard, or use one of {others}"
        )
    least = -totals([-sum(map(torch.numel, net.weights.values()))], net.groups, net.device, largest=True)[0]
    if not least:
        raise ValueError("some process holds no prunable weight of this small model; shard it over fewer processes")
    data = [tensor for batch in task.batches for tensor in (*batch.inputs.tensors(), *_tensors(batch.target))]
    if net.sums:
        count = len(task.batches)
        if totals([count, -count], net.groups, net.device, largest=True) != [count, -count]:
            raise ValueError(
                "the processes were given different numbers of batches, and a sharded model runs on all processes at "
                "once; give each of them as many"
            )
    elif not same_everywhere(data, net.groups, net.device):
        raise ValueError(
            "the processes were given different data; give all of them the same batches, or score the batches of all "
            "together with prune(..., group=torch.distributed.group.WORLD)"
        )


def _tensors(target: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(target) if isinstance(leaf, Tensor)]
