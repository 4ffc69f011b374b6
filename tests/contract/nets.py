"""Small networks that between them hold what methods must cope with, each with data: float64, a few hundred weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foreprune import PathError

CLASSES = 3


@contextlib.contextmanager
def refusals(method: Any, *, skip: bool = False) -> Iterator[None]:
    """Methods that build masks from recorded walks may refuse a network with a PathError; scores may not."""
    try:
        yield
    except PathError:
        if method.score is not None:
            raise
        if skip:
            pytest.skip(f"{method.name} cannot follow this network, and says so")


@dataclass(frozen=True)
class Example:
    """A network, inputs in [0, 1] and one label for each."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def arguments(self, method: Any) -> dict[str, Any]:
        """What `foreprune.prune` needs to be given for this method; few rounds if it has rounds."""
        given: dict[str, Any] = {}
        if method.needs & {"images", "labels"}:
            given["data"] = (self.x, self.y)
        elif "shape" in method.needs:
            given.update(inputs=self.x, data=(self.x, self.y))
        if "rounds" in method.settings:
            given["rounds"] = 3
        return given


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, CLASSES))


class ConvNet(nn.Module):
    """Convolutions with batch normalization, pooling and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3, padding=1),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.drop(self.features(x).flatten(1)))
        return output


class Residual(nn.Module):
    """Two residual blocks, the second with a stride and a projection on the shortcut; additions in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.third = nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        out = self.second(F.relu(self.first(x)))
        out += x
        x = F.relu(out)
        out = self.third(x)
        out += self.shortcut(x)
        output: Tensor = self.head(F.relu(out).mean((2, 3)))
        return output


class Grouped(nn.Module):
    """Depthwise, pointwise and grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(2, 4, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.depthwise(F.silu(self.pointwise(x))))
        output: Tensor = self.head(F.silu(self.grouped(x)).mean((2, 3)))
        return output


class Tied(nn.Module):
    """Two linear layers share one Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.down = nn.Linear(8, 8)
        self.up = nn.Linear(8, 8)
        self.up.weight = self.down.weight
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(F.silu(self.up(F.silu(self.down(F.silu(self.embed(x)))))))
        return output


class SharedModule(nn.Module):
    """One block, with batch normalization, is reachable by two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.again = self.block
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.again(self.block(F.relu(self.embed(x)))))
        return output


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.ConvTranspose2d(4, 3, 2, stride=2, bias=False),
        nn.ReLU(),
        nn.AvgPool2d(8),
        nn.Flatten(),
        nn.Linear(3, CLASSES),
    )


class Encoder(nn.Module):
    """torch's own transformer layer over six tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.layer = nn.TransformerEncoderLayer(
            8, nhead=2, dim_feedforward=12, dropout=0.1, activation="gelu", batch_first=True
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.layer(self.embed(x)).mean(1))
        return output


class Attention(nn.Module):
    """Pre-norm attention by `scaled_dot_product_attention`, one packed projection, a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.token = nn.Parameter(torch.full((1, 1, 8), 0.1))
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], dim=1)
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        output: Tensor = self.head(x[:, 0])
        return output


IMAGE, FLAT, TOKENS = (2, 8, 8), (6,), (6, 4)
_BUILD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, FLAT),
    "conv": (ConvNet, IMAGE),
    "residual": (Residual, IMAGE),
    "grouped": (Grouped, IMAGE),
    "tied": (Tied, FLAT),
    "shared-module": (SharedModule, FLAT),
    "transposed": (transposed, IMAGE),
    "encoder": (Encoder, TOKENS),
    "attention": (Attention, TOKENS),
}
NETS = tuple(_BUILD)


def example(name: str, *, seed: int = 0, samples: int = 12) -> Example:
    """A fresh network with its data; equal seeds give equal ones. The global random state stays as it was."""
    build, shape = _BUILD[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().double()
        x = torch.rand(samples, *shape, dtype=torch.float64)
        y = torch.arange(samples) % CLASSES
    return Example(model, x, y)
