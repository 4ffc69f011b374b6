"""Pruning methods on sharded models: the same functions, on parts of the weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foreprune.core.collective import same_everywhere, totals
from foreprune.core.density import Shapes, apportion, erdos_renyi, erdos_renyi_kernel, keep_count, uniform
from foreprune.core.masks import Masks
from foreprune.core.method import Method, Progress, Scores, by_score
from foreprune.core.select import Scope
from foreprune.core.task import Task
from foreprune.sharded.sharded_net import ShardedNet
from foreprune.sharded.sharded_select import counts_of, keep_best_sharded, keep_counts_sharded

_SCORES = ("magnitude", "random", "snip", "iterative-snip", "force", "grasp", "synflow", "synflow-l2")
_DENSITIES: dict[str, Callable[[Shapes, float], dict[str, float]]] = {
    "uniform": uniform,
    "er": erdos_renyi,
    "erk": erdos_renyi_kernel,
}


def make_sharded(
    method: Method,
    net: ShardedNet,
    task: Task,
    density: float,
    *,
    scope: Scope = "global",
    progress: Progress | None = None,
    **settings: Any,
) -> Masks:
    """`method.make` on a sharded model: masks sharded as its parameters. All processes have to call.

    Raises:
        ValueError: a method that needs the whole model in one place, or processes that were given different data.
    """
    _check(method, net, task)
    choose = partial(keep_best_sharded, net)
    if method.name in _DENSITIES:
        if scope != "global":
            raise ValueError(f'method {method.name!r} sets the layer densities itself; leave scope="global"')
        parts = _random_within(net, task, density, _DENSITIES[method.name])
    else:
        if method.rounds is not None:
            settings = {"rounds": method.rounds, "schedule": method.schedule, **settings}
        parts = by_score(
            _score_of(method),
            net,
            task,
            density,
            scope=scope,
            revives=method.revives,
            progress=progress,
            choose=choose,
            **settings,
        )
    counts = counts_of(net, parts)
    return Masks._adopt({name: net.layouts[name].spread(part) for name, part in parts.items()}, kept=counts)


def scores_sharded(method: Method, net: ShardedNet, task: Task, **settings: Any) -> Scores:
    """One scoring pass on the dense model: name -> scores, sharded as the parameters."""
    _check(method, net, task)
    scores = _score_of(method)(net, task, Masks.dense(net.weights), **settings)
    return {name: net.layouts[name].spread(score) for name, score in scores.items()}


def _check(method: Method, net: ShardedNet, task: Task) -> None:
    known = sorted((*_SCORES, *_DENSITIES))
    if method.name not in known:
        raise ValueError(
            f"method {method.name!r} needs the whole model in one process, and this one is sharded; prune it before "
            f"fully_shard, or use one of {', '.join(known)}"
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
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(target) if isinstance(leaf, Tensor)]


def _score_of(method: Method) -> Callable[..., Scores]:
    if method.name == "random":
        return _random
    assert method.score is not None
    return method.score


def _random(net: ShardedNet, task: Task, masks: Masks) -> Scores:
    """The numbers that one process would draw; whole layers are drawn one after the other."""
    return {
        name: net.layouts[name]
        .part(torch.rand(net.layouts[name].shape, generator=task.generator, dtype=torch.float32, device="cpu"))
        .to(weight.device)
        for name, weight in net.weights.items()
    }


def _random_within(
    net: ShardedNet, task: Task, density: float, densities: Callable[[Shapes, float], dict[str, float]]
) -> Masks:
    shapes = {name: net.layouts[name].shape for name in net.prunable}
    sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    shares = densities(shapes, density)
    ideal = {name: shares[name] * size for name, size in sizes.items()}
    counts = apportion(ideal, sizes, keep_count(density, net.total))
    scores = _random(net, task, Masks.dense(net.weights))
    return keep_counts_sharded(net, scores, counts, generator=task.generator)
