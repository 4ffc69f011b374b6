"""What this machine can do at best, and what that makes of an amount of work."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode


@cache
def flops_per_second() -> float:
    """Of a float32 matrix product, the best of several."""
    left, right = torch.rand(2048, 2048), torch.rand(2048, 2048)
    return float(2 * 2048**3 / _best(lambda: left @ right))


@cache
def bytes_per_second() -> float:
    """Of a copy of 400 MB, read and written, the best of several."""
    source = torch.rand(50_000_000)
    target = torch.empty_like(source)
    return 2 * 4 * 50_000_000 / _best(lambda: target.copy_(source))


def _best(function: Callable[[], object]) -> float:
    times = []
    for _ in range(9):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times)


def flops_of(function: Callable[[], object]) -> int:
    """Floating-point operations of the products and convolutions in a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def bound_ms(*, flops: float = 0, traffic: float = 0) -> float:
    """The larger of both times alone, in ms; `traffic` in bytes."""
    return 1000 * max(flops / flops_per_second(), traffic / bytes_per_second())
