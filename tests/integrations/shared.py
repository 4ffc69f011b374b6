"""What the tests of trainers share, and what they run in other processes: a small network, its masks, its data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import foreprune as fp
from foreprune import Masks


class Net(nn.Module):
    """(B, 12) -> logits and, with labels, the mean cross-entropy, as models of transformers answer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.LayerNorm(32), nn.Tanh())
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.body(x))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits.float(), labels)}
        return {**loss, "logits": logits}


def network(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def masks_for(model: nn.Module, density: float = 0.3) -> Masks:
    return fp.prune(model, "erk", density=density)


class Points(torch.utils.data.Dataset[dict[str, Tensor]]):
    """64 points of four classes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(64, 12, generator=generator)
        self.labels = torch.randint(0, 4, (64,), generator=generator)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


def revived(model: nn.Module, masks: Masks, *, parts: dict[str, Tensor] | None = None) -> int:
    """How many pruned weights are not zero; of sharded weights, in the parts that this process holds. NaN counts.

    `parts` keeps the parts of the masks from one look to the next.
    """
    found = 0
    parts = {} if parts is None else parts
    for name, mask in masks.items():
        weight: Any = model.get_parameter(name).detach()
        if hasattr(weight, "to_local"):
            if name not in parts:
                parts[name] = _part(mask, weight)
            mask = parts[name]
            weight = weight.to_local()
        found += int((weight[~mask] != 0).sum())
    return found


def _part(mask: Tensor, weight: Any) -> Tensor:
    """What this process would hold of a mask that is sharded as its weight is, by PyTorch's own rule."""
    from torch.distributed.tensor import distribute_tensor

    part: Tensor = distribute_tensor(mask, weight.device_mesh, weight.placements, src_data_rank=None).to_local()
    return part


class Watched:
    """After every step of an optimizer: how many steps there were, and how many weights were alive that are pruned."""

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        self.model = model
        self.masks = masks
        self.parts: dict[str, Tensor] = {}
        self.steps = 0
        self.revived = 0

    def look(self, *_: object) -> None:
        self.steps += 1
        self.revived += revived(self.model, self.masks, parts=self.parts)


@contextmanager
def watched(model: nn.Module, masks: Masks) -> Iterator[Watched]:
    """Look after every step, when the hooks of the optimizer itself have run."""
    found = Watched(model, masks)
    hook = register_optimizer_step_post_hook(found.look)
    try:
        yield found
    finally:
        hook.remove()
