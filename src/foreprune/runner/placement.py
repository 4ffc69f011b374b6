"""Which run goes where: cores, devices, how many at a time. Torch is imported only to count GPUs."""

from __future__ import annotations

import os
from collections.abc import Sequence


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_names(device: str) -> tuple[str, ...]:
    """The devices that runs are spread over: every GPU for "cuda", otherwise the one that was named.

    Raises:
        ValueError: "cuda" without a GPU.
    """
    if device != "cuda":
        return (device,)
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise ValueError("device 'cuda': torch sees no CUDA device here; write device='cpu'")
    return tuple(f"cuda:{index}" for index in range(count))


def at_a_time(jobs: int, *, devices: Sequence[str], runs: int) -> int:
    """How many of `runs` to do at a time: `jobs`, or with 0 one per core of a CPU and one per accelerator."""
    return min(jobs or (cores() if tuple(devices) == ("cpu",) else len(devices)), runs)


def assign(devices: Sequence[str], busy: Sequence[str]) -> str:
    """The device with the fewest runs on it, the first of several; `busy` names the device of every run under way."""
    return min(devices, key=list(busy).count)


def visible(device: str, already: str | None) -> str | None:
    """What CUDA_VISIBLE_DEVICES must be so that a process sees `device` ("cuda:1") alone; None leaves it as it is.

    Args:
        already: the variable's value now, whose entries "cuda:0", "cuda:1", ... count.

    Raises:
        ValueError: the variable has no such entry.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda" or not index:
        return None
    entries = [entry.strip() for entry in already.split(",")] if already else []
    if entries and int(index) >= len(entries):
        raise ValueError(f"device {device!r}: CUDA_VISIBLE_DEVICES={already!r} lets only {len(entries)} be used")
    return entries[int(index)] if entries else index
