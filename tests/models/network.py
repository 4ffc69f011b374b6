"""`Network`: one row of the matrix, and what a user would have at hand for it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 10
SAMPLES = 4


@dataclass(frozen=True)
class Given:
    """A model and what `prune` gets with it: inputs, one batch `(inputs, target)`, a loss (None: the default)."""

    model: nn.Module
    inputs: Any
    target: Any
    loss: Callable[[Any, Any], Tensor] | None = None


@dataclass(frozen=True)
class Network:
    """A row: `build` makes the model anew with its data."""

    name: str
    library: str
    build: Callable[[], Given]

    @contextlib.contextmanager
    def made(self, *, seed: int = 0) -> Iterator[Given]:
        """Equal seeds make equal ones; the global random state stays as it was."""
        try:
            with torch.random.fork_rng(devices=()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what libraries say of themselves
                torch.manual_seed(seed)
                given = self.build()
            yield given
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


class Rows(dict[str, Network]):
    """The rows of one library. `rows.add(name, build)`; `@rows.row(name)` over a function that builds."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self.library = library

    def add(self, name: str, build: Callable[[], Given]) -> None:
        if name in self:
            raise ValueError(f"two rows are named {name!r}")
        self[name] = Network(name, self.library, build)

    def row(self, name: str) -> Callable[[Callable[[], Given]], Callable[[], Given]]:
        def wrap(build: Callable[[], Given]) -> Callable[[], Given]:
            self.add(name, build)
            return build

        return wrap


def labels(samples: int = SAMPLES, classes: int = CLASSES) -> Tensor:
    return torch.arange(samples) % classes


def images(size: int = 32, channels: int = 3, samples: int = SAMPLES) -> Tensor:
    return torch.rand(samples, channels, size, size)


def tokens(length: int = 8, vocabulary: int = 50, samples: int = SAMPLES) -> Tensor:
    return torch.randint(5, vocabulary, (samples, length))


def token_loss(output: Any, target: Tensor) -> Tensor:
    """Cross-entropy of every token, as language models are trained."""
    logits = output if isinstance(output, Tensor) else output.logits
    return nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten())
