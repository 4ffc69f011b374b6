"""A module whose forward is any function, so that two ways to write one network can share their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import foreprune


class Network(nn.Module):
    """`forward(self, *inputs)` is the given function; `parts` are its submodules and parameters."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def scores(network: nn.Module, *inputs: Any, method: str = "synflow", **hyper: Any) -> dict[str, Tensor]:
    return foreprune.score(network, method, inputs=inputs, **hyper)


def assert_same_scores(
    one: Callable[..., Any], other: Callable[..., Any], *inputs: Tensor, **parts: nn.Module | nn.Parameter | Tensor
) -> dict[str, Tensor]:
    """Both ways to write the network have the same scores, up to a common factor, and some flow."""
    network = Network(one, **parts).double()
    inputs = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
    first = scores(network, *inputs)
    network.function = other
    second = scores(network, *inputs)
    total = [sum(float(score.sum()) for score in found.values()) for found in (first, second)]
    assert min(total) > 0
    for name in first:
        torch.testing.assert_close(first[name] / total[0], second[name] / total[1], rtol=1e-10, atol=1e-15, msg=name)
    return first


def conv(inputs: int, outputs: int, kernel: int = 3, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **kwargs)


def twin(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module)
