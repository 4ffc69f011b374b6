"""Ratios of times: both sides alternate, so that whatever else the machine does hits both."""

from __future__ import annotations

import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

Run = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table: what ours costs relative to the reference, and the ratio it should stay under.

    Memory is the largest resident size during one call less the size before it, in MB. `bound_ms` is what the
    arithmetic or the memory traffic alone would take. None where it was not measured or says nothing.
    """

    claim: str
    reference: str
    ours_ms: float
    reference_ms: float
    ratio: float
    low: float
    high: float
    target: float
    ours_mb: float | None = None
    reference_mb: float | None = None
    bound_ms: float | None = None
    agreement: str = ""

    @property
    def met(self) -> bool:
        return self.ratio <= self.target


def compare(
    claim: str,
    ours: Run,
    reference: Run,
    *,
    against: str,
    target: float,
    rounds: int = 15,
    inner: int = 1,
    bound_ms: float | None = None,
    agreement: str = "",
) -> Row:
    """Median over `rounds` of time(ours) / time(reference), with the quartiles; `inner` calls per measurement."""
    for function in (ours, reference):
        function()
    mine: list[float] = []
    theirs: list[float] = []
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for function in (ours, reference) if turn % 2 else (reference, ours):
                begun = time.perf_counter()
                for _ in range(inner):
                    function()
                (mine if function is ours else theirs).append((time.perf_counter() - begun) / inner)
    finally:
        gc.enable()
    row = summarized(claim, mine, theirs, against=against, target=target)
    calls = 3 if statistics.mean(theirs) < 3 else 1  # seconds
    memory = [peak_mb(function, calls=calls) for function in (ours, reference)]
    return replace(row, ours_mb=memory[0], reference_mb=memory[1], bound_ms=bound_ms, agreement=agreement)


def summarized(claim: str, ours: list[float], reference: list[float], *, against: str, target: float) -> Row:
    """A row from pairs of seconds."""
    ratios = [mine / other for mine, other in zip(ours, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    milliseconds = [1000 * statistics.median(seconds) for seconds in (ours, reference)]
    return Row(claim, against, milliseconds[0], milliseconds[1], middle, low, high, target)


def peak_mb(function: Run, *, calls: int) -> float:
    """The most memory that a call needs beyond what was there, in MB: the median of `calls`."""
    return statistics.median(_one_peak(function) for _ in range(calls))


def _one_peak(function: Run) -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls have freed goes back to the system
    before = _resident_mb()
    with _watched() as largest:
        function()
    return max(0.0, largest() - before)


@contextmanager
def _watched() -> Iterator[Callable[[], float]]:
    """A thread that looks at the resident size twice a millisecond."""
    seen = [_resident_mb()]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            seen.append(_resident_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: max(seen)
    finally:
        done.set()
        thread.join()


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
