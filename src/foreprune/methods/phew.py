"""PHEW: keep the weights that biased random walks between inputs and outputs run over."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foreprune.core.density import keep_count
from foreprune.core.masks import Masks
from foreprune.core.method import masker
from foreprune.core.net import Net
from foreprune.core.task import Task
from foreprune.graph.record import record_units
from foreprune.graph.walks import Bias, Walker

Counts = NDArray[np.int64]
Conserve = Literal["weight", "kernel"]
_BATCH = 16_384  # walks at once; more costs memory, fewer costs calls
_NEVER = np.iinfo(np.int64).max
_DRY = 0.5  # new weights per walk below which free walks are given up


@masker("phew", paper="Patil & Dovrolis, ICML 2021, arXiv:2010.11354, section 5", needs={"inputs"}, exact=False)
def phew(net: Net, task: Task, density: float, *, bias: Bias = "weights", conserve: Conserve = "weight") -> Masks:
    """Keep the weights that random walks visit, walks that prefer large weights, until enough are kept.

    Walks alternate between input -> output and output -> input; starting units take turns. From a unit the next one is
    chosen with a probability proportional to the L1 norm of the kernel between them (|w| in a linear layer), then one
    weight of that kernel in proportion to |w|. Where a unit feeds several layers or skips, and at an addition on the
    way back, each branch that leads through is equally likely. Pixels of a channel that a linear layer reads are one
    kernel.

    `bias="uniform"` ignores the weights, `"inverse"` prefers small ones (1/|w|): the variants of the paper's section
    5.2. `conserve="kernel"` keeps the whole kernel around each visited weight.

    Every kept weight lies on a kept path from input to output, so walks are never cut short: the count is the
    target or up to less than one path more (times the kernel size with `conserve="kernel"`). A weight's score is the
    number of the first walk that visits it, so all densities of one seed are nested. Where nearly everything reachable
    is visited already, further walks are led through the unvisited weights, likeliest first; weights on no path at all
    are never kept.

    The authors' code takes parameters in flat order for the topology, treats every 1x1 convolution as a shortcut, and
    jumps over layers on the forward walk; here the network is recorded as it is, bottlenecks included.
    """
    if bias not in ("weights", "uniform", "inverse"):
        raise ValueError(f'bias must be "weights", "uniform" or "inverse", not {bias!r}')
    if conserve not in ("weight", "kernel"):
        raise ValueError(f'conserve must be "weight" or "kernel", not {conserve!r}')
    assert task.example is not None
    target = keep_count(density, net.total)
    graph = record_units(net, task.example)
    seed = int(torch.randint(2**62, (), generator=task.generator, device="cpu"))
    walker = Walker(net, graph, bias=bias, kernels=conserve == "kernel", rng=np.random.default_rng(seed))
    first = first_visits(walker, target)
    last = np.partition(first, target - 1)[target - 1]
    return walker.masks(first <= last)


def first_visits(walker: Walker, target: int) -> Counts:
    """For every prunable weight the number of the first walk that visits it, with at least `target` weights visited.

    Raises:
        ValueError: fewer weights than that lie on a path from input to output.
    """
    first = np.full(walker.total, _NEVER, dtype=np.int64)
    walks = visited = 0
    dry = not walker.connected
    order: Counts | None = None
    while visited < target:
        missing = target - visited
        if dry:
            if order is None:
                order = _reachable(walker, target)
            order = order[first[order] == _NEVER]
            starts = order[: min(missing, _BATCH)]
            numbers, weights = walker.through(starts)
            count = len(starts)
        else:
            count = int(np.clip(1.2 * missing / walker.length + 2, 64, _BATCH))
            numbers, weights = walker.free(count, begin=walks)
        np.minimum.at(first, weights, numbers + walks)
        walks += count
        before, visited = visited, int(np.count_nonzero(first != _NEVER))
        dry = dry or visited - before < _DRY * count
    return first


def _reachable(walker: Walker, target: int) -> Counts:
    """The weights on some path from input to output, most likely visited first."""
    probability = walker.visit_probability()
    order = np.argsort(-probability, kind="stable")[: np.count_nonzero(probability)]
    if len(order) < target:
        raise ValueError(
            f"only {len(order):,} of {walker.total:,} prunable weights lie on a path from input to output, and "
            f"{target:,} are to be kept; ask for a smaller density (a weight that is exactly zero carries no path)"
        )
    return order
