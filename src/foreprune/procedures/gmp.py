"""Gradual magnitude pruning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from foreprune.procedures.registered import Start, procedure

if TYPE_CHECKING:
    from torch import nn

    from foreprune.core.masks import Masks
    from foreprune.core.select import Scope
    from foreprune.procedures.shared import RunContext
    from foreprune.training.fit import MaskMap


def gradual_count(
    step: int, *, steps: int, keep: int, total: int, begin: float = 0.0, end: float = 0.75, every: int = 100
) -> int | None:
    """How many of `total` weights are kept after `step` of `steps` updates; None: no change now.

    Zhu & Gupta 2017, equation 1: the sparsity s_t = s (1 - (1 - (t - t0) / (t1 - t0))^3), at t0 = begin * steps, every
    `every` steps after it, and at t1 = end * steps, where exactly `keep` are left. Counts never rise.
    """
    first, last = round(begin * steps), round(end * steps)
    if step == last:
        return keep
    if not first <= step < last or (step - first) % every:
        return None
    done = 1.0 - (1.0 - (step - first) / (last - first)) ** 3
    return max(keep, round(total - (total - keep) * done))


def _check(*, begin: float, end: float, every: int) -> None:
    for name, value in (("begin", begin), ("end", end)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be a fraction of training, from 0 to 1, not {value}")
    if every < 1:
        raise ValueError(f"every must be a whole number of optimizer steps, at least 1, not {every}")
    if begin > end:
        raise ValueError(f"begin={begin} lies after end={end}; both are fractions of training")


@procedure(
    "gmp",
    paper="Zhu & Gupta, 2017, arXiv:1710.01878",
    in_steps={"every": 1},
    check=_check,
)
def gmp(run: RunContext, *, begin: float = 0.0, end: float = 0.75, every: int = 100) -> Start:
    """Gradual magnitude pruning: while the network trains, once, the smallest weights go every so many steps, at a rate
    that falls with the cube; begin and end are fractions of the training.
    """
    from foreprune.core.density import keep_count
    from foreprune.procedures.shared import unpruned

    experiment, model = run.experiment, run.network()
    masks = unpruned(run, model)
    keep = keep_count(experiment.density, masks.total)
    course = partial(gradual_count, begin=begin, end=end, every=every)
    count = partial(course, steps=run.steps, keep=keep, total=masks.total)
    return Start(model, masks, experiment.seed, None, Gradual(count, experiment.scope, experiment.seed, masks))


@dataclass(eq=False)
class Gradual:
    """The schedule of gradual magnitude pruning, for `fit`: the same masks whenever the training is interrupted.

    Attributes:
        count: updates done -> how many weights are kept from then on, None for no change.
        scope, seed: as in `keep_largest`; the seed draws ties.
        masks: those in force.
    """

    count: Callable[[int], int | None]
    scope: Scope
    seed: int
    masks: Masks
    _known: bool = field(default=False, init=False)

    def __call__(self, step: int, model: nn.Module, masks: MaskMap) -> Masks | None:
        from foreprune.procedures.shared import keep_largest

        if not self._known:  # a resumed training begins with masks that were made before
            self.masks, self._known = self.masks.replaced(masks), True
        keep = self.count(step)
        if keep is None or keep == self.masks.kept:
            return None
        weights = dict(model.named_parameters())
        kept = keep_largest(weights, keep, among=self.masks, scope=self.scope, seed=self.seed)
        self.masks = kept.with_metadata(self.masks.metadata)
        return self.masks
