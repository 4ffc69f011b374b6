"""A masked training step against a dense one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional as F

import foreprune as fp
from benchmarks.timing import Row, compare
from foreprune.zoo import models


def _step(name: str, shape: tuple[int, int, int], *, masked: bool) -> Callable[[], None]:
    x, y = torch.randn(128, *shape), torch.arange(128) % 10
    model = models.create(name, input_shape=shape, classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    if masked:
        fp.prune(model, "random", density=0.1).attach(model, optimizer)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def rows() -> Iterator[Row]:
    for name, shape, inner in (("resnet-20", (3, 32, 32), 1), ("lenet-300-100", (1, 28, 28), 50)):
        ours, reference = _step(name, shape, masked=True), _step(name, shape, masked=False)
        claim = f"masked step, {name}, batch 128"
        yield compare(claim, ours, reference, against="dense step", target=1.03, inner=inner, rounds=31)
