"""PHEW: keep the weights that biased random walks between inputs and outputs run over."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foreprune.core.cautions import about_zeros
from foreprune.core.density import keep_count
from foreprune.core.masks import Masks
from foreprune.core.method import Scores, masker
from foreprune.core.net import Net
from foreprune.core.task import Task
from foreprune.graph import PathError, Preference, Walker, record_units

Bias = Literal["weights", "uniform", "inverse", "inverse-weight"]
Skips = Literal["equal", "never"]
Counts = NDArray[np.int32]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Conserve = Literal["weight", "kernel"]
_BATCHES = (64, 16_384)  # fewest and most walks at once; more cost memory, fewer cost calls
_NEVER = np.iinfo(np.int32).max
_LARGEST = 1e290  # of 1/|w|, so that sums of many stay finite
_DRY = 32  # visits per newly visited weight at which free walks are given up


def _magnitude(weights: NDArray[np.floating]) -> Floats:
    size: Floats = np.abs(weights, dtype=np.float64)
    return size


def _inverse(weights: NDArray[np.floating]) -> Floats:
    size = _magnitude(weights)
    with np.errstate(divide="ignore", over="ignore"):
        found: Floats = np.where(size > 0, np.minimum(1 / size, _LARGEST), 0.0)
    return found


# What the probability of a weight within its kernel is proportional to, |w|, 1 or 1/|w| (0 where it is exactly zero),
# and that of the kernel: the sum over its weights, or with "inverse" 1 / sum |w|.
PREFERENCES: dict[Bias, Preference] = {
    "weights": Preference(_magnitude),
    "uniform": Preference(lambda weights: (weights != 0).astype(np.float64)),
    "inverse": Preference(_inverse, kernel=_inverse),
    "inverse-weight": Preference(_inverse),
}


def _reachable(net: Net, task: Task) -> Scores:
    """1 for every weight that lies on a path from input to output, else 0."""
    assert task.example is not None
    graph = task.once(record_units, net, task.example)
    walker = Walker(
        net, graph, preference=PREFERENCES["uniform"], kernels=False, skips=True, rng=np.random.default_rng(0)
    )
    flags = torch.from_numpy(walker.reachable()).float()
    ends = np.cumsum([weight.numel() for weight in net.weights.values()])
    return {
        name: flags[end - weight.numel() : end].view(weight.shape)
        for (name, weight), end in zip(net.weights.items(), ends, strict=True)
    }


@masker(
    "phew",
    paper="Patil & Dovrolis, ICML 2021, arXiv:2010.11354, section 4",
    needs={"shape"},
    exact=False,
    reach=_reachable,
)
def phew(
    net: Net,
    task: Task,
    density: float,
    *,
    bias: Bias = "weights",
    conserve: Conserve = "weight",
    skips: Skips = "equal",
) -> Masks:
    """Keep the weights that random walks visit, walks that prefer large weights, until enough are kept.

    Walks alternate between input -> output and output -> input; starting units take turns. From a unit the next one is
    chosen with a probability proportional to the L1 norm of the kernel between them (|w| in a linear layer), then one
    weight of that kernel in proportion to |w|. Where a unit feeds several layers or skips, and at an addition on the
    way back, each branch that leads through is equally likely. Pixels of a channel that a linear layer reads are one
    kernel.

    `bias="uniform"` ignores the weights, `"inverse"` prefers small ones: the variants of the paper's section 5.2. With
    `"inverse"` a kernel is chosen in proportion to 1 / sum |w|, then one of its weights in proportion to 1/|w|, as in
    the authors' code (which adds 1e-5 to |w| in the kernel). `"inverse-weight"` gives a kernel the sum of its 1/|w|:
    then its one smallest weight decides, and walks are drawn to far fewer kernels (from 64 units to 64 through 3x3
    kernels the perplexity of the next unit is about 30, with `"inverse"` 62). In linear layers the two agree.
    `conserve="kernel"` keeps the whole kernel around each visited weight.

    `skips="never"` closes the branches without a weight where a block's input is added to its output, as in the
    authors' code: every walk crosses both layers of every residual block, where by default half of them skip it. A
    shortcut with a convolution is a branch like any other, with both settings. A block whose own branch holds only
    zeros then lets no walk through.

    Every kept weight lies on a kept path from input to output, so walks are never cut short: the count is the
    target or up to less than one path more (times the kernel size with `conserve="kernel"`). A weight's score is the
    number of the first walk that visits it, so all densities of one seed are nested. Once hardly a step of a walk finds
    a new weight, further walks are led through the unvisited weights, likeliest first; weights on no path at all are
    never kept.

    Paths are those of units, as in the paper: where in a kernel a walk passes is not tied to a place in the image. On
    images of a few pixels and with hardly any weights kept, some kept paths may run off the edge.

    Walks on token ids begin, and end on their way back, at the features that the embedding gives: its table is not
    walked. A weight under weight normalization counts by its direction v alone.

    The authors' code takes parameters in flat order for the topology, treats every 1x1 convolution as a shortcut, and
    jumps over layers on the forward walk: before a shortcut it goes from the second layer of the last block straight
    into the shortcut. Where a linear layer reads several pixels of a channel, it draws one of them, all equally likely.
    Here the network is recorded as it is, bottlenecks included.
    """
    assert task.example is not None
    target = keep_count(density, net.total)
    graph = task.once(record_units, net, task.example)
    seed = int(torch.randint(2**62, (), generator=task.generator, device="cpu"))
    rng = np.random.default_rng(seed)
    walker = Walker(
        net,
        graph,
        preference=PREFERENCES[bias],
        kernels=conserve == "kernel",
        skips=skips == "equal",
        rng=rng,
    )
    counted = _prunable_flags(net)
    first = first_visits(walker, target, counted=counted)
    visited = first[(first != _NEVER) & counted]
    return walker.masks(first <= np.partition(visited, target - 1)[target - 1])


def _prunable_flags(net: Net) -> NDArray[np.bool_]:
    """Which of the entries of all tensors with prunable weights are prunable."""
    flags = {name: np.zeros(tuple(weight.shape), np.bool_) for name, weight in net.weights.items()}
    for block in net.blocks:
        flags[block.parameter][block.index] = True
    return np.concatenate([part.ravel() for part in flags.values()])


def first_visits(walker: Walker, target: int, *, counted: NDArray[np.bool_] | None = None) -> Counts:
    """For every weight the number of the first walk that visits it, with at least `target` of those that are `counted`
    (default: all) visited.

    How many walks there are depends on `target`, but what each of them does not: the results for two targets agree
    wherever both have visited.

    Raises:
        PathError: fewer weights than that lie on a path from input to output.
    """
    first = np.full(walker.total, _NEVER, dtype=np.int32)
    counted = np.ones(walker.total, np.bool_) if counted is None else counted
    walks = visited = 0
    order: Ints | None = None  # of the weights that walks are led through, once free ones find hardly anything
    while visited < target:
        count = min(max(_BATCHES[0], walks // 4), _BATCHES[1])
        if order is None:
            numbers, weights = walker.free(count, begin=walks)
        else:
            order = order[first[order] == _NEVER]
            numbers, weights = walker.through(order[:count])
        new = weights[(first[weights] == _NEVER) & counted[weights]]
        np.minimum.at(first, weights, (numbers + walks).astype(np.int32))
        walks += count
        found = int(np.count_nonzero(np.diff(np.sort(new), prepend=-1)))
        visited += found
        if order is None and found * _DRY <= len(weights):
            order = _likeliest(walker, target, counted)
    return first


def _likeliest(walker: Walker, target: int, counted: NDArray[np.bool_]) -> Ints:
    """The counted weights on some path from input to output, most likely visited first."""
    reachable = np.flatnonzero(walker.reachable() & counted)
    if len(reachable) < target:
        advice = about_zeros(walker.net) or (
            "ask for a smaller density, or exclude with prunable= what carries no path (zeros, attention scores, gates)"
        )
        raise PathError(
            f"only {len(reachable):,} of {np.count_nonzero(counted):,} prunable weights lie on a path from input to "
            f"output, and {target:,} are to be kept; {advice}"
        )
    return reachable[np.argsort(-walker.visit_probability()[reachable], kind="stable")]
