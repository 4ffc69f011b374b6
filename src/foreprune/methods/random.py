"""Random pruning, and random pruning within layer densities that somebody else chose."""

from __future__ import annotations

from collections.abc import Callable

import torch

from foreprune.core.density import Shapes, apportion, erdos_renyi, erdos_renyi_kernel, keep_count
from foreprune.core.density import uniform as uniform_densities
from foreprune.core.masks import Masks
from foreprune.core.method import Scores, masker, scorer
from foreprune.core.net import Net
from foreprune.core.select import Lot
from foreprune.core.task import Task


@scorer("random", paper="Frankle et al., ICLR 2021, arXiv:2009.08576, section 3", sharded=True)
def random(net: Net, task: Task, masks: Masks) -> Scores:
    """Keep weights at random: score z ~ U(0, 1), compared over all layers.

    Layer densities come out near the global one. Nothing is read from the network but its shapes.
    """
    return {
        name: net.part(
            name, torch.rand(net.shapes[name], generator=task.generator, dtype=torch.float32, device="cpu")
        ).to(weight.device)
        for name, weight in net.weights.items()
    }


def _random_within(
    net: Net, task: Task, density: float, densities: Callable[[Shapes, float], dict[str, float]]
) -> Masks:
    sizes = {block.name: block.size for block in net.blocks}
    shares = densities({block.name: block.shape for block in net.blocks}, density)
    ideal = {name: shares[name] * size for name, size in sizes.items()}
    counts = apportion(ideal, sizes, keep_count(density, net.total))
    lots = [Lot((block,), counts[block.name]) for block in net.blocks]
    return net.keep_best(random(net, task, net.dense()), lots, generator=task.generator, blocks=net.blocks)


@masker("uniform", paper="Zhu & Gupta, 2017, arXiv:1710.01878; Gale et al., 2019, arXiv:1902.09574", sharded=True)
def uniform(net: Net, task: Task, density: float) -> Masks:
    """Keep weights at random, the same fraction in every layer.

    Counts are shared out by largest remainders, so the total is exact. Gale et al. keep the first convolution dense
    and at least a fifth of the last layer; here every layer is treated alike, as in the plain baseline.
    """
    return _random_within(net, task, density, uniform_densities)


@masker("er", paper="Mocanu et al., Nature Communications 2018, arXiv:1707.04780", sharded=True)
def er(net: Net, task: Task, density: float) -> Masks:
    """Keep weights at random within Erdős-Rényi layer densities, d_l = min(1, eps (out + in) / (out in)).

    eps is solved so that the total is right, with layers that would pass 1 kept dense. The authors' code draws each
    weight by itself, so its count is right in expectation only; here it is exact.
    """
    return _random_within(net, task, density, erdos_renyi)


@masker("erk", paper="Evci et al., ICML 2020, arXiv:1911.11134", sharded=True)
def erk(net: Net, task: Task, density: float) -> Masks:
    """Keep weights at random within Erdős-Rényi-kernel layer densities, d_l = min(1, eps (out+in+kh+kw) / (out in kh
    kw)).

    As `er`, with the kernel's extent counted in. Linear layers are the same in both.
    """
    return _random_within(net, task, density, erdos_renyi_kernel)
