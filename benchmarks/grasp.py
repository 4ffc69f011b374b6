"""GraSP's scores of a batch of 100 against the published procedure on the same batch: time, then memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import published
from benchmarks.machine import bound_ms, flops_of
from benchmarks.networks import batch, network, plain_pass, rank_correlation
from benchmarks.timing import Row, compare
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import Task, materialize
from foreprune.methods.grasp import grasp

TEMPERATURE = 200.0


def rows() -> Iterator[Row]:
    for name in ("resnet-20", "vgg-16"):
        model, (x, y) = network(name), batch(name)
        net = Net.of(model)
        task = Task(materialize((x, y), net.device), None, None, torch.Generator())
        dense = Masks.dense(net.weights)

        def ours(net: Net = net, task: Task = task, dense: Masks = dense) -> dict[str, Tensor]:
            return grasp(net, task, dense, temperature=TEMPERATURE)

        def theirs(model: nn.Module = model, x: Tensor = x, y: Tensor = y) -> dict[str, Tensor]:
            return published.grasp(model, [(x, y)], temperature=TEMPERATURE)

        def plain(model: nn.Module = model, x: Tensor = x, y: Tensor = y) -> None:
            plain_pass(model, F.cross_entropy(model(x), y))

        row = compare(
            f"GraSP, {name}, batch 100",
            ours,
            theirs,
            against="the published procedure",
            target=1 / 1.3,
            rounds=9,
            bound_ms=bound_ms(flops=3 * flops_of(plain)),  # forward and backward, and the derivative of both
            agreement=rank_correlation(ours(), theirs()),
        )
        yield row
        ratio = (row.ours_mb or 0) / (row.reference_mb or 1)
        yield replace(
            row, claim=f"GraSP, {name}, peak memory", ratio=ratio, low=ratio, high=ratio, target=0.8, bound_ms=None
        )
