"""Exact selection against `torch.kthvalue` over all scores, which finds a threshold but no mask."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.machine import bound_ms
from benchmarks.timing import Row, compare
from foreprune.core.masks import Masks
from foreprune.core.select import keep_top


def rows() -> Iterator[Row]:
    for size, rounds in ((15_000_000, 11), (100_000_000, 5)):
        scores = {"w": torch.rand(size, generator=torch.Generator().manual_seed(0)) ** 8}
        keep = size // 20
        alive = Masks({"w": scores["w"] > scores["w"].kthvalue(size - size // 10).values})
        # each score and, if there is one, each flag is read once, and a flag written
        for label, among, target, traffic in (("all", None, 1 / 4, 5), ("10 %", alive, 1 / 15, 6)):
            generator = torch.Generator().manual_seed(0)

            def ours(
                among: Masks | None = among,
                generator: torch.Generator = generator,
                scores: dict[str, torch.Tensor] = scores,
                keep: int = keep,
            ) -> Masks:
                return keep_top(scores, keep, generator=generator, among=among)

            def reference(scores: dict[str, torch.Tensor] = scores, drop: int = size - keep) -> torch.Tensor:
                return torch.kthvalue(scores["w"], drop).values

            masks = ours()
            chosen = scores["w"][masks["w"]]
            exact = masks.kept == keep and chosen.min() == scores["w"].topk(keep).values[-1]
            yield compare(
                f"selection, {size // 1_000_000} M scores, {label} alive",
                ours,
                reference,
                against="torch.kthvalue",
                target=target,
                rounds=rounds,
                bound_ms=bound_ms(traffic=traffic * size),
                agreement=f"kept {masks.kept:,} of {keep:,}, {'the largest' if exact else 'NOT THE LARGEST'}",
            )
