"""What a score costs beside the passes it cannot do without."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import Row, compare
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.select import keep_top
from foreprune.core.task import Task, as_inputs, materialise
from foreprune.methods.snip import snip
from foreprune.methods.synflow import synflow
from foreprune.zoo import models

NETWORKS = {
    "resnet-20": ((3, 32, 32), 10),
    "vgg-16": ((3, 32, 32), 10),
    "resnet-18": ((3, 64, 64), 200),
}


def _plain_pass(model: nn.Module, loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        parameter.grad = None


def snip_rows() -> Iterator[Row]:
    """SNIP on a batch of 100 against one forward and backward of the same batch in the same mode."""
    for name in ("resnet-20", "vgg-16"):
        shape, classes = NETWORKS[name]
        model = models.create(name, input_shape=shape, classes=classes)
        x, y = torch.randn(100, *shape), torch.arange(100) % classes
        net = Net.of(model)
        task = Task(materialise((x, y), net.device), None, None, torch.Generator())
        dense = Masks.dense(net.weights)

        def ours(net: Net = net, task: Task = task, dense: Masks = dense) -> None:
            snip(net, task, dense)

        def plain(model: nn.Module = model, x: Tensor = x, y: Tensor = y) -> None:
            _plain_pass(model, F.cross_entropy(model(x), y))

        yield compare(f"SNIP, {name}, batch 100", ours, plain, against="forward + backward", target=1.1, rounds=11)


def synflow_rows() -> Iterator[Row]:
    """One round of SynFlow against twice a forward and backward at batch 1, plus one selection."""
    networks = {**NETWORKS, "resnet-50": ((3, 224, 224), 1000)}
    for name, (shape, classes) in networks.items():
        model = models.create(name, input_shape=shape, classes=classes).eval()
        x = torch.ones(1, *shape)
        net = Net.of(model)
        task = Task((), as_inputs(x), None, torch.Generator())
        dense = Masks.dense(net.weights)
        scores = synflow(net, task, dense)
        keep = net.total // 20

        def select(scores: dict[str, Tensor] = scores, keep: int = keep, dense: Masks = dense) -> None:
            keep_top(scores, keep, generator=torch.Generator(), among=dense)

        def ours(net: Net = net, task: Task = task, dense: Masks = dense, keep: int = keep) -> None:
            keep_top(synflow(net, task, dense), keep, generator=torch.Generator(), among=dense)

        def twice_plain(model: nn.Module = model, x: Tensor = x, select: object = select) -> None:
            for _ in range(2):
                _plain_pass(model, model(x).sum())
            assert callable(select)
            select()

        yield compare(
            f"SynFlow round, {name} at {shape[1]} px",
            ours,
            twice_plain,
            against="2 (forward + backward at batch 1) + selection",
            target=1.0,
            rounds=11,
        )
