"""A mini-batch of NTK-SAP against the published procedure, written down literally."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.timing import Row, compare
from foreprune.core.masks import Masks
from foreprune.core.net import Net
from foreprune.core.task import Task, as_inputs
from foreprune.methods.ntk_sap import ntk_sap
from foreprune.zoo import models

_EPSILON = 0.01


def _literal(model: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    """New weights in the network itself; a training-mode forward for the statistics, a forward in evaluation mode, one
    of a perturbed copy, and a backward to the mask, which every layer multiplies its weight by."""
    model = copy.deepcopy(model)
    twin = copy.deepcopy(model)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    norms = [
        (norm, other)
        for norm, other in zip(model.modules(), twin.modules(), strict=True)
        if isinstance(norm, nn.BatchNorm2d) and isinstance(other, nn.BatchNorm2d)
    ]
    masks = {f"{name}.weight": torch.ones_like(layer.weight).requires_grad_() for name, layer in layers.items()}
    for norm, _ in norms:
        norm.momentum = 1.0
    for name in masks:  # as there, the other parameters are not frozen
        model.get_parameter(name).requires_grad_(False)
        twin.get_parameter(name).requires_grad_(False)

    def masked(module: nn.Module, x: Tensor) -> Tensor:
        weights = {name: module.get_parameter(name) * mask for name, mask in masks.items()}
        output: Tensor = functional_call(module, weights, (x,))
        return output

    def run() -> None:
        for layer in layers.values():
            nn.init.kaiming_normal_(layer.weight)
        x = torch.randn(100, *shape)
        for norm, _ in norms:
            norm.reset_running_stats()
        model.train()
        with torch.no_grad():
            masked(model, x)
        model.eval()
        plain = masked(model, x)
        twin.eval()
        for norm, other in norms:
            other.load_state_dict(norm.state_dict())
        for name, layer in layers.items():
            twin.get_parameter(f"{name}.weight").copy_(layer.weight + torch.randn_like(layer.weight) * _EPSILON)
        (plain - masked(twin, x)).square().sum().backward()  # type: ignore[no-untyped-call]
        for mask in masks.values():
            mask.grad = None

    return run


def rows() -> Iterator[Row]:
    """One resampling of a batch of 100."""
    shape = (3, 32, 32)
    for name in ("resnet-20", "vgg-16"):
        model = models.create(name, input_shape=shape, classes=10)
        net = Net.of(model)
        task = Task((), as_inputs(torch.zeros(1, *shape)), None, torch.Generator())
        dense = Masks.dense(net.weights)

        def ours(net: Net = net, task: Task = task, dense: Masks = dense) -> None:
            ntk_sap(net, task, dense, resamplings=1, samples=100, batch_size=100)

        claim = f"NTK-SAP, {name}, batch of 100"
        yield compare(claim, ours, _literal(model, shape), against="the published procedure", target=1 / 1.3, rounds=11)
