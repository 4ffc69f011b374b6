"""Magnitude pruning at initialization."""

from __future__ import annotations

from foreprune.core.masks import Masks
from foreprune.core.method import Scores, scorer
from foreprune.core.net import Net
from foreprune.core.task import Task


@scorer(
    "magnitude",
    paper="Frankle et al., ICLR 2021, arXiv:2009.08576, section 3; Han et al., 2015, arXiv:1506.02626",
    sharded=True,
)
def magnitude(net: Net, task: Task, masks: Masks) -> Scores:
    """Keep the largest weights, z = |w|, compared over all layers.

    Before training this depends only on the variance each layer was drawn with: fan-in and fan-out initialization give
    different layer densities, and a unit variance in every layer makes it random pruning.
    """
    return {name: weight.abs() for name, weight in net.weights.items()}
