"""Exact selection against `torch.kthvalue`, which finds a threshold but no mask."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.timing import Row, compare
from foreprune.core.masks import Masks
from foreprune.core.select import keep_top


def rows() -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    size = 15_000_000
    scores = {"w": torch.rand(size, generator=generator) ** 8}
    keep = size // 20
    alive = Masks({"w": scores["w"] > scores["w"].kthvalue(size - size // 10).values})
    for label, among in (("all alive", None), ("10 % alive", alive)):

        def ours(among: Masks | None = among) -> None:
            keep_top(scores, keep, generator=generator, among=among)

        def reference() -> None:
            torch.kthvalue(scores["w"], size - keep)

        yield compare(f"selection, 15 M scores, {label}", ours, reference, against="torch.kthvalue", target=1.0)
