"""SNIP on a batch of 100 against one forward and backward of the same batch in the same mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.machine import bound_ms, flops_of
from benchmarks.networks import batch, network, plain_pass, rank_correlation
from benchmarks.published import masked
from benchmarks.timing import Row, compare
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import Task, materialize
from foreprune.methods.snip import snip


def rows() -> Iterator[Row]:
    for name in ("resnet-20", "vgg-16"):
        model = network(name)
        x, y = batch(name)
        net = Net.of(model)
        task = Task(materialize((x, y), net.device), None, None, torch.Generator())
        dense = Masks.dense(net.weights)

        def ours(net: Net = net, task: Task = task, dense: Masks = dense) -> None:
            snip(net, task, dense)

        def plain(model: nn.Module = model, x: Tensor = x, y: Tensor = y) -> None:
            plain_pass(model, F.cross_entropy(model(x), y))

        yield compare(
            f"SNIP, {name}, batch 100",
            ours,
            plain,
            against="forward + backward",
            target=1.05,
            rounds=15,
            bound_ms=bound_ms(flops=flops_of(plain)),
            agreement=rank_correlation(snip(net, task, dense), _by_masks(model, x, y)),
        )


def _by_masks(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """|dL/dc| at c = 1, with multipliers c in the layers."""
    twin = masked(model)
    masks: dict[str, Any] = {
        f"{name}.weight": layer.get_buffer("weight_mask").requires_grad_()
        for name, layer in twin.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    F.cross_entropy(twin(x), y).backward()  # type: ignore[no-untyped-call]
    return {name: mask.grad.abs() for name, mask in masks.items()}
