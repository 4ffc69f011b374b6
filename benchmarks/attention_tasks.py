"""Two small tasks that cannot be learned without attention, each with a two-layer `nn.TransformerEncoder`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of the network and of its data."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    batch: int = 32  # sequences for recall, a quarter of that for text
    steps: int = 1500
    pairs: int = 8
    keys: int = 64
    values: int = 16
    context: int = 64
    tested: int = 4096  # sequences for recall, an eighth of that for text
    scored: int = 320  # the same, seen by data-driven methods


SIZE = Size()
TOY = Size(width=16, heads=2, batch=8, steps=10, pairs=4, keys=16, values=4, context=16, tested=64, scored=32)


class Task(Protocol):
    """What a network of its own is trained and tested on; draws come from the global random state."""

    @property
    def size(self) -> Size: ...

    def network(self) -> nn.Module: ...

    def batch(self) -> Batch: ...

    def scoring(self) -> Batch: ...

    def tests(self) -> list[Batch]: ...


class Encoder(nn.Module):
    """Embeddings, `nn.TransformerEncoder`, a linear head."""

    def __init__(self, size: Size, *, symbols: int, classes: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, size.width)
        layer = nn.TransformerEncoderLayer(size.width, size.heads, 2 * size.width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, size.layers, enable_nested_tensor=False)
        self.head = nn.Linear(size.width, classes)


class Pairs(Encoder):
    """Tokens (batch, pairs + 1, 2) -> logits of values (batch, values); a key and its value are added to one place."""

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.symbols(tokens).sum(2))[:, -1])
        return logits


class Characters(Encoder):
    """Tokens (batch, context) -> logits of every next one (batch, symbols, context); each sees those before it."""

    def __init__(self, size: Size, *, symbols: int) -> None:
        super().__init__(size, symbols=symbols, classes=symbols)
        self.places = nn.Embedding(size.context, size.width)

    def forward(self, tokens: Tensor) -> Tensor:
        later = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).triu(1)
        logits: Tensor = self.head(self.encoder(self.symbols(tokens) + self.places.weight, mask=later))
        return logits.movedim(-1, 1)


@dataclass(frozen=True)
class Recall:
    """Pairs of a key and a value, then one of the keys: which was its value?"""

    size: Size

    def network(self) -> nn.Module:
        return Pairs(self.size, symbols=self.size.keys + self.size.values + 1, classes=self.size.values)

    def draw(self, count: int) -> Batch:
        size = self.size
        keys = torch.rand(count, size.keys).argsort(1)[:, : size.pairs]
        values = torch.randint(size.values, (count, size.pairs))
        asked = torch.randint(size.pairs, (count, 1))
        query = torch.stack([keys.gather(1, asked), torch.full_like(asked, size.keys + size.values)], 2)
        return torch.cat([torch.stack([keys, values + size.keys], 2), query], 1), values.gather(1, asked)[:, 0]

    def batch(self) -> Batch:
        return self.draw(self.size.batch)

    def scoring(self) -> Batch:
        return self.draw(self.size.scored)

    def tests(self) -> list[Batch]:
        return [self.draw(self.size.tested)]


@dataclass(frozen=True)
class Text:
    """Windows of an English text, and the same one character on; the last tenth of the text is for tests."""

    size: Size

    def network(self) -> nn.Module:
        return Characters(self.size, symbols=int(text().max()) + 1)

    def draw(self, count: int) -> Batch:
        codes = text()[: -(len(text()) // 10)]
        return self._windows(codes, torch.randint(len(codes) - self.size.context - 1, (count,)))

    def batch(self) -> Batch:
        return self.draw(self.size.batch // 4)

    def scoring(self) -> Batch:
        return self.draw(self.size.scored // 8)

    def tests(self) -> list[Batch]:
        codes = text()[-(len(text()) // 10) :]
        begins = torch.linspace(0, len(codes) - self.size.context - 1, self.size.tested // 8).long()
        return [self._windows(codes, part) for part in torch.split(begins, 64)]

    def _windows(self, codes: Tensor, begins: Tensor) -> Batch:
        found = codes[begins.unsqueeze(1) + torch.arange(self.size.context + 1)]
        return found[:, :-1], found[:, 1:]


@cache
def text() -> Tensor:
    """Python's documentation of its own language, 465,000 characters: a number for each ASCII one, one for all others.

    Part of every Python, so nothing is downloaded; versions differ a little.
    """
    from pydoc_data.topics import topics

    joined = "\n".join(topics[name] for name in sorted(topics))
    known = {sign: code for code, sign in enumerate(sorted({sign for sign in joined if sign.isascii()}), start=1)}
    return torch.tensor([known.get(sign, 0) for sign in joined])


TASKS: dict[str, Callable[[Size], Task]] = {"recall": Recall, "text": Text}


@dataclass(frozen=True)
class Drawn:
    """So many training batches, drawn anew in every pass."""

    task: Task
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return (self.task.batch() for _ in range(self.count))
