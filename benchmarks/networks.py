"""The networks of the table, and what is compared of their scores and masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from foreprune.zoo import models

SHAPES: dict[str, tuple[tuple[int, int, int], int]] = {
    "resnet-20": ((3, 32, 32), 10),
    "vgg-16": ((3, 32, 32), 10),
    "resnet-18": ((3, 64, 64), 200),
    "resnet-50": ((3, 224, 224), 1000),
}


def network(name: str) -> nn.Module:
    """With the same weights every time."""
    torch.manual_seed(0)
    shape, classes = SHAPES[name]
    return models.create(name, input_shape=shape, classes=classes)


def batch(name: str, size: int = 100) -> tuple[Tensor, Tensor]:
    shape, classes = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, *shape, generator=generator), torch.arange(size) % classes


def plain_pass(model: nn.Module, loss: Tensor) -> None:
    """Backward, and the gradients let go."""
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        parameter.grad = None


def rank_correlation(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """Spearman's, of all scores together."""
    ranks = [_flat(scores, ours).argsort().argsort().double() for scores in (ours, theirs)]
    return f"rank correlation {float(torch.corrcoef(torch.stack(ranks))[0, 1]):.6f}"


def common_kept(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """How many weights both keep, and each of them."""
    mine, other = _flat(ours, ours), _flat(theirs, ours)
    return f"keep {int(mine.sum()):,} / {int(other.sum()):,}, both {int((mine & other).sum()):,}"


def _flat(tensors: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in names])
