"""PHEW against walks taken one at a time, and against the seconds it may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import foreprune
from benchmarks.timing import Row, summarized
from foreprune.core.net import Net
from foreprune.core.task import as_inputs
from foreprune.graph import Walker, record_units
from foreprune.methods.phew import PREFERENCES, first_visits
from foreprune.zoo import models

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
LIMITS = (  # network, input, classes, density, seconds
    ("resnet-20", CIFAR, 10, 0.05, 0.1),
    ("vgg-19", CIFAR, 10, 0.01, 1.0),
    ("vgg-19", CIFAR, 10, 0.1, 10.0),
    ("resnet-50", IMAGENET, 1000, 0.01, 5.0),
)
_TRIED = 40  # walks of the slow implementation in each measurement


class OneByOne:
    """Patil & Dovrolis' loop on a chain of layers: a walk at a time from alternating ends, `np.random.choice` for the
    next unit and again for the weight in the kernel, until the masks hold enough ones. The probabilities of the units,
    which take the authors nested Python loops, come from NumPy and are not timed.

    With `recount` all masks are summed after each walk, as the authors do; otherwise new ones are counted as they come.
    """

    def __init__(self, model: nn.Module, *, recount: bool) -> None:
        self.recount = recount
        parameters = [p.detach().abs().double() for p in model.parameters() if p.dim() > 1]
        self.weights = [p.reshape(*p.shape[:2], -1).numpy() for p in parameters]
        norms = [weight.sum(2) for weight in self.weights]
        self.onward = [norm / norm.sum(0) for norm in norms]
        self.back = [norm / norm.sum(1, keepdims=True) for norm in norms]
        self.masks = [np.zeros(weight.shape, np.float32) for weight in self.weights]
        self.random = np.random.RandomState(0)
        self.walks = self.kept = 0

    def _keep(self, layer: int, target: int, source: int) -> None:
        kernel = self.weights[layer][target, source]
        place = self.random.choice(len(kernel), p=kernel / kernel.sum())
        self.kept += int(self.masks[layer][target, source, place] == 0)
        self.masks[layer][target, source, place] = 1

    def walk(self) -> None:
        ends = len(self.back[-1]), self.onward[0].shape[1]
        if self.walks % 2 == 0:
            source = self.walks // 2 % ends[1]
            for layer, probability in enumerate(self.onward):
                target = self.random.choice(len(probability), p=probability[:, source])
                self._keep(layer, target, source)
                source = target
        else:
            target = self.walks // 2 % ends[0]
            for layer in reversed(range(len(self.back))):
                source = self.random.choice(self.back[layer].shape[1], p=self.back[layer][target])
                self._keep(layer, target, source)
                target = source
        self.walks += 1
        if self.recount:
            self.kept = int(sum(float(mask.sum()) for mask in self.masks))


def _network(name: str, shape: tuple[int, int, int], classes: int) -> tuple[nn.Module, Tensor]:
    return models.create(name, input_shape=shape, classes=classes), torch.zeros(1, *shape)


def _seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def walks_needed(model: nn.Module, x: Tensor, density: float) -> tuple[int, NDArray[np.int64]]:
    """How many walks reach the density, and how many weights are kept after each of them."""
    net = Net.of(model)
    graph, rng = record_units(net, as_inputs(x)), np.random.default_rng(0)
    walker = Walker(net, graph, preference=PREFERENCES["weights"], kernels=False, rng=rng)
    target = round(density * net.total)
    first = first_visits(walker, target)
    kept = np.cumsum(np.bincount(first[first < np.iinfo(first.dtype).max]))
    return int(np.searchsorted(kept, target)) + 1, kept


def rows() -> Iterator[Row]:
    """VGG-19 at 1 % against one walk at a time; then seconds against the limits."""
    model, x = _network("vgg-19", CIFAR, 10)
    needed, kept = walks_needed(model, x, 0.01)
    foreprune.prune(model, "phew", density=0.01, inputs=x)
    for recount, target in ((True, 1 / 200), (False, 1 / 20)):
        slow = OneByOne(model, recount=recount)
        ours, theirs = [], []
        for _ in range(7):
            ours.append(_seconds(lambda: foreprune.prune(model, "phew", density=0.01, inputs=x)))
            walks = _seconds(lambda slow=slow: [slow.walk() for _ in range(_TRIED)])  # type: ignore[misc]
            theirs.append(walks / _TRIED * needed)
        found, wanted = slow.kept, int(kept[slow.walks - 1])
        if abs(found - wanted) > 0.02 * wanted:
            raise RuntimeError(f"{slow.walks} walks keep {found} weights one at a time, but {wanted} in ours")
        counting = "all masks summed after each" if recount else "new weights counted as they come"
        against = f"one walk at a time, {counting} ({_TRIED} walks timed, times {needed / _TRIED:.0f})"
        yield summarized("PHEW, vgg-19 at 1 %", ours, theirs, against=against, target=target)
    for name, shape, classes, density, seconds in LIMITS:
        model, x = _network(name, shape, classes)
        ours = [
            _seconds(lambda: foreprune.prune(model, "phew", density=density, inputs=x))  # noqa: B023
            for _ in range(6)
        ][1:]
        claim, limits = f"PHEW, {name} at {density:.0%}", [seconds] * len(ours)
        yield summarized(claim, ours, limits, against=f"{seconds:g} s", target=1.0)
