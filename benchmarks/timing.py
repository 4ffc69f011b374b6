"""Ratios of times: both sides alternate, so that whatever else the machine does hits both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table: what ours costs relative to the reference, and the ratio it should stay under."""

    claim: str
    reference: str
    ours_ms: float
    reference_ms: float
    ratio: float
    low: float
    high: float
    target: float

    @property
    def met(self) -> bool:
        return self.ratio <= self.target


def compare(
    claim: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    against: str,
    target: float,
    rounds: int = 15,
    inner: int = 1,
) -> Row:
    """Median over `rounds` of time(ours) / time(reference), with the quartiles; `inner` calls per measurement."""
    for function in (ours, reference, ours, reference):
        function()
    ratios, mine, theirs = [], [], []
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            pair = {}
            order = (ours, reference) if turn % 2 else (reference, ours)
            for function in order:
                begun = time.perf_counter()
                for _ in range(inner):
                    function()
                pair[function] = (time.perf_counter() - begun) / inner
            mine.append(pair[ours])
            theirs.append(pair[reference])
            ratios.append(pair[ours] / pair[reference])
    finally:
        gc.enable()
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Row(
        claim,
        against,
        1000 * statistics.median(mine),
        1000 * statistics.median(theirs),
        middle,
        low,
        high,
        target,
    )
